"""The engines that the benches of the relay compare: our relay in its forms, and rtpengine in user space."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from bench.relay_traffic import HOST, Address, key_set, new_key
from media.relay import Mode, Protection, RelayProcess, Side, SideConfig, StreamConfig, Workers
from media.relay.compiled import CHOICE

TO_SRTP, FROM_SRTP = "RTP->SRTP", "SRTP->RTP"
COMPILED, INTERPRETED, BARE, RTPENGINE = "compiled", "interpreted", "bare", "rtpengine"
"""`bare` is the compiled loop with RTP on both sides."""
ENGINES = COMPILED, INTERPRETED, BARE, RTPENGINE
PLACES = tuple(f"127.0.0.{number}" for number in range(2, 10))
"""Local addresses of the relays: thousands of streams need more ports than one has to spare."""
DESCRIPTORS_OF_A_STREAM = 4
_DESCRIPTORS_TO_SPARE = 200
AT_ONCE = 64
_ATTRIBUTES = re.compile(r"m=audio (\d+)")


@dataclass(frozen=True)
class Call:
    """Where the two peers of a stream send to."""

    access: Address
    core: Address


@dataclass(frozen=True)
class Wanted:
    """Streams for a measurement: what the access side speaks, and the keys, one a stream, that its peer sends with.

    On a core side that speaks SRTP the keys are those of the peer there.
    """

    direction: str
    suite: str
    keys: Sequence[bytes]
    peers: tuple[Address, Address]


class Engine(Protocol):
    """A relay under test: opens fresh streams and tells where to send."""

    name: str
    pids: list[int]

    async def open(self, wanted: Wanted) -> list[Call]:
        """Set up streams, as fast as the engine takes commands."""

    def one_by_one(self, wanted: Wanted) -> AsyncIterator[Call]:
        """Set up streams, each when the one before stands."""

    async def close(self, *, at_once: int = AT_ONCE) -> None:
        """Release all, so many commands at a time where the engine takes several."""

    async def once(self, wanted: Wanted) -> None:
        """Set up one stream and release it."""

    async def stop(self) -> None: ...


@contextlib.contextmanager
def started_on(cores: set[int] | None) -> Iterator[None]:
    """Children started in here stay on these cores, with all their threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processes_for(streams: int, descriptors: int) -> int:
    """How many processes of an engine it takes to hold so many streams; one unless descriptors do not suffice."""
    room = (descriptors - _DESCRIPTORS_TO_SPARE) // DESCRIPTORS_OF_A_STREAM
    return -(-streams // room)


async def _start_relay(*, interpreted: bool, workers: int | None) -> RelayProcess:
    before = os.environ.get(CHOICE)
    if interpreted:
        os.environ[CHOICE] = "python"
    try:
        return await RelayProcess.start(workers=None if workers is None else Workers(workers))
    finally:
        os.environ.pop(CHOICE, None)
        if before is not None:
            os.environ[CHOICE] = before


class OwnRelay:
    """The relay of this project in a process, or in several where one may not open enough sockets."""

    def __init__(self, name: str, relays: Sequence[RelayProcess]) -> None:
        self.name = name
        self.relays = list(relays)
        self.pids = [relay.pid for relay in relays]
        self._streams: list[tuple[RelayProcess, str]] = []
        self._count = 0

    @classmethod
    async def start(
        cls, name: str, cores: set[int] | None, *, processes: int = 1, workers: int | None = None
    ) -> OwnRelay:
        with started_on(cores):
            relays = [await _start_relay(interpreted=name == INTERPRETED, workers=workers) for _ in range(processes)]
        loop = relays[0].loop
        if (name == INTERPRETED) is loop.startswith("compiled"):
            raise RuntimeError(f"{name} was asked for, the relay runs {loop}")
        return cls(name, relays)

    def config(self, number: int, wanted: Wanted) -> StreamConfig:
        """Return the configuration of the `number`-th stream."""
        place = PLACES[number % len(PLACES)]
        plain = SideConfig(place, Protection.RTP, mode=Mode.SENDRECV, rtcp=False)
        access, core = (replace(plain, remote=peer) for peer in wanted.peers)
        if self.name != BARE:
            send = key_set(wanted.suite, new_key(wanted.suite))
            receive = key_set(wanted.suite, wanted.keys[number])
            if wanted.direction == FROM_SRTP:
                access = replace(access, protection=Protection.SRTP, send=send, receive=receive)
            else:
                core = replace(core, protection=Protection.SRTP, send=send, receive=receive)
        return StreamConfig(secrets.token_hex(6), {Side.ACCESS: access, Side.CORE: core})

    async def open(self, wanted: Wanted) -> list[Call]:
        calls = []
        numbers = range(len(wanted.keys))
        for first in numbers[::AT_ONCE]:
            calls += await asyncio.gather(*(self._add(number, wanted) for number in numbers[first : first + AT_ONCE]))
        return calls

    async def _add(self, number: int, wanted: Wanted) -> Call:
        relay, config = self.relays[number % len(self.relays)], self.config(number, wanted)
        places = await relay.add(config)
        self._streams.append((relay, config.stream_id))
        return Call(*((places[side].ip, places[side].port) for side in (Side.ACCESS, Side.CORE)))

    async def one_by_one(self, wanted: Wanted) -> AsyncIterator[Call]:
        for number in range(len(wanted.keys)):
            yield await self._add(number, wanted)

    async def close(self, *, at_once: int = AT_ONCE) -> None:
        for first in range(0, len(self._streams), at_once):
            part = self._streams[first : first + at_once]
            await asyncio.gather(*(relay.remove(stream) for relay, stream in part))
        self._streams.clear()

    async def once(self, wanted: Wanted) -> None:
        config = self.config(0, wanted)
        await self.relays[0].add(config)
        await self.relays[0].remove(config.stream_id)

    async def stop(self) -> None:
        for relay in self.relays:
            await relay.close()


def bencode(value: object) -> bytes:
    if isinstance(value, dict):
        return b"d" + b"".join(bencode(key) + bencode(item) for key, item in value.items()) + b"e"
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    if isinstance(value, int):
        return b"i%de" % value
    octets = value if isinstance(value, bytes) else str(value).encode()
    return b"%d:" % len(octets) + octets


def bdecode(octets: bytes, at: int = 0) -> tuple[object, int]:
    mark = octets[at : at + 1]
    if mark in (b"d", b"l"):
        items = []
        at += 1
        while octets[at : at + 1] != b"e":
            item, at = bdecode(octets, at)
            items.append(item)
        if mark == b"l":
            return items, at + 1
        return dict(zip((str(key) for key in items[::2]), items[1::2], strict=True)), at + 1
    if mark == b"i":
        end = octets.index(b"e", at)
        return int(octets[at + 1 : end]), end + 1
    colon = octets.index(b":", at)
    end = colon + 1 + int(octets[at:colon])
    return octets[colon + 1 : end].decode(), end


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class _Ng:
    """An rtpengine process and its control protocol, NG: bencoded dictionaries over UDP."""

    def __init__(self, cores: set[int] | None) -> None:
        port, other = _free_port(socket.SOCK_DGRAM), _free_port(socket.SOCK_STREAM)
        command = ["rtpengine", "--config-file=none", "--foreground", "--table=-1", "--num-threads=1"]
        command += [f"--listen-ng={HOST}:{port}", f"--listen-cli={HOST}:{other}"]
        command += [f"--interface=at{place}/{place}" for place in PLACES]
        command += ["--log-level=2", "--log-stderr", "--port-min=10000", "--port-max=60000", "--timeout=3600"]
        with started_on(cores):
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._control.connect((HOST, port))
        self._control.settimeout(2.0)
        for _ in range(100):
            try:
                if self.ask({"command": "ping"}).get("result") == "pong":
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("rtpengine does not answer")

    def ask(self, command: Mapping[str, object]) -> dict[str, object]:
        cookie = secrets.token_hex(6).encode()
        self._control.send(cookie + b" " + bencode(command))
        while True:
            answer = self._control.recv(65535)
            if answer.startswith(cookie):
                value, _ = bdecode(answer[len(cookie) + 1 :])
                assert isinstance(value, dict)
                if value.get("result") == "error":
                    raise RuntimeError(str(value.get("error-reason")))
                return value

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._control.close()


class RtpEngine:
    """rtpengine in user space with one thread for packets, commanded over NG."""

    name = RTPENGINE

    def __init__(self, cores: set[int] | None, *, processes: int = 1) -> None:
        self._parts = [_Ng(cores) for _ in range(processes)]
        self.pids = [part.pid for part in self._parts]
        self._calls: list[tuple[_Ng, str]] = []

    @staticmethod
    def _sdp(address: Address, proto: str, crypto: str = "") -> str:
        lines = ["v=0", f"o=- 1 1 IN IP4 {HOST}", "s=-", f"c=IN IP4 {address[0]}", "t=0 0"]
        lines += [f"m=audio {address[1]} {proto} 8", "a=rtpmap:8 PCMA/8000", "a=sendrecv"]
        lines += [crypto] if crypto else []
        return "\r\n".join(lines) + "\r\n"

    async def open(self, wanted: Wanted) -> list[Call]:
        return [self._open(number, wanted) for number in range(len(wanted.keys))]

    def _open(self, number: int, wanted: Wanted) -> Call:
        part = self._parts[number % len(self._parts)]
        place = PLACES[number % len(PLACES)]
        near, far = ("RTP/AVP", "RTP/SAVP") if wanted.direction == TO_SRTP else ("RTP/SAVP", "RTP/AVP")
        key = base64.b64encode(wanted.keys[number]).decode()
        call = {"call-id": secrets.token_hex(8), "from-tag": "a"}
        common = {"ICE": "remove", "DTLS": "off", "rtcp-mux": ["demux"], "flags": ["trust-address"]}
        own = f"a=crypto:1 {wanted.suite} inline:{key}" if near == "RTP/SAVP" else ""
        offer = {**call, **common, "command": "offer", "transport-protocol": far}
        offer |= {"direction": [f"at{place}", f"at{place}"], "sdp": self._sdp(wanted.peers[0], near, own)}
        offered = str(part.ask(offer)["sdp"])
        tag = next(re.finditer(rf"a=crypto:(\d+) {wanted.suite} ", offered), None)
        line = f"a=crypto:{tag[1]} {wanted.suite} inline:{key}" if tag else ""
        answer = {**call, **common, "command": "answer", "to-tag": "b", "sdp": self._sdp(wanted.peers[1], far, line)}
        answered = str(part.ask(answer)["sdp"])
        ports = [_ATTRIBUTES.search(sdp) for sdp in (answered, offered)]
        assert ports[0] is not None
        assert ports[1] is not None
        self._calls.append((part, call["call-id"]))
        return Call((place, int(ports[0][1])), (place, int(ports[1][1])))

    async def one_by_one(self, wanted: Wanted) -> AsyncIterator[Call]:
        for number in range(len(wanted.keys)):
            yield self._open(number, wanted)

    async def close(self, *, at_once: int = 1) -> None:  # noqa: ARG002 - NG is asked one by one
        for part, call in self._calls:
            self._delete(part, call)
        self._calls.clear()

    @staticmethod
    def _delete(part: _Ng, call: str) -> None:
        part.ask({"command": "delete", "call-id": call, "from-tag": "a", "delete-delay": 0})

    async def once(self, wanted: Wanted) -> None:
        self._open(0, wanted)
        self._delete(*self._calls.pop())

    async def stop(self) -> None:
        for part in self._parts:
            part.stop()


async def start(name: str, cores: set[int] | None, *, processes: int = 1) -> Engine | None:
    """Start an engine on some cores; None where rtpengine is not installed."""
    if name != RTPENGINE:
        return await OwnRelay.start(name, cores, processes=processes)
    return RtpEngine(cores, processes=processes) if shutil.which("rtpengine") else None
