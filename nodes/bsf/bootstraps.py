"""Bootstraps by B-TID: durable before the UE hears of them, Ks sealed, gone when they expire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from keying.secret import Secret
from sba.errors import StoreError
from sba.store import JsonObject, KeyValueTable, Store
from signalling.aka.gba import BootstrappingInfo, Btid


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """A bootstrapped security association: Ks (32 octets), whose it is, from when and until when (Unix seconds)."""

    btid: Btid
    ks: Secret
    impi: str
    public_identities: tuple[str, ...]
    at: float
    expires_at: float

    def info(self) -> BootstrappingInfo:
        """What the UE is told of it."""
        return BootstrappingInfo(self.btid, self.expires_at, self.at)


class Bootstraps:
    """The bootstraps of one BSF; `now` gives Unix seconds."""

    def __init__(self, store: Store, table: KeyValueTable, now: Callable[[], float], *, kept_per_user: int) -> None:
        self._store = store
        self._table = table
        self._now = now
        self._kept = kept_per_user
        self._by_btid: dict[str, Bootstrap] = {}
        self._of: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._by_btid)

    async def load(self) -> int:
        """Read what an earlier life left and return how many records did not open; those are removed."""
        spoiled = 0
        for key, record in await self._table.items():
            try:
                found = self._opened(key, record)
            except (StoreError, KeyError, TypeError, ValueError, binascii.Error):
                spoiled += 1
                await self._table.delete(key)
            else:
                self._enter(found)
        for btids in self._of.values():
            btids.sort(key=lambda btid: self._by_btid[btid].at)
        await self.purge()
        return spoiled

    async def add(self, bootstrap: Bootstrap) -> None:
        """Keep a bootstrap; the oldest of the same user beyond the number kept go."""
        key = str(bootstrap.btid)
        record: JsonObject = {
            "impi": bootstrap.impi,
            "ks": base64.b64encode(self._store.seal(bootstrap.ks.reveal(), _place(key, bootstrap.impi))).decode(),
            "identities": list(bootstrap.public_identities),
            "at": bootstrap.at,
            "expires_at": bootstrap.expires_at,
        }
        await self._table.put(key, record)
        self._enter(bootstrap)
        for old in self._of[bootstrap.impi][: -self._kept]:
            await self._remove(old)

    def find(self, btid: str) -> Bootstrap | None:
        """The bootstrap of a B-TID, unless it has expired."""
        found = self._by_btid.get(btid)
        return found if found is not None and found.expires_at > self._now() else None

    async def purge(self) -> None:
        """Remove what has expired."""
        now = self._now()
        for btid in [btid for btid, found in self._by_btid.items() if found.expires_at <= now]:
            await self._remove(btid)

    def _enter(self, bootstrap: Bootstrap) -> None:
        key = str(bootstrap.btid)
        self._by_btid[key] = bootstrap
        self._of.setdefault(bootstrap.impi, []).append(key)

    async def _remove(self, btid: str) -> None:
        gone = self._by_btid.pop(btid, None)
        if gone is None:
            return
        self._of[gone.impi].remove(btid)
        if not self._of[gone.impi]:
            del self._of[gone.impi]
        await self._table.delete(btid)

    def _opened(self, key: str, record: JsonObject) -> Bootstrap:
        impi = str(record["impi"])
        ks = self._store.unseal(base64.b64decode(record["ks"]), _place(key, impi))
        identities = tuple(str(uri) for uri in record["identities"])
        return Bootstrap(
            Btid.parse(key), Secret(ks), impi, identities, float(record["at"]), float(record["expires_at"])
        )


def _place(btid: str, impi: str) -> bytes:
    """Associated data of the seal: Ks opens for this B-TID and this user and nowhere else."""
    return b"bsf ks\0" + btid.encode() + b"\0" + impi.encode()
