#!/usr/bin/env python3
"""What a stream of the media relay costs: to set up, to release, and to hold, beside rtpengine.

    bench/relay_streams.py [--streams N ...] [--engine E ...] [--rounds R] [--json FILE]

Set-up and release are commands one after the other, each answered before the next is given: ``add`` and ``remove``
here, ``offer``, ``answer`` and ``delete`` over NG with rtpengine. Told are the time a command took and the processor
time it took of the engine alone, each a stream, beside as many streams as are there on average.

Memory is that of streams with RTP on one side and SRTP on the other, both ways, after two packets each way, for
contexts are made at the first. ``anonymous`` is what the engine's process has more of (RssAnon); ``kernel`` what the
slabs of the kernel have more of (sockets, files, epoll), where that can be told. Last, for our relay, what its part
is made of: memory that Python knows (tracemalloc, by file) and memory that C allocates (libsrtp, OpenSSL, tables), in
a process that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import re
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import relay_engines as engines
from bench.relay_engines import COMPILED, ENGINES, INTERPRETED, RTPENGINE, TO_SRTP, Engine, OwnRelay, Wanted
from bench.relay_results import Row, common_options, keep, show, spread
from bench.relay_traffic import (
    CORE_SSRC,
    HEADER,
    PAYLOAD,
    Generator,
    Packets,
    cores,
    cpu_seconds,
    key_set,
    new_key,
    own_network,
    raise_descriptors,
)
from media.relay.engine import RelayEngine
from media.relay.interface import Side
from media.relay.libsrtp import PacketBuffer, Session

ROOT = Path(__file__).resolve().parent.parent
SUITE = "AES_CM_128_HMAC_SHA1_80"
IDENTITY = ("engine", "streams")
_SLAB_SETTLES_S = 0.3
_PYTHON_SMALL = 512
"""Octets of the largest object that Python keeps in arenas of its own; others are of malloc."""


def anonymous(pids: Sequence[int | str]) -> int:
    """Octets of anonymous memory that processes have in RAM."""
    return sum(1024 * int(re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) for pid in pids)


def kernel_objects() -> int:
    """Octets in slabs of the kernel, of the whole machine."""
    fields = dict(re.findall(r"(\w+):\s+(\d+)", Path("/proc/meminfo").read_text()))
    return 1024 * int(fields["Slab"])


@dataclass
class Found:
    """Octets a stream, and us a stream."""

    anonymous: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)
    set_up: list[float] = field(default_factory=list)
    set_up_cpu: list[float] = field(default_factory=list)
    release: list[float] = field(default_factory=list)
    release_cpu: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    """Octets a stream that the process still has when all are gone."""

    def row(self, name: str, streams: int) -> Row:
        figures = {key: spread(values) for key, values in vars(self).items() if values}
        return {"engine": name, "streams": streams, "rounds": len(self.set_up), **figures}


async def one_round(engine: Engine, streams: int, generator: Generator, found: Found) -> None:
    keys = [new_key(SUITE) for _ in range(streams)]
    peers = generator.source.getsockname(), generator.target.getsockname()
    both = Packets(streams, 2 * streams, None), Packets(streams, 2 * streams, (SUITE, keys), CORE_SSRC)
    wanted = Wanted(TO_SRTP, SUITE, keys, peers)
    before = anonymous(engine.pids), kernel_objects()
    begin, used = time.perf_counter(), cpu_seconds(*engine.pids)
    calls = [call async for call in engine.one_by_one(wanted)]
    found.set_up.append((time.perf_counter() - begin) * 1e6 / streams)
    found.set_up_cpu.append((cpu_seconds(*engine.pids) - used) * 1e6 / streams)
    both[0].aim([call.access for call in calls])
    both[1].aim([call.core for call in calls])
    for turn in range(2):
        offered = generator.offer(both, streams, range(turn, turn + 1))
        if offered.lost:
            raise RuntimeError(f"{engine.name} lost {offered.lost} packets of {streams} streams")
    await asyncio.sleep(_SLAB_SETTLES_S)
    found.anonymous.append((anonymous(engine.pids) - before[0]) / streams)
    found.kernel.append((kernel_objects() - before[1]) / streams)
    begin, used = time.perf_counter(), cpu_seconds(*engine.pids)
    await engine.close(at_once=1)
    found.release.append((time.perf_counter() - begin) * 1e6 / streams)
    found.release_cpu.append((cpu_seconds(*engine.pids) - used) * 1e6 / streams)
    await asyncio.sleep(_SLAB_SETTLES_S)
    found.left.append((anonymous(engine.pids) - before[0]) / streams)


async def bench(options: argparse.Namespace) -> None:
    separate = not options.shared_network and own_network()
    descriptors = raise_descriptors()
    own, core = cores()
    place = None if core is None else {core}
    generator = Generator()
    for streams in options.streams:
        found = {name: Found() for name in options.engine}
        processes = engines.processes_for(streams, descriptors)
        for number in range(options.rounds):
            turn = number % len(options.engine)
            for name in options.engine[turn:] + options.engine[:turn]:
                engine = await engines.start(
                    name, place, processes=processes
                )  # a fresh one: memory is never given back
                if engine is None:
                    continue
                try:
                    with engines.started_on({own}):
                        await one_round(engine, streams, generator, found[name])
                finally:
                    await engine.stop()
        rows = [each.row(name, streams) for name, each in found.items() if each.set_up]
        print("\n".join(map(line, rows)), flush=True)
        keep(options.json, rows, IDENTITY, own_network=separate, processes=processes)
    if COMPILED in options.engine:
        parts = made_of(options.made_of)
        print(f"made of, octets a stream of {options.made_of}: " + ", ".join(f"{k} {v:.0f}" for k, v in parts.items()))
        keep(options.json, [{"engine": "made of", "streams": options.made_of, "octets": parts}], IDENTITY)


def line(row: Row) -> str:
    return (
        f"{row['engine']:11} {row['streams']:>5} streams  "
        f"set up {show(row['set_up'], 0)} us ({show(row['set_up_cpu'], 0)} of the engine)  "
        f"release {show(row['release'], 0)} us ({show(row['release_cpu'], 0)})  "
        f"memory {show(row['anonymous'], 0)} octets, kernel's {show(row['kernel'], 0)}, "
        f"left {show(row['left'], 0)}"
    )


def made_of(streams: int) -> dict[str, float]:
    """Octets a stream by where they were allocated, seen from inside a fresh process."""
    command = [sys.executable, __file__, "--inside", str(streams)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return {str(key): float(value) for key, value in found.items()}


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = [(f"unused{number}", ctypes.c_size_t) for number in range(4)] + [
        ("mapped", ctypes.c_size_t),
        ("unused4", ctypes.c_size_t),
        ("unused5", ctypes.c_size_t),
        ("used", ctypes.c_size_t),
        ("free", ctypes.c_size_t),
        ("unused6", ctypes.c_size_t),
    ]


def _allocated() -> int:
    """Octets given out by malloc; Python's own small objects are in arenas of mmap and not among them."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return int(found.used + found.mapped)


