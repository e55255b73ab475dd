"""Signalling and media of one call in one pcapng: SIP from the spans, packets from both gateways' capture streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from lab.capture_merge import time_of
from lab.labfile import LabFile
from lab.ladder import Message, messages_of, pair_messages
from lab.operator import Operator
from lab.pcapng import TCP, UDP, Frame, PcapngWriter, sip_payload
from lab.spans import Span, as_number
from lab.tracestore import TraceStore
from lab.verdict import Verdict
from protos import capture_pb2
from sba.errors import RemoteProblem

START_WAIT_S = 2.0
"""How long a gateway may take to begin its capture, seconds."""
SIGNALLING_WAIT_S = 0.8
"""How long the spans of the last messages are waited for, seconds."""
MAX_PACKETS = 500_000
"""Most media packets kept in one capture."""
SAME_PACKET_NS = 1_000_000_000
"""The same octets on the same path within this time are one packet seen by both gateways, nanoseconds."""


class CallCapture:
    """Takes in what the gateways' sockets see from ``start`` to ``stop``."""

    def __init__(self, operator: Operator, lab: LabFile, *, with_keys: bool) -> None:
        self._operator = operator
        self._lab = lab
        self._with_keys = with_keys
        self._packets: list[tuple[str, capture_pb2.CapturedPacket]] = []
        self._keys: list[tuple[str, capture_pb2.CapturedKey]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._faults: list[str] = []

    async def start(self) -> None:
        """Begin on every gateway and return when they have begun."""
        began = []
        for gateway in self._lab.gateways:
            started = asyncio.Event()
            began.append(asyncio.ensure_future(started.wait()))
            self._tasks.append(asyncio.create_task(self._collect(gateway, started)))
        _, late = await asyncio.wait(began, timeout=START_WAIT_S)
        for waiting in late:
            waiting.cancel()

    async def _collect(self, gateway: str, started: asyncio.Event) -> None:
        try:
            async for item in self._operator.capture(gateway, "", with_keys=self._with_keys):
                kind = item.WhichOneof("item")
                if kind == "packet" and len(self._packets) < MAX_PACKETS:
                    self._packets.append((gateway, item.packet))
                elif kind == "key":
                    self._keys.append((gateway, item.key))
                started.set()
        except RemoteProblem as problem:
            self._faults.append(f"{gateway} gave no capture: {problem}")
            started.set()

    async def stop(self) -> None:
        """End every capture."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def write(self, path: Path, store: TraceStore, verdict: Verdict) -> Path:
        """Write the call's signalling and media to ``path``. Raises ``OSError``."""
        await asyncio.to_thread(self._operator.telemetry.flush)
        await asyncio.sleep(SIGNALLING_WAIT_S)
        spans = await asyncio.to_thread(store.spans_of_call, verdict.call_id)
        content = self._file(spans, verdict)

        def save() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            path.write_bytes(content)

        await asyncio.to_thread(save)
        return path

    def _file(self, spans: Sequence[Span], verdict: Verdict) -> bytes:
        ends = call_addresses(verdict)
        frames = sip_frames([span for span in spans if span.text("sip.call_id") == verdict.call_id], self._lab.names)
        frames += media_frames(self._packets, ends)
        notes = [f"imslab call {verdict.call_id}", *self._faults]
        if self._with_keys:
            notes.append("THIS FILE HOLDS MEDIA KEYS")
            notes += [key_note(gateway, key) for gateway, key in self._keys if _concerns(key, ends)]
        return PcapngWriter(comment="\n".join(notes)).file(frames)


def call_addresses(verdict: Verdict) -> frozenset[tuple[str, int]]:
    """Return the RTP and RTCP addresses of a call's legs; empty when none reported any."""
    found = set()
    for leg in verdict.legs:
        host, _, port = leg.local.rpartition(":")
        number = int(as_number(port))
        if host and number:
            found |= {(host.strip("[]"), number), (host.strip("[]"), number + 1)}
    return frozenset(found)


def _concerns(item: capture_pb2.CapturedPacket | capture_pb2.CapturedKey, ends: frozenset[tuple[str, int]]) -> bool:
    source = (item.source_ip, item.source_port)
    return not ends or source in ends or (item.destination_ip, item.destination_port) in ends


def key_note(gateway: str, key: capture_pb2.CapturedKey) -> str:
    """Say which key protects which direction; only for a capture with keys."""
    way = f"{key.source_ip}:{key.source_port} -> {key.destination_ip}:{key.destination_port}"
    return f"{gateway} {way} a=crypto:{key.crypto}"


def sip_frames(spans: Sequence[Span], names: dict[str, str]) -> list[Frame]:
    """Return each SIP message once, as its sender sent it, or as it arrived from outside the lab."""
    nodes = frozenset(span.node for span in spans)
    pairs = pair_messages(messages_of(spans, names), nodes)
    return [_sip_frame(sent or arrived) for sent, arrived in pairs if sent or arrived]


def _sip_frame(message: Message | None) -> Frame:
    assert message is not None
    source, destination = message.local, message.remote
    if not message.sent:
        source, destination = destination, source
    over = message.transport.upper()
    note = f"{message.node}: {message.interface} over {over}"
    if over == "TLS":
        note += ", shown decrypted; keys are masked"
    return Frame(
        time_ns=message.time_ns,
        node=message.node,
        protocol=UDP if over == "UDP" else TCP,
        source=source,
        destination=destination,
        payload=sip_payload(message.text),
        comment=note,
    )


def media_frames(
    packets: Sequence[tuple[str, capture_pb2.CapturedPacket]], ends: frozenset[tuple[str, int]]
) -> list[Frame]:
    """Return the media packets of the call with ``ends``; one that both gateways saw is kept once."""
    frames: list[Frame] = []
    seen: dict[tuple[str, int, str, int, bytes], tuple[str, int]] = {}
    for gateway, packet in sorted(packets, key=lambda item: time_of(item[1])):
        if not _concerns(packet, ends):
            continue
        time_ns = time_of(packet)
        path = (packet.source_ip, packet.source_port, packet.destination_ip, packet.destination_port, packet.payload)
        known = seen.get(path)
        if known is not None and known[0] != gateway and time_ns - known[1] < SAME_PACKET_NS:
            continue
        seen[path] = (gateway, time_ns)
        comment = " ".join(filter(None, (packet.comment or gateway, "dropped" if packet.dropped else "")))
        frames.append(Frame(time_ns, gateway, UDP, path[:2], path[2:4], packet.payload, comment))
    return frames
