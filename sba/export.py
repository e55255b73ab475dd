"""OTLP exporters of a node: spans, metrics and logs to the lab's collector over mutual TLS."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import cast

import grpc
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.util.types import AnyValue

from sba.batches import Batches
from sba.config import Otlp
from sba.identity import NodeIdentity
from sba.metrics import Latencies, LatencyExporter
from sba.spans import SCHEMA_URL, fill_attributes, split
from sba.telemetry import collector_target

SCOPE = "imslab"
_QUEUE = 16384
_BATCH = 1024
_LOG_QUEUE, _LOG_BATCH = 4096, 256
_TIMEOUT_S = 3.0


class SpanSender:
    """Sends batches of spans to the collector."""

    def __init__(self, channel: grpc.Channel, resource: Resource) -> None:
        self._channel = channel
        self._export = TraceServiceStub(channel).Export  # type: ignore[no-untyped-call]
        self._empty = ExportTraceServiceRequest()
        resource_spans = self._empty.resource_spans.add(schema_url=SCHEMA_URL)
        fill_attributes(resource_spans.resource.attributes, resource.attributes)
        scope_spans = resource_spans.scope_spans.add(schema_url=SCHEMA_URL)
        scope_spans.scope.name = SCOPE

    def send(self, spans: Sequence[ReadableSpan]) -> bool:
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
            return False
        return True

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class SpanQueue(SpanProcessor):
    """Takes spans as they end; a thread sends them."""

    def __init__(self, sender: SpanSender, interval_s: float) -> None:
        self._sender = sender
        self.batches: Batches[ReadableSpan] = Batches(
            sender.send, name="spans", room=_QUEUE, batch=_BATCH, interval_s=interval_s
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is kept of a span that runs."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that ended."""
        self.batches.add(span)

    def shutdown(self) -> None:
        """Send the rest and close the channel."""
        self.batches.close()
        self._sender.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits; one batch may take as long as the exporter's own deadline."""
        del timeout_millis
        return self.batches.flush()


class RecordQueue(LogRecordProcessor):
    """Takes log records; a thread sends them."""

    def __init__(self, exporter: OTLPLogExporter, resource: Resource, interval_s: float) -> None:
        self._exporter = exporter
        self._resource = resource
        self.batches: Batches[ReadWriteLogRecord] = Batches(
            self._send, name="logs", room=_LOG_QUEUE, batch=_LOG_BATCH, interval_s=interval_s
        )

    def _send(self, records: list[ReadWriteLogRecord]) -> bool:
        readable = [
            ReadableLogRecord(
                record.log_record, record.resource or self._resource, record.instrumentation_scope, record.limits
            )
            for record in records
        ]
        return self._exporter.export(readable) is LogRecordExportResult.SUCCESS

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a record."""
        self.batches.add(log_record)

    def shutdown(self) -> None:
        """Send the rest and close the channel."""
        self.batches.close()
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits."""
        del timeout_millis
        return self.batches.flush()


class Exporters:
    """What a node sends through: processors on its providers, readers for its meter provider."""

    def __init__(
        self,
        tracer_provider: TracerProvider,
        resource: Resource,
        otlp: Otlp,
        identity: NodeIdentity,
        latencies: Sequence[Latencies],
    ) -> None:
        target, name = collector_target(otlp)
        options = cast(
            "tuple[tuple[str, str]]", (("grpc.ssl_target_name_override", name), ("grpc.default_authority", name))
        )
        credentials = identity.channel_credentials()
        # The exporter's own thread reports an unreachable collector on every batch; once is enough for an operator.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        endpoint = f"https://{target}"
        interval_s = otlp.interval_ms / 1000
        spans = SpanQueue(SpanSender(grpc.secure_channel(target, credentials, options), resource), interval_s)
        tracer_provider.add_span_processor(spans)
        records = RecordQueue(
            OTLPLogExporter(endpoint, credentials=credentials, timeout=_TIMEOUT_S, channel_options=options),
            resource,
            interval_s,
        )
        self.logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self.logs.add_log_record_processor(records)
        metrics = OTLPMetricExporter(endpoint, credentials=credentials, timeout=_TIMEOUT_S, channel_options=options)
        self.readers: list[MetricReader] = [
            PeriodicExportingMetricReader(
                LatencyExporter(metrics, latencies, resource), export_interval_millis=otlp.metrics_interval_ms
            )
        ]
        self.queues: dict[str, Batches[ReadableSpan] | Batches[ReadWriteLogRecord]] = {
            "span": spans.batches,
            "log": records.batches,
        }


def emit_log(logger: Logger, event: str, level: str, severity: int, fields: Mapping[str, object]) -> None:
    """Hand one structured event to the OTLP log pipeline, bound to the current span."""
    attributes = cast("Mapping[str, AnyValue]", dict(fields))
    logger.emit(
        severity_number=SeverityNumber(severity), severity_text=level.upper(), body=event, attributes=attributes
    )
