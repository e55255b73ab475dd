"""Keys from the KMS for one call: who may be at its other end, what waits for the KMS, what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keying.mikey.codec import decode
from keying.mikey.describe import summary
from keying.mikey.errors import MikeyError
from keying.mikey.identity import Identity, normalise
from keying.mikey.payloads import TicketPayload, TicketPolicy
from keying.mikey.transfer import Established
from nodes.ue.key_management import KeyManagement
from nodes.ue.kms_policy import judge_initiator, judge_responder, judge_ticket
from nodes.ue.media_security import TOKEN_RESPONDER, MediaSecurityRefused
from nodes.ue.mikey_media import Incoming
from nodes.ue.offers import OfferRefused
from nodes.ue.requests import uris_in
from protos import ue_control_pb2
from sba.telemetry import within
from signalling.sip.dialog import DialogError
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import TransactionFailure

if TYPE_CHECKING:
    from nodes.ue.call import Call

REKEY_EARLY = 0.9
"""Part of the longest time under one key after which it is changed (testbed choice)."""
REKEY_PAUSE = 0.02
"""Part of that time between two attempts (testbed choice)."""
ANONYMOUS = "@anonymous.invalid"
"""End of the URI of a caller who shows no identity (RFC 3323 4.1.1.3)."""
MARK = b"key-mgmt"
"""What stands in a body with key management; without it no KMS is asked."""


def asserted_by(message: SipRequest | SipResponse) -> tuple[str, ...]:
    """Return the URIs that the network asserts for the sender of a message (RFC 3325 9.1)."""
    return uris_in(message.headers.values("P-Asserted-Identity"))


def claimed_by(message: SipRequest) -> tuple[str, ...]:
    """Return who a caller is as far as SIP says: whom the network asserts, else From; nobody when it is anonymous.

    From is shown where nothing is asserted, so a ticket has to fit it too (RFC 3323 4.1.1.3, RFC 3325 7).
    """
    asserted = asserted_by(message)
    if asserted:
        return asserted
    shown = uris_in([message.headers.get("From") or ""])
    return tuple(uri for uri in shown if not normalise(uri).endswith(ANONYMOUS))


class CallKeys:
    """MIKEY of one call. `dialled` is who was called, empty in an incoming call."""

    def __init__(self, call: Call, management: KeyManagement, *, dialled: str = "") -> None:
        self.management = management
        self.media = management.media(call.media.context.suites)
        self.dialled = dialled
        self.own = ""
        """The identity of this side that the far end is shown; the ticket is asked for in its name."""
        self.allow_diverted = management.policy.allow_diverted
        self.asserted: tuple[str, ...] = ()
        """Who the network says is at the other end. Of a caller it is what the INVITE said, whatever comes later."""
        self._call = call
        self.media.judge_responder = self._judge_responder
        self.media.judge_initiator = lambda made, _: self._judge_initiator(made.initiator)
        self.media.judge_shared = self._judge_shared
        self.media.on_message = self._seen
        call.media.mikey = self.media

    # who may be at the other end (TS 33.328 6.2.3.6)

    def _judge_responder(self, made: Established, ticket: TicketPolicy) -> None:
        known = self.media.peer
        self.media.peer = judge_responder(
            ticket,
            made.responder,
            dialled=known.text if known is not None else self.dialled or self._call.far_end,
            asserted=self.asserted,
            allow_diverted=self.allow_diverted and known is None,
        )

    def _judge_initiator(self, initiator: Identity) -> None:
        if self.media.peer is not None:
            self._check_same(initiator)
            return
        judge_initiator(initiator, asserted=self.asserted, dialled=self.dialled, allow_diverted=self.allow_diverted)

    def _judge_shared(self, ticket: TicketPolicy) -> None:
        judge_ticket(self.management.policy, ticket, self._own(), forked=False)

    def _own(self) -> tuple[Identity, ...]:
        """Return the identities of this user."""
        return tuple(Identity.uri(uri) for uri in (self.own, *self._call.agent.registration.associated))

    def _check_same(self, peer: Identity) -> None:
        if self.media.peer is not None and not self.media.peer.same(peer):
            raise MediaSecurityRefused(TOKEN_RESPONDER, f"{peer.text} takes the place of {self.media.peer.text}")

    # what waits for the KMS

    async def prepare(
        self,
        *,
        peer: str = "",
        responders: Sequence[str] = (),
        ticket_id: str = "",
        fresh: bool = False,
        tamper: str = "",
    ) -> None:
        """Get a ticket for the next own offer. Raises MediaSecurityRefused."""
        known = self.media.peer.text if self.media.peer is not None else ""
        with within(self._call.trace_context):
            await self.management.prepare(
                self.media,
                own=self.own,
                peer=known or peer or self.dialled or self._call.far_end,
                responders=responders,
                ticket_id=ticket_id,
                fresh=fresh,
                tamper=tamper,
            )

    async def receive(self, message: SipRequest | SipResponse) -> Incoming | None:
        """Check and resolve what an offer brings. Raises OfferRefused."""
        if isinstance(message, SipResponse):
            self.asserted = asserted_by(message) or self.asserted
        own = tuple(identity.text for identity in self._own())
        try:
            with within(self._call.trace_context):
                return await self.management.receive(
                    self.media, message.body, self._call.media.context, own=own, judge=self._judge_initiator
                )
        except MediaSecurityRefused as refused:
            raise OfferRefused.of(refused) from None

    async def rekey_in_time(self) -> None:
        """Change the keys before they are older than the ticket lets them be, or end the call (TRr, RFC 6043 6.10)."""
        call = self._call
        while (interval := self.media.rekey_interval) is not None:
            if await self._ended_within(REKEY_EARLY * interval):
                return
            try:
                async with asyncio.timeout((1 - REKEY_EARLY) * interval):
                    while not await self._rekeyed():
                        if await self._ended_within(REKEY_PAUSE * interval):
                            return
            except TimeoutError:
                reason = "the keys are too old and could not be changed"
                call.agent.spawn(call.hang_up(reason=reason, security=True))
                return

    async def _ended_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._call.ended.wait()
        except TimeoutError:
            return False
        return True

    async def _rekeyed(self) -> bool:
        """Offer new keys; False where that has to be tried again."""
        call = self._call
        try:
            response = await call.later.reoffer("INVITE", lambda: call.media.next_offer(rekey=0), new_keys=True)
        except (OfferRefused, TransactionFailure, DialogError) as error:
            call.agent.telemetry.log("ue.rekey-failed", level="warning", call_id=call.call_id, cause=str(error))
            return False
        return not isinstance(response, SipResponse) or response.status < 300

    # what is seen of it

    def _seen(self, direction: str, message: bytes) -> None:
        name, _, payloads = summary(message).partition(": ")
        if self._is_update(message):
            name += " (CSB update)"
        span = self._call.agent.telemetry.tracer.start_span("mikey.transfer", context=self._call.trace_context)
        span.set_attributes(
            {
                "imslab.mikey.message": f"{name}: {payloads}",
                "imslab.mikey.direction": direction,
                "imslab.node": self._call.agent.name,
                "sip.call_id": self._call.call_id,
            }
        )
        span.end()

    def _is_update(self, message: bytes) -> bool:
        """Tell whether a message goes on with a bundle in force: it has its CSB ID and no ticket (RFC 6043 5.2)."""
        try:
            read = decode(message)
        except MikeyError:
            return False
        begins = any(isinstance(payload, TicketPayload) for payload in read.payloads)
        in_force = {bundle.association.csb_id for bundle in self.media.bundles.values()}
        return read.header.csb_id in in_force and not begins

    def record(self) -> ue_control_pb2.MikeyExchange | None:
        """Return the messages of the call, None unless the lab exports keys."""
        if not self.management.key_export:
            return None
        seen = self.media.exchange
        return ue_control_pb2.MikeyExchange(
            request_init=seen.request_init,
            request_resp=seen.request_resp,
            transfer_init=seen.transfer_init,
            resolve_init=seen.resolve_init,
            resolve_resp=seen.resolve_resp,
            transfer_resp=seen.transfer_resp,
            psk=seen.psk.reveal() if seen.psk is not None else b"",
            ticket=seen.ticket,
            issuer=seen.issuer,
        )

    def close(self) -> None:
        """Forget the keys of the call; its messages stay readable."""
        if self.dialled and self.media.established:
            self.management.last_transfer = self.media.exchange.transfer_init
        self.media.close()
