"""The ladder as text for a terminal: one column a participant, one row a step."""

from __future__ import annotations

from lab.ladder import Ladder
from lab.ladder_steps import Step, arrow_label
from lab.printable import one_line, printable

MIN_COLUMN = 12
"""Narrowest column, characters."""
MAX_COLUMN = 26
"""Widest column, characters."""
_TIME_WIDTH = 10


def render(call: Ladder, *, width: int = 120, messages: bool = False) -> str:
    """Return the drawn ladder; ``messages`` adds the text of every SIP message below its arrow."""
    if not call.steps:
        return f"call {one_line(call.call_id)}: nothing was traced"
    count = len(call.participants)
    column = max(MIN_COLUMN, min(MAX_COLUMN, (width - _TIME_WIDTH) // max(1, count)))
    places = {name: _TIME_WIDTH + index * column + column // 2 for index, name in enumerate(call.participants)}
    head = " " * _TIME_WIDTH + "".join(_fit(one_line(name), column - 1).center(column) for name in call.participants)
    lines = [f"call {one_line(call.call_id)}", f"trace {one_line(call.trace_id)}", "", head.rstrip()]
    for step in call.steps:
        lines += _rows(step, places)
        if messages and step.kind == "sip":
            lines += ["      | " + line for line in printable(step.text.replace("\r\n", "\n")).rstrip().split("\n")]
    lines += [
        "",
        "-> SIP   ~> service call   .> HTTP   = media   * key decision or MIKEY message   x not seen to arrive",
    ]
    return "\n".join(lines)


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def _bars(places: dict[str, int]) -> list[str]:
    row = [" "] * (max(places.values()) + 1)
    for place in places.values():
        row[place] = "|"
    return row


def _rows(step: Step, places: dict[str, int]) -> list[str]:
    row = _bars(places)
    row[: _TIME_WIDTH - 1] = f"{step.at_ms:8.1f} ".ljust(_TIME_WIDTH - 1)
    left, right = places[step.source], places[step.target or step.source]
    label = one_line(_label(step))
    if left == right:
        row[left] = "*" if step.kind in ("decision", "mikey") else "o"
        return [_before(row, left, label) if left == max(places.values()) else _beside(row, left, label)]
    first, last = min(left, right), max(left, right)
    stroke = {"sip": "-", "rpc": "~", "http": ".", "media": "="}[step.kind]
    for place in range(first + 1, last):
        row[place] = stroke
    if step.kind == "media":
        row[first + 1], row[last - 1] = "<", ">"
    elif right > left:
        row[last - 1] = "x" if step.unseen else ">"
    else:
        row[first + 1] = "x" if step.unseen else "<"
    room = last - first - 5
    if len(label) <= room:
        start = first + 2 + (room - len(label)) // 2
        row[start : start + len(label) + 2] = f" {label} "
        return ["".join(row).rstrip()]
    return [_caption(places, first, label), "".join(row).rstrip()]


def _caption(places: dict[str, int], at: int, label: str) -> str:
    return _beside(_bars(places), at, label)


def _beside(row: list[str], at: int, label: str) -> str:
    start = at + 2
    row = [*row, *(" " * max(0, start + len(label) + 1 - len(row)))]
    row[start : start + len(label)] = label
    return "".join(row).rstrip()


def _before(row: list[str], at: int, label: str) -> str:
    """Write a note of the last lane on its left, where the row has room; behind it where the note is longer."""
    start = at - 2 - len(label)
    if start < _TIME_WIDTH:
        return "".join(row).rstrip() + "  " + label
    row[start - 1 : at - 1] = f" {label} "
    return "".join(row).rstrip()


def _label(step: Step) -> str:
    label = arrow_label(step) + (" (again)" if step.retransmission else "")
    if step.kind == "rpc":
        return label + ("" if step.outcome == "OK" else " FAILED")
    if step.kind in ("decision", "mikey"):
        return label + (f": {step.detail}" if step.detail else "")
    if step.kind == "media":
        return f"{label}, {step.detail}"
    return label
