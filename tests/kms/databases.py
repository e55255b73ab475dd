"""A store on SQLite or on a PostgreSQL server of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from nodes.kms.store import KmsStore
from sba.config import NodeEnvironment
from sba.store import Store, create_sealing_key
from sba.testing import free_port

INSTANCE = "5b9d1c1a-4b1a-4d43-8a0c-1f4f4c1f0001"


class Postgres:
    """A PostgreSQL server on loopback, with its files in a folder of its own; nothing is kept."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="imslab-pg-", dir="/tmp"))
        self.port = free_port()
        found = shutil.which("postgres")
        self.bin = Path(found).resolve().parent if found else max(Path("/usr/lib/postgresql").glob("*/bin"))
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.as_user:
            shutil.chown(self.folder, "postgres", "postgres")

    @property
    def url(self):
        return f"postgresql+asyncpg://lab@127.0.0.1:{self.port}/postgres"

    def start(self):
        data = self.folder / "data"
        initdb = [self.bin / "initdb", "-D", data, "-U", "lab", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        self._run(*initdb)
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        start = [self.bin / "pg_ctl", "-D", data, "-w", "-l", self.folder / "log", "-o", options, "start"]
        self._run(*start)

    def create(self, database):
        """Make another database."""
        psql = [self.bin / "psql", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "lab", "postgres"]
        self._run(*psql, "-c", f'CREATE DATABASE "{database}"')

    def _run(self, *command):
        subprocess.run([*self.as_user, *command], check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def stop(self):
        self._run(self.bin / "pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def postgres():
    server = Postgres()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def environment(folder, url=""):
    """The environment of a KMS that is no process: sealing key and database."""
    create_sealing_key(folder / "sealing.key")
    document = {
        "pki_dir": str(folder / "pki"),
        "state_dir": str(folder / "state"),
        "sealing_key_file": str(folder / "sealing.key"),
        "nrf": {"host": "127.0.0.1", "port": 1, "fqdn": "nrf.ims.test", "instance_id": INSTANCE},
        "database_url": url,
        "nodes": {"kms": {"kind": "kms", "instance": "kms", "nf_instance_id": INSTANCE, "fqdn": "kms.ims.test"}},
    }
    (folder / "lab.json").write_text(json.dumps(document))
    return NodeEnvironment.load(folder / "lab.json", "kms")


@contextlib.asynccontextmanager
async def opened(folder, url="") -> AsyncIterator[KmsStore]:
    store = await Store.open(environment(folder, url))
    try:
        kms = KmsStore(store)
        await kms.create()
        yield kms
    finally:
        await store.close()
