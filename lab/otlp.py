"""The supervisor's OTLP receiver: traces, metrics and logs over gRPC with mutual TLS, into the trace store.

Only nodes of the lab are let in, and each speaks for itself alone: the node of every item is the one of the sender's
certificate, and data that names another is refused as a whole. A batch larger than ``MAX_MESSAGE_OCTETS`` or
``MAX_ITEMS``, or one too many of its sender at a time, is refused with RESOURCE_EXHAUSTED, which an OTLP exporter
treats as "drop and go on"; nothing here can grow without bound, and no node takes the room of the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

from lab.metricstore import MetricStore
from lab.senders import Sender, SenderRefusedError, Senders
from lab.spans import AttributeValue, Span, SpanEvent
from lab.tracestore import LogRecord, MetricPoint, TraceStore

MAX_MESSAGE_OCTETS = 16 << 20
"""Largest OTLP request read, octets."""
MAX_ITEMS = 8192
"""Most spans, records or metric points of an OTLP request; a node sends 1024 spans at a time."""
MAX_PENDING = 64
"""Export requests being written at one time; more are refused."""
MAX_PENDING_OF_ONE = 6
"""Those of one sender: a node sends one of each signal at a time, and those of its last moments."""
MAX_ATTRIBUTES = 128
"""Attributes kept of a span, event or record, the first (OpenTelemetry, "Attribute Limits"); keys longer than
``MAX_KEY`` characters are left out."""
MAX_KEY = 256

MOST_NS = (1 << 63) - 1
"""Latest time that is told apart, nanoseconds since the epoch: what the store can hold."""

_T = TypeVar("_T")
_KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_STATUSES = {1: "OK", 2: "ERROR"}


def _value(value: common_pb2.AnyValue) -> AttributeValue:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "int_value":
        return value.int_value
    if kind == "double_value":
        return value.double_value
    if kind == "bytes_value":
        return value.bytes_value.hex()
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return ""


def attributes_of(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, AttributeValue]:
    """Turn OTLP key-values into a plain dictionary."""
    kept = islice((pair for pair in pairs if len(pair.key) <= MAX_KEY), MAX_ATTRIBUTES)
    return {pair.key: _value(pair.value) for pair in kept}


def claims(resource: resource_pb2.Resource) -> tuple[str, str, str]:
    """Return who a sender says to be: ``service.name``, ``service.instance.id`` and ``imslab.nf_type``."""
    about = attributes_of(resource.attributes)
    name, instance, nf_type = (
        str(about.get(key, "")) for key in ("service.name", "service.instance.id", "imslab.nf_type")
    )
    return name, instance, nf_type


def spans_of(request: trace_service_pb2.ExportTraceServiceRequest, sender: Sender) -> Iterator[Span]:
    """Yield the spans of an export request of ``sender``."""
    for resource_spans in request.resource_spans:
        for scope in resource_spans.scope_spans:
            for span in scope.spans:
                yield Span(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    node=sender.node,
                    nf_type=sender.nf_type,
                    name=span.name,
                    kind=_KINDS.get(span.kind, ""),
                    start_ns=min(span.start_time_unix_nano, MOST_NS),
                    end_ns=min(span.end_time_unix_nano, MOST_NS),
                    status=_STATUSES.get(span.status.code, ""),
                    message=span.status.message,
                    attributes=attributes_of(span.attributes),
                    events=tuple(
                        SpanEvent(event.time_unix_nano, event.name, attributes_of(event.attributes))
                        for event in span.events
                    ),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                )


def records_of(request: logs_service_pb2.ExportLogsServiceRequest, sender: Sender) -> Iterator[LogRecord]:
    """Yield the log records of an export request of ``sender``."""
    for resource_logs in request.resource_logs:
        for scope in resource_logs.scope_logs:
            for record in scope.log_records:
                yield LogRecord(
                    record.time_unix_nano or record.observed_time_unix_nano,
                    sender.node,
                    record.severity_text,
                    record.trace_id.hex(),
                    str(_value(record.body)),
                    attributes_of(record.attributes),
                )


def _metrics(request: metrics_service_pb2.ExportMetricsServiceRequest) -> Iterator[metrics_pb2.Metric]:
    return (metric for item in request.resource_metrics for scope in item.scope_metrics for metric in scope.metrics)


def _point_count(metric: metrics_pb2.Metric) -> int:
    kind = metric.WhichOneof("data")
    return 1 if kind is None else max(1, len(getattr(metric, kind).data_points))


def _points(metric: metrics_pb2.Metric) -> Iterator[tuple[dict[str, AttributeValue], int, float]]:
    kind = metric.WhichOneof("data")
    if kind in ("gauge", "sum"):
        for point in (metric.gauge if kind == "gauge" else metric.sum).data_points:
            value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
            yield attributes_of(point.attributes), point.time_unix_nano, float(value)
    elif kind == "histogram":
        for bucket in metric.histogram.data_points:
            yield attributes_of(bucket.attributes), bucket.time_unix_nano, bucket.sum / max(1, bucket.count)


def metrics_of(request: metrics_service_pb2.ExportMetricsServiceRequest, sender: Sender) -> Iterator[MetricPoint]:
    """Yield the metric points of an export request of ``sender``; a histogram is kept as its mean."""
    for metric in _metrics(request):
        for attributes, time_ns, value in _points(metric):
            yield MetricPoint(sender.node, metric.name, attributes, time_ns, value, metric.unit)


@dataclass(frozen=True)
class ReceiverCredentials:
    """PEM octets of the receiver's key and certificate chain and of the lab CA."""

    key: bytes
    certificate: bytes
    ca: bytes


