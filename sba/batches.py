"""A bounded queue in front of an exporter: whoever reports never waits, what does not fit is counted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batches(Generic[T]):
    """Collects items and hands them to ``send`` in batches, from a thread of its own.

    ``send`` tells whether a batch arrived; one that did not is lost and counted. Items past ``room`` are lost too.
    ``interval_s`` is how long an item waits at most before its batch is sent.
    """

    def __init__(self, send: Callable[[list[T]], bool], *, name: str, room: int, batch: int, interval_s: float) -> None:
        self._send = send
        self._room = room
        self._batch = batch
        self._interval_s = interval_s
        self._items: deque[T] = deque()
        self._wake = threading.Event()
        self._sending = threading.Lock()
        self._closed = False
        self.sent = 0
        self.lost: dict[str, int] = {"queue_full": 0, "export_failed": 0}
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._items)

    def add(self, item: T) -> None:
        """Queue an item; never waits."""
        if len(self._items) >= self._room or self._closed:
            self.lost["queue_full"] += 1
            return
        self._items.append(item)
        if len(self._items) >= self._batch and not self._wake.is_set():
            self._wake.set()

    def flush(self) -> bool:
        """Send what waits now, from the caller's thread; tells whether all of it arrived."""
        arrived = True
        with self._sending:
            while self._items:
                items = [self._items.popleft() for _ in range(min(self._batch, len(self._items)))]
                if self._send(items):
                    self.sent += len(items)
                else:
                    self.lost["export_failed"] += len(items)
                    arrived = False
        return arrived

    def close(self) -> None:
        """Send what waits and end the thread."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self.flush()
        self.flush()
