"""The location service: registrations in memory, the same in the store, and their end (RFC 3261 10, SC-9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

from nodes.cscf.registrar import ContactEvent, expire
from nodes.cscf.registration import Binding, Registration
from signalling.sip.connection import Clock, DelayedCall

ContactEvents = tuple[tuple[Binding, ContactEvent], ...]
Listener = Callable[[Registration, ContactEvents], None]
"""Told of every change: the registration as it is now (no bindings: it ended) and what happened to which contact."""

EXPIRY_GRACE = 1.0
"""Seconds after which an expired binding is swept, so that one sweep takes several."""


class RecordTable(Protocol):
    """What the location service needs of a store table: JSON records by key."""

    async def put(self, key: str, value: dict[str, object]) -> None:
        """Write durably."""

    async def delete(self, key: str) -> None:
        """Forget; no error when absent."""

    async def items(self) -> Iterable[tuple[str, dict[str, object]]]:
        """Everything written."""


class LocationService:
    """Registrations by private identity, public identity and Service-Route token.

    ``now`` gives seconds since the epoch. ``ended`` is awaited with every registration that expired.
    """

    def __init__(
        self,
        table: RecordTable,
        clock: Clock,
        now: Callable[[], float],
        spawn: Callable[[Awaitable[None]], object],
        ended: Callable[[Registration], Awaitable[None]],
    ) -> None:
        self._table = table
        self._clock = clock
        self._now = now
        self._spawn = spawn
        self._ended = ended
        self._by_impi: dict[str, Registration] = {}
        self._impi_of: dict[str, str] = {}
        self._impi_of_token: dict[str, str] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._listeners: list[Listener] = []
        self._timer: DelayedCall | None = None
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._by_impi)

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    async def load(self) -> int:
        """Read what an earlier life of this node left; returns the number of registrations found.

        Records that cannot be read are dropped. Bindings that expired meanwhile go with the first sweep.
        """
        for key, record in list(await self._table.items()):
            try:
                registration = Registration.from_record(record)
            except (KeyError, TypeError, ValueError):
                await self._table.delete(key)
                continue
            self._index(registration)
        self._schedule(self._by_impi.values())
        return len(self._by_impi)

    def close(self) -> None:
        """Stop the expiry timer; the store keeps everything."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def by_impi(self, impi: str) -> Registration | None:
        """The live registration of a private identity."""
        return self._alive(self._by_impi.get(impi))

    def by_impu(self, impu: str) -> Registration | None:
        """The live registration of a canonical public identity."""
        return self.by_impi(self._impi_of[impu]) if impu in self._impi_of else None

    def by_token(self, token: str) -> Registration | None:
        """The live registration a Service-Route token stands for."""
        return self.by_impi(self._impi_of_token[token]) if token in self._impi_of_token else None

    @asynccontextmanager
    async def lock(self, impi: str) -> AsyncIterator[None]:
        """Handle the requests of one private identity one after another (RFC 3261 10.3: in order and atomically)."""
        lock, waiting = self._locks.get(impi, (asyncio.Lock(), 0))
        self._locks[impi] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            _, waiting = self._locks[impi]
            if waiting == 1:
                del self._locks[impi]
            else:
                self._locks[impi] = (lock, waiting - 1)

    async def save(self, registration: Registration, events: ContactEvents) -> None:
        """Make a registration durable, then visible, then tell the listeners. Without bindings it ends.

        Raises what the store raises; then nothing changed.
        """
        if registration.bindings:
            await self._table.put(registration.impi, registration.to_record())
            self._index(registration)
        else:
            await self._table.delete(registration.impi)
            self._forget(registration.impi)
        self._schedule([registration])
        for listener in self._listeners:
            listener(registration, events)

    def _alive(self, registration: Registration | None) -> Registration | None:
        return registration if registration is not None and registration.live(self._now()) else None

    def _index(self, registration: Registration) -> None:
        self._forget(registration.impi)
        self._by_impi[registration.impi] = registration
        self._impi_of_token[registration.token] = registration.impi
        for identity in registration.profile.identities:
            self._impi_of[identity.uri] = registration.impi

    def _forget(self, impi: str) -> None:
        old = self._by_impi.pop(impi, None)
        if old is None:
            return
        self._impi_of_token.pop(old.token, None)
        for identity in old.profile.identities:
            if self._impi_of.get(identity.uri) == impi:
                del self._impi_of[identity.uri]

    def _schedule(self, registrations: Iterable[Registration]) -> None:
        """Have the sweep run soon after the first of these bindings ends; an earlier sweep is good enough."""
        ends = [binding.expires_at for registration in registrations for binding in registration.bindings]
        if not ends:
            return
        delay = max(0.0, min(ends) - self._now()) + EXPIRY_GRACE
        if self._timer is not None and self._timer.active():
            if self._due <= self._clock.seconds() + delay:
                return
            self._timer.cancel()
        self._due = self._clock.seconds() + delay
        self._timer = self._clock.callLater(delay, self._sweep_due)

    def _sweep_due(self) -> None:
        self._timer = None
        self._spawn(self.sweep())

    async def sweep(self) -> None:
        """End what has expired (RFC 3261 10.3: a binding not refreshed goes)."""
        now = self._now()
        due = [
            impi
            for impi, registration in self._by_impi.items()
            if any(binding.expires_at <= now for binding in registration.bindings)
        ]
        for impi in due:
            async with self.lock(impi):
                registration = self._by_impi.get(impi)
                if registration is None:
                    continue
                change = expire(registration.bindings, self._now())
                if not change.events:
                    continue
                changed = registration.with_bindings(change.bindings)
                await self.save(changed, change.events)
                if not changed.bindings:
                    await self._ended(changed)
        self._schedule(self._by_impi.values())
