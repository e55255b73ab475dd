"""SIP on the trace: a span per transaction, an event per message, the same trace id on every node of a call.

A node gives one `SipTracer` to its SIP stack as observer. A request that arrives opens a SERVER span, continuing the
`traceparent` it carries; a request without one belongs to the trace whose id is the first 16 octets of
SHA-256(Call-ID), so that every node which sees the call finds the same trace even when the UE knows nothing about
tracing. Before a node sends a request it calls `SipTracer.outgoing`, which opens the CLIENT span and writes
`traceparent`.

Texts pass `keying.sdes.redact` before they touch a span, and nothing is rendered for a span that is not recorded.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

from keying.sdes import redact
from signalling.sip.flow import Flow, Hop
from signalling.sip.grammar import GrammarError
from signalling.sip.message import SipMessage, SipRequest, SipResponse

TRACEPARENT: Final = "traceparent"
TEXT_LIMIT: Final = 16384
"""Longest message text kept on an event, octets; the rest is cut."""
CALLS_REMEMBERED: Final = 20000
"""Calls whose root context is kept for links and late messages."""
SPAN_DEADLINE_S: Final = 300.0
"""A span still open after this many seconds is ended by the sweep (timer C plus margin)."""
ACK_WAIT_S: Final = 32.0
"""How long an INVITE span waits for the ACK of a non-2xx answer: 64*T1 (RFC 3261 17.1.1.2)."""

_TRACEPARENT_FORM = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)
_RECEIVED: Final = "received"
_SENT: Final = "sent"

TransactionKey = tuple[str, str, str]
"""(role of this node: client|server, branch, method) of a transaction."""


def parse_traceparent(value: str | None) -> SpanContext | None:
    """The span context a W3C `traceparent` value names, or None when there is none or it is malformed."""
    match = _TRACEPARENT_FORM.match(value.strip()) if value else None
    if match is None:
        return None
    found = SpanContext(
        trace_id=int(match[1], 16), span_id=int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16))
    )
    return found if found.is_valid else None


def format_traceparent(context: SpanContext) -> str:
    """The W3C `traceparent` value of a span context."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def call_id_context(call_id: str, sample_ratio: float = 1.0) -> SpanContext:
    """The root every node derives for a call that brought no `traceparent` (testbed decision).

    Trace id: octets 0-15 of SHA-256(Call-ID); parent span id: octets 16-23. `sample_ratio` (0..1) decides by trace
    id, so all nodes with the same ratio decide alike.
    """
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogateescape")).digest()
    trace_id = int.from_bytes(digest[:16], "big")
    sampled = (trace_id & 0xFFFFFFFFFFFFFFFF) < int(sample_ratio * 2**64)
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id, int.from_bytes(digest[16:24], "big") or 1, is_remote=True, trace_flags=flags)


def trace_id_of_call(call_id: str) -> str:
    """The trace id, 32 hex digits, that a call without `traceparent` gets."""
    return f"{call_id_context(call_id).trace_id:032x}"


def _branch_of(message: SipMessage) -> str:
    via = message.headers.get("Via") or ""
    match = _BRANCH.search(via)
    return match[1] if match else via


def _method_of(message: SipMessage) -> str:
    if isinstance(message, SipRequest):
        return message.method
    try:
        return message.cseq[1]
    except GrammarError:  # an answer to a malformed request repeats its CSeq
        return ""


def _key(message: SipMessage, role: str) -> TransactionKey:
    method = _method_of(message)
    return role, _branch_of(message), "INVITE" if method == "ACK" else method


def _cseq_of(message: SipMessage) -> str:
    return message.headers.get("CSeq") or ""


@dataclass(slots=True)
class _Open:
    span: Span
    deadline: float
    final: int = 0
    expected: int = 0
    named: bool = False
    key: TransactionKey | None = field(default=None)


