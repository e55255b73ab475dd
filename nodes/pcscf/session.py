"""One session through the edge: which UE, which dialogs, which media; it outlives a restart (HOP-7)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodes.pcscf.bindings import Table
from nodes.pcscf.dialogs import EdgeDialog
from nodes.pcscf.flowtoken import FlowAddress
from nodes.pcscf.forwarding import Forwarding
from nodes.pcscf.media_plan import AlgPolicy, Side
from nodes.pcscf.session_media import SessionMedia
from signalling.sip.message import SipMessage


@dataclass(slots=True)
class Session:
    """A session leg at this edge; `caller` is the side the INVITE came from."""

    id: str
    call_id: str
    caller: Side
    registration: str
    """Id of the UE's registration; empty for an unregistered emergency caller."""
    flow: FlowAddress
    role: str
    """Role of the listener towards the UE."""
    record_route: tuple[str, ...]
    """This node's own Record-Route URIs, top first."""
    media: SessionMedia
    policy: AlgPolicy
    owner: str = ""
    """Whose session it is for `Admission`: private identity, or address of an unregistered emergency caller."""
    peer: str = ""
    """Who calls the UE, as the core asserts it; not stored, it counts while the call is unanswered."""
    icid: str = ""
    emergency: bool = False
    traced: bool = False
    trace: str = ""
    """`traceparent` of the first span of the call here: what comes after a restart is linked to it."""
    dialogs: dict[str, EdgeDialog] = field(default_factory=dict)
    """By the callee's tag."""
    invite: Forwarding | None = None
    """The INVITE under way."""
    offering: int = 0
    """Requests inside the dialogs under way that may bring an offer, of either side."""
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def confirmed(self) -> EdgeDialog | None:
        """The dialog that was answered."""
        return next((dialog for dialog in self.dialogs.values() if dialog.confirmed), None)

    def dialog_for(self, message: SipMessage, sender: Side) -> EdgeDialog | None:
        """The dialog a message from `sender` belongs to."""
        return next((dialog for dialog in self.dialogs.values() if dialog.belongs(message, sender)), None)

    def to_dict(self) -> dict[str, Any]:
        """A JSON form for the store; holds no key."""
        return {
            "call_id": self.call_id,
            "caller": str(self.caller),
            "registration": self.registration,
            "flow": self.flow.text(),
            "role": self.role,
            "record_route": list(self.record_route),
            "media": self.media.to_dict(),
            "owner": self.owner,
            "icid": self.icid,
            "emergency": self.emergency,
            "traced": self.traced,
            "trace": self.trace,
            "dialogs": {tag: dialog.to_dict() for tag, dialog in self.dialogs.items()},
        }


class Sessions:
    """Every session of this edge, found by id; changes go to the store."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._all: dict[str, Session] = {}
        self._owned: dict[str, dict[str, Session]] = {}

    @staticmethod
    def new_id() -> str:
        """An id nobody can guess."""
        return secrets.token_hex(8)

    async def load(self, build: Callable[[str, Mapping[str, Any]], Session]) -> int:
        """Read what an earlier run left; returns how many."""
        for key, stored in await self._table.items():
            try:
                self.add(build(key, stored))
            except (KeyError, TypeError, ValueError):
                await self._table.delete(key)
        return len(self._all)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def get(self, identifier: str) -> Session | None:
        """The session of that id."""
        return self._all.get(identifier)

    def add(self, session: Session) -> None:
        """Know a session; it is stored by `save`."""
        self._all[session.id] = session
        self.enter(session)

    def enter(self, session: Session) -> None:
        """Count a session as its owner's, before it is known to anybody."""
        self._owned.setdefault(session.owner, {})[session.id] = session

    def leave(self, session: Session) -> None:
        """Count it no more."""
        owned = self._owned.get(session.owner, {})
        owned.pop(session.id, None)
        if not owned:
            self._owned.pop(session.owner, None)

    def of_owner(self, owner: str, caller: Side) -> list[Session]:
        """The sessions of one owner that `caller`'s side began, those under way among them."""
        return [session for session in self._owned.get(owner, {}).values() if session.caller is caller]

    async def save(self, session: Session) -> None:
        """Write a session to the store."""
        if not session.ended:
            await self._table.put(session.id, session.to_dict())

    async def remove(self, session: Session) -> None:
        """Forget a session."""
        session.ended = True
        self.leave(session)
        if self._all.pop(session.id, None) is not None:
            await self._table.delete(session.id)

    def of_registration(self, identifier: str) -> list[Session]:
        """The sessions of one registration."""
        return [session for session in self._all.values() if session.registration == identifier]

    def of_context(self, gateway: str, context_id: str) -> Session | None:
        """The session a gateway's context belongs to."""
        for session in self._all.values():
            context = session.media.context
            if context is not None and (context.agw, context.context_id) == (gateway, context_id):
                return session
        return None
