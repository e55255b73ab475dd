"""Good calls at the real packet loop, and hostile packets as fast as this machine sends them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.datagrams import MOST, Address, Outbox
from media.relay import (
    DropCause,
    KeySet,
    Latching,
    Mode,
    Protection,
    RelayProcess,
    RelayStatistics,
    Side,
    SideConfig,
    StreamConfig,
)
from media.relay.interface import MAX_DATAGRAM
from media.relay.libsrtp import OK, PacketBuffer, Session
from tests.relay.ends import HOST, SUITE, keys, rtp, udp

PACE_S = 0.02
"""Between two packets of a direction."""
LATE_S = 0.1
PAYLOAD = bytes(range(160))
LATER = 20_000
"""Sequence numbers from here on are never reached by a good call."""
SO_RCVBUFFORCE = 33


def roomy(host: str = HOST) -> socket.socket:
    """A socket at which nothing is lost because a test was slow to look."""
    sock = udp(host)
    option = SO_RCVBUFFORCE if os.geteuid() == 0 else socket.SO_RCVBUF
    sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    return sock


def transformed(session: Session, packets: Iterable[bytes]) -> list[bytes]:
    """Packets as a session of libsrtp makes them of others; each must pass."""
    buffer = PacketBuffer(MAX_DATAGRAM)
    made = []
    for packet in packets:
        buffer.load(packet)
        assert session.rtp(buffer.data, buffer.length) == OK
        made.append(buffer.packet())
    return made


@dataclass
class Call:
    """SRTP between phone and relay, plain RTP between relay and far end; both ends talk."""

    number: int
    receive: KeySet = field(default_factory=lambda: keys(SUITE), repr=False)
    send: KeySet = field(default_factory=lambda: keys(SUITE), repr=False)
    phone: socket.socket = field(default_factory=roomy)
    far: socket.socket = field(default_factory=roomy)
    local: dict[Side, Address] = field(default_factory=dict)
    rtcp: dict[Side, Address] = field(default_factory=dict)
    from_phone: list[bytes] = field(default_factory=list, repr=False)
    from_far: list[bytes] = field(default_factory=list, repr=False)
    at_phone: list[bytes] = field(default_factory=list, repr=False)
    at_far: list[bytes] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        return f"call-{self.number}"

    @property
    def ssrc(self) -> int:
        return 0x600D0000 + self.number

    def sides(self) -> StreamConfig:
        access = SideConfig(
            HOST,
            Protection.SRTP,
            remote=self.phone.getsockname(),
            mode=Mode.SENDRECV,
            latching=Latching.LATCH,
            receive=self.receive,
            send=self.send,
        )
        core = SideConfig(HOST, Protection.RTP, remote=self.far.getsockname(), mode=Mode.SENDRECV)
        return StreamConfig(self.name, {Side.ACCESS: access, Side.CORE: core})

    def prepare(self, count: int) -> None:
        """What both ends will say, and what an attacker on the path may know of it: a packet of later, well protected."""
        self.plain_from_phone = [rtp(sequence, self.ssrc, PAYLOAD) for sequence in range(count)]
        sender = Session(self.receive, sender=True)
        self.from_phone = transformed(sender, self.plain_from_phone)
        self.from_far = [rtp(sequence, self.ssrc + 0x1000, PAYLOAD) for sequence in range(count)]
        (self.unsent,) = transformed(Session(self.receive, sender=True), [rtp(LATER, self.ssrc, PAYLOAD)])

    def say(self, number: int) -> None:
        self.phone.sendto(self.from_phone[number], self.local[Side.ACCESS])
        self.far.sendto(self.from_far[number], self.local[Side.CORE])

    def hear(self) -> None:
        """Take what arrived at both ends."""
        for sock, into in ((self.phone, self.at_phone), (self.far, self.at_far)):
            with contextlib.suppress(BlockingIOError):
                while True:
                    into.append(sock.recv(65535))

    def check(self, count: int) -> None:
        """Both ends heard the first `count` packets of the other, in order, and nothing else."""
        assert self.at_far == self.plain_from_phone[:count], self._what_is_wrong(self.at_far, count)
        heard = transformed(Session(self.send, sender=False), self.at_phone)
        assert heard == self.from_far[:count], self._what_is_wrong(heard, count)

    def _what_is_wrong(self, heard: list[bytes], count: int) -> str:
        numbers = [int.from_bytes(packet[2:4], "big") for packet in heard]
        missing = sorted(set(range(count)) - set(numbers))
        more = [
            (at, heard[at].hex()[:80]) for at, number in enumerate(numbers) if number >= count or number in numbers[:at]
        ]
        return f"{self.name}: {len(heard)} of {count} heard, missing {missing[:20]}, one too many {more[:5]}"

    def close(self) -> None:
        self.phone.close()
        self.far.close()


class Calls:
    """Calls at one packet loop."""

    def __init__(self, relay: RelayProcess, calls: Sequence[Call]) -> None:
        self.relay = relay
        self.calls = calls
        self.said = 0
        """Packets each end has sent."""
        self.latest_s = 0.0
        """How late the talkers were at worst: what they did not send nobody can lose."""

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, relay: RelayProcess, count: int, packets: int, first: int = 0) -> AsyncIterator[Calls]:
        """Calls whose ends can say so many packets each."""
        calls = [Call(number) for number in range(first, first + count)]
        try:
            for call in calls:
                call.prepare(packets)
                local = await relay.add(call.sides())
                for side, at in local.items():
                    call.local[side], call.rtcp[side] = (at.ip, at.port), (at.ip, at.rtcp_port)
            yield cls(relay, calls)
        finally:
            for call in calls:
                call.close()

    def talk(self, packets: int) -> None:
        """Every end says `packets` more, one each 20 ms, spread over them; blocks until then."""
        begin = time.monotonic()
        parts = [self.calls[at::10] for at in range(10)]
        for turn in range(packets):
            for number, part in enumerate(parts):
                due = begin + (turn + number / len(parts)) * PACE_S
                left = due - time.monotonic()
                if left > 0:
                    time.sleep(left)
                else:
                    self.latest_s = max(self.latest_s, -left)
                    if -left > LATE_S:  # somebody took this core: a talker that stopped goes on, it does not catch up
                        begin -= left
                for call in part:
                    call.say(self.said)
                    call.hear()
            self.said += 1

    def hear_all(self, seconds: float = 10.0) -> None:
        """Take what is still on its way."""
        until = time.monotonic() + seconds
        while any(min(len(call.at_phone), len(call.at_far)) < self.said for call in self.calls):
            if time.monotonic() > until:
                return
            time.sleep(0.01)
            for call in self.calls:
                call.hear()

    def check(self) -> None:
        for call in self.calls:
            call.check(self.said)

    async def statistics(self) -> list[RelayStatistics]:
        return await self.relay.statistics([call.name for call in self.calls])

    def ports(self) -> set[int]:
        """Every port of the relay that these calls have."""
        return {at[1] for call in self.calls for at in (*call.local.values(), *call.rtcp.values())}


def too_long_a_header(packet: bytes) -> bytes:
    """The same with 15 CSRCs and a header extension that is longer than the packet (RFC 3550 5.3.1)."""
    length = 12 + 15 * 4 + 2
    return b"\x9f" + packet[1:length] + b"\xff\xff" + packet[length + 2 :]


def hostile(call: Call) -> dict[str, bytes]:
    """One packet of each kind, for the access side of a call; none may pass."""
    flipped = bytearray(call.unsent)
    flipped[12 + call.number % (len(flipped) - 12)] ^= 0x10
    stranger = Session(keys(SUITE), sender=True)
    (foreign,) = transformed(stranger, [rtp(LATER, 0xBAD00000 + call.number, PAYLOAD)])
    return {
        "forged": bytes(flipped),
        "replayed": call.from_phone[0],
        "truncated": call.unsent[:60],
        "cut short": call.unsent[:11],
        "empty": b"",
        "oversized": call.unsent + bytes(MAX_DATAGRAM),
        "large": call.unsent + bytes(2000),
        "wrong SSRC": foreign,
        "header too long": too_long_a_header(call.unsent),
        "RTCP": bytes([0x80, 201]) + call.unsent[2:],
        "STUN": bytes.fromhex("000100002112a442") + secrets.token_bytes(12),
        "DTLS": bytes.fromhex("16fefd00000000000000000000") + secrets.token_bytes(60),
        "garbage": b"\xff" + secrets.token_bytes(99),
    }


def hostile_to_core(call: Call) -> dict[str, bytes]:
    """The same for the core side, where nothing proves itself: what the peer's own address may not bring either."""
    made = hostile(call)
    kinds = ("cut short", "empty", "header too long", "RTCP", "STUN", "DTLS", "garbage")
    return {**{kind: made[kind] for kind in kinds}, "oversized": call.from_far[0] + bytes(MAX_DATAGRAM)}


