"""The services of the HSS (TS 29.562): authentication, context management and subscriber data management."""

from __future__ import annotations

import asyncio

from google.protobuf.empty_pb2 import Empty

from nodes.hss.provision import AkaCredentials, Subscriber
from nodes.hss.registration import Assignment, Flag, ServedElsewhereError, assign
from nodes.hss.sequence import SequenceExhaustedError
from nodes.hss.subscribers import NotOwnerError, SubscriberDirectory, UnknownSubscriberError
from nodes.hss.vectors import AuthenticationCentre, digest_data
from protos import hss_sdm_pb2, hss_ueau_pb2, hss_uecm_pb2
from sba.access import CallContext
from sba.errors import ProblemError
from sba.store import KeyValueTable
from signalling.aka.milenage import RAND_LENGTH
from signalling.aka.vectors import AUTS_LENGTH, MacFailure

_STATES = {
    Flag.NOT_REGISTERED: hss_uecm_pb2.NOT_REGISTERED,
    Flag.AUTHENTICATION_PENDING: hss_uecm_pb2.AUTHENTICATION_PENDING,
    Flag.REGISTERED: hss_uecm_pb2.REGISTERED,
    Flag.UNREGISTERED_SERVICES: hss_uecm_pb2.UNREGISTERED_SERVICES,
}
_FLAGS = {state: flag for flag, state in _STATES.items()}


CSCF_LABEL = "scscf."
"""First label of the name of a home domain's I- and S-CSCF in their certificate; the domain follows (assumed)."""
_CSCFS = frozenset({"SCSCF", "ICSCF"})


def check_served(context: CallContext, subscriber: Subscriber) -> Subscriber:
    """Return a subscriber whom the asking consumer may serve: vectors and assignments are the home network's alone.

    A CSCF's certificate names the home domains it serves; what counts is the subscriber's, which no realm of an
    identity has to repeat. Other consumers are admitted by their NF type as the contract says.
    Raises ``ProblemError`` 403 CSCF_NOT_AUTHORIZED.
    """
    peer = context.peer
    served = CSCF_LABEL + subscriber.domain.lower() in {name.lower() for name in peer.dns_names}
    if _CSCFS.intersection(peer.nf_types) and not served:
        raise ProblemError(status=403, cause="CSCF_NOT_AUTHORIZED", detail="not a CSCF of this user's domain")
    return subscriber


def find_owner(directory: SubscriberDirectory, impi: str, impu: str) -> Subscriber:
    """The subscriber with both identities; either may be empty.

    Raises ``ProblemError``: 400 MANDATORY_IE_MISSING, 404 USER_NOT_FOUND, 403 IDENTITIES_DONT_MATCH.
    """
    if not impi and not impu:
        raise ProblemError(status=400, cause="MANDATORY_IE_MISSING", detail="neither impi nor impu given")
    try:
        return directory.owner(impi, impu)
    except UnknownSubscriberError:
        raise ProblemError(status=404, cause="USER_NOT_FOUND", detail="no such subscriber") from None
    except NotOwnerError:
        raise ProblemError(status=403, cause="IDENTITIES_DONT_MATCH", detail="the identity is another user's") from None


class UeAuthentication:
    """Nhss_imsUEAuthentication."""

    service = hss_ueau_pb2.DESCRIPTOR.services_by_name["NhssImsUeAuthentication"]

    def __init__(self, directory: SubscriberDirectory, centre: AuthenticationCentre, max_vectors: int) -> None:
        self._directory = directory
        self._centre = centre
        self._max_vectors = max_vectors

    async def GenerateVectors(  # noqa: N802 - named by the contract
        self, request: hss_ueau_pb2.GenerateVectorsRequest, context: CallContext
    ) -> hss_ueau_pb2.GenerateVectorsResponse:
        """AKA vectors in SQN order, or HA1 for a digest user; resynchronises first when asked (RS-2)."""
        subscriber = check_served(context, find_owner(self._directory, request.impi, request.impu))
        if not isinstance(subscriber.credentials, AkaCredentials):
            digest = digest_data(subscriber, subscriber.credentials)
            return hss_ueau_pb2.GenerateVectorsResponse(
                scheme=hss_ueau_pb2.SIP_DIGEST,
                digest=hss_ueau_pb2.DigestVector(
                    realm=digest.realm,
                    ha1_md5=digest.ha1_md5.reveal().decode(),
                    ha1_sha256=digest.ha1_sha256.reveal().decode(),
                ),
            )
        resync = None
        if request.HasField("resync"):
            resync = (request.resync.rand, request.resync.auts)
            if len(resync[0]) != RAND_LENGTH or len(resync[1]) != AUTS_LENGTH:
                raise ProblemError(status=400, cause="MANDATORY_IE_INCORRECT", detail="RAND or AUTS has a wrong length")
        count = min(max(request.count, 1), self._max_vectors)
        try:
            vectors = await self._centre.vectors(subscriber.impi, subscriber.credentials, count, resync)
        except MacFailure:
            raise ProblemError(status=403, cause="SYNCHRONISATION_REJECTED", detail="MAC-S is wrong") from None
        except SequenceExhaustedError:
            raise ProblemError(status=500, cause="SYSTEM_FAILURE", detail="sequence numbers are used up") from None
        return hss_ueau_pb2.GenerateVectorsResponse(
            scheme=hss_ueau_pb2.AKA,
            aka=[
                hss_ueau_pb2.AkaVector(
                    rand=vector.rand,
                    autn=vector.autn,
                    xres=vector.xres.reveal(),
                    ck=vector.ck.reveal(),
                    ik=vector.ik.reveal(),
                )
                for vector in vectors
            ],
        )


