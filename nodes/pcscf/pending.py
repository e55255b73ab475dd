"""Registration procedures under way: REGISTER, challenge, REGISTER (PC-3, PC-12). They do not outlive the process.

Whoever begins one has proved nothing yet. So a procedure is its sender's alone, each user has few of them per source
address, and there is an end to all of them: the oldest gives way, never a registration that stands.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nodes.pcscf.satable import SecurityAssociation

MAX_PENDING: Final = 10_000
"""Procedures under way at this node."""
MAX_PER_USER_AND_SOURCE: Final = 4
"""Procedures of one private identity from one address: a device, another behind the same NAT, and a retry of each."""

_Key = tuple[str, str, str]
"""Private identity, source address, Call-ID."""


@dataclass(slots=True)
class Procedure:
    """One procedure, from its first REGISTER on."""

    call_id: str
    client: str = ""
    """Security-Client as received."""
    server: str = ""
    """Security-Server as sent in the 401."""
    challenged: bool = False
    expires_at: float = 0.0
    association: SecurityAssociation | None = None


class Procedures:
    """The challenged procedures; `now` gives seconds since the epoch, `ended` hears of every one that is given up."""

    def __init__(
        self, now: Callable[[], float], ended: Callable[[Procedure], None], *, most: int = MAX_PENDING
    ) -> None:
        self._now = now
        self._ended = ended
        self._most = most
        self._all: OrderedDict[_Key, Procedure] = OrderedDict()
        self._of: dict[tuple[str, str], OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def find(self, impi: str, source: str, call_id: str) -> Procedure | None:
        """The live procedure a REGISTER belongs to."""
        found = self._all.get((impi, source, call_id))
        return found if found is not None and found.expires_at > self._now() else None

    def put(self, impi: str, source: str, procedure: Procedure) -> None:
        """Take in a procedure that was challenged; it takes the place of the earlier step, or of the oldest."""
        self.drop(impi, source, procedure.call_id)
        calls = self._of.get((impi, source), ())
        if len(calls) >= MAX_PER_USER_AND_SOURCE:
            self.drop(impi, source, next(iter(calls)))
        if len(self._all) >= self._most:
            self.drop(*next(iter(self._all)))
        self._all[impi, source, procedure.call_id] = procedure
        self._of.setdefault((impi, source), OrderedDict())[procedure.call_id] = None

    def drop(self, impi: str, source: str, call_id: str) -> None:
        """End a procedure: answered, failed or given up."""
        procedure = self._all.pop((impi, source, call_id), None)
        if procedure is None:
            return
        calls = self._of[impi, source]
        del calls[call_id]
        if not calls:
            del self._of[impi, source]
        self._ended(procedure)

    def expire(self) -> None:
        """End what nobody answered in time (reg-await-auth); all live equally long, so the oldest come first."""
        now = self._now()
        while self._all and next(iter(self._all.values())).expires_at <= now:
            self.drop(*next(iter(self._all)))
