"""The supervisor with real nodes: faults at the start, its own death, the death of the fork server."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.control import ask
from lab.launch import LaunchError, down, is_running, up
from lab.state import StateFolder

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
home_domains: [{name: ims.test}]
access_networks: [{name: a, pcscf: pcscf-a, gateway: imsagw-a}]
users: []
"""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    monkeypatch.chdir(ROOT)
    folder = StateFolder.at(tmp_path / "state")
    yield folder
    down(folder)


def rows(folder: StateFolder) -> dict[str, dict[str, object]]:
    status = ask(folder.socket, "status")
    assert isinstance(status, dict)
    nodes = status["nodes"]
    assert isinstance(nodes, list)
    return {str(row["instance"]): dict(row) for row in nodes if isinstance(row, dict)}


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_that_cannot_start_is_named_with_reason_and_log_line_and_nothing_stays(
    config: Path, folder: StateFolder
) -> None:
    up(config, folder, lambda _: None)
    host, _, port = str(rows(folder)["hss"]["sbi"]).rpartition(":")
    down(folder)
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the lab before may linger
        squatter.bind((host, int(port)))
        squatter.listen()
        with pytest.raises(LaunchError) as failed:
            up(config, folder, lambda _: None)
    assert failed.value.node == "hss"
    assert failed.value.reason
    assert failed.value.log_line
    assert not is_running(folder)


def test_up_twice_leaves_the_running_lab_alone(config: Path, folder: StateFolder) -> None:
    first = {str(row["instance"]): row["pid"] for row in up(config, folder, lambda _: None).rows}
    again = up(config, folder, lambda _: None)
    assert again.already
    assert {str(row["instance"]): row["pid"] for row in again.rows} == first


@pytest.mark.attack("T8")
def test_what_a_lab_writes_is_its_users_alone(config: Path, folder: StateFolder) -> None:
    usual = os.umask(0o022)
    try:
        up(config, folder, lambda _: None)
    finally:
        os.umask(usual)
    modes = {path: path.lstat().st_mode & 0o777 for path in folder.root.rglob("*")}
    assert {path.name for path in modes} >= {"supervisor.pid", "store.sqlite", "traces.sqlite", "ca.crl", "hss.log"}
    public = {".crt", ".crl"}
    assert {str(path) for path, mode in modes.items() if mode & 0o077 and path.suffix not in public} == set()


@pytest.mark.attack("T9")
def test_when_the_supervisor_is_killed_its_nodes_end_and_the_lab_can_come_up_again(
    config: Path, folder: StateFolder
) -> None:
    up(config, folder, lambda _: None)
    before = rows(folder)
    os.kill(int(folder.pid_file.read_text()), signal.SIGKILL)
    until(lambda: all(gone(int(str(row["pid"]))) for row in before.values()))
    assert not is_running(folder)
    up(config, folder, lambda _: None)
    assert {name: row["sbi"] for name, row in rows(folder).items()} == {
        name: row["sbi"] for name, row in before.items()
    }


@pytest.mark.attack("T9")
def test_when_the_fork_server_is_killed_the_nodes_come_back_at_the_same_addresses(
    config: Path, folder: StateFolder
) -> None:
    up(config, folder, lambda _: None)
    before = rows(folder)
    os.kill(parent(int(str(before["hss"]["pid"]))), signal.SIGKILL)

    def back() -> bool:
        now = rows(folder)
        return all(row["state"] == "serving" and row["pid"] != before[name]["pid"] for name, row in now.items())

    until(back)
    assert {name: row["sbi"] for name, row in rows(folder).items()} == {
        name: row["sbi"] for name, row in before.items()
    }
