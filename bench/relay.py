#!/usr/bin/env python3
"""Packets per second of the media relay on one core, beside rtpengine in user space and the same loop without crypto.

    bench/relay.py [--streams N ...] [--suite NAME ...] [--direction D ...] [--engine E ...] [--rounds R] [--json FILE]

One generator on another core drives all engines through the same two sockets: it keeps a fixed number of packets
under way (``--window`` a stream), so that every engine runs as fast as it can and none loses packets to a full queue.
rtpengine drops a stream for good after five bursts of 50 queued packets, hence the window. The far end counts what
arrives without reading it (``--read``: it does): who reads every packet is slower than the quickest engines.

Rounds are interleaved, each with fresh streams; a ratio is made per round. ``us`` is processor time of the engine a
packet: it tells the cost also where the generator or other work on the machine is what limits, and that of thousands
of streams where one process may not open enough sockets and several share the core.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import relay_engines as engines
from bench.relay_engines import BARE, ENGINES, FROM_SRTP, RTPENGINE, TO_SRTP, Engine, Wanted
from bench.relay_results import Row, common_options, keep, ratios, show, spread
from bench.relay_traffic import (
    HEADER,
    PAYLOAD,
    Generator,
    Packets,
    cores,
    cpu_seconds,
    new_key,
    own_network,
    raise_descriptors,
    undisturbed,
)
from keying.suites import SUITES

FASTEST = 700_000
"""Packets a second that the prepared packets suffice for."""
WARM = 12
"""Packets a stream before the measurement: contexts are made at the first ones."""
IDENTITY = ("engine", "streams", "direction", "suite", "window", "reads")


@dataclass
class Case:
    streams: int
    direction: str
    suite: str
    window: int
    reads: bool
    processes: int = 1
    rates: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    busy: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, rate: float, loss: float, cost: float, busy: float) -> None:
        for kept, value in ((self.rates, rate), (self.losses, loss), (self.costs, cost), (self.busy, busy)):
            kept.setdefault(name, []).append(value)

    def rows(self) -> Iterator[Row]:
        for engine, rates in self.rates.items():
            row: Row = {
                "engine": engine,
                "streams": self.streams,
                "direction": self.direction,
                "suite": self.suite,
                "window": self.window,
                "reads": self.reads,
                "processes": self.processes,
                "rounds": len(rates),
                "packets_per_s": spread(rates),
                "us_per_packet": spread(self.costs[engine]),
                "core_busy": spread(self.busy[engine]),
                "loss": max(self.losses[engine]),
            }
            for other in (RTPENGINE, BARE):
                row[f"ratio_to_{other}"] = None if engine == other else ratios(rates, self.rates.get(other, []))
                cost = ratios(self.costs.get(other, []), self.costs[engine])
                row[f"cost_ratio_to_{other}"] = None if engine == other else cost
            yield row


async def measure(case: Case, running: list[Engine], generator: Generator, seconds: float, rounds: int) -> None:
    keys = [new_key(case.suite) for _ in range(case.streams)]
    warm = case.streams * WARM
    count = warm + max(4 * case.streams, int(FASTEST * seconds))
    plain = Packets(case.streams, count, None)
    protected = Packets(case.streams, count, (case.suite, keys)) if case.direction == FROM_SRTP else plain
    peers = generator.source.getsockname(), generator.target.getsockname()
    wanted = Wanted(case.direction, case.suite, keys, peers)
    tag = SUITES[case.suite].srtp_tag_length
    for number in range(-1, rounds):  # the first one is for memory that nobody has touched yet, and not counted
        turn = number % len(running)
        for engine in running[turn:] + running[:turn]:
            packets = plain if engine.name == BARE else protected
            packets.aim([call.access for call in await engine.open(wanted)])
            with undisturbed():
                _, _, start = generator.run(packets, 10.0, stop=warm, window=min(case.window, 2), reads=True)
                before, begin = cpu_seconds(*engine.pids), time.perf_counter()
                rate, loss, end = generator.run(packets, seconds, start=start, window=case.window, reads=case.reads)
                used, elapsed = cpu_seconds(*engine.pids) - before, time.perf_counter() - begin
            expected = HEADER + PAYLOAD + (tag if case.direction == TO_SRTP and engine.name != BARE else 0)
            if generator.sink.size() != expected:
                raise RuntimeError(f"{engine.name} sent {generator.sink.size()} octets, {expected} were expected")
            if number >= 0:
                case.note(engine.name, rate, loss, used * 1e6 / max(1, end - start), used / elapsed)
            await engine.close()


async def bench(options: argparse.Namespace) -> None:
    separate = not options.shared_network and own_network()
    descriptors = raise_descriptors()
    own, core = cores()
    place = None if core is None else {core}
    generator = Generator()
    for streams in options.streams:
        processes = engines.processes_for(streams, descriptors)
        running = [await engines.start(name, place, processes=processes) for name in options.engine]
        present = [engine for engine in running if engine is not None]
        try:
            with engines.started_on({own}):
                for suite in options.suite:
                    for direction in options.direction:
                        case = Case(streams, direction, suite, options.window, options.read, processes)
                        await measure(case, present, generator, options.seconds, options.rounds)
                        rows = list(case.rows())
                        print("\n".join(map(line, rows)), flush=True)
                        keep(options.json, rows, IDENTITY, own_network=separate)
        finally:
            for engine in present:
                await engine.stop()


def line(row: Row) -> str:
    rate = show([value / 1000 for value in row["packets_per_s"]], 0)
    compared = "  ".join(
        f"{show(row[f'ratio_to_{other}'])} x {other} ({show(row[f'cost_ratio_to_{other}'])} by cost)"
        for other in (RTPENGINE, BARE)
        if row[f"ratio_to_{other}"]
    )
    head = f"{row['engine']:11} {row['direction']} {row['streams']:>5} streams {rate:>12} kpkt/s"
    tail = f"busy {row['core_busy'][1]:.0%}  loss {row['loss']:.2%}  {row['suite']}"
    return f"{head} {show(row['us_per_packet']):>15} us  {compared}  {tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common_options(parser, rounds=5, seconds=0.5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--suite", nargs="+", default=["AES_CM_128_HMAC_SHA1_80"], choices=list(SUITES))
    parser.add_argument("--direction", nargs="+", default=[TO_SRTP, FROM_SRTP], choices=[TO_SRTP, FROM_SRTP])
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--window", type=int, default=4, help="packets under way, a stream")
    parser.add_argument("--read", action="store_true", help="the far end reads every packet")
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
