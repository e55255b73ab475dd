"""Samples of the media of calls in progress: what a gateway counted at a moment, by side and stream; bounded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SCHEMA = """
CREATE TABLE IF NOT EXISTS sample (
  id INTEGER PRIMARY KEY, call_id TEXT NOT NULL, at_ms REAL NOT NULL, node TEXT NOT NULL, stream TEXT NOT NULL,
  side TEXT NOT NULL, packets_in INTEGER NOT NULL, packets_out INTEGER NOT NULL, lost INTEGER NOT NULL,
  jitter_ms REAL NOT NULL, drops TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS sample_by_call ON sample (call_id, at_ms);
"""


@dataclass(frozen=True)
class Sample:
    """Counters of one side of a stream since it began, packets; ``at_ms`` since the epoch."""

    call_id: str
    at_ms: float
    node: str
    stream: str
    side: str
    packets_in: int = 0
    packets_out: int = 0
    lost: int = 0
    jitter_ms: float = 0.0
    drops: Mapping[str, int] = field(default_factory=dict)


def add(db: sqlite3.Connection, samples: Iterable[Sample], most: int) -> None:
    """Keep ``samples``; of a call with more than ``most`` every other moment of its past goes."""
    given = list(samples)
    db.executemany(
        "INSERT INTO sample (call_id, at_ms, node, stream, side, packets_in, packets_out, lost, jitter_ms, drops)"
        " VALUES (?,?,?,?,?,?,?,?,?,?)",
        [
            (
                *(each.call_id, each.at_ms, each.node, each.stream, each.side, each.packets_in, each.packets_out),
                *(each.lost, each.jitter_ms, json.dumps(each.drops)),
            )
            for each in given
        ],
    )
    for call_id in {each.call_id for each in given}:
        (rows,) = db.execute("SELECT count(*) FROM sample WHERE call_id = ?", (call_id,)).fetchone()
        if rows > most:
            past = db.execute("SELECT DISTINCT at_ms FROM sample WHERE call_id = ? ORDER BY at_ms", (call_id,))
            thinned = [(call_id, at) for (at,) in past.fetchall()[1:-1:2]]
            db.executemany("DELETE FROM sample WHERE call_id = ? AND at_ms = ?", thinned)


def of_call(db: sqlite3.Connection, call_id: str) -> list[Sample]:
    """Return the samples of a call, oldest first."""
    rows = db.execute(
        "SELECT call_id, at_ms, node, stream, side, packets_in, packets_out, lost, jitter_ms, drops FROM sample"
        " WHERE call_id = ? ORDER BY at_ms, id",
        (call_id,),
    )
    return [
        Sample(call, at_ms, node, stream, side, came, went, lost, jitter_ms, json.loads(drops))
        for call, at_ms, node, stream, side, came, went, lost, jitter_ms, drops in rows
    ]
