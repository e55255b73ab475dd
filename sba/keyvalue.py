"""Key-value tables: JSON objects by key, durable when a write returns."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sba.errors import StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

    from sba.store import Store

JsonObject = dict[str, Any]
"""A value as ``json`` reads it."""
KEY_CHARACTERS = 512
"""Longest key."""
_PATIENCE_S = 2.0
"""How long a write waits for a database that is being started again, s: a caller hears of anything longer."""
_RETRY_S = 0.1


def key_value_table(name: str, metadata: MetaData) -> Table:
    """Declare a key-value table of a node in its ``tables.py``; :meth:`sba.store.Store.key_value` opens it."""
    from sqlalchemy import Column, String, Table, Text

    return Table(f"kv_{name}", metadata, Column("key", String(KEY_CHARACTERS), primary_key=True), Column("value", Text))


class KeyValueTable:
    """JSON objects by key in a table of their own; ``put`` and ``delete`` return when the write is committed.

    A SQLite file takes a write at once. Where it has to wait, for another writer of the file or for a database server,
    the writes of one turn of the event loop share a transaction. A write that fails raises in everyone who waits for
    it and is not made later.
    """

    def __init__(self, store: Store, table: Table) -> None:
        self._store = store
        self.table = table
        self._pending: dict[str, str | None] = {}
        self._commit: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Store an object, replacing an older one. Raises :class:`StoreUnavailableError`."""
        await self._keep(key, _text(value))

    async def put_first(self, key: str, value: Mapping[str, Any]) -> JsonObject:
        """Store an object unless the key has one, and return the one that stands: the same for every instance."""
        await self.flush()
        statement = self._store.insertion(self.table).on_conflict_do_nothing()
        async with self._store.begin() as connection:
            await connection.execute(statement, {"key": key, "value": _text(value)})
        standing = await self.get(key)
        if standing is None:
            raise StoreError(f"{self.table.name} lost {key!r} as it was stored")
        return standing

    async def delete(self, key: str) -> None:
        """Remove an object; no error when there is none. Raises :class:`StoreUnavailableError`."""
        await self._keep(key, None)

    async def get(self, key: str) -> JsonObject | None:
        """Return the object stored under a key."""
        from sqlalchemy import select

        await self.flush()
        async with self._store.connect() as connection:
            text = await connection.scalar(select(self.table.c.value).where(self.table.c.key == key))
        return None if text is None else _object(text)

    async def items(self) -> list[tuple[str, JsonObject]]:
        """Return every key and object, ordered by key."""
        from sqlalchemy import select

        await self.flush()
        async with self._store.connect() as connection:
            rows = (await connection.execute(select(self.table).order_by(self.table.c.key))).all()
        return [(str(key), _object(text)) for key, text in rows]

    async def flush(self) -> None:
        """Wait until every write asked for so far is committed; raises what kept one from it."""
        while self._commit is not None and not self._commit.done():
            await asyncio.shield(self._commit)

    async def _keep(self, key: str, text: str | None) -> None:
        writer = self._store.writer
        in_order = not self._pending and (self._commit is None or self._commit.done())
        if writer is not None and in_order and writer.write_at_once(self.table.name, key, text):
            return
        self._pending[key] = text
        await self._committed()

    async def _committed(self) -> None:
        if self._commit is None or self._commit.done() or not self._pending_is_open():
            self._commit = asyncio.get_running_loop().create_task(self._write())
        await asyncio.shield(self._commit)

    def _pending_is_open(self) -> bool:
        return not self._writing.locked()

    async def _write(self) -> None:
        async with self._writing:
            batch, self._pending = self._pending, {}
            if not batch:
                return
            puts = [(key, text) for key, text in batch.items() if text is not None]
            gone = [key for key, text in batch.items() if text is None]
            if self._store.writer is not None:
                await self._store.writer.write(self.table.name, puts, gone)
            else:
                await self._write_patiently(puts, gone)

    async def _write_patiently(self, puts: list[tuple[str, str]], gone: list[str]) -> None:
        """Write to a server, again while it is starting anew: doing it twice changes nothing."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                await self._write_pooled(puts, gone)
            except StoreUnavailableError:
                if time.monotonic() + _RETRY_S > deadline:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _write_pooled(self, puts: list[tuple[str, str]], gone: list[str]) -> None:
        from sqlalchemy import delete

        insertion = self._store.insertion(self.table)
        upsert = insertion.on_conflict_do_update(
            index_elements=[self.table.c.key], set_={"value": insertion.excluded.value}
        )
        async with self._store.begin() as connection:
            if puts:
                await connection.execute(upsert, [{"key": key, "value": text} for key, text in puts])
            if gone:
                await connection.execute(delete(self.table).where(self.table.c.key.in_(gone)))


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _object(text: str) -> JsonObject:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise StoreError("a stored value is not an object")
    return value
