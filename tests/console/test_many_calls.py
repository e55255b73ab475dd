"""10,000 calls in the trace store: every list, search and page reads what it shows and goes by an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import callfind, callsamples, callstore
from lab.callfind import Wanted
from lab.callsamples import Sample
from lab.spans import Span
from lab.tracestore import Bounds, TraceStore
from tests.console.calls import BASE, SECOND, call, invite, many

CALLS = 10_000
_STEPS = 100


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceStore]:
    opened = TraceStore(tmp_path_factory.mktemp("many") / "traces.sqlite")
    batch: list[Span] = []
    for number, spans in enumerate(many(CALLS), 1):
        batch += spans
        if number % 500 == 0:
            opened.add_spans(batch)
            batch = []
    yield opened
    opened.close()


def steps_of(db: sqlite3.Connection, work: Callable[[], object]) -> int:
    """How many hundred instructions of SQLite's machine ``work`` takes: what it reads, on whatever machine."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    db.set_progress_handler(count, _STEPS)
    try:
        work()
    finally:
        db.set_progress_handler(None, 0)
    return taken


def test_all_calls_are_there_newest_first(store):
    with store.reading() as db:
        found = callfind.find(db, Wanted(), 50)
    assert found.total == CALLS
    assert [record.began_ns for record in found.calls] == [BASE + (CALLS - 1 - n) * SECOND for n in range(50)]
    assert store.last_call().call_id == found.calls[0].call_id


def test_pages_follow_one_another_without_gap_or_repetition(store):
    seen: list[str] = []
    before = None
    with store.reading() as db:
        while True:
            found = callfind.find(db, Wanted(parties=("sip:alice@ims.test",), before=before), 199)
            seen += [record.call_id for record in found.calls]
            before = found.place
            if before is None:
                break
    assert len(seen) == len(set(seen)) == found.total
    assert 3000 < len(seen) < 5000


