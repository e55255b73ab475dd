"""Tickets requested, transferred and resolved per second of one core, against the cryptography that they take.

``crypto`` is HMACs, AES and key derivations alone (kms_crypto.py); ``engines`` are those of ``keying.mikey``;
``sqlite`` and ``postgresql`` are a KMS's handler over its store, in this process; ``https`` is a KMS process asked
over HTTPS, with the work of both ends, beside ``https alone``, a request for something that the KMS does not have.
Then the handler once more, with more and more tickets in its store. One operation at a time unless a row says how
many are in flight. What is measured has a core of its own; a PostgreSQL server, the UE of ``https`` and everything
else have the others. ``a second of the core`` counts processor time alone, of the KMS where that is a process. Rounds
are interleaved and ratios are made per round; figures are min / median / max over them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.kms_crypto import Cryptography
from bench.kms_https import KmsProcess, kms_process, on
from bench.kms_parties import Call, Kms, Pair, Parties, accept
from bench.kms_store import Handler, handler
from bench.postgres import Postgres, postgres
from keying.mikey.resolve import Resolution
from keying.mikey.ticket import Ticket
from keying.mikey.transfer import TransferResponder
from sba import runtime

REQUEST, TRANSFER, RESOLVE = "request", "transfer", "resolve"
AT_KMS, BOTH_ENDS = "at the KMS", "both ends"
CRYPTO, ENGINES, SQLITE, HTTPS, HTTPS_ALONE = "crypto", "engines", "sqlite", "https", "https alone"
POSTGRESQL, NOT_AWAITED = "postgresql", "postgresql, async commit"
LAYERS = (CRYPTO, ENGINES, SQLITE, POSTGRESQL, NOT_AWAITED, HTTPS_ALONE, HTTPS)
PAIRS = 64
IN_FLIGHT = 8


@dataclass(frozen=True)
class Case:
    """What a row is about; `tickets` in the store, None where it is not about their number."""

    operation: str
    where: str
    layer: str
    in_flight: int = 1
    tickets: int | None = None

    def place(self) -> tuple[int, ...]:
        """Where the row stands among the others."""
        where = [AT_KMS, BOTH_ENDS].index(self.where)
        operation = [REQUEST, TRANSFER, RESOLVE].index(self.operation)
        return where, operation, self.in_flight, LAYERS.index(self.layer), self.tickets or 0


@dataclass(frozen=True)
class Run:
    """One round: seconds of each operation, of all together, of processor in this process and in the KMS's."""

    each: list[float]
    wall: float
    processor: float
    kms_processor: float = 0.0

    @property
    def time_us(self) -> float:
        return 1e6 * self.wall / len(self.each)

    def percentile_us(self, share: float) -> float:
        ordered = sorted(self.each)
        return 1e6 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(operations: Sequence[Callable[[], object]]) -> Run:
    each: list[float] = []
    clock = time.perf_counter
    processor, began = time.process_time(), clock()
    for operation in operations:
        start = clock()
        operation()
        each.append(clock() - start)
    return Run(each, clock() - began, time.process_time() - processor)


async def measure_async(
    operations: Sequence[Callable[[], Awaitable[object]]], in_flight: int, kms: KmsProcess | None = None
) -> Run:
    each: list[float] = []
    clock, waiting = time.perf_counter, iter(operations)

    async def worker() -> None:
        for operation in waiting:
            start = clock()
            await operation()
            each.append(clock() - start)

    at_kms = 0.0 if kms is None else kms.processor_s()
    processor, began = time.process_time(), clock()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    wall, processor = clock() - began, time.process_time() - processor
    return Run(each, wall, processor, 0.0 if kms is None else kms.processor_s() - at_kms)


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


