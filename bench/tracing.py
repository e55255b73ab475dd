"""What tracing costs: calls per core-second with no call traced, with every tenth and with all.

Three labs stand side by side, alike but for ``trace_sampling``; the same calls as in bench/calls.py go through one
after the other, in another order each round, so whatever else the machine does hits all three. Counted is the processor
time of all nodes (not of the generator), so a busy machine makes a run longer and not dearer. Prints calls per
core-second, their ratio to the untraced lab of the same round, and what the supervisor uses to take the spans in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.calls import cpu_ms, description, imslab, load, spread

LEVELS = (0.0, 0.1, 1.0)
"""Shares of calls that are traced; the first is what the others are compared with."""
SETTLE_S = 1.5
"""Time after a round in which spans still leave the nodes and are written, s; it is counted."""


@dataclass
class Standing:
    """A lab that is up: its share of traced calls, state folder, processes and operator."""

    level: float
    state: Path
    pids: dict[str, int]
    operator: Any = None


def start(folder: Path, level: float, pairs: int) -> Standing:
    state = folder / "state"
    folder.mkdir()
    nodes = imslab("up", "--config", str(description(folder, pairs, level)), state=state)["nodes"]
    pids = {node["instance"]: int(node["pid"]) for node in nodes}
    pids["supervisor"] = int((state / "supervisor.pid").read_text())
    return Standing(level, state, pids)


async def one_round(lab: Standing, options: argparse.Namespace) -> dict[str, float]:
    before = cpu_ms(lab.pids)
    outcome = await load(lab.operator, options.pairs, options.rate, options.seconds)
    await asyncio.sleep(SETTLE_S)
    used = {name: after - before[name] for name, after in cpu_ms(lab.pids).items()}
    supervisor = used.pop("supervisor")
    calls = max(1.0, outcome["established"] * int(options.rate * options.seconds))
    return {
        "calls": calls,
        "answered": outcome["established"],
        "calls_per_core_s": 1000 * calls / sum(used.values()),
        "node_ms_per_call": sum(used.values()) / calls,
        "supervisor_ms_per_call": supervisor / calls,
    }


async def measure(labs: list[Standing], options: argparse.Namespace) -> list[dict[str, Any]]:
    from lab.labfile import LabFile
    from lab.operator import Operator

    for lab in labs:
        described = LabFile.read(lab.state / "lab.json")
        lab.operator = Operator(lab.state / "lab.json", described.nodes)
        for user in described.users:
            if not (await lab.operator.register(user)).registered:
                raise SystemExit(f"{user} could not register")
            if user.startswith("callee"):
                await lab.operator.behave(user, {"answer_after_s": "0", "media": "off", "ring": "false"})
        await load(lab.operator, options.pairs, options.rate, 2.0)  # connections, caches, tokens
    rounds: list[dict[float, dict[str, float]]] = []
    for number in range(options.runs):
        order = labs[number % len(labs) :] + labs[: number % len(labs)]
        rounds.append({lab.level: await one_round(lab, options) for lab in order})
    for lab in labs:
        await lab.operator.close()
    rows = []
    for level in LEVELS:
        mine = [found[level] for found in rounds]
        untraced = [found[LEVELS[0]] for found in rounds]
        ratios = [one["calls_per_core_s"] / none["calls_per_core_s"] for one, none in zip(mine, untraced, strict=True)]
        row = {key: spread([one[key] for one in mine]) for key in mine[0]}
        rows.append({"sampling": level, "rounds": options.runs, "rate": options.rate, **row, "ratio": spread(ratios)})
        rate, ratio, dearer = row["calls_per_core_s"], rows[-1]["ratio"], row["supervisor_ms_per_call"]
        print(
            f"{100 * level:3.0f} % traced: {rate['min']:.1f} / {rate['median']:.1f} / {rate['max']:.1f} calls per"
            f" core-second, {ratio['min']:.2f} / {ratio['median']:.2f} / {ratio['max']:.2f} of the untraced;"
            f" supervisor {dearer['median']:.1f} ms a call; answered {100 * row['answered']['min']:.0f} %",
            flush=True,
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rate", type=float, default=8.0, help="calls per second offered")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one run")
    parser.add_argument("--runs", type=int, default=3, help="rounds; 7 and more for figures that are kept")
    parser.add_argument("--pairs", type=int, default=2, help="calling and called UEs of each lab")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    labs: list[Standing] = []
    with tempfile.TemporaryDirectory(prefix="imslab-bench-") as folder:
        from sba import runtime

        try:
            for number, level in enumerate(LEVELS):
                labs.append(start(Path(folder) / str(number), level, options.pairs))
            runtime.install()

            async def run() -> int:
                rows.extend(await measure(labs, options))
                return 0

            status = runtime.run(run)
        finally:
            for lab in labs:
                imslab("down", state=lab.state)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"processors": os.cpu_count(), "load_average": os.getloadavg()}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