WANTED = {
    "newest": (Wanted(), CALLS),
    "of a user": (Wanted(parties=("sip:carol@ims.test",)), 4000),
    "by result": (Wanted(result="refused"), CALLS // 10),
    "by mode": (Wanted(security="e2e-kms"), CALLS // 4),
    "in progress": (Wanted(states=callfind.LIVE), 0),
    "a Call-ID": (Wanted(beginning="004321-call@127.1.1.71"), 1),
    "the beginning of a Call-ID": (Wanted(beginning="0043"), 100),
    "the beginning of a name": (Wanted(beginning="sip:ali"), 4000),
    "user and mode and result": (
        Wanted(parties=("sip:alice@ims.test",), security="none", result="established"),
        850,
    ),
    "nothing of the kind": (Wanted(beginning="nobody"), 0),
}


@pytest.mark.parametrize("name", WANTED)
def test_what_is_wanted_is_found_and_little_else_is_read(store, name):
    wanted, about = WANTED[name]
    with store.reading() as db:
        found = callfind.find(db, wanted, 50)
        assert found.total == pytest.approx(about, rel=0.25, abs=0)
        # Counting what is there walks an index of at most 10,000 rows, about ten instructions a row; the rows shown are
        # read besides. Walking the table of spans, or parsing rows to filter them, would take ten times as much.
        assert steps_of(db, lambda: callfind.find(db, wanted, 50)) < 3500
        assert steps_of(db, lambda: callfind.live(db)) < 50


def test_no_list_walks_a_whole_table_or_sorts_one(store):
    plans: list[str] = []
    with store.reading() as db:
        asked: list[tuple[str, list[object]]] = []

        class Noting:
            def execute(self, query, values=()):
                asked.append((query, list(values)))
                return db.execute(query, values)

        for wanted, _ in WANTED.values():
            callfind.find(Noting(), wanted, 50)
        for query, values in asked:
            if query.startswith("SELECT count(*)"):
                continue
            plans += [f"{row[3]} | {query}" for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    assert plans
    for plan in plans:
        assert not plan.startswith("SCAN span"), plan
        assert "SCAN call " not in plan or "USING INDEX" in plan, plan
        few = " id IN (" in plan or "call.id IN (" in plan  # at most 1000 rows, found by their numbers
        assert "USE TEMP B-TREE" not in plan or few, plan


def test_one_call_is_read_by_its_own_rows(store):
    call_id = "004321-call@127.1.1.71"
    with store.reading() as db:
        assert steps_of(db, lambda: callstore.load(db, call_id)) <= 2
        assert steps_of(db, lambda: callstore.traces_of(db, call_id)) <= 2
        assert steps_of(db, lambda: callsamples.of_call(db, call_id)) <= 2
    for work in (store.spans_of_call, store.associations_of_call, store.find_call, store.calls_of_trace):
        assert steps_of(store._db, lambda work=work: work(call_id)) <= 5, work
    assert len(store.spans_of_call(call_id)) == 5
    assert store.find_call("004321-c") == [call_id]


def test_one_more_call_costs_what_the_first_did(store):
    spans = call("new@1", BASE + 2 * CALLS * SECOND)
    db = store._db
    assert steps_of(db, lambda: store.add_spans(spans)) < 60
    with store.reading() as reading:
        assert callfind.find(reading, Wanted(), 1).calls[0].call_id == "new@1"


# what is kept


def test_calls_survive_a_restart(tmp_path):
    path = tmp_path / "traces.sqlite"
    store = TraceStore(path)
    store.add_spans(call("a@1", BASE))
    store.close()
    again = TraceStore(path)
    with again.reading() as db:
        record = callstore.load(db, "a@1")
    assert (record.result, record.security, record.nodes[0]) == ("established", "e2ae-sdes", "alice")
    again.close()


def test_a_file_of_an_earlier_version_gets_its_table_of_calls(tmp_path):
    path = tmp_path / "traces.sqlite"
    store = TraceStore(path)
    for spans in many(40):
        store.add_spans(spans)
    with store.reading() as db:
        expected = [record.call_id for record in callfind.find(db, Wanted(), 50).calls]
        db.executescript("DROP TABLE call; DROP TABLE call_party; DROP TABLE call_trace; DROP TABLE sample;")
        db.execute("PRAGMA user_version = 0")
        db.commit()
    store.close()
    migrated = TraceStore(path)
    with migrated.reading() as db:
        assert [record.call_id for record in callfind.find(db, Wanted(), 50).calls] == expected
        assert callfind.find(db, Wanted(result="refused"), 50).total == 4
    migrated.close()


def test_a_reader_of_an_earlier_file_still_finds_calls(tmp_path):
    path = tmp_path / "traces.sqlite"
    store = TraceStore(path)
    store.add_spans(call("a@1", BASE))
    with store.reading() as db:
        db.executescript("DROP TABLE call; DROP TABLE call_party; DROP TABLE call_trace; DROP TABLE sample;")
        db.execute("PRAGMA user_version = 0")
        db.commit()
    store.close()
    reader = TraceStore(path, read_only=True)
    assert (reader.last_call().call_id, reader.find_call("a@")) == ("a@1", ["a@1"])
    reader.close()


def test_the_oldest_calls_go_whole_and_the_newest_stay_whole(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite", Bounds(calls=100, spans=200))
    for spans in many(400):
        store.add_spans(spans)
    with store.reading() as db:
        kept = callfind.find(db, Wanted(), 500).calls
        assert 100 <= len(kept) <= 110
        assert kept[0].began_ns == BASE + 399 * SECOND
        parties = db.execute("SELECT count(DISTINCT call) FROM call_party").fetchone()[0]
        traces = db.execute("SELECT count(*) FROM call_trace").fetchone()[0]
        assert (parties, traces) == (len(kept), len(kept))
    assert all(len(store.spans_of_call(record.call_id)) >= 4 for record in kept)
    assert store.spans_of_call("000000-call@127.1.1.0") == []
    store.close()


def test_what_a_lab_says_while_nobody_calls_does_not_push_calls_out(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite", Bounds(calls=100, spans=200))
    store.add_spans(call("a@1", BASE))
    for number in range(2000):
        store.add_spans([_housekeeping(number)])
    assert len(store.spans_of_call("a@1")) == 5
    assert store.counts()["span"] <= 220
    store.close()


def _housekeeping(number: int) -> Span:
    return Span(
        f"{number:032x}", f"{number:016x}", "", "nrf", "NRF", "NfUpdate", "SERVER", BASE + number, BASE + number
    )


def test_a_call_that_never_ends_to_speak_fills_nothing(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite", Bounds(spans_per_call=20))
    for number in range(100):
        store.add_spans(call("flood@1", BASE + number))
    with store.reading() as db:
        assert callstore.load(db, "flood@1").spans <= 25
    assert store.counts()["span"] <= 25
    store.close()


def test_a_store_past_its_size_lets_the_oldest_calls_go(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite", Bounds(octets=400_000, spans=100))
    calls = list(many(2000))
    for start in range(0, len(calls), 10):
        store.add_spans([span for spans in calls[start : start + 10] for span in spans])
    with store.reading() as db:
        kept = callstore.count(db)
        assert 20 < kept < 1500
        assert callfind.find(db, Wanted(), 1).calls[0].began_ns == BASE + 1999 * SECOND
        assert store._octets(db) < 600_000
    store.close()


def test_samples_of_a_long_call_are_thinned_and_keep_first_and_last(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite", Bounds(samples_per_call=40))
    for second in range(300):
        store.add_samples([Sample("a@1", 1000.0 * second, "g", "1", side, second) for side in ("access", "core")])
    kept = store.samples_of_call("a@1")
    assert len(kept) <= 42
    assert (kept[0].at_ms, kept[-1].at_ms) == (0.0, 299_000.0)
    assert {each.side for each in kept} == {"access", "core"}
    assert store.samples_of_call("b@1") == []
    store.close()


def test_who_listens_is_told_after_it_was_kept(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite")
    told: list[tuple[list[str], int]] = []

    def listen(call_ids, spans):
        with store.reading() as db:
            assert all(callstore.load(db, call_id) for call_id in call_ids)
        told.append((list(call_ids), len(spans)))

    store.on_news(listen)
    store.add_spans(call("a@1", BASE))
    store.change_call("a@1", lambda record: setattr(record, "lost_ns", BASE))
    store.change_call("a@1", lambda record: None)
    assert told == [(["a@1"], 5), (["a@1"], 0)]
    store.close()


def test_identities_are_data_for_the_search_too(tmp_path):
    store = TraceStore(tmp_path / "traces.sqlite")
    store.add_spans(call("a@1", BASE, caller="x' OR 1=1 --", callee="%"))
    with store.reading() as db:
        assert callfind.find(db, Wanted(parties=("sip:x' OR 1=1 --@ims.test",)), 9).total == 1
        assert callfind.find(db, Wanted(beginning="a%"), 9).total == 0
        assert callfind.find(db, Wanted(beginning="_@1"), 9).total == 0
        assert callfind.find(db, Wanted(beginning="sip:%"), 9).total == 1
        assert callfind.find(db, Wanted(result="' OR ''='"), 9).total == 0
    store.close()


def test_the_file_is_its_users_alone_with_what_lies_beside_it(tmp_path: Path):
    store = TraceStore(tmp_path / "traces.sqlite")
    store.add_spans(call("a@1", BASE))
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    store.close()


# what a hostile UE or node may try


def others(one: Span, node: str, count: int, name: str = "SIP REGISTER", first: int = 0) -> list[Span]:
    """Further spans of a node with the Call-ID and in the trace of ``one``."""
    return [
        replace(one, span_id=f"{number:016x}", name=name, node=node, events=())
        for number in range(first, first + count)
    ]


@pytest.mark.attack("T7")
def test_what_is_no_call_but_has_its_call_id_does_not_grow_without_bound(tmp_path):
    store = TraceStore(tmp_path / "t.sqlite", Bounds(spans_per_call=50, spans_per_trace=100, spans=1000))
    spans = call("evil@x", BASE)
    store.add_spans(others(spans[0], "pcscf-a", 500))
    store.add_spans(spans)
    for batch in range(1, 20):
        store.add_spans(others(spans[0], "pcscf-a", 500, first=1000 * batch))
    assert store.counts()["span"] <= 100
    assert {span.span_id for span in spans} <= {span.span_id for span in store.spans_of_call("evil@x")}
    store.close()


@pytest.mark.attack("T1", "T9")
@pytest.mark.parametrize("batch", [1, 10, 1000])
@pytest.mark.parametrize("name", ["key.decision", "SIP INFO", "SIP REGISTER", "whatever"])
def test_one_node_does_not_keep_the_others_from_telling_of_a_call(tmp_path, batch, name):
    store = TraceStore(tmp_path / "t.sqlite", Bounds(spans_per_call=100, spans_per_trace=200))
    one, *later = call("victim@x", BASE)
    store.add_spans([one])
    for first in range(0, 1000, batch):
        store.add_spans(others(one, "mallory", batch, name, first))
    store.add_spans(later)
    told = {span.span_id for span in store.spans_of_call("victim@x")}
    assert {span.span_id for span in later} <= told
    with store.reading() as db:
        record = callstore.load(db, "victim@x")
    assert (record.state, record.result) == ("ended", "established")
    store.close()


@pytest.mark.attack("T1", "T9")
def test_a_call_that_names_the_trace_of_another_takes_nothing_from_it(tmp_path):
    store = TraceStore(tmp_path / "t.sqlite", Bounds(spans_per_call=20))
    spans = call("victim@x", BASE)
    store.add_spans([*spans, *others(spans[0], "kms", 9, "kms.decision")])
    before = store.spans_of_trace(spans[0].trace_id)
    lie = replace(invite("evil@x", "mallory", BASE), trace_id=spans[0].trace_id)
    store.add_spans([lie])
    assert [span for span in store.spans_of_trace(spans[0].trace_id) if span.node != "mallory"] == before
    store.close()


@pytest.mark.attack("T7")
def test_a_page_reads_as_many_spans_as_it_is_told_to(store):
    call_id = store.last_call().call_id
    whole = store.spans_of_call(call_id)
    assert store.spans_of_call(call_id, 2) == whole[:2]
    assert store.spans_of_trace(whole[0].trace_id, 3) == whole[:3]
