"""Challenges that wait for their answer; each is answered rightly once at most (RFC 3310 5.2, 5.6).

Anybody can ask for a challenge in the name of a user. So a user's challenges do not void each other, a wrong answer
takes nothing from whoever can give the right one, and only so many vectors are spent on a user: after that the newest
challenge is offered again. They do not outlive the process; an answer to one that is gone gets a new one.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from keying.secret import Secret
from signalling.aka.vectors import format_nonce

MAX_OPEN = 20_000
"""Open challenges together; the oldest gives way."""
OPAQUE_OCTETS = 16


@dataclass(frozen=True, slots=True)
class GbaVector:
    """What the HSS gives for a bootstrapping: the vector, and the public identities for NAFs, default first."""

    rand: bytes
    autn: bytes
    xres: Secret
    ck: Secret
    ik: Secret
    public_identities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that went out to whoever called himself `impi`; `deadline` in seconds of the book's clock."""

    impi: str
    vector: GbaVector
    nonce: str
    opaque: str
    deadline: float


@dataclass(slots=True)
class _Spent:
    """Vectors asked for in the name of a user since his last right answer, and the newest challenge made of them."""

    times: deque[float] = field(default_factory=deque)
    newest: str = ""


class NoVectorLeftError(Exception):
    """So many vectors were asked for in the name of a user that he gets none for now, and no challenge is left."""


class ChallengeBook:
    """Open challenges by nonce. `clock` gives seconds that never step back."""

    def __init__(self, clock: Callable[[], float], *, lifetime_s: float, per_user: int) -> None:
        self._clock = clock
        self._lifetime = lifetime_s
        self._per_user = per_user
        self._open: OrderedDict[str, Challenge] = OrderedDict()
        self._spent: OrderedDict[str, _Spent] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def find(self, nonce: str) -> Challenge | None:
        """The challenge that waits under a nonce."""
        self._expire()
        return self._open.get(nonce)

    def spend(self, impi: str) -> Challenge | None:
        """Count a vector that is about to be asked for, or return the challenge to offer again instead.

        Raises ``NoVectorLeftError`` when there is neither.
        """
        self._expire()
        spent = self._spent.get(impi)
        if spent is None:
            spent = self._spent[impi] = _Spent()
        while spent.times and spent.times[0] + self._lifetime <= self._clock():
            spent.times.popleft()
        if len(spent.times) < self._per_user:
            spent.times.append(self._clock())
            self._spent.move_to_end(impi)
            return None
        newest = self._open.get(spent.newest)
        if newest is None:
            raise NoVectorLeftError
        return newest

    def unspend(self, impi: str) -> None:
        """Count no vector that the HSS did not give."""
        spent = self._spent.get(impi)
        if spent is not None and spent.times:
            spent.times.pop()
            if not spent.times:
                del self._spent[impi]

    def open(self, impi: str, vector: GbaVector) -> Challenge:
        """Start to wait for the answer to a vector."""
        challenge = Challenge(
            impi,
            vector,
            format_nonce(vector.rand, vector.autn),
            secrets.token_hex(OPAQUE_OCTETS),
            self._clock() + self._lifetime,
        )
        while len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)
        self._open[challenge.nonce] = challenge
        if impi in self._spent:
            self._spent[impi].newest = challenge.nonce
        return challenge

    def close(self, challenge: Challenge) -> bool:
        """Wait no longer: the USIM has answered, rightly or with a resynchronisation. False when it was closed before.

        What others spent in the name of this user counts no more.
        """
        self._spent.pop(challenge.impi, None)
        return self._open.pop(challenge.nonce, None) is not None

    def _expire(self) -> None:
        """Drop what is over; both tables are in the order of time."""
        now = self._clock()
        while self._open:
            oldest = next(iter(self._open.values()))
            if oldest.deadline > now:
                break
            del self._open[oldest.nonce]
        while self._spent:
            impi, spent = next(iter(self._spent.items()))
            if spent.times and spent.times[-1] + self._lifetime > now:
                break
            del self._spent[impi]
