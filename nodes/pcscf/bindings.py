"""The registrations of this edge: who is behind which flow, and what was agreed with it. They outlive a restart."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from nodes.pcscf.flowtoken import FlowAddress
from nodes.pcscf.mediasec import Agreement, AgreementState
from nodes.pcscf.satable import SecurityAssociation
from nodes.pcscf.scheme import Scheme

_Place = TypeVar("_Place", str, FlowAddress)


class Table(Protocol):
    """What is needed of a key-value table of the store."""

    async def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Store an object."""

    async def delete(self, key: str) -> None:
        """Remove an object."""

    async def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Everything stored."""


@dataclass(slots=True)
class Registration:
    """One UE's binding as this node sees it."""

    impi: str
    impu: str
    """Public identity of the To header."""
    contact: str
    """Contact URI."""
    instance: str
    """`+sip.instance`, or empty."""
    flow: FlowAddress
    scheme: Scheme
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    call_id: str = ""
    expires_at: float = 0.0
    """Seconds since the epoch; 0: not registered yet."""
    identities: tuple[str, ...] = ()
    """P-Associated-URI; the first is the default identity."""
    service_route: tuple[str, ...] = ()
    server: str = ""
    """Security-Server the UE has to echo."""
    agreement: Agreement = field(default_factory=Agreement)
    encrypted: bool = False
    traced: bool = False
    """The UE takes part in tracing."""
    core_policy: str = ""
    core_sessions: int = 0
    """Sessions the S-CSCF allows at once; 0: it named no limit."""
    icid: str = ""
    term_ioi: str = ""
    association: SecurityAssociation | None = None

    @property
    def registered(self) -> bool:
        """A REGISTER was answered 200 and the binding was not ended."""
        return self.expires_at > 0

    @property
    def default_identity(self) -> str:
        """The identity asserted when the UE prefers none."""
        return self.identities[0] if self.identities else self.impu

    def to_dict(self) -> dict[str, Any]:
        """A JSON form for the store; holds no key."""
        return {
            "impi": self.impi,
            "impu": self.impu,
            "contact": self.contact,
            "instance": self.instance,
            "flow": self.flow.text(),
            "scheme": str(self.scheme),
            "id": self.id,
            "call_id": self.call_id,
            "expires_at": self.expires_at,
            "identities": list(self.identities),
            "service_route": list(self.service_route),
            "server": self.server,
            "agreement": [str(self.agreement.state), list(self.agreement.client), list(self.agreement.server)],
            "encrypted": self.encrypted,
            "traced": self.traced,
            "core_policy": self.core_policy,
            "core_sessions": self.core_sessions,
            "icid": self.icid,
            "term_ioi": self.term_ioi,
            "association": self.association.to_dict() if self.association else None,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Registration:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for foreign data."""
        state, client, server = stored["agreement"]
        return cls(
            impi=stored["impi"],
            impu=stored["impu"],
            contact=stored["contact"],
            instance=stored["instance"],
            flow=FlowAddress.read(stored["flow"]),
            scheme=Scheme(stored["scheme"]),
            id=stored["id"],
            call_id=stored["call_id"],
            expires_at=float(stored["expires_at"]),
            identities=tuple(stored["identities"]),
            service_route=tuple(stored["service_route"]),
            server=stored["server"],
            agreement=Agreement(AgreementState(state), tuple(client), tuple(server)),
            encrypted=bool(stored["encrypted"]),
            traced=bool(stored["traced"]),
            core_policy=stored["core_policy"],
            core_sessions=int(stored.get("core_sessions", 0)),
            icid=stored["icid"],
            term_ioi=stored["term_ioi"],
            association=SecurityAssociation.from_dict(stored["association"]) if stored["association"] else None,
        )


class Bindings:
    """Every registration, found by id, by flow, by user; changes go to the store. `now`: seconds since the epoch.

    Only who proved himself gets in here: what comes before is in `nodes.pcscf.pending`.
    """

    def __init__(self, table: Table, now: Callable[[], float]) -> None:
        self._table = table
        self._now = now
        self._all: dict[str, Registration] = {}
        self._by_user: dict[str, dict[str, Registration]] = {}
        self._by_flow: dict[FlowAddress, dict[str, Registration]] = {}
        self._places: dict[str, tuple[str, FlowAddress]] = {}

    async def load(self) -> int:
        """Read what an earlier run left; returns how many are alive."""
        for key, stored in await self._table.items():
            try:
                found = Registration.from_dict(stored)
            except (KeyError, TypeError, ValueError):
                await self._table.delete(key)
                continue
            if found.registered:
                self._enter(found)
            else:
                await self._table.delete(key)
        return len(self._all)

    def __iter__(self) -> Iterator[Registration]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    async def save(self, registration: Registration) -> None:
        """Keep a registration; returns when it is on disk."""
        self._enter(registration)
        await self._table.put(registration.id, registration.to_dict())

    async def remove(self, registration: Registration) -> None:
        """Forget a registration."""
        if self._all.pop(registration.id, None) is None:
            return
        self._leave(registration.id)
        await self._table.delete(registration.id)

    def _enter(self, registration: Registration) -> None:
        place = (registration.impi, registration.flow)
        if self._places.get(registration.id) != place:
            self._leave(registration.id)
            self._places[registration.id] = place
            self._by_user.setdefault(place[0], {})[registration.id] = registration
            self._by_flow.setdefault(place[1], {})[registration.id] = registration
        self._all[registration.id] = registration

    def _leave(self, identifier: str) -> None:
        impi, flow = self._places.pop(identifier, (None, None))
        if impi is None or flow is None:
            return
        _take_out(self._by_user, impi, identifier)
        _take_out(self._by_flow, flow, identifier)

    def get(self, identifier: str) -> Registration | None:
        """The registration of that id."""
        return self._all.get(identifier)

    def alive(self, registration: Registration) -> bool:
        """Registered and not run out."""
        return registration.expires_at > self._now()

    def of_device(self, call_id: str, impi: str, contact: str, instance: str) -> Registration | None:
        """The registration a REGISTER is about: same user, and same device, contact or Call-ID."""
        for one in self._by_user.get(impi, {}).values():
            if (instance and one.instance == instance) or one.contact == contact or one.call_id == call_id:
                return one
        return None

    def on_flow(self, flow: FlowAddress) -> list[Registration]:
        """The live registrations that came over this flow."""
        return [one for one in self._by_flow.get(flow, {}).values() if one.flow == flow and self.alive(one)]

    def of_impi(self, impi: str) -> list[Registration]:
        """The live registrations of a user."""
        return [one for one in self._by_user.get(impi, {}).values() if self.alive(one)]

    def expired(self) -> list[Registration]:
        """Registrations that ran out."""
        now = self._now()
        return [one for one in self._all.values() if one.expires_at <= now]


def _take_out(index: dict[_Place, dict[str, Registration]], place: _Place, identifier: str) -> None:
    held = index.get(place)
    if held is not None:
        held.pop(identifier, None)
        if not held:
            del index[place]
