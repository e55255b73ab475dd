"""Ticket protection keys: one seals, those before it open until the last ticket under them has ended (RFC 6043 4.1)."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Final

from keying.mikey.ticket import TicketProtectionKey
from keying.secret import Secret
from nodes.kms.store import KmsStore, StoredTicketKey

KEY_OCTETS: Final = 32
"""Length of a ticket protection key, enough for either suite (RFC 6043 12.1)."""


MAX_ID_OCTETS: Final = 32
"""Longest identifier of a key that the store holds."""
LOOK_S: Final = 1.0
"""How old an instance's view of the key that seals may be, s."""
OTHERS_SEAL_S: Final = 10.0
"""How long after a rotation a ticket may still be sealed under the key before it: by another instance that has not
looked yet, with a clock that differs a little, s."""


class TicketKeyRing:
    """The keys of a KMS in memory, each in the store before it seals anything. The store is right, not the memory.

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
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._keys)

    async def load(self, now: float) -> None:
        """Read what earlier lives and other instances left and make the first key when there is none.

        Raises ``StoreError`` when a key does not open: without it, tickets that were given out would be lost.
        """
        await self.turn(now)
        if self._current is not None and self._current.life_s < self._ticket_life_s:
            await self._store.lengthen_ticket_life(self._current.key_id, self._ticket_life_s)
            await self.look(now)

    async def look(self, now: float) -> None:
        """Read the keys of the store. Raises ``StoreError`` when one does not open."""
        found = await self._store.ticket_keys()
        self._keys = {key.key_id: key for key in found if key.forget_at is None or key.forget_at >= now}
        self._current = next((key for key in reversed(found) if key.forget_at is None), None)
        self._looked_at = now

    @property
    def current(self) -> TicketProtectionKey:
        """The key that seals, as this instance saw it last."""
        assert self._current is not None, "load comes first"
        return TicketProtectionKey(self._current.key_id, self._current.key)

    async def sealing(self, now: float) -> TicketProtectionKey:
        """The key to seal a ticket with: after a rotation by any instance the new one, at most `LOOK_S` later."""
        if abs(now - self._looked_at) > LOOK_S:
            await self.look(now)
        return self.current

    def find(self, key_id: bytes) -> Secret | None:
        """The key of that identifier in memory, while its tickets may live."""
        stored = self._keys.get(key_id)
        return None if stored is None else stored.key

    async def know(self, key_id: bytes, now: float) -> Secret | None:
        """The key of that identifier, in memory from now on; None where the store has none either."""
        if key_id not in self._keys and len(key_id) <= MAX_ID_OCTETS:
            stored = await self._store.ticket_key(key_id)
            if stored is not None and (stored.forget_at is None or stored.forget_at >= now):
                await self.look(now)
        return self.find(key_id)

    async def turn(self, now: float) -> bool:
        """Replace the key when it is old enough and drop those without living tickets; True when one was replaced."""
        await self.look(now)
        if self._current is not None and now - self._current.made_at < self._rotation_s:
            return False
        return await self._replace(now, unless_after=now - self._rotation_s) is not None

    async def rotate(self, now: float) -> TicketProtectionKey:
        """Replace the key now; tickets under the one before go on being resolved."""
        fresh = await self._replace(now, unless_after=math.inf)
        assert fresh is not None
        return fresh

    async def _replace(self, now: float, *, unless_after: float) -> TicketProtectionKey | None:
        key_id, key = self._entropy(self._id_octets), Secret(self._entropy(KEY_OCTETS))
        fresh = StoredTicketKey(key_id, key, now, self._ticket_life_s, None)
        made = await self._store.replace_ticket_key(fresh, OTHERS_SEAL_S, unless_after=unless_after)
        await self.look(now)
        return TicketProtectionKey(key_id, key) if made else None
