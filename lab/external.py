"""The supervisor where somebody else owns the processes: the service ``console`` of a lab in containers.

``python -m lab.external [FOLDER]``: operator's identity, telemetry, trace store, control socket as always; but nodes
are found in the NRF and watched by their health, and it is the container engine that starts and ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from lab.console.settings import ConsoleSettings
from lab.control import ControlError
from lab.fleet import Fleet, NodeProcess, State, Watcher
from lab.healthcheck import HealthChecks
from lab.instances import SCALABLE
from lab.labfile import LEARNED, NodeRow
from lab.layout_containers import OUTSIDE
from lab.operator import Operator
from lab.resolve import nf_types
from lab.spawner import NodeOrder, Spawner
from lab.state import StateFolder
from lab.supervisor import Supervisor
from protos.nrf_nfm_pb2 import NfProfile
from sba.errors import RemoteProblem
from sba.networks import address_of, is_unspecified, own_address
from sba.pki import write_private

LOOK_S: Final = 1.0
"""Pause between two looks at the nodes, seconds."""
GONE_S: Final = 20.0
"""A further instance that was not seen for so long was taken away, seconds."""


class NoSpawner(Spawner):
    """Starts nothing: the container engine does."""

    async def spawn(self, order: NodeOrder) -> int:
        """Refuse."""
        raise ControlError(_engine(f"docker compose up -d {order.instance}"), "usage")

    def signal(self, pid: int, number: int) -> None:
        """There is no process to signal."""

    async def close(self) -> None:
        """There is nothing to close."""


def _engine(command: str) -> str:
    return f"the container engine starts and ends the nodes of this lab: {command}"


class ExternalFleet(Fleet):
    """What :class:`lab.fleet.Fleet` is to its readers, of nodes that others run.

    ``rows`` are the nodes of ``lab.json``; it is kept true: where each serves now, and of the further instances of a
    network function only those that are there.
    """

    def __init__(
        self,
        orders: Sequence[NodeOrder],
        rows: dict[str, NodeRow],
        operator: Operator,
        folder: StateFolder,
        nrf: str,
        changed: Watcher,
    ) -> None:
        super().__init__(orders, operator.serves, changed)
        self._orders = {order.instance: order for order in orders}
        self._all = dict(rows)
        self._rows = rows
        self._operator = operator
        self._folder = folder
        self._nrf = nrf
        self._health = HealthChecks(operator.identity, retry_ms=100)
        self._learned: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}
        self._looking: asyncio.Task[None] | None = None
        for instance, row in self._all.items():
            if row.kind in SCALABLE and instance != self._first(row):
                del self._rows[instance]
                self.nodes.pop(instance, None)

    def _first(self, row: NodeRow) -> str:
        return row.nf or row.instance

    def follow(self, names: dict[str, str]) -> None:
        """Keep ``names`` (the node behind an address) true as addresses are learned."""
        self._names = names

    async def start(self, stages: Iterable[Sequence[str]]) -> list[NodeProcess]:
        """Begin to look at the nodes and return when all serve; nothing is given up."""
        del stages
        for node in self.nodes.values():
            self._enter(node, State.STARTING)
        self._looking = asyncio.create_task(self._look(), name="look at the nodes")
        async with self._news:
            await self._news.wait_for(lambda: all(node.state is State.SERVING for node in self.nodes.values()))
        return []

    async def stop(self, stages: Iterable[Sequence[str]]) -> None:
        """Look no longer; the nodes are the engine's to end."""
        del stages
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
        await self._health.close()

    async def add(self, order: NodeOrder) -> NodeProcess:
        """Refuse: raises ``ControlError``."""
        del order
        raise ControlError(_engine("docker compose up -d --scale NF=N"), "usage")

    async def remove(self, instance: str) -> None:
        """Refuse: raises ``ControlError``."""
        del instance
        raise ControlError(_engine("docker compose up -d --scale NF=N"), "usage")

    async def restart(self, instance: str) -> None:
        """Refuse: raises ``ControlError`` that names the engine's command, ``KeyError`` for a node there is not."""
        order = self._orders[instance]
        raise ControlError(_engine(f"docker compose restart {self._all[order.instance].nf or instance}"), "usage")

    async def _look(self) -> None:
        while True:
            try:
                await self._once()
            except Exception as fault:  # noqa: BLE001 - one look that went wrong must not leave the lab unwatched
                sys.stdout.write(f"looking at the nodes failed: {type(fault).__name__}: {fault}\n")
            await asyncio.sleep(LOOK_S)

    async def _once(self) -> None:
        profiles = await self._profiles()
        nrf = await address_of(self._nrf)  # its profile does not tell: it listens on every address it has
        for row in self._all.values():
            if row.kind == "nrf" and nrf:
                self._learn_hosts(row.instance, [nrf])
        for profile in profiles.values():
            self._learn(profile)
        known = [row for row in self._all.values() if row.instance in self._orders]
        served = await asyncio.gather(*(self._serves(row, profiles) for row in known))
        for row, (serves, host, port) in zip(known, served, strict=True):
            self._judge(row, serves, host, port)
        self._write_learned()

    async def _profiles(self) -> dict[str, NfProfile]:
        """What the NRF knows, by NF instance id; empty while it does not answer."""
        kinds = dict.fromkeys(nf_types(row.kind)[0] for row in self._all.values() if row.kind not in ("nrf", "lab"))
        found: dict[str, NfProfile] = {}
        for nf_type in kinds:
            with contextlib.suppress(RemoteProblem):
                for profile in await self._operator.registered(nf_type):
                    found[profile.nf_instance_id] = profile
        return found

    async def _serves(self, row: NodeRow, profiles: Mapping[str, NfProfile]) -> tuple[bool, str, int]:
        """Ask a node at the address of its profile; the one known last serves where the NRF has none of it."""
        host, port = await self._where(row, profiles)
        if not host:
            return False, "", 0
        return await self._health.serves(replace(row, host=host, port=port)), host, port

    async def _where(self, row: NodeRow, profiles: Mapping[str, NfProfile]) -> tuple[str, int]:
        if row.kind == "nrf":
            return await address_of(self._nrf), row.port
        profile = profiles.get(row.instance_id)
        if profile is not None:
            return profile.host, profile.port
        known = self._rows.get(row.instance)
        placeholder = known is None or known.host.startswith("@")
        return ("", 0) if known is None or placeholder else (known.host, known.port)

    def _judge(self, row: NodeRow, serves: bool, host: str, port: int) -> None:
        node = self.nodes.get(row.instance)
        if host and (node is not None or serves):
            self._rows[row.instance] = replace(row, host=host, port=port)
        if node is None:
            if not serves:
                return
            node = self.nodes[row.instance] = NodeProcess(self._orders[row.instance])
        if serves:
            if node.state is not State.SERVING:
                node.restarts += 1 if node.served else 0
                node.served = True
                self._enter(node, State.SERVING)
        elif node.state is State.SERVING:
            self._enter(node, State.FALLEN, "does not answer its health check")
        elif row.instance != self._first(row) and time.monotonic() - node.since > GONE_S:
            self._enter(node, State.STOPPED, "was taken away")
            del self.nodes[row.instance]
            self._rows.pop(row.instance, None)

    def _learn(self, profile: NfProfile) -> None:
        """Note the addresses in a profile, for those who have to name the node behind one."""
        name = profile.instance_name
        if name in self._all:
            self._learn_hosts(name, [profile.host, *(point.host for point in profile.endpoints)])

    def _learn_hosts(self, name: str, hosts: Iterable[str]) -> None:
        known = {host for host in hosts if host and not is_unspecified(host)}
        self._names.update(dict.fromkeys(known, name))
        self._learned[name] = sorted(known)

    def _write_learned(self) -> None:
        """Leave the addresses in the state folder: who draws a call is another process, perhaps later."""
        path = self._folder.root / LEARNED
        content = json.dumps(self._learned, sort_keys=True).encode()
        try:
            if path.read_bytes() == content:
                return
        except OSError:
            pass
        write_private(path, content)


class ExternalSupervisor(Supervisor):
    """A supervisor without processes of its own."""

    def make_fleet(self) -> Fleet:
        """Return the fleet that looks at nodes."""
        fleet = ExternalFleet(
            self._orders(), self.lab.nodes, self._operations.operator, self.folder, self.lab.nrf_host, self._changed
        )
        fleet.follow(self.lab.names)
        return fleet

    def console_settings(self) -> ConsoleSettings:
        """Return where the page is served: as the compose file says, on the network that leads to the machine alone."""
        settings = ConsoleSettings.of_container()
        subnet = self.lab.networks.get(OUTSIDE)
        return replace(settings, bind=own_address(OUTSIDE, subnet)) if settings.enabled and subnet else settings

    async def _open_spawner(self) -> Spawner:
        return NoSpawner()


def main() -> int:
    """Run the operator's side of a lab in containers, in the state folder given or the default one."""
    os.umask(0o077)
    folder = StateFolder.at(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    folder.logs.mkdir(exist_ok=True)
    from sba import runtime

    runtime.install()

    async def run() -> int:
        return await ExternalSupervisor(folder, None).run()

    return runtime.run(run)


if __name__ == "__main__":
    raise SystemExit(main())
