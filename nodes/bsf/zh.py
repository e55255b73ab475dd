"""What the BSF asks the HSS (Zh), with refusals turned into what they mean on Ub."""

from __future__ import annotations

from typing import Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from keying.secret import Secret
from nodes.bsf.challenges import GbaVector
from protos import hss_gba_pb2, hss_ueau_pb2
from sba.errors import RemoteProblem

_GENERATE = hss_gba_pb2.DESCRIPTOR.services_by_name["NhssGbaUeAuthentication"].methods_by_name["GenerateVector"]
_UNAVAILABLE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


class HssRefusalError(Exception):
    """The HSS gave no vector; `status` is what the UE is answered, `reason` one word for the record."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class SbiCaller(Protocol):
    """The part of ``sba.client.SbiClient`` used here."""

    async def call(self, method: MethodDescriptor, request: Message, *, home_domain: str | None = None) -> object:
        """Call a method; raises ``RemoteProblem``."""


class Zh:
    """Asks the HSS of the user's home domain."""

    def __init__(self, sbi: SbiCaller) -> None:
        self._sbi = sbi

    async def vector(self, impi: str, resync: tuple[bytes, bytes] | None = None) -> GbaVector:
        """A vector for a user, after following `resync` = (RAND, AUTS). Raises ``HssRefusalError``."""
        request = hss_gba_pb2.GbaVectorRequest(impi=impi)
        if resync is not None:
            request.resync.CopyFrom(hss_ueau_pb2.Resynchronisation(rand=resync[0], auts=resync[1]))
        try:
            # In one spelling: discovery remembers what it was asked for, and anybody may write this name.
            answer = await self._sbi.call(_GENERATE, request, home_domain=impi.rpartition("@")[2].lower())
        except RemoteProblem as problem:
            raise _refusal(problem) from None
        assert isinstance(answer, hss_gba_pb2.GbaVectorResponse)
        found = answer.vector
        return GbaVector(
            found.rand,
            found.autn,
            Secret(found.xres),
            Secret(found.ck),
            Secret(found.ik),
            tuple(answer.public_identities),
        )


def _refusal(problem: RemoteProblem) -> HssRefusalError:
    """The same 403 for a user nobody knows and one without a USIM: who is a subscriber is no news for strangers."""
    if problem.cause in {"USER_NOT_FOUND", "AUTHENTICATION_SCHEME_NOT_SUPPORTED"}:
        return HssRefusalError(403, "unknown-user")
    if problem.cause == "SYNCHRONISATION_REJECTED":
        return HssRefusalError(403, "auts")
    if problem.code in _UNAVAILABLE:
        return HssRefusalError(503, "hss-unreachable")
    return HssRefusalError(500, "hss-refused")
