"""Ticket protection keys: one seals, those before it open until the last ticket under them has ended (RFC 6043 4.1)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from keying.mikey.ticket import TicketProtectionKey
from keying.secret import Secret
from nodes.kms.store import KmsStore, StoredTicketKey

KEY_OCTETS: Final = 32
"""Length of a ticket protection key, enough for either suite (RFC 6043 12.1)."""


class TicketKeyRing:
    """The keys of a KMS in memory, each on disk before it seals anything.

    `ticket_life_s`: the longest time from the making of a ticket to its end.
    """

    def __init__(
        self,
        store: KmsStore,
        *,
        rotation_s: float,
        ticket_life_s: float,
        id_octets: int,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._rotation_s = rotation_s
        self._ticket_life_s = ticket_life_s
        self._id_octets = id_octets
        self._entropy = entropy
        self._keys: dict[bytes, StoredTicketKey] = {}
        self._current: StoredTicketKey | None = None

    def __len__(self) -> int:
        return len(self._keys)

    async def load(self, now: float) -> None:
        """Read what an earlier life left and make the first key when there is none.

        Raises ``StoreError`` when a key does not open: without it, tickets that were given out would be lost.
        """
        for stored in await self._store.ticket_keys():
            self._keys[stored.key_id] = stored
            if stored.forget_at is None:
                self._current = stored
        if self._current is not None and self._current.life_s < self._ticket_life_s:
            await self._store.lengthen_ticket_life(self._current.key_id, self._ticket_life_s)
            self._current = self._keys[self._current.key_id] = replace(self._current, life_s=self._ticket_life_s)
        await self.turn(now)

    @property
    def current(self) -> TicketProtectionKey:
        """The key that seals."""
        assert self._current is not None, "load comes first"
        return TicketProtectionKey(self._current.key_id, self._current.key)

    def find(self, key_id: bytes) -> Secret | None:
        """The key of that identifier, while its tickets may live."""
        stored = self._keys.get(key_id)
        return None if stored is None else stored.key

    async def turn(self, now: float) -> bool:
        """Replace the key when it is old enough and drop those without living tickets; True when one was replaced."""
        for key_id, stored in tuple(self._keys.items()):
            if stored.forget_at is not None and stored.forget_at < now:
                del self._keys[key_id]
        if self._current is not None and now - self._current.made_at < self._rotation_s:
            return False
        await self.rotate(now)
        return True

    async def rotate(self, now: float) -> TicketProtectionKey:
        """Replace the key now; tickets under the one before go on being resolved."""
        key_id, key = self._entropy(self._id_octets), Secret(self._entropy(KEY_OCTETS))
        fresh = StoredTicketKey(key_id, key, now, self._ticket_life_s, None)
        await self._store.replace_ticket_key(fresh)
        for older_id, older in self._keys.items():
            if older.forget_at is None:
                self._keys[older_id] = replace(older, forget_at=now + older.life_s)
        self._keys[fresh.key_id] = fresh
        self._current = fresh
        return self.current
