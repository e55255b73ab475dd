"""What the CSCF asks the HSS (N70, TS 29.562), with refusals turned into the SIP answers they lead to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from keying.secret import Secret
from nodes.cscf.filter_criteria import FilterCriterion, TriggerPoint
from nodes.cscf.identities import canonical_text
from nodes.cscf.registration import Identity, Profile
from nodes.cscf.rejection import RejectionError
from protos import hss_sdm_pb2, hss_ueau_pb2, hss_uecm_pb2
from sba.errors import RemoteProblem

_UEAU = hss_ueau_pb2.DESCRIPTOR.services_by_name["NhssImsUeAuthentication"]
_UECM = hss_uecm_pb2.DESCRIPTOR.services_by_name["NhssImsUeContextManagement"]
_SDM = hss_sdm_pb2.DESCRIPTOR.services_by_name["NhssImsSubscriberDataManagement"]

USER_NOT_FOUND = "USER_NOT_FOUND"
IDENTITIES_DONT_MATCH = "IDENTITIES_DONT_MATCH"
SYNCHRONISATION_REJECTED = "SYNCHRONISATION_REJECTED"
"""Cause for an AUTS whose MAC-S is wrong (testbed choice)."""
RETRY_AFTER_S = 5
"""Seconds a UE is told to wait while the HSS is away (E-17, assumed)."""


class Flag(Enum):
    """Registration state the HSS keeps."""

    NOT_REGISTERED = hss_uecm_pb2.NOT_REGISTERED
    AUTHENTICATION_PENDING = hss_uecm_pb2.AUTHENTICATION_PENDING
    REGISTERED = hss_uecm_pb2.REGISTERED
    UNREGISTERED_SERVICES = hss_uecm_pb2.UNREGISTERED_SERVICES


@dataclass(frozen=True)
class Location:
    """Registration state and the S-CSCF assigned ("" when none)."""

    flag: Flag
    server_name: str


@dataclass(frozen=True)
class AkaVector:
    """An authentication vector; RAND and AUTN are public, the rest is not (AKA-1)."""

    rand: bytes
    autn: bytes
    xres: Secret
    ck: Secret
    ik: Secret


@dataclass(frozen=True)
class DigestVector:
    """H(username:realm:password) of a SIP digest user, lower-case hex, per hash algorithm name."""

    realm: str
    ha1: dict[str, Secret]


class SbiCaller(Protocol):
    """The part of the framework's client that is used here."""

    async def call(
        self,
        method: MethodDescriptor,
        request: Message,
        /,
        *,
        timeout: float = 2.0,  # noqa: ASYNC109 - the deadline travels with the call
        home_domain: str | None = None,
    ) -> Message:
        """Call a producer found through the NRF. Raises ``RemoteProblem``."""


