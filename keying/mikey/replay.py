"""Replay cache of authenticated messages (RFC 3830 5.4, RFC 6043 12.4): bounded, per sender and role."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from keying.mikey.errors import InvalidTimestamp, Replayed


@dataclass(slots=True)
class _Sender:
    """Messages of one sender in one role: hash to timestamp. Older than `floor` cannot be told from a replay."""

    seen: dict[bytes, float] = field(default_factory=dict)
    floor: float | None = None


class ReplayCache:
    """Hashes of accepted messages until their timestamps leave the skew window of `skew_s` seconds.

    Bounded by `size` messages a sender and role, and by `senders`: what is dropped early raises the oldest timestamp
    that is still taken, of that sender or of all, so a full cache refuses and never forgets (fail closed).
    `reject_before` (Unix seconds) is for a start without the old cache: messages with older timestamps are refused.
    The lost state is covered entirely by ``now + skew_s`` (RFC 3830 5.4), by ``now`` for peers with exact clocks.
    """

    def __init__(
        self,
        *,
        skew_s: float = 300.0,
        size: int = 10_000,
        senders: int = 4096,
        reject_before: float | None = None,
    ) -> None:
        if size < 1 or senders < 1 or skew_s < 0:
            raise ValueError("a replay cache holds at least one message of one sender")
        self._skew_s = skew_s
        self._size = size
        self._max_senders = senders
        self._reject_before = reject_before
        self._senders: OrderedDict[tuple[bytes, str], _Sender] = OrderedDict()

    def __len__(self) -> int:
        """Messages remembered."""
        return sum(len(sender.seen) for sender in self._senders.values())

    def add(self, sender: bytes, role: str, message: bytes, timestamp: float, now: float) -> None:
        """Remember an authenticated `message`, sent at `timestamp`.

        Raises Replayed where it is known already or too old to tell, InvalidTimestamp outside the skew window.
        """
        self.check(sender, role, message, timestamp, now)
        key = (hashlib.sha256(sender).digest(), role)
        entry = self._senders.setdefault(key, _Sender())
        self._senders.move_to_end(key)
        entry.seen[hashlib.sha256(message).digest()] = timestamp
        self._bound(entry, now)

    def check(self, sender: bytes, role: str, message: bytes, timestamp: float, now: float) -> None:
        """Raise what :meth:`add` would and remember nothing: for messages not authenticated yet (RFC 3830 5.3)."""
        check_skew(timestamp, now, self._skew_s)
        if self._reject_before is not None and timestamp <= self._reject_before:
            raise Replayed("T", "older than what this cache knows of")
        entry = self._senders.get((hashlib.sha256(sender).digest(), role), _Sender())
        if entry.floor is not None and timestamp <= entry.floor:
            raise Replayed("T", "older than what is remembered of this sender")
        if hashlib.sha256(message).digest() in entry.seen:
            raise Replayed("message", "seen before")

    def _bound(self, entry: _Sender, now: float) -> None:
        if len(entry.seen) > self._size:
            self._expire(entry, now)
        while len(entry.seen) > self._size:
            oldest = min(entry.seen, key=entry.seen.__getitem__)
            entry.floor = max(entry.seen.pop(oldest), entry.floor or 0.0)
        if len(self._senders) <= self._max_senders:
            return
        for key, sender in list(self._senders.items()):
            self._expire(sender, now)
            if not sender.seen and (sender.floor is None or sender.floor < now - self._skew_s):
                del self._senders[key]
        while len(self._senders) > self._max_senders:
            _, dropped = self._senders.popitem(last=False)
            newest = max([*dropped.seen.values(), dropped.floor or 0.0])
            self._reject_before = max(newest, self._reject_before or 0.0)

    def _expire(self, entry: _Sender, now: float) -> None:
        outdated = [digest for digest, timestamp in entry.seen.items() if timestamp < now - self._skew_s]
        for digest in outdated:
            del entry.seen[digest]


def check_skew(timestamp: float, now: float, skew_s: float) -> None:
    """Check that `timestamp` is within `skew_s` seconds of `now` (RFC 3830 5.4). Raises InvalidTimestamp."""
    if not abs(now - timestamp) <= skew_s:
        raise InvalidTimestamp("T", f"outside the clock skew of {skew_s:g} s")
