"""Runs a command of the service ``lab`` once the lab serves: ``python -m lab.waiting imslab call alice bob``.

``--alive`` instead of a command is the health check of the console: whether it answers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from lab.control import ControlError, ask
from lab.state import StateFolder

PATIENCE_S: Final = 180.0
"""How long a lab may take to serve, seconds; $IMSLAB_WAIT_S."""
_POLL_S: Final = 0.5
_AT_ONCE: Final = frozenset({"status", "logs", "mikey", "pki", "user", "flow", "down", "up"})
"""Commands that say something of a lab that does not serve yet, or need none."""


def serves(folder: StateFolder) -> bool:
    """Tell whether every node serves."""
    try:
        answer = ask(folder.socket, "ping")
    except ControlError:
        return False
    return isinstance(answer, dict) and answer.get("serving") is True


def missing(folder: StateFolder) -> str:
    """Say which nodes do not serve."""
    try:
        answer = ask(folder.socket, "status")
    except ControlError:
        return "the service console, which does not answer (docker compose ps, docker compose logs console)"
    rows = answer.get("nodes") if isinstance(answer, dict) else None
    nodes = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    names = [str(row["instance"]) for row in nodes if row.get("state") != "serving"]
    return f"{', '.join(names) or 'nobody'} (docker compose logs NAME)"


def alive(folder: StateFolder) -> bool:
    """Tell whether the console answers."""
    try:
        ask(folder.socket, "ping")
    except ControlError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait and become the command; returns only where there is none or the lab does not come."""
    command = list(sys.argv[1:] if arguments is None else arguments)
    folder = StateFolder.at(None)
    if command == ["--alive"]:
        return 0 if alive(folder) else 1
    if not command:
        sys.stderr.write("usage: docker compose run --rm lab imslab COMMAND ...\n")
        return 2
    if len(command) > 1 and command[0] == "imslab" and command[1] not in _AT_ONCE and not command[1].startswith("-"):
        deadline = time.monotonic() + float(os.environ.get("IMSLAB_WAIT_S") or PATIENCE_S)
        told = False
        while not serves(folder):
            if time.monotonic() > deadline:
                sys.stderr.write(f"the lab does not serve yet; it waits for {missing(folder)}\n")
                return 1
            if not told:
                sys.stderr.write("waiting for the lab to serve\n")
                told = True
            time.sleep(_POLL_S)
    return _become(*command)


def _become(*command: str) -> NoReturn:
    os.execvp(command[0], command)  # noqa: S606 - what the user asked for


if __name__ == "__main__":
    raise SystemExit(main())
