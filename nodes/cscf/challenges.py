"""AKA challenges that wait for an answer, each with its reg-await-auth timer (SC-6, SC-7, E-7)."""

from __future__ import annotations

from collections.abc import Callable

from nodes.cscf.challenge import Challenge
from signalling.sip.connection import Clock, DelayedCall


class OpenChallenges:
    """At most one challenge per private identity; a newer one voids the older. They do not outlive the process."""

    def __init__(self, clock: Clock, lifetime: float) -> None:
        self._clock = clock
        self._lifetime = lifetime
        self._open: dict[str, tuple[Challenge, DelayedCall]] = {}
        self.on_expiry: Callable[[Challenge], None] = lambda _challenge: None

    def __len__(self) -> int:
        return len(self._open)

    def get(self, impi: str) -> Challenge | None:
        """The challenge open for a user."""
        entry = self._open.get(impi)
        return None if entry is None else entry[0]

    def open(self, challenge: Challenge) -> None:
        """Start to wait for the answer (timer reg-await-auth)."""
        self.drop(challenge.impi)
        timer = self._clock.callLater(self._lifetime, self._expired, challenge.impi)
        self._open[challenge.impi] = (challenge, timer)

    def drop(self, impi: str) -> None:
        """Stop waiting: answered or voided."""
        entry = self._open.pop(impi, None)
        if entry is not None and entry[1].active():
            entry[1].cancel()

    def close(self) -> None:
        """Stop all timers."""
        for impi in list(self._open):
            self.drop(impi)

    def _expired(self, impi: str) -> None:
        challenge, _ = self._open.pop(impi)
        self.on_expiry(challenge)
