"""Offers and answers within a dialog, from either side (RFC 3261 14, RFC 3311, RFC 3264 8; TS 33.328 7.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from nodes.ue.call_keys import MARK, CallKeys
from nodes.ue.media_security import MediaSecurityRefused
from nodes.ue.mikey_media import Incoming
from nodes.ue.session_media import OfferRefused
from sba import runtime
from signalling.sip.dialog import DialogState
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.offer_answer import Carrier, OfferAnswerError
from signalling.sip.stack import ServerTxn, make_response

if TYPE_CHECKING:
    from nodes.ue.call import Call

GLARE_ATTEMPTS = 4
"""Times a re-offer is tried when both sides speak at once (RFC 3261 14.1)."""


NEW_KEYS_S = 0.5
"""Time in which the answer in a 2xx to UPDATE or PRACK arrives, which nobody acknowledges, s (T1; testbed choice)."""


class Renegotiation:
    """The later offers of one call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._pending_ack: SipRequest | None = None
        """The INVITE whose 2xx made the offer; the answer comes in its ACK."""
        self._new_keys: asyncio.TimerHandle | None = None
        self._last_invite = 0
        """CSeq of the far end's last re-INVITE."""

    # own offers

    async def reoffer(
        self, method: str, build: Callable[[], bytes], *, new_keys: bool = False
    ) -> SipResponse | OfferRefused:
        """Send an offer within the dialog, again after glare (RFC 3261 14.1, RFC 3311 5.1).

        `new_keys` says that the offer changes the key; where the ticket lets this side bring none, another one is asked
        for first. Returns the last response, or why its answer could not be used (the call then ends: SDES-11). Raises
        OfferRefused when the offer cannot be made, TransactionFailure when nobody answers.
        """
        call = self._call
        if new_keys:
            await self._ticket_to_rekey()
        carrier = Carrier.INVITE if method == "INVITE" else Carrier.UPDATE
        body: bytes | None = None
        response: SipResponse | None = None
        for _ in range(GLARE_ATTEMPTS):
            if call.dialog is None or call.state == "ended":
                raise OfferRefused(481, "the call is over")
            try:
                if method == "INVITE":
                    call.offers.start_invite()
                call.offers.sent_offer(carrier)
            except OfferAnswerError:
                call.offers.end_own_invite()
                await asyncio.sleep(call.offers.retry_delay(owns_call_id=call.outgoing))
                continue
            try:
                body = build() if body is None else call.media.renew_offer()
                contact = [("Contact", f"<{call.agent.identity.contact_uri}>")]
                response = await call.send(method, *contact, body=body)
            except BaseException:
                call.offers.rejected_offer()
                call.media.withdraw_offer()
                raise
            finally:
                call.offers.end_own_invite()
            if response.status != 491:
                return self._conclude_reoffer(method, response)
            call.offers.rejected_offer()
            await asyncio.sleep(call.offers.retry_delay(owns_call_id=call.outgoing))
        call.media.withdraw_offer()
        if response is None:
            raise OfferRefused(491, "the far end is offering")
        return response

    async def _ticket_to_rekey(self) -> None:
        call = self._call
        if call.keys is None or not call.keys.media.established or call.keys.media.can_rekey:
            return
        try:
            await call.keys.prepare()
        except MediaSecurityRefused as refused:
            raise OfferRefused.of(refused) from None

    def _conclude_reoffer(self, method: str, response: SipResponse) -> SipResponse | OfferRefused:
        call = self._call
        if response.status >= 300:
            failed = response.status == 488 and call.keys is not None and call.keys.media.rekeying
            call.offers.rejected_offer()
            call.media.withdraw_offer()
            call.decide("refused", reason=f"{response.status} {response.reason}")
            if failed:  # the exchange that was to change the keys came to nothing: abort (RFC 4567 4.1.2)
                call.agent.spawn(call.hang_up(reason="re-keying was refused", security=True))
            if call.dialog is not None and call.dialog.state is DialogState.TERMINATED:
                call.finish("established", response.status, response.reason)
            return response
        call.offers.received_answer(Carrier.SUCCESS if method == "INVITE" else Carrier.UPDATE_SUCCESS)
        if call.keys is not None:
            call.keys.asserted = ()
        try:
            call.media.take_answer(response.body)
        except OfferRefused as refused:
            call.decide("failed", reason=refused.reason, token=refused.token)
            call.agent.spawn(call.hang_up(reason=refused.told, security=True))
            return refused
        call.go_live()
        call.decide("accepted")
        return response

    # the far end's offers

    def update_received(self, txn: ServerTxn) -> None:
        """Take an UPDATE, with or without an offer (RFC 3311 5.2)."""
        call = self._call
        request = txn.request
        if not request.body:
            txn.respond(call.agent.response(request, 200))
            return
        try:
            call.offers.received_offer(Carrier.UPDATE)
        except OfferAnswerError as error:
            self._refuse_step(txn, error)
            return
        self._take_offer(txn, Carrier.UPDATE_SUCCESS)

    def reinvite_received(self, txn: ServerTxn) -> None:
        """Take an INVITE within the dialog (RFC 3261 14.2)."""
        call = self._call
        request = txn.request
        try:
            call.offers.received_invite()
            if request.body:
                call.offers.received_offer(Carrier.INVITE)
        except OfferAnswerError as error:
            self._refuse_step(txn, error)
            return
        txn.on_ack_timeout = call.ack_missing
        self._last_invite = request.cseq[0]
        if request.body:
            self._take_offer(txn, Carrier.SUCCESS)
            return
        try:
            body = call.media.offer_again()
        except OfferRefused as refused:
            call.offers.end_peer_invite()
            txn.respond(call.agent.refusal(request, refused))
            return
        call.offers.sent_offer(Carrier.SUCCESS)
        self._pending_ack = request
        txn.respond(call.agent.response(request, 200, body))

    def _take_offer(self, txn: ServerTxn, carrier: Carrier) -> None:
        """Answer at once, or when the KMS has said what the offer's ticket holds."""
        call = self._call
        if call.keys is not None and MARK in txn.request.body:
            call.agent.spawn(self._answer_resolved(txn, carrier, call.keys))
        else:
            self._answer(txn, carrier)

    async def _answer_resolved(self, txn: ServerTxn, carrier: Carrier, keys: CallKeys) -> None:
        call = self._call
        try:
            incoming = await keys.receive(txn.request)
        except OfferRefused as refused:
            self._refuse_offer(txn, refused)
            return
        except Exception:
            self._refuse_offer(txn, OfferRefused(500, "internal error"))
            raise
        if txn.pending and call.state != "ended":
            self._answer(txn, carrier, incoming)
        else:  # cancelled meanwhile, or the call is over
            call.offers.rejected_offer()
            call.offers.end_peer_invite()
            txn.respond(make_response(txn.request, 481))

    def _refuse_offer(self, txn: ServerTxn, refused: OfferRefused) -> None:
        call = self._call
        call.offers.rejected_offer()
        call.offers.end_peer_invite()
        call.decide("refused", reason=refused.reason, token=refused.token)
        txn.respond(call.agent.refusal(txn.request, refused))

    def _answer(self, txn: ServerTxn, carrier: Carrier, incoming: Incoming | None = None) -> None:
        call = self._call
        try:
            body = call.media.answer(txn.request.body, incoming)
        except OfferRefused as refused:
            self._refuse_offer(txn, refused)
            return
        call.offers.sent_answer(carrier)
        txn.respond(call.agent.response(txn.request, 200, body))
        self.answer_sent(carrier)
        call.go_live()
        call.decide("accepted")

    def answer_sent(self, carrier: Carrier) -> None:
        """Send under new keys when the far end has the answer: at the ACK of an INVITE, else a short time later."""
        if self._new_keys is not None:
            self._new_keys.cancel()
            self._new_keys = None
        if carrier is not Carrier.SUCCESS:
            self._new_keys = runtime.loop().call_later(NEW_KEYS_S, self._call.media.send_new_keys)

    def _refuse_step(self, txn: ServerTxn, error: OfferAnswerError) -> None:
        retry = [("Retry-After", str(error.retry_after))] if error.retry_after is not None else []
        txn.respond(make_response(txn.request, error.status, headers=retry))

    def ack_received(self, ack: SipRequest) -> None:
        """Take the ACK of a 2xx; it holds the answer when the 2xx made the offer.

        That of an earlier INVITE, late or sent again, says nothing of the last one (RFC 3261 13.2.2.4).
        """
        call = self._call
        if ack.cseq[0] < self._last_invite:
            return
        call.offers.end_peer_invite()
        call.media.send_new_keys()
        if self._pending_ack is None:
            return
        self._pending_ack = None
        try:
            call.offers.received_answer(Carrier.ACK)
            call.media.take_answer(ack.body)
        except (OfferRefused, OfferAnswerError) as error:
            refused = error if isinstance(error, OfferRefused) else OfferRefused(error.status, error.reason)
            call.decide("failed", reason=refused.reason, token=refused.token)
            call.agent.spawn(call.hang_up(reason=refused.told, security=True))
            return
        call.go_live()
        call.decide("accepted")

    def await_answer_in_ack(self, request: SipRequest) -> None:
        """Say that the 2xx to `request` carried the offer."""
        self._pending_ack = request
