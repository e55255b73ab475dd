"""A PostgreSQL cluster of a bench's own: in a temporary folder, on loopback, gone when the bench is over."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from sba.database import DatabaseAddress
from sba.database_setup import Administrator, Tenant, prepare
from sba.testing import free_port

INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs of a server, a folder a version."""


def programs() -> Path | None:
    """The folder with initdb and pg_ctl; None where no server is installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(INSTALLED.glob("*/bin"))
    return folders[-1] if folders else None


class Postgres:
    """A running server with its defaults, but for memory enough to keep the tables in."""

    def __init__(self, folder: Path, port: int, bin_folder: Path, as_user: list[str]) -> None:
        self.folder, self.port = folder, port
        self._bin, self._as_user = bin_folder, as_user

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        data = self.folder / "data"
        self.run("initdb", "-D", data, "-U", "bench", "--auth=trust", "-E", "UTF8", "--locale=C")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        options += " -c shared_buffers=512MB -c max_wal_size=8GB"
        self.run("pg_ctl", "-D", data, "-w", "-l", self.folder / "log", "-o", options, "start")

    async def create(self, database: str, *, await_disk: bool) -> str:
        """Make a database for a KMS and return its URL; without `await_disk` a commit returns before it is on disk."""
        self._sql(f"CREATE DATABASE {database}")
        if not await_disk:
            self._sql(f"ALTER DATABASE {database} SET synchronous_commit = off")
        address = DatabaseAddress.parse(self.url(database))
        await prepare(address, Administrator("bench"), [Tenant("kms", ("kms",))])
        return self.url(database)

    def _sql(self, statement: str) -> None:
        self.run("psql", "-q", "-h", self.folder, "-p", str(self.port), "-U", "bench", "-c", statement, "postgres")

    def run(self, program: str, *arguments: str | Path) -> None:
        command = [*self._as_user, str(self._bin / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{program} failed:\n{done.stdout}{done.stderr}")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")


@contextlib.contextmanager
def postgres(cores: AbstractSet[int]) -> Iterator[Postgres | None]:
    """A server that runs on `cores`; None where none is installed."""
    bin_folder = programs()
    if bin_folder is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="imslab-bench-pg-", ignore_cleanup_errors=True) as name:
        folder, as_user = Path(name), []
        if os.geteuid() == 0:  # a server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]
        server = Postgres(folder, free_port(), bin_folder, as_user)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            server.start()
        finally:
            os.sched_setaffinity(0, before)
        try:
            yield server
        finally:
            server.stop()
