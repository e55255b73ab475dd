"""One call of the UE: its life, its dialog, its media, and what the control service tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from media.g711 import CODECS
from media.session import AudioSource, DtmfReceived, MediaStarted, PacketRefused, RekeyNeeded, SessionEvent
from nodes.ue.call_keys import MARK, CallKeys
from nodes.ue.media_security import MediaSecurityRefused, SecurityContext
from nodes.ue.mikey_media import Incoming
from nodes.ue.report import audio_report, media_leg, voice_of
from nodes.ue.requests import ACCESS_NETWORK, agreement_headers
from nodes.ue.session_media import OfferRefused, SessionMedia
from nodes.ue.stream import Stream
from protos import ue_control_pb2
from signalling.sip.dialog import Dialog, DialogState
from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.offer_answer import Carrier, OfferAnswer, OfferAnswerError
from signalling.sip.stack import ServerTxn, TransactionFailure, make_response

if TYPE_CHECKING:
    from nodes.ue.agent import UserAgent

GLARE_ATTEMPTS = 4
"""Times a re-offer is tried when both sides speak at once (RFC 3261 14.1)."""
SDP_TYPE = "application/sdp"
MEDIA_REASON = 'SIP;cause=488;text="media security"'
"""Reason of a BYE after a failure of media security (SEC-2)."""


@dataclass(frozen=True)
class MediaWish:
    """What the media end of a call does."""

    on: bool = True
    source: AudioSource | None = None
    record: bool = True
    codec: str = "PCMA"


@dataclass
class CallFigures:
    """Times and outcome of a call; seconds of the node's clock."""

    began: float
    setup_ms: float = 0.0
    status: int = 0
    reason: str = ""
    result: str = ""
    digits: str = ""
    audio: ue_control_pb2.AudioReport | None = None
    wav: bytes = b""
    spans: list[tuple[Stream, Span]] = field(default_factory=list)


