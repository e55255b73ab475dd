"""Run every bench in its short form and print the ratios; ``--json DIR`` keeps each one's rows."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHES = {
    "relay": ["--streams", "1", "100", "1000"],
    "sba": [],
    "up": [],
    "calls": [],
    "tracing": [],
    "console": ["--calls", "1000"],
    "kms": ["--operations", "50", "--tickets", "100", "10000", "100000"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="DIR", default=HERE.parent / "build" / "bench")
    parser.add_argument("--only", action="append", choices=sorted(BENCHES))
    options = parser.parse_args()
    options.json.mkdir(parents=True, exist_ok=True)
    status = 0
    for name, arguments in BENCHES.items():
        if options.only and name not in options.only:
            continue
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", str(options.json / f"{name}.json")]
        status |= subprocess.run(command, cwd=HERE.parent, check=False).returncode
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
