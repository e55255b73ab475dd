"""What a KMS must still know after ``kill -9``: ticket protection keys, messages seen, uses of tickets, its audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Row, Table, delete, func, insert, select, update

from keying.secret import Secret
from nodes.kms.tables import AUDIT, SEEN, TICKET_KEYS, USES
from sba.store import Store

PRUNE_BATCH: Final = 2000
"""Rows removed in one transaction, so that requests get in between."""
AUDIT_MOST: Final = 1000
"""Audit records handed out in one answer."""
_TICKET_KEY_PLACE: Final = b"kms ticket protection key "
_LONGEST: Final = {column.name: getattr(column.type, "length", None) for column in AUDIT.columns}
"""Characters that fit a column of the audit; None where there is no end."""


@dataclass(frozen=True, slots=True)
class StoredTicketKey:
    """A ticket protection key, its times in seconds since the epoch; `forget_at` None: it may still seal.

    `life_s` is the longest time from the making of a ticket under it to that ticket's end.
    """

    key_id: bytes
    key: Secret
    made_at: float
    life_s: float
    forget_at: float | None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One decision; times in seconds since the epoch. `forget_at` is when the record goes, the rest the contract's."""

    at: float
    operation: str
    outcome: str
    forget_at: float
    reason: str = ""
    party: str = ""
    responders: tuple[str, ...] = ()
    ticket_id: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    tpk_id: str = ""
    peer_kms: str = ""

    def to_row(self) -> dict[str, Any]:
        """The columns of the audit table."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        row["responders"] = json.dumps(self.responders)
        # PostgreSQL takes no NUL in a text and nothing longer than its column: who sends that must be recorded as well.
        return {
            name: value.replace("\0", "")[: _LONGEST.get(name)] if isinstance(value, str) else value
            for name, value in row.items()
        }

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> AuditRecord:
        """Read a row of the audit table."""
        known = {field.name: row[field.name] for field in fields(cls)}
        return cls(**(known | {"responders": tuple(_list(row["responders"]))}))


class KmsStore:
    """The tables over a node's store; every write is committed when the call returns.

    Several instances may have one store: what is known once is known to all, and what one adds no other adds.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writing = asyncio.Lock()
        self._additions = {table.name: store.insertion(table).on_conflict_do_nothing() for table in (SEEN, USES, AUDIT)}

    async def ticket_keys(self) -> list[StoredTicketKey]:
        """Every key that is kept, oldest first. Raises ``StoreError`` when one does not open."""
        async with self._store.connect() as connection:
            rows = (await connection.execute(select(TICKET_KEYS).order_by(TICKET_KEYS.c.made_at))).all()
        return [self._opened(row) for row in rows]

    async def ticket_key(self, key_id: bytes) -> StoredTicketKey | None:
        """The key of that identifier. Raises ``StoreError`` when it does not open."""
        async with self._store.connect() as connection:
            query = select(TICKET_KEYS).where(TICKET_KEYS.c.key_id == key_id.hex())
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else self._opened(row)

    def _opened(self, row: Row[Any]) -> StoredTicketKey:
        key = self._store.unseal(row.sealed, _TICKET_KEY_PLACE + row.key_id.encode())
        return StoredTicketKey(bytes.fromhex(row.key_id), Secret(key), row.made_at, row.life_s, row.forget_at)

    async def replace_ticket_key(self, fresh: StoredTicketKey, after_s: float, *, unless_after: float) -> bool:
        """Keep a new key and, in the same transaction, note for the one before it when its last ticket ends.

        Instances that do not know of it yet may seal under the one before for `after_s` more. False, and nothing
        changed, where the key that seals was made after `unless_after` (Unix seconds): another instance was faster.
        """
        name = fresh.key_id.hex()
        sealed = self._store.seal(fresh.key.reveal(), _TICKET_KEY_PLACE + name.encode())
        sealing = TICKET_KEYS.c.forget_at.is_(None)
        async with self._writing, self._store.alone("kms ticket key") as connection:
            latest = await connection.scalar(select(func.max(TICKET_KEYS.c.made_at)).where(sealing))
            if latest is not None and latest > unless_after:
                return False
            await connection.execute(
                update(TICKET_KEYS).where(sealing).values(forget_at=TICKET_KEYS.c.life_s + (fresh.made_at + after_s))
            )
            await connection.execute(
                insert(TICKET_KEYS).values(
                    key_id=name, sealed=sealed, made_at=fresh.made_at, life_s=fresh.life_s, forget_at=None
                )
            )
        return True

    async def lengthen_ticket_life(self, key_id: bytes, life_s: float) -> None:
        """Note that longer tickets will be made under a key."""
        async with self._writing, self._store.begin() as connection:
            await connection.execute(
                update(TICKET_KEYS)
                .where(TICKET_KEYS.c.key_id == key_id.hex(), TICKET_KEYS.c.life_s < life_s)
                .values(life_s=life_s)
            )

    async def first_sight(self, digest: bytes, forget_at: float) -> bool:
        """Remember a message; False when it was seen before (RFC 3830 5.4)."""
        return await self._add(SEEN, {"digest": digest, "forget_at": forget_at})

    async def first_use(self, ticket_id: str, digest: bytes, forget_at: float) -> bool:
        """Remember for which TRANSFER_INIT a single-use ticket was resolved; False when for another one before."""
        if await self._add(USES, {"ticket_id": ticket_id, "digest": digest, "forget_at": forget_at}):
            return True
        async with self._store.connect() as connection:
            known = await connection.scalar(select(USES.c.digest).where(USES.c.ticket_id == ticket_id))
        return known is not None and bytes(known) == digest

    async def record(self, record: AuditRecord) -> None:
        """Write an audit record."""
        await self._add(AUDIT, record.to_row())

    async def audit(self, party: str = "", limit: int = 100) -> list[AuditRecord]:
        """The latest records, of one public identity or of everybody, newest first."""
        query = select(AUDIT).order_by(AUDIT.c.row.desc()).limit(max(1, min(limit, AUDIT_MOST)))
        if party:
            query = query.where(AUDIT.c.party == party)
        async with self._store.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [AuditRecord.from_row(row) for row in rows]

    async def prune(self, now: float, audit_records: int | None = None) -> int:
        """Remove what has expired, and the oldest of more audit records than that; return the number of rows.

        In small transactions.
        """
        gone = 0 if audit_records is None else await self._prune_audit(audit_records)
        for table, key in ((SEEN, SEEN.c.digest), (USES, USES.c.ticket_id), (AUDIT, AUDIT.c.row)):
            gone += await self._prune_table(table, key, now)
        return gone + await self._prune_table(TICKET_KEYS, TICKET_KEYS.c.key_id, now)

    async def _prune_audit(self, most: int) -> int:
        newest = select(func.max(AUDIT.c.row))
        async with self._store.connect() as connection:
            last = (await connection.scalar(newest)) or 0
        return await self._prune_rows(AUDIT, AUDIT.c.row, AUDIT.c.row <= last - most)

    async def _prune_table(self, table: Table, key: Column[Any], now: float) -> int:
        return await self._prune_rows(table, key, table.c.forget_at < now)

    async def _prune_rows(self, table: Table, key: Column[Any], outdated: ColumnElement[bool]) -> int:
        gone = 0
        while True:
            expired = select(key).where(outdated).limit(PRUNE_BATCH).with_for_update(skip_locked=True)
            async with self._writing, self._store.begin() as connection:
                removed = (await connection.execute(delete(table).where(key.in_(expired)))).rowcount
            gone += removed
            if removed < PRUNE_BATCH:
                return gone
            await asyncio.sleep(0)

    async def _add(self, table: Table, row: dict[str, Any]) -> bool:
        """Add a row, committed when this returns; False where one of its key is there.

        A SQLite file takes it at once unless another writer has it. A database server takes one statement as a
        transaction of its own, and many of them at a time.
        """
        if self._store.writer is not None:
            text = f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608 - names from code
            added = self._store.writer.execute_at_once(f"{text} ON CONFLICT DO NOTHING", tuple(row.values()))
            if added is not None:
                return added == 1
        statement = self._additions[table.name]
        if self._store.is_sqlite:
            async with self._writing, self._store.begin() as connection:
                return (await connection.execute(statement, row)).rowcount == 1
        async with self._store.connect() as connection:
            return (await connection.execute(statement, row)).rowcount == 1


def _list(text: str) -> Sequence[str]:
    found = json.loads(text)
    return [str(item) for item in found] if isinstance(found, list) else []