class Call:
    """A call in either direction. States: calling, ringing, early, established, ended."""

    def __init__(
        self, agent: UserAgent, call_id: str, far_end: str, context: SecurityContext, wish: MediaWish, *, outgoing: bool
    ) -> None:
        self.agent = agent
        self.call_id = call_id
        self.far_end = far_end
        self.outgoing = outgoing
        self.wish = wish
        self.state = "calling"
        self.dialog: Dialog | None = None
        self.offers = OfferAnswer()
        self.media = SessionMedia(agent.settings.ip, context, self._open_stream)
        dialled = far_end if outgoing else ""
        self.keys = None if agent.keys is None else CallKeys(self, agent.keys, dialled=dialled)
        self.figures = CallFigures(agent.clock.seconds())
        self.ended = asyncio.Event()
        self.trace_context: Context | None = None
        self.setup: object = None
        """The Caller or Callee that sets the call up."""
        self.cancel: Callable[[], None] | None = None
        """How a set-up in progress is given up."""
        self._feeds: set[asyncio.Queue[ue_control_pb2.CallEvent]] = set()
        self._heard_media = False
        self._pending_ack: SipRequest | None = None

    # what others see

    @property
    def trace_id(self) -> str:
        """Trace id in hex, empty before the first message."""
        if self.trace_context is None:
            return ""
        context = trace.get_current_span(self.trace_context).get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    def subscribe(self) -> asyncio.Queue[ue_control_pb2.CallEvent]:
        """Return a queue that gets every further event."""
        feed: asyncio.Queue[ue_control_pb2.CallEvent] = asyncio.Queue()
        self._feeds.add(feed)
        return feed

    def event(self, state: str = "", *, with_wav: bool = False, with_keys: bool = False) -> ue_control_pb2.CallEvent:
        """Return the present as the control service tells it; keys only where the lab exports them."""
        figures = self.figures
        event = ue_control_pb2.CallEvent(
            call_id=self.call_id,
            state=state or self.state,
            trace_id=self.trace_id,
            sip_status=figures.status,
            reason=figures.reason,
            setup_ms=figures.setup_ms,
            legs=[media_leg(stream) for stream in self.media.streams if stream.remote is not None],
            result=figures.result,
            security=self.media.security,
        )
        if figures.audio is not None:
            event.audio.CopyFrom(figures.audio)
            if with_wav:
                event.audio.wav = figures.wav
        seen = self.keys.record() if with_keys and self.keys is not None else None
        if seen is not None:
            event.mikey.CopyFrom(seen)
        return event

    def tell(self, state: str) -> None:
        """Enter a state and tell everybody who listens."""
        if self.state == "ended":
            return
        self.state = state
        self._publish(self.event())

    def _publish(self, event: ue_control_pb2.CallEvent) -> None:
        for feed in self._feeds:
            feed.put_nowait(event)

    # media

    def _open_stream(self, index: int) -> Stream:
        wish = self.wish
        stream = Stream.open(
            index,
            self.agent.reactor,
            self.agent.settings.ip,
            media=wish.on,
            source=wish.source,
            record=wish.record,
            codec=CODECS[wish.codec],
        )
        stream.watch(self._media_event)
        return stream

    def _media_event(self, event: SessionEvent) -> None:
        if isinstance(event, MediaStarted):
            if not self._heard_media and self.state != "ended":
                self._heard_media = True
                self._publish(self.event("media"))
        elif isinstance(event, DtmfReceived):
            self.figures.digits += event.digit
        elif isinstance(event, PacketRefused):
            level = "info" if self.state in {"calling", "ringing"} else "warning"
            self.agent.telemetry.log("ue.packet-refused", level=level, call_id=self.call_id, cause=event.cause)
        elif isinstance(event, RekeyNeeded):
            self.agent.spawn(self.reoffer("INVITE", lambda: self.media.next_offer(rekey=0), new_keys=True))

    def decide(self, outcome: str, *, reason: str = "", token: str = "") -> None:
        """Put the key decision on the trace; no key is in it."""
        stream = next((one for one in self.media.streams if not one.ended), None)
        line = stream.keys.send if stream is not None else None
        span = self.agent.telemetry.tracer.start_span("key.decision", context=self.trace_context)
        facts: dict[str, str | int] = {
            "mode": self.media.security,
            "suite": line.suite.name if line is not None else "",
            "tag": line.tag if line is not None else 0,
            "outcome": outcome,
            "reason": token or reason,
            "node": self.agent.name,
            "call_id": self.call_id,
            "stream": 1 if stream is None else stream.index + 1,
        }
        mikey = self.media.mikey
        if mikey is not None and mikey.peer is not None:
            facts["peer"] = mikey.peer.text
        span.set_attributes({f"imslab.decision.{name}": value for name, value in facts.items()})
        span.set_attribute("sip.call_id", self.call_id)
        span.end()

    def go_live(self) -> None:
        """Begin to speak on agreed streams and open their spans."""
        self.media.start()
        known = {id(stream) for stream, _ in self.figures.spans}
        for stream in self.media.streams:
            if stream.agreed and id(stream) not in known:
                span = self.agent.telemetry.tracer.start_span("media.association", context=self.trace_context)
                self.figures.spans.append((stream, span))

    def establish(self, status: int, reason: str = "OK") -> None:
        """Enter the call proper."""
        figures = self.figures
        figures.status, figures.reason = status, reason
        figures.setup_ms = 1000 * (self.agent.clock.seconds() - figures.began)
        figures.result = "established"
        self.go_live()
        self.decide("accepted")
        self.tell("established")

    def finish(self, result: str, status: int, reason: str) -> None:
        """End the call: media stops at once, the last event follows when the sound was judged."""
        if self.state == "ended":
            return
        figures = self.figures
        established = figures.result == "established"
        if not established:
            figures.result, figures.status = result, status
        figures.reason = reason
        self.state = "ended"
        if self.dialog is not None:
            self.dialog.terminate()
        self.media.close()
        if self.keys is not None:
            self.keys.close()
        for stream, span in figures.spans:
            self._end_association(stream, span)
        self.agent.spawn(self._conclude(judge=established))

    def _end_association(self, stream: Stream, span: Span) -> None:
        leg = media_leg(stream)
        facts: dict[str, str | int] = {
            "node": self.agent.name,
            "side": "end",
            "protection": leg.protection,
            "keying": leg.keying,
            "suite": leg.suite,
            "scope": leg.scope,
            "stream": str(leg.stream_id),
            "local": leg.local,
            "remote": leg.remote,
            "packets_in": leg.packets_in,
            "packets_out": leg.packets_out,
            "auth_failures": leg.auth_failures,
            "replays": leg.replays,
        }
        span.set_attributes({f"imslab.media.{name}": value for name, value in facts.items()})
        span.set_attributes({"sip.call_id": self.call_id, "imslab.call_id": self.call_id})
        span.end()

    async def _conclude(self, *, judge: bool) -> None:
        first = next((stream for stream in self.media.streams if stream.endpoint is not None), None)
        try:
            if judge and first is not None:
                report, wav = await asyncio.to_thread(
                    audio_report, first, voice_of(self.far_end), record=self.wish.record
                )
                report.far_end = self.far_end
                self.figures.audio, self.figures.wav = report, wav
        finally:
            for stream in self.media.streams:
                stream.endpoint = None
            self.ended.set()
            self._publish(self.event())
            self.agent.call_ended(self)

    # requests within the dialog, sent

    def headers(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        """Return what every request in the dialog carries (7.1.1-6)."""
        return [
            *agreement_headers(self.agent.registration),
            ("P-Access-Network-Info", ACCESS_NETWORK),
            ("User-Agent", self.agent.settings.user_agent),
            *more,
        ]

    async def send(self, method: str, *more: tuple[str, str], body: bytes = b"") -> SipResponse:
        """Send a request within the dialog and return its final response. Raises TransactionFailure, DialogError."""
        assert self.dialog is not None
        content = [("Content-Type", SDP_TYPE)] if body else []
        request = self.dialog.request(method, self.headers(*more, *content), body)
        answered = await self.agent.exchange(request, self, on_repeat=self._acknowledge)
        self.dialog.take_response(request, answered)
        if method == "INVITE" and answered.status < 300:
            self._acknowledge(answered)
        return answered

    def _acknowledge(self, response: SipResponse) -> None:
        if self.dialog is not None and response.cseq[1] == "INVITE":
            self.agent.send_ack(self.dialog.ack_for(response, self.headers()))

    async def hang_up(self, *, reason: str = "", security: bool = False) -> int:
        """End the call from this side; returns the status of BYE, or 487 for a set-up that was given up."""
        if self.state == "ended":
            return 481
        if self.dialog is None or self.dialog.state is not DialogState.CONFIRMED:
            if self.cancel is not None:
                self.cancel()
            return 487
        more = [("Reason", MEDIA_REASON)] if security else []
        try:
            status = (await self.send("BYE", *more)).status
        except TransactionFailure as failure:
            status = failure.status
        self.finish("established", status, reason or "hung up")
        return status

    def vanish(self) -> None:
        """Negative test: forget the call without a word to anybody."""
        self.finish("established", 0, "vanished")

    async def reoffer(
        self, method: str, build: Callable[[], bytes], *, new_keys: bool = False
    ) -> SipResponse | OfferRefused:
        """Send an offer within the dialog, again after glare (RFC 3261 14.1, RFC 3311 5.1).

        `new_keys` says that the offer changes the key; where the ticket lets this side bring none, another one is asked
        for first. Returns the last response, or why its answer could not be used (the call then ends: SDES-11). Raises
        OfferRefused when the offer cannot be made, TransactionFailure when nobody answers.
        """
        if new_keys:
            await self._ticket_to_rekey()
        carrier = Carrier.INVITE if method == "INVITE" else Carrier.UPDATE
        body: bytes | None = None
        response: SipResponse | None = None
        for _ in range(GLARE_ATTEMPTS):
            if self.dialog is None or self.state == "ended":
                raise OfferRefused(481, "the call is over")
            try:
                if method == "INVITE":
                    self.offers.start_invite()
                self.offers.sent_offer(carrier)
            except OfferAnswerError:
                self.offers.end_own_invite()
                await asyncio.sleep(self.offers.retry_delay(owns_call_id=self.outgoing))
                continue
            try:
                body = body if body is not None else build()
                contact = [("Contact", f"<{self.agent.identity.contact_uri}>")]
                response = await self.send(method, *contact, body=body)
            except BaseException:
                self.offers.rejected_offer()
                self.media.withdraw_offer()
                raise
            finally:
                self.offers.end_own_invite()
            if response.status != 491:
                return self._conclude_reoffer(method, response)
            self.offers.rejected_offer()
            await asyncio.sleep(self.offers.retry_delay(owns_call_id=self.outgoing))
        self.media.withdraw_offer()
        if response is None:
            raise OfferRefused(491, "the far end is offering")
        return response

    async def _ticket_to_rekey(self) -> None:
        if self.keys is None or not self.keys.media.established or self.keys.media.can_rekey:
            return
        try:
            await self.keys.prepare()
        except MediaSecurityRefused as refused:
            raise OfferRefused.of(refused) from None

    def _conclude_reoffer(self, method: str, response: SipResponse) -> SipResponse | OfferRefused:
        if response.status >= 300:
            failed = response.status == 488 and self.keys is not None and self.keys.media.rekeying
            self.offers.rejected_offer()
            self.media.withdraw_offer()
            self.decide("refused", reason=f"{response.status} {response.reason}")
            if failed:  # the exchange that was to change the keys came to nothing: abort (RFC 4567 4.1.2)
                self.agent.spawn(self.hang_up(reason="re-keying was refused", security=True))
            if self.dialog is not None and self.dialog.state is DialogState.TERMINATED:
                self.finish("established", response.status, response.reason)
            return response
        self.offers.received_answer(Carrier.SUCCESS if method == "INVITE" else Carrier.UPDATE_SUCCESS)
        if self.keys is not None:
            self.keys.asserted = ()
        try:
            self.media.take_answer(response.body)
        except OfferRefused as refused:
            self.decide("failed", reason=refused.reason, token=refused.token)
            self.agent.spawn(self.hang_up(reason=refused.warning or refused.reason, security=True))
            return refused
        self.go_live()
        self.decide("accepted")
        return response

    # requests within the dialog, received

    def bye_received(self, txn: ServerTxn) -> None:
        """Take a BYE (RFC 3261 15.1.2)."""
        txn.respond(make_response(txn.request, 200))
        reason = txn.request.headers.get("Reason")
        self.finish("failed", 0, reason or "the far end hung up")

    def update_received(self, txn: ServerTxn) -> None:
        """Take an UPDATE, with or without an offer (RFC 3311 5.2)."""
        request = txn.request
        if not request.body:
            txn.respond(self.agent.response(request, 200))
            return
        try:
            self.offers.received_offer(Carrier.UPDATE)
        except OfferAnswerError as error:
            self._refuse_step(txn, error)
            return
        self._take_offer(txn, Carrier.UPDATE_SUCCESS)

    def reinvite_received(self, txn: ServerTxn) -> None:
        """Take an INVITE within the dialog (RFC 3261 14.2)."""
        request = txn.request
        try:
            self.offers.received_invite()
            if request.body:
                self.offers.received_offer(Carrier.INVITE)
        except OfferAnswerError as error:
            self._refuse_step(txn, error)
            return
        txn.on_ack_timeout = self.ack_missing
        if request.body:
            self._take_offer(txn, Carrier.SUCCESS)
            return
        try:
            body = self.media.offer_again()
        except OfferRefused as refused:
            self.offers.end_peer_invite()
            txn.respond(self.agent.refusal(request, refused))
            return
        self.offers.sent_offer(Carrier.SUCCESS)
        self._pending_ack = request
        txn.respond(self.agent.response(request, 200, body))

    def _take_offer(self, txn: ServerTxn, carrier: Carrier) -> None:
        """Answer at once, or when the KMS has said what the offer's ticket holds."""
        if self.keys is not None and MARK in txn.request.body:
            self.agent.spawn(self._answer_resolved(txn, carrier, self.keys))
        else:
            self._answer(txn, carrier)

    async def _answer_resolved(self, txn: ServerTxn, carrier: Carrier, keys: CallKeys) -> None:
        try:
            incoming = await keys.receive(txn.request)
        except OfferRefused as refused:
            self._refuse_offer(txn, refused)
            return
        if txn.pending and self.state != "ended":
            self._answer(txn, carrier, incoming)
        else:  # cancelled meanwhile, or the call is over
            self.offers.rejected_offer()
            self.offers.end_peer_invite()
            txn.respond(make_response(txn.request, 481))

    def _refuse_offer(self, txn: ServerTxn, refused: OfferRefused) -> None:
        self.offers.rejected_offer()
        self.offers.end_peer_invite()
        self.decide("refused", reason=refused.reason, token=refused.token)
        txn.respond(self.agent.refusal(txn.request, refused))

    def _answer(self, txn: ServerTxn, carrier: Carrier, incoming: Incoming | None = None) -> None:
        try:
            body = self.media.answer(txn.request.body, incoming)
        except OfferRefused as refused:
            self._refuse_offer(txn, refused)
            return
        self.offers.sent_answer(carrier)
        txn.respond(self.agent.response(txn.request, 200, body))
        self.go_live()
        self.decide("accepted")

    def _refuse_step(self, txn: ServerTxn, error: OfferAnswerError) -> None:
        retry = [("Retry-After", str(error.retry_after))] if error.retry_after is not None else []
        txn.respond(make_response(txn.request, error.status, headers=retry))

    def ack_received(self, ack: SipRequest) -> None:
        """Take the ACK of a 2xx; it holds the answer when the 2xx made the offer."""
        self.offers.end_peer_invite()
        if self._pending_ack is None:
            return
        self._pending_ack = None
        try:
            self.offers.received_answer(Carrier.ACK)
            self.media.take_answer(ack.body)
        except (OfferRefused, OfferAnswerError) as error:
            self.decide("failed", reason=str(error))
            self.agent.spawn(self.hang_up(reason=str(error), security=True))
            return
        self.go_live()
        self.decide("accepted")

    def await_answer_in_ack(self, request: SipRequest) -> None:
        """Say that the 2xx to `request` carried the offer."""
        self._pending_ack = request

    def ack_missing(self) -> None:
        """End the call: the ACK of an own 2xx never came (RFC 3261 13.3.1.4)."""
        if self.state != "ended":
            self.agent.spawn(self.hang_up(reason="no ACK"))


def party_of(message: SipRequest | SipResponse, header: str) -> str:
    """Return the URI a message asserts for its sender (RFC 3325), else that of `header`; empty when malformed."""
    for value in (*message.headers.values("P-Asserted-Identity"), message.headers.get(header) or ""):
        try:
            return str(parse_name_addr(value).uri)
        except GrammarError:
            continue
    return ""
