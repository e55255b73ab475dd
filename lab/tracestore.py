"""Where the supervisor keeps what nodes report: spans, log records and the last value of each metric.

One SQLite file, bounded: past a limit the oldest rows go. Calls are kept whole, the newest ``Bounds.calls`` of them;
spans that belong to no call only while they are among the newest ``Bounds.spans``. Only the supervisor writes; the
command line opens the file read-only, so a call flow can be drawn after the lab is down.
"""

from __future__ import annotations

import copy
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lab import callfind, callsamples, callstore
from lab.callfold import CallRecord, call_of
from lab.spans import AttributeValue, Span, SpanEvent
from lab.spantext import pack, unpack

_SCHEMA = """
CREATE TABLE IF NOT EXISTS span (
  id INTEGER PRIMARY KEY, trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_id TEXT NOT NULL, node TEXT NOT NULL,
  nf_type TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
  status TEXT NOT NULL, message TEXT NOT NULL, call_id TEXT NOT NULL, attributes TEXT NOT NULL, events TEXT NOT NULL,
  links TEXT NOT NULL, UNIQUE (trace_id, span_id, node));
DROP INDEX IF EXISTS span_by_trace;
CREATE INDEX IF NOT EXISTS span_by_call ON span (call_id) WHERE call_id <> '';
CREATE TABLE IF NOT EXISTS record (
  id INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, node TEXT NOT NULL, severity TEXT NOT NULL, trace_id TEXT NOT NULL,
  body TEXT NOT NULL, attributes TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS metric (
  node TEXT NOT NULL, name TEXT NOT NULL, attributes TEXT NOT NULL, time_ns INTEGER NOT NULL, value REAL NOT NULL,
  unit TEXT NOT NULL, PRIMARY KEY (node, name, attributes));
"""
_OF_CALL = "call_id <> '' AND call_id = ?"
"""Chooses the spans of a call; the first half is what makes the partial index fit."""
_VERSION = 1
"""``user_version`` of a file with a table of calls."""
_SPAN_COLUMNS = (
    "trace_id, span_id, parent_id, node, nf_type, name, kind, start_ns, end_ns, status, message, attributes, events,"
    " links"
)


@dataclass(frozen=True)
class Bounds:
    """How much the store keeps, in rows; ``attribute_octets`` cuts any longer text value.

    ``spans`` is how far back spans of no call are kept, ``spans_per_trace`` how many of a trace that a call is in,
    whatever they are. Past ``octets`` of the file the oldest calls go as well.
    """

    calls: int = 20_000
    spans_per_call: int = 5_000
    spans_per_trace: int = 10_000
    octets: int = 3 << 30
    spans: int = 200_000
    samples_per_call: int = 600
    records: int = 50_000
    metrics: int = 20_000
    metrics_per_node: int = 4_000
    attribute_octets: int = 70_000


Listener = Callable[[Sequence[str], Sequence[Span]], None]
"""Told the Call-IDs of calls that changed, and the spans that came."""


@dataclass(frozen=True)
class LogRecord:
    """A structured log event of a node; ``time_ns`` since the epoch."""

    time_ns: int
    node: str
    severity: str
    trace_id: str
    body: str
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True)
class MetricPoint:
    """The last value of one metric series."""

    node: str
    name: str
    attributes: Mapping[str, AttributeValue]
    time_ns: int
    value: float
    unit: str = ""


@dataclass(frozen=True)
class CallSummary:
    """A call the store knows: its SIP Call-ID, trace and when its first INVITE span began."""

    call_id: str
    trace_id: str
    start_ns: int