def _of_malloc(snapshot: tracemalloc.Snapshot) -> int:
    """Octets of Python's own objects that are too large for its arenas."""
    return sum(trace.size for trace in snapshot.traces if trace.size > _PYTHON_SMALL)


def inside(streams: int) -> dict[str, float]:
    """Open streams in an engine of this process, send two packets each way, and tell what was allocated, and where."""
    raise_descriptors()
    engine, generator = RelayEngine(), Generator()
    keys = [new_key(SUITE) for _ in range(streams)]
    peers = generator.source.getsockname(), generator.target.getsockname()
    both = Packets(streams, 2 * streams, None), Packets(streams, 2 * streams, (SUITE, keys), CORE_SSRC)
    wanted, model = Wanted(TO_SRTP, SUITE, keys, peers), OwnRelay(COMPILED, [])
    configs = [model.config(number, wanted) for number in range(streams)]
    gc.collect()
    before = anonymous(["self"])
    malloc = _allocated()
    tracemalloc.start()
    start = tracemalloc.take_snapshot()
    places = [engine.add(config) for config in configs]
    both[0].aim([(place[Side.ACCESS].ip, place[Side.ACCESS].port) for place in places])
    both[1].aim([(place[Side.CORE].ip, place[Side.CORE].port) for place in places])
    del places
    for first in range(0, 2 * streams, 32):
        for way, sock in enumerate((generator.source, generator.target)):
            generator.send(sock, both[way], first, min(32, 2 * streams - first))
        while engine.step(0.001):
            pass
    generator.sink.drain(), generator.return_sink.drain()
    gc.collect()
    end = tracemalloc.take_snapshot()
    grown: Counter[str] = Counter()
    for entry in end.compare_to(start, "filename"):
        path = Path(entry.traceback[0].filename)
        ours = any(path.is_relative_to(ROOT / room) for room in ("media", "keying"))
        grown[path.name if ours else "other"] += entry.size_diff
    tracemalloc.stop()
    python = sum(grown.values())
    large = _of_malloc(end) - _of_malloc(start)
    del start, end  # a snapshot of all that takes hundreds of octets a stream itself
    result = {f"Python, {name}": size / streams for name, size in grown.most_common(8) if size > 16 * streams}
    result["Python, all"] = python / streams
    result["C (malloc), all"] = (_allocated() - malloc - large) / streams
    result["C, libsrtp with OpenSSL"] = _sessions(streams)
    result["anonymous memory with the measuring"] = (anonymous(["self"]) - before) / streams
    engine.close()
    return result


def _sessions(streams: int) -> float:
    """Octets that a sending and a receiving session of libsrtp take once a packet went through both."""
    buffer = PacketBuffer(512)
    before = _allocated()
    kept = []
    for _ in range(streams):
        keys = key_set(SUITE, new_key(SUITE))
        kept.append((Session(keys, sender=True), Session(keys, sender=False)))
        buffer.load(bytes([0x80, 8]) + bytes(HEADER - 2 + PAYLOAD))
        if any(session.rtp(buffer.data, buffer.length) for session in kept[-1]):
            raise RuntimeError("libsrtp does not take back what it gave")
    return (_allocated() - before) / streams


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    common_options(parser, rounds=3, seconds=0.0)
    parser.add_argument("--streams", type=int, nargs="+", default=[1000])
    parser.add_argument("--engine", nargs="+", default=[COMPILED, INTERPRETED, RTPENGINE], choices=ENGINES)
    parser.add_argument("--made-of", type=int, default=500, metavar="N", help="streams to look at from inside")
    parser.add_argument("--inside", type=int, metavar="N", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        print(json.dumps(inside(options.inside)))
    else:
        asyncio.run(bench(options))


if __name__ == "__main__":
    main()
