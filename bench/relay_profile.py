#!/usr/bin/env python3
"""Where the processor time of a packet goes: kernel, SRTP, packet loop, interpreter; `perf` samples, by system call.

    bench/relay_profile.py [--engine E ...] [--streams N ...] [--suite NAME ...] [--seconds S] [--json FILE]

``perf record`` samples the engine's process with its stacks while the generator of bench/relay.py keeps it busy; a
sample in the kernel counts for the system call it is below, one in ``send`` that already delivers to the peer's
socket (loopback has no other moment for it) as ``delivery``, since with a network card that part is not the sender's.
``perf stat`` counts system calls a packet. It takes the rights to sample the kernel (root, or perf_event_paranoid
below 2).
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import relay_engines as engines
from bench.relay_engines import BARE, COMPILED, ENGINES, FROM_SRTP, RTPENGINE, TO_SRTP, Engine, Wanted
from bench.relay_results import Row, common_options, keep
from bench.relay_traffic import (
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
WARM = 12
FREQUENCY = 2500
SETTLE_S = 0.4
RECEIVE, SEND, DELIVERY, POLL, KERNEL = "receive", "send", "delivery", "poll", "other kernel"
CRYPTO, LOOP, INTERPRETER, ENGINE, LIBRARIES = "SRTP and AES", "packet loop", "interpreter", "rtpengine", "C library"
PARTS = (RECEIVE, SEND, DELIVERY, POLL, KERNEL, CRYPTO, LOOP, INTERPRETER, ENGINE, LIBRARIES)
IDENTITY = ("engine", "streams", "direction", "suite")
_CALLS = (
    (re.compile(r"__x64_sys_recv|__sys_recv"), RECEIVE),
    (re.compile(r"__x64_sys_send|__sys_send"), SEND),
    (re.compile(r"__x64_sys_epoll|__x64_sys_poll"), POLL),
)
_DELIVERS = re.compile(r"do_softirq|__local_bh_enable_ip")
_OBJECTS = (
    (re.compile(r"_binding|libcrypto|libsrtp|_cffi_backend.*srtp"), CRYPTO),
    (re.compile(r"_packet_loop"), LOOP),
    (re.compile(r"python|_cffi_backend|select\."), INTERPRETER),
    (re.compile(r"rtpengine"), ENGINE),
)
_FRAME = re.compile(r"^\s*[0-9a-f]+ (.*) \((.*)\)$")
SYSTEM_CALLS = ("recvmmsg", "recvmsg", "recvfrom", "sendmmsg", "sendmsg", "sendto", "epoll_wait")


def part_of(stack: list[tuple[str, str]]) -> str:
    """Name the part that a stack of (symbol, object), innermost first, counts for."""
    _, innermost = stack[0]
    if "kernel" not in innermost:
        return next((part for pattern, part in _OBJECTS if pattern.search(innermost)), LIBRARIES)
    for symbol, _ in stack:
        if _DELIVERS.match(symbol):
            return DELIVERY
        for pattern, part in _CALLS:
            if pattern.match(symbol):
                return part
    return KERNEL


def stacks(lines: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """Read what `perf script` prints with the fields ip, sym and dso: a frame a line, empty lines between stacks."""
    stack: list[tuple[str, str]] = []
    for text in lines:
        match = _FRAME.match(text.rstrip())
        if match is not None:
            stack.append((match[1].strip(), match[2]))
        elif not text.strip() and stack:
            yield stack
            stack = []
    if stack:
        yield stack


def shares(samples: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return parts with their share, and the ten symbols that have most."""
    command = ["perf", "script", "-i", str(samples), "-F", "ip,sym,dso"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    for stack in stacks(text.splitlines()):
        parts[part_of(stack)] += 1
        symbols[f"{stack[0][0]} ({Path(stack[0][1].strip('[]')).name})"] += 1
    total = max(1, parts.total())
    return (
        {part: parts[part] / total for part in PARTS if parts[part]},
        {symbol: count / total for symbol, count in symbols.most_common(10)},
    )


class Watch:
    """`perf` beside a process, from start to stop."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(["perf", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def stop(self) -> str:
        self._process.send_signal(signal.SIGINT)
        _, told = self._process.communicate(timeout=60)
        return told


def system_calls(told: str, packets: int) -> dict[str, float]:
    """Read `perf stat -x,`: system calls a packet by name."""
    found = re.findall(r"^(\d+),.*?syscalls:sys_enter_(\w+)", told, re.MULTILINE)
    return {name: int(count) / max(1, packets) for count, name in found if int(count)}


async def profile(engine: Engine, case: Row, generator: Generator, seconds: float) -> Row:
    suite, direction, streams = case["suite"], case["direction"], case["streams"]
    keys = [new_key(suite) for _ in range(streams)]
    protected = direction == FROM_SRTP and engine.name != BARE
    count = WARM * streams + int(FASTEST * (seconds + SETTLE_S) * 1.5)
    packets = Packets(streams, count, (suite, keys) if protected else None)
    peers = generator.source.getsockname(), generator.target.getsockname()
    packets.aim([call.access for call in await engine.open(Wanted(direction, suite, keys, peers))])
    pids = ",".join(map(str, engine.pids))
    events = [word for name in SYSTEM_CALLS for word in ("-e", f"syscalls:sys_enter_{name}")]
    with tempfile.TemporaryDirectory() as folder, undisturbed():
        samples = Path(folder, "samples")
        _, _, start = generator.run(packets, 10.0, stop=WARM * streams, window=2, reads=True)
        watch = Watch("record", "-q", "-F", str(FREQUENCY), "-g", "-o", str(samples), "-p", pids)
        _, _, start = generator.run(packets, SETTLE_S, start=start)
        used, first = cpu_seconds(*engine.pids), start
        _, _, start = generator.run(packets, seconds, start=start)
        used = cpu_seconds(*engine.pids) - used
        watch.stop()
        parts, symbols = shares(samples)
        watch = Watch("stat", "-x,", *events, "-p", pids)
        await asyncio.sleep(SETTLE_S)
        _, _, end = generator.run(packets, seconds / 4, start=start)
        calls = system_calls(watch.stop(), end - start)
    await engine.close()
    us = used * 1e6 / max(1, start - first)
    us_by_part = {part: share * us for part, share in parts.items()}
    return {**case, "us_per_packet": us, "shares": parts, "us": us_by_part, "symbols": symbols, "system_calls": calls}


async def bench(options: argparse.Namespace) -> None:
    separate = not options.shared_network and own_network()
    descriptors = raise_descriptors()
    own, core = cores()
    place = None if core is None else {core}
    generator = Generator()
    for streams in options.streams:
        processes = engines.processes_for(streams, descriptors)
        for name in options.engine:
            engine = await engines.start(name, place, processes=processes)
            if engine is None:
                continue
            try:
                with engines.started_on({own}):
                    for suite in options.suite:
                        for direction in options.direction:
                            case: Row = {"engine": name, "streams": streams, "direction": direction, "suite": suite}
                            row = await profile(engine, case, generator, options.seconds)
                            print(line(row), flush=True)
                            keep(options.json, [row], IDENTITY, own_network=separate)
            finally:
                await engine.stop()


def line(row: Row) -> str:
    parts = "  ".join(f"{part} {share:.1%}" for part, share in row["shares"].items())
    calls = ", ".join(f"{name} {count:.2f}" for name, count in row["system_calls"].items())
    symbols = ", ".join(f"{symbol} {share:.1%}" for symbol, share in row["symbols"].items())
    head = f"{row['engine']:11} {row['direction']} {row['streams']:>5} streams"
    head += f"  {row['us_per_packet']:.2f} us  {row['suite']}"
    return f"{head}\n    {parts}\n    system calls a packet: {calls}\n    {symbols}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common_options(parser, rounds=1, seconds=2.0)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--suite", nargs="+", default=["AES_CM_128_HMAC_SHA1_80"], choices=list(SUITES))
    parser.add_argument("--direction", nargs="+", default=[TO_SRTP], choices=[TO_SRTP, FROM_SRTP])
    parser.add_argument("--engine", nargs="+", default=[COMPILED, BARE, RTPENGINE], choices=ENGINES)
    options = parser.parse_args()
    if shutil.which("perf") is None:
        print("perf is not installed: nothing to tell")
        return
    asyncio.run(bench(options))


if __name__ == "__main__":
    main()
