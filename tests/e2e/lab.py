"""A whole lab of processes for a test, driven through the ``imslab`` command as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "lab.cli"]


class Lab:
    """One running lab in a state folder of its own."""

    def __init__(self, state: Path, config: Path) -> None:
        self.state = state
        self.config = config

    def run(self, *arguments: str, check: bool = True, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            [*COMMAND, *arguments, "--state", str(self.state)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and process.returncode != 0:
            raise AssertionError(
                f"imslab {' '.join(arguments)} ended with {process.returncode}\n{process.stdout}\n{process.stderr}\n{self.tail()}"
            )
        return process

    def json(self, *arguments: str, status: int | None = 0, timeout: float = 90) -> dict[str, Any]:
        """The JSON a command printed; its exit status must be `status`, or any with None."""
        process = self.run(*arguments, "--json", check=False, timeout=timeout)
        assert status in (None, process.returncode), (
            f"{arguments}: {process.returncode}\n{process.stdout}\n{process.stderr}\n{self.tail()}"
        )
        result: dict[str, Any] = json.loads(process.stdout)
        return result

    def call(self, caller: str, callee: str, *arguments: str, status: int | None = 0) -> dict[str, Any]:
        return self.json("call", caller, callee, *arguments, status=status)

    def flow(self, call_id: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.run("flow", call_id, "--format", "json").stdout)
        return result

    @property
    def resolved(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.state / "lab.json").read_text())
        return result

    def node(self, instance: str) -> dict[str, Any]:
        result: dict[str, Any] = self.resolved["nodes"][instance]
        return result

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Live status by instance name: pid, state, restarts."""
        status = self.json("status")
        return {entry["instance"]: entry for entry in status["nodes"]}

    def kill(self, instance: str) -> int:
        """``kill -9`` of one node; returns the pid that died."""
        pid = int(self.nodes()[instance]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_back(self, instance: str, dead: int, seconds: float = 30) -> None:
        """Until the supervisor has started the node again and it serves."""
        self.wait(
            lambda: (entry := self.nodes()[instance])["pid"] not in (dead, None) and entry["state"] == "serving",
            seconds,
            f"{instance} did not come back",
        )

    @staticmethod
    def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def files(self) -> Iterator[Path]:
        """Every file the lab wrote."""
        return (path for path in sorted(self.state.rglob("*")) if path.is_file())

    def tail(self, lines: int = 15) -> str:
        text = []
        for path in sorted(self.state.rglob("*.log")):
            last = path.read_text(errors="replace").splitlines()[-lines:]
            text.append(f"--- {path.name}\n" + "\n".join(last))
        return "\n".join(text)[-8000:]


def variant(target: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Write config/lab.yaml with a change applied; returns the file."""
    description = yaml.safe_load((ROOT / "config" / "lab.yaml").read_text())
    if change is not None:
        change(description)
    target.write_text(yaml.safe_dump(description, sort_keys=False))
    return target


@contextmanager
def running(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Iterator[Lab]:
    """A lab that is up for the length of the block and gone after it."""
    config = variant(folder / "lab.yaml", change)
    lab = Lab(folder / "state", config)
    try:
        lab.run("up", "--config", str(config))
        yield lab
    finally:
        lab.run("down", check=False)
