"""How busy a node is, from the processor time it used: what it tells the NRF unless it knows better."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LEAST_S: Final = 1.0
"""Shortest span over which a share is measured, s; asked more often, the last one stands."""


class ProcessorShare:
    """Processor time of this process per elapsed time, of one processor, in percent up to 100."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._used = used
        self._since = clock()
        self._before = used()
        self._percent = 0

    def percent(self) -> int:
        """Return the share since it was last measured."""
        now = self._clock()
        elapsed = now - self._since
        if elapsed >= LEAST_S:
            used = self._used()
            self._percent = max(0, min(100, round(100 * (used - self._before) / elapsed)))
            self._since, self._before = now, used
        return self._percent


def share(part: float, whole: float) -> int:
    """Return a part of a whole in percent, 0 to 100; 0 where the whole is nothing."""
    return max(0, min(100, int(100 * part / whole))) if whole > 0 else 0
