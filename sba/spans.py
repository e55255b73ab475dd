"""Spans made for their number: a span per RPC, SIP transaction and decision on every node of every call.

They are ordinary spans to everybody else (processors, ``get_current_span``), but they check nothing on the way, and
what is the same in every call of a method is encoded once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast

from opentelemetry.context import Context
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as WireStatus
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.schemas import Schemas
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
    get_current_span,
    use_span,
)
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util.types import Attributes, AttributeValue

SCHEMA_URL = Schemas.V1_44_0.value
"""Version of the semantic conventions that names follow."""
MOST_EVENTS = 128
"""Events kept on a span; past that the oldest go."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_HAS_REMOTE, _IS_REMOTE = 0x100, 0x200
_INT64 = 1 << 63
_SCOPE = InstrumentationScope("imslab")
_NO_ATTRIBUTES: Mapping[str, AttributeValue] = {}


def wire_text(text: str) -> str:
    """Return text that UTF-8 can carry: octets of a peer that were none show as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class WireAttributes(Protocol):
    """The repeated ``attributes`` field of an OTLP message; a value filled in place costs a third of one copied in."""

    def add(self, *, key: str) -> KeyValue:
        """Append an attribute without a value."""


def _fill(wire: AnyValue, value: object) -> None:
    if isinstance(value, str):
        wire.string_value = wire_text(value)
    elif isinstance(value, bool):
        wire.bool_value = value
    elif isinstance(value, int) and -_INT64 <= value < _INT64:
        wire.int_value = value
    elif isinstance(value, float):
        wire.double_value = value
    elif isinstance(value, (list, tuple)):
        wire.array_value.SetInParent()
        for item in value:
            _fill(wire.array_value.values.add(), item)
    else:
        wire.string_value = wire_text(str(value))


def fill_attributes(wire: WireAttributes, attributes: Mapping[str, object]) -> None:
    """Append attributes to a field of an OTLP message."""
    for name, value in attributes.items():
        _fill(wire.add(key=name).value, value)


class SpanSource(Tracer):
    """A tracer whose spans cost little; ids, sampling and processors are those of an SDK tracer."""

    def __init__(self, tracer: SdkTracer) -> None:
        self.tracer = tracer

    @property
    def resource(self) -> Resource:
        """Resource of the node."""
        return self.tracer.resource

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """Start a span below the current one of ``context``, or of this task when there is none."""
        del record_exception, set_status_on_exception
        parent = get_current_span(context).get_span_context()
        found = self.context_below(parent if parent.is_valid else None)
        if not found.trace_flags & TraceFlags.SAMPLED:
            return NonRecordingSpan(found)
        span = LightSpan(self, name, kind, found, parent if parent.is_valid else None)
        if attributes:
            span.extra.update(attributes)
        if links:
            span.links = tuple(links)
        if start_time is not None:
            span.start_time = start_time
        return span

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[Span]:
        """Start a span and make it the current one meanwhile. Of an exception its type is kept, never its text."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with use_span(span, end_on_exit, record_exception=False, set_status_on_exception=False) as current:
            try:
                yield current
            except Exception as fault:
                if record_exception:
                    span.record_exception(fault)
                if set_status_on_exception:
                    span.set_status(Status(StatusCode.ERROR, type(fault).__name__))
                raise

    def start_root(
        self,
        name: str,
        trace_id: int,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        *,
        evidence: bool = False,
    ) -> Span:
        """Start a span without parent in the trace of this id, which every node that knows the id finds.

        It is recorded when that trace is, by the share of traces; with ``evidence`` always.
        """
        flags = _SAMPLED if evidence or self.samples(trace_id) else _UNSAMPLED
        found = SpanContext(trace_id, self.tracer.id_generator.generate_span_id(), is_remote=False, trace_flags=flags)
        if not flags & TraceFlags.SAMPLED:
            return NonRecordingSpan(found)
        span = LightSpan(self, name, kind, found, None)
        if attributes:
            span.extra.update(attributes)
        if links:
            span.links = tuple(links)
        return span

    def evidence(self, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        """Start a span that is recorded whether its trace is or not: a refusal must not be lost to sampling.

        In a trace that is not recorded it has no parent, for that one is nowhere; ``imslab.sampling`` says so.
        """
        parent = get_current_span(context).get_span_context()
        if not parent.is_valid or parent.trace_flags & TraceFlags.SAMPLED:
            return self.start_span(name, context, kind)
        return self.start_root(name, parent.trace_id, kind, {"imslab.sampling": "evidence"}, evidence=True)

    def samples(self, trace_id: int) -> bool:
        """Tell whether traces of this id are recorded; all nodes with the same share decide alike."""
        decision = self.tracer.sampler.should_sample(Context(), trace_id, "").decision
        return decision is Decision.RECORD_AND_SAMPLE

    def context_below(self, parent: SpanContext | None) -> SpanContext:
        """Return the ids of a new span: sampled as its parent is, or by the share of traces to record."""
        ids = self.tracer.id_generator
        if parent is not None:
            trace_id, sampled = parent.trace_id, bool(parent.trace_flags & TraceFlags.SAMPLED)
        else:
            trace_id = ids.generate_trace_id()
            sampled = self.samples(trace_id)
        flags = _SAMPLED if sampled else _UNSAMPLED
        return SpanContext(trace_id, ids.generate_span_id(), is_remote=False, trace_flags=flags)


class RpcSpans:
    """Makes the spans of one method on one side."""

    def __init__(self, source: SpanSource, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> None:
        self.source = source
        self.name = name
        self.kind = kind
        self.attributes = dict(attributes)
        message = WireSpan()
        fill_attributes(message.attributes, attributes)
        self.wire = tuple(message.attributes)

    def start(self, parent: SpanContext | None = None, *, current: bool = False) -> Span:
        """Start a span below ``parent``, or below the current span when ``current`` is set."""
        if current:
            parent = get_current_span().get_span_context()
        if parent is not None and not parent.is_valid:
            parent = None
        found = self.source.context_below(parent)
        if not found.trace_flags & TraceFlags.SAMPLED:
            return NonRecordingSpan(found)
        return LightSpan(self.source, self.name, self.kind, found, parent, self)


class LightSpan(Span):
    """A recording span; has every property of the SDK's ``ReadableSpan``."""

    def __init__(
        self,
        source: SpanSource,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        method: RpcSpans | None = None,
    ) -> None:
        self.source = source
        self.name = name
        self.kind = kind
        self.context = context
        self.parent = parent
        self.method = method
        self.start_time = time.time_ns()
        self.end_time: int | None = None
        self.status = Status(StatusCode.UNSET)
        self.extra: dict[str, AttributeValue] = {}
        self.events: list[Event] = []
        self.links: tuple[Link, ...] = ()
        self.instrumentation_scope = _SCOPE

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """Attributes of the method, if it is an RPC, and of this span."""
        return {**(_NO_ATTRIBUTES if self.method is None else self.method.attributes), **self.extra}

    @property
    def resource(self) -> Resource:
        """Resource of the node."""
        return self.source.resource

    def get_span_context(self) -> SpanContext:
        """Return the ids of this span."""
        return self.context

    def is_recording(self) -> bool:
        """Tell whether the span has not ended yet."""
        return self.end_time is None

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute; nothing after the end."""
        if self.end_time is None:
            self.extra[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set several attributes; nothing after the end."""
        if self.end_time is None:
            self.extra.update(attributes)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Point at another span that belongs to this one but is not its parent."""
        if self.end_time is None:
            self.links = (*self.links, Link(context, attributes))

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Note something that happened, now or at ``timestamp`` (ns since the epoch)."""
        if self.end_time is None:
            self.events.append(Event(name, attributes, timestamp or time.time_ns()))
            if len(self.events) > MOST_EVENTS:
                del self.events[0]

    def update_name(self, name: str) -> None:
        """Change the name."""
        self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set how the call ended."""
        self.status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Note an exception by its type; its text may hold what must not be exported."""
        del escaped
        self.add_event("exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span and hand it to the processors."""
        if self.end_time is None:
            self.end_time = end_time or time.time_ns()
            self.source.tracer.span_processor.on_end(cast("ReadableSpan", self))

    def to_wire(self) -> WireSpan:
        """Return the span in OTLP form."""
        parent = self.parent
        span = WireSpan(
            trace_id=self.context.trace_id.to_bytes(16, "big"),
            span_id=self.context.span_id.to_bytes(8, "big"),
            name=wire_text(self.name),
            kind=WireSpan.SpanKind.ValueType(self.kind.value + 1),
            start_time_unix_nano=self.start_time,
            end_time_unix_nano=self.end_time or 0,
            attributes=() if self.method is None else self.method.wire,
            flags=_HAS_REMOTE | (_IS_REMOTE if parent is not None and parent.is_remote else 0),
        )
        if parent is not None:
            span.parent_span_id = parent.span_id.to_bytes(8, "big")
        if self.extra:
            fill_attributes(span.attributes, self.extra)
        if self.status.status_code is not StatusCode.UNSET:
            span.status.code = WireStatus.StatusCode.ValueType(self.status.status_code.value)
            span.status.message = wire_text(self.status.description or "")
        for event in self.events:
            noted = span.events.add(name=event.name, time_unix_nano=event.timestamp)
            fill_attributes(noted.attributes, event.attributes or {})
        for link in self.links:
            linked = span.links.add(
                trace_id=link.context.trace_id.to_bytes(16, "big"), span_id=link.context.span_id.to_bytes(8, "big")
            )
            fill_attributes(linked.attributes, link.attributes or {})
        return span


def split(spans: Sequence[ReadableSpan]) -> tuple[list[LightSpan], list[ReadableSpan]]:
    """Part a batch into light spans and those of the SDK."""
    light: list[LightSpan] = []
    others: list[ReadableSpan] = []
    for span in cast("Sequence[object]", spans):
        if isinstance(span, LightSpan):
            light.append(span)
        else:
            others.append(cast("ReadableSpan", span))
    return light, others
