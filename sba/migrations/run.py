"""The part of migrations that needs alembic: running steps, and comparing tables with what the steps make."""

from __future__ import annotations

import argparse
import asyncio
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from sba.database import told
from sba.errors import MigrationError, StoreError
from sba.migrations import VERSION_TABLE, History, check

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_S: Final = 60
"""How long one instance waits for another one that is running the steps, s."""
_ONE_AT_A_TIME = asyncio.Lock()
"""alembic's ``op`` is one for the whole process, which tests and tools share among several nodes."""


def configuration(history: History) -> Config:
    """Return alembic's configuration for one history."""
    config = Config(stdout=io.StringIO(), cmd_opts=argparse.Namespace(quiet=True))
    for name, value in {
        "script_location": Path(__file__).parent,
        "version_locations": history.folder,
        "path_separator": "os",
        "file_template": "%(rev)s_%(slug)s",
    }.items():
        config.set_main_option(name, str(value).replace("%", "%%"))
    config.attributes["metadata"] = history.metadata()
    return config


async def upgrade(engine: AsyncEngine, history: History) -> bool:
    """Run what a store lacks, all or nothing; False where another instance had done it by then.

    Raises :class:`MigrationError`, :class:`StoreUnavailableError`.
    """
    async with _ONE_AT_A_TIME:
        with told():
            async with engine.connect() as connection:
                return await connection.run_sync(_upgrade, history)


def _upgrade(connection: Connection, history: History) -> bool:
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        # Steps that give a table another form make it anew; what refers to it stays as it is meanwhile.
        connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_S * 1000}")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(current_schema()), hashtext('migrations'))"))
    try:
        present = _present(connection)  # another instance may have been at work since it was looked at
        if present == history.steps[-1]:
            connection.rollback()
            return False
        check(history, present)
        config = configuration(history)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    except (StoreError, OSError):
        connection.rollback()
        raise
    except Exception as error:
        connection.rollback()
        if isinstance(error, SQLAlchemyError) and getattr(error, "connection_invalidated", False):
            raise
        fault = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise MigrationError(f"the migrations of {history.package} failed: {fault}") from error
    return True


def _present(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, VERSION_TABLE):
        return None
    found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - own name
    return None if found is None else str(found)


async def differences(engine: AsyncEngine, history: History) -> list[Any]:
    """Return how the tables of a store differ from those declared; empty when the steps make what is declared."""

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, history.metadata()))

    async with engine.connect() as connection:
        return await connection.run_sync(compare)
