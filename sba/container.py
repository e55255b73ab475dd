"""Run the node of a container: ``python -m sba.container [FOLDER]``.

The folder holds what this container may know: ``lab.json`` with the entries of its own instances alone, their
certificates and keys, their sealed secrets. Of several instances the first that is free is taken (:mod:`sba.slots`).
Where the node is reached stands in ``$IMSLAB_RUN/node.json`` for the health check (:mod:`sba.probe`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sba.config import LabDescription, NodeEnvironment
from sba.errors import ConfigurationError

SECRETS = "/run/secrets/imslab"
"""Where the container engine puts the secrets of a service."""
SLOTS = "/var/lib/imslab/slots"
"""Folder of a volume that all containers of a service share; its files are the locks of instances."""
RUN = "/tmp/imslab"  # noqa: S108 - a tmpfs of the container's own
"""Folder of what holds for this container's life alone."""


def own_node(folder: Path, slots: Path) -> NodeEnvironment:
    """Return the node this process is, its instance claimed until the process ends.

    Raises :class:`ConfigurationError` when the folder holds no usable ``lab.json`` or every instance is taken.
    """
    from sba.slots import claim

    path = folder / "lab.json"
    try:
        lab = LabDescription.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read; the service `init` writes it ({error})") from error
    instances = list(lab.nodes)
    if not instances:
        raise ConfigurationError(f"{path} has no node for this container")
    instance = instances[0] if len(instances) == 1 else claim(slots, instances).instance
    return NodeEnvironment.load(path, instance)


def write_whereabouts(node: NodeEnvironment, run: Path) -> None:
    """Write where the node serves, and its certificate, for the health check."""
    pki, sbi = node.lab.pki_dir, node.node.sbi
    host = "127.0.0.1" if sbi.host == "0.0.0.0" else sbi.host  # noqa: S104 - compared, not bound
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = {
        "instance": node.instance,
        "host": host,
        "port": sbi.port,
        "fqdn": node.node.fqdn,
        "ca": str(pki / "ca.crt"),
        "certificate": str(pki / f"{node.instance}.crt"),
        "key": str(pki / f"{node.instance}.key"),
    }
    (run / "node.json").write_text(json.dumps(place), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(given[0] if given else SECRETS)
    os.umask(0o077)
    try:
        node = own_node(folder, Path(os.environ.get("IMSLAB_SLOTS", SLOTS)))
        write_whereabouts(node, Path(os.environ.get("IMSLAB_RUN", RUN)))
        from sba.run import run

        return run(node.node.kind, node.instance, folder / "lab.json")
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
