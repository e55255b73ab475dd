"""Server-sent events: what happens in the lab, to every page that watches; the last of it to one that comes back.

Nothing is made into an event while nobody watches. A client that does not read is cut off when its share of the queue
is full: it comes back with ``Last-Event-ID`` and has the rest, or ``hello`` tells it to look at everything anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from lab.console.answers import Problem, encode

MOST_CLIENTS: Final = 16
"""Event streams at a time."""
MOST_WAITING: Final = 1000
"""Events a client may be behind before it is cut off."""
MOST_KEPT: Final = MOST_WAITING - 1
"""Past events that a client who comes back can have: with ``hello`` as many as may wait, or it would be cut at once."""
HEARTBEAT_S: Final = 15.0
"""Silence after which a comment is sent, so that a client that has gone is noticed, s."""
LINGER_S: Final = 10.0
"""How long events are still made for somebody who may come back, s."""


class Client:
    """One stream: the events that wait to be sent."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.news = asyncio.Event()
        self.cut = False

    def give(self, octets: bytes) -> None:
        """Queue one event; a client too far behind is cut off."""
        if len(self.waiting) >= MOST_WAITING:
            self.cut = True
        else:
            self.waiting.append(octets)
        self.news.set()

    async def next(self) -> bytes:
        """Return what is to be sent next; a comment after a silence. Empty: the stream is over."""
        if not self.waiting and not self.cut:
            self.news.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self.news.wait()
            except TimeoutError:
                return b": \n\n"
        if self.cut:
            return b""
        octets = b"".join(self.waiting)
        self.waiting.clear()
        return octets


class EventStream:
    """Gives every event a number and hands it to all clients."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clients: set[Client] = set()
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=MOST_KEPT)
        self._number = 0
        self._clock = clock
        self._left_at = float("-inf")
        self._gap = 0
        """Number of the last event that was not made because nobody watched."""
        self._over = False

    @property
    def watched(self) -> bool:
        """Whether anybody watches, or did a moment ago."""
        return bool(self._clients) or self._clock() - self._left_at < LINGER_S

    def send(self, name: str, document: object) -> None:
        """Make an event, unless nobody watches."""
        self._number += 1
        if not self.watched:
            self._gap = self._number
            return
        octets = _event(self._number, name, document)
        self._kept.append((self._number, octets))
        for client in self._clients:
            client.give(octets)

    def missed(self) -> None:
        """Note that something happened that nobody was told: who comes back has to look anew."""
        self._number += 1
        self._gap = self._number

    @contextmanager
    def watching(self, last_seen: str | None) -> Iterator[Client]:
        """Give a client its stream, beginning with ``hello``. Raises ``Problem`` 503: too many, or the end."""
        if self._over:
            raise Problem(503, "STOPPING", "the console stops")
        if len(self._clients) >= MOST_CLIENTS:
            raise Problem(503, "BUSY", f"{MOST_CLIENTS} pages watch already", (("Retry-After", "5"),))
        client = Client()
        missed = self._since(last_seen)
        client.give(_event(self._number, "hello", {"resumed": missed is not None, "seq": self._number}))
        for octets in missed or ():
            client.give(octets)
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)
            self._left_at = self._clock()

    def _since(self, last_seen: str | None) -> list[bytes] | None:
        """Return the events after that number, ``None`` when some of them are gone."""
        if last_seen is None or not last_seen.isascii() or not last_seen.isdigit() or len(last_seen) > 18:
            return None
        number = int(last_seen)
        oldest = self._kept[0][0] if self._kept else self._number + 1
        if number > self._number or number < self._gap or number + 1 < oldest:
            return None
        return [octets for each, octets in self._kept if each > number]

    def close(self) -> None:
        """End every stream; there are no more."""
        self._over = True
        for client in self._clients:
            client.cut = True
            client.news.set()


def _event(number: int, name: str, document: object) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode("ascii"), encode(document))
