"""The tables of a kind of node over its releases: numbered steps, run when a store opens.

A kind whose package has a ``migrations`` package beside a ``tables`` module has a history: files ``0001_first.py``,
``0002_what_changes.py`` ... that alembic runs one after the other, in one transaction and under a lock, so that
instances of one store may start at once. A store that is up to date is recognised without alembic.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sba.errors import MigrationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sba.database import Log

VERSION_TABLE: Final = "alembic_version"
_STEP: Final = re.compile(r"^(\d{4})_[a-z0-9_]+\.py$")
_READ_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class History:
    """The migrations of one kind of node; ``package`` is where they lie, e.g. ``nodes.kms.migrations``."""

    package: str

    @classmethod
    def of(cls, node: type) -> History | None:
        """Return the history of a node class: that of its package, else of the class it is made from."""
        for base in node.__mro__:
            parent = base.__module__.rpartition(".")[0]
            if parent in ("", "sba") or "twisted" in parent:
                continue
            package = f"{parent}.migrations"
            if importlib.util.find_spec(package) is not None:
                return cls(package)
        return None

    @property
    def folder(self) -> Path:
        """Where the steps lie."""
        return Path(importlib.import_module(self.package).__path__[0])

    @property
    def steps(self) -> tuple[str, ...]:
        """The revisions in order, such as ``0001``. Raises :class:`MigrationError` unless they are counted from 1."""
        names = sorted(path.name for path in self.folder.iterdir())
        found = tuple(match[1] for match in map(_STEP.match, names) if match)
        if not found or found != tuple(f"{number:04}" for number in range(1, len(found) + 1)):
            raise MigrationError(f"the migrations in {self.package} are not numbered 0001, 0002 ...: {list(found)}")
        return found

    @property
    def tables_module(self) -> str:
        """The module with the tables as they are now, in ``METADATA``."""
        return f"{self.package.rpartition('.')[0]}.tables"

    def metadata(self) -> MetaData:
        """Return the tables as they are now."""
        found: MetaData = importlib.import_module(self.tables_module).METADATA
        return found


async def bring_up_to_date(
    engine: AsyncEngine, history: History, log: Log, patient: Callable[[], AsyncEngine] | None = None
) -> None:
    """Run the steps that a store lacks.

    ``patient`` makes the engine that a server's steps are run with, where that is another one. Raises
    :class:`MigrationError` when the store was written by a newer release, or a step fails: then none of them was made.
    """
    steps = history.steps
    present = await revision(engine)
    if present == steps[-1]:
        return
    check(history, present)
    from sba.migrations.run import upgrade

    steady = patient() if patient is not None else engine
    try:
        made = await upgrade(steady, history)
    finally:
        if steady is not engine:
            await steady.dispose()
    if made:
        log("store-migrated", history=history.package, before=present or "", now=steps[-1])


def check(history: History, present: str | None) -> None:
    """Raise :class:`MigrationError` for a revision that this release does not know: the store is a newer one's."""
    steps = history.steps
    if present is not None and present not in steps:
        raise MigrationError(
            f"the store is at revision {present} of {history.package}, this release knows {steps[-1]} as the last: "
            "a store is never taken back, use the release that wrote it"
        )


async def revision(engine: AsyncEngine) -> str | None:
    """Return the revision a store is at, None where no step was ever run."""
    if engine.dialect.name == "sqlite":
        file = engine.url.database
        assert file is not None
        return revision_of_file(Path(file))
    from sqlalchemy import text

    async with engine.connect() as connection:
        if await connection.scalar(text(f"SELECT to_regclass('{VERSION_TABLE}')")) is None:
            return None
        found = await connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - own name
    return None if found is None else str(found)


def revision_of_file(path: Path) -> str | None:
    """Read the revision without SQLAlchemy: every start of every node comes by here."""
    if not path.exists():
        return None
    connection = sqlite3.connect(path, timeout=_READ_S)
    try:
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        if connection.execute(known, (VERSION_TABLE,)).fetchone() is None:
            return None
        row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - own name
    except sqlite3.DatabaseError as error:
        raise MigrationError(f"the store {path} cannot be read: {error}") from error
    finally:
        connection.close()
    return None if row is None else str(row[0])
