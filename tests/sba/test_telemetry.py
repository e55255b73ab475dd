"""Telemetry: what leaves a node over OTLP, and how context travels."""

import asyncio
import io
import json

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.trace import Status, StatusCode

from sba.telemetry import Telemetry, activate, format_traceparent, parse_traceparent, remote_context
from sba.testing import LabFixture, async_test, free_port
from tests.sba.gateway import HEARTBEAT, Gateway, beat, until


class Collector:
    """An OTLP receiver that demands a certificate of the lab."""

    def __init__(self):
        self.spans = []
        self.logs = []
        self.metrics = []

    async def start(self, lab, port):
        lab.add("lab", "lab", nf_types=("LAB",))
        pki = lab.folder / "pki"
        self.server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Sink(self._traces), self.server)
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Sink(self._records), self.server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Sink(self._measures), self.server)
        pair = ((pki / "lab.key").read_bytes(), (pki / "lab.crt").read_bytes())
        credentials = grpc.ssl_server_credentials([pair], (pki / "ca.crt").read_bytes(), require_client_auth=True)
        self.server.add_secure_port(f"127.0.0.1:{port}", credentials)
        await self.server.start()

    def _traces(self, request):
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            self.spans += [(names["service.name"], s) for scope in resource.scope_spans for s in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def _records(self, request):
        for resource in request.resource_logs:
            self.logs += [r for scope in resource.scope_logs for r in scope.log_records]
        return logs_service_pb2.ExportLogsServiceResponse()

    def _measures(self, request):
        for resource in request.resource_metrics:
            self.metrics += [m.name for scope in resource.scope_metrics for m in scope.metrics]
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def named(self, name, kind):
        return [(node, span) for node, span in self.spans if span.name == name and span.kind == kind]


class _Sink:
    def __init__(self, take):
        self._take = take

    async def Export(self, request, context):
        return self._take(request)


@async_test
async def test_spans_logs_and_metrics_reach_the_collector_over_mutual_tls(tmp_path):
    port = free_port()
    otlp = {"endpoint": f"https://127.0.0.1:{port}", "tls_name": "lab.ims.test", "interval_ms": 100}
    collector = Collector()
    lab = LabFixture(tmp_path, otlp=otlp)
    await collector.start(lab, port)
    async with lab:
        gateway = await lab.start("imsagw", "agw-1", cls=Gateway)
        client = await lab.client("PCSCF")
        await client.call(HEARTBEAT, beat("x"))
        name = "ims.iq.v1.Iq/Heartbeat"
        await until(lambda: collector.named(name, 2) and collector.named(name, 3) and collector.logs)
        ((server_node, served),) = collector.named(name, 2)
        ((client_node, called),) = collector.named(name, 3)
        assert (server_node, client_node) == ("agw-1", "client-pcscf")
        assert served.trace_id == called.trace_id
        assert served.parent_span_id == called.span_id
        assert served.trace_id.hex() == gateway.traces["x"]
        told = {a.key: a.value.string_value for a in served.attributes}
        assert told["rpc.method"] == name
        assert (told["rpc.system.name"], told["rpc.response.status_code"]) == ("grpc", "OK")
        assert any(record.body.string_value == "node-ready" for record in collector.logs)
    wanted = {"rpc.server.call.duration", "otel.sdk.processor.span.queue.size", "otel.sdk.processor.log.processed"}
    assert wanted <= set(collector.metrics), "metrics are flushed when a node stops"
    await collector.server.stop(0)


@pytest.mark.attack("T7")
@async_test
async def test_octets_of_a_peer_that_are_no_text_cost_no_span_and_no_log(tmp_path):
    port = free_port()
    otlp = {"endpoint": f"https://127.0.0.1:{port}", "tls_name": "lab.ims.test", "interval_ms": 100}
    collector = Collector()
    lab = LabFixture(tmp_path, otlp=otlp)
    await collector.start(lab, port)
    async with lab:
        gateway = await lab.start("imsagw", "agw-1", cls=Gateway)
        foreign = b"call-\xff\xfe".decode("utf-8", "surrogateescape")
        span = gateway.telemetry.tracer.start_span(f"sip {foreign}", attributes={"sip.call_id": foreign, "n": 10**30})
        span.add_event("sip.message", {"text": foreign})
        span.set_status(Status(StatusCode.ERROR, foreign))
        span.end()
        gateway.telemetry.log("request.refused", call_id=foreign)
        await until(lambda: any(span.name.startswith("sip ") for _, span in collector.spans))
        await until(lambda: any(record.body.string_value == "request.refused" for record in collector.logs))
    [sent] = [span for _, span in collector.spans if span.name.startswith("sip ")]
    told = {one.key: one.value.string_value for one in sent.attributes}
    assert (told["sip.call_id"], told["n"]) == ("call-\\udcff\\udcfe", str(10**30))
    await collector.server.stop(0)


@async_test
async def test_a_node_works_and_stops_without_its_collector(tmp_path):
    otlp = {"endpoint": f"https://127.0.0.1:{free_port()}", "tls_name": "lab.ims.test"}
    loop = asyncio.get_running_loop()
    async with LabFixture(tmp_path, otlp=otlp) as lab:
        await lab.start("imsagw", "agw-1", cls=Gateway)
        client = await lab.client("PCSCF")
        assert (await client.call(HEARTBEAT, beat())).epoch == "agw-1"
        stopping = loop.time()
    assert loop.time() - stopping < 15


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "00-0-0-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319z-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
    ],
)
def test_a_malformed_traceparent_starts_a_new_trace(value):
    assert parse_traceparent(value) is None


def test_traceparent_round_trip():
    text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert format_traceparent(parse_traceparent(text)) == text
    telemetry = Telemetry("node", "T")
    span = telemetry.tracer.start_span("child", remote_context(text))
    assert f"{span.get_span_context().trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent.span_id == 0xB7AD6B7169203331


@async_test
async def test_log_lines_are_json_with_the_trace_they_belong_to():
    stream = io.StringIO()
    telemetry = Telemetry("node", "T", stream=stream, clock=lambda: 1.5)
    telemetry.log("outside", count=1, data=b"abc", nested={"access_token": "eyJ", "n": [1, None]})
    span = telemetry.tracer.start_span("s")
    activate(span)
    telemetry.log("inside", level="warning", node="cannot replace the standard fields")
    telemetry.log("hidden", level="debug")
    outside, inside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert outside == {
        "ts": 1.5,
        "level": "info",
        "node": "node",
        "event": "outside",
        "count": 1,
        "data": "<3 octets>",
        "nested": {"access_token": "<masked>", "n": [1, None]},
    }
    assert inside["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert inside["node"] == "node"


@pytest.mark.parametrize(("sampling", "recording"), [(0.0, False), (1.0, True)])
def test_sampling_is_configuration(sampling, recording):
    from sba.config import Otlp

    telemetry = Telemetry("node", "T", otlp=Otlp(sampling=sampling))
    assert telemetry.tracer.start_span("s").is_recording() is recording
    parent = remote_context("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert telemetry.tracer.start_span("s", parent).is_recording(), "what came in sampled stays sampled"