class Results:
    """Runs by case, in the order of the rounds."""

    def __init__(self) -> None:
        self._runs: dict[Case, list[Run]] = {}

    def add(self, run: Run, case: Case) -> None:
        self._runs.setdefault(case, []).append(run)

    def rows(self) -> list[dict[str, object]]:
        return [self._row(case) for case in sorted(self._runs, key=Case.place)]

    def growth(self) -> list[dict[str, object]]:
        """The rows about the number of tickets, with how many times as long they take as with the fewest."""
        cases = sorted((case for case in self._runs if case.tickets is not None), key=Case.place)
        fewest = min(case.tickets or 0 for case in cases)
        return [
            self._row(case)
            | {
                "ratio_to_fewest": self._ratio(case, replace(case, tickets=fewest), lambda run: run.wall),
                "processor_to_fewest": self._ratio(case, replace(case, tickets=fewest), lambda run: run.processor),
            }
            for case in cases
        ]

    def _row(self, case: Case) -> dict[str, object]:
        runs, crypto = self._runs[case], replace(case, layer=CRYPTO, in_flight=1, tickets=None)
        row: dict[str, object] = asdict(case) | {
            "rounds": len(runs),
            "operations_a_round": len(runs[0].each),
            "per_s": spread([1e6 / run.time_us for run in runs]),
            "p50_us": spread([run.percentile_us(0.5) for run in runs]),
            "p99_us": spread([run.percentile_us(0.99) for run in runs]),
            "per_core_s": spread([len(run.each) / (run.kms_processor or run.processor or 1e-9) for run in runs]),
            "processor_us": spread([1e6 * run.processor / len(run.each) for run in runs]),
            "ratio_to_crypto": self._ratio(case, crypto, lambda run: run.wall),
            "processor_to_crypto": self._ratio(case, crypto, lambda run: run.processor + run.kms_processor),
        }
        return row

    def _ratio(self, case: Case, to: Case, cost: Callable[[Run], float]) -> dict[str, float]:
        """How many times as much an operation costs, round by round."""
        pairs = zip(self._runs[case], self._runs[to], strict=True)
        return spread([cost(run) / len(run.each) / (cost(other) / len(other.each)) for run, other in pairs])


class Bench:
    """What is asked in a round; `count` operations of each kind."""

    def __init__(self, parties: Parties, count: int, results: Results) -> None:
        self._parties, self._count, self._results = parties, count, results
        self._cryptography = Cryptography(Call.placed(parties.pairs[0], parties.kms()))

    def cryptography(self) -> None:
        crypto, times = self._cryptography, 10 * self._count
        for operation, case in (
            (crypto.request_at_kms, Case(REQUEST, AT_KMS, CRYPTO)),
            (crypto.resolve_at_kms, Case(RESOLVE, AT_KMS, CRYPTO)),
            (crypto.request, Case(REQUEST, BOTH_ENDS, CRYPTO)),
            (crypto.transfer, Case(TRANSFER, BOTH_ENDS, CRYPTO)),
            (crypto.resolve, Case(RESOLVE, BOTH_ENDS, CRYPTO)),
        ):
            self._results.add(measure([operation] * times), case)

    def engines(self) -> None:
        kms, add = self._parties.kms(), self._results.add
        operations: list[Callable[[], object]] = [
            partial(kms.grant, message) for message in self._parties.requests(self._count)
        ]
        add(measure(operations), Case(REQUEST, AT_KMS, ENGINES))
        operations = [partial(kms.resolve, message) for message in self._parties.questions(self._count)]
        add(measure(operations), Case(RESOLVE, AT_KMS, ENGINES))
        pairs = self._parties.turns(self._count)
        add(measure([partial(request, pair, kms) for pair in pairs]), Case(REQUEST, BOTH_ENDS, ENGINES))
        tickets = self._parties.tickets(self._count)
        received = [(pair, received_offer(pair, ticket)) for pair, ticket in tickets]
        add(measure([partial(resolve, *each, kms) for each in received]), Case(RESOLVE, BOTH_ENDS, ENGINES))
        # To resolve a ticket is no part of its transfer; what the KMS says of a ticket is the same each time.
        known = [resolve(pair, received_offer(pair, ticket), kms) for pair, ticket in tickets]
        operations = [partial(transfer, *each, said) for each, said in zip(tickets, known, strict=True)]
        add(measure(operations), Case(TRANSFER, BOTH_ENDS, ENGINES))

    async def handler(self, asked: Handler, layer: str, in_flight: int = 1, tickets: int | None = None) -> None:
        operations = [partial(asked.grant, message) for message in self._parties.requests(self._count)]
        run = await measure_async(operations, in_flight)
        self._results.add(run, Case(REQUEST, AT_KMS, layer, in_flight, tickets))
        operations = [partial(asked.resolve, message) for message in self._parties.questions(self._count)]
        run = await measure_async(operations, in_flight)
        self._results.add(run, Case(RESOLVE, AT_KMS, layer, in_flight, tickets))

    async def https(self, kms: KmsProcess, in_flight: int) -> None:
        held: list[tuple[Pair, Ticket]] = []

        async def ask(pair: Pair) -> None:
            held.append((pair, await kms.request(pair)))

        run = await measure_async([partial(ask, pair) for pair in self._parties.turns(self._count)], in_flight, kms)
        self._results.add(run, Case(REQUEST, BOTH_ENDS, HTTPS, in_flight))
        operations: list[Callable[[], Awaitable[object]]] = [
            partial(kms.resolve, pair, received_offer(pair, ticket)) for pair, ticket in held
        ]
        run = await measure_async(operations, in_flight, kms)
        self._results.add(run, Case(RESOLVE, BOTH_ENDS, HTTPS, in_flight))
        operations = [partial(kms.nothing, message) for message in self._parties.requests(self._count)]
        run = await measure_async(operations, in_flight, kms)
        self._results.add(run, Case(REQUEST, BOTH_ENDS, HTTPS_ALONE, in_flight))


