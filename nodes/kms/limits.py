"""How often somebody may ask: the token buckets of the settings, for more names than an SBA server has consumers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nodes.kms import config
from sba.access import RateLimit

NAMES_REMEMBERED: Final = 100_000
"""Buckets kept."""


def buckets(limit: config.RateLimit, clock: Callable[[], float], *, names: int = NAMES_REMEMBERED) -> RateLimit:
    """Return the token buckets of one rate, by name."""
    return RateLimit(limit.per_second, limit.burst, clock, consumers=names)
