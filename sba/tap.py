"""Where the messages of a node can be watched: bounded queues between what the node does and who captures it.

Whoever handles messages asks :meth:`Tap.wants` first and renders nothing unless somebody watches. A reader that falls
behind loses messages, and is told how many; the node never waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

from protos import capture_pb2

MOST_READERS = 4
"""Captures of one node at the same time."""
MOST_MESSAGES = 4096
"""Messages that may wait for a slow reader."""
MOST_OCTETS = 8 << 20
"""Octets of messages that may wait for a slow reader."""
KINDS = frozenset({capture_pb2.CAPTURE_SIP, capture_pb2.CAPTURE_SBA, capture_pb2.CAPTURE_HTTPS})
"""What can be watched."""
_OVERHEAD = 200

Render = Callable[[bool], capture_pb2.CapturedMessage]
"""Makes the message; the argument says whether keys that the lab exports may stand in it."""


class TooManyReadersError(Exception):
    """The node is being captured as often as it may be."""


class TapReader:
    """One capture of a node."""

    def __init__(self, kinds: frozenset[int], *, with_keys: bool) -> None:
        self.kinds = kinds
        self.with_keys = with_keys
        self.lost = 0
        self._waiting: deque[capture_pb2.CapturedMessage] = deque()
        self._octets = 0
        self._arrived = asyncio.Event()

    def put(self, message: capture_pb2.CapturedMessage) -> None:
        """Take a message, or count it as lost where too much waits already."""
        size = _size(message)
        if len(self._waiting) >= MOST_MESSAGES or self._octets + size > MOST_OCTETS:
            self.lost += 1
        else:
            self._waiting.append(message)
            self._octets += size
        self._arrived.set()

    async def items(self) -> AsyncIterator[capture_pb2.NodeCaptureItem]:
        """Yield what was taken, and after a gap how many messages are missing; goes on until it is closed."""
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                self._octets -= _size(message)
                yield capture_pb2.NodeCaptureItem(message=message)
            if self.lost:
                lost, self.lost = self.lost, 0
                yield capture_pb2.NodeCaptureItem(lost=capture_pb2.CaptureLoss(items=lost))
            if not self._waiting and not self.lost:
                self._arrived.clear()
                await self._arrived.wait()


def _size(message: capture_pb2.CapturedMessage) -> int:
    return len(message.payload) + len(message.sba.body) + _OVERHEAD


class Tap:
    """The messages of one node, for those who are allowed to watch."""

    def __init__(self) -> None:
        self._readers: set[TapReader] = set()
        self._wanted: frozenset[int] = frozenset()

    def wants(self, kind: int) -> bool:
        """Tell whether anybody watches messages of a kind."""
        return kind in self._wanted

    def put(self, kind: int, render: Render) -> None:
        """Give every reader of this kind a message; it is rendered once with and once without keys at most."""
        made: dict[bool, capture_pb2.CapturedMessage] = {}
        for reader in self._readers:
            if kind in reader.kinds:
                message = made.get(reader.with_keys)
                if message is None:
                    message = made[reader.with_keys] = render(reader.with_keys)
                reader.put(message)

    @contextmanager
    def reading(self, kinds: Iterable[int], *, with_keys: bool) -> Iterator[TapReader]:
        """Watch for the length of a block; no kinds are all. Raises :class:`TooManyReadersError`."""
        if len(self._readers) >= MOST_READERS:
            raise TooManyReadersError
        reader = TapReader(frozenset(kinds) & KINDS or KINDS, with_keys=with_keys)
        self._readers.add(reader)
        self._count()
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._count()

    def _count(self) -> None:
        self._wanted = frozenset().union(*(reader.kinds for reader in self._readers))
