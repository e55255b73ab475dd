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
_PARTIES = "call_party AS p"
_OF_PARTIES = f"{_PARTIES} CROSS JOIN call ON call.id = p.call"
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
    """One way to calls through one index: tables, the columns of their order, and what chooses.

    ``index`` is as much of the tables as choosing alone takes.
    """

    tables: str
    index: str
    began: str
    number: str
    choice: str
    values: tuple[object, ...]


@dataclass(frozen=True)
class _Filter:
    """What a call has to be besides: the numbers of all calls that are it, from an index of their own."""

    query: str
    values: tuple[object, ...]


def find(db: sqlite3.Connection, wanted: Wanted, limit: int) -> Found:
    """Return at most ``limit`` calls that are ``wanted``, newest first."""
    filters = list(_filters(wanted))
    strands = list(_strands(db, wanted, filters))
    rows: dict[int, Sequence[object]] = {}
    for strand in strands:
        rows.update({int(str(row[1])): row for row in _page(db, strand, filters, wanted.before, limit + 1)})
    newest = sorted(rows.values(), key=_place, reverse=True)
    shown = newest[:limit]
    last = _place(shown[-1]) if len(newest) > limit else None
    return Found([record_of(row[2:]) for row in shown], _total(db, strands, filters), last)


def live(db: sqlite3.Connection, most: int = 200) -> list[CallRecord]:
    """Return the newest calls in progress."""
    return find(db, Wanted(states=LIVE), most).calls


def _place(row: Sequence[object]) -> _Place:
    return int(str(row[0])), int(str(row[1]))


def _strands(db: sqlite3.Connection, wanted: Wanted, filters: list[_Filter]) -> Iterator[_Strand]:
    """Yield the ways to go; where nobody is named, one of the ``filters`` is the way and is taken from them."""
    if wanted.beginning:
        numbers = _numbers(db, wanted.beginning)
        if numbers:
            choice = f"call.id IN ({_marks(numbers)})"
            yield _Strand(_CALLS, _CALLS, "call.began_ns", "call.id", choice, tuple(numbers))
        yield from map(_party, _identities(db, wanted))
    elif wanted.parties:
        yield from map(_party, wanted.parties)
    elif wanted.states:
        del filters[-1]
        for state in wanted.states:
            yield _call("call.state = ?", state)
    elif wanted.result or wanted.security:
        del filters[0]
        column = "result" if wanted.result else "security"
        yield _call(f"call.{column} = ?", wanted.result or wanted.security)
    else:
        yield _call("true")


def _party(party: str) -> _Strand:
    return _Strand(_OF_PARTIES, _PARTIES, "p.began_ns", "p.call", "p.party = ?", (party,))


def _call(choice: str, *values: object) -> _Strand:
    return _Strand(_CALLS, _CALLS, "call.began_ns", "call.id", choice, values)


def _filters(wanted: Wanted) -> Iterator[_Filter]:
    """Yield what is asked for besides, the states last."""
    if wanted.result:
        yield _Filter("SELECT id FROM call WHERE result = ?", (wanted.result,))
    if wanted.security:
        yield _Filter("SELECT id FROM call WHERE security = ?", (wanted.security,))
    if wanted.beginning and wanted.parties:
        marks = _marks(wanted.parties)
        yield _Filter(f"SELECT call FROM call_party WHERE party IN ({marks})", wanted.parties)  # noqa: S608 - marks
    if wanted.states:
        marks = _marks(wanted.states)
        yield _Filter(f"SELECT id FROM call WHERE state IN ({marks})", wanted.states)  # noqa: S608 - marks alone


def _where(strand: _Strand, filters: Sequence[_Filter]) -> tuple[str, list[object]]:
    """Return what chooses a strand's calls; the sign keeps the filters from being taken for a way."""
    conditions = [strand.choice, *(f"+{strand.number} IN ({each.query})" for each in filters)]
    return " AND ".join(conditions), [*strand.values, *(value for each in filters for value in each.values)]


def _page(
    db: sqlite3.Connection, strand: _Strand, filters: Sequence[_Filter], before: _Place | None, most: int
) -> list[Sequence[object]]:
    columns = ", ".join(f"call.{name}" for name in COLUMNS.split(", "))
    where, values = _where(strand, filters)
    further = f" AND ({strand.began}, {strand.number}) < (?, ?)" if before is not None else ""
    order = f"ORDER BY {strand.began} DESC, {strand.number} DESC LIMIT ?"
    chosen = f"{strand.tables} WHERE {where}{further}"
    query = f"SELECT {strand.began}, {strand.number}, {columns} FROM {chosen} {order}"  # noqa: S608 - literals
    return db.execute(query, [*values, *(before or ()), most]).fetchall()


def _total(db: sqlite3.Connection, strands: Sequence[_Strand], filters: Sequence[_Filter]) -> int:
    if not strands:
        return 0
    chosen = [(strand, *_where(strand, filters)) for strand in strands]
    given = [value for _, _, values in chosen for value in values]
    if len(strands) == 1:
        query = f"SELECT count(*) FROM {strands[0].index} WHERE {chosen[0][1]}"  # noqa: S608 - literals, as below
    else:
        parts = [f"SELECT {each.number} FROM {each.index} WHERE {where}" for each, where, _ in chosen]  # noqa: S608
        query = f"SELECT count(*) FROM ({' UNION '.join(parts)})"  # noqa: S608
    (total,) = db.execute(query, given).fetchone()
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
