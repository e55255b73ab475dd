"""Every test, in passes: ``python -m tests.passes [--results FILE] [PYTEST ARGUMENTS]``.

First what needs no lab, then whole labs, then what fills every core, then containers. Where a process may have a network
of its own, the first two passes run in several workers, each with a loopback of its own: ports and addresses never meet. What
fills every core runs in one, where no datagram of anything else on this machine arrives. Elsewhere the same tests run one
after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import namespace

MOST_WORKERS = 2
"""Labs side by side: more of them than cores make media late."""
WORKERS_MORE = 1
"""Workers beyond the cores for tests that wait as much as they work."""
SLOWEST = 15
"""Tests whose times a pass tells at its end."""
NOTHING_COLLECTED = 5


@dataclass(frozen=True)
class Pass:
    """Tests that run together."""

    name: str
    expression: str
    most_workers: int = MOST_WORKERS
    """Workers with a network of their own; 0: these tests need the machine's."""
    workers_more: int = 0


PASSES = (
    Pass("engines and nodes", "not lab and not compose and not load", workers_more=WORKERS_MORE),
    Pass("labs", "lab and not compose and not load"),
    Pass("floods and soak", "load and not compose", most_workers=1),
    Pass("containers", "compose", most_workers=0),
)


def workers() -> int:
    """Return how many workers there may be, each with a network of its own; 0 where none may have one."""
    return len(os.sched_getaffinity(0)) if namespace.possible() else 0


def command(one: Pass, count: int, results: Path | None, arguments: Sequence[str]) -> list[str]:
    """Return the command of a pass."""
    made = [sys.executable, "-m", "pytest", "-m", one.expression, "--durations", str(SLOWEST), "--durations-min", "5"]
    if side_by_side := min(count, one.most_workers):
        made += ["-n", str(side_by_side + one.workers_more), "--dist", "loadfile", "--own-network"]
    if results is not None:
        made += ["--results", str(results)]
    return [*made, *arguments]


def run(results: Path | None, arguments: Sequence[str]) -> int:
    """Run every pass, also after one that failed; return the first exit status that is not 0."""
    status, merged, count = 0, {}, workers()
    with tempfile.TemporaryDirectory(prefix="imslab-results-") as folder:
        for number, one in enumerate(PASSES):
            part = Path(folder) / f"{number}.json" if results is not None else None
            began = time.monotonic()
            ended = subprocess.run(command(one, count, part, arguments), check=False).returncode
            sys.stdout.write(f"--- {one.name}: {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()
            if ended == 2:  # interrupted: by somebody who wants no further pass either
                return ended
            if ended not in (0, NOTHING_COLLECTED):
                status = status or ended
            if part is not None and part.exists():
                merged.update(json.loads(part.read_text("utf-8")))
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(merged, indent=1, sort_keys=True) + "\n")
    return status


def main() -> int:
    """Read the command line; what is not ours goes to pytest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="write every test's clauses and outcome as JSON")
    options, arguments = parser.parse_known_args()
    return run(options.results, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
