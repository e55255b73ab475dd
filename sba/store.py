"""A node's own store: SQLAlchemy on one SQLite file per NF by default, secrets sealed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sba.config import NodeEnvironment
from sba.errors import ConfigurationError, StoreError
from sba.pki import write_private

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

SEALING_KEY_OCTETS = 32
_NONCE_OCTETS = 12
_BUSY_MS = 5000
_CHECKPOINT_WRITES = 500
"""Writes after which the write-ahead log is copied into the database, off the event loop."""
_PRIMARY_CODE = 0xFF
"""Low octet of an extended SQLite result code."""

JsonObject = dict[str, Any]
"""A value as ``json`` reads it."""


def create_sealing_key(path: str | Path) -> None:
    """Write a new random sealing key (32 octets in hex, mode 0600) unless the file exists."""
    path = Path(path)
    if not path.exists():
        write_private(path, secrets.token_hex(SEALING_KEY_OCTETS).encode("ascii"))


class Sealer:
    """AES-256-GCM under a key derived from the lab's sealing key for one NF instance (HKDF-SHA-256)."""

    def __init__(self, key_file: Path, nf_instance_id: str) -> None:
        try:
            master = bytes.fromhex(key_file.read_text(encoding="ascii").strip())
        except (OSError, ValueError) as error:
            raise ConfigurationError("the sealing key file cannot be read") from error
        if len(master) != SEALING_KEY_OCTETS:
            raise ConfigurationError("the sealing key has a wrong length")
        info = f"imslab seal {nf_instance_id}".encode()
        key = HKDF(algorithm=hashes.SHA256(), length=SEALING_KEY_OCTETS, salt=None, info=info).derive(master)
        self._aead = AESGCM(key)

    def seal(self, plain: bytes, aad: bytes = b"") -> bytes:
        """Encrypt; ``aad`` names the place the value belongs to, so that it opens nowhere else."""
        nonce = secrets.token_bytes(_NONCE_OCTETS)
        return nonce + self._aead.encrypt(nonce, plain, aad)

    def unseal(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Decrypt what :meth:`seal` made; raises :class:`StoreError` when it was altered or moved."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_OCTETS], sealed[_NONCE_OCTETS:], aad)
        except (InvalidTag, ValueError) as error:
            raise StoreError("a sealed value does not open") from error


class Store:
    """The database of one NF."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        self.engine = engine
        self._sealer = sealer
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._values: dict[str, KeyValueTable] = {}
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        self.writer = SqliteWriter(file) if file and file != ":memory:" else None

    @classmethod
    async def open(cls, environment: NodeEnvironment) -> Store:
        """Open the store of a node, making its file when there is none.

        Raises :class:`ConfigurationError` when the sealing key is missing.
        """
        sealer = Sealer(environment.lab.sealing_key_file, environment.node.sealed_for)
        url = environment.lab.database_url.format(instance=environment.node.store_name)
        if not url:
            environment.node_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            url = f"sqlite+aiosqlite:///{environment.node_dir / 'store.sqlite'}"
        return cls(_engine(url), sealer)

    async def tables(self, metadata: MetaData) -> None:
        """Create those tables of ``metadata`` that do not exist yet."""
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)

    def session(self) -> AsyncSession:
        """Return a new session, to be used as an async context manager."""
        return self._sessions()

    async def key_value(self, name: str) -> KeyValueTable:
        """Return the key-value table of that name, creating it when it is new."""
        table = self._values.get(name)
        if table is None:
            table = self._values[name] = KeyValueTable(self, name)
            await table.create()
        return table

    def seal(self, plain: bytes, aad: bytes = b"") -> bytes:
        """Encrypt a secret for storage; see :class:`Sealer`."""
        return self._sealer.seal(plain, aad)

    def unseal(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Decrypt a stored secret; raises :class:`StoreError`."""
        return self._sealer.unseal(sealed, aad)

    async def close(self) -> None:
        """Write what is pending and close every connection."""
        for table in self._values.values():
            await table.flush()
        if self.writer is not None:
            await self.writer.close()
        await self.engine.dispose()


class KeyValueTable:
    """JSON objects by key in a table of their own; ``put`` and ``delete`` return when the write is committed.

    A SQLite file takes a write at once. Where it has to wait, for another writer of the file or for a database server,
    the writes of one turn of the event loop share a transaction.
    """

    def __init__(self, store: Store, name: str) -> None:
        from sqlalchemy import Column, MetaData, String, Table, Text

        self._store = store
        self._metadata = MetaData()
        self.table = Table(
            f"kv_{name}", self._metadata, Column("key", String(512), primary_key=True), Column("value", Text)
        )
        self._pending: dict[str, str | None] = {}
        self._commit: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def create(self) -> None:
        """Create the table unless it exists."""
        await self._store.tables(self._metadata)

    async def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Store an object, replacing an older one."""
        await self._keep(key, json.dumps(value, separators=(",", ":")))

    async def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""
        await self._keep(key, None)

    async def get(self, key: str) -> JsonObject | None:
        """Return the object stored under a key."""
        from sqlalchemy import select

        await self.flush()
        async with self._store.engine.connect() as connection:
            text = await connection.scalar(select(self.table.c.value).where(self.table.c.key == key))
        return None if text is None else _object(text)

    async def items(self) -> list[tuple[str, JsonObject]]:
        """Return every key and object, ordered by key."""
        from sqlalchemy import select

        await self.flush()
        async with self._store.engine.connect() as connection:
            rows = (await connection.execute(select(self.table).order_by(self.table.c.key))).all()
        return [(str(key), _object(text)) for key, text in rows]

    async def flush(self) -> None:
        """Wait until every write asked for so far is committed."""
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
                await self._write_pooled(puts, gone)

    async def _write_pooled(self, puts: list[tuple[str, str]], gone: list[str]) -> None:
        from sqlalchemy import delete
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        is_sqlite = self._store.engine.dialect.name == "sqlite"
        statement = (sqlite_insert if is_sqlite else postgresql_insert)(self.table)
        upsert = statement.on_conflict_do_update(
            index_elements=[self.table.c.key], set_={"value": statement.excluded.value}
        )
        async with self._store.engine.begin() as connection:
            if puts:
                await connection.execute(upsert, [{"key": key, "value": text} for key, text in puts])
            if gone:
                await connection.execute(delete(self.table).where(self.table.c.key.in_(gone)))


class SqliteWriter:
    """Small writes to a SQLite file, at once on the caller's thread or, when they would have to wait, on its own.

    In WAL mode a commit is one append to a file in the page cache, which outlives the process: some ten microseconds,
    where the way to another thread and back costs fifty times as much. What may wait for the disk is the
    checkpoint, so that is left to the thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._patient: sqlite3.Connection | None = None
        self._quick: sqlite3.Connection | None = None
        self._since_checkpoint = 0

    def write_at_once(self, table: str, key: str, text: str | None) -> bool:
        """Put or, without ``text``, delete one row and commit; False when another writer has the file just now."""
        gone = [key] if text is None else []
        puts = [] if text is None else [(key, text)]
        return self._at_once(lambda quick: _write(quick, table, puts, gone))

    def execute_at_once(self, statement: str, values: Sequence[str | bytes | float]) -> int | None:
        """Execute one statement and commit; return the rows it changed, None when another writer has the file."""
        changed = 0

        def execute(quick: sqlite3.Connection) -> None:
            nonlocal changed
            with quick:
                changed = quick.execute(statement, values).rowcount

        return changed if self._at_once(execute) else None

    def _at_once(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        if self._quick is None:
            self._quick = _connect(self._path, timeout=0.0)
        try:
            work(self._quick)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return False
            raise
        self._since_checkpoint += 1
        if self._since_checkpoint >= _CHECKPOINT_WRITES:
            self._since_checkpoint = 0
            self._thread.submit(self._checkpoint)
        return True

    async def write(self, table: str, puts: list[tuple[str, str]], gone: list[str]) -> None:
        """Put and delete in one transaction, waiting for other writers; raises ``sqlite3.Error``."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_patiently, table, puts, gone)

    def _write_patiently(self, table: str, puts: list[tuple[str, str]], gone: list[str]) -> None:
        _write(self._on_thread(), table, puts, gone)

    def _checkpoint(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # somebody reads; the next one takes it along
            self._on_thread().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _on_thread(self) -> sqlite3.Connection:
        if self._patient is None:
            self._patient = _connect(self._path, timeout=_BUSY_MS / 1000)
        return self._patient

    async def close(self) -> None:
        """Close the connections and end the thread."""
        if self._quick is not None:
            self._quick.close()
            self._quick = None
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._patient is not None:
            self._patient.close()
            self._patient = None


def _connect(path: str, *, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def _write(connection: sqlite3.Connection, table: str, puts: list[tuple[str, str]], gone: list[str]) -> None:
    with connection:
        if puts:
            upsert = f'INSERT INTO "{table}" (key, value) VALUES (?, ?)'  # noqa: S608 - a name from code
            connection.executemany(f"{upsert} ON CONFLICT (key) DO UPDATE SET value = excluded.value", puts)
        if gone:
            remove = f'DELETE FROM "{table}" WHERE key = ?'  # noqa: S608 - a name from code
            connection.executemany(remove, [(key,) for key in gone])


def _object(text: str) -> JsonObject:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise StoreError("a stored value is not an object")
    return value


def _engine(url: str) -> AsyncEngine:
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    # What a statement wrote stays out of the text of an error, which may be logged: it may be a sealed key.
    engine = create_async_engine(url, hide_parameters=True)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _record: object) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

    return engine
