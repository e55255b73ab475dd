"""The streams of a live capture, opened again when lost: messages from each node, media from each gateway."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import grpc

from lab.capture_decode_as import hosts_of
from lab.capture_merge import MEDIA, Merger, of_message, of_packet
from lab.operator import LIST_OF_NODES, Operator
from protos import capture_pb2
from protos.nrf_nfm_pb2 import SUSPENDED, NfProfile
from sba.contracts import method_contract, service_contract
from sba.errors import RemoteProblem

START_WAIT_S = 5.0
"""How long nodes may take to begin, seconds."""
AGAIN_S = 0.2
"""Pause before nodes that could not be reached are asked again, while nodes begin, seconds."""
MESSAGES = "messages"
_NODE_SERVICE = service_contract(capture_pb2.DESCRIPTOR.services_by_name["NodeCapture"]).service_name
_MEDIA_SERVICE = service_contract(capture_pb2.DESCRIPTOR.services_by_name["MediaCapture"]).service_name
_OWN_LOOK = method_contract(LIST_OF_NODES).path
"""What a capture itself asks the NRF every second is not shown."""
_MAY_PASS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAUTHENTICATED}
"""What a node that is asked again at once may not say again; everything else is a refusal."""

KeyNote = Callable[[str, capture_pb2.CapturedKey], None]


@dataclass(frozen=True)
class Wanted:
    """What is captured: ``nodes`` by name (none: all), ``kinds`` of messages (none: no messages), media, with keys."""

    nodes: tuple[str, ...]
    kinds: tuple[capture_pb2.CaptureKind, ...]
    media: bool
    with_keys: bool


@dataclass(eq=False)
class Stream:
    """What one node tells of its messages or of media: ``begun`` once it ever did."""

    profile: NfProfile
    what: str
    begun: bool = False
    refused: bool = False
    fault: str = "it has not answered yet"
    task: asyncio.Task[None] | None = None

    @property
    def node(self) -> str:
        """The node's name."""
        return self.profile.instance_name

    @property
    def name(self) -> str:
        """What it is called towards people."""
        return self.node if self.what == MESSAGES else f"media of {self.node}"

    @property
    def is_open(self) -> bool:
        """Whether the node is being asked or tells."""
        return self.task is not None and not self.task.done()


class Streams:
    """Asks nodes for what they see and gives it to a ``merger``; ``key_note`` takes a gateway's name and its keys."""

    def __init__(self, operator: Operator, wanted: Wanted, merger: Merger, key_note: KeyNote) -> None:
        self._operator = operator
        self._wanted = wanted
        self._merger = merger
        self._key_note = key_note
        self._streams: dict[tuple[str, str], Stream] = {}
        self._changed = asyncio.Event()
        self._is_beginning = True
        self._news: list[tuple[str, str]] = []

    @property
    def nodes(self) -> list[str]:
        """Nodes that are or were captured, sorted."""
        return sorted({stream.node for stream in self._streams.values() if stream.begun})

    @property
    def absent(self) -> dict[str, str]:
        """What was never captured, and why, by name."""
        return {stream.name: stream.fault for stream in self._streams.values() if not stream.begun}

    @property
    def faults(self) -> dict[str, str]:
        """What is not captured now, and why, by name."""
        return {stream.name: stream.fault for stream in self._streams.values() if stream.fault}

    def news(self) -> list[tuple[str, str]]:
        """Return what is captured since the last look and was not before: ``joined`` or ``returned``, and a name."""
        news, self._news = self._news, []
        return news

    async def begin(self, profiles: Sequence[NfProfile]) -> None:
        """Ask all nodes, and those that could not be reached again, for ``START_WAIT_S`` at most."""
        self.open(profiles)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                while any(map(self._is_expected, self._streams.values())):
                    if await self._nothing_changed():
                        self.open(profiles)
        self._is_beginning = False

    @staticmethod
    def _is_expected(stream: Stream) -> bool:
        """Whether a stream is worth waiting for: of a node that finishes its work it is not."""
        return not (stream.begun or stream.refused or stream.profile.status == SUSPENDED)

    async def _nothing_changed(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_S):
                await self._changed.wait()
                self._changed.clear()
                return False
        return True

    async def close(self) -> None:
        """End every stream."""
        tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def open(self, profiles: Sequence[NfProfile]) -> None:
        """Ask every wanted node that is not being asked; while nodes begin, none that refused."""
        for profile in profiles:
            if self._wanted.nodes and profile.instance_name not in self._wanted.nodes:
                continue
            services = {service.service_name for service in profile.services}
            if self._wanted.kinds and _NODE_SERVICE in services:
                self._open(profile, MESSAGES)
            if self._wanted.media and _MEDIA_SERVICE in services:
                self._open(profile, MEDIA)

    def _open(self, profile: NfProfile, what: str) -> None:
        stream = self._streams.setdefault((profile.instance_name, what), Stream(profile, what))
        if stream.is_open or (self._is_beginning and stream.refused):
            return
        stream.profile = profile
        stream.task = asyncio.create_task(self._follow(stream))

    async def _follow(self, stream: Stream) -> None:
        take = self._messages(stream) if stream.what == MESSAGES else self._media(stream)
        began = False
        try:
            async for _ in take:
                if not began:
                    began = True
                    self._began(stream)
            fault, may_pass = "it ended its capture", began
        except RemoteProblem as problem:
            fault, may_pass = str(problem), problem.code in _MAY_PASS
        finally:
            if stream.what == MESSAGES:
                self._merger.captures(stream.node, ())
        stream.fault = fault
        if not may_pass:
            stream.refused = True
            self._changed.set()

    def _began(self, stream: Stream) -> None:
        if stream.what == MESSAGES:
            self._merger.captures(stream.node, (*hosts_of(stream.profile), stream.profile.fqdn))
        other = self._streams.get((stream.node, MESSAGES))
        if stream.begun and (other is stream or other is None):  # a gateway that comes back gives both
            self._news.append(("returned", stream.name))
        elif not (stream.begun or self._is_beginning):
            self._news.append(("joined", stream.name))
        stream.begun, stream.refused, stream.fault = True, False, ""
        self._changed.set()

    async def _messages(self, stream: Stream) -> AsyncIterator[None]:
        """Take messages of a node; yields once for each item."""
        items = self._operator.node_messages(stream.profile, self._wanted.kinds, with_keys=self._wanted.with_keys)
        async for item in items:
            match item.WhichOneof("item"):
                case "message" if item.message.sba.path != _OWN_LOOK:
                    self._merger.add(of_message(stream.node, item.message, time.time_ns()))
                case "lost":
                    self._merger.missed(stream.node, item.lost.items)
            yield

    async def _media(self, stream: Stream) -> AsyncIterator[None]:
        """Take packets of a gateway; yields once for each item."""
        items = self._operator.capture_of(stream.profile.nf_instance_id, "", with_keys=self._wanted.with_keys)
        async for item in items:
            match item.WhichOneof("item"):
                case "packet":
                    self._merger.add(of_packet(stream.node, item.packet, time.time_ns()))
                case "key":
                    self._key_note(stream.node, item.key)
                case "lost":
                    self._merger.missed(stream.node, item.lost.items)
            yield
