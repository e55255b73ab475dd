"""One timer for all endpoints of a process: ticks every packet time without drift, spread over a few phases."""

from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

PACKET_TIME = 0.02
"""Seconds between two ticks of one endpoint."""
PHASES = 4
"""Groups the endpoints are spread over, so that a hundred calls do not send in one burst."""
MAXIMUM_CATCH_UP = 10
"""Ticks made up for after the process stood still; beyond that they are skipped."""


class PendingCall(Protocol):
    """A call a reactor was asked to make later."""

    def cancel(self) -> None:
        """Call it off."""


class TimeReactor(Protocol):
    """The part of Twisted's IReactorTime a pacer needs; its declarations carry no types a checker can use."""

    def seconds(self) -> float:
        """Return the reactor's time in seconds."""

    def callLater(self, delay: float, call: Callable[[], None], /) -> PendingCall:  # noqa: N802 - Twisted's name
        """Call `call` in `delay` seconds."""


class Paced(Protocol):
    """What a pacer drives."""

    def paced(self, skipped: int) -> None:
        """Pass one packet time; `skipped` ones before it went by unused."""


class Pacer:
    """Calls every :class:`Paced` once per packet time of `reactor`'s clock; runs only while somebody is registered."""

    def __init__(self, reactor: TimeReactor, interval: float = PACKET_TIME, phases: int = PHASES) -> None:
        self._reactor = reactor
        self._slot = interval / phases
        self._groups: list[dict[Paced, None]] = [{} for _ in range(phases)]
        self._started = 0.0
        self._slots_done = 0
        self._timer: PendingCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    def add(self, paced: Paced) -> Callable[[], None]:
        """Start ticking `paced`; the returned function stops it."""
        group = min(self._groups, key=len)
        group[paced] = None
        if self._timer is None:
            self._started = self._reactor.seconds()
            self._slots_done = 0
            self._timer = self._reactor.callLater(self._slot, self._run)

        def remove() -> None:
            group.pop(paced, None)
            if self._timer is not None and not len(self):
                self._timer.cancel()
                self._timer = None

        return remove

    def _run(self) -> None:
        self._timer = None
        due = int((self._reactor.seconds() - self._started) / self._slot + 1e-6)
        phases = len(self._groups)
        skipped = 0
        if due - self._slots_done > MAXIMUM_CATCH_UP * phases:
            skipped = (due - self._slots_done) // phases - 1
            self._slots_done += skipped * phases
        first_skipping = self._slots_done + phases
        while self._slots_done < due:
            self._slots_done += 1
            for paced in tuple(self._groups[self._slots_done % phases]):
                paced.paced(skipped if self._slots_done <= first_skipping else 0)
        if len(self) and self._timer is None:
            target = self._started + (self._slots_done + 1) * self._slot
            self._timer = self._reactor.callLater(max(0.0, target - self._reactor.seconds()), self._run)


_PACERS: "WeakValueDictionary[int, Pacer]" = WeakValueDictionary()


def pacer_of(reactor: TimeReactor) -> Pacer:
    """Return the one pacer of a reactor; it lives as long as an endpoint holds it."""
    pacer = _PACERS.get(id(reactor))  # a living pacer holds its reactor, so the id is not another's
    if pacer is None:
        pacer = _PACERS[id(reactor)] = Pacer(reactor)
    return pacer
