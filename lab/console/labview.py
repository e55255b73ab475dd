"""The lab as the console shows it: nodes with their state and load, links, users with their registration."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from grpc import StatusCode

from lab.console.documents import Names
from lab.console.topology import Place, links, places
from lab.control import Json, Params
from lab.fleet import NodeProcess, State
from lab.labfile import LabFile, UserRow
from lab.operator import Operator
from lab.refusals import explain
from lab.resolve import OPERATOR, nf_types
from lab.state import StateFolder
from lab.telling import fault_line
from lab.unseen import unseen
from protos import iq_pb2, ue_control_pb2
from sba.errors import RemoteProblem

FRESH_S = 1.0
"""How long an answer of a UE or a gateway serves others who ask, s."""


class NodesOf(Protocol):
    """The nodes of a lab, started here or by an engine of containers."""

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """Every node by instance."""


class Host(Protocol):
    """What the console has to know of the supervisor it stands in."""

    folder: StateFolder
    lab: LabFile
    start_seconds: float

    @property
    def fleet(self) -> NodesOf:
        """The nodes."""

    def watching(self) -> AbstractContextManager[asyncio.Queue[NodeProcess]]:
        """Give a queue of nodes whose state changes."""


class LabView:
    """Answers what the page asks about the lab; the state of a UE or gateway is asked for when somebody wants it."""

    def __init__(self, host: Host, operator: Operator) -> None:
        self._host = host
        self._operator = operator
        self._read: tuple[int, dict[str, Place]] = (0, {})
        self._statuses: tuple[float, dict[str, ue_control_pb2.StatusResponse | str]] = (float("-inf"), {})
        self._asking: asyncio.Task[dict[str, ue_control_pb2.StatusResponse | str]] | None = None
        self._named: tuple[int, Names] = (0, Names({}))
        self.loads: dict[str, tuple[int, int]] = {}
        """Streams in use and possible, of gateways that were asked."""

    @property
    def lab(self) -> LabFile:
        """The lab as it is now."""
        return self._host.lab

    @property
    def names(self) -> Names:
        """Users by their public identities."""
        if self._named[0] != id(self.lab):
            self._named = (id(self.lab), Names(self.lab.users))
        return self._named[1]

    def places(self) -> dict[str, Place]:
        """Return where the nodes stand, from ``lab.json`` as it is now; instances that are not there are left out."""
        path: Path = self._host.folder.lab_json
        changed = path.stat().st_mtime_ns
        if changed != self._read[0]:
            self._read = (changed, places(json.loads(path.read_text("utf-8"))))
        return {name: place for name, place in self._read[1].items() if name in self.lab.nodes}

    def kinds(self) -> dict[str, str]:
        """Return the kind of every node by instance."""
        return {name: place.kind for name, place in self.places().items()}

    def node(self, name: str, *, log_line: bool = True) -> Params:
        """Return one node; ``KeyError`` for one that is not there."""
        place, row = self.places()[name], self.lab.nodes.get(name)
        process = self._host.fleet.nodes.get(name)
        load = self.loads.get(name)
        state = process.state if process is not None else State.SERVING if name == OPERATOR else State.STOPPED
        since = time.time() - (time.monotonic() - process.since) if process is not None else None
        line = ""
        if log_line and process is not None and state is not State.SERVING and process.order.log:
            line = fault_line(Path(process.order.log))
        return {
            "instance": name,
            "nf": place.nf,
            "kind": place.kind,
            "nf_types": [*_nf_types(place.kind)],
            "state": state.value,
            "reason": process.reason if process is not None else "",
            "retiring": process.retiring if process is not None else False,
            "restarts": process.restarts if process is not None else 0,
            "since": round(since * 1000) if since is not None else None,
            "pid": (process.pid or None) if process is not None else None,
            "home_domains": [*place.home_domains],
            "access_network": place.access_network,
            "sbi": f"{row.host}:{row.port}" if row is not None else "",
            "load": {"streams": load[0], "streams_max": load[1]} if load is not None else None,
            "log_line": line,
        }

    def nodes(self) -> list[Params]:
        """Return every node, the operator included."""
        return [self.node(name) for name in self.places()]

    def links(self) -> list[Params]:
        """Return what runs between the nodes."""
        known = self._statuses[1].items()
        serving = {user: said.pcscf for user, said in known if isinstance(said, ue_control_pb2.StatusResponse)}
        return [link.document() for link in links(self.places(), serving)]

    def forget_statuses(self) -> None:
        """Ask the UEs anew at the next question: what one of them said before does not hold any more."""
        self._statuses = (float("-inf"), self._statuses[1])
        self._asking = None  # asked before, perhaps answered before: of no use to who comes now

    async def statuses(self) -> dict[str, ue_control_pb2.StatusResponse | str]:
        """Return what every software UE says of itself, or why it says nothing; asked at most once in ``FRESH_S``."""
        asked, known = self._statuses
        if time.monotonic() - asked < FRESH_S:
            return known
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_ues())
        return await asyncio.shield(self._asking)

    async def _ask_ues(self) -> dict[str, ue_control_pb2.StatusResponse | str]:
        users = [user.name for user in self.lab.users.values() if user.software_ue]
        found = dict(zip(users, await asyncio.gather(*map(self.ask_ue, users)), strict=True))
        if self._asking is asyncio.current_task():  # nothing has changed since
            self._statuses = (time.monotonic(), found)
        return found

    async def ask_ue(self, name: str) -> ue_control_pb2.StatusResponse | str:
        """Return what one software UE says of itself, or why it says nothing."""
        try:
            return await unseen(lambda: self._operator.ue_status(name))
        except RemoteProblem as problem:
            return explain(name, problem)
        except KeyError:
            return f"the UE {name} is not in this lab any more"

    async def audits(self) -> dict[str, iq_pb2.AuditResponse]:
        """Return what every gateway that answers holds, and note its load."""

        async def one(gateway: str) -> iq_pb2.AuditResponse | None:
            try:
                return await unseen(lambda: self._operator.audit(gateway))
            except RemoteProblem as problem:
                if problem.code is not StatusCode.UNAVAILABLE:
                    self.loads.pop(gateway, None)
                return None
            except KeyError:
                return None

        gateways = self.lab.gateways
        found = {}
        for gateway, audit in zip(gateways, await asyncio.gather(*map(one, gateways)), strict=True):
            if audit is not None:
                found[gateway] = audit
                self.loads[gateway] = (audit.streams_in_use, audit.streams_max)
        return found

    async def users(self) -> list[Params]:
        """Return every user with his registration."""
        statuses = await self.statuses()
        return [self._user(user, statuses.get(user.name)) for user in self.lab.users.values()]

    def _user(self, user: UserRow, status: ue_control_pb2.StatusResponse | str | None) -> Params:
        said = status if isinstance(status, ue_control_pb2.StatusResponse) else None
        calls: list[Json] = [call.call_id for call in said.calls if call.state != "ended"] if said is not None else []
        return {
            **self.user_facts(user),
            "registered": said.registered if said is not None else None,
            "media_mechanisms": list(said.media_mechanisms) if said is not None else [],
            "expires_in_s": round(said.expires_in_s, 1) if said is not None and said.registered else None,
            "calls": calls,
        }

    def user_facts(self, user: UserRow) -> Params:
        """Return what the description of the lab says of a user."""
        return {
            "name": user.name,
            "impu": user.impu,
            "tel": user.tel,
            "domain": user.domain,
            "access": user.access,
            "software_ue": user.software_ue,
            "announces": [*user.announces],
            "kms_level": user.kms_level,
        }

    async def registrations(self) -> list[Params]:
        """Return the registration of every software UE."""
        statuses = await self.statuses()
        return [self.registration(name, status) for name, status in statuses.items()]

    def registration(self, name: str, status: ue_control_pb2.StatusResponse | str) -> Params:
        """Return the registration of one user from what his UE says."""
        user = self.lab.users[name]
        said = status if isinstance(status, ue_control_pb2.StatusResponse) else None
        near = [
            place.instance
            for place in self.places().values()
            if place.kind == "pcscf" and place.access_network == user.access
        ]
        return {
            "user": name,
            "impu": user.impu,
            "registered": said is not None and said.registered,
            "access": user.access,
            "pcscf": (said.pcscf if said is not None else "") or (near[0] if len(near) == 1 else ""),
            "transport": said.transport if said is not None else "",
            "media_mechanisms": list(said.media_mechanisms) if said is not None else [],
            "associated_uris": list(said.associated_uris) if said is not None else [],
            "expires_in_s": round(said.expires_in_s, 1) if said is not None and said.registered else None,
            "reason": status if isinstance(status, str) else "",
        }


def _nf_types(kind: str) -> tuple[str, ...]:
    try:
        return nf_types(kind)
    except RuntimeError:
        return ()
