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
    """One numbered sequence for the gateway, one queue per IMS-ALG.

    What happened is kept for a while. What a context waits for (`rekey_needed`) is kept until it has it, however many
    contexts wait, and is not told again after that: it would end or disturb a call that is well.
    """

    def __init__(self) -> None:
        # above those of an earlier life of this gateway, after the last of which an IMS-ALG goes on to ask
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        self._kept: dict[str, deque[Notification]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._unsettled: dict[str, dict[tuple[str, str], Notification]] = defaultdict(dict)
        """By IMS-ALG, then by context and termination."""
        self._newest: dict[str, int] = defaultdict(int)
        self._waiting: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def add(self, owner: str, notification: Notification) -> None:
        """Number a notification and deliver it to `owner`."""
        notification.event_id = self._newest[owner] = next(self._numbers)
        if notification.WhichOneof("event") == "rekey_needed":
            self._unsettled[owner][notification.context_id, notification.termination_id] = notification
        else:
            self._kept[owner].append(notification)
        self._wake(owner)

    def settle(self, owner: str, context_id: str) -> None:
        """Forget what a context waited for: it has it, or there is no such context any more."""
        unsettled = self._unsettled[owner]
        for name in [name for name in unsettled if name[0] == context_id]:
            del unsettled[name]

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

    def _after(self, owner: str, last_event_id: int) -> list[Notification]:
        told = [*self._kept[owner], *self._unsettled[owner].values()]
        return sorted((each for each in told if each.event_id > last_event_id), key=lambda each: each.event_id)

    async def follow(self, owner: str, last_event_id: int) -> AsyncIterator[Notification]:
        """Yield what comes after `last_event_id`, for ever. A number from the future starts at the beginning."""
        self.know(owner)
        if last_event_id > self._newest[owner] > 0:
            last_event_id = 0  # the IMS-ALG remembers an earlier life of this gateway
        while True:
            waiting, newest = self._waiting[owner], self._newest[owner]
            for notification in self._after(owner, last_event_id):
                last_event_id = notification.event_id
                yield notification
            last_event_id = max(last_event_id, newest)
            if self._newest[owner] <= last_event_id:
                await waiting.wait()