class TraceStore:
    """Bounded SQLite store. Methods may be called from any thread; each write is one transaction.

    Raises ``sqlite3.Error`` when the file cannot be opened or written.
    """

    def __init__(self, path: Path, bounds: Bounds | None = None, *, read_only: bool = False) -> None:
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()
        mode = "ro" if read_only else "rwc"
        if not read_only:
            path.touch(mode=0o600)
        self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, check_same_thread=False)
        if not read_only:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA + callstore.SCHEMA + callsamples.SCHEMA)
            self._migrate()
        self._indexed = int(self._db.execute("PRAGMA user_version").fetchone()[0]) >= _VERSION
        self._written = {"span": 0, "record": 0}
        self._swept = 0
        self._listeners: list[Listener] = []

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db:
            yield self._db

    def add_spans(self, spans: Iterable[Span]) -> int:
        """Keep ``spans``; the same span sent twice is kept once. Returns how many were given."""
        given = list(spans)
        with self._transaction() as db:
            changed, kept = callstore.fold(db, given, self._bounds.spans_per_call)
            rows = [self._row(span) for span in self._with_room(db, kept)]
            db.executemany(
                "INSERT OR REPLACE INTO span (trace_id, span_id, parent_id, node, nf_type, name, kind, start_ns,"
                " end_ns, status, message, call_id, attributes, events, links) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                rows,
            )
            self._sweep(db, len(rows))
        self._tell(changed, given)
        return len(given)

    def _with_room(self, db: sqlite3.Connection, spans: Iterable[Span]) -> list[Span]:
        """Leave out spans that are of no call where they would fill the trace of one: others of no call are swept.

        Whoever calls chooses the Call-ID, hence the trace, and may send what is no call, a REGISTER say, with the same.
        """
        found: list[Span] = []
        of_trace: dict[str, list[Span]] = {}
        for span in spans:
            if call_of(span):
                found.append(span)
            else:
                of_trace.setdefault(span.trace_id, []).append(span)
        for trace_id, own in of_trace.items():
            if callstore.is_of_call(db, trace_id):
                query = "SELECT node, count(*) FROM span WHERE trace_id = ? GROUP BY node"
                told = Counter(dict(db.execute(query, (trace_id,)).fetchall()))
                found += callstore.with_room(own, told, self._bounds.spans_per_trace)
            else:
                found += own
        return found

    def _row(self, span: Span) -> tuple[object, ...]:
        return (
            *(span.trace_id, span.span_id, span.parent_id, span.node, span.nf_type, span.name, span.kind),
            *(span.start_ns, span.end_ns, span.status, span.message, span.text("sip.call_id")),
            self._json(span.attributes),
            pack([[event.time_ns, event.name, self._cut(event.attributes)] for event in span.events]),
            json.dumps(span.links),
        )

    def on_news(self, listener: Listener) -> None:
        """Call ``listener`` after spans were kept, from whatever thread kept them."""
        self._listeners.append(listener)

    def _tell(self, call_ids: Sequence[str], spans: Sequence[Span]) -> None:
        for listener in self._listeners:
            listener(call_ids, spans)

    def change_call(self, call_id: str, change: Callable[[CallRecord], None]) -> None:
        """Let ``change`` write what somebody else than a span knows of a call, new or known."""
        with self._transaction() as db:
            call = callstore.load(db, call_id) or CallRecord(call_id)
            before = copy.deepcopy(call)
            change(call)
            if call != before:
                callstore.save(db, call)
        if call != before:
            self._tell([call_id], ())

    def add_samples(self, samples: Iterable[callsamples.Sample]) -> None:
        """Keep what gateways said of calls in progress."""
        with self._transaction() as db:
            callsamples.add(db, samples, self._bounds.samples_per_call)

    def samples_of_call(self, call_id: str) -> list[callsamples.Sample]:
        """Return the samples of a call, oldest first."""
        with self._lock:
            return callsamples.of_call(self._db, call_id)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to a reader of ``lab.callstore`` and ``lab.callfind``; nobody else uses it meanwhile."""
        with self._lock:
            yield self._db

    def add_records(self, records: Iterable[LogRecord]) -> None:
        """Keep log ``records``."""
        rows = [
            (item.time_ns, item.node, item.severity, item.trace_id, item.body, self._json(item.attributes))
            for item in records
        ]
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO record (time_ns, node, severity, trace_id, body, attributes) VALUES (?,?,?,?,?,?)", rows
            )
            self._trim(db, "record", self._bounds.records, len(rows))

    def add_metrics(self, points: Iterable[MetricPoint]) -> None:
        """Keep the last value of each series in ``points``; new series past the bounds are dropped."""
        bound = self._bounds
        with self._transaction() as db:
            count = Counter(dict(db.execute("SELECT node, count(*) FROM metric GROUP BY node").fetchall()))
            for point in points:
                key = (point.node, point.name, json.dumps(self._cut(point.attributes), sort_keys=True))
                known = db.execute("SELECT 1 FROM metric WHERE node=? AND name=? AND attributes=?", key).fetchone()
                if known is None:
                    if count.total() >= bound.metrics or count[point.node] >= bound.metrics_per_node:
                        continue
                    count[point.node] += 1
                db.execute(
                    "INSERT OR REPLACE INTO metric (node, name, attributes, time_ns, value, unit) VALUES (?,?,?,?,?,?)",
                    (*key, point.time_ns, point.value, point.unit),
                )

    def _migrate(self) -> None:
        """Make the table of calls of a file that has none from the spans in it."""
        if int(self._db.execute("PRAGMA user_version").fetchone()[0]) >= _VERSION:
            return
        query = f"SELECT {_SPAN_COLUMNS} FROM span WHERE call_id <> '' ORDER BY start_ns"  # noqa: S608 - literals
        rows = self._db.execute(query)
        with self._db:
            while batch := rows.fetchmany(500):
                callstore.fold(self._db, map(_span, batch), self._bounds.spans_per_call)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def _sweep(self, db: sqlite3.Connection, added: int) -> None:
        """Delete the oldest calls past their bound and old spans of no call, now and then and some at a time."""
        self._written["span"] += added
        bound = self._bounds
        if self._written["span"] < max(1, bound.spans // 20):
            return
        self._written["span"] = 0
        callstore.forget(db, callstore.oldest(db, bound.calls, bound.calls // 50))
        if self._octets(db) > bound.octets:
            callstore.forget(db, callstore.oldest(db, callstore.count(db) * 19 // 20, 0))
        (newest,) = db.execute("SELECT coalesce(max(id), 0) FROM span").fetchone()
        db.execute(
            "DELETE FROM span WHERE id > ? AND id <= ? AND NOT EXISTS"
            " (SELECT 1 FROM call_trace WHERE call_trace.trace_id = span.trace_id)",
            (self._swept, newest - bound.spans),
        )
        self._swept = max(0, newest - bound.spans)

    @staticmethod
    def _octets(db: sqlite3.Connection) -> int:
        pages, free, size = (
            int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _trim(self, db: sqlite3.Connection, table: str, limit: int, added: int) -> None:
        self._written[table] += added
        if self._written[table] < max(1, limit // 20):
            return
        self._written[table] = 0
        newest = f"SELECT max(id) FROM {table}"  # noqa: S608 - table is one of two literals above
        db.execute(f"DELETE FROM {table} WHERE id <= ({newest}) - ?", (limit,))  # noqa: S608

    def _cut(self, attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
        limit = self._bounds.attribute_octets
        return {key: value[:limit] if isinstance(value, str) else value for key, value in attributes.items()}

    def _json(self, attributes: Mapping[str, AttributeValue]) -> str:
        return json.dumps(self._cut(attributes))

    def _spans(self, where: str, parameters: Sequence[str], most: int = -1) -> list[Span]:
        query = f"SELECT {_SPAN_COLUMNS} FROM span WHERE {where} ORDER BY start_ns, id LIMIT ?"  # noqa: S608 - literals
        with self._lock:
            rows = self._db.execute(query, (*parameters, most)).fetchall()
        return [_span(row) for row in rows]

    def spans_of_trace(self, trace_id: str, most: int = -1) -> list[Span]:
        """Return the spans of a trace, oldest first, ``most`` of them where that is given."""
        return self._spans("trace_id = ?", (trace_id,), most)

    def spans_of_call(self, call_id: str, most: int = -1) -> list[Span]:
        """Return the spans that carry ``call_id`` and all others of the traces these belong to, oldest first.

        ``most`` of them where that is given.
        """
        return self._spans(f"trace_id IN (SELECT trace_id FROM span WHERE {_OF_CALL})", (call_id,), most)  # noqa: S608

    def associations_of_call(self, call_id: str) -> list[Span]:
        """Return the ``media.association`` spans of a call."""
        return self._spans(f"{_OF_CALL} AND name = 'media.association'", (call_id,))

    def calls_of_trace(self, trace_id: str) -> list[str]:
        """Return the Call-IDs of the calls of a trace."""
        with self._lock:
            return callstore.call_ids_of(self._db, trace_id)

    def last_call(self) -> CallSummary | None:
        """Return the newest call (INVITE), ``None`` when there was none."""
        return next(iter(self.calls(1)), None)

    def calls(self, limit: int = 50) -> list[CallSummary]:
        """Return the newest calls, newest first."""
        with self._lock:
            if self._indexed:
                found = callfind.find(self._db, callfind.Wanted(), limit)
                return [CallSummary(call.call_id, call.trace_id, call.began_ns) for call in found.calls]
            rows = self._db.execute(
                "SELECT call_id, min(trace_id), min(start_ns) AS begun FROM span WHERE call_id <> '' AND"
                " name LIKE 'SIP INVITE%' GROUP BY call_id ORDER BY begun DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [CallSummary(*row) for row in rows]

    def find_call(self, prefix: str) -> list[str]:
        """Return the Call-IDs that are ``prefix`` or begin with it, else those of the trace with that id."""
        with self._lock:
            rows = self._db.execute(
                "SELECT DISTINCT call_id FROM span WHERE call_id <> '' AND call_id >= ? AND call_id < ? LIMIT 10",
                (prefix, prefix + callstore.LAST),
            ).fetchall()
            if not rows:
                rows = self._db.execute(
                    "SELECT DISTINCT call_id FROM span WHERE call_id <> '' AND trace_id = ? LIMIT 10", (prefix,)
                ).fetchall()
        found = [str(row[0]) for row in rows]
        return [prefix] if prefix in found else found

    def counts(self) -> dict[str, int]:
        """Return how many spans, log records and metric series are kept."""
        with self._lock:
            return {
                table: int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - literals
                for table in ("span", "record", "metric")
            }

    def metrics(self, node: str | None = None) -> list[MetricPoint]:
        """Return the last value of every series, of one node when given."""
        with self._lock:
            rows = self._db.execute(
                "SELECT node, name, attributes, time_ns, value, unit FROM metric WHERE ? IS NULL OR node = ?"
                " ORDER BY node, name",
                (node, node),
            ).fetchall()
        return [MetricPoint(row[0], row[1], json.loads(row[2]), row[3], row[4], row[5]) for row in rows]


def _span(row: Sequence[object]) -> Span:
    trace, span, parent, node, nf_type, name, kind, start, end, status, message, attributes, links = map(
        str, (*row[:12], row[13])
    )
    return Span(
        trace_id=trace,
        span_id=span,
        parent_id=parent,
        node=node,
        nf_type=nf_type,
        name=name,
        kind=kind,
        start_ns=int(start),
        end_ns=int(end),
        status=status,
        message=message,
        attributes=json.loads(attributes),
        events=tuple(SpanEvent(time_ns, event, values) for time_ns, event, values in _events(row[12])),
        links=tuple((trace_id, span_id) for trace_id, span_id in json.loads(links)),
    )


def _events(stored: object) -> Iterable[tuple[int, str, Mapping[str, AttributeValue]]]:
    events = unpack(stored) if isinstance(stored, (str, bytes)) else []
    return cast("Iterable[tuple[int, str, Mapping[str, AttributeValue]]]", events)
