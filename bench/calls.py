"""Call set-ups through all nodes: open-loop arrivals at a stated rate, e2ae SDES, signalling only (UE media off).

Each call runs INVITE to 200 and ACK through UE, P-CSCF, S-CSCF, P-CSCF, UE with two IMS-AGWs reserved, stays up for a
moment and is ended by BYE. Arrivals do not wait for earlier calls, so a slow system shows in the tail, not in a lower
load. Prints established calls per second and set-up time, min / median / max over the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

AIM_P99_MS = 250.0
COMMAND = [sys.executable, "-m", "lab"]
TALK_S = 0.2


def imslab(*arguments: str, state: Path) -> Any:
    done = subprocess.run(
        [*COMMAND, *arguments, "--json", "--state", str(state)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"imslab {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def description(folder: Path, pairs: int, sampling: float) -> Path:
    """The repository's lab with ``pairs`` callers on one access and as many callees on the other."""
    lab = yaml.safe_load((ROOT / "config" / "lab.yaml").read_text())
    lab["trace_sampling"] = sampling
    for access in lab["access_networks"]:
        access |= {"max_sessions": 0, "max_streams": 0}  # a few users place all the calls
    lab["users"] = []
    for index in range(pairs):
        for side, name in enumerate(("caller", "callee")):
            number = 2 * index + side + 1
            lab["users"].append(
                {
                    "name": f"{name}{index}",
                    "domain": "ims.test",
                    "impi": f"0010100000{number:05}@ims.test",
                    "access": lab["access_networks"][side]["name"],
                    "announces": ["sdes-srtp"],
                }
            )
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump(lab, sort_keys=False))
    return path


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def cpu_ms(pids: dict[str, int]) -> dict[str, float]:
    """Processor time each node has used, ms, its helper processes (a gateway's packet loop) included."""
    from bench.up import children

    tick = 1000 / os.sysconf("SC_CLK_TCK")
    used = dict.fromkeys(pids, 0.0)
    for name, pid in pids.items():
        for each in [pid] if name in ("supervisor", "generator") else [pid, *children(pid)]:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            used[name] += (int(fields[11]) + int(fields[12])) * tick
    return used


async def load(operator: Any, pairs: int, rate: float, seconds: float) -> dict[str, Any]:
    """One run: calls arrive every 1/rate seconds for ``seconds``."""
    from protos import ue_control_pb2
    from sba.errors import RemoteProblem

    setups: list[float] = []
    refused: dict[str, int] = {}

    async def call(index: int) -> None:
        request = ue_control_pb2.CallRequest(
            target=f"sip:callee{index % pairs}@ims.test", security="e2ae-sdes", seconds=TALK_S,
            options={"media": "off", "reliable": "off"},
        )  # fmt: skip
        outcome = "no answer"
        try:
            async for event in operator.call(f"caller{index % pairs}", request):
                if event.state == "established" and outcome != "established":
                    outcome = "established"
                    setups.append(event.setup_ms)
                elif event.state == "ended" and outcome != "established":
                    outcome = f"{event.sip_status} {event.reason}"
        except RemoteProblem as problem:
            outcome = str(problem)
        if outcome != "established":
            refused[outcome] = refused.get(outcome, 0) + 1

    began = time.monotonic()
    running = []
    late = 0.0
    for index in range(int(rate * seconds)):
        wait = began + index / rate - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        late = max(late, -wait)
        running.append(asyncio.create_task(call(index)))
    await asyncio.gather(*running)
    took = time.monotonic() - began - TALK_S
    return {
        "established_per_s": len(setups) / took,
        "setup_ms_p50": percentile(setups, 0.5),
        "setup_ms_p99": percentile(setups, 0.99),
        "established": len(setups) / len(running),
        "refused": refused,
        "generator_late_ms": late * 1000,
    }


async def measure(state: Path, pids: dict[str, int], options: argparse.Namespace) -> list[dict[str, Any]]:
    from lab.labfile import LabFile
    from lab.operator import Operator

    operator = Operator(state / "lab.json", LabFile.read(state / "lab.json").nodes)
    for index in range(options.pairs):
        for name in (f"caller{index}", f"callee{index}"):
            answer = await operator.register(name)
            if not answer.registered:
                raise SystemExit(f"{name} could not register: {answer.sip_status} {answer.reason}")
        await operator.behave(f"callee{index}", {"answer_after_s": "0", "media": "off", "ring": "false"})
    await load(operator, options.pairs, 5, 2)  # connections, tokens and caches are there before anything counts
    rows = []
    for rate in options.rate:
        before = cpu_ms(pids)
        runs = [await load(operator, options.pairs, rate, options.seconds) for _ in range(options.runs)]
        calls = options.runs * int(rate * options.seconds)
        cpu = {name: (used - before[name]) / calls for name, used in cpu_ms(pids).items()}
        figures = ("established_per_s", "setup_ms_p50", "setup_ms_p99", "established", "generator_late_ms")
        row: dict[str, Any] = {"offered_per_s": rate, "runs": options.runs, "seconds": options.seconds}
        row |= {name: spread([run[name] for run in runs]) for name in figures}
        row["ratio_to_offered"] = spread([run["established_per_s"] / rate for run in runs])
        row["ratio_to_aim"] = spread([run["setup_ms_p99"] / AIM_P99_MS for run in runs])
        row["cpu_ms_per_call"] = cpu
        row["sampling"] = options.sampling
        row["refused"] = [run["refused"] for run in runs if run["refused"]]
        rows.append(row)
        share = 100 * row["established"]["min"]
        e, f, n = row["established_per_s"], row["setup_ms_p50"], row["setup_ms_p99"]
        print(
            f"{rate:5.0f} calls/s offered: {e['min']:.1f} / {e['median']:.1f} / {e['max']:.1f} established;"
            f" set-up p50 {f['median']:.0f} ms, p99 {n['min']:.0f} / {n['median']:.0f} / {n['max']:.0f} ms;"
            f" {sum(cpu.values()):.0f} ms of processor time a call; answered {share:.1f} % {row['refused'][:1] or ''}",
            flush=True,
        )
        print("        " + ", ".join(f"{name} {used:.1f}" for name, used in cpu.items()), flush=True)
    await operator.close()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rate", type=float, nargs="+", default=[10.0, 25.0, 50.0], help="calls per second offered")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2, help="calling and called UEs")
    parser.add_argument("--sampling", type=float, default=1.0, help="share of calls traced")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imslab-bench-") as folder:
        state = Path(folder) / "state"
        config = description(Path(folder), options.pairs, options.sampling)
        nodes = imslab("up", "--config", str(config), state=state)["nodes"]
        pids = {node["instance"]: int(node["pid"]) for node in nodes}
        pids["supervisor"] = int((state / "supervisor.pid").read_text())
        pids["generator"] = os.getpid()
        from sba import runtime

        runtime.install()
        rows: list[dict[str, Any]] = []

        async def run() -> int:
            rows.extend(await measure(state, pids, options))
            return 0

        try:
            status = runtime.run(run)
        finally:
            imslab("down", state=state)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
