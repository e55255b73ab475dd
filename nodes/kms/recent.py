"""The latest messages in memory: a replay is refused without a write; what is forgotten here the store still knows."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from keying.mikey.errors import Replayed
from keying.mikey.replay import ReplayCache, check_skew

REMEMBERED: Final = 100_000
"""Messages kept in memory; beyond that the oldest goes."""


class RecentMessages(ReplayCache):
    """A replay cache that may forget, in front of ``KmsStore.first_sight``, which may not.

    The cache it replaces makes up for what it forgets by refusing messages with older timestamps: of all senders, once
    there are too many. A user may have any number of names (B-TIDs) and date his messages as far ahead as the skew
    allows, so he could have had everybody else refused for that long.
    """

    def __init__(self, *, skew_s: float, size: int = REMEMBERED) -> None:
        super().__init__(skew_s=skew_s, size=size)
        self._most = size
        self._allowed_s = skew_s
        self._recent: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, sender: bytes, role: str, message: bytes, timestamp: float, now: float) -> None:
        """Remember a message. Raises InvalidTimestamp outside the skew window, Replayed for one that is remembered."""
        del sender, role  # both stand in the message
        check_skew(timestamp, now, self._allowed_s)
        digest = hashlib.sha256(message).digest()
        if digest in self._recent:
            raise Replayed("message", "seen before")
        self._recent[digest] = None
        if len(self._recent) > self._most:
            self._recent.popitem(last=False)