class SipTracer:
    """Observer of a SIP stack that turns transactions into spans (testbed tracing convention).

    `interfaces` maps a flow's role to a reference point, e.g. `{"gm": "Gm", "mw": "Mw"}`. `sample_ratio` applies to
    calls without `traceparent`. `monotonic` gives seconds. Not safe for use from several threads.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        node: str,
        interfaces: Mapping[str, str],
        sample_ratio: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer = tracer
        self._node = node
        self._interfaces = dict(interfaces)
        self._ratio = sample_ratio
        self._now = monotonic
        self._open: dict[TransactionKey, _Open] = {}
        self._prepared: dict[int, _Open] = {}
        self._unmarked: dict[tuple[str, str], deque[_Open]] = {}
        self._calls: OrderedDict[str, SpanContext] = OrderedDict()
        self._next_sweep = 0.0

    # -- for the node -------------------------------------------------------------------------------------------------

    def context_of(self, request: SipRequest) -> Context:
        """The context of the SERVER span a received request opened, else of its call; parents of what it causes."""
        entry = self._open.get(_key(request, "server"))
        if entry is not None:
            return trace.set_span_in_context(entry.span, Context())
        return self.context_of_call(request.call_id)

    def context_of_call(self, call_id: str) -> Context:
        """The context of the first span this node opened for a call, else the one derived from the Call-ID."""
        known = self._calls.get(call_id) or call_id_context(call_id, self._ratio)
        return trace.set_span_in_context(NonRecordingSpan(known), Context())

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

        Parent: `parent`, else the current span, else the call. With `inject` the request gets `traceparent`; without
        it (a UE that knows no tracing) any `traceparent` is removed. ACK for 2xx may pass here too.
        """
        span = self._start(request, SpanKind.CLIENT, self._parent_for(request, parent))
        entry = _Open(span, self._now() + SPAN_DEADLINE_S)
        if inject:
            request.headers.set(TRACEPARENT, format_traceparent(span.get_span_context()))
            self._prepared[span.get_span_context().span_id] = entry
        else:
            request.headers.remove(TRACEPARENT)
            self._unmarked.setdefault((request.call_id, _cseq_of(request)), deque()).append(entry)
        return span

    def request_hook(self, request: SipRequest, hop: Hop, role: str) -> None:
        """For `SipStack.request_hooks`: open the CLIENT span of every request sent and write `traceparent`."""
        del hop, role
        self.outgoing(request)

    @staticmethod
    def carries_trace(request: SipRequest) -> bool:
        """Whether the sender takes part in tracing (its REGISTER or request held a well-formed `traceparent`)."""
        return parse_traceparent(request.headers.get(TRACEPARENT)) is not None

    def close(self) -> None:
        """End every span still open (node stop)."""
        for entry in (*self._open.values(), *self._prepared.values(), *(e for q in self._unmarked.values() for e in q)):
            entry.span.end()
        self._open.clear()
        self._prepared.clear()
        self._unmarked.clear()

    # -- MessageObserver ----------------------------------------------------------------------------------------------

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: object = None) -> None:
        """A message came in: open or continue its transaction's span."""
        del txn_key
        self._sweep()
        if isinstance(message, SipRequest):
            self._request(data, message, flow, "server", _RECEIVED)
        elif isinstance(message, SipResponse):
            self._response(data, message, flow, "client", _RECEIVED)

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: object = None) -> None:
        """A message went out for the first time."""
        del txn_key
        self._sweep()
        if isinstance(message, SipRequest):
            self._request(data, message, flow, "client", _SENT)
        elif isinstance(message, SipResponse):
            self._response(data, message, flow, "server", _SENT)

    def retransmission(
        self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: object = None
    ) -> None:
        """The same octets went out (`sent`) or came in (`received`) once more."""
        del txn_key, flow
        role = "client" if isinstance(message, SipRequest) == (direction == _SENT) else "server"
        entry = self._open.get(_key(message, role))
        if entry is not None:
            self._event(entry.span, data, direction, retransmission=True)

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Octets that were no acceptable SIP message: a span of their own, with the size but not the text."""
        span = self._tracer.start_span("SIP dropped", context=Context(), kind=SpanKind.SERVER)
        if span.is_recording():
            if flow is not None:
                self._flow_attributes(span, flow)
            span.set_attribute("imslab.node", self._node)
            span.add_event("sip.dropped", {"reason": reason, "size": len(data)})
        span.end()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _parent_for(self, message: SipMessage, parent: Context | None) -> Context:
        if parent is not None:
            return parent
        if trace.get_current_span().get_span_context().is_valid:
            return otel_context.get_current()
        return self.context_of_call(message.call_id)

    def _start(self, message: SipMessage, kind: SpanKind, parent: Context, links: tuple[SpanContext, ...] = ()) -> Span:
        method = _method_of(message)
        span = self._tracer.start_span(
            f"SIP {method}", context=parent, kind=kind, links=[Link(link) for link in links] or None
        )
        if span.is_recording():
            span.set_attributes(
                {
                    "sip.method": method,
                    "sip.call_id": message.call_id,
                    "sip.cseq": _cseq_of(message),
                    "imslab.node": self._node,
                }
            )
        if message.call_id not in self._calls:
            self._calls[message.call_id] = span.get_span_context()
            if len(self._calls) > CALLS_REMEMBERED:
                self._calls.popitem(last=False)
        return span

    def _request(self, data: bytes, message: SipRequest, flow: Flow, role: str, direction: str) -> None:
        key = _key(message, role)
        entry = self._open.get(key)
        if entry is not None:
            repeated = message.method != "ACK"
            self._event(entry.span, data, direction, retransmission=repeated)
            if message.method == "ACK" and entry.final >= 300:
                self._end(key)
            return
        if role == "client":
            entry = self._take_prepared(message)
        if entry is None:
            entry = self._fresh(message, role)
        entry.key = key
        if entry.span.is_recording():
            self._flow_attributes(entry.span, flow)
        self._event(entry.span, data, direction)
        if message.method == "ACK":  # the ACK of a 2xx is a transaction of its own without answer
            entry.span.end()
        else:
            self._open[key] = entry

    def _fresh(self, message: SipRequest, role: str) -> _Open:
        known = self._calls.get(message.call_id)
        if role == "client":
            cancelled = self._open.get(("client", _branch_of(message), "INVITE"))
            chosen = None if cancelled is None else trace.set_span_in_context(cancelled.span, Context())
            span = self._start(message, SpanKind.CLIENT, self._parent_for(message, chosen))
            return _Open(span, self._now() + SPAN_DEADLINE_S)
        remote = parse_traceparent(message.headers.get(TRACEPARENT)) or call_id_context(message.call_id, self._ratio)
        links = (known,) if known is not None and known.trace_id != remote.trace_id else ()
        parent = trace.set_span_in_context(NonRecordingSpan(remote), Context())
        return _Open(self._start(message, SpanKind.SERVER, parent, links), self._now() + SPAN_DEADLINE_S)

    def _take_prepared(self, message: SipRequest) -> _Open | None:
        marked = parse_traceparent(message.headers.get(TRACEPARENT))
        if marked is not None:
            return self._prepared.pop(marked.span_id, None)
        waiting = self._unmarked.get((message.call_id, _cseq_of(message)))
        if not waiting:
            return None
        entry = waiting.popleft()
        if not waiting:
            del self._unmarked[message.call_id, _cseq_of(message)]
        return entry

    def _response(self, data: bytes, message: SipResponse, flow: Flow, role: str, direction: str) -> None:
        key = _key(message, role)
        entry = self._open.get(key)
        if entry is None:
            self._late(data, message, flow, role, direction)
            return
        self._event(entry.span, data, direction)
        if message.status < 200:
            return
        entry.final = message.status
        if entry.span.is_recording():
            entry.span.set_attribute("sip.status_code", message.status)
            if message.status >= 500:
                entry.span.set_status(Status(StatusCode.ERROR, f"{message.status} {message.reason}"))
        if key[2] == "INVITE" and message.status >= 300:
            entry.deadline = self._now() + ACK_WAIT_S
        else:
            self._end(key)

    def _late(self, data: bytes, message: SipResponse, flow: Flow, role: str, direction: str) -> None:
        kind = SpanKind.CLIENT if role == "client" else SpanKind.SERVER
        span = self._start(message, kind, self.context_of_call(message.call_id))
        if span.is_recording():
            span.set_attributes({"sip.late": True, "sip.status_code": message.status})
            self._flow_attributes(span, flow)
        self._event(span, data, direction)
        span.end()

    def _end(self, key: TransactionKey) -> None:
        entry = self._open.pop(key, None)
        if entry is not None:
            entry.span.end()

    def _flow_attributes(self, span: Span, flow: Flow) -> None:
        span.set_attributes(
            {
                "imslab.interface": self._interfaces.get(flow.role, flow.role),
                "network.transport": flow.transport,
                "network.local.address": flow.local[0],
                "network.local.port": flow.local[1],
                "network.peer.address": flow.remote[0],
                "network.peer.port": flow.remote[1],
            }
        )

    @staticmethod
    def _event(span: Span, data: bytes, direction: str, *, retransmission: bool = False) -> None:
        if not span.is_recording():
            return
        text = redact(data).decode("utf-8", "replace")[:TEXT_LIMIT]
        span.add_event(
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
        now = self._now()
        if now < self._next_sweep:
            return
        self._next_sweep = now + ACK_WAIT_S
        for key in [key for key, entry in self._open.items() if entry.deadline <= now]:
            self._end(key)
        for span_id in [span_id for span_id, entry in self._prepared.items() if entry.deadline <= now]:
            self._prepared.pop(span_id).span.end()
        for name in [name for name, waiting in self._unmarked.items() if waiting[-1].deadline <= now]:
            for entry in self._unmarked.pop(name):
                entry.span.end()