def request(pair: Pair, kms: Kms) -> Ticket:
    asking = pair.request()
    return asking.receive(kms.grant(asking.message).response, time.time())


def received_offer(pair: Pair, ticket: Ticket) -> TransferResponder:
    return pair.receive(pair.offer(ticket).message)


def transfer(pair: Pair, ticket: Ticket, resolution: Resolution) -> object:
    offering = pair.offer(ticket)
    accepted = accept(pair.receive(offering.message), resolution)
    return offering.receive(accepted.response or b"", time.time())


def resolve(pair: Pair, received: TransferResponder, kms: Kms) -> Resolution:
    resolving = pair.resolve(received)
    return resolving.receive(kms.resolve(resolving.message), time.time())


async def layers(
    options: argparse.Namespace, folder: Path, server: Postgres | None, cores: tuple[int, AbstractSet[int]]
) -> Results:
    """Measure what a KMS is made of, from its cryptography to its HTTPS endpoint."""
    results, parties = Results(), Parties(PAIRS)
    stores = {SQLITE: ""}
    if server is not None:
        stores[POSTGRESQL] = await server.create("layers", await_disk=True)
        stores[NOT_AWAITED] = await server.create("layers_not_awaited", await_disk=False)
    async with AsyncExitStack() as stack:
        handlers = {
            layer: await stack.enter_async_context(handler(folder / f"layer-{number}", url, parties))
            for number, (layer, url) in enumerate(stores.items())
        }
        kms = await stack.enter_async_context(kms_process(folder / "lab", parties, *cores))
        warming = Bench(parties, 10, Results())
        measured = Bench(parties, options.operations, results)
        for number in range(options.rounds + 1):
            bench = measured if number else warming
            parts: list[Callable[[], object]] = [bench.cryptography, bench.engines]
            parts += [partial(bench.handler, each, layer) for layer, each in handlers.items()]
            parts += [partial(bench.handler, each, layer, IN_FLIGHT) for layer, each in handlers.items()]
            parts += [partial(over_https, bench, kms, in_flight, cores[1]) for in_flight in (1, IN_FLIGHT)]
            await in_turn(parts, number)
    return results