class OtlpReceiver:
    """The three OTLP collector services on one gRPC port. ``port`` is the kernel's choice when 0 was asked.

    ``metrics`` gets the last values; ``forward`` every request whose sender was checked, by signal (``traces``,
    ``metrics``, ``logs``) and in wire form.
    """

    def __init__(
        self,
        store: TraceStore,
        senders: Senders,
        metrics: MetricStore | None = None,
        forward: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._store = store
        self._senders = senders
        self._metrics = metrics or MetricStore()
        self._forward = forward
        self._server: grpc.aio.Server | None = None
        self._pending: Counter[str] = Counter()
        self.port = 0

    async def start(self, host: str, port: int, credentials: ReceiverCredentials) -> int:
        """Serve on ``host``:``port``; returns the port.

        Raises ``RuntimeError`` when the port cannot be bound.
        """
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_OCTETS)])
        server.add_generic_rpc_handlers(tuple(self._handlers()))
        self.port = server.add_secure_port(
            f"{host}:{port}",
            grpc.ssl_server_credentials(
                [(credentials.key, credentials.certificate)],
                root_certificates=credentials.ca,
                require_client_auth=True,
            ),
        )
        await server.start()
        self._server = server
        return self.port

    async def stop(self) -> None:
        """Stop serving after the requests in hand, at most one second."""
        if self._server is not None:
            await self._server.stop(1.0)
            self._server = None

    async def _sender(self, context: grpc.aio.ServicerContext, resources: Iterable[resource_pb2.Resource]) -> Sender:
        """Return who is at the other end; ends the call when he is nobody here or gives data out as another's."""
        try:
            sender = self._senders.of(context.auth_context().get("x509_pem_cert", [b""])[0])
        except SenderRefusedError as refused:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(refused))
        try:
            for resource in resources:
                self._senders.check_claim(sender, *claims(resource))
        except SenderRefusedError as refused:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(refused))
        return sender

    async def _admit(self, context: grpc.aio.ServicerContext, sender: Sender, items: int) -> None:
        """End the call where it brings too many items, or where too many wait to be written."""
        if items > MAX_ITEMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_ITEMS} items")
        if self._pending.total() >= MAX_PENDING or self._pending[sender.node] >= MAX_PENDING_OF_ONE:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the trace store is busy")

    async def _keep(self, sender: Sender, write: Callable[[Iterator[_T]], object], items: Iterator[_T]) -> None:
        self._pending[sender.node] += 1
        try:
            await asyncio.to_thread(write, items)
        finally:
            self._pending[sender.node] -= 1

    def _pass_on(self, signal: str, request: Message) -> None:
        if self._forward is not None:
            self._forward(signal, request.SerializeToString())

    def _handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        async def traces(
            request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
        ) -> trace_service_pb2.ExportTraceServiceResponse:
            sender = await self._sender(context, (item.resource for item in request.resource_spans))
            items = sum(len(scope.spans) for item in request.resource_spans for scope in item.scope_spans)
            await self._admit(context, sender, items)
            self._pass_on("traces", request)
            await self._keep(sender, self._store.add_spans, spans_of(request, sender))
            return trace_service_pb2.ExportTraceServiceResponse()

        async def records(
            request: logs_service_pb2.ExportLogsServiceRequest, context: grpc.aio.ServicerContext
        ) -> logs_service_pb2.ExportLogsServiceResponse:
            sender = await self._sender(context, (item.resource for item in request.resource_logs))
            items = sum(len(scope.log_records) for item in request.resource_logs for scope in item.scope_logs)
            await self._admit(context, sender, items)
            self._pass_on("logs", request)
            await self._keep(sender, self._store.add_records, records_of(request, sender))
            return logs_service_pb2.ExportLogsServiceResponse()

        async def metrics(
            request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.aio.ServicerContext
        ) -> metrics_service_pb2.ExportMetricsServiceResponse:
            sender = await self._sender(context, (item.resource for item in request.resource_metrics))
            await self._admit(context, sender, sum(map(_point_count, _metrics(request))))
            self._pass_on("metrics", request)
            self._metrics.take(request, sender)
            await self._keep(sender, self._store.add_metrics, metrics_of(request, sender))
            return metrics_service_pb2.ExportMetricsServiceResponse()

        for module, signal, handler, message in (
            (trace_service_pb2, "trace", traces, trace_service_pb2.ExportTraceServiceRequest),
            (logs_service_pb2, "logs", records, logs_service_pb2.ExportLogsServiceRequest),
            (metrics_service_pb2, "metrics", metrics, metrics_service_pb2.ExportMetricsServiceRequest),
        ):
            service = next(iter(module.DESCRIPTOR.services_by_name.values())).full_name
            assert signal in service
            yield grpc.method_handlers_generic_handler(
                service,
                {
                    "Export": grpc.unary_unary_rpc_method_handler(
                        handler,
                        request_deserializer=message.FromString,
                        response_serializer=lambda response: response.SerializeToString(),
                    )
                },
            )
