#!/usr/bin/env python3
"""Tables of what the benches of the relay kept, as docs/performance.md has them: rows in, Markdown out.

bench/relay_tables.py [--json DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.relay_engines import BARE, COMPILED, INTERPRETED, RTPENGINE
from bench.relay_latency import DIRECT
from bench.relay_plots import SHOWN
from bench.relay_profile import PARTS
from bench.relay_results import BUILD, Row, read

ENGINE_ORDER = [COMPILED, INTERPRETED, BARE, RTPENGINE, DIRECT]


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    if body:
        yield "| " + " | ".join(head) + " |"
        yield "|" + "---|" * len(head)
        yield from ("| " + " | ".join(cells) + " |" for cells in body)
        yield ""


def cell(values: Sequence[float] | None, digits: int = 2, unit: float = 1.0) -> str:
    return "" if values is None else " / ".join(f"{value / unit:.{digits}f}" for value in values)


def rank(row: Row) -> int:
    return ENGINE_ORDER.index(row["engine"]) if row["engine"] in ENGINE_ORDER else len(ENGINE_ORDER)


def throughput(rows: list[Row]) -> Iterator[str]:
    head = ["streams", "direction", "engine", "1000 packets/s", "us a packet", "to rtpengine", "by cost"]
    head += ["to the loop without crypto", "by cost", "core busy"]
    for case in dict.fromkeys((row["suite"], row["window"], row.get("reads")) for row in rows):
        suite, window, reads = case
        yield f"{suite}, {window} packets a stream under way{', which the far end reads' if reads else ''}:"
        yield ""
        mine = [row for row in rows if (row["suite"], row["window"], row.get("reads")) == case]
        mine.sort(key=lambda row: (row["streams"], row["direction"], rank(row)))
        yield from table(
            head,
            [
                [
                    f"{row['streams']}" + (f" ({row['processes']} processes)" if row["processes"] > 1 else ""),
                    row["direction"],
                    SHOWN[row["engine"]],
                    cell(row["packets_per_s"], 0, 1000),
                    cell(row["us_per_packet"]),
                    *(cell(row[name]) for name in ("ratio_to_rtpengine", "cost_ratio_to_rtpengine")),
                    *(cell(row[name]) for name in ("ratio_to_bare", "cost_ratio_to_bare")),
                    f"{row['core_busy'][1]:.0%}",
                ]
                for row in mine
            ],
        )


def latency(rows: list[Row]) -> Iterator[str]:
    for core in dict.fromkeys(row["controller_core"] for row in rows):
        whose = "engine" if core == "engine" else "generator"
        yield f"Controller on the core of the {whose}, {rows[0]['rounds']} rounds:"
        yield ""
        mine = sorted((row for row in rows if row["controller_core"] == core), key=lambda row: (row["case"], rank(row)))
        yield from table(
            ["case", "engine", "p50, us", "p99, us", "p50 to rtpengine", "p99 to rtpengine", "set-ups a burst", "lost"],
            [
                [
                    row["case"],
                    SHOWN[row["engine"]],
                    cell(row["p50_us"], 0),
                    cell(row["p99_us"], 0),
                    cell(row["p50_ratio_to_rtpengine"]),
                    cell(row["p99_ratio_to_rtpengine"]),
                    f"{row['operations_a_burst'][1]:.1f}" if row["operations_a_burst"] else "",
                    str(row["lost"]),
                ]
                for row in mine
            ],
        )


def calls(rows: list[Row]) -> Iterator[str]:
    yield from table(
        [
            "suite",
            "engine",
            "calls without loss",
            "us a packet",
            "calls by that",
            "to rtpengine",
            "by cost",
            "core busy",
        ],
        [
            [
                row["suite"],
                SHOWN[row["engine"]],
                ("at least " if row["lower_bound"] else "") + cell(row["calls"], 0),
                cell(row["us_per_packet"]),
                cell(row["calls_by_cost"], 0),
                cell(row["ratio_to_rtpengine"]),
                cell(row["cost_ratio_to_rtpengine"]),
                f"{row['core_busy'][1]:.0%}",
            ]
            for row in sorted(rows, key=lambda row: (row["suite"], rank(row)))
        ],
    )


def streams(rows: list[Row]) -> Iterator[str]:
    held = [row for row in rows if "set_up" in row]
    head = ["streams", "engine", "set-up, us", "of the engine", "release, us", "of the engine"]
    yield from table(
        [*head, "octets a stream", "kernel's"],
        [
            [
                str(row["streams"]),
                SHOWN[row["engine"]],
                *(cell(row[name], 0) for name in ("set_up", "set_up_cpu", "release", "release_cpu")),
                *(cell(row[name], 0) for name in ("anonymous", "kernel")),
            ]
            for row in sorted(held, key=lambda row: (row["streams"], rank(row)))
        ],
    )
    for row in rows:
        if "octets" in row:
            body = [[name, f"{size:.0f}"] for name, size in row["octets"].items()]
            yield from table(["what a stream is made of", "octets"], body)


def workers(rows: list[Row]) -> Iterator[str]:
    yield from table(
        ["", "workers", "1000 packets/s", "us a packet", "to one worker", "by cost", "cores busy"],
        [
            [
                row["what"],
                str(row["workers"]),
                cell(row["packets_per_s"], 0, 1000),
                cell(row["us_per_packet"]),
                cell(row["ratio_to_one"]),
                cell(row["ratio_to_one_by_cost"]),
                cell(row["cores_busy"]),
            ]
            for row in rows
        ],
    )


def profile(rows: list[Row]) -> Iterator[str]:
    present = [part for part in PARTS if any(part in row["us"] for row in rows)]
    rows = sorted(rows, key=lambda row: (row["suite"], row["direction"], row["streams"], rank(row)))
    yield from table(
        ["suite", "direction", "streams", "engine", "us a packet", *present],
        [
            [
                row["suite"],
                row["direction"],
                str(row["streams"]),
                SHOWN[row["engine"]],
                f"{row['us_per_packet']:.2f}",
                *(f"{row['shares'].get(part, 0):.0%}" for part in present),
            ]
            for row in rows
        ],
    )
    names = list(dict.fromkeys(name for row in rows for name in row["system_calls"]))
    yield "System calls a packet:"
    yield ""
    yield from table(
        ["suite", "direction", "streams", "engine", *names],
        [
            [
                row["suite"],
                row["direction"],
                str(row["streams"]),
                SHOWN[row["engine"]],
                *(f"{row['system_calls'].get(name, 0):.2f}" for name in names),
            ]
            for row in rows
        ],
    )


TABLES = {
    "relay": ("Throughput", throughput),
    "relay_latency": ("Latency", latency),
    "relay_calls": ("Calls a core carries", calls),
    "relay_streams": ("Set-up, release, memory", streams),
    "relay_workers": ("Two workers", workers),
    "relay_profile": ("Where the time goes", profile),
}


def write(rows_in: Path) -> Iterator[str]:
    """Yield the lines of every table there are rows for."""
    for name, (title, make) in TABLES.items():
        path = rows_in / f"{name}.json"
        if rows := read(path):
            machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
            yield f"### {title}"
            yield ""
            yield "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())
            yield ""
            yield from make(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="DIR", default=BUILD, help="where the rows are")
    print("\n".join(write(parser.parse_args().json)))


if __name__ == "__main__":
    main()
