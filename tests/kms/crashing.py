"""A KMS that ends as by ``kill -9`` at one point of its work: ``python -m tests.kms.crashing POINT INSTANCE lab.json``."""

import os
import signal
import sys

from nodes.kms.node import Kms
from nodes.kms.store import KmsStore
from sba import runtime
from sba.config import NodeEnvironment
from sba.nf import run_node

POINTS = {
    "before-seen": ("first_sight", False),
    "after-seen": ("first_sight", True),
    "before-audit": ("record", False),
    "after-audit": ("record", True),
    "before-use": ("first_use", False),
    "after-use": ("first_use", True),
    "before-rotation": ("replace_ticket_key", False),
    "after-rotation": ("replace_ticket_key", True),
}


def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point):
    """Have the store's method end the process before or after its work; a first ticket key is always made."""
    name, after = POINTS[point]
    method = getattr(KmsStore, name)
    spared = [1 if name == "replace_ticket_key" else 0]

    async def deadly(self, *arguments, **named):
        if spared[0] and not await self.ticket_keys():
            spared[0] = 0
            return await method(self, *arguments, **named)
        if not after:
            die()
        await method(self, *arguments, **named)
        return die()

    setattr(KmsStore, name, deadly)


def main(point, instance, path):
    runtime.install()
    arm(point)
    return run_node(Kms, NodeEnvironment.load(path, instance))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