async def over_https(bench: Bench, kms: KmsProcess, in_flight: int, cores: AbstractSet[int]) -> None:
    with on(cores):
        await bench.https(kms, in_flight)


async def growth(options: argparse.Namespace, folder: Path, server: Postgres | None) -> Results:
    """Measure a handler with more and more tickets in its store."""
    results, parties = Results(), Parties(PAIRS)
    async with AsyncExitStack() as stack:
        handlers: list[tuple[str, int, Handler]] = []
        for tickets in options.tickets:
            stores = {SQLITE: ""}
            if server is not None:
                stores[NOT_AWAITED] = await server.create(f"tickets_{tickets}", await_disk=False)
            for layer, url in stores.items():
                began = time.monotonic()
                opened = handler(folder / f"{layer[:6]}-{tickets}", url, parties, tickets)
                handlers.append((layer, tickets, await stack.enter_async_context(opened)))
                print(f"  {tickets} tickets into {layer}: {time.monotonic() - began:.1f} s", flush=True)
        warming = Bench(parties, 10, Results())
        measured = Bench(parties, options.operations, results)
        for number in range(options.rounds + 1):
            bench = measured if number else warming
            parts: list[Callable[[], object]] = [bench.cryptography]
            parts += [partial(bench.handler, each, layer, 1, tickets) for layer, tickets, each in handlers]
            await in_turn(parts, number)
    return results


async def in_turn(parts: list[Callable[[], object]], number: int) -> None:
    """Measure every part once; each round begins with another one."""
    first = number % len(parts)
    for part in parts[first:] + parts[:first]:
        done = part()
        if isinstance(done, Awaitable):
            await done


HEAD = f"{'a second':>23} {'a second of the core':>23} {'p50 ms':>8} {'p99 ms':>26}"
HEAD += f" {'x crypto':>22} {'processor x crypto':>22}"


def line(row: dict[str, object]) -> str:
    def figures(name: str, form: str, scale: float = 1.0) -> str:
        found = row[name]
        assert isinstance(found, dict)
        return " / ".join(f"{found[part] * scale:{form}}" for part in ("min", "median", "max"))

    number = row["in_flight"] if row["tickets"] is None else row["tickets"]
    text = f"{row['operation']:8} {row['where']:10} {row['layer']:24}{number:>9}"
    text += f"{figures('per_s', '.0f'):>23} {figures('per_core_s', '.0f'):>23}"
    text += f" {figures('p50_us', '.3f', 1e-3).split(' / ')[1]:>8} {figures('p99_us', '.3f', 1e-3):>26}"
    text += f" {figures('ratio_to_crypto', '.1f'):>22} {figures('processor_to_crypto', '.1f'):>22}"
    if "ratio_to_fewest" in row:
        text += f"  {figures('ratio_to_fewest', '.2f')} x fewest, processor {figures('processor_to_fewest', '.2f')}"
    return text


def show(rows: list[dict[str, object]], what: str) -> None:
    print(f"{what:53}{HEAD}")
    for row in rows:
        print(line(row), flush=True)


async def bench(options: argparse.Namespace) -> list[dict[str, object]]:
    available = sorted(os.sched_getaffinity(0))
    core, others = available[-1], set(available[:-1]) or set(available)
    with tempfile.TemporaryDirectory(prefix="imslab-bench-") as name, on({core}), postgres(others) as server:
        if server is None:
            print("PostgreSQL is not installed: SQLite alone", flush=True)
        rows = (await layers(options, Path(name), server, (core, others))).rows()
        show(rows, "operations, in flight")
        if not options.tickets:
            return rows
        grown = (await growth(options, Path(name), server)).growth()
        show(grown, "one in flight, tickets in the store")
        return rows + grown


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--operations", type=int, default=100, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tickets", type=int, nargs="*", default=[100, 10_000], help="in the store")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []

    async def run() -> int:
        rows.extend(await bench(options))
        return 0

    runtime.install()
    status = runtime.run(run)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
