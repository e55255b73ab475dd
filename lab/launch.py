"""Starting and ending a lab from the command line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.control import ControlError, Json, NotRunningError, Params, ask
from lab.state import StateFolder
from lab.telling import fault_line, fault_text, several

if TYPE_CHECKING:
    from lab.config import LabConfig

CONNECT_TIMEOUT_S = 60.0
"""How long a new supervisor may take to answer, seconds."""
NO_CONSOLE = "--no-console"
"""Argument of a supervisor that is to have no console."""
DOWN_TIMEOUT_S = 20.0
"""How long a lab may take to end, seconds."""
_POLL_S = 0.02
_left_behind: list[subprocess.Popen[bytes]] = []
"""Supervisors that outlive this process on purpose."""


class LaunchError(Exception):
    """The lab did not come up; ``node``, ``reason``, ``log_line``, ``log`` say which part, why, and where."""

    def __init__(self, node: str, reason: str, log_line: str = "", log: str = "", others: Sequence[str] = ()) -> None:
        text = f"{node}: {reason}"
        words = fault_text(log_line)
        if log_line and not (words and words in reason):
            text += f"\n  {log_line}"
        if log:
            text += f"\n  log: {log}"
        if others:
            text += f"\nand so did {several(others)}"
        super().__init__(text)
        self.node = node
        self.reason = reason
        self.log_line = log_line
        self.log = log
        self.others = tuple(others)


class StateFolderError(Exception):
    """The state folder cannot be made or written."""


@dataclass(frozen=True)
class Started:
    """A lab that serves: one row a node, and the seconds it took (0 when it was up already)."""

    rows: list[Params]
    seconds: float
    already: bool = False


def default_config() -> Path:
    """Return the lab description used without ``--config``: that of this folder, of the checkout, of the package."""
    package = Path(__file__).resolve().parent
    candidates = (Path("config/lab.yaml"), package.parent / "config" / "lab.yaml", package / "lab.yaml")
    return next((path for path in candidates if path.exists()), candidates[-1])


def is_running(folder: StateFolder) -> bool:
    """Tell whether a supervisor answers in ``folder``."""
    try:
        ask(folder.socket, "ping")
    except NotRunningError:
        return False
    except ControlError:
        return True
    return True


def rows_of(answer: Json) -> list[Params]:
    """Return the node rows of a ``status`` or ``watch`` answer."""
    nodes = answer.get("nodes") if isinstance(answer, dict) else None
    return [row for row in nodes if isinstance(row, dict)] if isinstance(nodes, list) else []


def up(
    config: Path,
    folder: StateFolder,
    progress: Callable[[Params], None],
    packages: Sequence[Path] | None = None,
    *,
    console: bool = True,
) -> Started:
    """Start the lab described by ``config`` in ``folder`` and return when every node serves.

    ``packages`` are folders of packages that are not installed; None stands for those of the last time.

    Raises ``lab.config.ConfigError`` for a faulty description, ``sba.packages.PackageError`` for a folder that is no
    safe package, ``StateFolderError`` for a folder that cannot be
    written, ``LaunchError`` when a node cannot serve (the lab is taken down again),
    ``lab.resolve.ResolveError`` when the machine gives no addresses.
    """
    if is_running(folder):
        return Started(rows_of(ask(folder.socket, "status")), 0.0, already=True)
    began = time.monotonic()
    progress({"phase": "the lab description"})
    description = _described(config, folder, packages)
    progress({"phase": "certificates, keys and addresses"})
    supervisor = _start_supervisor(folder, console=console)
    try:
        from lab.resolve import resolve

        resolve(description, folder)
        folder.description.touch(mode=0o600)
        folder.description.write_text(_digest(description))
    except BaseException:
        supervisor.kill()
        supervisor.wait()
        raise
    progress({"phase": "the supervisor"})
    assert supervisor.stdin is not None
    supervisor.stdin.write(b"go\n")
    supervisor.stdin.close()
    answer = _wait(supervisor, folder, progress)
    rows = rows_of(answer)
    failed = answer.get("failed") if isinstance(answer, dict) else None
    _left_behind.append(supervisor)
    if isinstance(failed, list) and failed:
        down(folder)
        supervisor.wait()
        row = next(row for row in rows if row["instance"] == failed[0])
        node, reason, line, log = (str(row[name]) for name in ("instance", "reason", "log_line", "log"))
        raise LaunchError(node, reason, line, log, [str(name) for name in failed[1:]])
    return Started(rows, time.monotonic() - began)


def _described(config: Path, folder: StateFolder, packages: Sequence[Path] | None) -> LabConfig:
    """Read the description and hold it against what is installed and what the packages bring, before anything starts.

    Makes the state folder. Raises ``ConfigError``, ``PackageError`` and ``StateFolderError``.
    """
    from lab.config import load
    from lab.config_kinds import installed_faults
    from lab.config_problems import dotted
    from lab.with_packages import prepare, remember, remembered, with_nodes
    from sba.packages import PackageError

    if remembered(folder) if packages is None else packages:  # without any, a faulty description leaves nothing behind
        _make(folder)
    brought = prepare(folder, packages)
    description = with_nodes(load(config, installed_faults), brought)
    added = "; ".join(f"{dotted(where)}: {found}" for where, found, _ in installed_faults(description))
    if added:
        names = ", ".join(package.name for package in brought)
        raise PackageError(f"no node can be added for {names} ({added}): describe it in extra_nodes")
    _make(folder)
    remember(folder, brought)
    return description


def _make(folder: StateFolder) -> None:
    try:
        folder.create()
    except OSError as error:
        why = error.strerror
        if isinstance(error, (NotADirectoryError, FileExistsError)):
            wanted = Path(error.filename)
            file = next(path for path in (wanted, *wanted.parents) if path.exists())
            why = f"{file} is a file (Not a directory)"
        raise StateFolderError(f"the state folder {folder.root} cannot be written: {why}") from None


def runs_other_packages(packages: Sequence[Path], folder: StateFolder) -> bool:
    """Tell whether the lab in ``folder`` was started with other packages. Raises ``sba.packages.PackageError``."""
    from lab.with_packages import remembered

    return set(remembered(folder)) != {path.expanduser().resolve() for path in packages}


def runs_another(config: Path, folder: StateFolder) -> bool:
    """Tell whether the lab in ``folder`` came from another description.

    Raises ``lab.config.ConfigError``, and ``sba.packages.PackageError`` when a package of it is gone.
    """
    from lab.config import load
    from lab.with_packages import remembered, with_nodes
    from sba.packages import read_package

    wanted = _digest(with_nodes(load(config), [read_package(path) for path in remembered(folder)]))
    try:
        return folder.description.read_text() != wanted
    except OSError:
        return True


def _digest(description: LabConfig) -> str:
    return hashlib.sha256(description.model_dump_json().encode()).hexdigest()


def _start_supervisor(folder: StateFolder, *, console: bool) -> subprocess.Popen[bytes]:
    log = os.open(folder.log_of("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor", str(folder.root), *([] if console else [NO_CONSOLE])],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        )
    finally:
        os.close(log)


def _wait(supervisor: subprocess.Popen[bytes], folder: StateFolder, progress: Callable[[Params], None]) -> Json:
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return ask(folder.socket, "watch", progress=progress)
        except NotRunningError:
            if supervisor.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_S)
                continue
            reason = f"ended with exit code {supervisor.returncode}" if supervisor.returncode else "does not answer"
        except ControlError as error:
            reason = str(error)
        supervisor.kill()
        supervisor.wait()
        log = folder.log_of("supervisor")
        raise LaunchError("supervisor", reason, fault_line(log), str(log))


def down(folder: StateFolder) -> bool:
    """End the lab in ``folder``; returns whether one ran. Raises ``ControlError`` when it does not end."""
    try:
        pid = int(folder.pid_file.read_text())
    except (OSError, ValueError):
        pid = 0
    try:
        ask(folder.socket, "down")
    except NotRunningError:
        return False
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while time.monotonic() < deadline:
        if not folder.pid_file.exists() and not _alive(pid):
            _left_behind[:] = [process for process in _left_behind if process.poll() is None]
            return True
        time.sleep(_POLL_S)
    raise ControlError(f"the supervisor (process {pid}) does not end; its log is {folder.log_of('supervisor')}")


def _alive(pid: int) -> bool:
    if not pid:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
