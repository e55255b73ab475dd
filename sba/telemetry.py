"""OpenTelemetry for a node: traces, metrics and structured logs, exported over OTLP with mutual TLS."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from typing import TYPE_CHECKING, TextIO, cast
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from sba.config import NodeEnvironment, Otlp
from sba.spans import RpcSpans, SpanSource, wire_text

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider

    from sba.identity import NodeIdentity

_LEVELS: Mapping[str, int] = {"debug": 5, "info": 9, "warning": 13, "error": 17}
_MASKED = ("token", "authorization", "password", "secret", "key_salt", "private")
_TRACEPARENT_OCTETS = 55
LogValue = object


def format_traceparent(span_context: SpanContext) -> str:
    """Return the W3C ``traceparent`` of a span."""
    return f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{int(span_context.trace_flags):02x}"


def parse_traceparent(value: str | None) -> SpanContext | None:
    """Read a W3C ``traceparent``; None when it is absent or malformed."""
    if value is None or len(value) != _TRACEPARENT_OCTETS or value[:3] != "00-" or value[35] != "-" or value[52] != "-":
        return None
    try:
        trace_id, span_id, flags = int(value[3:35], 16), int(value[36:52], 16), int(value[53:], 16)
    except ValueError:
        return None
    if not trace_id or not span_id:
        return None
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & 1))


def remote_context(value: str | None) -> Context:
    """Return a context whose parent is the ``traceparent`` given; an empty one when there is none."""
    parent = parse_traceparent(value)
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


def current_traceparent() -> str | None:
    """Return the ``traceparent`` of the current span, or None outside of any."""
    span_context = trace.get_current_span().get_span_context()
    return format_traceparent(span_context) if span_context.is_valid else None


def trace_id_of(context: Context | None = None) -> str:
    """Return the trace id of a context, of the current one unless given, 32 hex digits; empty outside of any trace."""
    span_context = trace.get_current_span(context).get_span_context()
    return f"{span_context.trace_id:032x}" if span_context.is_valid else ""


@contextmanager
def within(context: Context | None) -> Iterator[None]:
    """Make a context current for the block; None leaves the current one."""
    if context is None:
        yield
        return
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


def activate(span: Span) -> Token[Context]:
    """Make a span current in this task; the answer goes to :func:`deactivate`."""
    return otel_context.attach(trace.set_span_in_context(span))


def deactivate(token: Token[Context]) -> None:
    """End what :func:`activate` began."""
    otel_context.detach(token)


class Telemetry:
    """Tracer, meter and log of one node."""

    def __init__(
        self,
        service_name: str,
        nf_type: str,
        *,
        otlp: Otlp | None = None,
        identity: NodeIdentity | None = None,
        stream: TextIO | None = None,
        debug: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.service_name = service_name
        self._stream = stream or sys.stderr
        self._clock = clock
        self._floor = _LEVELS["debug" if debug else "info"]
        otlp = otlp or Otlp()
        resource = Resource({"service.name": service_name, "imslab.nf_type": nf_type})
        sampler = ParentBased(TraceIdRatioBased(otlp.sampling))
        self.tracer_provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        self._logs: LoggerProvider | None = None
        readers: list[MetricReader] = []
        if otlp.endpoint and identity is not None:
            from sba.export import attach_exporters

            self._logs, readers = attach_exporters(self.tracer_provider, resource, otlp, identity)
        self.meter_provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        self._spans = SpanSource(cast("SdkTracer", self.tracer_provider.get_tracer("imslab")))
        self.tracer: Tracer = self._spans
        self.meter: Meter = self.meter_provider.get_meter("imslab")
        self._logger = self._logs.get_logger("imslab") if self._logs is not None else None
        self._rpcs: dict[tuple[str, str], list[float]] = {}
        self.meter.create_observable_counter("rpc.server.calls", [self._observe(0)], "1", "RPCs answered")
        self.meter.create_observable_counter("rpc.server.time", [self._observe(1)], "s", "time spent in RPCs")

    @classmethod
    def for_node(cls, environment: NodeEnvironment, identity: NodeIdentity) -> Telemetry:
        """Return the telemetry of a node as its lab description wants it."""
        nf_type = identity.nf_types[0] if identity.nf_types else ""
        return cls(environment.instance, nf_type, otlp=environment.lab.otlp, identity=identity)

    def log(self, event: str, *, level: str = "info", **fields: LogValue) -> None:
        """Write a structured event to stderr (one JSON object a line) and to OTLP, with the trace ids.

        ``level`` is debug, info, warning or error. Octet strings are never printed and fields named like
        credentials are masked.
        """
        severity = _LEVELS[level]
        if severity < self._floor:
            return
        record: dict[str, object] = {"ts": round(self._clock(), 6), "level": level, "node": self.service_name}
        record["event"] = event
        span_context = trace.get_current_span().get_span_context()
        if span_context.is_valid:
            record["trace_id"] = f"{span_context.trace_id:032x}"
            record["span_id"] = f"{span_context.span_id:016x}"
        clean = {name: _printable(name, value) for name, value in fields.items()}
        for name, value in clean.items():
            record.setdefault(name, value)
        self._stream.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False, default=str) + "\n")
        self._stream.flush()
        if self._logger is not None:
            from sba.export import emit_log

            emit_log(self._logger, event, level, severity, clean)

    def rpc_spans(
        self, service: str, method: str, kind: SpanKind, attributes: Mapping[str, AttributeValue] | None = None
    ) -> RpcSpans:
        """Return the maker of spans for a method, client or server side (semantic conventions for RPC)."""
        common: dict[str, AttributeValue] = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        return RpcSpans(self._spans, f"{service}/{method}", kind, common | dict(attributes or {}))

    def count_rpc(self, method: str, code: str, seconds: float) -> None:
        """Count one RPC that was answered with a status after so many seconds."""
        total = self._rpcs.get((method, code))
        if total is None:
            self._rpcs[(method, code)] = [1.0, seconds]
        else:
            total[0] += 1.0
            total[1] += seconds

    def _observe(self, index: int) -> Callable[[CallbackOptions], list[Observation]]:
        def read(_options: CallbackOptions) -> list[Observation]:
            return [
                Observation(total[index], {"rpc.method": method, "rpc.status": code})
                for (method, code), total in tuple(self._rpcs.items())
            ]

        return read

    def flush(self, timeout_s: float = 2.0) -> None:
        """Export what is waiting; blocks for at most ``timeout_s`` seconds per signal."""
        milliseconds = int(timeout_s * 1000)
        self.tracer_provider.force_flush(milliseconds)
        if self._logs is not None:
            self._logs.force_flush(milliseconds)

    def shutdown(self) -> None:
        """Export what is waiting and stop the export threads; blocks for a few seconds at most."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown(timeout_millis=2000)
        if self._logs is not None:
            self._logs.shutdown()


def _printable(name: str, value: object) -> object:
    if any(word in name.lower() for word in _MASKED) and not isinstance(value, (bool, int, float)):
        return "<masked>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} octets>"
    if isinstance(value, str):
        return wire_text(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _printable(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_printable(name, item) for item in value]
    return str(value)


def collector_target(otlp: Otlp) -> tuple[str, str]:
    """Return ``host:port`` of the collector and the DNS name expected in its certificate."""
    parts = urlsplit(otlp.endpoint if "//" in otlp.endpoint else f"//{otlp.endpoint}")
    return parts.netloc, otlp.tls_name or parts.hostname or ""
