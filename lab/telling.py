"""What the log of a starting node tells: what it waits for, and why it could not go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

READ_MOST: Final = 16384
"""Octets at the end of a log that are looked at."""
LINE_MOST: Final = 800
"""Characters of a line that are shown."""
_FAULTS: Final = ("error", "fault", "cause", "reason", "text")
"""Fields of an event that say what went wrong, the most telling first."""

WAITS: Final[Mapping[str, str]] = {
    "node-starting": "its store and settings",
    "store-waiting": "the database {database}: {fault}",
    "store-reached": "its store and settings",
    "store-migrated": "its settings",
    "nrf-unreachable": "the NRF: {cause}",
    "registration-fault": "the NRF: {fault}",
    "nrf-absent": "its ports",
    "registered": "its ports",
}
"""What a node waits for after an event of its start (:meth:`sba.nf.NetworkFunction.startService`)."""
PROCESS: Final = "its process"
"""What is waited for before a node has written anything."""


def size(log: Path) -> int:
    """Return the octets of a log; 0 where there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def lines(log: Path, since: int = 0) -> list[str]:
    """Return the last lines of a log that were written after its first ``since`` octets, without empty ones."""
    try:
        with log.open("rb") as stream:
            end = stream.seek(0, 2)
            start = since if since <= end else 0  # it was rotated meanwhile
            stream.seek(max(start, end - READ_MOST))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def fault_line(log: Path, since: int = 0) -> str:
    """Return the last line that says something about a fault, else the last line, cut; empty without any."""
    return _last_fault(log, since)[:LINE_MOST]


def fault_words(log: Path, since: int = 0) -> str:
    """Say in words what the last line about a fault tells, however long it is; empty where there is none."""
    return fault_text(_last_fault(log, since))


def _last_fault(log: Path, since: int) -> str:
    found = lines(log, since)
    telling = [line for line in found if _tells(line)]
    return (telling or found or [""])[-1]


def _tells(line: str) -> bool:
    event = _event(line)
    if event is not None:
        return event.get("level") == "error"
    return "rror" in line or "ERROR" in line or "xception" in line


def fault_text(line: str) -> str:
    """Say in words what a line of a log tells; empty where it is an event of no fault."""
    event = _event(line)
    if event is None:
        return line[:LINE_MOST]  # whoever writes no events wrote its last words
    if event.get("level") not in ("error", "warning"):
        return ""
    said = next((str(event[name]) for name in _FAULTS if event.get(name)), str(event.get("event", "")))[:LINE_MOST]
    at = event.get("at")  # a fault in the code: its kind says as much as its text
    return f"{event.get('kind', 'fault')}: {said} ({at})" if at and event.get("event") == "start-failed" else said


def waits_for(log: Path, since: int = 0) -> str:
    """Say what a node that is starting waits for, by the last telling event of its log."""
    for line in reversed(lines(log, since)):
        event = _event(line)
        words = WAITS.get(str(event.get("event"))) if event is not None else None
        if words is not None and event is not None:
            return words.format_map(_Fields(event))[:LINE_MOST]
    return PROCESS


class _Fields(dict[str, object]):
    """The fields of an event; one that is missing is nothing to show."""

    def __missing__(self, key: str) -> str:
        return ""


def _event(line: str) -> dict[str, object] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


def several(names: Sequence[str], most: int = 4) -> str:
    """Return names for people, the first of many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