class Flood:
    """Sends the same datagrams over and over, as fast as it goes, from a thread, until the block ends."""

    def __init__(self, datagrams: Sequence[tuple[bytes, Address]], sockets: Sequence[socket.socket]) -> None:
        self._outbox = Outbox(datagrams)
        self._sockets = sockets
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.seconds = 0.0

    def _run(self) -> None:
        begin, turn, at = time.monotonic(), 0, 0
        while not self._stop.is_set():
            done = self._outbox.send(self._sockets[turn % len(self._sockets)], at, MOST)
            self.sent += done
            at = (at + done) % self._outbox.count
            turn += 1
        self.seconds = time.monotonic() - begin

    @contextlib.contextmanager
    def running(self) -> Iterator[Flood]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


@dataclass(frozen=True)
class Queues:
    """What the kernel says of UDP ports."""

    waiting: int
    """Octets that nobody read yet."""
    lost: int
    """Packets that found a queue full."""


def queues(ports: set[int]) -> Queues:
    """Look at every socket of these ports on IPv4 (proc(5), /proc/net/udp)."""
    waiting = lost = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) in ports:
            waiting += int(fields[4].partition(":")[2], 16)
            lost += int(fields[12])
    return Queues(waiting, lost)


def lost_before_any_queue() -> int:
    """Packets of this machine, since it started, that a core had no room for (/proc/net/softnet_stat)."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


@dataclass
class Footprint:
    """Memory and descriptors of a process, at the start and at most."""

    pid: int
    first_kb: int = 0
    most_kb: int = 0
    first_descriptors: int = 0
    most_descriptors: int = 0

    def look(self) -> None:
        status = Path(f"/proc/{self.pid}/status").read_text()
        memory = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
        descriptors = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        self.first_kb = self.first_kb or memory
        self.first_descriptors = self.first_descriptors or descriptors
        self.most_kb = max(self.most_kb, memory)
        self.most_descriptors = max(self.most_descriptors, descriptors)

    @property
    def grown_kb(self) -> int:
        return self.most_kb - self.first_kb


def drops(statistics: Iterable[RelayStatistics], side: Side | None = None) -> Counter[DropCause]:
    """Drops by cause over streams."""
    total: Counter[DropCause] = Counter()
    for stream in statistics:
        for name, counters in stream.sides.items():
            if side in (None, name):
                total.update(counters.drops)
    return total


def taken(statistics: Iterable[RelayStatistics]) -> int:
    """Packets that the relay counted as having come."""
    return sum(each.packets_in + each.rtcp_in for stream in statistics for each in stream.sides.values())


def assert_balance(statistics: Iterable[RelayStatistics]) -> None:
    """in = out + drops, for each direction of each stream."""
    for stream in statistics:
        for name, mine in stream.sides.items():
            other = stream.sides[name.other]
            came, left = mine.packets_in + mine.rtcp_in, other.packets_out + other.rtcp_out
            assert came == left + mine.dropped, (stream.stream_id, name, came, left, mine.drops)


QUEUE_FULL = next((cause for cause in DropCause if cause == "queue_full"), None)
"""Where the relay itself tells what its sockets had no room for, those count among what came."""


def accounted(statistics: Sequence[RelayStatistics], lost: int) -> int:
    """Packets of which it is known what became of them: taken, or lost by the kernel at a full queue."""
    if QUEUE_FULL is None:
        return taken(statistics) + lost
    return taken(statistics)
