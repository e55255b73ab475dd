"""RTP for the benches of the relay: prepared packets, two sockets that send and count, and a network of their own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from keying.secret import Secret
from keying.suites import SUITES
from media.relay import KeySet, MasterKey
from media.relay.libsrtp import PacketBuffer, Session
from media.relay.sockets import overflow_of

HOST = "127.0.0.1"
HEADER = 12
PAYLOAD = 160
PTIME_S = 0.02
MOST_BACKLOG_S = 0.05
"""What may wait at the end of an open loop, in time of its flow, without being taken for a queue that grows."""
BATCH = 32
ACCESS_SSRC, CORE_SSRC = 0x1000, 0x80001000
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
_WANTED_DESCRIPTORS = 48_000
_QUEUE = 64 << 20
_OF_A_PACKET = 1024
"""Octets of a queue that the kernel reckons for a packet of speech, rounded up."""
_STALL_S = 0.05
_PATIENCE_S = 0.2
_CLONE_NEWNET = 0x40000000
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_REFUSE = struct.pack("HBBI", 0x06, 0, 0, 0)
"""struct sock_filter: keep nothing of a packet."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_ffi = cffi.FFI()
_ffi.cdef("""
int sendmmsg(int fd, void *messages, unsigned int count, int flags);
int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout);
""")
_libc: Any = _ffi.dlopen(None)
_MESSAGE = np.dtype(
    {
        "names": ["name", "name_size", "vector", "vectors", "control", "control_size", "flags", "size"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8", "<i4", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
"""struct mmsghdr."""
_VECTOR = np.dtype([("base", "<u8"), ("size", "<u8")])
_NAME = np.dtype([("family", "<u2"), ("port", ">u2"), ("host", "u1", 4), ("zero", "u1", 8)])
_RTP = np.dtype([("first", "u1"), ("type", "u1"), ("sequence", ">u2"), ("time", ">u4"), ("ssrc", ">u4")])

Address = tuple[str, int]


def own_network() -> bool:
    """Move to a network that has a loopback and nothing else, above all no packet filter; False where not permitted."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH22x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
    return True


def raise_descriptors() -> int:
    """Ask for as many descriptors as are allowed, as root for those of 10,000 streams; returns how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        wanted = max(hard, _WANTED_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def key_set(suite: str, octets: bytes) -> KeySet:
    return KeySet(SUITES[suite], (MasterKey(Secret(octets)),))


def new_key(suite: str) -> bytes:
    return secrets.token_bytes(SUITES[suite].key_salt_length)


def cpu_seconds(*pids: int) -> float:
    """Processor time, user and system, that processes have used over all their threads."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Without the collector of garbage, which takes as long as a thousand packets."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Packets:
    """Prepared packets and the message headers that send them in batches.

    Packet `number` belongs to stream `number % streams` and is its `number // streams`-th one.
    """

    def __init__(
        self, streams: int, count: int, keys: tuple[str, Sequence[bytes]] | None, ssrc: int = ACCESS_SSRC
    ) -> None:
        self.streams, self.count = streams, count
        plain = np.empty((count, HEADER + PAYLOAD), np.uint8)
        plain[:, HEADER:] = np.frombuffer(secrets.token_bytes(PAYLOAD), np.uint8)
        header = plain[:, :HEADER].view(_RTP)[:, 0]
        turn = np.arange(count) // streams
        header["first"], header["type"], header["ssrc"] = 0x80, 8, ssrc + np.arange(count) % streams
        header["sequence"], header["time"] = turn & 0xFFFF, turn * 160 & 0xFFFFFFFF
        self._pool = plain if keys is None else _protected(plain, streams, *keys)
        self.size = int(self._pool.shape[1])
        self._names = np.zeros(streams, _NAME)
        self._vectors = np.zeros(count, _VECTOR)
        self._messages = np.zeros(count, _MESSAGE)
        numbers = np.arange(count, dtype=np.uint64)
        self._vectors["base"] = self._pool.ctypes.data + numbers * self.size
        self._vectors["size"] = self.size
        self._messages["name"] = self._names.ctypes.data + _NAME.itemsize * (numbers % streams)
        self._messages["name_size"] = _NAME.itemsize
        self._messages["vector"] = self._vectors.ctypes.data + _VECTOR.itemsize * numbers
        self._messages["vectors"] = 1
        self._address = self._messages.ctypes.data

    def aim(self, addresses: Sequence[Address]) -> None:
        """Send to these from now on, one a stream."""
        self._names["family"] = socket.AF_INET
        self._names["port"] = [port for _, port in addresses]
        self._names["host"] = [list(socket.inet_aton(host)) for host, _ in addresses]

    def at(self, number: int) -> object:
        return _ffi.cast("void *", self._address + number * _MESSAGE.itemsize)


def _protected(plain: np.ndarray, streams: int, suite: str, keys: Sequence[bytes]) -> np.ndarray:
    senders = [Session(key_set(suite, key), sender=True) for key in keys[:streams]]
    buffer = PacketBuffer(512)
    parts = []
    for number, packet in enumerate(plain):
        buffer.load(packet.tobytes())
        senders[number % streams].rtp(buffer.data, buffer.length)
        parts.append(buffer.packet())
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1)


class Sink:
    """Counts what arrives; with `stamps` it keeps SSRC, sequence number and the time the kernel had it (ns)."""

    def __init__(self, sock: socket.socket, *, stamps: bool = False) -> None:
        self._sock = sock
        self._descriptor = sock.fileno()
        self._refused: int | None = None
        """What the socket had refused when it was last asked, while it refuses everything."""
        self._pool = np.zeros((BATCH, 2048), np.uint8)
        self._control = np.zeros((BATCH, 64), np.uint8)
        self._vectors = np.zeros(BATCH, _VECTOR)
        self._messages = np.zeros(BATCH, _MESSAGE)
        numbers = np.arange(BATCH, dtype=np.uint64)
        self._vectors["base"] = self._pool.ctypes.data + numbers * 2048
        self._vectors["size"] = 2048
        self._messages["vector"] = self._vectors.ctypes.data + numbers * _VECTOR.itemsize
        self._messages["vectors"] = 1
        if stamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._messages["control"] = self._control.ctypes.data + numbers * 64
        self._stamps = stamps
        self._address = _ffi.cast("void *", self._messages.ctypes.data)
        self.arrivals: list[tuple[int, int, int]] = []

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Have the kernel count what arrives and drop it, which costs neither end more than a network would.

        Who reads every packet is slower than the quickest relays, and two cores that take turns at one queue slow down
        both. A filter refuses each packet (SO_ATTACH_FILTER), and the socket tells how many that were.
        """
        everything = ctypes.create_string_buffer(_REFUSE)
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(everything))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self.drain()  # what came before
        self._refused = overflow_of(self._sock)
        try:
            yield
        finally:
            self._refused = None
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def drain(self) -> int:
        """Take what is there; returns how many packets arrived since the last call."""
        if self._refused is not None:
            before, self._refused = self._refused, overflow_of(self._sock)
            return (self._refused - before) & 0xFFFFFFFF
        got = 0
        while True:
            if self._stamps:
                self._messages["control_size"] = 64
            count: int = _libc.recvmmsg(self._descriptor, self._address, BATCH, socket.MSG_DONTWAIT, _ffi.NULL)
            if count <= 0:
                return got
            if self._stamps:
                self._note(count)
            got += count
            if count < BATCH:
                return got

    def _note(self, count: int) -> None:
        for number in range(count):
            sequence, _, ssrc = struct.unpack_from("!HII", self._pool[number], 2)
            seconds, nanoseconds = struct.unpack_from("qq", self._control[number], 16)
            self.arrivals.append((ssrc, sequence, seconds * 1_000_000_000 + nanoseconds))

    def size(self) -> int:
        """Octets of the first packet of the last batch."""
        return int(self._messages["size"][0])


@dataclass
class Offered:
    """How an open loop went: packets, the share of a turn that was under way at its end, and who was late."""

    sent: int
    received: int
    backlog_s: float
    """What was still under way when the last packet left, in time of the flow."""
    late_s: float
    """The most the generator was behind its own schedule."""

    @property
    def lost(self) -> int:
        return max(0, self.sent - self.received)

    @property
    def carried(self) -> bool:
        """Nothing lost, and no queue that grows: at the end hardly anything is under way."""
        return self.lost == 0 and self.backlog_s < MOST_BACKLOG_S


@dataclass
class Generator:
    """Both peers of every stream: `source` is that of the access side, `target` that of the core side."""

    stamps: bool = False
    source: socket.socket = field(init=False)
    target: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.source, self.target = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.source, self.target):
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE)
                sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _QUEUE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE)
            sock.bind((HOST, 0))
        room = self.target.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.most = room // _OF_A_PACKET
        """Packets that may wait for the generator."""
        self.sink, self.return_sink = (Sink(sock, stamps=self.stamps) for sock in (self.target, self.source))

    def close(self) -> None:
        self.source.close()
        self.target.close()

    def run(
        self,
        packets: Packets,
        seconds: float,
        *,
        start: int = 0,
        stop: int | None = None,
        window: int = 4,
        reads: bool = False,
    ) -> tuple[float, float, int]:
        """Keep `window` packets a stream under way from `source` to `target`, which counts what comes or `reads` it.

        Returns packets a second, the share that was lost, and the number of the next packet.
        """
        stop = packets.count if stop is None else min(stop, packets.count)
        with contextlib.nullcontext() if reads else self.sink.refusing():
            return self._run(packets, seconds, start, stop, window)

    def _run(self, packets: Packets, seconds: float, start: int, stop: int, window: int) -> tuple[float, float, int]:
        width = min(max(BATCH, window * packets.streams), self.most)
        batch = BATCH if packets.streams > 1 else width  # one stream: its queue must run empty, or rtpengine drops it
        sent, received, lost = start, 0, 0
        descriptor, sink = self.source.fileno(), self.sink
        sink.drain()
        begin = heard = time.perf_counter()
        while sent < stop:
            got = sink.drain()
            now = time.perf_counter()
            if got:
                received += got
                heard = now
            if now - begin >= seconds:
                break
            under_way = sent - start - received - lost
            if width - under_way >= batch:
                count = _libc.sendmmsg(descriptor, packets.at(sent), min(batch, stop - sent), 0)
                if count > 0:
                    sent += count
            elif now - heard > _STALL_S:  # what did not come by now will not come
                lost += under_way
                heard = now
        rate = received / (time.perf_counter() - begin)
        received += self._settle((sink,), sent - start - received)
        return rate, max(0.0, (sent - start - received) / max(1, sent - start)), sent

    @staticmethod
    def _settle(sinks: Sequence[Sink], missing: int) -> int:
        """Wait for what is still under way; returns how much of it came."""
        got, heard = 0, time.perf_counter()
        while got < missing and time.perf_counter() - heard < _PATIENCE_S:
            if more := sum(sink.drain() for sink in sinks):
                got += more
                heard = time.perf_counter()
        return got

    def offer(self, both: tuple[Packets, Packets], calls: int, turns: range) -> Offered:
        """Send the packets of `turns` of the first `calls` calls, both ways, evenly, 20 ms a turn, come what may."""
        sinks = self.sink, self.return_sink
        ways = [(sock.fileno(), packets) for sock, packets in zip((self.source, self.target), both, strict=True)]
        each = [turns.start * calls] * 2
        received, late, end = 0, 0.0, turns.stop * calls
        for sink in sinks:
            sink.drain()
        begin = time.perf_counter() - turns.start * PTIME_S
        while min(each) < end:
            due = min(end, int((time.perf_counter() - begin) * calls / PTIME_S))
            late = max(late, (due - min(each)) * PTIME_S / calls)
            for way, (descriptor, packets) in enumerate(ways):
                turn, place = divmod(each[way], calls)
                count = min(due - each[way], calls - place, BATCH)
                if count > 0:
                    at = packets.at(turn * packets.streams + place)
                    each[way] += max(0, _libc.sendmmsg(descriptor, at, count, 0))
            received += sum(sink.drain() for sink in sinks)
        begun = 2 * turns.start * calls
        under_way = sum(each) - begun - received
        sent = sum(each) - begun
        received += self._settle(sinks, sent - received)
        return Offered(sent, received, under_way * PTIME_S / (2 * calls), late)

    @staticmethod
    def send(sock: socket.socket, packets: Packets, first: int, count: int) -> int:
        """Send prepared packets at once; returns how many left."""
        return int(_libc.sendmmsg(sock.fileno(), packets.at(first), count, 0))

    def send_at(self, both: tuple[Packets, Packets], schedule: Sequence[tuple[float, int, int]]) -> list[int]:
        """Send single packets, each (seconds from now, way, number) of a schedule; returns when each left, in ns."""
        descriptors = self.source.fileno(), self.target.fileno()
        send, clock, wall = _libc.sendmmsg, time.perf_counter, time.clock_gettime_ns
        left = []
        sinks = self.sink, self.return_sink
        begin = clock() + 0.001
        for seconds, way, number in schedule:
            message = both[way].at(number)
            while (remaining := begin + seconds - clock()) > 0:
                if remaining > 100e-6:
                    for sink in sinks:
                        sink.drain()
            left.append(wall(time.CLOCK_REALTIME))
            send(descriptors[way], message, 1, 0)
        time.sleep(0.1)
        for sink in sinks:
            sink.drain()
        return left


def cores() -> tuple[int, int | None]:
    """The core of the generator and that of the engine under test; None where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1] if len(allowed) > 1 else None
