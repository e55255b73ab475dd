"""Spans of a node: roots by trace id, evidence whatever the sampling, links, and no text of a fault."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan

from sba.config import Otlp
from sba.metrics import MOST_ROWS, Latencies
from sba.spans import LightSpan
from sba.telemetry import Telemetry


class Node:
    def __init__(self, sampling: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.telemetry = Telemetry("kms", "KMS", otlp=Otlp(sampling=sampling))
        self.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.telemetry.tracer

    @property
    def spans(self):
        return self.exporter.get_finished_spans()


def test_a_root_is_of_the_trace_it_was_asked_for_and_has_no_parent():
    it = Node()
    with it.tracer.start_as_current_span("another"):
        it.tracer.start_root("ue.call", 0xABC).end()
    span = it.spans[0]
    assert (span.context.trace_id, span.parent) == (0xABC, None)


def test_a_refusal_in_a_trace_that_is_not_recorded_is_recorded_alone():
    it = Node(sampling=0.0)
    root = it.tracer.start_root("ue.call", 0xABC)
    below = trace.set_span_in_context(root, Context())
    it.tracer.start_span("key.decision", below).end()
    it.tracer.evidence("key.decision", below).end()
    root.end()
    (span,) = it.spans
    assert (span.context.trace_id, span.parent) == (0xABC, None)
    assert span.attributes["imslab.sampling"] == "evidence"


def test_a_refusal_in_a_trace_that_is_recorded_is_a_span_like_any_other():
    it = Node()
    root = it.tracer.start_root("ue.call", 0xABC)
    it.tracer.evidence("key.decision", trace.set_span_in_context(root, Context())).end()
    (span,) = it.spans
    assert span.parent.span_id == root.get_span_context().span_id
    assert "imslab.sampling" not in span.attributes


def test_links_leave_a_node_with_their_attributes():
    it = Node()
    span = it.tracer.start_root("ue.call", 0xABC)
    assert isinstance(span, LightSpan)
    span.add_link(
        NonRecordingSpan(it.tracer.start_root("x", 0xDEF).get_span_context()).get_span_context(),
        {"imslab.link": "cause"},
    )
    span.end()
    (link,) = span.to_wire().links
    assert int.from_bytes(link.trace_id, "big") == 0xDEF
    assert [(one.key, one.value.string_value) for one in link.attributes] == [("imslab.link", "cause")]


@pytest.mark.attack("T8")
def test_an_exception_is_noted_by_its_type_and_not_by_its_text():
    it = Node()

    def fail() -> None:
        with it.tracer.start_as_current_span("kms.decision"):
            raise ValueError("key 00112233")

    with pytest.raises(ValueError, match="key"):
        fail()
    (event,) = it.spans[0].events
    assert (event.name, dict(event.attributes)) == ("exception", {"exception.type": "ValueError"})
    assert "00112233" not in repr(it.spans[0].to_wire())


def test_a_histogram_of_durations_has_its_buckets_and_no_more_rows_than_allowed():
    table = Latencies("sip.transaction.duration", "x", ("sip.method", "sip.outcome"), {"k": "v"})
    assert table.metric() is None
    for seconds in (0.0005, 0.3, 20.0):
        table.record(("INVITE", "200"), seconds)
    (point,) = table.metric().data.data_points
    assert (point.count, point.sum, point.min, point.max) == (3, 20.3005, 0.0005, 20.0)
    assert [point.bucket_counts[0], point.bucket_counts[-1], sum(point.bucket_counts)] == [1, 1, 3]
    assert dict(point.attributes) == {"k": "v", "sip.method": "INVITE", "sip.outcome": "200"}
    for number in range(2 * MOST_ROWS):
        table.record(("INVITE", str(number)), 0.1)
    points = table.metric().data.data_points
    assert len(points) == MOST_ROWS + 1
    assert sum(point.count for point in points) == 3 + 2 * MOST_ROWS
