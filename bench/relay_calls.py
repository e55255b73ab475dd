#!/usr/bin/env python3
"""Calls that one core carries without loss, 50 packets/s each way a call, whether the relay keeps pace or not.

    bench/relay_calls.py [--engine E ...] [--most N] [--rounds R] [--seconds S] [--json FILE]

The generator sends on schedule (an open loop); calls are added and taken away until the highest number is found that
is carried: not one packet lost, and at the end no more than what arrives in 50 ms under way, for a queue that still
grows loses none yet. One side is RTP, the other SRTP, so half of the packets are protected and half unprotected.

The generator has the other core; where it was late, or its limit ``--most`` was reached, the number is a lower bound
and says so. Beside it stands what the processor time a packet at that load comes to, were the core used to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import relay_engines as engines
from bench.relay_engines import BARE, COMPILED, ENGINES, INTERPRETED, RTPENGINE, TO_SRTP, Engine, Wanted
from bench.relay_results import Row, common_options, keep, ratios, show, spread
from bench.relay_traffic import (
    CORE_SSRC,
    PTIME_S,
    Generator,
    Offered,
    Packets,
    cores,
    cpu_seconds,
    new_key,
    own_network,
    raise_descriptors,
    undisturbed,
)
from keying.suites import SUITES

WARM_TURNS = 10
LATE_S = 0.1
"""What the generator may be behind before a trial counts as its fault."""
IDENTITY = ("engine", "suite")


@dataclass(frozen=True)
class Trial:
    calls: int
    offered: Offered
    busy: float
    us_per_packet: float

    @property
    def sound(self) -> bool:
        """Whether the generator itself kept pace."""
        return self.offered.late_s < LATE_S


class Load:
    """Prepared packets of many calls, both ways."""

    def __init__(self, most: int, seconds: float, suite: str) -> None:
        self.turns = WARM_TURNS + int(seconds / PTIME_S)
        self.keys = [new_key(suite) for _ in range(most)]
        self.suite = suite
        count = self.turns * most
        self.generator = Generator()
        self._plain = Packets(most, count, None), Packets(most, count, None, CORE_SSRC)
        self._protected = self._plain[0], Packets(most, count, (suite, self.keys), CORE_SSRC)

    async def trial(self, engine: Engine, calls: int) -> Trial:
        peers = self.generator.source.getsockname(), self.generator.target.getsockname()
        both = self._plain if engine.name == BARE else self._protected
        opened = await engine.open(Wanted(TO_SRTP, self.suite, self.keys[:calls], peers))
        spare = [("127.0.0.1", 9)] * (len(self.keys) - calls)
        both[0].aim([call.access for call in opened] + spare)
        both[1].aim([call.core for call in opened] + spare)
        with undisturbed():
            self.generator.offer(both, calls, range(WARM_TURNS))
            before, begin = cpu_seconds(*engine.pids), time.perf_counter()
            offered = self.generator.offer(both, calls, range(WARM_TURNS, self.turns))
            used, elapsed = cpu_seconds(*engine.pids) - before, time.perf_counter() - begin
        await engine.close()
        return Trial(calls, offered, used / elapsed, used * 1e6 / offered.sent)


@dataclass
class Search:
    """The highest number of calls carried, to within a fiftieth."""

    load: Load
    engine: Engine
    most: int
    told: bool = False
    best: Trial | None = None
    limited: bool = False
    """Whether it was the generator that ended the search."""
    trials: list[Trial] = field(default_factory=list)

    async def run(self, guess: int) -> Trial:
        low, high, calls = 0, self.most + 1, min(guess, self.most)
        while high - low > max(1, low // 50):
            trial = await self._again(calls)
            if trial.offered.carried:
                low, self.best = calls, trial
                calls = min(calls * 5 // 4 + 1, self.most) if high > self.most else (low + high) // 2
            else:
                high = calls
                self.limited = not trial.sound
                calls = calls * 4 // 5 if low == 0 else (low + high) // 2
            if calls in (low, 0):
                break
        if self.best is None:
            raise RuntimeError(f"{self.engine.name} carries not one call without loss")
        self.limited |= self.best.calls == self.most
        return self.best

    async def _again(self, calls: int) -> Trial:
        """A second chance, for the machine may have been elsewhere."""
        for _ in range(2):
            trial = await self.load.trial(self.engine, calls)
            self.trials.append(trial)
            if trial.offered.carried:
                break
        return trial


async def bench(options: argparse.Namespace) -> None:
    separate = not options.shared_network and own_network()
    descriptors = raise_descriptors()
    own, core = cores()
    place = None if core is None else {core}
    processes = engines.processes_for(options.most, descriptors)
    for suite in options.suite:
        load = Load(options.most, options.seconds, suite)
        running = [await engines.start(name, place, processes=processes) for name in options.engine]
        present = [engine for engine in running if engine is not None]
        found: dict[str, list[Search]] = {engine.name: [] for engine in present}
        guesses = {COMPILED: 3200, BARE: 3200, INTERPRETED: 2000, RTPENGINE: 1600}
        try:
            with engines.started_on({own}):
                for number in range(options.rounds):
                    turn = number % len(present)
                    for engine in present[turn:] + present[:turn]:
                        search = Search(load, engine, options.most)
                        best = await search.run(guesses[engine.name])
                        guesses[engine.name] = best.calls
                        found[engine.name].append(search)
        finally:
            for engine in present:
                await engine.stop()
        rows = [row_of(name, suite, searches, found.get(RTPENGINE, [])) for name, searches in found.items()]
        print("\n".join(map(line, rows)), flush=True)
        keep(options.json, rows, IDENTITY, own_network=separate, processes=processes)


def row_of(name: str, suite: str, searches: list[Search], rivals: list[Search]) -> Row:
    best, theirs = ([search.best for search in group if search.best is not None] for group in (searches, rivals))
    calls = [trial.calls for trial in best]
    return {
        "engine": name,
        "suite": suite,
        "rounds": len(best),
        "calls": spread(calls),
        "lower_bound": sum(search.limited for search in searches) * 2 > len(searches),
        "core_busy": spread(trial.busy for trial in best),
        "us_per_packet": spread(trial.us_per_packet for trial in best),
        "calls_by_cost": spread(1e6 * PTIME_S / 2 / trial.us_per_packet for trial in best),
        "ratio_to_rtpengine": None if name == RTPENGINE else ratios(calls, [trial.calls for trial in theirs]),
        "cost_ratio_to_rtpengine": None
        if name == RTPENGINE
        else ratios([t.us_per_packet for t in theirs], [t.us_per_packet for t in best]),
    }


def line(row: Row) -> str:
    at_least = "at least " if row["lower_bound"] else ""
    text = f"{row['engine']:11} {at_least}{show(row['calls'], 0)} calls  busy {show(row['core_busy'])}"
    text += f"  {show(row['us_per_packet'])} us a packet, {show(row['calls_by_cost'], 0)} calls a core by that"
    if row["ratio_to_rtpengine"]:
        text += f"  {show(row['ratio_to_rtpengine'])} x rtpengine ({show(row['cost_ratio_to_rtpengine'])} by cost)"
    return f"{text}  {row['suite']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common_options(parser, rounds=1, seconds=2.0)
    parser.add_argument("--most", type=int, default=4000, help="calls that packets are prepared for")
    parser.add_argument("--engine", nargs="+", default=[COMPILED, INTERPRETED, RTPENGINE], choices=ENGINES)
    parser.add_argument("--suite", nargs="+", default=["AES_CM_128_HMAC_SHA1_80"], choices=list(SUITES))
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
