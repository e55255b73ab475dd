"""Forwarding telemetry to a real OTLP server: nothing is waited for, nothing grows, what is lost is counted."""

from __future__ import annotations

import asyncio
from typing import Self

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from lab import otlp_forward
from lab.otlp_forward import OtlpForward
from sba.testing import async_test, free_port
from tests.sba.gateway import until
from tests.tracing.otlp import Collector, Metrics


def traces(name: str, node: str = "pcscf-a", padding: int = 0) -> bytes:
    request = trace_service_pb2.ExportTraceServiceRequest()
    found = request.resource_spans.add()
    found.resource.attributes.add(key="service.name").value.string_value = node
    found.scope_spans.add().spans.add(name=name)
    if padding:
        found.resource.attributes.add(key="padding").value.string_value = "x" * padding
    return request.SerializeToString()


def records(event: str) -> bytes:
    request = logs_service_pb2.ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add().body.string_value = event
    return request.SerializeToString()


class Forwarding:
    """A forwarder and its collector, which may not be there yet."""

    def __init__(self, *, standing: bool = True) -> None:
        self.collector = Collector()
        self.told: list[str] = []
        self.standing = standing

    async def __aenter__(self) -> Self:
        port = await self.collector.start() if self.standing else free_port()
        self.port = port
        self.forward = OtlpForward(f"127.0.0.1:{port}", self.told.append, first_pause_s=0.02)
        self.forward.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.collector.gate.set()
        await self.forward.stop()
        if self.standing:
            await self.collector.stop()


@async_test
async def test_traces_metrics_and_logs_arrive_as_they_were_sent():
    async with Forwarding() as it:
        it.forward.offer("traces", traces("SIP INVITE"))
        it.forward.offer("metrics", Metrics("imsagw-a").gauge("media.streams", 1).request.SerializeToString())
        it.forward.offer("logs", records("request.refused"))
        await it.collector.until(lambda: it.collector.spans and it.collector.metrics and it.collector.records)
        assert it.collector.spans == [("pcscf-a", "SIP INVITE")]
        assert it.collector.metrics == [("imsagw-a", "media.streams")]
        assert it.collector.records == [("", "request.refused")]
        await until(lambda: it.forward.figures("traces")["sent"] == 1)


@async_test
async def test_a_collector_that_comes_late_gets_what_waited_in_order():
    async with Forwarding(standing=False) as it:
        for number in range(5):
            it.forward.offer("traces", traces(f"span-{number}"))
        await until(lambda: it.told)
        await it.collector.start(it.port)
        it.standing = True
        await it.collector.until(lambda: len(it.collector.spans) == 5)
        assert [name for _, name in it.collector.spans] == [f"span-{number}" for number in range(5)]
        await until(lambda: len(it.told) == 2)
        assert "takes telemetry again" in it.told[1]
        assert it.forward.figures("traces")["lost"] == 0


@async_test
async def test_a_collector_that_hangs_costs_nothing_but_the_oldest_data(monkeypatch):
    monkeypatch.setattr(otlp_forward, "QUEUE_OCTETS", 10_000)
    async with Forwarding() as it:
        it.collector.gate.clear()
        it.forward.offer("traces", traces("first"))
        await it.collector.until(lambda: it.collector.asked == 1)
        began = asyncio.get_running_loop().time()
        for number in range(100):
            it.forward.offer("traces", traces(f"span-{number}", padding=900))
        assert asyncio.get_running_loop().time() - began < 1.0, "whoever offers never waits"
        figures = it.forward.figures("traces")
        assert figures["waiting"] <= 10_000
        assert figures["lost"] >= 85
        it.collector.gate.set()
        await it.collector.until(lambda: ("pcscf-a", "span-99") in it.collector.spans)
        kept = [name for _, name in it.collector.spans]
        assert kept[0] == "first"
        assert kept[1:] == [f"span-{number}" for number in range(100 - len(kept) + 1, 100)]


@async_test
async def test_one_signal_that_hangs_does_not_hold_up_the_others():
    async with Forwarding() as it:
        it.collector.refuse = grpc.StatusCode.UNAVAILABLE
        it.forward.offer("traces", traces("SIP INVITE"))
        await it.collector.until(lambda: it.collector.asked >= 2)
        it.collector.refuse = None
        it.forward.offer("logs", records("x"))
        await it.collector.until(lambda: it.collector.records and it.collector.spans)


@async_test
async def test_what_may_not_be_sent_again_is_dropped_and_counted():
    async with Forwarding() as it:
        it.collector.refuse = grpc.StatusCode.INVALID_ARGUMENT
        it.forward.offer("traces", traces("bad"))
        await until(lambda: it.forward.figures("traces")["lost"] == 1)
        it.collector.refuse = None
        it.forward.offer("traces", traces("good"))
        await it.collector.until(lambda: it.collector.spans)
        assert it.collector.spans == [("pcscf-a", "good")]
        assert "refuses traces: INVALID_ARGUMENT" in it.told[0]


@async_test
async def test_spans_a_collector_says_it_did_not_take_are_counted():
    async with Forwarding() as it:
        it.collector.rejected = 3
        it.forward.offer("traces", traces("x"))
        await until(lambda: it.forward.figures("traces")["rejected"] == 3)


@async_test
async def test_a_request_larger_than_the_queue_is_dropped(monkeypatch):
    monkeypatch.setattr(otlp_forward, "QUEUE_OCTETS", 100)
    async with Forwarding() as it:
        it.forward.offer("traces", traces("x", padding=200))
        assert it.forward.figures("traces") == {"sent": 0, "lost": 1, "rejected": 0, "waiting": 0}


@pytest.mark.parametrize("answer", [b"", b"\xff\xff\xff"])
def test_an_answer_that_cannot_be_read_is_none(answer):
    assert otlp_forward._rejected("traces", answer) == 0
