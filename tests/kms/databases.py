"""The store of a KMS on SQLite or in a PostgreSQL database of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from nodes.kms.node import Kms
from nodes.kms.store import KmsStore
from sba.config import NodeEnvironment
from sba.migrations import History
from sba.store import Store, create_sealing_key
from tests.postgresql import shared_server

INSTANCE = "5b9d1c1a-4b1a-4d43-8a0c-1f4f4c1f0001"


async def database_of(folder, kind):
    """What ``lab.json`` says of the database, of that kind."""
    return {} if kind == "sqlite" else await shared_server().database(folder, {"kms": ["kms"]})


def environment(folder, database=None):
    """The environment of a KMS that is no process: sealing key and database."""
    create_sealing_key(folder / "sealing.key")
    document = {
        "pki_dir": str(folder / "pki"),
        "state_dir": str(folder / "state"),
        "sealing_key_file": str(folder / "sealing.key"),
        "nrf": {"host": "127.0.0.1", "port": 1, "fqdn": "nrf.ims.test", "instance_id": INSTANCE},
        "nodes": {"kms": {"kind": "kms", "instance": "kms", "nf_instance_id": INSTANCE, "fqdn": "kms.ims.test"}},
        **(database or {}),
    }
    (folder / "lab.json").write_text(json.dumps(document))
    return NodeEnvironment.load(folder / "lab.json", "kms")


@contextlib.asynccontextmanager
async def opened(folder, database=None) -> AsyncIterator[KmsStore]:
    store = await Store.open(environment(folder, database), History.of(Kms))
    try:
        yield KmsStore(store)
    finally:
        await store.close()
