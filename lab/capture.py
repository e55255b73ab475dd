"""``imslab capture``: a pcapng of the running lab, while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from lab.capture_decode_as import HTTP, HTTP2, SIP, LabPorts, hosts_of
from lab.capture_frames import Frames
from lab.capture_merge import FAR_AHEAD_NS, MEDIA, CallChoice, Merger, Seen, of_message, of_packet
from lab.control import ControlError, Json
from lab.operator import LIST_OF_NODES, Operator
from lab.packets import key_note
from lab.pcapng import PcapngWriter
from protos import capture_pb2
from protos.nrf_nfm_pb2 import NfProfile
from sba.contracts import method_contract, service_contract
from sba.errors import RemoteProblem

KINDS = {
    "sip": capture_pb2.CAPTURE_SIP,
    "sba": capture_pb2.CAPTURE_SBA,
    "https": capture_pb2.CAPTURE_HTTPS,
}
"""What nodes are asked for, by the name on the command line; media come from the gateways."""
LOOK_EVERY_S = 1.0
"""Pause between two looks at which nodes there are, seconds."""
WRITE_EVERY_S = 0.05
START_WAIT_S = 5.0
"""How long nodes may take to begin, seconds."""
AGAIN_S = 0.2
"""Pause before a node that could not be reached is asked again, while nodes begin, seconds."""
END_LOOKS = 8
"""How often the end looks, ``WRITE_EVERY_S`` apart, whether nodes have told of all that another one told of."""
_NODE_SERVICE = service_contract(capture_pb2.DESCRIPTOR.services_by_name["NodeCapture"]).service_name
_MEDIA_SERVICE = service_contract(capture_pb2.DESCRIPTOR.services_by_name["MediaCapture"]).service_name
_OWN_LOOK = method_contract(LIST_OF_NODES).path
"""What a capture itself asks the NRF every second is not shown."""
_PROTOCOLS: dict[int | str, str] = {
    capture_pb2.CAPTURE_SIP: SIP,
    capture_pb2.CAPTURE_SBA: HTTP2,
    capture_pb2.CAPTURE_HTTPS: HTTP,
}

Emit = Callable[[bytes], Awaitable[None]]
Tell = Callable[[str, str], Awaitable[None]]
"""Takes ``joined`` or ``returned`` and the node."""


@dataclass(frozen=True)
class CaptureOrder:
    """What is to be captured: no ``nodes`` are all, no ``kinds`` are all, ``seconds`` 0 is until it is ended."""

    nodes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    call: str = ""
    seconds: float = 0.0
    most_octets: int = 0
    with_keys: bool = False

    def wants(self, kind: str) -> bool:
        """Tell whether a kind is to be captured."""
        return not self.kinds or kind in self.kinds


async def lab_profiles(operator: Operator) -> list[NfProfile]:
    """Return what every node registered; raises ``ControlError`` where the NRF does not say."""
    try:
        return await operator.profiles()
    except RemoteProblem as problem:
        raise ControlError(f"the NRF does not say which nodes there are: {problem}") from None


async def lab_ports(operator: Operator, names: Mapping[str, str]) -> LabPorts:
    """Return the ports of the lab as its nodes registered them; ``names`` are those of addresses known beforehand."""
    found = LabPorts.of_names(names)
    for profile in await lab_profiles(operator):
        found.learn(profile)
    return found


class LiveCapture:
    """One capture from its first node to its last octet."""

    def __init__(
        self, operator: Operator, order: CaptureOrder, names: Mapping[str, str], *, said: str = "imslab capture"
    ) -> None:
        self._operator = operator
        self._order = order
        self._merger = Merger(CallChoice(order.call))
        self._names: dict[str, str] = {}
        self._frames = Frames(self._names, with_keys=order.with_keys)
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._begun: set[tuple[str, str]] = set()
        self._begin = asyncio.Event()
        self._refused: set[tuple[str, str]] = set()
        self._started = False
        self._news: list[tuple[str, str]] = []
        self._notes = [said, "THIS FILE HOLDS MEDIA KEYS"] if order.with_keys else [said]
        self._writer = PcapngWriter()
        self.ports = LabPorts.of_names(names)
        self.packets = 0
        self.octets = 0
        self.faults: dict[str, str] = {}

    @property
    def nodes(self) -> list[str]:
        """Nodes that were captured, sorted."""
        return sorted({node for node, _ in self._begun})

    @property
    def absent(self) -> dict[str, str]:
        """Why a node is not captured, or not all of it, by its name."""
        missing = sorted({node for node, _ in self._tasks.keys() - self._begun})
        return {node: self.faults.get(node, "it has not answered yet") for node in missing}

    async def start(self) -> None:
        """Begin at every node there is; those that cannot be reached are asked again for ``START_WAIT_S``.

        Raises ``ControlError`` of kind usage where a wanted node is not there, and when none can be captured.
        """
        profiles = await lab_profiles(self._operator)
        known = {profile.instance_name for profile in profiles}
        absent = [name for name in self._order.nodes if name not in known]
        if absent:
            raise ControlError(f"no node is called {', '.join(absent)}; there are {', '.join(sorted(known))}", "usage")
        self._open(profiles)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                while self._tasks.keys() - self._begun - self._refused:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(AGAIN_S):
                            await self._begin.wait()
                    self._begin.clear()
                    self._open(profiles)
        self._started = True
        if not self._begun:
            why = "; ".join(f"{node}: {reason}" for node, reason in self.faults.items())
            await self.stop()
            raise ControlError(f"no node gives a capture ({why or 'none answered in time'})")

    async def stop(self) -> None:
        """End the capture at every node."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def run(self, emit: Emit, tell: Tell) -> Json:
        """Write until the order is filled or this is cancelled; returns what there is to say of the file.

        ``tell`` hears of each node that is captured from now on: ``returned`` when it had gone, and between the two
        nothing was seen; ``joined`` when it is new.
        """
        self._writer.comment = "\n".join(self._notes)
        try:
            ended = await self._follow_all(emit, tell)
            for _ in range(END_LOOKS):
                if not self._merger.awaits:
                    break
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            await self.stop()
        await self._write(emit, self._merger.settled(FAR_AHEAD_NS))
        await self._emit(emit, self._writer.end(time.time_ns(), self._merger.lost))
        return {
            "packets": self.packets,
            "octets": self.octets,
            "nodes": [*self.nodes],
            "lost": dict(self._merger.lost),
            "faults": dict(self.faults),
            "ended": ended,
            "ports": self.ports.document(),
        }

    async def _follow_all(self, emit: Emit, tell: Tell) -> str:
        """Write what nodes tell until it is enough; returns why it is."""
        deadline = time.monotonic() + self._order.seconds if self._order.seconds else float("inf")
        looking = time.monotonic() + LOOK_EVERY_S
        try:
            await self._emit(emit, self._writer.begin())
            while True:
                pause = min(WRITE_EVERY_S, deadline - time.monotonic())
                if pause <= 0:
                    return "time is up"
                await asyncio.sleep(pause)
                if time.monotonic() >= looking:
                    looking = time.monotonic() + LOOK_EVERY_S
                    await self._look()
                await self._write(emit, self._merger.settled(time.time_ns()))
                while self._news:
                    await tell(*self._news.pop(0))
                if self._order.most_octets and self.octets >= self._order.most_octets:
                    return "the file is as large as it may be"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()  # what was captured is still to be written
            return "stopped"

    async def _emit(self, emit: Emit, octets: bytes) -> None:
        self.octets += len(octets)
        await emit(octets)

    async def _write(self, emit: Emit, settled: Sequence[Seen]) -> None:
        blocks = []
        for seen in settled:
            self._learn_ports(seen)
            for frame in self._frames.of(seen):
                blocks.append(self._writer.add(frame))
                self.packets += 1
        if blocks:
            await self._emit(emit, b"".join(blocks))

    def _learn_ports(self, seen: Seen) -> None:
        """Note what is spoken at ports that nobody registered, such as those of UEs."""
        protocol = _PROTOCOLS.get(seen.kind)
        if protocol is None:
            return
        kind = "udp" if seen.transport == "UDP" else "tcp"
        ends = seen.source[1], seen.destination[1]
        if not any((kind, port) in self.ports.ports for port in ends):
            for port in ends:
                self.ports.add(kind, port, protocol)

    async def _look(self) -> None:
        try:
            self._open(await self._operator.profiles())
        except RemoteProblem as problem:  # without the NRF those that are captured go on
            self.faults["nrf"] = str(problem)

    def _open(self, profiles: Sequence[NfProfile]) -> None:
        kinds = [number for name, number in KINDS.items() if self._order.wants(name)]
        for profile in profiles:
            self._names[profile.fqdn] = profile.instance_name
            self.ports.learn(profile)
            if self._order.nodes and profile.instance_name not in self._order.nodes:
                continue
            services = {service.service_name for service in profile.services}
            if kinds and _NODE_SERVICE in services and self._is_free(profile, "messages"):
                self._follow(profile, "messages", self._messages(profile, kinds))
            if self._order.wants(MEDIA) and _MEDIA_SERVICE in services and self._is_free(profile, MEDIA):
                self._follow(profile, MEDIA, self._media(profile))

    def _is_free(self, profile: NfProfile, what: str) -> bool:
        key = (profile.instance_name, what)
        task = self._tasks.get(key)
        return task is None or (task.done() and (self._started or key not in self._refused))

    def _follow(self, profile: NfProfile, what: str, work: Awaitable[None]) -> None:
        key = (profile.instance_name, what)
        self._tasks[key] = asyncio.create_task(self._watched(key, work))

    async def _watched(self, key: tuple[str, str], work: Awaitable[None]) -> None:
        try:
            await work
        except RemoteProblem as problem:
            self.faults[key[0]] = str(problem)
            if problem.code is not grpc.StatusCode.UNAVAILABLE:
                self._refused.add(key)
                self._begin.set()
        finally:
            if key[1] != MEDIA:
                self._merger.captures(key[0], ())

    def _has_begun(self, node: str, what: str) -> None:
        if what != MEDIA or (node, "messages") not in self._begun:  # a gateway gives both
            if (node, what) in self._begun:
                self._news.append(("returned", node))
            elif self._started:
                self._news.append(("joined", node))
        self._begun.add((node, what))
        self.faults.pop(node, None)
        self._begin.set()

    async def _messages(self, profile: NfProfile, kinds: Sequence[capture_pb2.CaptureKind]) -> None:
        node = profile.instance_name
        async for item in self._operator.node_messages(profile, kinds, with_keys=self._order.with_keys):
            match item.WhichOneof("item"):
                case "message" if item.message.sba.path != _OWN_LOOK:
                    self._merger.add(of_message(node, item.message, time.time_ns()))
                case "message":
                    pass
                case "lost":
                    self._merger.missed(node, item.lost.items)
                case _:
                    self._merger.captures(node, hosts_of(profile))
                    self._has_begun(node, "messages")

    async def _media(self, profile: NfProfile) -> None:
        node = profile.instance_name
        async for item in self._operator.capture_of(profile.nf_instance_id, "", with_keys=self._order.with_keys):
            match item.WhichOneof("item"):
                case "packet":
                    self._merger.add(of_packet(node, item.packet, time.time_ns()))
                case "key":
                    way = (
                        (item.key.source_ip, item.key.source_port),
                        (item.key.destination_ip, item.key.destination_port),
                    )
                    self._frames.key(*way, key_note(node, item.key))
                case "lost":
                    self._merger.missed(node, item.lost.items)
                case _:
                    self._has_begun(node, MEDIA)
