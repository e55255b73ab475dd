"""OTLP exporters of a node: spans, metrics and logs to the lab's collector over mutual TLS."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import cast

import grpc
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.types import AnyValue

from sba.config import Otlp
from sba.identity import NodeIdentity
from sba.spans import fill_attributes, split
from sba.telemetry import collector_target

SCOPE = "imslab"
_QUEUE = 16384
_BATCH = 1024
_TIMEOUT_S = 3.0
_METRICS_INTERVAL_MS = 5000


class SpanSender(SpanExporter):
    """Sends batches of spans to the collector; runs in the batch processor's thread."""

    def __init__(self, channel: grpc.Channel, resource: Resource) -> None:
        self._channel = channel
        self._export = TraceServiceStub(channel).Export  # type: ignore[no-untyped-call]
        self._empty = ExportTraceServiceRequest()
        resource_spans = self._empty.resource_spans.add()
        fill_attributes(resource_spans.resource.attributes, resource.attributes)
        resource_spans.scope_spans.add().scope.name = SCOPE

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch; a batch that cannot be sent is lost."""
        light, others = split(spans)
        request = ExportTraceServiceRequest()
        if light:
            request.CopyFrom(self._empty)
            request.resource_spans[0].scope_spans[0].spans.extend([span.to_wire() for span in light])
        if others:
            request.MergeFrom(encode_spans(others))
        try:
            self._export(request, timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept back here."""
        del timeout_millis
        return True

    def shutdown(self) -> None:
        """Close the channel."""
        self._channel.close()


def attach_exporters(
    tracer_provider: TracerProvider, resource: Resource, otlp: Otlp, identity: NodeIdentity
) -> tuple[LoggerProvider, list[MetricReader]]:
    """Send the spans of a provider to the collector; return a log provider and metric readers that do the same."""
    target, name = collector_target(otlp)
    options = cast(
        "tuple[tuple[str, str]]", (("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))
    )
    credentials = identity.channel_credentials()
    # The exporter's own thread reports an unreachable collector on every batch; once is enough for an operator.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    endpoint = f"https://{target}"
    spans = SpanSender(grpc.secure_channel(target, credentials, options), resource)
    tracer_provider.add_span_processor(
        BatchSpanProcessor(
            spans, max_queue_size=_QUEUE, max_export_batch_size=_BATCH, schedule_delay_millis=otlp.interval_ms
        )
    )
    records = OTLPLogExporter(endpoint, credentials=credentials, timeout=_TIMEOUT_S, channel_options=options)
    logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
    logs.add_log_record_processor(BatchLogRecordProcessor(records, schedule_delay_millis=otlp.interval_ms))
    metrics = OTLPMetricExporter(endpoint, credentials=credentials, timeout=_TIMEOUT_S, channel_options=options)
    return logs, [PeriodicExportingMetricReader(metrics, export_interval_millis=_METRICS_INTERVAL_MS)]


def emit_log(logger: Logger, event: str, level: str, severity: int, fields: Mapping[str, object]) -> None:
    """Hand one structured event to the OTLP log pipeline, bound to the current span."""
    attributes = cast("Mapping[str, AnyValue]", dict(fields))
    logger.emit(
        severity_number=SeverityNumber(severity), severity_text=level.upper(), body=event, attributes=attributes
    )
