"""Time from ``imslab up`` to a lab whose every node serves, and the memory of each node (PSS and RSS).

``cold`` starts in an empty state folder (certificates and keys are made), ``warm`` in one that was used before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
AIM_S = 6.0
AIM_MIB = 80.0
COMMAND = [sys.executable, "-m", "lab"]


def imslab(*arguments: str, state: Path) -> Any:
    done = subprocess.run(
        [*COMMAND, *arguments, "--json", "--state", str(state)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"imslab {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def memory(pid: int) -> tuple[float, float]:
    """PSS and RSS of a process and its helpers, MiB."""
    totals = {"Pss": 0, "Rss": 0}
    for each in [pid, *children(pid)]:
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in totals:
                totals[name] += int(value.split()[0])
    return totals["Pss"] / 1024, totals["Rss"] / 1024


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--settle", type=float, default=1.0, help="seconds between up and the look at memory")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    pss: dict[str, list[float]] = {}
    rss: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="imslab-bench-") as folder:
        for run in range(options.runs):
            state = Path(folder) / f"run-{run}"
            for kind in ("cold", "warm"):
                began = time.monotonic()
                rows = imslab("up", state=state)["nodes"]
                times[kind].append(time.monotonic() - began)
                if kind == "warm":
                    time.sleep(options.settle)
                    supervisor = int((state / "supervisor.pid").read_text())
                    own = {row["instance"]: int(row["pid"]) for row in rows}
                    for name, pid in own.items():
                        node_pss, node_rss = memory(pid)
                        pss.setdefault(name, []).append(node_pss)
                        rss.setdefault(name, []).append(node_rss)
                    for line in Path(f"/proc/{supervisor}/smaps_rollup").read_text().splitlines():
                        name, _, value = line.partition(":")
                        if name in ("Pss", "Rss"):
                            (pss if name == "Pss" else rss).setdefault("supervisor", []).append(
                                int(value.split()[0]) / 1024
                            )
                imslab("down", state=state)
    result: list[dict[str, Any]] = []
    for kind, values in times.items():
        row = {"what": f"up {kind}", "seconds": spread(values), "ratio_to_aim": spread([v / AIM_S for v in values])}
        result.append(row)
        s, r = row["seconds"], row["ratio_to_aim"]
        print(
            f"up {kind:5} {s['min']:5.2f} / {s['median']:5.2f} / {s['max']:5.2f} s,"
            f" of the aim of {AIM_S:.0f} s: {r['min']:.2f} / {r['median']:.2f} / {r['max']:.2f}"
        )
    for name, values in pss.items():
        row = {"what": "memory", "node": name, "pss_mib": spread(values), "rss_mib": spread(rss[name])}
        row["ratio_to_aim"] = spread([value / AIM_MIB for value in values])
        result.append(row)
        p, r = row["pss_mib"], row["rss_mib"]
        print(f"{name:12} PSS {p['median']:6.1f} MiB (max {p['max']:6.1f})  RSS {r['median']:6.1f} MiB")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
