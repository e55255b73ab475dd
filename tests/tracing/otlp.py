"""OTLP for tests: export requests as nodes send them, and a collector that takes them over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import grpc
import grpc.aio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2

CUMULATIVE = metrics_pb2.AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = metrics_pb2.AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


class Metrics:
    """An export request of one node, filled metric by metric."""

    def __init__(self, node: str, **resource: str) -> None:
        self.request = metrics_service_pb2.ExportMetricsServiceRequest()
        found = self.request.resource_metrics.add()
        for key, value in {"service.name": node, **resource}.items():
            found.resource.attributes.add(key=key).value.string_value = value
        self._metrics = found.scope_metrics.add().metrics

    def counter(
        self, name: str, value: float, unit: str = "{call}", *, temporality: int = CUMULATIVE, **labels: str
    ) -> Metrics:
        metric = self._metrics.add(name=name, unit=unit, description=f"what {name} counts")
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = temporality
        self._point(metric.sum.data_points.add(as_double=value), labels)
        return self

    def gauge(self, name: str, value: int, unit: str = "{stream}", **labels: str) -> Metrics:
        metric = self._metrics.add(name=name, unit=unit, description=f"what {name} is")
        self._point(metric.gauge.data_points.add(as_int=value), labels)
        return self

    def histogram(self, name: str, bounds: list[float], counts: list[int], total: float, **labels: str) -> Metrics:
        metric = self._metrics.add(name=name, unit="s", description=f"how long {name} takes")
        metric.histogram.aggregation_temporality = CUMULATIVE
        point = metric.histogram.data_points.add(count=sum(counts), sum=total)
        point.explicit_bounds.extend(bounds)
        point.bucket_counts.extend(counts)
        self._point(point, labels)
        return self

    @staticmethod
    def _point(point: object, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            point.attributes.add(key=key.replace("__", ".")).value.string_value = value  # type: ignore[attr-defined]


class Collector:
    """An OTLP collector on a port of the kernel's choice. ``answer`` may refuse with a status, or wait."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str]] = []
        """(service.name, span name)."""
        self.metrics: list[tuple[str, str]] = []
        self.records: list[tuple[str, str]] = []
        self.resources: dict[str, dict[str, str]] = {}
        """Resource attributes by service.name."""
        self.refuse: grpc.StatusCode | None = None
        self.rejected = 0
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.port = 0

    async def start(self, port: int = 0) -> int:
        self._server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Taking(self, self._traces), self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Taking(self, self._measures), self._server)
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Taking(self, self._logs), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()
        return self.port

    async def stop(self) -> None:
        await self._server.stop(0)

    async def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Wait until what has arrived fits; looked at whenever something arrives."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.arrived.clear()
                await self.arrived.wait()

    def _traces(self, request: trace_service_pb2.ExportTraceServiceRequest) -> object:
        for found in request.resource_spans:
            name = _service(found.resource)
            self.resources[name] = {pair.key: pair.value.string_value for pair in found.resource.attributes}
            self.spans += [(name, span.name) for scope in found.scope_spans for span in scope.spans]
        answer = trace_service_pb2.ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejected
        return answer

    def _measures(self, request: metrics_service_pb2.ExportMetricsServiceRequest) -> object:
        for found in request.resource_metrics:
            name = _service(found.resource)
            self.metrics += [(name, metric.name) for scope in found.scope_metrics for metric in scope.metrics]
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def _logs(self, request: logs_service_pb2.ExportLogsServiceRequest) -> object:
        for found in request.resource_logs:
            name = _service(found.resource)
            self.records += [(name, one.body.string_value) for scope in found.scope_logs for one in scope.log_records]
        return logs_service_pb2.ExportLogsServiceResponse()


class _Taking:
    def __init__(self, collector: Collector, take: Callable[..., object]) -> None:
        self._collector = collector
        self._take = take

    async def Export(self, request: object, context: grpc.aio.ServicerContext) -> object:
        it = self._collector
        it.asked += 1
        it.arrived.set()
        await it.gate.wait()
        if it.refuse is not None:
            await context.abort(it.refuse, "told to")
        answer = self._take(request)
        it.arrived.set()
        return answer


def _service(resource: object) -> str:
    return next((pair.value.string_value for pair in resource.attributes if pair.key == "service.name"), "")  # type: ignore[attr-defined]
