"""A node's own store: SQLAlchemy on one SQLite file per NF by default, or a schema in PostgreSQL; secrets sealed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from sba.config import NodeEnvironment
from sba.database import DatabaseAccess, Log, lock_schema, told, wait_for
from sba.errors import StoreError
from sba.keyvalue import JsonObject, KeyValueTable, key_value_table
from sba.migrations import History, bring_up_to_date
from sba.sealing import SEALING_KEY_OCTETS, Sealer, create_sealing_key
from sba.sqlite_writer import BUSY_MS, SqliteWriter

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table
    from sqlalchemy.dialects.postgresql import Insert
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession


class Store:
    """The database of one NF, or of an NF set.

    With a ``history`` its tables are those the migrations of the kind make; without one :meth:`tables` and
    :meth:`key_value` make them as they are asked for.
    """

    def __init__(self, engine: AsyncEngine, sealer: Sealer, history: History | None = None) -> None:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        self.engine = engine
        self.history = history
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._sealer = sealer
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._values: dict[str, KeyValueTable] = {}
        # A statement by itself needs no BEGIN and no COMMIT of a server; a SQLite file has none to wait for.
        self._plain = engine if self.is_sqlite else engine.execution_options(isolation_level="AUTOCOMMIT")
        file = engine.url.database if self.is_sqlite else None
        self.writer = SqliteWriter(file) if file and file != ":memory:" else None

    @classmethod
    async def open(cls, environment: NodeEnvironment, history: History | None = None, log: Log | None = None) -> Store:
        """Open the store of a node with the tables of this release, making and upgrading them where that is due.

        ``log`` is told what is waited for (``Telemetry.log``). Raises :class:`ConfigurationError` when the sealing key
        or the password is missing, :class:`StoreUnavailableError` when the database did not answer for
        ``database_wait_s``, :class:`MigrationError` when the store was written by a newer release.
        """
        sealer = Sealer(environment.lab.sealing_key_file, environment.node.sealed_for)
        told_of = log or _silent
        if environment.lab.database_url:
            access = DatabaseAccess.of(environment)
            engine = access.engine()
            try:
                await wait_for(engine, access, environment.lab.database_wait_s, told_of)
                if history is not None:
                    with told():
                        await bring_up_to_date(engine, history, told_of, patient=lambda: access.engine(migrating=True))
            except BaseException:
                await engine.dispose()
                raise
            return cls(engine, sealer, history)
        environment.node_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = _sqlite(f"sqlite+aiosqlite:///{environment.node_dir / 'store.sqlite'}")
        try:
            if history is not None:
                await bring_up_to_date(engine, history, told_of)
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, sealer, history)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a transaction; raises :class:`StoreUnavailableError` when the database is away."""
        with told():
            async with self.engine.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection for statements that stand by themselves; raises :class:`StoreUnavailableError`."""
        with told():
            async with self._plain.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def alone(self, purpose: str) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that no other process has at the same time for the same ``purpose``."""
        with told():
            async with self.engine.connect() as connection:
                if self.is_sqlite:
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    await lock_schema(connection, purpose)
                yield connection
                await connection.commit()

    async def tables(self, metadata: MetaData) -> None:
        """Create those tables of ``metadata`` that do not exist yet, in a store without migrations."""
        if self.history is not None:
            raise StoreError(f"the tables are made by the migrations in {self.history.package}")
        async with self.begin() as connection:
            await connection.run_sync(metadata.create_all)

    def session(self) -> AsyncSession:
        """Return a new session, to be used as an async context manager."""
        return self._sessions()

    async def key_value(self, name: str) -> KeyValueTable:
        """Return the key-value table of that name.

        Raises :class:`StoreError` when the migrations of the kind do not make it; without migrations it is created.
        """
        table = self._values.get(name)
        if table is None:
            table = self._values[name] = KeyValueTable(self, await self._declared(name))
        return table

    async def _declared(self, name: str) -> Table:
        from sqlalchemy import MetaData

        if self.history is None:
            metadata = MetaData()
            table = key_value_table(name, metadata)
            await self.tables(metadata)
            return table
        found = self.history.metadata().tables.get(f"kv_{name}")
        if found is None:
            raise StoreError(f"{self.history.tables_module} declares no key-value table {name}")
        return found

    def insertion(self, table: Table) -> Insert:
        """Return an INSERT with ``on_conflict_do_nothing`` and ``on_conflict_do_update`` for this database."""
        if self.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return cast("Insert", sqlite_insert(table))  # another class, the same methods
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)

    def seal(self, plain: bytes, aad: bytes = b"") -> bytes:
        """Encrypt a secret for storage; see :class:`Sealer`."""
        return self._sealer.seal(plain, aad)

    def unseal(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Decrypt a stored secret; raises :class:`StoreError`."""
        return self._sealer.unseal(sealed, aad)

    async def close(self) -> None:
        """Write what is pending and close every connection, also when a write fails; then that is raised."""
        try:
            for table in self._values.values():
                await table.flush()
        finally:
            if self.writer is not None:
                await self.writer.close()
            await self.engine.dispose()


def _silent(_event: str, **_facts: object) -> None:
    """Nobody is told."""


def _sqlite(url: str) -> AsyncEngine:
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    # What a statement wrote stays out of the text of an error, which may be logged: it may be a sealed key.
    engine = create_async_engine(url, hide_parameters=True)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


__all__ = [
    "SEALING_KEY_OCTETS",
    "JsonObject",
    "KeyValueTable",
    "Sealer",
    "SqliteWriter",
    "Store",
    "create_sealing_key",
    "key_value_table",
]
