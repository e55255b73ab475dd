"""PostgreSQL servers of the tests' own, on loopback, with passwords; nothing is kept."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from sba.database import DatabaseAddress, read_password
from sba.database_setup import Administrator, Tenant, prepare
from sba.testing import free_port

ADMINISTRATOR = "postgres"
_numbers = itertools.count(1)


class Postgres:
    """A PostgreSQL server whose administrator and roles have passwords (SCRAM)."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="imslab-pg-", dir="/tmp"))
        self.port = free_port()
        found = shutil.which("postgres")
        self.bin = Path(found).resolve().parent if found else max(Path("/usr/lib/postgresql").glob("*/bin"))
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.password_file = self.folder / "administrator"
        self.password_file.write_text("the administrator's\n")
        self.log = self.folder / "log"
        if self.as_user:
            shutil.chown(self.folder, "postgres", "postgres")
            shutil.chown(self.password_file, "postgres", "postgres")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def administrator(self):
        return Administrator(ADMINISTRATOR, read_password(self.password_file))

    def url(self, database):
        return f"postgresql+asyncpg://{self.address}/{database}"

    def make(self):
        data = ["-D", self.folder / "data", "-U", ADMINISTRATOR, "--auth=scram-sha-256"]
        self._run(self.bin / "initdb", *data, f"--pwfile={self.password_file}", "--no-sync", "-E", "UTF8", "--locale=C")

    def start(self, more=""):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        options += f" -c log_statement=all -c log_checkpoints=off {more}"
        start = [self.bin / "pg_ctl", "-D", self.folder / "data", "-w", "-l", self.log, "-o", options, "start"]
        self._run(*start)

    def kill(self):
        """End every process of the server at once, as when its machine goes."""
        lock = self.folder / "data" / "postmaster.pid"
        leader = int(lock.read_text().split()[0])
        held = [leader, *self.processes()]
        for pid in held:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(map(_alive, held)):
            time.sleep(0.005)
        lock.unlink()  # where nobody reaps orphans the number stays taken

    def processes(self):
        """The server's processes beside the first one."""
        return _children(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))

    def stop(self, *, gone=True):
        with contextlib.suppress(subprocess.CalledProcessError):  # killed already
            self._run(self.bin / "pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")
        if gone:
            shutil.rmtree(self.folder)

    def _run(self, *command):
        subprocess.run(
            [*self.as_user, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp"
        )

    async def database(self, folder, tenants):
        """Make a new database with roles for ``tenants`` (NF: its stores); return what goes into ``lab.json``."""
        name = f"lab{next(_numbers)}"
        made = []
        for nf, stores in tenants.items():
            file = folder / f"{nf}.password"
            file.write_text(f"password of {nf}\n")
            made.append(Tenant(nf, tuple(stores), file))
        await prepare(DatabaseAddress.parse(self.url(name)), self.administrator, made)
        return {"database_url": self.url(name), "database_password_file": str(folder / "{nf}.password")}


def _children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def own_server():
    """A server that a test may stop and kill."""
    server = Postgres()
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()


@functools.cache
def shared_server():
    """The server of this test process: one for all tests that leave it as it is, each with a database of its own."""
    server = Postgres()
    atexit.register(server.stop)
    server.make()
    server.start()
    return server
