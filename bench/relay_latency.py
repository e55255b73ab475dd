#!/usr/bin/env python3
"""Latency that the media relay adds at 5,000 packets/s, at rest and while calls are set up, beside rtpengine.

    bench/relay_latency.py [--calls N] [--case NAME ...] [--engine E ...] [--rounds R] [--seconds S] [--json FILE]

Fifty calls, 50 packets/s each way, each at an offset of its own. A packet's time runs from just before it is sent to
when the kernel had it for the receiver (SO_TIMESTAMPNS), so that the generator, which has a core of its own, does not
add its own. ``direct`` is the same without a relay: what the kernel and the clock take.

Packets, commands and whoever gives them share the other core, the engine's, unless ``--controller-core own`` is
given:

- ``idle``: media alone.
- ``neighbour``: another process, such as a controller, computes for 2 ms every 10 ms.
- ``commands``: for 2 ms every 10 ms, calls are set up and released back to back: ``add`` and ``remove`` here,
  ``offer``, ``answer`` and ``delete`` over NG with rtpengine. What a burst began it ends, so it may take a little
  longer; how many it came to and what they took of the engine is told.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import relay_engines as engines
from bench.relay_engines import COMPILED, ENGINES, INTERPRETED, RTPENGINE, TO_SRTP, Call, Engine, Wanted
from bench.relay_results import Row, common_options, keep, ratios, show, spread
from bench.relay_traffic import (
    ACCESS_SSRC,
    CORE_SSRC,
    PTIME_S,
    Generator,
    Packets,
    cores,
    cpu_seconds,
    new_key,
    own_network,
    raise_descriptors,
    undisturbed,
)

DIRECT = "direct"
IDLE, NEIGHBOUR, COMMANDS = CASES = "idle", "neighbour", "commands"
SUITE = "AES_CM_128_HMAC_SHA1_80"
BURST_S, EVERY_S = 0.002, 0.010
WARM_TURNS = 12
IDENTITY = ("engine", "case", "packets_per_s", "controller_core")


@dataclass(frozen=True)
class Times:
    """Latency of a round, us."""

    p50: float
    p99: float
    highest: float
    lost: int


class Peer:
    """The generator in a process of its own, so that the controller may be busy meanwhile."""

    def __init__(self, generator: Generator, wanted: Wanted, seconds: float, core: int) -> None:
        self._generator, self._wanted, self._seconds, self._core = generator, wanted, seconds, core
        self._near, far = multiprocessing.get_context("fork").Pipe()
        self._process = multiprocessing.get_context("fork").Process(target=self._serve, args=(far,), daemon=True)
        self._process.start()

    async def round(self, calls: Sequence[Call] | None, *, bare: bool) -> Times:
        self._near.send((calls, bare))
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._near.fileno(), arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self._near.fileno())
        times = self._near.recv()
        assert isinstance(times, Times)
        return times

    def end(self) -> None:
        self._near.close()
        self._process.join()

    def _serve(self, pipe: Connection) -> None:
        self._near.close()
        os.sched_setaffinity(0, {self._core})
        keys, suite = self._wanted.keys, self._wanted.suite
        turns = WARM_TURNS + int(self._seconds / PTIME_S)
        count = turns * len(keys)
        plain = Packets(len(keys), count, None), Packets(len(keys), count, None, CORE_SSRC)
        protected = plain[0], Packets(len(keys), count, (suite, keys), CORE_SSRC)
        while True:
            try:
                calls, bare = pipe.recv()
            except EOFError:
                return
            both = plain if bare else protected
            if calls is None:
                calls = [Call(self._wanted.peers[1], self._wanted.peers[0])] * len(keys)
            both[0].aim([call.access for call in calls])
            both[1].aim([call.core for call in calls])
            with undisturbed():
                pipe.send(self._measure(both, turns))

    def _measure(self, both: tuple[Packets, Packets], turns: int) -> Times:
        sinks = self._generator.sink, self._generator.return_sink
        schedule = list(offsets(both[0].streams, turns))
        left = self._generator.send_at(both, schedule)
        arrived = {arrival[:2]: arrival[2] for sink in sinks for arrival in sink.arrivals}
        for sink in sinks:
            sink.arrivals.clear()
        found, lost = [], 0
        for (_, way, number), sent in zip(schedule, left, strict=True):
            turn, stream = divmod(number, both[way].streams)
            if turn < WARM_TURNS:
                continue
            when = arrived.get(((ACCESS_SSRC, CORE_SSRC)[way] + stream, turn & 0xFFFF))
            if when is None:
                lost += 1
            else:
                found.append((when - sent) / 1000)
        p50, p99, highest = np.percentile(found or [0.0], [50, 99, 100])
        return Times(float(p50), float(p99), float(highest), lost)


def offsets(streams: int, turns: int) -> Iterator[tuple[float, int, int]]:
    """Each direction of each call somewhere within the 20 ms, the same in every round."""
    draw = random.Random(5)
    order = sorted((draw.random() * PTIME_S, way, stream) for way in range(2) for stream in range(streams))
    for turn in range(turns):
        for offset, way, stream in order:
            yield turn * PTIME_S + offset, way, turn * streams + stream


class Bursts:
    """What the controller does for 2 ms every 10 ms until it is stopped; counts operations and seconds."""

    def __init__(self, engine: Engine | None, wanted: Wanted) -> None:
        self._engine = engine
        self._spare = replace(wanted, keys=[new_key(wanted.suite)])
        self.bursts = self.operations = 0
        self.longest = 0.0

    async def run(self, case: str) -> None:
        begin = time.perf_counter()
        for number in range(1 << 30):
            await asyncio.sleep(max(0.0, begin + number * EVERY_S - time.perf_counter()))
            start = time.perf_counter()
            while time.perf_counter() - start < BURST_S:
                if case == COMMANDS and self._engine is not None:
                    self._spare = replace(self._spare, keys=[new_key(self._spare.suite)])
                    await self._engine.once(self._spare)
                    self.operations += 1
            self.bursts += 1
            self.longest = max(self.longest, time.perf_counter() - start)


@dataclass
class Found:
    times: list[Times] = field(default_factory=list)
    operations_a_burst: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def row(self, name: str, case: str, rival: Found | None, base: Found | None) -> Row:
        row: Row = {"engine": name, "case": case, "rounds": len(self.times)}
        for figure in ("p50", "p99", "highest"):
            mine = [getattr(each, figure) for each in self.times]
            row[f"{figure}_us"] = spread(mine)
            for other, found in ((RTPENGINE, rival), (DIRECT, base)):
                theirs = [] if found is None else [getattr(each, figure) for each in found.times]
                row[f"{figure}_ratio_to_{other}"] = None if other == name else ratios(mine, theirs)
        row["lost"] = sum(each.lost for each in self.times)
        row["operations_a_burst"] = spread(self.operations_a_burst) if any(self.operations_a_burst) else None
        row["core_busy"] = spread(self.busy) if self.busy else None
        return row


async def one_round(peer: Peer, engine: Engine | None, case: str, wanted: Wanted, found: Found) -> None:
    calls = None if engine is None else await engine.open(wanted)
    bursts = Bursts(engine, wanted)
    before, begin = cpu_seconds(*engine.pids) if engine else 0.0, time.perf_counter()
    work = asyncio.ensure_future(bursts.run(case)) if case != IDLE else None
    found.times.append(await peer.round(calls, bare=engine is None or engine.name == engines.BARE))
    if work is not None:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        found.operations_a_burst.append(bursts.operations / max(1, bursts.bursts))
    if engine is not None:
        found.busy.append((cpu_seconds(*engine.pids) - before) / (time.perf_counter() - begin))
        await asyncio.sleep(0.05)  # a command that was cancelled is answered meanwhile
        await engine.close()


async def bench(options: argparse.Namespace) -> None:
    separate = not options.shared_network and own_network()
    raise_descriptors()
    own, core = cores()
    place = None if core is None else {core}
    generator = Generator(stamps=True)
    peers = generator.source.getsockname(), generator.target.getsockname()
    wanted = Wanted(TO_SRTP, SUITE, [new_key(SUITE) for _ in range(options.calls)], peers)
    peer = Peer(generator, wanted, options.seconds, own)
    running: dict[str, Engine | None] = {DIRECT: None}
    for name in options.engine:
        if (engine := await engines.start(name, place)) is not None:
            running[name] = engine
    if core is not None and options.controller_core == "engine":
        os.sched_setaffinity(0, {core})
    elif core is not None:
        os.sched_setaffinity(0, {own})
    found = {(name, case): Found() for name in running for case in options.case}
    names = list(running)
    try:
        for number in range(options.rounds):
            for case in options.case:
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    if name != DIRECT or case != COMMANDS:
                        await one_round(peer, running[name], case, wanted, found[name, case])
    finally:
        peer.end()
        for engine in running.values():
            if engine is not None:
                await engine.stop()
    rate = 2 * options.calls / PTIME_S
    rows = []
    for (name, case), each in found.items():
        if each.times:
            row = each.row(name, case, found.get((RTPENGINE, case)), found.get((DIRECT, case)))
            rows.append({**row, "packets_per_s": rate, "controller_core": options.controller_core})
    print("\n".join(map(line, rows)))
    keep(options.json, rows, IDENTITY, own_network=separate)


def line(row: Row) -> str:
    text = f"{row['engine']:11} {row['case']:9}"
    for figure in ("p50", "p99", "highest"):
        text += f"  {figure} {show(row[f'{figure}_us'], 0)} us"
    if row["p99_ratio_to_rtpengine"]:
        text += f"  {show(row['p50_ratio_to_rtpengine'])} and {show(row['p99_ratio_to_rtpengine'])} x rtpengine"
    if row["operations_a_burst"]:
        text += f"  {row['operations_a_burst'][1]:.1f} calls a burst"
    return text + f"  lost {row['lost']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common_options(parser, rounds=5, seconds=1.0)
    parser.add_argument("--calls", type=int, default=50, help="each 50 packets/s each way")
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--engine", nargs="+", default=[COMPILED, INTERPRETED, RTPENGINE], choices=ENGINES)
    parser.add_argument("--controller-core", choices=["engine", "own"], default="engine", help="own: the generator's")
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
