"""``imslab flow``: from the trace store to a drawn call."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Collection, Iterable

from lab import ladder
from lab.labfile import LabFile, LabFileError
from lab.printable import printable
from lab.state import StateFolder
from lab.tracestore import TraceStore

LAST_CALLS = 5
"""Calls named to whoever asks for one that there is not."""


class FlowError(Exception):
    """The call cannot be drawn: unknown, ambiguous, or nothing was traced; ``no_lab``: no lab was started there."""

    def __init__(self, message: str, *, no_lab: bool = False) -> None:
        super().__init__(message)
        self.no_lab = no_lab


def build(folder: StateFolder, call_id: str | None) -> ladder.Ladder:
    """Return the ladder of the call whose Call-ID is or begins with ``call_id``; the last call without it.

    A trace without a call, of a ticket that was asked for by hand, is drawn by its trace id. Raises ``FlowError``.
    """
    try:
        lab = LabFile.read(folder.lab_json)
        names, homes = lab.names, lab.homes
        store = TraceStore(folder.traces, read_only=True)
    except (LabFileError, sqlite3.Error) as error:
        raise FlowError(f"there are no traces in {folder.root}: {error}", no_lab=True) from None
    try:
        if call_id is not None and not store.find_call(call_id) and (spans := store.spans_of_trace(call_id)):
            return dataclasses.replace(ladder.of_call(spans, "", names, homes), call_id=call_id)
        chosen = _choose(store, call_id)
        return ladder.of_call(store.spans_of_call(chosen), chosen, names, homes)
    except sqlite3.Error as error:
        raise FlowError(f"the trace store cannot be read: {error}") from None
    finally:
        store.close()


def _choose(store: TraceStore, call_id: str | None) -> str:
    if call_id is None:
        last = store.last_call()
        if last is None:
            raise FlowError("no call has been traced yet")
        return last.call_id
    found = store.find_call(call_id)
    if not found:
        known = ", ".join(call.call_id for call in store.calls(LAST_CALLS))
        there = f"the last ones have {known}" if known else "no call has been traced yet"
        raise FlowError(f"no call has the Call-ID {call_id}; {there}")
    if len(found) > 1:
        raise FlowError(f"several calls begin with {call_id}: {', '.join(found)}")
    return found[0]


def less(call: ladder.Ladder, names: Collection[str], nodes: Iterable[str] = ()) -> ladder.Ladder:
    """Return the ladder without the steps of these nodes and interfaces, and without lanes that have none left.

    ``nodes`` are those of the lab, which may be named whether they are in this flow or not. Raises ``KeyError`` with
    the first name that is neither a node nor an interface.
    """
    left_out = {name.lower() for name in names}
    known = {name.lower() for name in (*names_in(call), *nodes, *ladder.INTERFACES)}
    for name in names:
        if name.lower() not in known:
            raise KeyError(name)
    kept = tuple(
        step for step in call.steps if left_out.isdisjoint(map(str.lower, (step.source, step.target, step.interface)))
    )
    used = {name for step in kept for name in (step.source, step.target)}
    return dataclasses.replace(call, steps=kept, participants=tuple(name for name in call.participants if name in used))


def names_in(call: ladder.Ladder) -> list[str]:
    """Return the nodes and interfaces of a ladder."""
    return [*call.participants, *sorted({step.interface for step in call.steps if step.interface})]


def draw(
    folder: StateFolder,
    call_id: str | None,
    form: str,
    *,
    messages: bool = False,
    width: int = 120,
    without: Collection[str] = (),
) -> str:
    """Return the call flow as ``form``: text, json, mermaid or html, without some nodes and interfaces.

    Raises ``FlowError``.
    """
    call = build(folder, call_id)
    try:
        call = less(call, without, LabFile.read(folder.lab_json).nodes)
    except KeyError as error:
        there_are = ", ".join(names_in(call))
        raise FlowError(f"{error.args[0]} is no node or interface of this flow; there are {there_are}") from None
    if form == "json":
        from lab.render_json import render as render_json

        return render_json(call)
    if form == "mermaid":
        from lab.render_mermaid import render as render_mermaid

        return printable(render_mermaid(call))
    if form == "html":
        from lab.render_html import render_page

        return printable(render_page([call], title=f"Call {call.call_id}"))
    from lab.render_text import render as render_text

    return render_text(call, width=width, messages=messages)
