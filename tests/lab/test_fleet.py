"""Nodes as processes: started in stages, restarted with back-off, given up, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import fleet as fleet_module
from lab.fleet import Fleet, NodeProcess, State, rotate
from lab.spawner import NodeOrder, ProcessSpawner
from lab.telling import fault_line

SERVES = "import signal, sys; print('ready', flush=True); signal.pause()"
FALLS = "import sys; print('RuntimeError: no port', flush=True); sys.exit(3)"


def order(folder: Path, name: str) -> NodeOrder:
    return NodeOrder(name, "fake", str(folder / "lab.json"), str(folder / f"{name}.log"))


class Stage:
    """A fleet of tiny programs, ready as soon as they have printed a line."""

    def __init__(self, folder: Path, programs: dict[str, str]) -> None:
        self.folder = folder
        self.news = asyncio.Condition()
        self.history: list[tuple[str, State]] = []
        self.fleet = Fleet([order(folder, name) for name in programs], self._serves, self._changed)
        self.spawner = ProcessSpawner(
            self.fleet.exited, lambda each: [sys.executable, "-u", "-c", programs[each.instance]]
        )
        self.fleet.use(self.spawner)

    async def _serves(self, instance: str) -> bool:
        node = self.fleet.nodes[instance]
        log = self.folder / f"{instance}.log"
        return log.exists() and log.read_text().count("ready") > node.restarts

    def _changed(self, node: NodeProcess) -> None:
        self.history.append((node.instance, node.state))
        self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.news:
            await self.news.wait_for(condition)


def play(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run ``main`` on an event loop of its own: the one of the test run is busy."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, main()).result(30)


def test_stages_start_one_after_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path, {"nrf": SERVES, "hss": SERVES, "cscf": SERVES})
        assert await stage.fleet.start([["nrf"], ["hss", "cscf"]]) == []
        assert stage.history[:2] == [("nrf", State.STARTING), ("nrf", State.SERVING)]
        assert {node.state for node in stage.fleet.nodes.values()} == {State.SERVING}
        await stage.fleet.stop([["hss", "cscf"], ["nrf"]])
        assert {node.state for node in stage.fleet.nodes.values()} == {State.STOPPED}
        assert stage.history[-1] == ("nrf", State.STOPPED)

    play(main)


@pytest.mark.attack("T9")
def test_a_killed_node_is_restarted(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path, {"pcscf": SERVES})
        await stage.fleet.start([["pcscf"]])
        node = stage.fleet.nodes["pcscf"]
        dead = node.pid
        os.kill(dead, signal.SIGKILL)
        await stage.until(lambda: node.restarts == 1 and node.state is State.SERVING)
        assert node.pid != dead
        assert ("pcscf", State.FALLEN) in stage.history
        await stage.fleet.stop([["pcscf"]])

    play(main)


def test_back_off_grows_with_every_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(0)

    async def main() -> None:
        stage = Stage(tmp_path, {"pcscf": SERVES})
        await stage.fleet.start([["pcscf"]])
        node = stage.fleet.nodes["pcscf"]
        monkeypatch.setattr(fleet_module.asyncio, "sleep", sleep)
        for fall in range(1, 4):
            pid = node.pid
            os.kill(pid, signal.SIGKILL)
            while not (node.restarts == fall and node.state is State.SERVING and node.pid != pid):
                await real(0.01)
        monkeypatch.undo()
        await stage.fleet.stop([["pcscf"]])

    play(main)
    assert waited == list(fleet_module.BACKOFF_S[:3])


def test_a_node_that_never_serves_is_given_up_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path, {"cscf": FALLS})
        (failed,) = await stage.fleet.start([["cscf"]])
        assert failed.instance == "cscf"
        assert failed.reason == "ended with exit code 3: RuntimeError: no port"
        assert failed.falls == fleet_module.MAX_FALLS_BEFORE_SERVING

    play(main)
    assert fault_line(tmp_path / "cscf.log") == "RuntimeError: no port"


def test_a_node_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "STOP_GRACE_S", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"

    async def main() -> None:
        stage = Stage(tmp_path, {"ue": deaf})
        await stage.fleet.start([["ue"]])
        await stage.fleet.stop([["ue"]])
        assert stage.fleet.nodes["ue"].state is State.STOPPED
        assert stage.fleet.nodes["ue"].exit_code == -signal.SIGKILL

    play(main)


def test_a_restart_on_request_brings_a_new_process(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Stage(tmp_path, {"hss": SERVES})
        await stage.fleet.start([["hss"]])
        node = stage.fleet.nodes["hss"]
        before = node.pid
        await stage.fleet.restart("hss")
        await stage.until(lambda: node.state is State.SERVING and node.pid != before)
        await stage.fleet.stop([["hss"]])

    play(main)


def test_a_long_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "LOG_LIMIT", 10)
    log = tmp_path / "a.log"
    log.write_text("x" * 11)
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "a.log.1").read_text() == "x" * 11


FORKED = """
import asyncio, json, os, signal, sys
from lab.spawner import ForkSpawner, NodeOrder, can_fork, fork_server, preload

def run(order):
    print(order.instance, os.getpid(), "grpc" in sys.modules, flush=True)
    if order.instance == "broken":
        raise RuntimeError("cannot start")
    import grpc.aio, grpc
    async def main():
        server = grpc.aio.server()
        async def echo(request, context):
            return request
        method = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Y", {"E": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            print(await channel.unary_unary("/x.Y/E")(b"works"), flush=True)
        await server.stop(0)
    asyncio.run(main())
    signal.pause()
    return 0

faults = preload(("grpc.aio", "no_such_module_at_all"))
channel = fork_server(run)
result = {"faults": list(faults), "forked": channel is not None}

async def main():
    ended = {}
    spawner = ForkSpawner(channel, lambda pid, code: ended.__setitem__(pid, code), lambda: None)
    await spawner.open()
    folder = sys.argv[1]
    pids = {}
    for name in ("one", "two", "broken"):
        pids[name] = await spawner.spawn(NodeOrder(name, "fake", "", f"{folder}/{name}.log"))
    def text(name):
        try:
            return open(f"{folder}/{name}.log").read()
        except OSError:
            return ""
    while not all("works" in text(name) for name in ("one", "two")) or pids["broken"] not in ended:
        await asyncio.sleep(0.01)
    result["environment"] = open(f"/proc/{pids['one']}/comm").read().strip()
    os.kill(pids["one"], signal.SIGKILL)
    while pids["one"] not in ended:
        await asyncio.sleep(0.01)
    spawner.signal(os.getpid(), signal.SIGKILL)  # not a child: must be ignored
    await spawner.close()
    result["ended"] = {name: ended.get(pid) for name, pid in pids.items()}
    result["left"] = [name for name, pid in pids.items() if os.path.exists(f"/proc/{pid}")]

asyncio.run(main())
print(json.dumps(result))
"""


def test_nodes_forked_from_the_server_speak_grpc_and_end_with_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKED), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == ["no_such_module_at_all"]
    assert result["forked"]
    assert result["environment"] == "ims:one"
    assert result["ended"] == {"one": -9, "two": -15, "broken": 1}
    assert result["left"] == []
    assert "True" in (tmp_path / "one.log").read_text()
    assert "RuntimeError: cannot start" in (tmp_path / "broken.log").read_text()
