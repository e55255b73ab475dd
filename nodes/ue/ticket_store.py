"""The tickets of a UE: which are at hand, which call may use which, and their sealed memory (TS 33.328 6.2.3.7)."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from keying.mikey.codec import encode_ticket
from keying.mikey.errors import MikeyError
from keying.mikey.identity import Identity
from keying.mikey.ticket import Ticket, ticket_id
from keying.secret import Secret

MARGIN_S = 10.0
"""A ticket that ends sooner begins no call: the far end has to resolve it first."""


@dataclass
class HeldTicket:
    """A ticket with what the control service tells of it. `uses` counts the calls it served.

    `psk` is the key its request was protected with; kept only where the lab exports keys.
    """

    ticket: Ticket
    kms: str
    uses: int = 0
    request_init: bytes = b""
    request_resp: bytes = b""
    trace_id: str = ""
    psk: Secret | None = field(default=None, repr=False)
    ticket_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.ticket_id = ticket_id(self.ticket.payload)

    @property
    def octets(self) -> bytes:
        """The TICKET payload without next-payload octet."""
        return encode_ticket(self.ticket.payload)

    def spent(self, now: float) -> bool:
        """Tell whether no call can use it any more: it ended, or it served its one call (flag J, RFC 6043 5.3)."""
        end = self.ticket.validity.end
        return (end is not None and end < now + MARGIN_S) or (self.uses > 0 and not self.ticket.reusable)

    def usable(self, now: float) -> bool:
        """Tell whether a call may use it now."""
        return not self.spent(now) and self.ticket.validity.covers(now)

    def names(self, responders: Iterable[Identity]) -> bool:
        """Tell whether it names these responders and nobody else: more could answer than the call wants."""
        return {each.normalised() for each in self.ticket.responders} == {each.normalised() for each in responders}


class Vault(Protocol):
    """Where tickets are kept over a restart; every value is sealed before it is stored."""

    async def load(self) -> list[tuple[str, bytes]]:
        """Return name and content of all; what cannot be opened is left out."""

    async def save(self, name: str, content: bytes) -> None:
        """Keep a content under a name."""

    async def delete(self, name: str) -> None:
        """Forget a name."""


class NoVault:
    """Keeps nothing over a restart."""

    async def load(self) -> list[tuple[str, bytes]]:
        """Return nothing."""
        return []

    async def save(self, name: str, content: bytes) -> None:
        """Keep nothing."""

    async def delete(self, name: str) -> None:
        """Nothing is there."""


class TicketStore:
    """Tickets by id; `most` are kept, the one used longest ago goes first."""

    def __init__(self, vault: Vault, most: int) -> None:
        self._vault = vault
        self._most = most
        self._held: OrderedDict[str, HeldTicket] = OrderedDict()

    def __iter__(self) -> Iterator[HeldTicket]:
        return iter(list(self._held.values()))

    async def open(self, now: float) -> None:
        """Read what an earlier life kept; what has ended meanwhile is dropped."""
        for name, content in await self._vault.load():
            held = _from_content(content)
            if held is None or held.spent(now):
                await self._vault.delete(name)
            else:
                self._held[held.ticket_id] = held

    def get(self, name: str) -> HeldTicket | None:
        """Return a ticket by its id."""
        return self._held.get(name)

    def find(
        self, responders: Iterable[Identity], initiator: Identity, now: float, *, forking: bool
    ) -> HeldTicket | None:
        """Return a ticket of `initiator` for exactly these responders that a call may use now."""
        wanted = list(responders)
        for held in reversed(self._held.values()):
            mine = held.ticket.initiator is None or held.ticket.initiator.same(initiator)
            if mine and held.usable(now) and held.names(wanted) and held.ticket.forking is forking:
                return held
        return None

    async def add(self, held: HeldTicket, now: float) -> None:
        """Keep a ticket; those that are spent, and the oldest beyond the limit, go."""
        self._held[held.ticket_id] = held
        gone = [name for name, one in self._held.items() if one.spent(now) and one is not held]
        gone += list(self._held)[: max(0, len(self._held) - len(gone) - self._most)]
        for name in gone:
            if self._held.pop(name, None) is not None:
                await self._vault.delete(name)
        await self._vault.save(held.ticket_id, _to_content(held))

    def take(self, held: HeldTicket) -> None:
        """Count a use at once, so that no other call takes the same single-use ticket; :meth:`keep` stores it."""
        held.uses += 1
        self._held[held.ticket_id] = held
        self._held.move_to_end(held.ticket_id)

    async def keep(self, held: HeldTicket) -> None:
        """Store how often a ticket was used; keys of a single-use ticket leave the disk with their use."""
        if held.ticket.reusable:
            await self._vault.save(held.ticket_id, _to_content(held))
        else:
            await self._vault.delete(held.ticket_id)


def _to_content(held: HeldTicket) -> bytes:
    kept = {
        "ticket": dict(held.ticket.to_record()),
        "kms": held.kms,
        "uses": held.uses,
        "request_init": base64.b64encode(held.request_init).decode(),
        "request_resp": base64.b64encode(held.request_resp).decode(),
        "trace_id": held.trace_id,
        "psk": held.psk.reveal().hex() if held.psk is not None else "",
    }
    return json.dumps(kept).encode()


def _from_content(content: bytes) -> HeldTicket | None:
    try:
        kept = json.loads(content)
        return HeldTicket(
            Ticket.from_record(kept["ticket"]),
            str(kept["kms"]),
            int(kept["uses"]),
            base64.b64decode(kept["request_init"]),
            base64.b64decode(kept["request_resp"]),
            str(kept["trace_id"]),
            Secret(bytes.fromhex(kept["psk"])) if kept.get("psk") else None,
        )
    except (MikeyError, ValueError, TypeError, KeyError):
        return None
