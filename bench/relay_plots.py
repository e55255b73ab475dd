#!/usr/bin/env python3
"""Plots of what the benches of the relay kept: rows in, SVG out.

bench/relay_plots.py [--json DIR] [--docs | --out DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.plot import bars, lines, stacks
from bench.relay_engines import BARE, COMPILED, FROM_SRTP, INTERPRETED, RTPENGINE, TO_SRTP
from bench.relay_latency import CASES, DIRECT
from bench.relay_profile import PARTS
from bench.relay_results import BUILD, Row, read

DOCS = Path(__file__).resolve().parent.parent / "docs" / "performance"
SHOWN = {
    COMPILED: "imslab, compiled",
    INTERPRETED: "imslab, interpreted",
    BARE: "compiled, without crypto",
    RTPENGINE: "rtpengine",
    DIRECT: "no relay",
}
PALETTE = list(SHOWN.values())
IN_THROUGHPUT = 1, 100, 1000, 5000
AIM = 2.0
Files = Iterator[tuple[str, str]]


def ordered(values: Iterable[object]) -> list[object]:
    """Each value once, in order of appearance."""
    return list(dict.fromkeys(values))


def short(suite: str) -> str:
    """Name a suite as file names and titles do."""
    return "AES-GCM" if "AEAD" in suite else "AES-CM"


def throughput(rows: list[Row]) -> Files:
    """One plot of packets a second and two of ratios for each suite."""
    rows = [row for row in rows if row["window"] == 4 and not row.get("reads")]
    for suite in ordered(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        present = sorted({row["streams"] for row in mine})
        counts = [count for count in present if any(abs(count - wanted) <= wanted / 50 for wanted in IN_THROUGHPUT)]
        found = {(row["engine"], row["direction"], row["streams"]): row for row in mine}
        groups = [(direction, count) for direction in (TO_SRTP, FROM_SRTP) for count in counts]
        labels = [f"{count}\n{direction}" for direction, count in groups]
        for what, unit, name, names, aim in (
            ("packets_per_s", 1000.0, "throughput", (COMPILED, INTERPRETED, BARE, RTPENGINE), None),
            ("ratio_to_rtpengine", 1.0, "ratio", (COMPILED, INTERPRETED, BARE), AIM),
            ("cost_ratio_to_rtpengine", 1.0, "cost-ratio", (COMPILED, INTERPRETED, BARE), AIM),
        ):
            series = {}
            for engine in names:
                values = [(found.get((engine, *group)) or {}).get(what) for group in groups]
                series[SHOWN[engine]] = [value and [each / unit for each in value] for value in values]
            title = f"One core, {suite}" + ("" if aim is None else ": ratio to rtpengine")
            title += ", by processor time a packet" if "cost" in name else ""
            y = "1000 packets/s" if aim is None else "times rtpengine"
            if any(any(values) for values in series.values()):
                yield (
                    f"relay-{name}-{short(str(suite))}",
                    bars(title, y, labels, series, x="streams", aim=aim, palette=PALETTE),
                )


def cost(rows: list[Row]) -> Files:
    """Processor time a packet over the number of streams."""
    suite = "AES_CM_128_HMAC_SHA1_80"
    mine = [
        row
        for row in rows
        if row["suite"] == suite and row["direction"] == TO_SRTP and row["window"] == 4 and not row.get("reads")
    ]
    series = {
        SHOWN[engine]: [(row["streams"], row["us_per_packet"]) for row in mine if row["engine"] == engine]
        for engine in (COMPILED, INTERPRETED, BARE, RTPENGINE)
    }
    if mine:
        title = f"Processor time a packet, {TO_SRTP}, {suite}"
        yield "relay-cost", lines(title, "streams", "us/packet", series, palette=PALETTE)


def latency(rows: list[Row]) -> Files:
    """p50 and p99 of each case."""
    for place in ordered(row["controller_core"] for row in rows):
        mine = {(row["engine"], row["case"]): row for row in rows if row["controller_core"] == place}
        names = [name for name in (COMPILED, INTERPRETED, RTPENGINE, DIRECT) if any(key[0] == name for key in mine)]
        for figure in ("p50", "p99"):
            series = {
                SHOWN[name]: [(mine.get((name, case)) or {}).get(f"{figure}_us") for case in CASES] for name in names
            }
            title = f"Latency at 5,000 packets/s, {figure}"
            title += "" if place == "engine" else ", controller on another core"
            suffix = "" if place == "engine" else "-other-core"
            yield f"relay-latency-{figure}{suffix}", bars(title, "us", list(CASES), series, palette=PALETTE)


def calls(rows: list[Row]) -> Files:
    """Calls a core carries."""
    for suite in ordered(row["suite"] for row in rows):
        mine = {row["engine"]: row for row in rows if row["suite"] == suite}
        names = [name for name in (COMPILED, INTERPRETED, BARE, RTPENGINE) if name in mine]
        series = {
            "found without loss": [mine[name]["calls"] for name in names],
            "by processor time a packet": [mine[name]["calls_by_cost"] for name in names],
        }
        title = f"Calls a core carries, 50 packets/s each way, {suite}"
        yield f"relay-calls-{short(str(suite))}", bars(title, "calls", [SHOWN[name] for name in names], series)


def shares(rows: list[Row]) -> Files:
    """Where the processor time of a packet goes."""
    for suite in ordered(row["suite"] for row in rows):
        for direction in ordered(row["direction"] for row in rows):
            mine = [row for row in rows if row["suite"] == suite and row["direction"] == direction]
            mine.sort(key=lambda row: (row["streams"], list(SHOWN).index(row["engine"])))
            present = [part for part in PARTS if any(part in row["us"] for row in mine)]
            series = {part: [row["us"].get(part, 0.0) for row in mine] for part in present}
            labels = [f"{row['engine']}\n{row['streams']}" for row in mine]
            if mine:
                name = f"relay-shares-{short(str(suite))}-{'to' if direction == TO_SRTP else 'from'}-srtp"
                yield (
                    name,
                    stacks(f"Where the time goes, {direction}, {suite}", "us/packet", labels, series, palette=PARTS),
                )


PLOTS: dict[str, tuple[Callable[[list[Row]], Files], ...]] = {
    "relay": (throughput, cost),
    "relay_latency": (latency,),
    "relay_calls": (calls,),
    "relay_profile": (shares,),
}


def draw(rows_in: Path, out: Path) -> list[Path]:
    """Draw what there are rows for; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plots in PLOTS.items():
        rows = read(rows_in / f"{name}.json")
        for plot in plots if rows else ():
            for file, svg in plot(rows):
                written.append(out / f"{file}.svg")
                written[-1].write_text(svg, encoding="utf-8")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="DIR", default=BUILD, help="where the rows are")
    parser.add_argument("--out", type=Path, metavar="DIR", default=BUILD)
    parser.add_argument("--docs", action="store_true", help="draw into docs/performance")
    options = parser.parse_args()
    for path in draw(options.json, DOCS if options.docs else options.out):
        print(path.name)


if __name__ == "__main__":
    main()
