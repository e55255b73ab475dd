"""An outgoing call until it is answered, refused or given up (RFC 3261 13.2, RFC 3262)."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nodes.ue.call import SDP_TYPE, Call, party_of
from nodes.ue.call_keys import MARK, asserted_by
from nodes.ue.config import CallOptions
from nodes.ue.media_security import (
    KMS,
    TOKEN_KMS_REFUSED,
    TOKEN_KMS_UNREACHABLE,
    MediaSecurityRefused,
    choose_mode,
)
from nodes.ue.mikey_media import Incoming
from nodes.ue.requests import initial_headers, invite_headers, told_reason
from nodes.ue.session_media import OfferRefused
from sba import runtime
from signalling.sip.dialog import Dialog, DialogError
from signalling.sip.grammar import GrammarError, format_host
from signalling.sip.headers import RAck
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.offer_answer import Carrier, OfferAnswer, OfferAnswerError
from signalling.sip.reliable import ReliableError, ReliableReceiver, is_reliable
from signalling.sip.stack import ClientTxn, TransactionFailure

if TYPE_CHECKING:
    from nodes.ue.agent import UserAgent


@dataclass
class Branch:
    """One early dialog of a forked INVITE (RFC 3261 12, 13.2.2)."""

    dialog: Dialog
    offers: OfferAnswer
    receiver: ReliableReceiver = field(default_factory=ReliableReceiver)


class Caller:
    """The caller's side of one INVITE."""

    def __init__(self, agent: UserAgent, call: Call, target: str, mode: str, options: CallOptions) -> None:
        self.agent = agent
        self.call = call
        self.target = target
        self.mode = mode
        self.options = options
        self.established = asyncio.Event()
        self._branches: dict[str, Branch] = {}
        self._answered_by = ""
        self._arrived: asyncio.Queue[SipResponse | TransactionFailure] = asyncio.Queue()
        self._invite = SipRequest("INVITE", target)
        self._txn: ClientTxn | None = None
        self._winner = ""
        self._given_up = False
        self._dropped: set[str] = set()
        """Tags of dialogs that were answered and hung up at once."""
        self._refused: OfferRefused | None = None
        self._resolving = False
        """The answer to the far end's offer waits for the KMS; its 2xx comes again meanwhile."""
        call.setup = self
        call.cancel = self.give_up

    async def run(self) -> None:
        """Place the call and return when it is established or ended."""
        call, options = self.call, self.options
        body = b""
        try:
            call.media.wanted = self.mode or call.media.wanted
            call.media.wanted = mode = choose_mode(
                self.mode, call.media.context, force=options.force_offer, target=self.target
            )
            call.media.ignore_failure = options.ignore_security_failure
            self._own_identity()
            if not options.offerless:
                body = await self._first_offer(mode)
        except MediaSecurityRefused as refused:
            call.decide("refused", reason=refused.reason, token=refused.token)
            call.finish("refused", refused.status, refused.told)
            return
        except OSError as error:
            call.finish("failed", 500, str(error))
            return
        if call.state == "ended":  # given up while the KMS was asked
            return
        try:
            await self.agent.registrar.flow_again()
            await self.agent.registrar.locate()
        except TransactionFailure as failure:
            call.finish("failed", failure.status, str(failure))
            return
        self._invite = self._build(body)
        call.figures.began = self.agent.clock.seconds()
        self._txn = self.agent.gm.send(
            self._invite,
            self.agent.gm.hop(self.agent.registrar.flow),
            self._responded,
            self._arrived.put_nowait,
            call.trace_context,
        )
        call.tell("calling")
        await self._until_answered()

    def _own_identity(self) -> None:
        keys = self.call.keys
        if keys is None:
            return
        keys.own = self.options.preferred_identity or self.agent.default_identity
        keys.allow_diverted = keys.allow_diverted or self.options.allow_diverted

    async def _first_offer(self, mode: str) -> bytes:
        """Make the offer, with a ticket of the KMS first where the mode needs one. Raises MediaSecurityRefused."""
        call, options = self.call, self.options
        if mode == KMS and call.keys is not None:
            try:
                await call.keys.prepare(
                    peer=self.target,
                    responders=tuple(options.responders.split()),
                    ticket_id=options.ticket,
                    fresh=options.fresh_ticket,
                    tamper=options.tamper_mikey,
                )
            except MediaSecurityRefused as refused:
                mode = self._fallback(refused)
        if call.state == "ended":
            return b""
        return call.media.first_offer(mode, shape=options.shape, tamper=options.tamper_offer)

    def _fallback(self, refused: MediaSecurityRefused) -> str:
        """Return the mode to go on with when the KMS gave no ticket; raises `refused` where policy wants none.

        Only for a call whose mode this UE chose itself, and never without saying so (TS 33.328 6.2.3.3, assumed).
        """
        context, call = self.call.media.context, self.call
        allowed = self.agent.settings.kms_policy.fallback and not self.mode and context.kms == "preferred"
        if not allowed or refused.token not in {TOKEN_KMS_REFUSED, TOKEN_KMS_UNREACHABLE}:
            raise refused
        call.media.context = dataclasses.replace(context, kms="allowed")
        mode = choose_mode("", call.media.context)
        self.agent.telemetry.log(
            "ue.kms-fallback", level="warning", call_id=call.call_id, mode=mode, reason=refused.reason
        )
        call.decide("fallback", reason=refused.reason, token=refused.token)
        return mode

    def _build(self, body: bytes) -> SipRequest:
        agent, options = self.agent, self.options
        transport = "" if agent.settings.transport == "UDP" else f";transport={agent.settings.transport.lower()}"
        hop = agent.gm.hop(agent.registrar.flow)
        route = (f"<sip:{format_host(hop.host)}:{hop.port}{transport};lr>",)
        headers = initial_headers(
            agent.identity,
            agent.registration,
            route,
            self.target,
            self.call.call_id,
            preferred_identity=options.preferred_identity,
            privacy=options.privacy,
        )
        headers.add("CSeq", "1 INVITE")
        for name, value in invite_headers(agent.identity, reliable=options.reliable):
            headers.add(name, value)
        if options.asserted_identity:
            headers.add("P-Asserted-Identity", f"<{options.asserted_identity}>")
        if body:
            headers.add("Content-Type", SDP_TYPE)
        return SipRequest("INVITE", self.target, headers, body)

    def give_up(self) -> None:
        """Cancel; the call ends with the final response, also when that is a 2xx that crossed (RFC 3261 9.1)."""
        self._given_up = True
        if self._txn is not None:
            self._txn.cancel()
        else:
            self.call.finish("failed", 487, "given up")

    # responses

    def _responded(self, response: SipResponse) -> None:
        if (self._winner or self.call.state == "ended") and response.status >= 200:
            self._late(response)
        else:
            self._arrived.put_nowait(response)

    async def _until_answered(self) -> None:
        deadline = runtime.loop().time() + self.options.ring_timeout_s
        while self.call.state != "ended" and not self._winner:
            left = deadline - runtime.loop().time()
            try:
                async with asyncio.timeout(max(0.0, left) if left < float("inf") else None):
                    arrived = await self._arrived.get()
            except TimeoutError:
                deadline = float("inf")
                self.give_up()
                continue
            if isinstance(arrived, TransactionFailure):
                self.call.finish("failed", arrived.status, str(arrived))
            elif arrived.status < 200:
                self._provisional(arrived)
            elif arrived.status < 300:
                await self._success(arrived)
            else:
                self._failure(arrived)

    def _failure(self, response: SipResponse) -> None:
        if self._refused is not None:
            self.call.finish("refused", self._refused.status, self._refused.told)
            return
        self.call.offers.rejected_offer()
        self.call.decide("refused", reason=f"{response.status} {response.reason}")
        self.call.finish("refused", response.status, told_reason(response))

    def _branch(self, response: SipResponse) -> Branch | None:
        tag = response.to_tag or ""
        branch = self._branches.get(tag)
        if branch is None:
            try:
                dialog = Dialog.from_uac(self._invite, response)
            except DialogError:
                return None
            offers = OfferAnswer()
            if self._invite.body:
                offers.sent_offer(Carrier.INVITE)
            branch = self._branches[tag] = Branch(dialog, offers)
            if self.call.dialog is None:
                self.call.dialog, self.call.offers = branch.dialog, branch.offers
        return branch

    def _provisional(self, response: SipResponse) -> None:
        if response.status == 100:
            return
        try:
            branch = self._branch(response) if response.to_tag is not None else None
        except GrammarError:
            return
        rack: RAck | None = None
        if branch is not None and is_reliable(response):
            try:
                rack = branch.receiver.receive(response)
            except ReliableError:
                rack = None
            if rack is None:
                return
        if self.options.cancel_after_s and self.call.state == "calling":
            runtime.loop().call_later(self.options.cancel_after_s, self.give_up)
        if self.call.state == "calling":
            self.call.tell("ringing")
        answer = b""
        if branch is not None and rack is not None and self._offers_keys(response):
            self.agent.spawn(self._answer_early(branch, response, rack))
            return
        if branch is not None and response.body:
            carrier = Carrier.RELIABLE_PROVISIONAL if rack is not None else Carrier.PROVISIONAL
            answer = self._early_sdp(branch, response, carrier)
        if branch is not None and rack is not None:
            self.agent.spawn(self._acknowledge(branch, rack, answer))

    def _offers_keys(self, response: SipResponse) -> bool:
        """Tell whether a response offers what the KMS has to resolve first."""
        return not self._invite.body and not self._answered_by and self.call.keys is not None and MARK in response.body

    async def _answer_early(self, branch: Branch, response: SipResponse, rack: RAck) -> None:
        """Answer the offer of a reliable provisional response in its PRACK, once the KMS has resolved it."""
        assert self.call.keys is not None
        answer = b""
        try:
            incoming = await self.call.keys.receive(response)
        except OfferRefused as refused:
            self._refuse_early(refused)
        except Exception:
            self._refuse_early(OfferRefused(500, "internal error"))
            raise
        else:
            if self.call.state != "ended" and not self._winner:  # a 2xx came meanwhile and brought another offer
                answer = self._early_sdp(branch, response, Carrier.RELIABLE_PROVISIONAL, incoming)
        if self.call.state != "ended":
            await self._acknowledge(branch, rack, answer)

    def _refuse_early(self, refused: OfferRefused) -> None:
        self._refused = refused
        self.call.decide("failed", reason=refused.reason, token=refused.token)
        self.give_up()

    def _early_sdp(
        self, branch: Branch, response: SipResponse, carrier: Carrier, incoming: Incoming | None = None
    ) -> bytes:
        """Take SDP of a provisional response; returns the answer when it was an offer."""
        media = self.call.media
        self._note_asserted(response)
        try:
            if not self._invite.body:
                if carrier is not Carrier.RELIABLE_PROVISIONAL or self._answered_by:
                    return b""
                branch.offers.received_offer(carrier)
                answer = media.answer(response.body, incoming)
                branch.offers.sent_answer(Carrier.PRACK)
                self._now_live(response)
                return answer
            if branch.offers.received_answer(carrier) and not self._answered_by:
                media.take_answer(response.body)
                self._now_live(response)
        except OfferAnswerError:
            return b""
        except OfferRefused as refused:
            self._refuse_early(refused)
        return b""

    def _note_asserted(self, response: SipResponse) -> None:
        """Take note of who the network says answers (TS 33.328 6.2.3.6)."""
        if self.call.keys is not None:
            self.call.keys.asserted = asserted_by(response)

    def _now_live(self, response: SipResponse) -> None:
        self._answered_by = response.to_tag or ""
        self.call.go_live()
        self.call.decide("accepted")
        self.call.tell("early")

    async def _acknowledge(self, branch: Branch, rack: RAck, answer: bytes) -> None:
        content = [("Content-Type", SDP_TYPE)] if answer else []
        headers = self.call.headers(("RAck", str(rack)), *content)
        request = branch.dialog.request("PRACK", headers, answer)
        try:
            response = await self.agent.exchange(request, self.call)
        except TransactionFailure:
            return
        if response.status != 481:  # says that no response waits for this PRACK, and nothing of the dialog (RFC 3262 3)
            branch.dialog.take_response(request, response)

    async def _success(self, response: SipResponse) -> None:
        branch = self._branch(response)
        call = self.call
        if branch is None:
            call.finish("failed", 500, "the answer forms no dialog")
            return
        self._winner = response.to_tag or ""
        branch.dialog.take_response(self._invite, response)
        call.dialog, call.offers = branch.dialog, branch.offers
        call.far_end = party_of(response, "To") or call.far_end
        answer = b""
        refused: OfferRefused | None = self._refused
        self._note_asserted(response)
        try:
            incoming = await self._resolved(response)
            answer = self._final_sdp(branch, response, incoming)
        except OfferRefused as error:
            refused = error
        except OfferAnswerError as error:
            refused = OfferRefused(500, error.reason)
        self._send_ack(branch, response, answer)
        call.cancel = None
        if refused is not None:
            call.decide("failed", reason=refused.reason, token=refused.token)
            self.agent.spawn(self._end_refused(refused))
            return
        if self._given_up:
            self.agent.spawn(self._end_given_up())
            return
        call.establish(response.status)
        self.established.set()

    async def _resolved(self, response: SipResponse) -> Incoming | None:
        """Have the offer of a 2xx resolved before it is answered in the ACK. Raises OfferRefused."""
        if self.call.keys is None or not self._offers_keys(response):
            return None
        self._resolving = True
        try:
            return await self.call.keys.receive(response)
        finally:
            self._resolving = False

    def _final_sdp(self, branch: Branch, response: SipResponse, incoming: Incoming | None = None) -> bytes:
        """Take the SDP of the 2xx; returns the answer for the ACK when it was an offer."""
        media, tag = self.call.media, response.to_tag or ""
        if not self._invite.body and not self._answered_by:
            branch.offers.received_offer(Carrier.SUCCESS)
            answer = media.answer(response.body, incoming)
            branch.offers.sent_answer(Carrier.ACK)
            return answer
        if self._answered_by and self._answered_by != tag:
            media.reopen()
            branch.offers.received_answer(Carrier.SUCCESS)
            media.take_answer(response.body)
        elif response.body and branch.offers.received_answer(Carrier.SUCCESS):
            media.take_answer(response.body)
        if not media.established:
            raise OfferRefused(488, "no answer to the offer")
        return b""

    def _send_ack(self, branch: Branch, response: SipResponse, body: bytes = b"") -> None:
        content = [("Content-Type", SDP_TYPE)] if body else []
        self.agent.send_ack(branch.dialog.ack_for(response, self.call.headers(*content), body))

    async def _end_refused(self, refused: OfferRefused) -> None:
        """ACK was sent; leave at once, the negotiation has failed (SDES-11, UO-3, SEC-2)."""
        await self._leave(("Reason", 'SIP;cause=488;text="media security"'))
        self.call.finish("refused", refused.status, refused.told)

    async def _end_given_up(self) -> None:
        """ACK was sent to a 2xx that crossed the CANCEL; hang up, nobody waits for it (RFC 3261 9.1, 15)."""
        await self._leave()
        self.call.finish("refused", 487, "given up")

    async def _leave(self, *more: tuple[str, str]) -> None:
        try:
            await self.call.send("BYE", *more)
        except TransactionFailure as failure:
            self.agent.telemetry.log("ue.bye-failed", level="warning", cause=str(failure))

    def _late(self, response: SipResponse) -> None:
        """Take a 2xx that came again, or that nobody waits for, which is hung up at once (RFC 3261 13.2.2.4).

        That is one of another fork, or of a call that ended by itself before it was answered.
        """
        if response.status >= 300:
            return
        branch = self._branch(response)
        if branch is None:
            return
        tag = response.to_tag or ""
        if tag == self._winner and self._resolving:
            return  # the first ACK has the answer, which is being made
        if not self._winner and branch.dialog is self.call.dialog and tag not in self._dropped:
            branch.dialog = Dialog.from_uac(self._invite, response)  # the early one ended with the call
        self._send_ack(branch, response)
        if tag != self._winner and tag not in self._dropped:
            self._dropped.add(tag)
            self.agent.spawn(self._drop_fork(branch, response))

    async def _drop_fork(self, branch: Branch, response: SipResponse) -> None:
        branch.dialog.take_response(self._invite, response)
        request = branch.dialog.request("BYE", self.call.headers())
        try:
            answer = await self.agent.exchange(request, self.call)
        except TransactionFailure:
            return
        branch.dialog.take_response(request, answer)
