"""Run one node of any kind in this process: ``python -m sba.run KIND --instance NAME --config lab.json``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from sba import runtime
from sba.config import NodeEnvironment
from sba.errors import ConfigurationError
from sba.faults import raised_at
from sba.nf import NetworkFunction, run_node
from sba.packages import extend_path

GROUP = "imslab.nodes"
"""Entry-point group through which network functions are found."""


def kinds() -> tuple[str, ...]:
    """Return the kinds of node that are installed."""
    return tuple(dict.fromkeys(entry.name for entry in entry_points(group=GROUP)))


def node_class(kind: str) -> type[NetworkFunction]:
    """Return the class of a kind of node.

    Raises :class:`ConfigurationError` when nothing offers it, or what does cannot be loaded.
    """
    found = list(entry_points(group=GROUP, name=kind))
    if not found:
        raise ConfigurationError(f"no network function of kind {kind!r} is installed")
    try:
        loaded = found[0].load()
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else error  # its text repeats the line
        fault = f"{type(error).__name__}: {text}"
        raise ConfigurationError(
            f"{found[0].value} of kind {kind!r} cannot be loaded: {fault}{_where(error)}"
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, NetworkFunction):
        raise ConfigurationError(f"{found[0].value} is not a NetworkFunction")
    return loaded


def _where(error: BaseException) -> str:
    """Return the file and line a fault was raised at."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    place = raised_at(error).rpartition(" in ")[0]
    return f" ({place})" if place and not place.startswith("<frozen") else ""


def run(kind: str, instance: str, config: str | Path) -> int:
    """Run a node until it is told to stop; return the exit status. What it writes is its user's alone."""
    os.umask(0o077)
    runtime.install()
    environment = NodeEnvironment.load(config, instance)
    extend_path(environment.lab.package_path)
    return run_node(node_class(kind), environment)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--instance", required=True)
    parser.add_argument("--config", required=True)
    options = parser.parse_args(arguments)
    try:
        return run(options.kind, options.instance, options.config)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