class Assignments:
    """Registration flags by private identity, durable before they are visible."""

    def __init__(self, table: KeyValueTable) -> None:
        self._table = table
        self._known: dict[str, Assignment] = {}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Read what an earlier life left."""
        self._known = {impi: Assignment.from_record(record) for impi, record in await self._table.items()}

    def of(self, impi: str) -> Assignment:
        """The assignment of a subscriber."""
        return self._known.get(impi, Assignment())

    async def assign(self, impi: str, flag: Flag, server_name: str) -> Assignment:
        """Change it. Raises ``ServedElsewhereError``."""
        async with self._writing:
            current = self.of(impi)
            wanted = assign(current, flag, server_name)
            if wanted != current:
                await self._table.put(impi, wanted.to_record())
                self._known[impi] = wanted
        return wanted


class UeContextManagement:
    """Nhss_imsUEContextManagement."""

    service = hss_uecm_pb2.DESCRIPTOR.services_by_name["NhssImsUeContextManagement"]

    def __init__(self, directory: SubscriberDirectory, assignments: Assignments) -> None:
        self._directory = directory
        self._assignments = assignments

    async def Authorize(  # noqa: N802 - named by the contract
        self, request: hss_uecm_pb2.AuthorizeRequest, context: CallContext
    ) -> hss_uecm_pb2.AuthorizeResponse:
        """UAR: both identities must be given and belong together."""
        if not request.impi or not request.impu:
            raise ProblemError(status=400, cause="MANDATORY_IE_MISSING", detail="impi and impu are needed")
        subscriber = check_served(context, find_owner(self._directory, request.impi, request.impu))
        found = self._assignments.of(subscriber.impi)
        return hss_uecm_pb2.AuthorizeResponse(server_name=found.server_name, state=_STATES[found.flag])

    async def AssignServer(  # noqa: N802 - named by the contract
        self, request: hss_uecm_pb2.ServerAssignmentRequest, context: CallContext
    ) -> Empty:
        """SAR: set or clear the registration flag of the implicit registration set."""
        subscriber = check_served(context, find_owner(self._directory, request.impi, request.impu))
        flag = _FLAGS.get(request.state)
        if flag is None or not request.server_name:
            raise ProblemError(status=400, cause="MANDATORY_IE_MISSING", detail="state and server_name are needed")
        try:
            await self._assignments.assign(subscriber.impi, flag, request.server_name)
        except ServedElsewhereError:
            raise ProblemError(status=403, cause="SERVED_ELSEWHERE", detail="another S-CSCF is assigned") from None
        return Empty()

    async def Locate(  # noqa: N802 - named by the contract
        self, request: hss_uecm_pb2.LocationRequest, context: CallContext
    ) -> hss_uecm_pb2.LocationResponse:
        """LIR: which S-CSCF serves a public identity."""
        subscriber = check_served(context, find_owner(self._directory, "", request.impu))
        found = self._assignments.of(subscriber.impi)
        return hss_uecm_pb2.LocationResponse(server_name=found.server_name, state=_STATES[found.flag])


class SubscriberDataManagement:
    """Nhss_imsSubscriberDataManagement."""

    service = hss_sdm_pb2.DESCRIPTOR.services_by_name["NhssImsSubscriberDataManagement"]

    def __init__(self, directory: SubscriberDirectory) -> None:
        self._directory = directory

    async def GetProfile(  # noqa: N802 - named by the contract
        self, request: hss_sdm_pb2.ProfileRequest, context: CallContext
    ) -> hss_sdm_pb2.ServiceProfile:
        """The service profile with the implicit registration set, default identity first.

        By a telephone number any CSCF may ask: that stands in for ENUM (testbed).
        """
        subscriber = find_owner(self._directory, request.impi, request.impu)
        if request.impi or not request.impu.lower().startswith("tel:"):
            check_served(context, subscriber)
        aka = isinstance(subscriber.credentials, AkaCredentials)
        return hss_sdm_pb2.ServiceProfile(
            impi=subscriber.impi,
            public_identities=[
                hss_sdm_pb2.PublicIdentity(uri=identity.uri, barred=identity.barred, display_name=identity.display_name)
                for identity in subscriber.public_identities
            ],
            filter_criteria=[
                hss_sdm_pb2.FilterCriterion(
                    priority=criterion.priority,
                    server_uri=criterion.server_uri,
                    terminate_on_failure=criterion.terminate_on_failure,
                    triggers=[
                        hss_sdm_pb2.TriggerPoint(
                            method=trigger.method,
                            session_case=trigger.session_case,
                            header=trigger.header,
                            header_pattern=trigger.header_pattern,
                        )
                        for trigger in criterion.triggers
                    ],
                )
                for criterion in subscriber.filter_criteria
            ],
            scheme=hss_ueau_pb2.AKA if aka else hss_ueau_pb2.SIP_DIGEST,
            media_security=subscriber.media_security,
            max_sessions=subscriber.max_sessions,
            repository=subscriber.repository,
        )
