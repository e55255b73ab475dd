"""Calls found by user, Call-ID, trace id, result, security mode and state: newest first, a page at a time, by index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab.callfold import CallRecord
from lab.callstore import COLUMNS, LAST, record_of

MOST_PARTIES = 64
"""Identities that the beginning of one may stand for."""
MOST_BY_BEGINNING = 500
"""Calls that the beginning of a Call-ID, and that of a trace id, may stand for."""
LIVE = ("setup", "talking")
"""States of a call in progress."""
_CALLS = "call"
_OF_PARTIES = "call_party AS p CROSS JOIN call ON call.id = p.call"
_Place = tuple[int, int]


@dataclass(frozen=True)
class Wanted:
    """Which calls: all that is given must hold.

    ``parties`` are public identities of which one takes part. ``beginning`` is that of a Call-ID, a trace id or an
    identity; ``named`` are identities it stands for besides. ``before`` is the ``place`` of the last call already had.
    """

    parties: tuple[str, ...] = ()
    beginning: str = ""
    named: tuple[str, ...] = ()
    result: str = ""
    security: str = ""
    states: tuple[str, ...] = ()
    before: _Place | None = None


@dataclass(frozen=True)
class Found:
    """Calls, newest first, how many there are in all, and the place of the last one (``None``: that was all)."""

    calls: list[CallRecord]
    total: int
    place: _Place | None


@dataclass(frozen=True)
class _Strand:
    """One way to calls through one index: tables, the columns of their order, and what chooses."""

    tables: str
    began: str
    number: str
    choice: str
    values: tuple[object, ...]


def find(db: sqlite3.Connection, wanted: Wanted, limit: int) -> Found:
    """Return at most ``limit`` calls that are ``wanted``, newest first."""
    strands = list(_strands(db, wanted))
    filters, values = _filters(wanted)
    rows: dict[int, Sequence[object]] = {}
    for strand in strands:
        rows.update({int(str(row[1])): row for row in _page(db, strand, filters, values, wanted.before, limit + 1)})
    newest = sorted(rows.values(), key=_place, reverse=True)
    shown = newest[:limit]
    last = _place(shown[-1]) if len(newest) > limit else None
    return Found([record_of(row[2:]) for row in shown], _total(db, strands, filters, values), last)


def live(db: sqlite3.Connection, most: int = 200) -> list[CallRecord]:
    """Return the newest calls in progress."""
    return find(db, Wanted(states=LIVE), most).calls


def _place(row: Sequence[object]) -> _Place:
    return int(str(row[0])), int(str(row[1]))


def _party(party: str) -> _Strand:
    return _Strand(_OF_PARTIES, "p.began_ns", "p.call", "p.party = ?", (party,))


def _strands(db: sqlite3.Connection, wanted: Wanted) -> Iterator[_Strand]:
    if wanted.beginning:
        numbers = _numbers(db, wanted.beginning)
        if numbers:
            choice = f"call.id IN ({_marks(numbers)})"
            yield _Strand(_CALLS, "call.began_ns", "call.id", choice, tuple(numbers))
        yield from map(_party, _identities(db, wanted))
    elif wanted.parties:
        yield from map(_party, wanted.parties)
    elif wanted.states:
        for state in wanted.states:
            yield _Strand(_CALLS, "call.began_ns", "call.id", "call.state = ?", (state,))
    else:
        yield _Strand(_CALLS, "call.began_ns", "call.id", "true", ())


def _filters(wanted: Wanted) -> tuple[str, list[object]]:
    filters: list[str] = []
    values: list[object] = []
    for column, value in (("result", wanted.result), ("security", wanted.security)):
        if value:
            filters.append(f"call.{column} = ?")
            values.append(value)
    if wanted.states and (wanted.beginning or wanted.parties):
        filters.append(f"call.state IN ({_marks(wanted.states)})")
        values += wanted.states
    if wanted.beginning and wanted.parties:
        marks = _marks(wanted.parties)
        filters.append(f"(call.from_uri IN ({marks}) OR call.to_uri IN ({marks}))")
        values += [*wanted.parties, *wanted.parties]
    return "".join(f" AND {each}" for each in filters), values


def _page(
    db: sqlite3.Connection, strand: _Strand, filters: str, values: Sequence[object], before: _Place | None, most: int
) -> list[Sequence[object]]:
    columns = ", ".join(f"call.{name}" for name in COLUMNS.split(", "))
    further = f" AND ({strand.began}, {strand.number}) < (?, ?)" if before is not None else ""
    order = f"ORDER BY {strand.began} DESC, {strand.number} DESC LIMIT ?"
    chosen = f"{strand.tables} WHERE {strand.choice}{filters}{further}"
    query = f"SELECT {strand.began}, {strand.number}, {columns} FROM {chosen} {order}"  # noqa: S608 - literals
    return db.execute(query, [*strand.values, *values, *(before or ()), most]).fetchall()


def _total(db: sqlite3.Connection, strands: Sequence[_Strand], filters: str, values: Sequence[object]) -> int:
    if not strands:
        return 0
    parts = [f"SELECT {strand.number} FROM {strand.tables} WHERE {strand.choice}{filters}" for strand in strands]  # noqa: S608
    given = [value for strand in strands for value in (*strand.values, *values)]
    (total,) = db.execute(f"SELECT count(*) FROM ({' UNION '.join(parts)})", given).fetchone()  # noqa: S608 - literals
    return int(total)


def _numbers(db: sqlite3.Connection, beginning: str) -> list[int]:
    """Return the newest calls whose Call-ID or trace id begins so."""
    found: set[int] = set()
    for column in ("call_id", "trace_id"):
        query = f"SELECT id FROM call WHERE {column} >= ? AND {column} < ? LIMIT ?"  # noqa: S608 - one of two words
        found |= {int(row[0]) for row in db.execute(query, (beginning, beginning + LAST, MOST_BY_BEGINNING))}
    return sorted(found)


def _identities(db: sqlite3.Connection, wanted: Wanted) -> list[str]:
    found = dict.fromkeys(wanted.named)
    for scheme in ("", "sip:", "sips:", "tel:"):
        found.update(dict.fromkeys(_beginning_so(db, scheme + wanted.beginning)))
    return list(found)[:MOST_PARTIES]


def _beginning_so(db: sqlite3.Connection, beginning: str) -> Iterator[str]:
    """Yield the identities that begin so, jumping from one to the next over all their calls."""
    here, operator = beginning, ">="
    for _ in range(MOST_PARTIES):
        query = f"SELECT min(party) FROM call_party WHERE party {operator} ? AND party < ?"  # noqa: S608 - literals
        (party,) = db.execute(query, (here, beginning + LAST)).fetchone()
        if party is None:
            return
        yield str(party)
        here, operator = str(party), ">"


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
