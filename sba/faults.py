"""Where a fault was raised: files, lines and functions, no values, as those may be secret (T8)."""

from __future__ import annotations

from pathlib import Path
from traceback import FrameSummary, TracebackException, extract_tb
from typing import Final

MOST_FRAMES: Final = 20
"""Calls told of one exception, from the innermost up."""


def raised_at(fault: BaseException, within: Path | None = None) -> str:
    """Return ``file:line in function`` of the innermost call, of those in the folder ``within`` where there are any.

    Empty for a fault that was never raised.
    """
    calls = extract_tb(fault.__traceback__)
    own = [call for call in calls if within is not None and Path(call.filename).is_relative_to(within)]
    return next(map(_place, reversed(own or calls)), "")


def stack_of(fault: BaseException) -> list[str]:
    """Return the calls that led to a fault, the innermost first, then those of the exceptions it came from."""
    told: TracebackException | None = TracebackException.from_exception(fault, lookup_lines=False)
    lines: list[str] = []
    while told is not None:
        lines += [_place(call) for call in reversed(told.stack[-MOST_FRAMES:])]
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
        if told is not None and told.exc_type is not None:
            lines.append(f"from {told.exc_type.__name__}")
    return lines


def _place(call: FrameSummary) -> str:
    return f"{call.filename}:{call.lineno} in {call.name}"
