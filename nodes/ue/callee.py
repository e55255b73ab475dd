"""An incoming call until it is answered, refused or cancelled (RFC 3261 13.3, RFC 3262)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nodes.ue.call import Call, MediaWish, party_of
from nodes.ue.call_keys import MARK, claimed_by
from nodes.ue.config import Behaviour
from nodes.ue.media_security import KMS, MediaSecurityRefused, choose_mode
from nodes.ue.mikey_media import Incoming
from nodes.ue.offers import OfferRefused, offered_mode
from signalling.sip.dialog import Dialog, DialogError
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.offer_answer import Carrier, OfferAnswerError
from signalling.sip.reliable import Reliability, ReliableError, ReliableSender, reliability_of
from signalling.sip.stack import ServerTxn, make_response

if TYPE_CHECKING:
    from nodes.ue.agent import UserAgent


class Callee:
    """The callee's side of one INVITE, treated as `behaviour` says."""

    def __init__(self, agent: UserAgent, txn: ServerTxn, behaviour: Behaviour) -> None:
        self.agent = agent
        self.txn = txn
        self.behaviour = behaviour
        request = txn.request
        suites = tuple(behaviour.suites.split())
        wish = MediaWish(behaviour.media == "on", agent.voice, behaviour.record)
        caller = party_of(request, "From")
        self.call = Call(
            agent,
            request.call_id,
            caller,
            agent.security(behaviour.media_security, suites, peer=caller, kms=behaviour.kms),
            wish,
            outgoing=False,
        )
        self.call.setup = self
        self.call.cancel = lambda: self._refuse(486, "hung up before the answer")
        self.call.media.wanted = offered_mode(request.body, agent.sealed)
        self.call.media.tamper_answer = behaviour.tamper_answer
        if self.call.keys is not None:
            self.call.keys.own = agent.default_identity
            self.call.keys.asserted = claimed_by(request)
            self.call.keys.media.tamper_answer = behaviour.tamper_mikey
        self._tag = secrets.token_hex(8)
        self._sender = ReliableSender(request, agent.gm.stack.timers)
        self._body = b""
        self._sdp_sent_reliably = False
        self._acknowledged = asyncio.Event()
        self._prack = asyncio.Event()

    @property
    def request(self) -> SipRequest:
        """The INVITE."""
        return self.txn.request

    def begin(self) -> None:
        """Judge the offer at once, then ring and answer in time."""
        if self.behaviour.reject_status >= 300:
            self._refuse(self.behaviour.reject_status, "as told")
            return
        with self._refusing():
            self.call.dialog = Dialog.from_uas(
                self.request, self._response(180), contact=f"<{self.agent.identity.contact_uri}>"
            )
            if self._waits_for_kms():
                self.agent.spawn(self._negotiate())
            else:
                self._take_offer()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Refuse the call for whatever keeps it from being answered."""
        try:
            yield
        except DialogError as error:
            self._refuse(error.status, error.reason)
        except MediaSecurityRefused as refused:
            self._refuse_offer(OfferRefused.of(refused))
        except (OfferRefused, OfferAnswerError) as error:
            self._refuse_offer(error)
        except Exception:
            self._refuse(500, "internal error")
            raise

    def _waits_for_kms(self) -> bool:
        """Tell whether the KMS has to be asked before this side can answer or, without an offer, make one."""
        if self.call.keys is None:
            return False
        return MARK in self.request.body if self.request.body else self._own_mode() == KMS

    def _own_mode(self) -> str:
        media = self.call.media
        media.wanted = choose_mode("", media.context)
        return media.wanted

    async def _negotiate(self) -> None:
        """Ask the KMS, then go on as ever; 100 goes out meanwhile, and nobody's phone rings for a call that fails."""
        keys = self.call.keys
        assert keys is not None
        incoming: Incoming | None = None
        with self._refusing():
            if self.request.body:
                incoming = await keys.receive(self.request)
            else:
                with keys.management.asking_for(self.call.far_end):
                    await keys.prepare()
            if self.call.state != "ended":
                self._take_offer(incoming)

    def _take_offer(self, incoming: Incoming | None = None) -> None:
        """Make the answer, or without an offer the own one, and go on to ring."""
        offers, media = self.call.offers, self.call.media
        if self.request.body:
            offers.received_offer(Carrier.INVITE)
            self._body = media.answer(self.request.body, incoming)
            self.call.decide("accepted")
        else:
            try:
                self._body = media.first_offer(self._own_mode())
            except OSError as error:
                raise OfferRefused(500, f"no ports for a stream, {error}") from None
        self.txn.on_ack_timeout = self.call.ack_missing
        self.agent.spawn(self._proceed())

    # towards the caller

    def _response(self, status: int, body: bytes = b"") -> SipResponse:
        response = self.agent.response(self.request, status, body)
        to = self.request.headers.get("To") or ""
        response.headers.set("To", f"{to};tag={self._tag}")
        return response

    async def _proceed(self) -> None:
        reliable = self._is_reliable()
        if self.behaviour.ring or self.behaviour.early_media:
            self.call.tell("ringing")
            status = 183 if self.behaviour.early_media else 180
            await self._provisional(status, with_sdp=self.behaviour.early_media and reliable, reliable=reliable)
        if self.behaviour.keep_ringing or self.call.state == "ended":
            return
        await asyncio.sleep(self.behaviour.answer_after_s)
        await self._prack_or_end()
        if self.call.state != "ended":
            self._accept()

    def _is_reliable(self) -> bool:
        wanted = reliability_of(self.request)
        return wanted is Reliability.REQUIRED or (wanted is Reliability.ALLOWED and self.behaviour.reliable)

    async def _provisional(self, status: int, *, with_sdp: bool, reliable: bool) -> None:
        response = self._response(status, self._body if with_sdp else b"")
        if not reliable:
            self.txn.respond(response)
            return
        if with_sdp and self.request.body:
            self.call.offers.sent_answer(Carrier.RELIABLE_PROVISIONAL)
            self._sdp_sent_reliably = True
            self.call.go_live()
            self.call.tell("early")
        elif with_sdp:
            self.call.offers.sent_offer(Carrier.RELIABLE_PROVISIONAL)
            self._sdp_sent_reliably = True
        self.txn.respond(self._sender.send(response, self.agent.clock.seconds()))
        self.agent.spawn(self._repeat())

    async def _repeat(self) -> None:
        """Send the reliable response again until its PRACK comes (RFC 3262 3)."""
        while self._sender.waiting and self.call.state != "ended" and self._sender.next_time is not None:
            pause = self._sender.next_time - self.agent.clock.seconds()
            await asyncio.sleep(max(0.0, pause) + 0.001)
            try:
                again = self._sender.due(self.agent.clock.seconds())
            except ReliableError as error:
                self._refuse(error.status, error.reason)
                return
            if again is not None:
                self.txn.respond(again)

    async def _prack_or_end(self) -> None:
        """Wait while a reliable response with SDP is not acknowledged (RFC 3262 5)."""
        while not self._sender.may_send_success and self.call.state != "ended":
            self._prack.clear()
            waiting = {asyncio.ensure_future(self._prack.wait()), asyncio.ensure_future(self.call.ended.wait())}
            _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()

    def _accept(self) -> None:
        body = b"" if self._sdp_sent_reliably else self._body
        offers = self.call.offers
        if body and self.request.body:
            offers.sent_answer(Carrier.SUCCESS)
        elif body:
            offers.sent_offer(Carrier.SUCCESS)
            self.call.later.await_answer_in_ack(self.request)
        assert self.call.dialog is not None
        self.call.dialog.confirm()
        self._sender.final_sent()
        self.call.cancel = None
        self.txn.respond(self._response(200, body))
        self.call.establish(200)

    # from the caller

    def prack_received(self, txn: ServerTxn) -> None:
        """Take a PRACK, with the answer when the reliable response made the offer (RFC 3262 5)."""
        try:
            self._sender.acknowledge(txn.request)
        except ReliableError as error:
            txn.respond(make_response(txn.request, error.status))
            return
        self._prack.set()
        if not txn.request.body:
            txn.respond(self.agent.response(txn.request, 200))
            return
        if self.request.body and self.call.keys is not None and MARK in txn.request.body:
            self.agent.spawn(self._resolve_prack(txn))
        else:
            self._take_prack(txn)

    async def _resolve_prack(self, txn: ServerTxn) -> None:
        assert self.call.keys is not None
        try:
            incoming = await self.call.keys.receive(txn.request)
        except OfferRefused as refused:
            txn.respond(self.agent.response(txn.request, 200))
            self._refuse_offer(refused)
            return
        except Exception:
            txn.respond(self.agent.response(txn.request, 500))
            self._refuse(500, "internal error")
            raise
        if self.call.state != "ended":
            self._take_prack(txn, incoming)
        else:
            txn.respond(make_response(txn.request, 481))

    def _take_prack(self, txn: ServerTxn, incoming: Incoming | None = None) -> None:
        offers, media = self.call.offers, self.call.media
        try:
            if self.request.body:
                offers.received_offer(Carrier.PRACK)
                body = media.answer(txn.request.body, incoming)
                offers.sent_answer(Carrier.PRACK_SUCCESS)
                txn.respond(self.agent.response(txn.request, 200, body))
                self.call.later.answer_sent(Carrier.PRACK_SUCCESS)
            else:
                offers.received_answer(Carrier.PRACK)
                media.take_answer(txn.request.body)
                txn.respond(self.agent.response(txn.request, 200))
                self.call.go_live()
        except (OfferRefused, OfferAnswerError) as error:
            offers.rejected_offer()
            txn.respond(self.agent.response(txn.request, 200))
            self._refuse_offer(error)

    def acknowledged(self) -> None:
        """Take note of the ACK."""
        self._acknowledged.set()

    def cancelled(self, cancel: SipRequest) -> None:
        """Take a CANCEL (RFC 3261 9.2)."""
        self._refuse(487, cancel.headers.get("Reason") or "the caller gave up")

    def _refuse(self, status: int, reason: str) -> None:
        self._sender.final_sent()
        if self.txn.pending:
            self.txn.respond(self._response(status))
        self.call.finish("refused", status, reason)

    def _refuse_offer(self, error: OfferRefused | OfferAnswerError) -> None:
        refused = error if isinstance(error, OfferRefused) else OfferRefused(error.status, error.reason)
        self.call.decide("refused", reason=refused.reason, token=refused.token)
        self._sender.final_sent()
        if self.txn.pending:
            self.txn.respond(self.agent.refusal(self.request, refused))
        self.call.finish("refused", refused.status, refused.told)
