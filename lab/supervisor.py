"""The process that ``imslab up`` leaves behind.

It owns the node processes, receives their telemetry, holds the operator's identity and answers the command line.
Started as ``python -m lab.supervisor FOLDER``; it reads ``lab.json`` once a line arrives on its standard input, so
that it can load what the nodes share while the lab is still being laid out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lab.fleet import Fleet, NodeProcess, State
from lab.labfile import LabFile
from lab.launch import NO_CONSOLE
from lab.spawner import (
    HEAVY_MODULES,
    ForkSpawner,
    NodeOrder,
    ProcessSpawner,
    Spawner,
    fork_server,
    preload,
    redirect_output,
)
from lab.state import StateFolder
from lab.telling import fault_line, several, waits_for

if TYPE_CHECKING:
    from lab.console.settings import ConsoleSettings

NODE_MODULES = ("nrf", "hss", "cscf", "pcscf", "imsagw", "bsf", "kms", "ue")
"""Node kinds whose modules the fork server loads before it forks."""
TELEMETRY_GRACE_S = 0.6
"""How long nodes may take to send the spans they hold, seconds; a little above the export interval."""
LOOK_S = 0.2
"""How often the logs of starting nodes are looked at, seconds."""
LATE_S = 2.0
"""How long a node waits before that is told once more, seconds."""
_FIRST = ("nrf",)
_LAST = ("ue",)


def run_node(order: NodeOrder) -> int:
    """Run one node in this process; returns its exit status."""
    from sba.errors import ConfigurationError
    from sba.run import run

    try:
        return run(order.kind, order.instance, order.config)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2


class Supervisor:
    """Everything that lives between ``up`` and ``down``."""

    def __init__(self, folder: StateFolder, channel: socket.socket | None, *, console: bool = True) -> None:
        from lab.operations import Operations
        from lab.with_packages import package_path
        from sba.packages import extend_path

        self.folder = folder
        extend_path(package_path(folder))
        self.lab = LabFile.read(folder.lab_json)
        self._channel = channel
        self._console = console
        self._stopping = asyncio.Event()
        self._watchers: set[asyncio.Queue[NodeProcess]] = set()
        self.failed: list[NodeProcess] = []
        self.started = asyncio.Event()
        self.start_seconds = 0.0
        self._operations = Operations(self)
        self.fleet = self.make_fleet()
        self._spawner: Spawner | None = None

    def make_fleet(self) -> Fleet:
        """Return the nodes as those who look at them know them."""
        return Fleet(self._orders(), self._operations.operator.serves, self._changed)

    def console_settings(self) -> ConsoleSettings:
        """Return where the console is to listen."""
        from lab.console.settings import ConsoleSettings

        return ConsoleSettings.read(self.folder.lab_json) if self._console else ConsoleSettings(enabled=False)

    def _orders(self) -> list[NodeOrder]:
        return [
            NodeOrder(name, row.kind, str(self.folder.lab_json), str(self.folder.log_of(name)))
            for name, row in self.lab.nodes.items()
            if row.kind != "lab"
        ]

    def stages(self) -> list[list[str]]:
        """Return the order of starting: the NRF, the network, the UEs."""
        first = [name for name, row in self.lab.nodes.items() if row.kind in _FIRST]
        others = [name for name, row in self.lab.nodes.items() if row.kind not in (*_FIRST, "lab")]
        return [first, others]

    def _stop_stages(self) -> list[list[str]]:
        first, others = self.stages()
        ues = [name for name in others if self.lab.nodes[name].kind in _LAST]
        return [ues, [name for name in others if name not in ues], first]

    def tell(self, line: str) -> None:
        """Write a line to the supervisor's log."""
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    def _changed(self, node: NodeProcess) -> None:
        self.tell(f"{node.instance} {node.state.value} {node.reason}")
        for queue in self._watchers:
            queue.put_nowait(node)

    @contextlib.contextmanager
    def watching(self) -> Iterator[asyncio.Queue[NodeProcess]]:
        """Give a queue of the nodes whose state changes from now on."""
        queue: asyncio.Queue[NodeProcess] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def stop(self) -> None:
        """Begin to end the lab."""
        self._stopping.set()

    def _lost(self) -> None:
        sys.stdout.write("the fork server is gone; nodes are started as plain processes from now on\n")
        self._spawner = ProcessSpawner(self.fleet.exited)
        self.fleet.use(self._spawner)
        self.fleet.all_lost()

    async def _open_spawner(self) -> Spawner:
        if self._channel is None:
            sys.stdout.write("no fork server here; nodes are started as plain processes\n")
            return ProcessSpawner(self.fleet.exited)
        spawner = ForkSpawner(self._channel, self.fleet.exited, self._lost)
        await spawner.open()
        return spawner

    async def run(self) -> int:
        """Run until told to stop; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        began = time.monotonic()
        self.folder.pid_file.write_text(f"{os.getpid()}\n")
        self._spawner = await self._open_spawner()
        self.fleet.use(self._spawner)
        await self._operations.open()
        starting = asyncio.create_task(self._start(began))
        looking = asyncio.create_task(self._look())
        try:
            await self._stopping.wait()
        finally:
            starting.cancel()
            looking.cancel()
            await self.fleet.stop(self._stop_stages())
            assert self._spawner is not None
            await self._spawner.close()
            await self._operations.close()
            self.folder.pid_file.unlink(missing_ok=True)
        return 0

    async def _start(self, began: float) -> None:
        self.failed = await self.fleet.start(self.stages())
        self.start_seconds = time.monotonic() - began
        self.started.set()

    async def _look(self) -> None:
        """Keep true what each node waits for, until the lab has started."""
        while not self.started.is_set():
            for node in list(self.fleet.nodes.values()):
                waits, late = self._waits_for(node), time.monotonic() - node.since > LATE_S
                if (waits, late) != (node.waits_for, node.waits_long):
                    node.waits_for, node.waits_long = waits, late
                    for queue in self._watchers:
                        queue.put_nowait(node)
            await asyncio.sleep(LOOK_S)
        for node in self.fleet.nodes.values():
            node.waits_for = ""

    def _waits_for(self, node: NodeProcess) -> str:
        if node.state is State.STOPPED:
            before = [name for name in self.stages()[0] if self.fleet.nodes[name].state is not State.SERVING]
            return several(before) or "its turn"
        if node.state is State.FALLEN:
            return f"another try: {node.reason}"
        return waits_for(Path(node.order.log), node.log_start) if node.state is State.STARTING else ""

    def status(self) -> list[dict[str, object]]:
        """Return one row for each node."""
        rows: list[dict[str, object]] = []
        for row in self.lab.nodes.values():
            node = self.fleet.nodes.get(row.instance)
            if node is None:
                continue
            rows.append(
                {
                    "instance": node.instance,
                    "nf": row.nf or row.instance,
                    "kind": node.order.kind,
                    "state": node.state.value,
                    "retiring": node.retiring,
                    "pid": node.pid or None,
                    "restarts": node.restarts,
                    "reason": node.reason,
                    "sbi": f"{row.host}:{row.port}",
                    "since_s": round(time.monotonic() - node.since, 1),
                    "log": node.order.log,
                    "log_line": self._telling(node),
                    "waits_for": node.waits_for,
                }
            )
        return rows

    @staticmethod
    def _telling(node: NodeProcess) -> str:
        return fault_line(Path(node.order.log), node.log_start) if node.state is not State.SERVING else ""


def main() -> int:
    """Run a supervisor for the state folder named in the first argument."""
    os.umask(0o077)
    folder = StateFolder.at(sys.argv[1])
    redirect_from = sys.stdin.buffer
    modules = [*HEAVY_MODULES, *(f"nodes.{kind}.node" for kind in NODE_MODULES), "sba.run", "sba.export"]
    if not any(folder.nodes.iterdir()):
        modules.append("sba.migrations.run")  # a first start migrates every store, one that comes back none
    faults = preload(modules)
    go = redirect_from.readline()
    if go.strip() != b"go":
        return 1
    redirect_output(str(folder.log_of("supervisor")))
    for name, fault in faults.items():
        sys.stdout.write(f"{name} cannot be loaded: {fault}\n")
    channel = fork_server(run_node)
    from sba import runtime

    runtime.install()

    async def run() -> int:
        return await Supervisor(folder, channel, console=NO_CONSOLE not in sys.argv[2:]).run()

    return runtime.run(run)


if __name__ == "__main__":
    raise SystemExit(main())
