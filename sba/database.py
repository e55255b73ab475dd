"""PostgreSQL as a store: where it is, as whom a network function connects, what its faults mean.

Each network function (each NF set) has a database role of its own, and each store a schema of its own that this role
owns: what one NF keeps, no other reads. Roles and schemas are made beforehand (:mod:`sba.database_setup`). Passwords
stand in files and are read when a connection is made: they are in no URL, argument, environment or log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sba.config import NodeEnvironment
from sba.errors import ConfigurationError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    import ssl

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

SCHEMES: Final = ("postgresql", "postgresql+asyncpg")
PREFIX: Final = "imslab-"
"""Roles and schemas of the testbed begin so."""
MAX_IDENTIFIER: Final = 63
"""Longest name in PostgreSQL, octets."""
CONNECT_S: Final = 5.0
"""How long a new connection, and a request for one of the pool, may take, s."""
COMMAND_S: Final = 10.0
"""How long a statement may take before it is given up, s."""
POOL: Final = 5
OVERFLOW: Final = 3
"""Connections kept and made beyond them: a lab of twenty nodes stays below the hundred of a PostgreSQL by default."""
_RETRY_S: Final = 0.25
_REMIND_S: Final = 5.0
"""How often a node that waits says so, s."""
_LOST: Final = ("08", "57P", "53300")
"""SQLSTATE classes of a server that goes, comes, or has no connection left (PostgreSQL, appendix A)."""
_REFUSED: Final = ("28",)
"""SQLSTATE class of a role that is not let in, or not there yet."""

Log = Callable[..., None]
"""``Telemetry.log``: an event and its facts."""


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """A database on a PostgreSQL server: nothing secret, and nobody's name."""

    host: str
    port: int
    database: str

    @classmethod
    def parse(cls, url: str) -> DatabaseAddress:
        """Read ``postgresql+asyncpg://host[:port]/database``. Raises ``ValueError`` that says what is wrong."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError("is no URL of a PostgreSQL database")
        if parts.username is not None or parts.password is not None:
            raise ValueError("names a user: each NF has a role of its own, and passwords stand in files")
        database = parts.path.removeprefix("/")
        if not parts.hostname or not database or "/" in database or parts.query or parts.fragment:
            raise ValueError("does not name one host and one database")
        return cls(parts.hostname, parts.port or 5432, database)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.database}"


def identifier(name: str) -> str:
    """Return the name of a role or schema for the name of an NF or store; different for different names."""
    made = PREFIX + name
    if len(made.encode()) <= MAX_IDENTIFIER:
        return made
    return f"{made[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:20]}"


def quoted(name: str) -> str:
    """Return an identifier as SQL and ``search_path`` take it."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class DatabaseAccess:
    """As whom, and how, the store of one node is reached."""

    address: DatabaseAddress
    role: str
    schema: str
    password_file: Path | None = None
    ca_file: Path | None = None
    """Certificates that may have issued the server's; with it TLS is demanded and the name is checked."""
    application: str = "imslab"

    @classmethod
    def of(cls, environment: NodeEnvironment) -> DatabaseAccess:
        """Return the access of a node. Raises :class:`ConfigurationError` when the lab names no usable database."""
        lab, node = environment.lab, environment.node
        try:
            address = DatabaseAddress.parse(lab.database_url)
        except ValueError as error:
            raise ConfigurationError(f"database_url {error}") from error
        owner = node.nf_set or node.nf or node.instance
        file = lab.database_password_file.replace("{instance}", node.instance).replace("{nf}", owner)
        return cls(
            address,
            identifier(owner),
            identifier(node.store_name),
            Path(file) if file else None,
            Path(lab.database_ca_file) if lab.database_ca_file else None,
            node.instance,
        )

    def __str__(self) -> str:
        return f"{self.address} as {self.role}"

    def engine(self, *, migrating: bool = False) -> AsyncEngine:
        """Return an engine; one for ``migrating`` keeps no connection and lets a statement take its time."""
        from sqlalchemy import event
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import DisconnectionError
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        url = URL.create("postgresql+asyncpg", self.role, None, self.address.host, self.address.port)
        pool: dict[str, Any] = (
            {"poolclass": NullPool}
            if migrating
            else {"pool_size": POOL, "max_overflow": OVERFLOW, "pool_timeout": CONNECT_S}
        )
        # What a statement wrote stays out of the text of an error, which may be logged: it may be a sealed key.
        engine = create_async_engine(
            url.set(database=self.address.database),
            hide_parameters=True,
            connect_args=self.arguments() | {"command_timeout": None if migrating else COMMAND_S},
            **pool,
        )

        @event.listens_for(engine.sync_engine, "checkout")
        def alive(_connection: object, record: Any, _proxy: object) -> None:
            # The event loop has seen a server go; without a question to the server a request costs no round trip more.
            if record.driver_connection.is_closed():
                raise DisconnectionError("the server closed the connection")

        return engine

    def arguments(self) -> dict[str, Any]:
        """Return what asyncpg is told beside user and address; the password as a function that reads its file."""
        return {
            "timeout": CONNECT_S,
            "ssl": self._tls(),
            "password": read_password(self.password_file) if self.password_file is not None else None,
            "server_settings": {"search_path": quoted(self.schema), "application_name": self.application},
        }

    def _tls(self) -> ssl.SSLContext | bool:
        return tls_context(self.ca_file)


