"""At-most-once: the outcome of a transaction is kept and given again to whoever repeats it (IQ-1)."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from nodes.imsagw.errors import UNAVAILABLE, iq_error
from sba.errors import ProblemError

_R = TypeVar("_R", bound=Message)


@dataclass(slots=True)
class _Entry(Generic[_R]):
    digest: bytes
    until: float
    outcome: "asyncio.Future[_R]"


class TransactionCache(Generic[_R]):
    """Outcomes of one method by IMS-ALG and tx_id, kept `lifetime_s` seconds of `clock`."""

    def __init__(self, clock: Callable[[], float], lifetime_s: float = 60.0) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._entries: dict[tuple[str, str], _Entry[_R]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def once(self, owner: str, tx_id: str, request: Message, run: Callable[[], Awaitable[_R]]) -> _R:
        """Run the transaction, or wait for the outcome of its first run and give that, answer or error.

        Raises ProblemError IQ_442 when the tx_id is missing, or came with another request before.
        """
        if not tx_id:
            raise iq_error("442", "tx_id is missing")
        now = self._clock()
        self._forget(now)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        entry = self._entries.get((owner, tx_id))
        if entry is None:
            task = asyncio.ensure_future(run())
            entry = self._entries[owner, tx_id] = _Entry(digest, now + self._lifetime_s, task)
            task.add_done_callback(lambda done: self._ended((owner, tx_id), done))
        elif entry.digest != digest:
            raise iq_error("442", "tx_id was used for another request")
        return await asyncio.shield(entry.outcome)

    def _ended(self, name: tuple[str, str], done: "asyncio.Future[_R]") -> None:
        """Keep an error like an answer, but not that the packet loop was away: nothing came of the transaction."""
        fault = None if done.cancelled() else done.exception()
        if isinstance(fault, ProblemError) and fault.cause == UNAVAILABLE:
            self._entries.pop(name, None)

    def _forget(self, now: float) -> None:
        """Drop what is too old; entries are in order of age."""
        while self._entries:
            oldest = next(iter(self._entries))
            if self._entries[oldest].until > now:
                return
            del self._entries[oldest]
