"""OpenTelemetry for a node: traces, metrics and structured logs, exported over OTLP with mutual TLS."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

from sba.batches import Batches
from sba.config import NodeEnvironment, Otlp
from sba.metrics import Latencies
from sba.spans import SCHEMA_URL, RpcSpans, SpanSource, wire_text

if TYPE_CHECKING:
    from sba.export import Exporters
    from sba.identity import NodeIdentity

_LEVELS: Mapping[str, int] = {"debug": 5, "info": 9, "warning": 13, "error": 17}
_MASKED = ("token", "authorization", "password", "secret", "key_salt", "private")
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_STATUS = "rpc.response.status_code"
LogValue = object


def format_traceparent(span_context: SpanContext) -> str:
    """Return the W3C ``traceparent`` of a span."""
    return f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{int(span_context.trace_flags):02x}"


def parse_traceparent(value: str | bytes | None) -> SpanContext | None:
    """Read a W3C ``traceparent``; None when it is absent or malformed."""
    match = _TRACEPARENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    flags = TraceFlags(int(match[3], 16) & TraceFlags.SAMPLED)
    found = SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=flags)
    return found if found.is_valid else None


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
        namespace: str = "imslab",
    ) -> None:
        self.service_name = service_name
        self._stream = stream or sys.stderr
        self._clock = clock
        self._floor = _LEVELS["debug" if debug else "info"]
        otlp = otlp or Otlp()
        resource = Resource(
            {
                "service.name": service_name,
                "service.namespace": namespace,
                "service.instance.id": identity.instance_id if identity is not None else service_name,
                "service.version": version("imslab"),
                "imslab.nf_type": nf_type,
            },
            SCHEMA_URL,
        )
        sampler = ParentBased(TraceIdRatioBased(otlp.sampling))
        self.tracer_provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        labels = ("rpc.method", _STATUS, "error.type")
        system = {"rpc.system.name": "grpc"}
        self._served = Latencies("rpc.server.call.duration", "Duration of RPCs answered", labels, system)
        self._called = Latencies("rpc.client.call.duration", "Duration of RPCs asked", labels, system)
        self._latencies = [self._served, self._called]
        self._exporters: Exporters | None = None
        if otlp.endpoint and identity is not None:
            from sba.export import Exporters as OtlpExporters

            self._exporters = OtlpExporters(self.tracer_provider, resource, otlp, identity, self._latencies)
        self.meter_provider = MeterProvider(
            metric_readers=self._exporters.readers if self._exporters is not None else (),
            resource=resource,
            shutdown_on_exit=False,
        )
        self._spans = SpanSource(cast("SdkTracer", self.tracer_provider.get_tracer("imslab")))
        self.tracer: SpanSource = self._spans
        self.meter: Meter = self.meter_provider.get_meter("imslab", schema_url=SCHEMA_URL)
        self._logger = self._exporters.logs.get_logger("imslab") if self._exporters is not None else None
        self._watch_queues()

    @classmethod
    def for_node(cls, environment: NodeEnvironment, identity: NodeIdentity) -> Telemetry:
        """Return the telemetry of a node as its lab description wants it."""
        nf_type = identity.nf_types[0] if identity.nf_types else ""
        lab = environment.lab
        return cls(environment.instance, nf_type, otlp=lab.otlp, identity=identity, namespace=lab.name)

    def _watch_queues(self) -> None:
        """Tell how full the queues towards the collector are and what they lost (semantic conventions for SDKs)."""
        queues = self._exporters.queues if self._exporters is not None else {}
        for signal, queue in queues.items():
            unit = "{span}" if signal == "span" else "{log_record}"

            def depth(_options: CallbackOptions, queue: Batches[Any] = queue) -> list[Observation]:
                return [Observation(queue.depth)]

            def done(_options: CallbackOptions, queue: Batches[Any] = queue) -> list[Observation]:
                lost = [Observation(count, {"error.type": cause}) for cause, count in queue.lost.items()]
                return [Observation(queue.sent), *lost]

            name = f"otel.sdk.processor.{signal}"
            self.meter.create_observable_up_down_counter(
                f"{name}.queue.size", [depth], unit, f"{signal} items that wait to be sent"
            )
            self.meter.create_observable_counter(
                f"{name}.processed", [done], unit, f"{signal} items sent, and those lost with error.type"
            )

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
        name = f"{service}/{method}"
        common: dict[str, AttributeValue] = {"rpc.system.name": "grpc", "rpc.method": name}
        return RpcSpans(self._spans, name, kind, common | dict(attributes or {}))

    def latencies(self, name: str, description: str, labels: Sequence[str]) -> Latencies:
        """Return a new histogram of durations, s, by labels; it costs little enough for every message of a node."""
        table = Latencies(name, description, labels, {})
        self._latencies.append(table)
        return table

    def count_rpc(self, method: str, code: str, seconds: float, *, server: bool = True) -> None:
        """Count one RPC that was answered, or that answered, with a status after so many seconds."""
        table = self._served if server else self._called
        table.record((method, code, "" if code == "OK" else code), seconds)

    def flush(self, timeout_s: float = 2.0) -> None:
        """Export what is waiting; blocks for at most ``timeout_s`` seconds per signal."""
        milliseconds = int(timeout_s * 1000)
        self.tracer_provider.force_flush(milliseconds)
        if self._exporters is not None:
            self._exporters.logs.force_flush(milliseconds)
            self.meter_provider.force_flush(milliseconds)

    def shutdown(self) -> None:
        """Export what is waiting and stop the export threads; blocks for a few seconds at most."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown(timeout_millis=2000)
        if self._exporters is not None:
            self._exporters.logs.shutdown()


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
