"""How often somebody may ask: a token bucket for each name, for a bounded number of names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from nodes.kms.config import RateLimit

NAMES_REMEMBERED: Final = 100_000
"""Buckets kept; beyond that the one used longest ago starts anew, full."""


class Buckets:
    """Token buckets of one rate by name. `clock` gives seconds that never run backwards."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float], *, names: int = NAMES_REMEMBERED) -> None:
        self._rate = limit.per_second
        self._burst = float(limit.burst)
        self._clock = clock
        self._names = names
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> bool:
        """Count one request of `name`; False when it has used up its share."""
        now = self._clock()
        level, then = self._levels.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        allowed = level >= 1.0
        self._levels[name] = (level - 1.0 if allowed else level, now)
        if len(self._levels) > self._names:
            self._levels.popitem(last=False)
        return allowed

    def retry_after_s(self) -> int:
        """Whole seconds after which an empty bucket holds a token again."""
        return max(1, round(1.0 / self._rate))
