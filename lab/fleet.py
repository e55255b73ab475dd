"""The nodes of a lab as processes: start, watch, restart with back-off, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from lab.spawner import NodeOrder, Spawner, SpawnerLostError
from lab.telling import fault_words, size

BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Wait before the n-th restart in a row, seconds; the last value repeats."""
STABLE_S = 20.0
"""A node that served this long starts again at the head of ``BACKOFF_S``, seconds."""
MAX_FALLS_BEFORE_SERVING = 3
"""A node that falls so often without ever having served is given up."""
PROBE_EVERY_S = 0.05
"""Pause between readiness probes of a starting node, seconds."""
START_LIMIT_S = 90.0
"""How long a node that never served may take before it is given up, seconds."""
HOPELESS = (2, os.EX_UNAVAILABLE)
"""Exit codes of a node whose settings or database are not as they have to be: it is not tried again at the start."""
STOP_GRACE_S = 5.0
"""How long a node gets to drain after SIGTERM, seconds."""
LOG_LIMIT = 20 << 20
"""A log file above this size is rotated (one old file kept) when its node is started, octets."""


class State(Enum):
    """Where a node stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    SERVING = "serving"
    FALLEN = "fallen"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclass
class NodeProcess:
    """A node and its process; ``since`` is ``time.monotonic`` of the last change of state."""

    order: NodeOrder
    state: State = State.STOPPED
    pid: int = 0
    restarts: int = 0
    falls: int = 0
    reason: str = ""
    since: float = field(default_factory=time.monotonic)
    served: bool = False
    retiring: bool = False
    """Whether it was told to take no new work, because it is to be taken away."""
    keeper: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int = 0
    log_start: int = 0
    """Octets of the log that earlier processes wrote."""
    waits_for: str = ""
    """What it waits for while it starts; empty where nobody looked."""
    waits_long: bool = False
    """Whether it waits for longer than is usual."""
    given_up: bool = False
    """Whether it took too long to serve."""

    @property
    def instance(self) -> str:
        """Name of the node."""
        return self.order.instance


Probe = Callable[[str], Awaitable[bool]]
"""Tells whether the node of that name serves; must not take long."""
Watcher = Callable[[NodeProcess], None]


class Fleet:
    """Keeps the ``orders`` running through a spawner.

    ``probe`` tells readiness; ``changed`` is called on each change of state. ``stages`` gives the order of starting:
    each stage is awaited before the next.
    """

    def __init__(self, orders: Sequence[NodeOrder], probe: Probe, changed: Watcher) -> None:
        self.nodes = {order.instance: NodeProcess(order) for order in orders}
        self._probe = probe
        self._changed = changed
        self._spawner: Spawner | None = None
        self._by_pid: dict[int, NodeProcess] = {}
        self._early_exits: dict[int, int] = {}
        self._news = asyncio.Condition()
        self._telling: asyncio.Future[None] | None = None

    def use(self, spawner: Spawner) -> None:
        """Start nodes through ``spawner`` from now on."""
        self._spawner = spawner

    def exited(self, pid: int, code: int) -> None:
        """Told by the spawner: process ``pid`` ended with ``code`` (negative: signal)."""
        node = self._by_pid.pop(pid, None)
        if node is None:
            self._early_exits[pid] = code
            return
        node.exit_code = code
        node.ended.set()

    def all_lost(self) -> None:
        """The spawner is gone with every process it had."""
        for pid in list(self._by_pid):
            self.exited(pid, -int(signal.SIGTERM))

    async def start(self, stages: Iterable[Sequence[str]]) -> list[NodeProcess]:
        """Start stage after stage; returns the nodes that failed (empty when all serve)."""
        for stage in stages:
            for instance in stage:
                self._keep(self.nodes[instance])
            await asyncio.gather(*(self._settled(self.nodes[instance]) for instance in stage))
            failed = [self.nodes[instance] for instance in stage if self.nodes[instance].state is State.FAILED]
            if failed:
                return failed
        return []

    async def add(self, order: NodeOrder) -> NodeProcess:
        """Start one more node and return when it serves or has failed. Raises ``KeyError`` for a name that is taken."""
        if order.instance in self.nodes:
            raise KeyError(order.instance)
        node = self.nodes[order.instance] = NodeProcess(order)
        self._keep(node)
        await self._settled(node)
        return node

    async def remove(self, instance: str) -> None:
        """End one node for good: SIGTERM, after ``STOP_GRACE_S`` SIGKILL. Raises ``KeyError``."""
        node = self.nodes[instance]
        await self.stop([[instance]])
        if self.nodes.get(instance) is node:
            del self.nodes[instance]

    def _keep(self, node: NodeProcess) -> None:
        if node.keeper is None or node.keeper.done():
            node.keeper = asyncio.create_task(self._keep_running(node), name=f"keep {node.instance}")

    async def _settled(self, node: NodeProcess) -> None:
        async with self._news:
            await self._news.wait_for(lambda: node.state in (State.SERVING, State.FAILED))

    def _enter(self, node: NodeProcess, state: State, reason: str = "") -> None:
        node.state, node.reason, node.since = state, reason, time.monotonic()
        self._changed(node)
        self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _spawn(self, node: NodeProcess) -> None:
        assert self._spawner is not None
        rotate(Path(node.order.log))
        node.log_start = size(Path(node.order.log))
        node.ended.clear()
        node.pid = await self._spawner.spawn(node.order)
        self._by_pid[node.pid] = node
        if node.pid in self._early_exits:
            self.exited(node.pid, self._early_exits.pop(node.pid))

    async def _keep_running(self, node: NodeProcess) -> None:
        while True:
            self._enter(node, State.STARTING)
            try:
                await self._spawn(node)
                reason = await self._live(node)
            except (OSError, SpawnerLostError) as error:
                reason = f"could not be started: {error}"
            node.pid = 0
            if node.state is State.STOPPING:
                self._enter(node, State.STOPPED)
                return
            if node.state is State.SERVING and time.monotonic() - node.since >= STABLE_S:
                node.falls = 0
            node.falls += 1
            hopeless = node.given_up or node.exit_code in HOPELESS or node.falls >= MAX_FALLS_BEFORE_SERVING
            if not node.served and hopeless:
                self._enter(node, State.FAILED, reason)
                return
            delay = BACKOFF_S[min(node.falls, len(BACKOFF_S)) - 1]
            self._enter(node, State.FALLEN, reason)
            node.restarts += 1
            await asyncio.sleep(delay)

    async def _live(self, node: NodeProcess) -> str:
        ended = asyncio.ensure_future(node.ended.wait())
        deadline = time.monotonic() + START_LIMIT_S
        try:
            while not node.ended.is_set():
                if not node.served and time.monotonic() > deadline:
                    return self._give_up(node)
                if await self._probe(node.instance):
                    if node.state is State.STARTING:
                        node.served = True
                        self._enter(node, State.SERVING)
                    break
                await asyncio.wait({ended}, timeout=PROBE_EVERY_S)
            await node.ended.wait()
        finally:
            ended.cancel()
        why = fault_words(Path(node.order.log), node.log_start) if node.exit_code else ""
        return f"{_how(node.exit_code)}: {why}" if why else _how(node.exit_code)

    def _give_up(self, node: NodeProcess) -> str:
        node.given_up = True
        if self._spawner is not None:
            self._spawner.signal(node.pid, signal.SIGKILL)
        waited = f"; it waited for {node.waits_for}" if node.waits_for else ""
        return f"did not serve within {START_LIMIT_S:.0f} s{waited}"

    async def restart(self, instance: str) -> None:
        """End a node and let it come back (used after its certificate changed). Raises ``KeyError``."""
        node = self.nodes[instance]
        if node.state is State.FAILED:
            node.falls, node.given_up = 0, False
            self._keep(node)
        elif node.pid and self._spawner is not None:
            node.falls = 0
            self._spawner.signal(node.pid, signal.SIGTERM)

    async def stop(self, stages: Iterable[Sequence[str]]) -> None:
        """Stop stage after stage: SIGTERM, after ``STOP_GRACE_S`` SIGKILL."""
        for stage in stages:
            nodes = [self.nodes[instance] for instance in stage if instance in self.nodes]
            for node in nodes:
                self._end(node)
            keepers = [node.keeper for node in nodes if node.keeper is not None]
            if not keepers:
                continue
            _, late = await asyncio.wait(keepers, timeout=STOP_GRACE_S)
            for node in nodes:
                if node.keeper in late and node.pid and self._spawner is not None:
                    self._spawner.signal(node.pid, signal.SIGKILL)
            if late:
                await asyncio.wait(late, timeout=1.0)

    def _end(self, node: NodeProcess) -> None:
        if node.keeper is None or node.keeper.done():
            return
        if node.pid and self._spawner is not None:
            self._enter(node, State.STOPPING)
            self._spawner.signal(node.pid, signal.SIGTERM)
        else:
            node.keeper.cancel()
            self._enter(node, State.STOPPED)


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
        return f"ended by signal {-code}"
    return f"ended with exit code {code}"


def rotate(log: Path) -> None:
    """Move a log file above ``LOG_LIMIT`` aside."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
