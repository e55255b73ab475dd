"""SIP on the trace: a span per transaction, an event per message, the same trace id on every node of a call.

A node gives one `SipTracer` to its SIP stack as observer. A request that arrives opens a SERVER span. Its parent is the
span its `traceparent` names where the sender is believed or where that span is of the call's own trace; else the first
span of the call at this node; else it has none. Before a node sends a request it calls `SipTracer.outgoing`, which
opens the CLIENT span and writes `traceparent`.

Texts pass `keying.redaction` before they touch a span, and nothing is rendered for a span that is not recorded.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from keying.redaction import redact
from nodes.sipcontext import (
    KNOWN_METHODS,
    OTHER_METHOD,
    TransactionKey,
    call_trace,
    context_with,
    cseq_of,
    dialog_step,
    is_within_dialog,
    mark_of,
    method_of,
    named_method,
    trace_id_of_call,
    transaction_key,
)
from nodes.sipmeter import SipMeter
from sba.telemetry import Telemetry, format_traceparent, parse_traceparent
from signalling.sip.connection import Clock, DelayedCall
from signalling.sip.flow import Flow, Hop, TransactionFailure
from signalling.sip.message import SipMessage, SipRequest, SipResponse

TRACEPARENT: Final = "traceparent"
TEXT_LIMIT: Final = 16384
"""Longest message text kept on an event, octets; the rest is cut."""
CALLS_REMEMBERED: Final = 20000
"""Calls whose first span is kept as parent and link of what comes later."""
SPAN_DEADLINE_S: Final = 300.0
"""A span still open after this many seconds is ended by the sweep (timer C plus margin)."""
ACK_WAIT_S: Final = 32.0
"""How long an INVITE span waits for the ACK of its final answer: 64*T1 (RFC 3261 17.1.1.2, 13.3.1.4)."""
SWEEP_S: Final = 1.0
DROPS_PER_SECOND: Final = 20.0
"""Spans about dropped messages; whoever sends garbage must not push others out of the queue. All are counted."""
REFUSED: Final = frozenset({403, 408, 430, 488, 494})
"""Final answers below 500 that are errors on a trace: refused for what was asked, or lost; not 401, 404, 486, 487."""

_KINDS: Final = {"client": SpanKind.CLIENT, "server": SpanKind.SERVER}
_RECEIVED: Final = "received"
_SENT: Final = "sent"
_DIALOG_LINK: Final = {"imslab.link": "call"}
_CAUSE_LINK: Final = {"imslab.link": "cause"}
_NETWORK: Final = {"UDP": "udp", "TCP": "tcp", "TLS": "tcp"}


def _nobody(flow: Flow) -> bool:
    del flow
    return False


@dataclass(slots=True)
class _Open:
    span: Span
    deadline: float
    final: int = 0
    retransmissions: int = 0
    started: float = 0.0
    answered_ns: int | None = None
    key: TransactionKey | None = field(default=None)


class SipTracer:
    """Observer of a SIP stack that turns transactions into spans and counts them (testbed tracing convention).

    `interfaces` maps a flow's role to a reference point, e.g. `{"gm": "Gm", "mw": "Mw"}`. `believes` tells whether the
    other end of a flow may say which trace a request belongs to; nobody may unless it says so. `monotonic` gives
    seconds. Not safe for use from several threads.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        node: str,
        interfaces: Mapping[str, str],
        believes: Callable[[Flow], bool] = _nobody,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.telemetry = telemetry
        self._spans = telemetry.tracer
        self._node = node
        self._interfaces = dict(interfaces)
        self._believes = believes
        self._now = monotonic
        self._open: dict[TransactionKey, _Open] = {}
        self._prepared: dict[int, _Open] = {}
        self._unmarked: dict[tuple[str, str], deque[_Open]] = {}
        self._unacknowledged: dict[tuple[str, str, str], list[TransactionKey]] = {}
        self._calls: OrderedDict[str, SpanContext] = OrderedDict()
        self._acks: OrderedDict[str, SpanContext] = OrderedDict()
        self._drops_left = DROPS_PER_SECOND
        self._next_sweep = 0.0
        self._next: DelayedCall | None = None
        self._meter = SipMeter(telemetry, lambda: self._open, self._interfaces.values())

    # -- for the node -------------------------------------------------------------------------------------------------

    def start(self, clock: Clock) -> None:
        """End spans of transactions that never come to an end, every second, until `close`."""

        def tick() -> None:
            self._next = clock.callLater(SWEEP_S, tick)
            self._sweep()

        self._next = clock.callLater(SWEEP_S, tick)

    def begin(self, name: str, call_id: str, cause: SpanContext | None = None) -> Span:
        """Start the root span of a call or registration that begins at this node, in the trace of its Call-ID.

        `cause`: the span of another trace that led to it, e.g. the operator's command; it is linked.
        """
        links = [Link(cause, _CAUSE_LINK)] if cause is not None and cause.is_valid else None
        span = self._spans.start_root(name, call_trace(call_id), SpanKind.INTERNAL, {"sip.call_id": call_id}, links)
        self._remember(call_id, span.get_span_context())
        return span

    def restore(self, call_id: str, traceparent: str) -> None:
        """Know a call of an earlier life of this node by what `first_span` told then."""
        known = parse_traceparent(traceparent)
        if known is not None and call_id not in self._calls:
            self._remember(call_id, known)

    def first_span(self, call_id: str) -> str:
        """The `traceparent` of the first span of a call at this node, to be stored with it; empty when unknown."""
        known = self._calls.get(call_id)
        return "" if known is None else format_traceparent(known)

    def context_of(self, request: SipRequest) -> Context:
        """The context of the SERVER span a received request opened, else of its call; parents of what it causes."""
        if request.method == "ACK":
            acknowledged = self._acks.get(mark_of(request, "server"))
            if acknowledged is not None:
                return context_with(acknowledged)
        entry = self._open.get(transaction_key(request, "server"))
        if entry is not None:
            return trace.set_span_in_context(entry.span, Context())
        return self.context_of_call(request.call_id)

    def context_of_call(self, call_id: str) -> Context:
        """The context of the first span this node opened for a call; an empty one when there was none."""
        known = self._calls.get(call_id)
        return Context() if known is None else context_with(known)

    @contextmanager
    def serving(self, request: SipRequest) -> Iterator[None]:
        """Make the span of a received request current, so that RPCs and decisions under it become its children."""
        token = otel_context.attach(self.context_of(request))
        try:
            yield
        finally:
            otel_context.detach(token)

    def outgoing(self, request: SipRequest, *, parent: Context | None = None, inject: bool = True) -> Span:
        """Open the CLIENT span of a request about to be sent; call it right before `SipStack.send`.

        Parent: `parent`, else the current span if it is of the trace of the call, else the call; a current span of
        another trace, e.g. of the registration whose end ends the call, is linked as the cause. With `inject` the
        request gets `traceparent`; without it (a UE that knows no tracing) any `traceparent` is removed. ACK for 2xx
        may pass here too.
        """
        span = self._start(request, SpanKind.CLIENT, *self._parent_for(request, parent))
        entry = self._entry(span)
        if inject:
            request.headers.set(TRACEPARENT, format_traceparent(span.get_span_context()))
            self._prepared[span.get_span_context().span_id] = entry
        else:
            request.headers.remove(TRACEPARENT)
            self._unmarked.setdefault((request.call_id, cseq_of(request)), deque()).append(entry)
        return span

    def request_hook(self, request: SipRequest, hop: Hop, role: str) -> None:
        """For `SipStack.request_hooks`: open the CLIENT span of every request sent and write `traceparent`."""
        del hop, role
        self.outgoing(request)

    def failure_hook(self, request: SipRequest, failure: TransactionFailure) -> None:
        """For `SipStack.failure_hooks`: end the CLIENT span of a request that nobody answered."""
        key = transaction_key(request, "client")
        entry = self._open.get(key) or self._take_prepared(request)
        if entry is None or entry.final:
            return
        if entry.span.is_recording():
            entry.span.set_attribute("error.type", failure.cause)
            entry.span.set_status(Status(StatusCode.ERROR, failure.cause))
        self._meter.failed(named_method(request.method), failure.cause, self._now() - entry.started)
        self._open.pop(key, None)
        self._finish(entry)

    def trace_of(self, message: SipMessage) -> str:
        """The trace a message is recorded in, 32 hex digits: that of its transaction here, else of its call."""
        for role in ("client", "server"):
            entry = self._open.get(transaction_key(message, role))
            if entry is not None:
                return f"{entry.span.get_span_context().trace_id:032x}"
        known = self._calls.get(message.call_id)
        return trace_id_of_call(message.call_id) if known is None else f"{known.trace_id:032x}"

    @staticmethod
    def carries_trace(request: SipRequest) -> bool:
        """Whether the sender takes part in tracing (its REGISTER or request held a well-formed `traceparent`)."""
        return parse_traceparent(request.headers.get(TRACEPARENT)) is not None

    def close(self) -> None:
        """End every span still open (node stop)."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        for entry in (*self._open.values(), *self._prepared.values(), *(e for q in self._unmarked.values() for e in q)):
            self._finish(entry)
        self._open.clear()
        self._prepared.clear()
        self._unmarked.clear()
        self._unacknowledged.clear()

    # -- MessageObserver ----------------------------------------------------------------------------------------------

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: object = None) -> None:
        """A message came in for the first time: a request opens, a response continues or ends its span."""
        del txn_key
        if isinstance(message, SipRequest):
            self._request(data, message, flow, "server", _RECEIVED)
        elif isinstance(message, SipResponse):
            self._response(data, message, flow, "client", _RECEIVED)

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: object = None) -> None:
        """A message went out for the first time."""
        del txn_key
        if isinstance(message, SipRequest):
            self._request(data, message, flow, "client", _SENT)
        elif isinstance(message, SipResponse):
            self._response(data, message, flow, "server", _SENT)

    def retransmission(
        self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: object = None
    ) -> None:
        """The same octets went out (`sent`) or came in (`received`) once more: an event and a count, no span."""
        del txn_key
        self._meter.repeated(direction, self._interfaces.get(flow.role, flow.role))
        role = "client" if isinstance(message, SipRequest) == (direction == _SENT) else "server"
        entry = self._open.get(transaction_key(message, role))
        if entry is not None:
            self._event(entry, data, direction, retransmission=True)

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Octets that were no acceptable SIP message: counted, and a span with the size but not the text."""
        self._meter.dropped(reason)
        if self._drops_left < 1.0:
            return
        self._drops_left -= 1.0
        span = self._spans.start_span("SIP dropped", context=Context(), kind=SpanKind.SERVER)
        if span.is_recording():
            if flow is not None:
                self._flow_attributes(span, flow)
            span.set_attribute("imslab.node", self._node)
            span.add_event("sip.dropped", {"reason": reason, "size": len(data)})
        span.end()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _remember(self, call_id: str, first: SpanContext) -> None:
        self._calls[call_id] = first
        if len(self._calls) > CALLS_REMEMBERED:
            self._calls.popitem(last=False)

    def _entry(self, span: Span) -> _Open:
        now = self._now()
        return _Open(span, now + SPAN_DEADLINE_S, started=now)

    def _parent_for(self, message: SipMessage, parent: Context | None) -> tuple[Context, SpanContext | None]:
        """The parent of a span of a message this node sends, and what of another trace it was sent for."""
        if parent is not None:
            return parent, None
        current = trace.get_current_span().get_span_context()
        known = self._calls.get(message.call_id)
        if not current.is_valid:
            return self.context_of_call(message.call_id), None
        if current.trace_id == (call_trace(message.call_id) if known is None else known.trace_id):
            return otel_context.get_current(), None
        return self.context_of_call(message.call_id), current

    def _start(self, message: SipMessage, kind: SpanKind, parent: Context, cause: SpanContext | None = None) -> Span:
        method, call_id = method_of(message), message.call_id
        known, above = self._calls.get(call_id), trace.get_current_span(parent).get_span_context()
        links = [] if cause is None else [Link(cause, _CAUSE_LINK)]
        if known is not None and known.span_id != above.span_id and is_within_dialog(message):
            links.append(Link(known, _DIALOG_LINK))
        attributes = {
            "sip.method": method,
            "sip.call_id": call_id,
            "sip.cseq": cseq_of(message),
            "imslab.node": self._node,
        }
        name = f"SIP {named_method(method)}"
        if above.is_valid:
            span = self._spans.start_span(name, parent, kind, attributes, links or None)
        else:
            span = self._spans.start_root(name, call_trace(call_id), kind, attributes, links or None)
        if known is None:
            self._remember(call_id, span.get_span_context())
        return span

    def _request(self, data: bytes, message: SipRequest, flow: Flow, role: str, direction: str) -> None:
        key = transaction_key(message, role)
        entry = self._open.get(key)
        if entry is not None:
            self._event(entry, data, direction, retransmission=message.method != "ACK")
            if message.method == "ACK" and entry.final >= 300:
                self._end(key)
            return
        if role == "client":
            entry = self._take_prepared(message)
        if entry is None:
            entry = self._entry(self._start(message, _KINDS[role], *self._above(message, flow, role)))
        entry.key = key
        if entry.span.is_recording():
            self._flow_attributes(entry.span, flow)
        self._event(entry, data, direction)
        if message.method == "ACK":  # the ACK of a 2xx is a transaction of its own without answer
            self._acknowledged(message, entry, role)
        else:
            self._open[key] = entry

    def _acknowledged(self, ack: SipRequest, entry: _Open, role: str) -> None:
        if role == "server":
            self._acks[mark_of(ack, role)] = entry.span.get_span_context()
            if len(self._acks) > CALLS_REMEMBERED:
                self._acks.popitem(last=False)
        self._finish(entry)
        for key in self._unacknowledged.pop((role, *dialog_step(ack)), ()):
            self._end(key)

    def _above(self, message: SipRequest, flow: Flow, role: str) -> tuple[Context, SpanContext | None]:
        """The parent of a span that nobody prepared: what the sender says if it may, else what this node knows."""
        cancelled = self._open.get((role, mark_of(message, role), "INVITE")) if message.method == "CANCEL" else None
        if cancelled is not None:
            return trace.set_span_in_context(cancelled.span, Context()), None
        if role == "client":
            return self._parent_for(message, None)
        named = parse_traceparent(message.headers.get(TRACEPARENT))
        if named is not None and self._believes(flow):
            return context_with(named), None
        own = call_trace(message.call_id)
        if named is not None and named.trace_id == own:  # which span is above may be said, whether it is recorded not
            flags = TraceFlags(TraceFlags.SAMPLED if self._spans.samples(own) else TraceFlags.DEFAULT)
            return context_with(SpanContext(own, named.span_id, is_remote=True, trace_flags=flags)), None
        return self.context_of_call(message.call_id), None

    def _take_prepared(self, message: SipRequest) -> _Open | None:
        marked = parse_traceparent(message.headers.get(TRACEPARENT))
        if marked is not None:
            return self._prepared.pop(marked.span_id, None)
        waiting = self._unmarked.get((message.call_id, cseq_of(message)))
        if not waiting:
            return None
        entry = waiting.popleft()
        if not waiting:
            del self._unmarked[message.call_id, cseq_of(message)]
        return entry

    def _response(self, data: bytes, message: SipResponse, flow: Flow, role: str, direction: str) -> None:
        key = transaction_key(message, role)
        entry = self._open.get(key)
        if entry is None:
            self._late(data, message, flow, role, direction)
            return
        self._event(entry, data, direction)
        if message.status < 200 or entry.final:
            return
        entry.final = message.status
        self._meter.answered(role, named_method(key[2]), message.status, self._now() - entry.started)
        if entry.span.is_recording():
            self._outcome(entry.span, message)
        if key[2] != "INVITE":
            self._end(key)
            return
        entry.deadline = self._now() + ACK_WAIT_S
        entry.answered_ns = time.time_ns()
        if message.status < 300:
            self._unacknowledged.setdefault((role, *dialog_step(message)), []).append(key)

    @staticmethod
    def _outcome(span: Span, message: SipResponse) -> None:
        span.set_attribute("sip.status_code", message.status)
        if message.status >= 500 or message.status in REFUSED:
            span.set_attribute("error.type", str(message.status))
            span.set_status(Status(StatusCode.ERROR, f"{message.status} {message.reason}"))

    def _late(self, data: bytes, message: SipResponse, flow: Flow, role: str, direction: str) -> None:
        """An answer of a transaction whose span ended: a further 2xx of a forked INVITE, or one nobody waited for."""
        span = self._start(message, _KINDS[role], self.context_of_call(message.call_id))
        if span.is_recording():
            span.set_attributes({"sip.late": True, "sip.status_code": message.status})
            self._flow_attributes(span, flow)
        entry = self._entry(span)
        self._event(entry, data, direction)
        self._finish(entry)

    def _end(self, key: TransactionKey) -> None:
        entry = self._open.pop(key, None)
        if entry is not None:
            self._finish(entry)

    @staticmethod
    def _finish(entry: _Open) -> None:
        """End a span; that of an answered INVITE ends when it was answered, not when the ACK came."""
        if entry.retransmissions and entry.span.is_recording():
            entry.span.set_attribute("sip.retransmissions", entry.retransmissions)
        entry.span.end(entry.answered_ns)

    def _flow_attributes(self, span: Span, flow: Flow) -> None:
        span.set_attributes(
            {
                "imslab.interface": self._interfaces.get(flow.role, flow.role),
                "sip.transport": flow.transport,
                "network.transport": _NETWORK.get(flow.transport, flow.transport.lower()),
                "network.local.address": flow.local[0],
                "network.local.port": flow.local[1],
                "network.peer.address": flow.remote[0],
                "network.peer.port": flow.remote[1],
            }
        )

    @staticmethod
    def _event(entry: _Open, data: bytes, direction: str, *, retransmission: bool = False) -> None:
        entry.retransmissions += retransmission
        if not entry.span.is_recording():
            return
        text = redact(data).decode("utf-8", "replace")[:TEXT_LIMIT]
        entry.span.add_event(
            "sip.message",
            {
                "direction": direction,
                "start_line": text.partition("\r\n")[0],
                "text": text,
                "size": len(data),
                "retransmission": retransmission,
            },
        )

    def _sweep(self) -> None:
        """End what is overdue."""
        now = self._now()
        self._drops_left = min(DROPS_PER_SECOND, self._drops_left + DROPS_PER_SECOND)
        for key in [key for key, entry in self._open.items() if entry.deadline <= now]:
            self._end(key)
        for span_id in [span_id for span_id, entry in self._prepared.items() if entry.deadline <= now]:
            self._finish(self._prepared.pop(span_id))
        for name in [name for name, waiting in self._unmarked.items() if waiting[-1].deadline <= now]:
            for entry in self._unmarked.pop(name):
                self._finish(entry)
        gone = [step for step, keys in self._unacknowledged.items() if not any(key in self._open for key in keys)]
        for step in gone:
            del self._unacknowledged[step]


__all__ = [
    "KNOWN_METHODS",
    "OTHER_METHOD",
    "SipTracer",
    "call_trace",
    "format_traceparent",
    "parse_traceparent",
    "trace_id_of_call",
]
