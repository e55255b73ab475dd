#!/usr/bin/env python3
"""Packets per second of the media relay on one core, beside rtpengine in user space and the same loop without crypto.

    bench/relay.py [--streams N ...] [--seconds S] [--rounds R] [--suite NAME ...] [--json FILE]

One generator on another core drives all three through the same two sockets: it keeps a fixed number of packets under
way (a window), so that every engine runs as fast as it can and none loses packets to a full queue. Rounds are
interleaved; a ratio is the median of the ratios of each round. rtpengine drops a stream for good after bursts of 50
queued packets, hence the window.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cffi

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keying.secret import Secret
from keying.suites import SUITES
from media.relay import KeySet, MasterKey, Mode, Protection, RelayProcess, Side, SideConfig, StreamConfig
from media.relay.libsrtp import PacketBuffer, Session

HOST = "127.0.0.1"
PAYLOAD = 160
BATCH = 32
FASTEST = 400_000
"""Packets a second that the prepared packets suffice for."""
SO_RCVBUFFORCE = 33
TO_SRTP, FROM_SRTP = "RTP->SRTP", "SRTP->RTP"

_ffi = cffi.FFI()
_ffi.cdef("""
int sendmmsg(int fd, void *messages, unsigned int count, int flags);
int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout);
int *__errno_location(void);
""")
_libc = _ffi.dlopen(None)
_MESSAGE = struct.Struct("<QI4xQQQQi4xI4x")
_VECTOR = struct.Struct("<QQ")


def key_set(suite: str, octets: bytes) -> KeySet:
    return KeySet(SUITES[suite], (MasterKey(Secret(octets)),))


def new_key(suite: str) -> bytes:
    return secrets.token_bytes(SUITES[suite].key_salt_length)


class Packets:
    """Prepared packets, one after the other over all streams, and the message headers that send them in batches."""

    def __init__(self, streams: int, count: int, keys: tuple[str, list[bytes]] | None) -> None:
        self.count = count
        self.streams = streams
        senders = None if keys is None else [Session(key_set(keys[0], key), sender=True) for key in keys[1]]
        buffer = PacketBuffer(512)
        payload = secrets.token_bytes(PAYLOAD)
        parts = []
        for number in range(count):
            stream, turn = number % streams, number // streams
            header = struct.pack("!BBHII", 0x80, 8, turn & 0xFFFF, turn * 160 & 0xFFFFFFFF, 0x1000 + stream)
            if senders is None:
                parts.append(header + payload)
            else:
                buffer.load(header + payload)
                senders[stream].rtp(buffer.data, buffer.length)
                parts.append(buffer.packet())
        self.size = len(parts[0])
        self._pool = bytearray(b"".join(parts))
        self._names = bytearray(16 * streams)
        self._vectors = bytearray(_VECTOR.size * count)
        self._messages = bytearray(_MESSAGE.size * count)
        pool, names, vectors = (int(_ffi.cast("uintptr_t", _ffi.from_buffer(each))) for each in self._parts)
        for number in range(count):
            _VECTOR.pack_into(self._vectors, number * _VECTOR.size, pool + number * self.size, self.size)
            name = names + 16 * (number % streams)
            vector = vectors + number * _VECTOR.size
            _MESSAGE.pack_into(self._messages, number * _MESSAGE.size, name, 16, vector, 1, 0, 0, 0, 0)
        self._address = int(_ffi.cast("uintptr_t", _ffi.from_buffer(self._messages)))

    @property
    def _parts(self) -> tuple[bytearray, bytearray, bytearray]:
        return self._pool, self._names, self._vectors

    def aim(self, ports: list[int]) -> None:
        """Send to these ports from now on, one a stream."""
        for stream, port in enumerate(ports):
            struct.pack_into("<H", self._names, 16 * stream, socket.AF_INET)
            struct.pack_into("!H4s8x", self._names, 16 * stream + 2, port, socket.inet_aton(HOST))

    def at(self, number: int) -> object:
        return _ffi.cast("void *", self._address + number * _MESSAGE.size)


class Sink:
    """Counts what arrives."""

    def __init__(self, sock: socket.socket) -> None:
        self._descriptor = sock.fileno()
        self._pool = bytearray(2048 * BATCH)
        self._vectors = bytearray(_VECTOR.size * BATCH)
        self._messages = bytearray(_MESSAGE.size * BATCH)
        pool, vectors = (int(_ffi.cast("uintptr_t", _ffi.from_buffer(each))) for each in (self._pool, self._vectors))
        for number in range(BATCH):
            _VECTOR.pack_into(self._vectors, number * _VECTOR.size, pool + 2048 * number, 2048)
            _MESSAGE.pack_into(self._messages, number * _MESSAGE.size, 0, 0, vectors + 16 * number, 1, 0, 0, 0, 0)
        self._address = _ffi.cast("void *", int(_ffi.cast("uintptr_t", _ffi.from_buffer(self._messages))))

    def drain(self) -> int:
        got = 0
        while True:
            count = _libc.recvmmsg(self._descriptor, self._address, BATCH, socket.MSG_DONTWAIT, _ffi.NULL)
            if count <= 0:
                return got
            got += count
            if count < BATCH:
                return got

    def size(self) -> int:
        """Octets of the first packet of the last batch."""
        return int(struct.unpack_from("<I", self._messages, 56)[0])


@dataclass
class Generator:
    """Source and sink on loopback; `run` returns packets a second and the share that was lost."""

    source: socket.socket = field(init=False)
    target: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.source, self.target = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.source, self.target):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE if os.geteuid() == 0 else socket.SO_RCVBUF, 8 << 20)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
            sock.bind((HOST, 0))
        self.sink = Sink(self.target)

    def run(self, packets: Packets, seconds: float, start: int = 0) -> tuple[float, float, int]:
        window = max(BATCH, 4 * packets.streams)
        batch = BATCH if packets.streams > 1 else window  # one stream: its queue must run empty, or rtpengine drops it
        sent, received, lost = start, 0, 0
        descriptor, sink = self.source.fileno(), self.sink
        sink.drain()
        begin = heard = time.perf_counter()
        while sent < packets.count:
            got = sink.drain()
            now = time.perf_counter()
            if got:
                received += got
                heard = now
            if now - begin >= seconds:
                break
            under_way = sent - start - received - lost
            if window - under_way >= batch:
                count = _libc.sendmmsg(descriptor, packets.at(sent), min(batch, packets.count - sent), 0)
                if count > 0:
                    sent += count
            elif now - heard > 0.05:  # what did not come by now will not come
                lost += under_way
                heard = now
        elapsed = time.perf_counter() - begin
        time.sleep(0.02)
        received += sink.drain()
        total = sent - start
        return received / elapsed, max(0.0, (total - received) / max(1, total)), sent


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used, over all its threads."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Engine(Protocol):
    """A relay under test: opens fresh streams for a round and tells the ports to send to."""

    name: str
    pid: int

    async def open(self, streams: int, direction: str, suite: str, keys: list[bytes]) -> list[int]: ...
    async def close(self) -> None: ...


class OwnRelay:
    """The relay of this project in its own process; `bare` leaves the crypto out."""

    def __init__(self, relay: RelayProcess, generator: Generator, *, bare: bool) -> None:
        self.name = "bare" if bare else "imslab"
        self.pid = relay.pid
        self._relay = relay
        self._generator = generator
        self._bare = bare
        self._streams: list[str] = []

    async def open(self, streams: int, direction: str, suite: str, keys: list[bytes]) -> list[int]:
        source, target = self._generator.source.getsockname(), self._generator.target.getsockname()
        protect, plain = Protection.SRTP, Protection.RTP
        ports = []
        for stream in range(streams):
            send = receive = None
            if not self._bare:
                send, receive = key_set(suite, new_key(suite)), key_set(suite, keys[stream])
            near_kind = protect if direction == FROM_SRTP and not self._bare else plain
            far_kind = protect if direction == TO_SRTP and not self._bare else plain
            near = SideConfig(HOST, near_kind, remote=source, mode=Mode.SENDRECV, rtcp=False)
            far = SideConfig(HOST, far_kind, remote=target, mode=Mode.SENDRECV, rtcp=False)
            if near_kind is protect:
                near = SideConfig(
                    HOST, near_kind, remote=source, mode=Mode.SENDRECV, rtcp=False, send=send, receive=receive
                )
            if far_kind is protect:
                far = SideConfig(
                    HOST, far_kind, remote=target, mode=Mode.SENDRECV, rtcp=False, send=send, receive=receive
                )
            name = f"{self.name}-{secrets.token_hex(6)}"
            locals_ = await self._relay.add(StreamConfig(name, {Side.ACCESS: near, Side.CORE: far}))
            self._streams.append(name)
            ports.append(locals_[Side.ACCESS].port)
        return ports

    async def close(self) -> None:
        for name in self._streams:
            await self._relay.remove(name)
        self._streams.clear()


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


class RtpEngine:
    """rtpengine in user space, commanded over NG."""

    name = "rtpengine"

    def __init__(self, generator: Generator, core: int | None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        command = ["rtpengine", "--foreground", "--table=-1", f"--interface={HOST}", f"--listen-ng={HOST}:{port}"]
        command += ["--log-level=2", "--log-stderr", "--num-threads=1", "--port-min=20000", "--port-max=32000"]
        if core is not None:
            command = ["taskset", "-c", str(core), *command]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._control.connect((HOST, port))
        self._control.settimeout(2.0)
        self._generator = generator
        self._calls: list[str] = []
        for _ in range(100):
            try:
                if self._ask({"command": "ping"}).get("result") == "pong":
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("rtpengine does not answer")

    def _ask(self, command: dict[str, object]) -> dict[str, object]:
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

    @staticmethod
    def _sdp(address: tuple[str, int], proto: str, crypto: str = "") -> str:
        lines = ["v=0", f"o=- 1 1 IN IP4 {HOST}", "s=-", f"c=IN IP4 {address[0]}", "t=0 0"]
        lines += [f"m=audio {address[1]} {proto} 8", "a=rtpmap:8 PCMA/8000", "a=sendrecv"]
        lines += [crypto] if crypto else []
        return "\r\n".join(lines) + "\r\n"

    async def open(self, streams: int, direction: str, suite: str, keys: list[bytes]) -> list[int]:
        source, target = self._generator.source.getsockname(), self._generator.target.getsockname()
        near, far = ("RTP/AVP", "RTP/SAVP") if direction == TO_SRTP else ("RTP/SAVP", "RTP/AVP")
        ports = []
        for stream in range(streams):
            call = {"call-id": secrets.token_hex(8), "from-tag": "a"}
            own = f"a=crypto:1 {suite} inline:{base64.b64encode(keys[stream]).decode()}"
            common = {"ICE": "remove", "DTLS": "off", "rtcp-mux": ["demux"], "flags": ["trust-address"]}
            offer = {**call, **common, "command": "offer", "transport-protocol": far}
            offer["sdp"] = self._sdp(source, near, own if near == "RTP/SAVP" else "")
            offered = str(self._ask(offer)["sdp"])
            tag = next(re.finditer(rf"a=crypto:(\d+) {suite} ", offered), None)
            line = f"a=crypto:{tag[1]} {suite} inline:{base64.b64encode(new_key(suite)).decode()}" if tag else ""
            answer = {**call, **common, "command": "answer", "to-tag": "b", "sdp": self._sdp(target, far, line)}
            answered = str(self._ask(answer)["sdp"])
            match = re.search(r"m=audio (\d+)", answered)
            assert match is not None
            ports.append(int(match[1]))
            self._calls.append(call["call-id"])
        return ports

    async def close(self) -> None:
        for call in self._calls:
            self._ask({"command": "delete", "call-id": call, "from-tag": "a", "delete-delay": 0})
        self._calls.clear()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._control.close()


@dataclass
class Case:
    streams: int
    direction: str
    suite: str
    rates: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    """Microseconds of processor time a packet, which other work on the machine disturbs least."""

    def rows(self) -> Iterator[dict[str, object]]:
        for engine, rates in self.rates.items():
            row: dict[str, object] = {
                "engine": engine,
                "streams": self.streams,
                "direction": self.direction,
                "suite": "" if engine == "bare" else self.suite,
                "packets_per_s": {"min": min(rates), "median": statistics.median(rates), "max": max(rates)},
                "loss": max(self.losses[engine]),
                "rounds": len(rates),
                "cpu_us_per_packet": statistics.median(self.costs[engine]),
            }
            for other in ("rtpengine", "bare"):
                ratios = [mine / theirs for mine, theirs in zip(rates, self.rates.get(other, []), strict=False)]
                row[f"ratio_to_{other}"] = statistics.median(ratios) if ratios else None
                row[f"ratio_to_{other}_range"] = [min(ratios), max(ratios)] if ratios else None
            yield row


async def measure(case: Case, engines: list[Engine], generator: Generator, seconds: float, rounds: int) -> None:
    keys = [new_key(case.suite) for _ in range(case.streams)]
    count = int(FASTEST * seconds)
    plain = Packets(case.streams, count, None)
    protected = Packets(case.streams, count, (case.suite, keys)) if case.direction == FROM_SRTP else plain
    tag = SUITES[case.suite].srtp_tag_length
    for number in range(rounds):
        for engine in engines[number % len(engines) :] + engines[: number % len(engines)]:
            packets = plain if engine.name == "bare" else protected
            packets.aim(await engine.open(case.streams, case.direction, case.suite, keys))
            warm = min(case.streams * 20, packets.count // 4)  # contexts are made at the first packets
            _, _, start = generator.run(_First(packets, warm), 1.0)
            before = cpu_seconds(engine.pid)
            rate, loss, end = generator.run(packets, seconds, start)
            cost = (cpu_seconds(engine.pid) - before) * 1e6 / max(1, end - start)
            expected = 12 + PAYLOAD + (tag if case.direction == TO_SRTP and engine.name != "bare" else 0)
            if generator.sink.size() != expected:
                raise RuntimeError(f"{engine.name} sent {generator.sink.size()} octets, {expected} were expected")
            case.rates.setdefault(engine.name, []).append(rate)
            case.losses.setdefault(engine.name, []).append(loss)
            case.costs.setdefault(engine.name, []).append(cost)
            await engine.close()


class _First:
    """The first packets of a pool, to warm up with."""

    def __init__(self, packets: Packets, count: int) -> None:
        self.streams, self.count, self.at = packets.streams, count, packets.at


async def bench(options: argparse.Namespace) -> list[dict[str, object]]:
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if len(cores) > 1 else None
    generator = Generator()
    relay = await RelayProcess.start()
    if core is not None:
        os.sched_setaffinity(0, {cores[0]})
        os.sched_setaffinity(relay.pid, {core})
    engines: list[Engine] = [
        OwnRelay(relay, generator, bare=False),
        OwnRelay(relay, generator, bare=True),
    ]
    rival = RtpEngine(generator, core) if shutil.which("rtpengine") else None
    if rival is not None:
        engines.append(rival)
    rows: list[dict[str, object]] = []
    try:
        for suite in options.suite:
            for streams in options.streams:
                for direction in (TO_SRTP, FROM_SRTP):
                    case = Case(streams, direction, suite)
                    await measure(case, engines, generator, options.seconds, options.rounds)
                    for row in case.rows():
                        rows.append(row)
                        print(_line(row), flush=True)
    finally:
        if rival is not None:
            rival.stop()
        await relay.close()
    return rows


def _line(row: dict[str, object]) -> str:
    rate = row["packets_per_s"]
    assert isinstance(rate, dict)
    ratios = "  ".join(
        f"{row[f'ratio_to_{other}']:.2f}x {other}" for other in ("rtpengine", "bare") if row[f"ratio_to_{other}"]
    )
    span = "/".join(f"{rate[part] / 1000:.0f}" for part in ("min", "median", "max"))
    head = f"{row['engine']:10} {row['direction']:10} {row['streams']:>5} streams  {span:>12} kpkt/s"
    return f"{head}  {row['cpu_us_per_packet']:.2f} us  {ratios}  loss {row['loss']:.2%}  {row['suite']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--suite", nargs="+", default=["AES_CM_128_HMAC_SHA1_80"], choices=list(SUITES))
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = asyncio.run(bench(options))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
