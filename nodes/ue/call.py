"""One call of the UE: its life, its dialog, its media, and what the control service tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from media.g711 import CODECS
from media.session import AudioSource, DtmfReceived, MediaStarted, PacketRefused, RekeyNeeded, SessionEvent
from nodes.ue.call_keys import CallKeys
from nodes.ue.media_security import KMS, SecurityContext, StreamKeys
from nodes.ue.renegotiation import Renegotiation
from nodes.ue.report import audio_report, media_leg, voice_of
from nodes.ue.requests import ACCESS_NETWORK, agreement_headers, uris_in
from nodes.ue.session_media import SessionMedia
from nodes.ue.stream import Stream
from protos import ue_control_pb2
from sba.telemetry import trace_id_of, within
from signalling.sip.dialog import Dialog, DialogState
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.offer_answer import OfferAnswer
from signalling.sip.stack import ServerTxn, TransactionFailure, make_response

if TYPE_CHECKING:
    from nodes.ue.agent import UserAgent

SDP_TYPE = "application/sdp"
DETAIL_LIMIT = 300
"""Characters of what failed that are told: it may name what the far end sent."""
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
        self.media = SessionMedia(agent.settings.ip, context, self._open_stream, agent.sealed)
        dialled = far_end if outgoing else ""
        self.later = Renegotiation(self)
        self.keys = None if agent.keys is None else CallKeys(self, agent.keys, dialled=dialled)
        self.figures = CallFigures(agent.clock.seconds())
        self.ended = asyncio.Event()
        self.trace_context: Context | None = None
        self._placing: Span | None = None
        """From the key press until the call stands or has failed."""
        self.setup: object = None
        """The Caller or Callee that sets the call up."""
        self.cancel: Callable[[], None] | None = None
        """How a set-up in progress is given up."""
        self._feeds: set[asyncio.Queue[ue_control_pb2.CallEvent]] = set()
        self._heard_media = False

    # what others see

    @property
    def trace_id(self) -> str:
        """Trace id in hex, empty before the first message."""
        return "" if self.trace_context is None else trace_id_of(self.trace_context)

    @property
    def party(self) -> str:
        """Who is shown as the far end: of a call with keys of the KMS whom these are shared with (6.2.3.6)."""
        peer = self.media.mikey.peer if self.media.mikey is not None else None
        return self.far_end if peer is None or self.media.security != KMS else peer.text

    def begin_trace(self, placing: Span) -> None:
        """Let everything this call does be below the span of its key press."""
        self._placing = placing
        self.trace_context = trace.set_span_in_context(placing, Context())
        own = self.agent.settings.impu
        placing.set_attributes(
            {"imslab.node": self.agent.name, "imslab.call.from": own, "imslab.call.target": self.far_end}
        )

    def _placed(self) -> None:
        """End the span of the key press: the call stands or has failed."""
        span, self._placing = self._placing, None
        if span is None:
            return
        figures = self.figures
        span.set_attributes({"imslab.call.result": figures.result, "imslab.call.security": self.media.security})
        if figures.status:
            span.set_attribute("sip.status_code", figures.status)
        if figures.result != "established":
            span.set_attribute("imslab.call.reason", figures.reason)
            span.set_attribute("error.type", figures.result)
            span.set_status(Status(StatusCode.ERROR, figures.result))
        span.end()

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
            legs=[media_leg(stream, self.agent.facts) for stream in self.media.streams if stream.remote is not None],
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
            with within(self.trace_context):
                self.agent.telemetry.log("ue.packet-refused", level=level, call_id=self.call_id, cause=event.cause)
        elif isinstance(event, RekeyNeeded):
            self.agent.spawn(self.later.reoffer("INVITE", lambda: self.media.next_offer(rekey=0), new_keys=True))

    def decide(self, outcome: str, *, reason: str = "", token: str = "") -> None:
        """Put the key decision on the trace; no key is in it.

        `token` is the word that the far end is told too, `reason` what failed: that stays here, on the span and in the
        log, for it would help an attacker.
        """
        stream = next((one for one in self.media.streams if not one.ended), None)
        keys = stream.keys if stream is not None else StreamKeys()
        line = keys.send
        tracer = self.agent.telemetry.tracer
        start = tracer.evidence if outcome in {"refused", "failed"} else tracer.start_span
        span = start("key.decision", context=self.trace_context)
        facts: dict[str, str | int] = {
            "mode": self.media.security if self.media.established or outcome == "accepted" else self.media.wanted,
            "suite": line.suite.name if line is not None else "",
            "outcome": outcome,
            "reason": token or reason,
            "detail": reason[:DETAIL_LIMIT] if token else "",
            "stream": 1 if stream is None else stream.index + 1,
        }
        if keys.from_kms and keys.send is not None and keys.receive is not None:
            facts["cs_ids"] = f"{keys.send.tag},{keys.receive.tag}"  # own stream, then the far end's (RFC 4567 7.1)
        else:
            facts["tag"] = line.tag if line is not None else 0
        mikey = self.media.mikey
        if mikey is not None and mikey.peer is not None:
            facts["peer"] = mikey.peer.text
        if mikey is not None and mikey.left_out and facts["mode"] == KMS:
            facts["suites_left_out"] = " ".join(mikey.left_out)
        span.set_attributes({f"imslab.decision.{name}": value for name, value in facts.items()})
        span.set_attributes({"sip.call_id": self.call_id, "imslab.node": self.agent.name})
        span.end()
        if token and outcome in {"refused", "failed"}:
            self.agent.meter.refused(token, self.figures.status)
        if token and outcome != "fallback":  # that one has a line of its own
            with within(self.trace_context):
                self.agent.telemetry.log(
                    "ue.security-refused",
                    level="warning",
                    call_id=self.call_id,
                    cause=token,
                    detail=reason[:DETAIL_LIMIT],
                )

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
        self._placed()
        self.tell("established")
        if self.keys is not None and self.keys.media.rekey_interval is not None:
            self.agent.spawn(self.keys.rekey_in_time())

    def finish(self, result: str, status: int, reason: str) -> None:
        """End the call: media stops at once, the last event follows when the sound was judged."""
        if self.state == "ended":
            return
        figures = self.figures
        established = figures.result == "established"
        if not established:
            figures.result, figures.status = result, status
        figures.reason = reason
        self._placed()
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
        leg, figures = media_leg(stream, self.agent.facts), stream.statistics()
        facts: dict[str, str | int | float] = {
            "side": "end",
            "protection": leg.protection,
            "keying": leg.keying,
            "suite": leg.suite,
            "scope": leg.scope,
            "stream": leg.stream_id,
            "local": leg.local,
            "remote": leg.remote,
            "packets_in": leg.packets_in,
            "packets_out": leg.packets_out,
            "auth_failures": leg.auth_failures,
            "replays": leg.replays,
            "lost": figures.lost,
            "jitter_ms": round(figures.jitter_ms, 3),
        }
        facts |= {f"drops.{cause}": count for cause, count in figures.drops.items()}
        self.agent.meter.ended(figures)
        span.set_attributes({f"media.{name}": value for name, value in facts.items() if value != ""})
        span.set_attributes({"sip.call_id": self.call_id, "imslab.node": self.agent.name})
        span.end()

    async def _conclude(self, *, judge: bool) -> None:
        first = next((stream for stream in self.media.streams if stream.endpoint is not None), None)
        try:
            if judge and first is not None:
                report, wav = await asyncio.to_thread(
                    audio_report, first, voice_of(self.party), record=self.wish.record
                )
                report.far_end = self.party
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

    # requests within the dialog, received

    def bye_received(self, txn: ServerTxn) -> None:
        """Take a BYE (RFC 3261 15.1.2)."""
        txn.respond(make_response(txn.request, 200))
        reason = txn.request.headers.get("Reason")
        self.finish("failed", 0, reason or "the far end hung up")

    def ack_missing(self) -> None:
        """End the call: the ACK of an own 2xx never came (RFC 3261 13.3.1.4)."""
        if self.state != "ended":
            self.agent.spawn(self.hang_up(reason="no ACK"))


def party_of(message: SipRequest | SipResponse, header: str) -> str:
    """Return the URI a message asserts for its sender (RFC 3325), else that of `header`; empty when malformed."""
    values = (*message.headers.values("P-Asserted-Identity"), message.headers.get(header) or "")
    return next(iter(uris_in(values)), "")
