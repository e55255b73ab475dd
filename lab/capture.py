"""``imslab capture``: a pcapng of the running lab, while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.capture_decode_as import HTTP, HTTP2, SIP, LabPorts
from lab.capture_frames import Frames
from lab.capture_merge import FAR_AHEAD_NS, MEDIA, CallChoice, Merger, Seen
from lab.capture_streams import Streams, Wanted
from lab.control import ControlError, Json
from lab.operator import Operator
from lab.packets import key_note
from lab.pcapng import PcapngWriter
from protos import capture_pb2
from protos.nrf_nfm_pb2 import NfProfile
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
END_LOOKS = 8
"""How often the end looks, ``WRITE_EVERY_S`` apart, whether nodes have told of all that another one told of."""
MOST_FRAMES = 1000
"""Frames written at once; other work goes on between them."""
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
        wanted = Wanted(
            order.nodes,
            tuple(number for name, number in KINDS.items() if order.wants(name)),
            media=order.wants(MEDIA),
            with_keys=order.with_keys,
        )
        self._streams = Streams(operator, wanted, self._merger, self._note_key)
        self._notes = [said, "THIS FILE HOLDS MEDIA KEYS"] if order.with_keys else [said]
        self._writer = PcapngWriter()
        self.ports = LabPorts.of_names(names)
        self.packets = 0
        self.octets = 0
        self._nrf_fault = ""
        self._enough = asyncio.Event()

    @property
    def nodes(self) -> list[str]:
        """Nodes that were captured, sorted."""
        return self._streams.nodes

    @property
    def absent(self) -> dict[str, str]:
        """What was never captured, and why, by the name of a node, or ``media of`` it."""
        return self._streams.absent

    async def start(self) -> None:
        """Begin at every node there is; those that cannot be reached are asked again for a while.

        Raises ``ControlError`` of kind usage where a wanted node is not there, and when none can be captured or this
        is cancelled before.
        """
        profiles = await lab_profiles(self._operator)
        known = {profile.instance_name for profile in profiles}
        unknown = [name for name in self._order.nodes if name not in known]
        if unknown:
            raise ControlError(f"no node is called {', '.join(unknown)}; there are {', '.join(sorted(known))}", "usage")
        self._learn(profiles)
        try:
            await self._streams.begin(profiles)
        except asyncio.CancelledError:
            await self.stop()
            raise ControlError("the capture was ended before it began") from None
        if not self.nodes:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.absent.items())
            await self.stop()
            raise ControlError(f"no node gives a capture ({why or 'none is there'})")

    async def stop(self) -> None:
        """End the capture at every node."""
        await self._streams.close()

    async def run(self, emit: Emit, tell: Tell) -> Json:
        """Write until the order is filled or this is cancelled; returns what there is to say of the file.

        ``tell`` hears of what is captured from now on: ``returned`` when it had gone, and between the two nothing was
        seen; ``joined`` when it is new. Cancelled once, it writes what it has and closes the file; twice, it ends.
        """
        work = asyncio.create_task(self._run(emit, tell))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            self._enough.set()
            return await work

    async def _run(self, emit: Emit, tell: Tell) -> Json:
        self._writer.comment = "\n".join(self._notes)
        looking = asyncio.create_task(self._look_on())
        try:
            ended = await self._follow(emit, tell)
            await self._complete()
            faults = self._streams.faults
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await self.stop()
        await self._write(emit, self._merger.settled(FAR_AHEAD_NS))
        await self._emit(emit, self._writer.end(time.time_ns(), self._merger.lost))
        if self._nrf_fault:
            faults.setdefault("nrf", self._nrf_fault)
        return {
            "packets": self.packets,
            "octets": self.octets,
            "nodes": [*self.nodes],
            "lost": dict(self._merger.lost),
            "faults": {**faults},
            "ended": ended,
            "ports": self.ports.document(),
        }

    async def _follow(self, emit: Emit, tell: Tell) -> str:
        """Write what nodes tell until it is enough; returns why it is."""
        deadline = time.monotonic() + self._order.seconds if self._order.seconds else float("inf")
        await self._emit(emit, self._writer.begin())
        while not self._is_full:
            pause = min(WRITE_EVERY_S, deadline - time.monotonic())
            if pause <= 0:
                return "time is up"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._enough.wait()
                    return "stopped"
            await self._write(emit, self._merger.settled(time.time_ns()))
            for what, name in self._streams.news():
                await tell(what, name)
        return "the file is as large as it may be"

    async def _complete(self) -> None:
        """Give nodes a moment to tell of what another one told of."""
        for _ in range(END_LOOKS):
            if not self._merger.awaits:
                return
            await asyncio.sleep(WRITE_EVERY_S)

    @property
    def _is_full(self) -> bool:
        return 0 < self._order.most_octets <= self.octets

    async def _emit(self, emit: Emit, octets: bytes) -> None:
        self.octets += len(octets)
        await emit(octets)

    async def _write(self, emit: Emit, settled: Sequence[Seen]) -> None:
        """Write messages; of those that come once the file is full, none."""
        for at in range(0, len(settled), MOST_FRAMES):
            if self._is_full:
                return
            blocks = []
            for seen in settled[at : at + MOST_FRAMES]:
                self._learn_ports(seen)
                blocks += [self._writer.add(frame) for frame in self._frames.of(seen)]
            self.packets += len(blocks)
            if blocks:
                await self._emit(emit, b"".join(blocks))
            await asyncio.sleep(0)

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

    async def _look_on(self) -> None:
        """Look again and again which nodes there are; an NRF that does not answer holds up nothing else."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                profiles = await self._operator.profiles()
            except RemoteProblem as problem:  # without the NRF those that are captured go on
                self._nrf_fault = str(problem)
                continue
            self._learn(profiles)
            self._streams.open(profiles)

    def _learn(self, profiles: Sequence[NfProfile]) -> None:
        for profile in profiles:
            self._names[profile.fqdn] = profile.instance_name
            self.ports.learn(profile)

    def _note_key(self, gateway: str, key: capture_pb2.CapturedKey) -> None:
        way = (key.source_ip, key.source_port), (key.destination_ip, key.destination_port)
        self._frames.key(*way, key_note(gateway, key))
