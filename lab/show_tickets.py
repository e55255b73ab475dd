"""How tickets, and what key management services wrote down about them, look on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import click

from lab.control import Json, Params
from lab.printable import one_line

AUDIT_COLUMNS = ("time", "KMS", "what", "outcome", "user", "responders", "ticket", "reason")
"""Header of ``imslab kms audit``."""


def show_ticket(row: Params, *, explain: bool = False, now: float | None = None) -> None:
    """Print a ticket; ``explain`` adds what each of its flags means. ``now`` in seconds since the epoch."""
    ended = _number(row["not_after"])
    expired = " (expired)" if 0 < ended < (time.time() if now is None else now) else ""
    _facts(
        {
            "ticket": row["ticket_id"],
            "KMS": row["kms"],
            "from": row["initiator"],
            "to": listed(row["responders"]),
            "type": f"{row['ticket_type']}, subtype {row['subtype']}, version {row['version']}",
            "flags": row["flags"],
        }
    )
    if explain:
        from lab.ticket_words import FLAGS

        for letter in str(row["flags"]):
            click.echo(one_line(f"{'':10} {letter}: {FLAGS.get(letter, 'unknown')}"))
    for change in _list(row.get("altered")):
        _facts({"altered": change})
    _facts(
        {
            "valid": f"{moment(row['not_before'])} to {moment(row['not_after'])}{expired}",
            "keys": listed(row["key_spis"]),
            "uses": row["uses"],
            "octets": row["ticket"],
            **({"trace": row["trace_id"]} if row.get("trace_id") else {}),
        }
    )


def show_resolution(answer: Params) -> None:
    """Print what a KMS made of a ticket."""
    _facts(
        {
            "KMS": answer["kms"],
            "responder": answer["responder"],
            "keys": listed(answer["key_spis"]) + (" (forked)" if answer["forked"] else ""),
            "trace": answer["trace_id"],
        }
    )


def show_audit(entries: Iterable[Params]) -> None:
    """Print audit records as a table, as wide as they are."""
    rows = [AUDIT_COLUMNS, *(tuple(map(one_line, _audit_row(entry))) for entry in entries)]
    if len(rows) == 1:
        click.echo("nothing was asked yet")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(AUDIT_COLUMNS))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _audit_row(entry: Params) -> Sequence[str]:
    operation, peer = str(entry["operation"]), str(entry["peer_kms"])
    if peer:
        # a KMS that relays asks the one that made the ticket, which resolves it for the other's user
        operation = f"asked {peer} to resolve" if operation == "relay" else f"{operation} for {peer}"
    return (
        moment(entry["at"]),
        str(entry["kms"]),
        operation,
        str(entry["outcome"]),
        str(entry["user"] or "(nobody known)"),
        listed(entry["responders"]) or "-",
        str(entry["ticket_id"])[:16] or "-",
        str(entry["reason"]),
    )


def moment(value: Json) -> str:
    """Return a moment in seconds since the epoch as local date and time with the zone; 0 is no bound."""
    seconds = _number(value)
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds)) if seconds else "unbounded"


def listed(value: Json) -> str:
    """Return the items of a list for people."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def dicts(value: Json) -> list[Params]:
    """Return the tables in a list."""
    return [item for item in _list(value) if isinstance(item, dict)]


def _facts(facts: Params) -> None:
    for key, value in facts.items():
        click.echo(one_line(f"{key:10} {value}"))


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _number(value: Json) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
