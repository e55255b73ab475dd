"""Notifications to IMS-ALGs: numbered, kept for a while, delivered again after a lost stream."""

import asyncio
import itertools
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from protos.iq_pb2 import Notification

KEPT = 1000
"""Notifications kept for an IMS-ALG that is away."""


class NotificationLog:
    """One numbered sequence for the gateway, one queue per IMS-ALG."""

    def __init__(self) -> None:
        # above those of an earlier life of this gateway, after the last of which an IMS-ALG goes on to ask
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        self._kept: dict[str, deque[Notification]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._waiting: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def add(self, owner: str, notification: Notification) -> None:
        """Number a notification and deliver it to `owner`."""
        notification.event_id = next(self._numbers)
        self._kept[owner].append(notification)
        self._wake(owner)

    def add_for_all(self, notification: Notification) -> None:
        """Deliver a notification to every IMS-ALG that was ever here."""
        for owner in list(self._kept):
            copy = Notification()
            copy.CopyFrom(notification)
            self.add(owner, copy)

    def know(self, owner: str) -> None:
        """Note an IMS-ALG, so that it hears what is meant for all."""
        self._kept[owner]  # the queue is made on first use

    def _wake(self, owner: str) -> None:
        self._waiting[owner].set()
        self._waiting[owner] = asyncio.Event()

    async def follow(self, owner: str, last_event_id: int) -> AsyncIterator[Notification]:
        """Yield what comes after `last_event_id`, for ever. A number from the future starts at the beginning."""
        self.know(owner)
        kept = self._kept[owner]
        if kept and last_event_id > kept[-1].event_id:
            last_event_id = 0  # the IMS-ALG remembers an earlier life of this gateway
        while True:
            waiting = self._waiting[owner]
            for notification in [each for each in kept if each.event_id > last_event_id]:
                last_event_id = notification.event_id
                yield notification
            if not kept or kept[-1].event_id <= last_event_id:
                await waiting.wait()
