"""The services of the KMS: Nkms_Resolve for the KMSs of other domains, Nkms_Control for the operator."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from keying.mikey.codec import decode_ticket
from keying.mikey.errors import InvalidIdentity, InvalidTicket, MikeyError
from keying.mikey.identity import Identity, normalise
from keying.mikey.policy import kms_of, responders_of
from keying.mikey.ticket import ticket_key_id
from nodes.kms import policy as rules
from nodes.kms.exchanges import GRANTED, RESOLVE, Decision, Exchanges, Refusal
from nodes.kms.policy import PolicyBook
from nodes.kms.store import AuditRecord, KmsStore
from nodes.kms.ticket_keys import TicketKeyRing
from nodes.kms.watch import Watch
from nodes.kms.wire import to_problem, to_wire
from protos import kms_control_pb2, kms_resolve_pb2
from sba.access import CallContext, RateLimit
from sba.errors import ProblemError
from sba.telemetry import Telemetry

MAX_TICKET: Final = 16 * 1024
"""Largest TICKET payload taken from another KMS, octets."""
MAX_RESPONDERS: Final = 32
"""Public identities of a responder that another KMS may name."""
MAX_IDENTITY: Final = 512
"""Octets of one of them."""
DEFAULT_AUDIT: Final = 100
MAX_AUDITED: Final = 8
"""Responders of another KMS's question that the audit names, each cut to ``MAX_AUDITED_NAME`` characters."""
MAX_AUDITED_NAME: Final = 128


