"""The table of calls in the trace store: one row a call, kept up to date as spans arrive, found by index.

Nothing here looks at the spans again: a list, a search and a page of 10,000 calls cost what they show. The rows are
written in the transaction that writes the spans. ``lab.callfind`` reads them.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lab.callfold import CallRecord, begins, call_of
from lab.spans import Span

SCHEMA = """
CREATE TABLE IF NOT EXISTS call (
  id INTEGER PRIMARY KEY, call_id TEXT NOT NULL UNIQUE, trace_id TEXT NOT NULL, from_uri TEXT NOT NULL,
  to_uri TEXT NOT NULL, asserted INTEGER NOT NULL, began_ns INTEGER NOT NULL, cseq INTEGER NOT NULL,
  spoken_ns INTEGER NOT NULL, final_ns INTEGER NOT NULL, sip_status INTEGER NOT NULL, reason TEXT NOT NULL,
  ended_ns INTEGER NOT NULL, lost_ns INTEGER NOT NULL, caller_node TEXT NOT NULL, modes TEXT NOT NULL,
  suites TEXT NOT NULL, nodes TEXT NOT NULL, spans INTEGER NOT NULL, state TEXT NOT NULL, result TEXT NOT NULL,
  security TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS call_by_time ON call (began_ns);
CREATE INDEX IF NOT EXISTS call_by_trace ON call (trace_id);
CREATE INDEX IF NOT EXISTS call_by_result ON call (result, began_ns);
CREATE INDEX IF NOT EXISTS call_by_security ON call (security, began_ns);
CREATE INDEX IF NOT EXISTS call_by_state ON call (state, began_ns);
CREATE TABLE IF NOT EXISTS call_party (
  party TEXT NOT NULL, began_ns INTEGER NOT NULL, call INTEGER NOT NULL, PRIMARY KEY (party, began_ns, call)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS call_trace (
  trace_id TEXT NOT NULL, call INTEGER NOT NULL, PRIMARY KEY (trace_id, call)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS call_trace_by_call ON call_trace (call);
"""
COLUMNS = (
    "call_id, trace_id, from_uri, to_uri, asserted, began_ns, cseq, spoken_ns, final_ns, sip_status, reason, ended_ns,"
    " lost_ns, caller_node, modes, suites, nodes, spans"
)
_WRITTEN = f"{COLUMNS}, state, result, security"
_SAVE = (
    f"INSERT INTO call ({_WRITTEN}) VALUES ({','.join('?' * 21)}) ON CONFLICT (call_id) DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{name} = excluded.{name}" for name in _WRITTEN.split(", ")[1:])
)
LAST = "\U0010ffff"
"""Sorts behind every text that goes on after a prefix."""


def record_of(row: Sequence[object]) -> CallRecord:
    """Return the call that a row of ``COLUMNS`` holds."""
    modes: Mapping[str, Sequence[object]] = json.loads(str(row[14]))
    return CallRecord(
        call_id=str(row[0]),
        trace_id=str(row[1]),
        from_uri=str(row[2]),
        to_uri=str(row[3]),
        asserted=bool(row[4]),
        began_ns=_int(row[5]),
        cseq=_int(row[6]),
        spoken_ns=_int(row[7]),
        final_ns=_int(row[8]),
        sip_status=_int(row[9]),
        reason=str(row[10]),
        ended_ns=_int(row[11]),
        lost_ns=_int(row[12]),
        caller_node=str(row[13]),
        modes={node: (_int(rank), str(mode)) for node, (rank, mode) in modes.items()},
        suites=json.loads(str(row[15])),
        nodes=json.loads(str(row[16])),
        spans=_int(row[17]),
    )


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _row(call: CallRecord) -> tuple[object, ...]:
    return (
        *(call.call_id, call.trace_id, call.from_uri, call.to_uri, int(call.asserted), call.began_ns, call.cseq),
        *(call.spoken_ns, call.final_ns, call.sip_status, call.reason, call.ended_ns, call.lost_ns, call.caller_node),
        *(json.dumps(call.modes), json.dumps(call.suites), json.dumps(call.nodes), call.spans),
        *(call.state, call.result, call.security),
    )


def load(db: sqlite3.Connection, call_id: str) -> CallRecord | None:
    """Return one call, ``None`` when it is not known."""
    row = db.execute(f"SELECT {COLUMNS} FROM call WHERE call_id = ?", (call_id,)).fetchone()  # noqa: S608
    return None if row is None else record_of(row)


def save(db: sqlite3.Connection, call: CallRecord) -> None:
    """Write one call, new or known."""
    known = db.execute("SELECT id, from_uri, to_uri, began_ns FROM call WHERE call_id = ?", (call.call_id,)).fetchone()
    db.execute(_SAVE, _row(call))
    if known is None:
        (number,) = db.execute("SELECT id FROM call WHERE call_id = ?", (call.call_id,)).fetchone()
    else:
        number = known[0]
        if tuple(known[1:]) == (call.from_uri, call.to_uri, call.began_ns):
            return
        db.executemany(
            "DELETE FROM call_party WHERE party = ? AND began_ns = ? AND call = ?",
            [(party, known[3], number) for party in known[1:3] if party],
        )
    parties = {party for party in (call.from_uri, call.to_uri) if party}
    db.executemany(
        "INSERT OR IGNORE INTO call_party (party, began_ns, call) VALUES (?,?,?)",
        [(party, call.began_ns, number) for party in parties],
    )


def with_room(spans: Iterable[Span], told: Counter[str], most: int) -> list[Span]:
    """Return the spans that fit beside those already ``told`` of by each node, which they are added to.

    There are ``most`` in all, half of them of one node, so that none keeps the others from telling.
    """
    found = []
    for span in spans:
        if told.total() < most and told[span.node] < most // 2:
            told[span.node] += 1
            found.append(span)
    return found


def fold(db: sqlite3.Connection, spans: Iterable[Span], most_spans: int) -> tuple[list[str], list[Span]]:
    """Take ``spans`` into the calls they tell of, as many as fit into ``most_spans`` of a call.

    Returns the Call-IDs of the calls that changed, and the spans that are to be kept.
    """
    kept: list[Span] = []
    by_call: dict[str, list[Span]] = {}
    for span in spans:
        call_id = call_of(span)
        if call_id:
            by_call.setdefault(call_id, []).append(span)
        else:
            kept.append(span)
    changed = []
    for call_id, given in by_call.items():
        call = load(db, call_id)
        if call is None:
            if not any(map(begins, given)):
                kept += given
                continue
            call = CallRecord(call_id)
        crowded = call.spans + len(given) > most_spans // 2
        own = with_room(given, _told(db, call), most_spans) if crowded else given
        if not own:
            continue
        kept += own
        for span in own:
            call.take(span)
        call.spans += len(own)
        save(db, call)
        changed.append(call_id)
        (number,) = db.execute("SELECT id FROM call WHERE call_id = ?", (call_id,)).fetchone()
        for trace_id in {span.trace_id for span in own}:
            if not is_of_call(db, trace_id):
                _trim(db, trace_id, most_spans // 4)
            db.execute("INSERT OR IGNORE INTO call_trace (trace_id, call) VALUES (?,?)", (trace_id, number))
    return changed, kept


def is_of_call(db: sqlite3.Connection, trace_id: str) -> bool:
    """Tell whether a call is in a trace."""
    return db.execute("SELECT 1 FROM call_trace WHERE trace_id = ? LIMIT 1", (trace_id,)).fetchone() is not None


def _trim(db: sqlite3.Connection, trace_id: str, keep: int) -> None:
    """Delete what a trace of no call has besides its newest spans, when a call comes into it: nothing is swept then."""
    older = "SELECT id FROM span WHERE trace_id = ? ORDER BY id DESC LIMIT -1 OFFSET ?"
    db.execute(f"DELETE FROM span WHERE id IN ({older})", (trace_id, keep))  # noqa: S608 - a literal


def _told(db: sqlite3.Connection, call: CallRecord) -> Counter[str]:
    """Return how many spans of a call each node told; what is counted on the call besides is nobody's."""
    query = "SELECT node, count(*) FROM span WHERE call_id <> '' AND call_id = ? GROUP BY node"
    told = Counter(dict(db.execute(query, (call.call_id,)).fetchall()))
    told[""] = max(0, call.spans - told.total())
    return told


def oldest(db: sqlite3.Connection, keep: int, step: int) -> list[int]:
    """Return the numbers of the oldest calls once there are ``step`` more than ``keep``: those that are too many."""
    (count,) = db.execute("SELECT count(*) FROM call").fetchone()
    if count < keep + step:
        return []
    rows = db.execute("SELECT id FROM call ORDER BY began_ns LIMIT ?", (count - keep,))
    return [int(row[0]) for row in rows]


def forget(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Delete calls with the spans of every trace that no other call is in."""
    for number in numbers:
        row = db.execute("SELECT call_id, from_uri, to_uri FROM call WHERE id = ?", (number,)).fetchone()
        if row is None:
            continue
        traces = [row[0] for row in db.execute("SELECT trace_id FROM call_trace WHERE call = ?", (number,))]
        db.execute("DELETE FROM call_trace WHERE call = ?", (number,))
        for trace_id in traces:
            if db.execute("SELECT 1 FROM call_trace WHERE trace_id = ? LIMIT 1", (trace_id,)).fetchone() is None:
                db.execute("DELETE FROM span WHERE trace_id = ?", (trace_id,))
        db.execute("DELETE FROM span WHERE call_id = ? AND call_id <> ''", (row[0],))
        db.executemany(
            "DELETE FROM call_party WHERE party = ? AND call = ?", [(party, number) for party in row[1:] if party]
        )
        db.execute("DELETE FROM sample WHERE call_id = ?", (row[0],))
        db.execute("DELETE FROM call WHERE id = ?", (number,))


def count(db: sqlite3.Connection) -> int:
    """Return how many calls are kept."""
    return int(db.execute("SELECT count(*) FROM call").fetchone()[0])


def traces_of(db: sqlite3.Connection, call_id: str) -> list[str]:
    """Return the trace ids that the spans of a call name."""
    rows = db.execute(
        "SELECT trace_id FROM call_trace WHERE call = (SELECT id FROM call WHERE call_id = ?)", (call_id,)
    )
    return [str(row[0]) for row in rows]


def call_ids_of(db: sqlite3.Connection, trace_id: str) -> list[str]:
    """Return the Call-IDs of the calls of a trace."""
    rows = db.execute(
        "SELECT call_id FROM call WHERE id IN (SELECT call FROM call_trace WHERE trace_id = ?) ORDER BY began_ns",
        (trace_id,),
    )
    return [str(row[0]) for row in rows]


def beginning_with(db: sqlite3.Connection, column: str, prefix: str, most: int) -> list[str]:
    """Return the Call-IDs of calls whose ``call_id`` or ``trace_id`` begins with ``prefix``."""
    assert column in ("call_id", "trace_id")
    query = f"SELECT call_id FROM call WHERE {column} >= ? AND {column} < ? LIMIT ?"  # noqa: S608 - one of two words
    return [str(row[0]) for row in db.execute(query, (prefix, prefix + LAST, most))]
