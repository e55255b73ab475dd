"""The receiver against the real OpenTelemetry exporter, with and without a certificate of the lab."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from lab.labfile import NodeRow
from lab.otlp import (
    MAX_ATTRIBUTES,
    MAX_ITEMS,
    MAX_KEY,
    MAX_PENDING,
    MAX_PENDING_OF_ONE,
    OtlpReceiver,
    ReceiverCredentials,
    attributes_of,
    metrics_of,
    records_of,
)
from lab.senders import Sender, Senders
from lab.tracestore import TraceStore
from sba.identity import RevocationList
from sba.pki import LabCa

PEER = "7d0a2a4e-5a52-4f2b-9d1c-0b1de3a3c001"
OWN = "7d0a2a4e-5a52-4f2b-9d1c-0b1de3a3c002"
GUEST = "7d0a2a4e-5a52-4f2b-9d1c-0b1de3a3c003"
ALICE = Sender("alice", "UE")


def row(name: str, kind: str, instance_id: str) -> NodeRow:
    return NodeRow(name, kind, instance_id, f"{name}.ims.test", "127.0.0.1", 1, "")


class Receiving:
    def __init__(self, folder: Path) -> None:
        self.store = TraceStore(folder / "traces.sqlite")
        self.pki = folder / "pki"
        self.authority = authority = LabCa.create(self.pki)
        authority.issue("lab", ["LAB"], OWN, dns=["lab.ims.test"], ips=["127.0.0.1"])
        authority.issue("alice", ["UE"], PEER, dns=["alice.ims.test"])
        authority.issue("guest", ["PCSCF"], GUEST, dns=["guest.ims.test"])
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        revoked = RevocationList(
            self.pki / "ca.crl", x509.load_pem_x509_certificate((self.pki / "ca.crt").read_bytes())
        )
        self.told: list[str] = []
        senders = Senders([row("lab", "lab", OWN), row("alice", "ue", PEER)], revoked, self.told.append)
        self.receiver = OtlpReceiver(self.store, senders)
        own = ReceiverCredentials(*((self.pki / name).read_bytes() for name in ("lab.key", "lab.crt", "ca.crt")))
        starting = asyncio.run_coroutine_threadsafe(self.receiver.start("127.0.0.1", 0, own), self.loop)
        self.port = starting.result(10)

    def credentials(self, name: str | None) -> grpc.ChannelCredentials:
        ca = (self.pki / "ca.crt").read_bytes()
        if name is None:
            return grpc.ssl_channel_credentials(ca)
        key, certificate = ((self.pki / f"{name}.{kind}").read_bytes() for kind in ("key", "crt"))
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.receiver.stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
        self.store.close()


@pytest.fixture
def receiving(tmp_path: Path) -> Iterator[Receiving]:
    running = Receiving(tmp_path)
    yield running
    running.close()


def exporter(receiving: Receiving, name: str | None) -> OTLPSpanExporter:
    return OTLPSpanExporter(f"https://127.0.0.1:{receiving.port}", credentials=receiving.credentials(name), timeout=3)


def test_a_span_of_a_node_arrives_whole(receiving: Receiving) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "alice", "imslab.nf_type": "UE"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter(receiving, "alice")))
    tracer = provider.get_tracer("t")
    attributes = {"sip.call_id": "c1", "port": 5061, "ok": True, "ratio": 0.5, "list": ["a", "b"]}
    with tracer.start_as_current_span("SIP INVITE", kind=SpanKind.CLIENT, attributes=attributes) as span:
        span.add_event("sip.message", {"direction": "sent", "retransmission": False})
        trace_id = f"{span.get_span_context().trace_id:032x}"
    provider.shutdown()
    (kept,) = receiving.store.spans_of_call("c1")
    assert (kept.trace_id, kept.node, kept.nf_type, kept.kind) == (trace_id, "alice", "UE", "CLIENT")
    assert kept.attributes == attributes
    assert kept.events[0].text("direction") == "sent"
    assert kept.events[0].attributes["retransmission"] is False


@pytest.mark.attack("T6")
def test_a_sender_without_a_certificate_of_the_lab_is_not_let_in(receiving: Receiving, tmp_path: Path) -> None:
    stranger = tmp_path / "other"
    LabCa.create(stranger).issue("alice", ["UE"], PEER, dns=["alice.ims.test"])
    ca = (receiving.pki / "ca.crt").read_bytes()
    key, certificate = ((stranger / f"alice.{kind}").read_bytes() for kind in ("key", "crt"))
    for credentials in (receiving.credentials(None), grpc.ssl_channel_credentials(ca, key, certificate)):
        with grpc.secure_channel(f"127.0.0.1:{receiving.port}", credentials) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            with pytest.raises(grpc.RpcError) as refused:
                export(b"", timeout=3)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert receiving.store.counts()["span"] == 0


def report(name: str, **claims: str) -> dict[str, bytes]:
    """The three kinds of telemetry of a resource called ``name``, by the service that takes each."""
    spans = trace_service_pb2.ExportTraceServiceRequest()
    resource_spans = spans.resource_spans.add()
    span = resource_spans.scope_spans.add().spans.add(trace_id=bytes(16), span_id=bytes(8), name="FORGED")
    span.start_time_unix_nano, span.end_time_unix_nano = 1, 2
    logs = logs_service_pb2.ExportLogsServiceRequest()
    resource_logs = logs.resource_logs.add()
    resource_logs.scope_logs.add().log_records.add(time_unix_nano=7)
    metrics = metrics_service_pb2.ExportMetricsServiceRequest()
    resource_metrics = metrics.resource_metrics.add()
    resource_metrics.scope_metrics.add().metrics.add(name="packets").sum.data_points.add(as_int=5)
    for one in (resource_spans, resource_logs, resource_metrics):
        for key, value in {"service.name": name, **claims}.items():
            one.resource.attributes.add(key=key).value.string_value = value
    return {
        "trace.v1.TraceService": spans.SerializeToString(),
        "logs.v1.LogsService": logs.SerializeToString(),
        "metrics.v1.MetricsService": metrics.SerializeToString(),
    }


def answers(receiving: Receiving, certificate: str, name: str, **claims: str) -> set[grpc.StatusCode]:
    """How the receiver takes the telemetry of ``name`` from the holder of a certificate."""
    found = set()
    with grpc.secure_channel(f"127.0.0.1:{receiving.port}", receiving.credentials(certificate)) as channel:
        for service, content in report(name, **claims).items():
            call = channel.unary_unary(f"/opentelemetry.proto.collector.{service}/Export")
            try:
                call(content, timeout=3)
            except grpc.RpcError as refused:
                found.add(refused.code())
            else:
                found.add(grpc.StatusCode.OK)
    return found


@pytest.mark.attack("T6")
def test_a_node_cannot_send_telemetry_in_the_name_of_another(receiving: Receiving) -> None:
    assert answers(receiving, "alice", "imsagw-a") == {grpc.StatusCode.PERMISSION_DENIED}
    assert answers(receiving, "alice", "") == {grpc.StatusCode.PERMISSION_DENIED}
    assert set(receiving.store.counts().values()) == {0}
    assert receiving.told == ["telemetry refused: alice sent it under the name of another node 'imsagw-a'"]
    assert answers(receiving, "alice", "alice") == {grpc.StatusCode.OK}
    assert set(receiving.store.counts().values()) == {1}


@pytest.mark.attack("T6")
def test_a_certificate_of_the_lab_that_is_no_node_of_it_sends_nothing(receiving: Receiving) -> None:
    assert answers(receiving, "guest", "alice") == {grpc.StatusCode.UNAUTHENTICATED}
    assert set(receiving.store.counts().values()) == {0}


@pytest.mark.attack("T6")
def test_a_revoked_sender_is_refused_on_the_connection_it_has(receiving: Receiving) -> None:
    with grpc.secure_channel(f"127.0.0.1:{receiving.port}", receiving.credentials("alice")) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        content = report("alice")["trace.v1.TraceService"]
        export(content, timeout=3)
        receiving.authority.revoke("alice")
        with pytest.raises(grpc.RpcError) as refused:
            export(content, timeout=3)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert receiving.store.counts()["span"] == 1


def test_octets_that_are_no_otlp_are_refused(receiving: Receiving) -> None:
    with grpc.secure_channel(f"127.0.0.1:{receiving.port}", receiving.credentials("alice")) as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError):
            export(b"\xff\xff\xff", timeout=3)
        assert export(b"", timeout=3) == b""


def test_log_records_and_metrics_are_read() -> None:
    logs = logs_service_pb2.ExportLogsServiceRequest()
    resource_logs = logs.resource_logs.add()
    resource_logs.resource.attributes.add(key="service.name").value.string_value = "alice"
    record = resource_logs.scope_logs.add().log_records.add(time_unix_nano=7, severity_text="INFO")
    record.body.string_value = "node-ready"
    (read,) = records_of(logs, ALICE)
    assert (read.node, read.body, read.time_ns, read.severity) == ("alice", "node-ready", 7, "INFO")

    metrics = metrics_service_pb2.ExportMetricsServiceRequest()
    resource_metrics = metrics.resource_metrics.add()
    resource_metrics.resource.attributes.add(key="service.name").value.string_value = "alice"
    scope = resource_metrics.scope_metrics.add()
    scope.metrics.add(name="packets").sum.data_points.add(as_int=5)
    scope.metrics.add(name="load").gauge.data_points.add(as_double=0.5)
    scope.metrics.add(name="delay").histogram.data_points.add(count=4, sum=2.0)
    assert {point.name: point.value for point in metrics_of(metrics, ALICE)} == {
        "packets": 5.0,
        "load": 0.5,
        "delay": 0.5,
    }


@pytest.mark.attack("T6")
@pytest.mark.parametrize("claim", [{"service.instance.id": OWN}, {"imslab.nf_type": "PCSCF"}])
def test_a_node_gives_itself_out_as_no_other_instance_or_kind(receiving: Receiving, claim: dict[str, str]) -> None:
    assert answers(receiving, "alice", "alice", **claim) == {grpc.StatusCode.PERMISSION_DENIED}
    assert not any(receiving.store.counts().values())
    own = {"service.instance.id": PEER, "imslab.nf_type": "UE"}
    assert answers(receiving, "alice", "alice", **own) == {grpc.StatusCode.OK}


def export(channel: grpc.Channel, name: str, signal: str = "trace.v1.TraceService") -> grpc.Future:
    call = channel.unary_unary(f"/opentelemetry.proto.collector.{signal}/Export")
    return call.future(report(name)[signal], timeout=10)


@pytest.mark.attack("T9")
def test_a_sender_of_very_much_leaves_room_for_the_others(receiving: Receiving) -> None:
    address = f"127.0.0.1:{receiving.port}"
    with (
        grpc.secure_channel(address, receiving.credentials("alice")) as hostile,
        grpc.secure_channel(address, receiving.credentials("lab")) as honest,
    ):
        answered = threading.Semaphore(0)
        with receiving.store.reading():  # the store is busy
            sent = [export(hostile, "alice") for _ in range(MAX_PENDING + MAX_PENDING_OF_ONE)]
            for answer in sent:
                answer.add_done_callback(lambda _: answered.release())
            assert all(answered.acquire(timeout=5) for _ in range(MAX_PENDING))
            heard = export(honest, "lab")
        assert Counter(answer.code() for answer in sent) == {
            grpc.StatusCode.OK: MAX_PENDING_OF_ONE,
            grpc.StatusCode.RESOURCE_EXHAUSTED: MAX_PENDING,
        }
        assert heard.code() is grpc.StatusCode.OK


@pytest.mark.attack("T7", "T9")
@pytest.mark.parametrize("signal", ["trace.v1.TraceService", "logs.v1.LogsService", "metrics.v1.MetricsService"])
def test_a_request_of_very_many_items_is_refused(receiving: Receiving, signal: str) -> None:
    types = {
        "trace.v1.TraceService": trace_service_pb2.ExportTraceServiceRequest,
        "logs.v1.LogsService": logs_service_pb2.ExportLogsServiceRequest,
        "metrics.v1.MetricsService": metrics_service_pb2.ExportMetricsServiceRequest,
    }
    request = types[signal].FromString(report("alice")[signal])
    match request:
        case trace_service_pb2.ExportTraceServiceRequest():
            items = request.resource_spans[0].scope_spans[0].spans
        case logs_service_pb2.ExportLogsServiceRequest():
            items = request.resource_logs[0].scope_logs[0].log_records
        case _:
            items = request.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points
    items.extend([items[0]] * MAX_ITEMS)
    with grpc.secure_channel(f"127.0.0.1:{receiving.port}", receiving.credentials("alice")) as channel:
        call = channel.unary_unary(f"/opentelemetry.proto.collector.{signal}/Export")
        with pytest.raises(grpc.RpcError) as refused:
            call(request.SerializeToString(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert set(receiving.store.counts().values()) == {0}


@pytest.mark.attack("T7")
def test_attributes_are_as_many_as_a_span_may_have() -> None:
    pairs = [KeyValue(key=f"k{number}") for number in range(10 * MAX_ATTRIBUTES)]
    assert list(attributes_of([KeyValue(key="x" * (MAX_KEY + 1)), *pairs])) == [f"k{n}" for n in range(MAX_ATTRIBUTES)]