def tls_context(ca_file: Path | None) -> ssl.SSLContext | bool:
    """Return how to speak TLS with a server: verified, or not at all. Raises :class:`ConfigurationError`."""
    if ca_file is None:
        return False
    import ssl

    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificates of the database in {ca_file} cannot be read") from error


def read_password(file: Path) -> Callable[[], str]:
    """Return a function that reads a password; it raises :class:`ConfigurationError` when the file cannot be read."""

    def password() -> str:
        try:
            text = file.read_text(encoding="ascii").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the password file {file} of the database cannot be read") from error
        if not text.isprintable() or not text:
            raise ConfigurationError(f"the password file {file} of the database holds no password")
        return text

    return password


def why_unavailable(error: BaseException) -> str:
    """Say why the server could not serve, empty where it did and the fault is another one."""
    from sqlalchemy import exc

    if isinstance(error, exc.TimeoutError):
        return "every connection is in use"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _of_system(error)
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    state = getattr(cause, "sqlstate", None) or ""
    if state.startswith(_LOST) or (isinstance(error, exc.DBAPIError) and error.connection_invalidated):
        return _first_line(getattr(cause, "__cause__", None) or cause)
    return _first_line(cause) if state.startswith(_REFUSED) else ""


def _of_system(error: OSError) -> str:
    import ssl

    known = error.errno is not None and not isinstance(error, ssl.SSLError)
    return os.strerror(error.errno) if known and error.errno else _first_line(error)


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0].rpartition(">: ")[2] or type(error).__name__


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what a server that is not there makes of a statement into :class:`StoreUnavailableError`."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        why = why_unavailable(error)
        if not why:
            raise
        raise StoreUnavailableError(f"the database does not answer: {why}") from error


async def wait_for(engine: AsyncEngine, access: DatabaseAccess, patience_s: float, log: Log) -> None:
    """Wait until the role is let in and owns its schema.

    Raises :class:`StoreUnavailableError` after ``patience_s`` seconds, :class:`ConfigurationError` at once when the
    schema belongs to somebody else or the password cannot be read.
    """
    deadline, reminded = time.monotonic() + patience_s, 0.0
    while True:
        fault = await _fault(engine, access)
        if not fault:
            if reminded:
                log("store-reached", database=str(access.address), role=access.role)
            return
        now = time.monotonic()
        if now + _RETRY_S > deadline:
            raise StoreUnavailableError(f"the database {access} cannot be used: {fault}")
        if now - reminded >= _REMIND_S:
            reminded = now
            log("store-waiting", level="warning", database=str(access.address), role=access.role, fault=fault)
        await asyncio.sleep(_RETRY_S)


async def _fault(engine: AsyncEngine, access: DatabaseAccess) -> str:
    from sqlalchemy import text

    owner = text("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = :schema")
    try:
        with told():
            async with engine.connect() as connection:
                found = await connection.scalar(owner, {"schema": access.schema})
    except StoreUnavailableError as error:
        fault = str(error).partition(": ")[2]
        hint = "; roles are made by: imslab database prepare" if "authentic" in fault or "role" in fault else ""
        return fault + hint
    except Exception as error:
        state = getattr(getattr(error, "orig", error), "sqlstate", None)
        if state is None:
            raise
        return f"{_first_line(error)} (SQLSTATE {state})"  # no such database, say: it may be made yet
    if found is None:
        return f"there is no schema {access.schema}; it is made by: imslab database prepare"
    if found != access.role:
        raise ConfigurationError(f"the schema {access.schema} in {access.address} belongs to {found}")
    return ""


async def lock_schema(connection: AsyncConnection, purpose: str) -> None:
    """Hold a lock of this schema for ``purpose`` until the transaction ends."""
    from sqlalchemy import text

    lock = text("SELECT pg_advisory_xact_lock(hashtext(current_schema()), hashtext(:purpose))")
    await connection.execute(lock, {"purpose": purpose})
