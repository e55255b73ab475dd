"""``imslab database``: roles and schemas in PostgreSQL, what stores are at, new migrations."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.cli_base import config_option, echo_json, fail, json_option, no_lab, state_option
from lab.state import StateFolder

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from lab.control import Json


_with_option = click.option(
    "--with",
    "packages",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A package that is not installed, as with imslab up; repeat for several.",
)


@click.group()
def database() -> None:
    """Stores: prepare PostgreSQL, see what is in use, write migrations."""


@database.command()
@config_option
@click.option("--lab", "resolved", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="lab.json.")
@click.option("--role", required=True, help="Administrator of the database server (a superuser).")
@click.option("--password-file", type=click.Path(dir_okay=False, path_type=Path), help="File with its password.")
@_with_option
@state_option
def prepare(
    config: Path | None,
    resolved: Path | None,
    role: str,
    password_file: Path | None,
    packages: tuple[Path, ...],
    state: Path | None,
) -> None:
    """Make the database of a lab: a role for each NF, a schema for each store. Again changes nothing."""
    from lab.database import tenants
    from sba.database import DatabaseAddress, read_password
    from sba.database_setup import Administrator
    from sba.database_setup import prepare as make
    from sba.errors import SbaError

    lab = _read(resolved) if resolved is not None else _laid_out(config, StateFolder.at(state), packages)
    if not lab.get("database_url"):
        fail("this lab keeps its stores in SQLite files: its description has no database.url", 2)
    try:
        address = DatabaseAddress.parse(str(lab["database_url"]))
    except ValueError as error:
        fail(f"database_url {error}", 2)
    ca_file = str(lab.get("database_ca_file", ""))
    password = read_password(password_file) if password_file is not None else None
    administrator = Administrator(role, password, Path(ca_file) if ca_file else None)
    made = tenants(lab)
    try:
        asyncio.run(make(address, administrator, made))
    except SbaError as error:
        fail(str(error))
    schemas = sum(len(tenant.stores) for tenant in made)
    click.echo(f"{address} is prepared: {len(made)} roles, {schemas} schemas")


def _laid_out(config: Path | None, folder: StateFolder, packages: tuple[Path, ...]) -> Mapping[str, Any]:
    """Lay the lab out as ``up`` does, so that it comes up with the passwords that are given out now."""
    from lab.config import load
    from lab.config_problems import ConfigError
    from lab.launch import default_config, is_running
    from lab.layout import ResolveError
    from lab.resolve import resolve
    from lab.with_packages import prepare as prepare_packages
    from lab.with_packages import remember, with_nodes
    from sba.errors import ConfigurationError
    from sba.packages import PackageError

    try:
        description = load(config or default_config())
        if not description.database.url or is_running(folder):
            return _read(folder.lab_json) if folder.lab_json.exists() else {}
        folder.create()
        brought = prepare_packages(folder, packages or None)
        remember(folder, brought)
        return resolve(with_nodes(description, brought), folder)
    except ConfigError as error:
        fail(f"the lab description has faults\n{error}", 2)
    except (ResolveError, ConfigurationError, PackageError, OSError) as error:
        fail(str(error))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read: {error}", 2)
    return content if isinstance(content, dict) else {}


@database.command()
@state_option
@json_option
def status(state: Path | None, as_json: bool) -> None:
    """Show each store: where it is, the revision of its tables, the last one this release knows."""
    folder = StateFolder.at(state)
    if not folder.lab_json.exists():
        fail(no_lab(folder))
    rows = asyncio.run(_status(folder))
    if as_json:
        echo_json({"stores": [dict(row) for row in rows]})
        return
    from lab.show import plain_table

    plain_table(("store", "kind", "where", "revision", "known", "fault"), rows)


def _status(folder: StateFolder) -> Coroutine[Any, Any, list[dict[str, Json]]]:
    from lab.database_status import stores

    return stores(folder)


@database.command()
@click.argument("kind")
@click.argument("change")
@_with_option
def migration(kind: str, change: str, packages: tuple[Path, ...]) -> None:
    """Write the next migration of KIND from its tables as they are now; CHANGE says in a few words what it does."""
    from lab.with_packages import prepare as prepare_packages
    from sba.errors import SbaError
    from sba.migrations import History
    from sba.migrations.write import write_step
    from sba.packages import PackageError
    from sba.run import node_class

    try:
        with tempfile.TemporaryDirectory(prefix="imslab-migrations-") as scratch:
            if packages:
                folder = StateFolder.at(scratch)
                folder.create()
                prepare_packages(folder, packages)
            node = node_class(kind)
            history = History.of(node)
            if history is None:
                package = node.__module__.rpartition(".")[0]
                fail(f"{kind} has no history yet: make {package}/tables.py and {package}/migrations/__init__.py", 2)
            made = write_step(history, change)
    except (SbaError, PackageError, ImportError, OSError) as error:
        fail(str(error), 2)
    click.echo(f"{made} written; read it before you keep it")
