"""The service of the HSS for bootstrapping: Nhss_gbaUEAuthentication (Zh of TS 33.220, TS 29.562)."""

from __future__ import annotations

from nodes.hss.provision import AkaCredentials
from nodes.hss.sequence import SequenceExhaustedError
from nodes.hss.service import find_owner
from nodes.hss.subscribers import SubscriberDirectory
from nodes.hss.vectors import AuthenticationCentre
from protos import hss_gba_pb2, hss_ueau_pb2
from sba.access import CallContext
from sba.errors import ProblemError
from signalling.aka.gba import bsf_of
from signalling.aka.milenage import RAND_LENGTH
from signalling.aka.vectors import AUTS_LENGTH, MacFailure


class GbaUeAuthentication:
    """Nhss_gbaUEAuthentication; sequence numbers are those of every other use of the card."""

    service = hss_gba_pb2.DESCRIPTOR.services_by_name["NhssGbaUeAuthentication"]

    def __init__(self, directory: SubscriberDirectory, centre: AuthenticationCentre) -> None:
        self._directory = directory
        self._centre = centre

    async def GenerateVector(  # noqa: N802 - named by the contract
        self, request: hss_gba_pb2.GbaVectorRequest, context: CallContext
    ) -> hss_gba_pb2.GbaVectorResponse:
        """One AKA vector and the public identities a NAF may know the user by; resynchronises first when asked.

        Barred identities are nobody's for a NAF. Raises ``ProblemError``: 400, 403 and 404 as for any vector, 403
        AUTHENTICATION_SCHEME_NOT_SUPPORTED for a user without a USIM, and 403 BSF_NOT_AUTHORIZED, before anybody is
        looked up, for the BSF of another domain: whoever has CK, IK and RES is any network towards a card.
        """
        if not request.impi:
            raise ProblemError(status=400, cause="MANDATORY_IE_MISSING", detail="impi is needed")
        if bsf_of(request.impi.rpartition("@")[2]) not in {name.lower() for name in context.peer.dns_names}:
            raise ProblemError(status=403, cause="BSF_NOT_AUTHORIZED", detail="not the BSF of this user's domain")
        subscriber = find_owner(self._directory, request.impi, "")
        if not isinstance(subscriber.credentials, AkaCredentials):
            raise ProblemError(status=403, cause="AUTHENTICATION_SCHEME_NOT_SUPPORTED", detail="the user has no USIM")
        resync = None
        if request.HasField("resync"):
            resync = (request.resync.rand, request.resync.auts)
            if len(resync[0]) != RAND_LENGTH or len(resync[1]) != AUTS_LENGTH:
                raise ProblemError(status=400, cause="MANDATORY_IE_INCORRECT", detail="RAND or AUTS has a wrong length")
        try:
            [vector] = await self._centre.vectors(subscriber.impi, subscriber.credentials, 1, resync)
        except MacFailure:
            raise ProblemError(status=403, cause="SYNCHRONISATION_REJECTED", detail="MAC-S is wrong") from None
        except SequenceExhaustedError:
            raise ProblemError(status=500, cause="SYSTEM_FAILURE", detail="sequence numbers are used up") from None
        return hss_gba_pb2.GbaVectorResponse(
            vector=hss_ueau_pb2.AkaVector(
                rand=vector.rand,
                autn=vector.autn,
                xres=vector.xres.reveal(),
                ck=vector.ck.reveal(),
                ik=vector.ik.reveal(),
            ),
            public_identities=[identity.uri for identity in subscriber.public_identities if not identity.barred],
        )
