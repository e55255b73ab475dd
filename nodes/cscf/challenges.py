"""AKA challenges that wait for an answer, each with its reg-await-auth timer (SC-6, SC-7, E-7).

Anybody can ask for a challenge in the name of a user. So one that is open is voided by a newer one of the same
registration (Call-ID) alone, a user has only so many of them, and only so many authentication vectors are spent on
them: after that the newest one that nobody answered is offered again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nodes.cscf.challenge import Challenge
from nodes.cscf.hss import AkaVector
from signalling.sip.connection import Clock, DelayedCall

MAX_PER_USER = 256
"""Open challenges of one private identity; the oldest gives way."""
MAX_OPEN = 20_000
"""Open challenges together; the oldest gives way."""
MAX_VECTORS = 8
"""Vectors spent on one private identity within the life of a challenge, until one is answered rightly."""

_Key = tuple[str, str]
"""Private identity and Call-ID."""


@dataclass
class _Spent:
    """Vectors fetched for a user since the last right answer: when (seconds), and the newest."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_VECTORS))
    newest: AkaVector | None = None


class OpenChallenges:
    """At most one challenge per private identity and Call-ID. They do not outlive the process."""

    def __init__(self, clock: Clock, lifetime: float) -> None:
        self._clock = clock
        self._lifetime = lifetime
        self._open: OrderedDict[_Key, tuple[Challenge, DelayedCall]] = OrderedDict()
        self._of: dict[str, OrderedDict[str, None]] = {}
        self._spent: dict[str, _Spent] = {}
        self.on_expiry: Callable[[Challenge], None] = lambda _challenge: None

    def __len__(self) -> int:
        return len(self._open)

    def get(self, impi: str, call_id: str) -> Challenge | None:
        """The challenge open for a user in one registration."""
        entry = self._open.get((impi, call_id))
        return None if entry is None else entry[0]

    def open(self, challenge: Challenge) -> None:
        """Start to wait for the answer (timer reg-await-auth)."""
        impi, call_id = challenge.impi, challenge.call_id
        self.drop(impi, call_id)
        calls = self._of.get(impi, ())
        if len(calls) >= MAX_PER_USER:
            self.drop(impi, next(iter(calls)))
        if len(self._open) >= MAX_OPEN:
            self.drop(*next(iter(self._open)))
        timer = self._clock.callLater(self._lifetime, self._expired, challenge)
        self._open[impi, call_id] = (challenge, timer)
        self._of.setdefault(impi, OrderedDict())[call_id] = None

    def drop(self, impi: str, call_id: str) -> None:
        """Stop waiting: answered or voided."""
        entry = self._open.pop((impi, call_id), None)
        if entry is None:
            return
        calls = self._of[impi]
        del calls[call_id]
        if not calls:
            del self._of[impi]
        if entry[1].active():
            entry[1].cancel()

    def proved(self, challenge: Challenge) -> None:
        """A challenge was answered by the user's own card: its vector counts nowhere any more."""
        for call_id in list(self._of.get(challenge.impi, ())):
            if self._open[challenge.impi, call_id][0].nonce == challenge.nonce:
                self.drop(challenge.impi, call_id)
        self._spent.pop(challenge.impi, None)

    def spend(self, impi: str, vector: AkaVector) -> None:
        """Count a vector fetched for a user; the HSS knows him, so there are no more entries than subscribers."""
        spent = self._spent.setdefault(impi, _Spent())
        spent.times.append(self._clock.seconds())
        spent.newest = vector

    def to_offer_again(self, impi: str) -> AkaVector | None:
        """The vector to use once more, when enough were spent on a user; None when a fresh one may be fetched."""
        spent = self._spent.get(impi)
        if spent is None or len(spent.times) < MAX_VECTORS:
            return None
        return spent.newest if spent.times[0] + self._lifetime > self._clock.seconds() else None

    def close(self) -> None:
        """Stop all timers."""
        for key in list(self._open):
            self.drop(*key)

    def _expired(self, challenge: Challenge) -> None:
        self.drop(challenge.impi, challenge.call_id)
        self.on_expiry(challenge)
