"""``imslab scale``: instances of a P-CSCF, IMS access gateway or KMS come and go while the lab runs.

A new instance gets addresses and a certificate, is started, registers and is discovered; nobody else is told. One that
is to go is told first to take no new work (``sba.lifecycle``), finishes what it has, and is ended then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab.cloning import add_instance, remove_instance
from lab.control import ControlError, Json, Params, Progress
from lab.fleet import State
from lab.instances import MOST, SCALABLE, instance_name, keep, kept
from lab.layout import ResolveError
from lab.spawner import NodeOrder
from lab.telling import fault_line
from sba.errors import ConfigurationError, RemoteProblem
from sba.identity import read_identity
from sba.pki import LabCa, write_private

if TYPE_CHECKING:
    from lab.operator import Operator
    from lab.supervisor import Supervisor

DRAIN_S = 60.0
"""How long an instance that is taken away may finish its work, seconds, unless the operator says otherwise."""
LOOK_S = 0.3
"""Pause between two questions what a retiring instance still has to do, seconds."""


class Scaler:
    """Changes how many instances there are; one change at a time."""

    def __init__(self, supervisor: Supervisor, operator: Operator) -> None:
        self._supervisor = supervisor
        self._operator = operator
        self._folder = supervisor.folder
        self._lab = supervisor.lab
        self._changing = asyncio.Lock()

    def counted(self) -> dict[str, list[str]]:
        """Return the instances of each network function that may have several, in their order."""
        found: dict[str, list[str]] = {}
        for row in self._lab.nodes.values():
            if row.kind in SCALABLE:
                found.setdefault(row.nf or row.instance, []).append(row.instance)
        return found

    async def operation(self, params: Params, progress: Progress) -> Json:
        """Serve the control socket: ``counts`` by name, ``drain_s``; without counts it only tells.

        Raises ``ControlError``.
        """
        wanted = self._wanted(params.get("counts"))
        drain = params.get("drain_s")
        drain_s = float(drain) if isinstance(drain, (int, float)) and not isinstance(drain, bool) else DRAIN_S
        if wanted:
            async with self._changing:
                for nf, count in wanted.items():
                    await self._change(nf, count, max(0.0, drain_s), progress)
        return {"functions": self._document()}

    def _wanted(self, given: Json) -> dict[str, int]:
        if not given:
            return {}
        if self._lab.containers:
            raise ControlError(
                "the container engine starts and ends the nodes of this lab: docker compose up -d --scale NF=N", "usage"
            )
        there_are = self.counted()
        counts: dict[str, int] = {}
        for nf, count in given.items() if isinstance(given, dict) else ():
            if nf not in there_are:
                raise ControlError(f"{nf} does not scale; there are {', '.join(there_are)}", "usage")
            if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
                raise ControlError(f"{nf} has 1 to {MOST} instances, not {count}", "usage")
            counts[nf] = count
        return counts

    async def _change(self, nf: str, count: int, drain_s: float, progress: Progress) -> None:
        present = self.counted()[nf]
        await self._take_back(present[:count])
        for number in range(len(present) + 1, count + 1):
            await self._add(nf, number, progress)
        leaving = present[count:]
        await asyncio.gather(*(self._retire(instance, drain_s, progress) for instance in leaving))
        for instance in reversed(leaving):
            await self._remove(instance, progress)
        self._keep(nf, count)

    def _keep(self, nf: str, count: int) -> None:
        keep(self._folder.instances, {**kept(self._folder.instances), nf: count})

    # More.

    async def _add(self, nf: str, number: int, progress: Progress) -> None:
        instance = instance_name(nf, number)
        await progress({"instance": instance, "state": State.STARTING.value})
        try:
            await asyncio.to_thread(self._lay_out, nf, number)
        except (OSError, ResolveError, ConfigurationError) as error:
            raise ControlError(f"{instance} cannot be laid out: {error}") from None
        self._lab.refresh(self._folder.lab_json)
        self._keep(nf, number)
        row = self._lab.nodes[instance]
        order = NodeOrder(instance, row.kind, str(self._folder.lab_json), str(self._folder.log_of(instance)))
        node = await self._supervisor.fleet.add(order)
        if node.state is State.FAILED:
            reason, line = node.reason, fault_line(self._folder.log_of(instance))
            await self._remove(instance, progress)
            self._keep(nf, number - 1)
            raise ControlError(f"{instance} does not serve: {reason}" + (f"\n  {line}" if line else ""))
        await progress({"instance": instance, "state": State.SERVING.value})

    def _lay_out(self, nf: str, number: int) -> None:
        """Give an instance addresses, a certificate like that of the first one, and its place in ``lab.json``."""
        lab = self._read()
        name = add_instance(lab, nf, number)
        entry = lab["nodes"][name]
        authority = LabCa.open(self._folder.pki)
        first = read_identity(authority.present(nf))
        own, role = f"{nf}.{lab['domain']}", entry["nf_set"]
        dns = [entry["fqdn"], *(known for known in first.dns_names if known != own or known == role)]
        roles = (name, f"{name}/core")
        ips = [lab["layout"]["addresses"][role] for role in roles if role in lab["layout"]["addresses"]]
        try:
            present = read_identity(authority.present(name))
            fits = present.instance_id == entry["nf_instance_id"] and set(dns) <= set(present.dns_names)
        except ConfigurationError:
            fits = False
        if not (fits and set(ips) <= set(present.addresses)):
            authority.issue(name, first.nf_types, entry["nf_instance_id"], dns=dns, ips=ips)
        self._write(lab)

    def _read(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._folder.lab_json.read_text("utf-8"))
        return content

    def _write(self, lab: Mapping[str, Any]) -> None:
        write_private(self._folder.lab_json, json.dumps(lab, indent=1).encode())

    async def _take_back(self, instances: Sequence[str]) -> None:
        """Have instances work on that an earlier, interrupted change told to finish."""
        for instance in instances:
            node = self._supervisor.fleet.nodes.get(instance)
            if node is not None and node.retiring:
                try:
                    await self._operator.retire(instance, withdraw=True)
                except RemoteProblem as problem:
                    raise ControlError(f"{instance} does not answer: {problem}") from None
                node.retiring = False

    # Fewer.

    async def _retire(self, instance: str, drain_s: float, progress: Progress) -> None:
        """Have an instance finish; returns when it has, when its time is over, or when it does not run."""
        fleet = self._supervisor.fleet
        node, until, told = fleet.nodes[instance], time.monotonic() + drain_s, None
        node.retiring = True
        while fleet.nodes.get(instance) is node and node.state not in (State.FAILED, State.STOPPED):
            try:
                answer = await self._operator.retire(instance)
            except RemoteProblem:
                left: tuple[int, str] | None = None  # it is being started again, and hears it then
            else:
                left = (answer.work_left, answer.work)
                if answer.retiring and not answer.work_left:
                    return
            if left != told:
                told = left
                work: Params = {"work_left": left[0], "work": left[1]} if left is not None else {}
                await progress({"instance": instance, "state": "retiring", **work})
            if time.monotonic() >= until:
                return
            await asyncio.sleep(min(LOOK_S, max(0.01, until - time.monotonic())))

    async def _remove(self, instance: str, progress: Progress) -> None:
        await self._supervisor.fleet.remove(instance)
        lab = await asyncio.to_thread(self._read)
        remove_instance(lab, instance)
        await asyncio.to_thread(self._write, lab)
        self._lab.refresh(self._folder.lab_json)
        await progress({"instance": instance, "state": "gone"})

    # Telling.

    def _document(self) -> list[Json]:
        fleet = self._supervisor.fleet
        rows: list[Json] = []
        for nf, instances in self.counted().items():
            nodes = [fleet.nodes.get(instance) for instance in instances]
            serving = [node for node in nodes if node is not None and node.state is State.SERVING and not node.retiring]
            rows.append(
                {
                    "nf": nf,
                    "kind": self._lab.nodes[nf].kind,
                    "instances": [*instances],
                    "serving": len(serving),
                }
            )
        return rows