class HssClient:
    """Queries to the HSS of a home domain; ``timeout`` in seconds.

    Every method raises ``RejectionError``: 404 for an unknown identity, 403 for one that belongs to somebody else,
    503 with Retry-After when no HSS answers (E-16, E-17).
    """

    def __init__(self, sbi: SbiCaller, timeout: float, server_name: str) -> None:
        self._sbi = sbi
        self._timeout = timeout
        self._server_name = server_name

    async def authorize(self, domain: str, impi: str, impu: str, visited_network: str) -> Location:
        """UAR: may this private identity register this public identity?"""
        request = hss_uecm_pb2.AuthorizeRequest(impi=impi, impu=impu, visited_network=visited_network)
        answer = await self._call(domain, _UECM.methods_by_name["Authorize"], request)
        assert isinstance(answer, hss_uecm_pb2.AuthorizeResponse)
        return Location(_flag(answer.state), answer.server_name)

    async def assign(self, domain: str, impi: str, impu: str, flag: Flag) -> None:
        """SAR: set or clear the registration flag with this S-CSCF as the serving one."""
        request = hss_uecm_pb2.ServerAssignmentRequest(
            impi=impi, impu=impu, server_name=self._server_name, state=flag.value
        )
        await self._call(domain, _UECM.methods_by_name["AssignServer"], request)

    async def locate(self, domain: str, impu: str) -> Location:
        """LIR: which S-CSCF serves this public identity?"""
        answer = await self._call(domain, _UECM.methods_by_name["Locate"], hss_uecm_pb2.LocationRequest(impu=impu))
        assert isinstance(answer, hss_uecm_pb2.LocationResponse)
        return Location(_flag(answer.state), answer.server_name)

    async def profile(self, domain: str, impu: str, impi: str = "") -> Profile:
        """The service profile and implicit registration set of a public identity."""
        request = hss_sdm_pb2.ProfileRequest(impu=impu, impi=impi)
        answer = await self._call(domain, _SDM.methods_by_name["GetProfile"], request)
        assert isinstance(answer, hss_sdm_pb2.ServiceProfile)
        return _profile(answer)

    async def vectors(
        self, domain: str, impi: str, impu: str, resynchronise: tuple[bytes, bytes] | None = None
    ) -> AkaVector | DigestVector:
        """MAR: one fresh vector; ``resynchronise`` is (RAND of the failed challenge, AUTS) (RS-2).

        Raises ``RejectionError`` 403 also when the HSS does not accept the AUTS (RS-3).
        """
        request = hss_ueau_pb2.GenerateVectorsRequest(impi=impi, impu=impu, count=1, server_name=self._server_name)
        if resynchronise is not None:
            request.resync.rand, request.resync.auts = resynchronise
        answer = await self._call(domain, _UEAU.methods_by_name["GenerateVectors"], request)
        assert isinstance(answer, hss_ueau_pb2.GenerateVectorsResponse)
        if answer.scheme == hss_ueau_pb2.SIP_DIGEST:
            digest = answer.digest
            ha1 = {"MD5": Secret(digest.ha1_md5.encode()), "SHA-256": Secret(digest.ha1_sha256.encode())}
            return DigestVector(digest.realm, ha1)
        if not answer.aka:
            raise _unavailable()
        vector = answer.aka[0]
        return AkaVector(vector.rand, vector.autn, Secret(vector.xres), Secret(vector.ck), Secret(vector.ik))

    async def _call(self, domain: str, method: MethodDescriptor, request: Message) -> Message:
        try:
            return await self._sbi.call(method, request, timeout=self._timeout, home_domain=domain)
        except RemoteProblem as problem:
            raise refusal(problem) from problem


def refusal(problem: RemoteProblem) -> RejectionError:
    """The SIP answer to a failed HSS query."""
    cause = problem.cause
    if cause == USER_NOT_FOUND:
        return RejectionError(404, "User Not Known")
    if cause == IDENTITIES_DONT_MATCH:
        return RejectionError(403, "Identity Not Allowed")
    if cause == SYNCHRONISATION_REJECTED:
        return RejectionError(403, "Resynchronisation Refused")
    return _unavailable()


def _unavailable() -> RejectionError:
    return RejectionError(503, "Subscriber Data Not Available", [("Retry-After", str(RETRY_AFTER_S))])


def _flag(state: int) -> Flag:
    try:
        return Flag(state)
    except ValueError:
        return Flag.NOT_REGISTERED


def _profile(answer: hss_sdm_pb2.ServiceProfile) -> Profile:
    return Profile(
        impi=answer.impi,
        identities=tuple(
            Identity(canonical_text(identity.uri), identity.barred, identity.display_name)
            for identity in answer.public_identities
        ),
        filter_criteria=tuple(
            FilterCriterion(
                criterion.priority,
                criterion.server_uri,
                tuple(
                    TriggerPoint(trigger.method, trigger.session_case, trigger.header, trigger.header_pattern)
                    for trigger in criterion.triggers
                ),
                criterion.terminate_on_failure,
            )
            for criterion in answer.filter_criteria
        ),
        media_security=answer.media_security,
        max_sessions=answer.max_sessions,
    )
