"""How busy a node is, from the processor time it used: what it tells the NRF unless it knows better."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LEAST_S: Final = 4.0
"""Shortest span over which a share is measured, s; asked more often, the last one stands."""


class ProcessorShare:
    """Processor time of this process per elapsed time, of one processor, in percent up to 100.

    Half of what was said before stays in it, so that a moment's work does not turn everybody away.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._used = used
        self._since = clock()
        self._before = used()
        self._percent = 0.0

    def percent(self) -> int:
        """Return the share since it was last measured."""
        now = self._clock()
        elapsed = now - self._since
        if elapsed >= LEAST_S:
            used = self._used()
            self._percent = (self._percent + share(used - self._before, elapsed)) / 2
            self._since, self._before = now, used
        return round(self._percent)

    def begin(self) -> None:
        """Leave out what was used so far: it was for the start."""
        self._since, self._before, self._percent = self._clock(), self._used(), 0.0


def share(part: float, whole: float) -> int:
    """Return a part of a whole in percent, 0 to 100; 0 where the whole is nothing."""
    return max(0, min(100, int(100 * part / whole))) if whole > 0 else 0
