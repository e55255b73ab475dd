"""Replay cache of authenticated messages (RFC 3830 5.4, RFC 6043 12.4): bounded, per sender and role."""

from __future__ import annotations

from collections.abc import Mapping


class ReplayCache:
    """Hashes of accepted messages until their timestamps leave the skew window of `skew_s` seconds.

    `reject_before` (Unix seconds) is for a start without the old cache: messages with older timestamps are refused.
    The lost state is covered entirely by ``now + skew_s`` (RFC 3830 5.4), by ``now`` for peers with exact clocks.
    """

    def __init__(self, *, skew_s: float = 300.0, size: int = 10_000, reject_before: float | None = None) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def add(self, sender: bytes, role: str, message: bytes, timestamp: float, now: float) -> None:
        """Remember an authenticated `message`, sent at `timestamp`.

        Raises Replayed where it is known already or too old to tell, InvalidTimestamp outside the skew window.
        """
        raise NotImplementedError

    def to_record(self) -> Mapping[str, object]:
        """Return the state as JSON values (hashes and times, nothing secret), to be kept across a restart."""
        raise NotImplementedError

    @classmethod
    def from_record(cls, record: Mapping[str, object], *, skew_s: float = 300.0, size: int = 10_000) -> ReplayCache:
        """Return the cache of a record. Raises ValueError."""
        raise NotImplementedError
