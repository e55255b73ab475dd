from __future__ import annotations

import dataclasses
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.tracestore import Bounds, LogRecord, MetricPoint, TraceStore
from tests.lab.traced import CALL, TRACE, call_spans, span


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    opened = TraceStore(tmp_path / "traces.sqlite")
    yield opened
    opened.close()


def test_a_span_comes_back_as_it_was_given(store: TraceStore) -> None:
    given = call_spans()
    store.add_spans(given)
    back = {each.span_id: each for each in store.spans_of_trace(TRACE)}
    assert back == {each.span_id: each for each in given}


def test_the_spans_of_a_call_include_those_of_its_trace_without_a_call_id(store: TraceStore) -> None:
    store.add_spans(call_spans())
    names = {each.name for each in store.spans_of_call(CALL)}
    assert {"SIP INVITE", "key.decision", "media.association", "ims.iq.v1.Iq/ReserveAndConfigure"} <= names


def test_a_span_sent_twice_is_kept_once(store: TraceStore) -> None:
    store.add_spans(call_spans())
    store.add_spans(call_spans()[:0])
    spans = store.spans_of_trace(TRACE)
    store.add_spans(spans)
    assert store.counts()["span"] == len(spans)


def test_calls_are_found_by_the_beginning_of_their_call_id_and_the_last_one_without(store: TraceStore) -> None:
    store.add_spans(call_spans())
    assert store.find_call("call-") == [CALL]
    assert store.find_call("nothing") == []
    assert set(store.find_call(TRACE)) == {CALL, "register-1"}
    last = store.last_call()
    assert last is not None
    assert last.call_id == CALL


def test_wildcards_in_a_call_id_are_plain_text(store: TraceStore) -> None:
    store.add_spans(call_spans())
    assert store.find_call("%") == []
    assert store.find_call("call_1") == []


def test_the_oldest_spans_go_when_the_store_is_full(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "small.sqlite", Bounds(spans=100))
    for index in range(500):
        store.add_spans([span("n", f"s{index}", index, index + 1)])
    assert store.counts()["span"] <= 105
    assert "s499" in {each.name for each in store.spans_of_trace(TRACE)}
    store.close()


def test_long_values_are_cut(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "cut.sqlite", Bounds(attribute_octets=10))
    store.add_spans([span("n", "s", 0, 1, attributes={"sip.call_id": "c", "text": "x" * 100})])
    assert store.spans_of_call("c")[0].text("text") == "x" * 10
    store.close()


def test_of_a_metric_the_last_value_is_kept_and_series_are_bounded(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "metrics.sqlite", Bounds(metrics=2))
    for index in range(5):
        store.add_metrics([MetricPoint("n", "packets", {"side": "access"}, index, float(index))])
    store.add_metrics([MetricPoint("n", f"m{index}", {}, 0, 1.0) for index in range(5)])
    points = store.metrics()
    assert [point.value for point in points if point.name == "packets"] == [4.0]
    assert len(points) == 2
    store.close()


def test_log_records_are_bounded(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "logs.sqlite", Bounds(records=40))
    for index in range(200):
        store.add_records([LogRecord(index, "n", "INFO", "", "event", {"n": index})])
    assert store.counts()["record"] <= 42
    store.close()


def test_a_reader_sees_what_the_supervisor_wrote_and_cannot_write(store: TraceStore, tmp_path: Path) -> None:
    store.add_spans(call_spans())
    reader = TraceStore(tmp_path / "traces.sqlite", read_only=True)
    assert reader.spans_of_call(CALL)
    with pytest.raises(sqlite3.OperationalError):
        reader.add_spans([dataclasses.replace(call_spans()[0], span_id="f" * 16)])
    reader.close()


def test_the_file_is_its_owners_alone(store: TraceStore, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "traces.sqlite").stat().st_mode) == 0o600


@pytest.mark.attack("T9")
def test_series_of_one_node_leave_room_for_those_of_others(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "t", Bounds(metrics=10, metrics_per_node=6, attribute_octets=4))
    store.add_metrics(MetricPoint("alice", "x", {"n": f"{n:04}" + "x" * 100_000}, 1, 1.0) for n in range(50))
    store.add_metrics([MetricPoint("kms", "x", {}, 1, 2.0)])
    kept = store.metrics()
    assert [point.node for point in kept] == ["alice"] * 6 + ["kms"]
    assert kept[0].attributes == {"n": "0000"}
    store.close()
