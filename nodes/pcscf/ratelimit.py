"""Registration rate per source address: a token bucket (PC-7: overload is answered 503)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

SOURCES_REMEMBERED: Final = 10_000


class SourceRate:
    """Allows `rate` events per second and source after a burst of `burst`. `now` gives seconds."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, source: str) -> bool:
        """Count one event of `source`; False when it is over its rate."""
        now = self._now()
        level, then = self._buckets.pop(source, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        allowed = level >= 1.0
        self._buckets[source] = (level - 1.0 if allowed else level, now)
        if len(self._buckets) > SOURCES_REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed
