#!/usr/bin/env python3
"""The media relay under load for as long as told: calls come and go all the time, nothing may be lost and nothing grow.

    bench/soak.py [--seconds S] [--packets-per-second P | --share 0.5] [--streams N] [--hold S] [--json FILE]

Without --packets-per-second the load is a share of what the relay carried at its fastest just before. Each call is SRTP
on one side and RTP on the other, both ends talk, each says a packet again now and then (a replay, which the relay must
drop), and some calls stay from the first to the last moment and change keys all the time. Ends with 1, and says why,
when a packet is lost, when what a stream counted is not what was sent, or when memory or descriptors grow. Where it is
permitted (root) it goes to a network of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import os
import random
import socket
import statistics
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.datagrams import MOST, Address, Inbox, Outbox
from bench.relay_traffic import own_network
from keying.secret import Secret
from keying.suites import SUITES
from media.relay import (
    DropCause,
    KeySet,
    MasterKey,
    Mode,
    Protection,
    RelayProcess,
    RelayStatistics,
    Side,
    SideConfig,
    StreamConfig,
)
from media.relay.libsrtp import OK, PacketBuffer, Session

HOST = "127.0.0.1"
SUITE = "AES_CM_128_HMAC_SHA1_80"
PACE_S = 0.02
TOGETHER = 50
"""Calls that come, talk in turn and go together."""
REPLAY_EVERY = 50
"""Turns after which every phone says an old packet again."""
STEADY = 4
"""Calls that stay."""
REKEY_S = 3.0
QUIET_S = 5.0
"""How long a packet may be under way."""
LATE_S = 0.1
_DESCRIPTORS_OF_A_CALL = 6
"""On each side two sockets for RTP and one for RTCP, which has no peer that is settled."""
_DESCRIPTORS_TO_SPARE = 64
LOOK_S = 0.5
GROWTH_KB = 4096
"""What a process may grow once every place was taken twice: pages of the allocator, no leak."""
SO_RCVBUFFORCE = 33
PAYLOAD = bytes(range(160))


def new_keys() -> KeySet:
    return KeySet(SUITES[SUITE], (MasterKey(Secret.random(SUITES[SUITE].key_salt_length)),))


def rtp(sequence: int, ssrc: int) -> bytes:
    return struct.pack("!BBHII", 0x80, 8, sequence % 65536, sequence * 160 % (1 << 32), ssrc) + PAYLOAD


def place() -> socket.socket:
    """A socket with room for what comes while the generator is kept waiting."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE if os.geteuid() == 0 else socket.SO_RCVBUF, 16 << 20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    sock.bind((HOST, 0))
    sock.settimeout(0.0)
    return sock


def full_queues(ports: set[int]) -> int:
    """Packets for which a socket of these ports had no room."""
    lost = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) in ports:
            lost += int(fields[12])
    return lost


class Cohort:
    """Calls that come, talk in turn and go together; what they say is prepared once for every time they come."""

    def __init__(self, number: int, size: int, turns: int) -> None:
        self.number, self.size, self.turns = number, size, turns
        self.ssrcs = [(number * size + each) << 1 for each in range(size)]
        self.receive = [new_keys() for _ in range(size)]
        self.times = 0
        self.turn = 0
        self.names: list[str] = []
        self.ports: set[int] = set()
        self.checks: dict[int, Session] = {}
        self.done: asyncio.Future[None] | None = None
        self.replays = (turns - 1) // REPLAY_EVERY
        senders = [Session(keys, sender=True) for keys in self.receive]
        buffer, said = PacketBuffer(512), [[] for _ in range(size)]
        from_phone, from_far = [], []
        nowhere = [(HOST, 1 + each) for each in range(size)]
        self.starts = []
        for turn in range(turns):
            self.starts.append(len(from_phone))
            for each in range(size):
                buffer.load(rtp(turn, self.ssrcs[each]))
                if senders[each].rtp(buffer.data, buffer.length) != OK:
                    raise RuntimeError("a packet could not be protected")
                packet = buffer.packet()
                said[each].append(packet)
                from_phone.append((packet, nowhere[each]))
                from_far.append((rtp(turn, self.ssrcs[each] + 1), nowhere[each]))
            if turn and turn % REPLAY_EVERY == 0:
                from_phone += [(said[each][turn - REPLAY_EVERY // 2], nowhere[each]) for each in range(size)]
        self.starts.append(len(from_phone))
        self.from_phone, self.from_far = Outbox(from_phone), Outbox(from_far)

    def config(self, each: int, phones: Address, fars: Address, send: KeySet) -> StreamConfig:
        access = SideConfig(
            HOST, Protection.SRTP, remote=phones, mode=Mode.SENDRECV, receive=self.receive[each], send=send
        )
        core = SideConfig(HOST, Protection.RTP, remote=fars, mode=Mode.SENDRECV)
        return StreamConfig(self.names[each], {Side.ACCESS: access, Side.CORE: core})

    async def come(self, relay: RelayProcess, phones: Address, fars: Address) -> None:
        """Open the calls at the relay."""
        self.times += 1
        self.turn = 0
        self.names = [f"soak-{self.number}-{each}-{self.times}" for each in range(self.size)]
        keys = [new_keys() for _ in range(self.size)]
        configs = [self.config(each, phones, fars, send) for each, send in enumerate(keys)]
        locals_ = await asyncio.gather(*(relay.add(config) for config in configs))
        access, core = ([(local[side].ip, local[side].port) for local in locals_] for side in Side)
        self.checks = {ssrc + 1: Session(send, sender=False) for ssrc, send in zip(self.ssrcs, keys, strict=True)}
        self.from_phone.aim(access)
        self.from_far.aim(core)
        self.ports = {port for _, port in (*access, *core)}

    async def go(self, relay: RelayProcess) -> list[RelayStatistics]:
        """Close the calls; returns what the relay counted."""
        return list(await asyncio.gather(*(relay.remove(name) for name in self.names)))

    def faults(self, counted: Sequence[RelayStatistics], lost: int) -> list[str]:
        """What of the counters is not as it was sent."""
        found = []
        for stream in counted:
            access, core = stream.sides[Side.ACCESS], stream.sides[Side.CORE]
            due = (self.turns + self.replays, self.turns, self.turns, self.turns)
            if (access.packets_in, core.packets_out, core.packets_in, access.packets_out) != due:
                found.append(f"{stream.stream_id}: {due} were due, {access}, {core}; {lost} at full queues")
            elif dict(access.drops) != ({DropCause.REPLAYED: self.replays} if self.replays else {}) or core.drops:
                found.append(
                    f"{stream.stream_id}: {self.replays} replays, drops {dict(access.drops)} {dict(core.drops)}"
                )
        return found


class Steady:
    """A call that stays, and changes keys."""

    def __init__(self, number: int) -> None:
        self.name = f"soak-steady-{number}"
        self.ssrc = 0x5EAD0000 + 2 * number
        self.receive, self.send = new_keys(), new_keys()
        self.sender = Session(self.receive, sender=True)
        self.buffer = PacketBuffer(512)
        self.said = 0
        self.lock = threading.Lock()
        self.local: dict[Side, Address] = {}

    async def come(self, relay: RelayProcess, phones: Address, fars: Address) -> None:
        access = SideConfig(
            HOST, Protection.SRTP, remote=phones, mode=Mode.SENDRECV, receive=self.receive, send=self.send
        )
        core = SideConfig(HOST, Protection.RTP, remote=fars, mode=Mode.SENDRECV)
        local = await relay.add(StreamConfig(self.name, {Side.ACCESS: access, Side.CORE: core}))
        self.local = {side: (at.ip, at.port) for side, at in local.items()}

    def say(self, phones: socket.socket, fars: socket.socket) -> None:
        with self.lock:
            self.buffer.load(rtp(self.said, self.ssrc))
            if self.sender.rtp(self.buffer.data, self.buffer.length) != OK:
                raise RuntimeError("a packet could not be protected")
            phones.sendto(self.buffer.packet(), self.local[Side.ACCESS])
            fars.sendto(rtp(self.said, self.ssrc + 1), self.local[Side.CORE])
            self.said += 1

    async def rekey(self, relay: RelayProcess) -> None:
        receive, send = new_keys(), new_keys()
        await relay.rekey(self.name, Side.ACCESS, receive=receive, send=send)
        with self.lock:
            self.sender.update(receive)
        self.receive, self.send = receive, send

    def faults(self, counted: RelayStatistics) -> list[str]:
        access, core = counted.sides[Side.ACCESS], counted.sides[Side.CORE]
        seen = (access.packets_in, core.packets_out, core.packets_in, access.packets_out)
        if set(seen) != {self.said} or access.drops or core.drops:
            return [f"{self.name}: {self.said} were sent each way, {seen}, {dict(access.drops)}, {dict(core.drops)}"]
        return []


@dataclass
class Pump:
    """Sends what is due and counts what arrives, in a thread of its own."""

    phones: socket.socket = field(default_factory=place)
    fars: socket.socket = field(default_factory=place)
    steady: list[Steady] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sent: int = 0
    replays: int = 0
    heard: int = 0
    looked_at: int = 0
    latest_s: float = 0.0

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._new: deque[Cohort] = deque()
        self._present: dict[int, Cohort] = {}
        self._stop = threading.Event()
        self._inbox = Inbox()
        self._buffer = PacketBuffer(2048)
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    async def talk(self, cohort: Cohort) -> None:
        """Until every turn of a cohort was taken."""
        cohort.done = self._loop.create_future()
        self._new.append(cohort)
        await cohort.done

    def _run(self) -> None:
        due: list[tuple[float, int, Cohort | None]] = [(time.monotonic(), 0, None)]
        order = itertools.count(1)
        while not self._stop.is_set():
            now = time.monotonic()
            while self._new:
                cohort = self._new.popleft()
                for ssrc in cohort.checks:
                    self._present[ssrc] = cohort
                heapq.heappush(due, (now + random.random() * PACE_S, next(order), cohort))
            while due and due[0][0] <= now:
                at, _, cohort = heapq.heappop(due)
                self.latest_s = max(self.latest_s, now - at)
                if now - at > LATE_S:  # somebody took this core: no burst to make up for it
                    at = now
                if cohort is None:
                    for call in self.steady:
                        call.say(self.phones, self.fars)
                    self.sent += 2 * len(self.steady)
                elif not self._turn(cohort):
                    continue
                heapq.heappush(due, (at + PACE_S, next(order), cohort))
            self._hear()
            time.sleep(max(0.0, min(0.001, due[0][0] - time.monotonic())))
        self._hear()

    def _turn(self, cohort: Cohort) -> bool:
        size, turn = cohort.size, cohort.turn
        self._send(cohort.from_phone, self.phones, cohort.starts[turn], cohort.starts[turn + 1])
        self._send(cohort.from_far, self.fars, turn * size, (turn + 1) * size)
        self.sent += cohort.starts[turn + 1] - cohort.starts[turn] + size
        self.replays += cohort.starts[turn + 1] - cohort.starts[turn] - size
        cohort.turn += 1
        if cohort.turn < cohort.turns:
            return True
        assert cohort.done is not None
        self._loop.call_soon_threadsafe(cohort.done.set_result, None)
        return False

    @staticmethod
    def _send(outbox: Outbox, sock: socket.socket, first: int, end: int) -> None:
        while first < end:
            first += outbox.send(sock, first, end - first)

    def _hear(self) -> None:
        for sock, protected in ((self.phones, True), (self.fars, False)):
            while count := self._inbox.batch(sock):
                self.heard += count
                self._look(self._inbox.octets(0), protected=protected)
                if count < MOST:
                    break

    def _look(self, packet: bytes, *, protected: bool) -> None:
        """One of each batch must be the very packet that the other end said."""
        sequence, ssrc = struct.unpack_from("!HxxxxI", packet, 2)
        if protected:
            cohort = self._present.get(ssrc)
            if cohort is None:
                return  # of a call that changes keys
            self._buffer.load(packet)
            session = cohort.checks[ssrc]
            status = session.rtp(self._buffer.data, self._buffer.length)
            packet = self._buffer.packet() if status == OK else b""
        plain = rtp(sequence, ssrc)
        if (packet[:4], packet[8:]) != (plain[:4], plain[8:]):
            self.faults.append(f"a packet arrived otherwise than it was sent: SSRC {ssrc:#x}, {sequence}")
        self.looked_at += 1


@dataclass
class Footprint:
    """Memory and descriptors of a process over time."""

    pid: int
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    def look(self) -> tuple[int, int]:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") // 1024
        descriptors = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        self.samples.append((time.monotonic(), memory, descriptors))
        return memory, descriptors

    def growth(self, since: float) -> tuple[int, int]:
        """kB and descriptors by which the last quarter since then exceeds the first."""
        late = [sample for sample in self.samples if sample[0] >= since]
        quarter = max(1, len(late) // 4)
        first, last = late[:quarter], late[-quarter:]
        return (
            round(statistics.median(each[1] for each in last) - statistics.median(each[1] for each in first)),
            max(each[2] for each in last) - max(each[2] for each in first),
        )


def fastest(cohorts: Sequence[Cohort], pump: Pump) -> float:
    """Packets a second that go through at most: a fixed number under way, over calls that have come."""
    inbox, sent, heard, window = Inbox(), 0, 0, 4 * sum(cohort.size for cohort in cohorts)
    begin = time.monotonic()
    for turn in range(min(cohort.turns for cohort in cohorts)):
        for cohort in cohorts:
            size = cohort.size
            while sent - heard > window:
                got = inbox.batch(pump.phones) + inbox.batch(pump.fars)
                heard += got
                if time.monotonic() - begin > 60:
                    raise RuntimeError("packets were lost while the fastest was measured")
            pump._send(cohort.from_phone, pump.phones, cohort.starts[turn], cohort.starts[turn] + size)
            pump._send(cohort.from_far, pump.fars, turn * size, (turn + 1) * size)
            sent += 2 * size
    while heard < sent and time.monotonic() - begin < 60:
        heard += inbox.batch(pump.phones) + inbox.batch(pump.fars)
    return heard / (time.monotonic() - begin)


async def measure(
    relay: RelayProcess, cohorts: Sequence[Cohort], pump: Pump, addresses: tuple[Address, Address]
) -> float:
    """What the relay carries at most, in packets a second."""
    rates = []
    for _ in range(3):
        for cohort in cohorts:
            await cohort.come(relay, *addresses)
        rates.append(await asyncio.to_thread(fastest, cohorts, pump))
        for cohort in cohorts:
            await cohort.go(relay)
    return statistics.median(rates)


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, relay: RelayProcess, pump: Pump) -> None:
        self.options, self.relay, self.pump = options, relay, pump
        self.addresses = pump.phones.getsockname(), pump.fars.getsockname()
        self.faults = pump.faults
        self.calls = 0
        self.rekeys = 0
        self.slots = 0
        self.taken: Counter[int] = Counter()
        self.warm = 0.0
        """When every place had been taken twice."""
        self.footprint = Footprint(relay.pid)
        self.own = Footprint(os.getpid())

    async def _slot(self, cohort: Cohort, delay: float, until: float) -> None:
        await asyncio.sleep(delay)
        while time.monotonic() < until and not self.faults:
            await cohort.come(self.relay, *self.addresses)
            await self.pump.talk(cohort)
            due = cohort.size * (2 * cohort.turns + cohort.replays)
            deadline = time.monotonic() + QUIET_S
            while time.monotonic() < deadline:
                counted = await self.relay.statistics(cohort.names)
                if sum(side.packets_in for stream in counted for side in stream.sides.values()) >= due:
                    break
                await asyncio.sleep(0.05)
            lost = full_queues(cohort.ports)
            self.faults += cohort.faults(await cohort.go(self.relay), lost)
            self.calls += cohort.size
            self.taken[cohort.number] += 1
            if len(self.taken) == self.slots and min(self.taken.values()) >= 2:
                self.warm = self.warm or time.monotonic()

    async def _rekey(self, steady: Steady) -> None:
        while True:
            await asyncio.sleep(REKEY_S * (0.5 + random.random()))
            await steady.rekey(self.relay)
            self.rekeys += 1

    async def _watch(self) -> None:
        while True:
            self.footprint.look()
            self.own.look()
            await asyncio.sleep(LOOK_S)

    async def run(self, cohorts: Sequence[Cohort]) -> dict[str, object]:
        """Play until the time is over; returns what there is to say."""
        pump, options = self.pump, self.options
        empty = self.footprint.look()[1]
        self.footprint.samples.clear()
        for steady in pump.steady:
            await steady.come(self.relay, *self.addresses)
        begin, self.slots = time.monotonic(), len(cohorts)
        until = begin + options.seconds
        pump.start()
        background = [
            asyncio.ensure_future(self._watch()),
            *(asyncio.ensure_future(self._rekey(each)) for each in pump.steady),
        ]
        try:
            spread = options.hold / len(cohorts)
            await asyncio.gather(*(self._slot(cohort, number * spread, until) for number, cohort in enumerate(cohorts)))
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            elapsed = time.monotonic() - begin
            await asyncio.sleep(0.2)
            pump.stop()
        self._end(until, empty)
        for steady in pump.steady:
            self.faults += steady.faults(await self.relay.remove(steady.name))
        left = self.footprint.look()[1]
        if left != empty:
            self.faults.append(f"{left} descriptors without a call, {empty} before the first")
        growth = self.footprint.growth(self.warm)
        return {
            "loop": self.relay.loop,
            "seconds": round(elapsed, 1),
            "calls": self.calls,
            "key_changes": self.rekeys,
            "packets": pump.sent,
            "packets_per_s": round(pump.sent / elapsed),
            "lost": pump.sent - pump.replays - pump.heard,
            "replays_dropped": pump.replays,
            "looked_at": pump.looked_at,
            "memory_kb": self.footprint.samples[-1][1],
            "memory_growth_kb": growth[0],
            "descriptor_growth": growth[1],
            "latest_s": round(pump.latest_s, 3),
            "faults": self.faults[:20],
        }

    def _end(self, until: float, empty: int) -> None:
        pump = self.pump
        lost = pump.sent - pump.replays - pump.heard
        if lost:
            own = full_queues({address[1] for address in self.addresses})
            self.faults.append(f"{lost} packets lost, of them {own} by the generator's own queues")
        whole = Footprint(self.footprint.pid, [each for each in self.footprint.samples if each[0] <= until])
        memory, _ = whole.growth(self.warm)
        most = empty + _DESCRIPTORS_OF_A_CALL * (TOGETHER * (self.slots + 1) + STEADY) + _DESCRIPTORS_TO_SPARE
        descriptors = max(each[2] for each in self.footprint.samples)
        if not self.warm:
            self.faults.append("too short: not every place was taken twice")
        elif memory > GROWTH_KB:
            self.faults.append(f"the packet loop grew by {memory} kB")
        if descriptors > most:
            self.faults.append(f"the packet loop had {descriptors} descriptors, with as many calls {most} at most")


async def soak(options: argparse.Namespace) -> dict[str, object]:
    relay = await RelayProcess.start()
    pump = Pump()
    try:
        run = Soak(options, relay, pump)
        rate, capacity = options.packets_per_second, None
        turns = max(REPLAY_EVERY // 2 + 1, round(options.hold / PACE_S))
        first = [Cohort(number, TOGETHER, turns) for number in range(2)]
        if rate is None:
            capacity = await measure(relay, first, pump, run.addresses)
            rate = capacity * options.share
        streams = options.streams or max(TOGETHER, round(rate * PACE_S / 2))
        cohorts = [*first, *(Cohort(number, TOGETHER, turns) for number in range(2, round(streams / TOGETHER)))]
        cohorts = cohorts[: max(1, round(streams / TOGETHER))]
        pump.steady = [Steady(number) for number in range(STEADY)]
        said = "" if capacity is None else f" ({options.share:.0%} of {capacity:.0f})"
        print(
            f"{len(cohorts) * TOGETHER} calls at a time, {rate:.0f} packets/s{said}, {options.seconds:.0f} s",
            flush=True,
        )
        found = await run.run(cohorts)
        return {"capacity_per_s": capacity and round(capacity), **found}
    finally:
        await relay.close()
        pump.phones.close()
        pump.fars.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--packets-per-second", type=float, help="load over both directions, instead of --share")
    parser.add_argument("--share", type=float, default=0.5, help="load as a share of the fastest that was measured")
    parser.add_argument("--streams", type=int, help="calls at a time; default: what makes the load at 50 packets/s")
    parser.add_argument("--hold", type=float, default=10.0, help="seconds a call lasts")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    own_network()  # else what others send to a port that was theirs before counts as a fault here
    found = asyncio.run(soak(options))
    for name, value in found.items():
        if name != "faults":
            print(f"{name:18} {value}")
    for fault in found["faults"]:
        print(f"FAULT {fault}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
