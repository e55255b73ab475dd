"""Writing the next step of a history: what the tables in the code have that the steps so far do not make."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from sba.errors import MigrationError
from sba.migrations import History
from sba.migrations.run import configuration

MAX_MESSAGE = 80
"""Longest description of a step, characters."""


def write_step(history: History, message: str) -> Path:
    """Write the step from the last revision to the tables as declared now and return its file.

    What alembic cannot see, a renamed column or values that move, is for the author to put right in it. Raises
    :class:`MigrationError` when nothing differs.
    """
    message = " ".join(message.split()).rstrip(".")
    if not message or len(message) > MAX_MESSAGE or not message.isprintable() or '"' in message or "\\" in message:
        raise MigrationError(f"say what changes in 1 to {MAX_MESSAGE} characters")
    before = set(history.folder.iterdir())
    steps = history.steps if any(path.name[:4].isdigit() for path in before) else ()
    with tempfile.TemporaryDirectory(prefix="imslab-migrations-") as scratch:
        engine = create_engine(f"sqlite:///{Path(scratch) / 'store.sqlite'}", poolclass=NullPool)
        config = configuration(history)
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            if steps:
                command.upgrade(config, "head")
                connection.commit()
            command.revision(config, message, autogenerate=True, rev_id=f"{len(steps) + 1:04}")
    (made,) = {path for path in history.folder.iterdir() if path.suffix == ".py"} - before
    if "\n    pass\n" in made.read_text("utf-8"):
        made.unlink()
        raise MigrationError(f"the steps of {history.package} make what {history.tables_module} declares already")
    return made
