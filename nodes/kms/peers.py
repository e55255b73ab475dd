"""Asking the KMS of another domain to resolve its ticket (RFC 6043 10; TS 33.328 6.2.3.8, B.2.3: transport assumed)."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from keying.mikey.codec import encode_ticket
from keying.mikey.errors import MikeyError
from keying.mikey.identity import Identity
from keying.mikey.payloads import TicketPayload
from keying.mikey.resolve import Resolution
from nodes.kms.wire import from_problem, from_wire
from protos import kms_resolve_pb2
from sba.client import SbiClient
from sba.errors import RemoteProblem

_RESOLVE = kms_resolve_pb2.DESCRIPTOR.services_by_name["NkmsResolve"].methods_by_name["ResolveTicket"]


class PeerUnavailable(Exception):  # noqa: N818 - it says how the peer is
    """The KMS of the ticket cannot be reached or does not answer; `late` when time ran out."""

    def __init__(self, reason: str, *, late: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.late = late


class PeerKmss:
    """The KMSs of other domains, found through the NRF, believed by their certificates. `own`: this KMS's identity."""

    def __init__(self, sbi: SbiClient, own: str, timeout_s: float) -> None:
        self._sbi = sbi
        self._own = own
        self._timeout_s = timeout_s

    async def resolve(
        self, kms: str, domain: str, ticket: TicketPayload, responders: Sequence[Identity], endpoint: bytes
    ) -> Resolution:
        """Have `kms` of home domain `domain` resolve a ticket for authenticated responders, the one in IDRr first.

        Raises ``PeerUnavailable``, and the MikeyError that the other KMS refused with.
        """
        request = kms_resolve_pb2.ResolveTicketRequest(
            ticket=encode_ticket(ticket),
            responder=[responder.text for responder in responders],
            kms=self._own,
            endpoint=endpoint,
        )
        try:
            answer = await self._sbi.call(
                _RESOLVE, request, timeout=self._timeout_s, home_domain=domain, tls_name=kms.lower()
            )
            return from_wire(answer)
        except RemoteProblem as problem:
            refused = from_problem(problem)
            if refused is not None:
                raise refused from problem
            late = problem.code is grpc.StatusCode.DEADLINE_EXCEEDED
            raise PeerUnavailable(str(problem), late=late) from problem
        except MikeyError as error:
            raise PeerUnavailable(f"its answer is not usable: {error}", late=False) from error
