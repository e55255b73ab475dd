"""Environments and databases of stores that belong to no process."""

from __future__ import annotations

import asyncio
import json

from sba.config import NodeEnvironment
from sba.migrations import History
from sba.run import node_class
from sba.store import create_sealing_key
from tests.postgresql import shared_server

KINDS = ("nrf", "hss", "cscf", "pcscf", "kms", "bsf", "ue")
"""Kinds of node that keep something; the gateway keeps nothing."""
INSTANCE = "5b9d1c1a-4b1a-4d43-8a0c-1f4f4c1f0001"
DATABASES = ("sqlite", "postgresql")


def history_of(kind):
    return History.of(node_class(kind))


def environment(folder, instance="nf", database=None, **node):
    """A lab of one node, which is none of the lab's processes."""
    create_sealing_key(folder / "sealing.key")
    entry = {"kind": "nf", "instance": instance, "nf_instance_id": INSTANCE, "fqdn": f"{instance}.ims.test", **node}
    document = {
        "pki_dir": str(folder / "pki"),
        "state_dir": str(folder / "state"),
        "sealing_key_file": str(folder / "sealing.key"),
        "nrf": {"host": "127.0.0.1", "port": 1, "fqdn": "nrf.ims.test", "instance_id": INSTANCE},
        "nodes": {instance: entry},
        **(database or {}),
    }
    (folder / f"{instance}.json").write_text(json.dumps(document))
    return NodeEnvironment.load(folder / f"{instance}.json", instance)


async def environment_on(database, folder, instance="nf", **node):
    """The same, its store in a database of that kind, made for it alone."""
    described = await shared_server().database(folder, {instance: [instance]}) if database == "postgresql" else None
    return environment(folder, instance, described, **node)


class Said:
    """Takes the place of ``Telemetry.log``."""

    def __init__(self):
        self.lines = []
        self.spoken = asyncio.Event()

    def __call__(self, event, **facts):
        self.spoken.set()
        self.lines.append((event, facts))

    def events(self):
        return [event for event, _ in self.lines]
