"""Server-side book of nonces: each is issued once, ages and counts upwards (RFC 7616 3.4, TS 33.203 N.2.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class NonceVerdict(Enum):
    """What a server does about the nonce of otherwise good credentials."""

    GOOD = "good"
    STALE = "stale"
    """Known but expired or used up, or the count did not rise: challenge again with ``stale=true``."""
    UNKNOWN = "unknown"
    """Never issued here: challenge again, with ``stale=true`` when the password was right."""


@dataclass(slots=True)
class _Entry:
    expires: float
    count: int


class NonceBook:
    """Nonces issued to clients; `lifetime_s` seconds each, at most `limit` of them, the oldest go first.

    `clock` returns seconds that never step back.
    """

    def __init__(self, clock: Callable[[], float], *, lifetime_s: float = 240.0, limit: int = 100_000) -> None:
        self._clock = clock
        self._lifetime = lifetime_s
        self._limit = limit
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def issue(self, nonce: str) -> None:
        """Note that `nonce` went out in a challenge. Raises ValueError when it did before."""
        if nonce in self._entries:
            raise ValueError("nonce was issued before")
        while len(self._entries) >= self._limit:
            del self._entries[next(iter(self._entries))]
        self._entries[nonce] = _Entry(self._clock() + self._lifetime, 0)

    def use(self, nonce: str, count: int, *, once: bool = False) -> NonceVerdict:
        """Judge a use of `nonce` with nonce count `count`, which has to rise; `once` voids the nonce (AKA)."""
        entry = self._entries.get(nonce)
        if entry is None:
            return NonceVerdict.UNKNOWN
        if self._clock() >= entry.expires or count <= entry.count:
            return NonceVerdict.STALE
        entry.count = count
        if once:
            entry.expires = self._clock()
        return NonceVerdict.GOOD

    def void(self, nonce: str) -> None:
        """Forget a nonce whose challenge was replaced or answered."""
        self._entries.pop(nonce, None)
