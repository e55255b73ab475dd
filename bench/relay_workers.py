#!/usr/bin/env python3
"""Two workers of the media relay on two cores beside one on one core.

    bench/relay_workers.py [--workers N ...] [--rings N] [--rounds R] [--seconds S] [--json FILE]

A generator would need a core itself, so here is none. Streams are joined to rings of two, the far side of each being
the near side of the other, and a few packets are put into each ring, which then run around for as long as the streams
are there: every worker has something to do all the time, on every core there is. The relay's own counters tell how
much was carried. Both streams of a ring are with one worker, so that a packet stays on its core, unless ``--across``:
then each step takes it to the other core, which one worker never has to pay. Packets in a ring are plain RTP: SRTP
would take the second round of a packet for a replay. The first packets come from a raw socket with the address of the
ring's other end, for a relay takes packets from nobody else; that wants root.

Then RTP to SRTP with a generator that shares the cores: by the processor time of a packet with one worker and with
several follows what as many cores carry when they have nothing else to do. That holds if cores are all they share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.relay_engines import BARE, COMPILED, PLACES, TO_SRTP, OwnRelay, Wanted
from bench.relay_results import Row, common_options, keep, ratios, show, spread
from bench.relay_traffic import (
    PAYLOAD,
    Address,
    Generator,
    Packets,
    cpu_seconds,
    new_key,
    own_network,
    raise_descriptors,
    undisturbed,
)
from media.relay import Mode, Protection, RelayProcess, Side, SideConfig, StreamConfig
from media.relay.engine import IN_A_ROW

SUITE = "AES_CM_128_HMAC_SHA1_80"
FASTEST = 500_000
WARM = 12
IDENTITY = ("workers", "what")


@dataclass
class Ring:
    """Two streams in a ring."""

    relays: tuple[RelayProcess, RelayProcess]
    names: tuple[str, str]
    place: str
    ends: list[dict[Side, Address]] = field(default_factory=list)

    def side(self, remote: Address | None) -> SideConfig:
        return SideConfig(self.place, Protection.RTP, remote=remote, mode=Mode.SENDRECV, rtcp=False)

    async def add(self, number: int) -> None:
        """Set up the first or second stream."""
        sides = {side: self.side(None) for side in Side}
        locals_ = await self.relays[number].add(StreamConfig(self.names[number], sides))
        self.ends.append({side: (each.ip, each.port) for side, each in locals_.items()})

    async def close_up(self) -> None:
        for number, (relay, name) in enumerate(zip(self.relays, self.names, strict=True)):
            other = self.ends[1 - number]
            for side in Side:
                await relay.modify(name, side, self.side(other[side.other]))

    def inject(self, raw: socket.socket, packets: int, ssrc: int) -> None:
        source, target = self.ends[1][Side.CORE], self.ends[0][Side.ACCESS]
        for sequence in range(packets):
            rtp = struct.pack("!BBHII", 0x80, 8, sequence, sequence * 160, ssrc) + bytes(PAYLOAD)
            raw.sendto(_datagram(source, target, rtp), target)

    async def open_again(self) -> None:
        for relay, name in zip(self.relays, self.names, strict=True):
            await relay.remove(name)


def _datagram(source: Address, target: Address, payload: bytes) -> bytes:
    """IPv4 and UDP without checksums, which the kernel sets or does without."""
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
    hosts = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + hosts + udp


@dataclass(frozen=True)
class Measured:
    rate: float
    us_per_packet: float
    busy: float


async def _carried(relays: list[RelayProcess]) -> int:
    found = await asyncio.gather(*(relay.statistics() for relay in relays))
    return sum(side.packets_out for each in found for stream in each for side in stream.sides.values())


async def around(relay: OwnRelay, workers: int, options: argparse.Namespace) -> Measured:
    """Packets a second that run in rings."""
    parts = relay.relays
    rings = []
    for number in range(options.rings * workers):
        pair = parts[number % len(parts)], parts[(number + options.across) % len(parts)]
        rings.append(Ring(pair, (f"{number}a", f"{number}b"), PLACES[number % len(PLACES)]))
    together = IN_A_ROW if options.across else 1  # so many streams in a row go to one worker
    parts_of = [rings[first : first + together] for first in range(0, len(rings), together)]
    for ring, number in [(ring, number) for part in parts_of for number in range(2) for ring in part]:
        await ring.add(number)
    for ring in rings:
        await ring.close_up()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number, ring in enumerate(rings):
            ring.inject(raw, options.packets, number)
    await asyncio.sleep(0.3)
    used, begin, before = cpu_seconds(*relay.pids), time.perf_counter(), await _carried(parts)
    await asyncio.sleep(options.seconds)
    carried, elapsed = await _carried(parts) - before, time.perf_counter() - begin
    used = cpu_seconds(*relay.pids) - used
    for ring in rings:
        await ring.open_again()
    return Measured(carried / elapsed, used * 1e6 / max(1, carried), used / elapsed)


async def driven(
    relay: OwnRelay, packets: Packets, keys: list[bytes], generator: Generator, seconds: float
) -> Measured:
    """Packets a second that a generator on the same cores gets through, RTP to SRTP."""
    peers = generator.source.getsockname(), generator.target.getsockname()
    packets.aim([call.access for call in await relay.open(Wanted(TO_SRTP, SUITE, keys, peers))])
    with undisturbed():
        _, _, start = generator.run(packets, 10.0, stop=WARM * packets.streams, window=2, reads=True)
        used, begin = cpu_seconds(*relay.pids), time.perf_counter()
        rate, _, end = generator.run(packets, seconds, start=start)
        used, elapsed = cpu_seconds(*relay.pids) - used, time.perf_counter() - begin
    await relay.close()
    return Measured(rate, used * 1e6 / max(1, end - start), used / elapsed)


async def bench(options: argparse.Namespace) -> None:
    separate = not options.shared_network and own_network()
    raise_descriptors()
    allowed = sorted(os.sched_getaffinity(0))
    generator, keys = Generator(), [new_key(SUITE) for _ in range(options.streams)]
    packets = Packets(options.streams, WARM * options.streams + int(FASTEST * options.seconds), None)
    found: dict[tuple[int, str], list[Measured]] = {}
    for number in range(options.rounds):
        turn = number % len(options.workers)
        for workers in options.workers[turn:] + options.workers[:turn]:
            place = set(allowed[-workers:])
            if os.geteuid() == 0:
                relay = await OwnRelay.start(BARE, place, workers=workers)
                found.setdefault((workers, "rings"), []).append(await around(relay, workers, options))
                await relay.stop()
            relay = await OwnRelay.start(COMPILED, place, workers=workers)
            measured = await driven(relay, packets, keys, generator, options.seconds)
            found.setdefault((workers, "driven"), []).append(measured)
            await relay.stop()
    rows = [row_of(workers, what, each, found.get((1, what), [])) for (workers, what), each in found.items()]
    rows.sort(key=lambda row: (row["what"], row["workers"]))
    print("\n".join(map(line, rows)))
    keep(options.json, rows, IDENTITY, own_network=separate)


def row_of(workers: int, what: str, measured: list[Measured], alone: list[Measured]) -> Row:
    rates = [each.rate for each in measured]
    by_cost = ratios([each.us_per_packet for each in alone], [each.us_per_packet for each in measured])
    return {
        "workers": workers,
        "what": what,
        "rounds": len(measured),
        "packets_per_s": spread(rates),
        "us_per_packet": spread(each.us_per_packet for each in measured),
        "cores_busy": spread(each.busy for each in measured),
        "ratio_to_one": ratios(rates, [each.rate for each in alone]),
        "ratio_to_one_by_cost": None if by_cost is None else [workers * each for each in by_cost],
    }


def line(row: Row) -> str:
    rate = show([value / 1000 for value in row["packets_per_s"]], 0)
    text = f"{row['what']:7} {row['workers']} workers  {rate} kpkt/s  {show(row['us_per_packet'])} us"
    text += f"  {show(row['cores_busy'])} cores busy"
    if row["workers"] > 1:
        text += f"  {show(row['ratio_to_one'])} x one ({show(row['ratio_to_one_by_cost'])} by cost)"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common_options(parser, rounds=3, seconds=1.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rings", type=int, default=100, help="of two streams each, a worker")
    parser.add_argument("--across", action="store_true", help="a ring's streams at different workers")
    parser.add_argument("--packets", type=int, default=1, help="in a ring")
    parser.add_argument("--streams", type=int, default=100, help="beside a generator")
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
