"""What a database administrator does before a lab runs on PostgreSQL: a role for each NF, a schema for each store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sba.database import CONNECT_S, DatabaseAddress, identifier, quoted, read_password, tls_context, why_unavailable
from sba.errors import ConfigurationError, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    import asyncpg

SCRAM_ROUNDS: Final = 4096
"""Iterations of a stored password (RFC 7677 4; what PostgreSQL itself uses)."""
_MAINTENANCE: Final = "postgres"
_RIGHTS: Final = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT"


@dataclass(frozen=True, slots=True)
class Tenant:
    """An NF of the lab, which gives its role the name, and the names of its stores; no file: no password."""

    nf: str
    stores: tuple[str, ...]
    password_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who makes roles and schemas: a superuser of the database server."""

    role: str
    password: Callable[[], str] | None = None
    ca_file: Path | None = None


async def prepare(address: DatabaseAddress, administrator: Administrator, tenants: Sequence[Tenant]) -> None:
    """Make the database, roles and schemas that are missing, and give every role its password; again changes nothing.

    Nobody but these roles may connect to the database, and each may use its own schemas alone. Raises
    :class:`StoreUnavailableError`, :class:`ConfigurationError` for a password file that cannot be read,
    :class:`StoreError` where a schema belongs to somebody else.
    """
    import asyncpg

    statements = [list(_role(tenant)) for tenant in tenants]
    try:
        connection = await _connected(address, administrator)
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext('imslab database prepare'))")
                await connection.execute(f"REVOKE ALL ON DATABASE {quoted(address.database)} FROM PUBLIC")
                await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
                for tenant, role in zip(tenants, statements, strict=True):
                    await _make(connection, tenant, role, address.database)
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        why = why_unavailable(error)
        if why:
            text = f"the database {address} does not let {administrator.role} in: {why}"
            raise StoreUnavailableError(text) from error
        raise StoreError(f"the database {address} refused: {error}") from error


async def _connected(address: DatabaseAddress, administrator: Administrator) -> Any:
    import asyncpg

    async def connect(database: str) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=address.host,
            port=address.port,
            user=administrator.role,
            password=administrator.password,
            database=database,
            ssl=tls_context(administrator.ca_file),
            timeout=CONNECT_S,
        )

    try:
        return await connect(address.database)
    except asyncpg.InvalidCatalogNameError:
        maintenance = await connect(_MAINTENANCE)
        try:
            await maintenance.execute(f"CREATE DATABASE {quoted(address.database)}")
        finally:
            await maintenance.close()
        return await connect(address.database)


async def _make(connection: Any, tenant: Tenant, statements: Sequence[str], database: str) -> None:
    role = identifier(tenant.nf)
    if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role) is None:
        await connection.execute(f"CREATE ROLE {quoted(role)}")
    for statement in statements:
        await connection.execute(statement)
    await connection.execute(f"GRANT CONNECT ON DATABASE {quoted(database)} TO {quoted(role)}")
    for store in tenant.stores:
        schema = identifier(store)
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)} AUTHORIZATION {quoted(role)}")
        owner = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = $1"
        if (found := await connection.fetchval(owner, schema)) != role:
            raise StoreError(f"the schema {schema} belongs to {found}")


def _role(tenant: Tenant) -> Iterator[str]:
    role = quoted(identifier(tenant.nf))
    yield f"ALTER ROLE {role} {_RIGHTS}"
    if tenant.password_file is None:
        yield f"ALTER ROLE {role} PASSWORD NULL"
    else:
        yield f"ALTER ROLE {role} PASSWORD '{scram_secret(read_password(tenant.password_file)())}'"


def scram_secret(password: str, salt: bytes | None = None) -> str:
    """Return what PostgreSQL stores of a password (RFC 5802 3), so that the password itself is in no statement.

    Raises :class:`ConfigurationError` for a password of other than printable ASCII characters (SASLprep, RFC 4013).
    """
    if not password.isascii() or not password.isprintable() or not password:
        raise ConfigurationError("a password of the database has printable ASCII characters alone")
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, SCRAM_ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    shown = (base64.b64encode(octets).decode("ascii") for octets in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(SCRAM_ROUNDS, *shown)


__all__ = ["Administrator", "Tenant", "prepare", "scram_secret"]