class ResolveForPeers:
    """Nkms_Resolve: a KMS of another domain asks for one of its users (RFC 6043 10; TS 33.328 6.2.3.8)."""

    service = kms_resolve_pb2.DESCRIPTOR.services_by_name["NkmsResolve"]

    def __init__(
        self, exchanges: Exchanges, book: PolicyBook, identity: Identity, peers: RateLimit, watch: Watch,
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._exchanges = exchanges
        self._book = book
        self._identity = identity
        self._peers = peers
        self._watch = watch
        self._now = now

    async def ResolveTicket(  # noqa: N802 - named by the contract
        self, request: kms_resolve_pb2.ResolveTicketRequest, context: CallContext
    ) -> kms_resolve_pb2.ResolveTicketResponse:
        """Resolve one of this KMS's tickets for a responder of the other KMS's own domain."""
        kms = request.kms.lower()
        if not kms or kms not in {name.lower() for name in context.peer.dns_names}:
            raise ProblemError(403, "KMS_IDENTITY_MISMATCH", "the certificate does not show that identity")
        if not self._peers.take(kms):
            raise ProblemError(429, "NF_CONGESTION_RISK", "too many requests of this KMS")
        if len(request.ticket) > MAX_TICKET or len(request.responder) > MAX_RESPONDERS:
            raise ProblemError(400, "INVALID_MSG_FORMAT", "a ticket or a list of identities that is too long")
        if any(not name or len(name) > MAX_IDENTITY for name in request.responder):
            raise ProblemError(400, "INVALID_MSG_FORMAT", "an empty or an overlong identity")
        try:
            with self._watch.deciding(RESOLVE) as decision:
                return await self._resolve(request, kms, decision)
        except MikeyError as error:
            raise to_problem(error) from error
        except Refusal as refusal:
            raise ProblemError(refusal.status, "RESOLVE_UNAVAILABLE", refusal.reason.partition(":")[0]) from refusal

    async def _resolve(
        self, request: kms_resolve_pb2.ResolveTicketRequest, kms: str, decision: Decision
    ) -> kms_resolve_pb2.ResolveTicketResponse:
        decision.peer_kms = kms
        decision.user = rules.text(Identity.uri(request.responder[0])) if request.responder else ""
        try:
            rules.check_peer(self._book, kms)
            responders = rules.foreign_responders(self._book, kms, tuple(map(Identity.uri, request.responder)))
            ticket = decode_ticket(request.ticket)
            named = responders_of(ticket.policy)[:MAX_AUDITED]
            decision.responders = tuple(identity.text[:MAX_AUDITED_NAME] for identity in named)
            issuer = kms_of(ticket.policy)
            if issuer is not None and not issuer.same(self._identity):
                raise InvalidTicket("IDRkms", "the ticket of another KMS")
            endpoint = kms.encode() + b"\0" + request.endpoint[:64] if request.endpoint else b""
            resolution = await self._exchanges.own_ticket(ticket, responders, endpoint, decision, self._now())
        except MikeyError as error:
            decision.reason = str(error)
            await self._exchanges.audit(decision)
            raise
        decision.outcome = GRANTED
        await self._exchanges.audit(decision)
        return to_wire(resolution)


class Control:
    """Nkms_Control: what the operator of the lab sees and does."""

    service = kms_control_pb2.DESCRIPTOR.services_by_name["NkmsControl"]

    def __init__(
        self, store: KmsStore, keys: TicketKeyRing, telemetry: Telemetry, *, key_export: bool,
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._store = store
        self._keys = keys
        self._telemetry = telemetry
        self._key_export = key_export
        self._now = now

    async def Audit(  # noqa: N802 - named by the contract
        self, request: kms_control_pb2.AuditRequest, context: CallContext
    ) -> kms_control_pb2.AuditResponse:
        """The latest decisions, newest first."""
        del context
        records = await self._store.audit(
            normalise(request.user) if request.user else "", request.limit or DEFAULT_AUDIT
        )
        return kms_control_pb2.AuditResponse(entries=[_entry(record) for record in records])

    async def RotateTicketKey(  # noqa: N802 - named by the contract
        self, request: kms_control_pb2.RotateRequest, context: CallContext
    ) -> kms_control_pb2.RotateResponse:
        """Replace the ticket protection key; tickets under the old one go on being resolved."""
        del request
        fresh = await self._keys.rotate(self._now())
        self._telemetry.log("kms-ticket-key-rotated", tpk_id=fresh.key_id.hex(), by=context.peer.instance_id)
        return kms_control_pb2.RotateResponse(tpk_id=fresh.key_id.hex())

    async def ExportTicketKey(  # noqa: N802 - named by the contract
        self, request: kms_control_pb2.ExportTicketKeyRequest, context: CallContext
    ) -> kms_control_pb2.ExportTicketKeyResponse:
        """Hand out the key of one ticket, where the lab exports keys."""
        if not self._key_export:
            raise ProblemError(403, "KEY_EXPORT_OFF", "the lab does not export keys")
        try:
            if len(request.ticket) > MAX_TICKET:
                raise InvalidIdentity("TICKET", "too long")
            key_id = ticket_key_id(decode_ticket(request.ticket))
        except MikeyError as error:
            raise ProblemError(400, "INVALID_MSG_FORMAT", str(error)) from error
        key = await self._keys.know(key_id, self._now())
        if key is None:
            raise ProblemError(404, "TICKET_KEY_NOT_FOUND", "no key of that name is kept")
        self._telemetry.log(
            "kms-ticket-key-exported", level="warning", tpk_id=key_id.hex(), to=context.peer.instance_id,
            warning="EVERY TICKET UNDER THIS KEY CAN BE OPENED BY WHOEVER HAS IT",
        )  # fmt: skip
        return kms_control_pb2.ExportTicketKeyResponse(tpk=key.reveal(), tpk_id=key_id.hex())


def _entry(record: AuditRecord) -> kms_control_pb2.AuditEntry:
    return kms_control_pb2.AuditEntry(
        at=record.at,
        operation=record.operation,
        outcome=record.outcome,
        reason=record.reason,
        user=record.party,
        responders=record.responders,
        ticket_id=record.ticket_id,
        not_before=record.not_before,
        not_after=record.not_after,
        tpk_id=record.tpk_id,
        peer_kms=record.peer_kms,
    )
