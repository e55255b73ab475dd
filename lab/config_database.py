"""The part of the lab description about the database that the network functions keep their stores in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lab.config_problems import Fault
from lab.config_types import Entry
from sba.database import DatabaseAddress

RIGHT_URL = "postgresql+asyncpg://host:port/database, with nobody's name and no password in it"


class DatabaseSection(Entry):
    """A PostgreSQL database; without a ``url`` each store is a SQLite file in the state folder."""

    url: str = ""
    """``postgresql+asyncpg://host:port/database``: each NF has a role and a schema of its own in it."""
    password_file: str = ""
    """Files with the passwords of these roles, ``{nf}`` for the NF; empty = the lab makes them in its state folder."""
    ca_file: str = ""
    """Certificates that may have issued the server's; with it TLS is demanded."""
    wait_s: Annotated[float, Field(ge=0, le=3600, strict=False)] = 20.0
    """How long a node waits for the database when it starts, seconds."""


def database_faults(section: DatabaseSection) -> Iterator[Fault]:
    """Yield what is wrong with the section as a whole."""
    if not section.url:
        for name in ("password_file", "ca_file"):
            if getattr(section, name):
                yield ("database", name), "says nothing without a url", f"a url: {RIGHT_URL}"
        return
    try:
        DatabaseAddress.parse(section.url)
    except ValueError as error:
        # the text itself is not shown: a password may stand in it
        yield ("database", "url"), str(error), RIGHT_URL
    if section.password_file and not Path(section.password_file).is_absolute():
        yield ("database", "password_file"), f"{section.password_file} is a relative path", "an absolute path"
    if section.password_file and "{nf}" not in section.password_file:
        found = f"{section.password_file} is one file for all"
        yield ("database", "password_file"), found, "a path with {nf} in it: each NF has a password of its own"
    if section.ca_file and not Path(section.ca_file).is_file():
        yield ("database", "ca_file"), f"{section.ca_file} is no file", "the absolute path of a PEM file"
