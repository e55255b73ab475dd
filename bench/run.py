"""Run every bench in its short form and print the ratios; ``--json DIR`` keeps rows, and plots of the relay's.

``--docs`` draws the plots into docs/performance; ``--recorded`` runs the relay's benches in the long form whose
figures docs/performance.md has, in parts of a few minutes each (``--part N`` runs one of them).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench import relay_plots, relay_tables  # noqa: E402 - found through the line above

CM, GCM = "AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"
Bench = tuple[str, list[str]]
SHORT: list[Bench] = [
    ("relay", ["--streams", "1", "100", "1000", "--rounds", "3", "--seconds", "0.4"]),
    ("relay", ["--streams", "100", "--suite", GCM, "--rounds", "3", "--seconds", "0.4"]),
    ("relay_latency", ["--rounds", "3"]),
    ("relay_calls", ["--seconds", "1"]),
    ("relay_streams", ["--rounds", "1"]),
    ("relay_workers", ["--rounds", "3"]),
    ("relay_profile", ["--streams", "100", "--seconds", "1"]),
    ("sba", []),
    ("up", []),
    ("calls", []),
    ("tracing", []),
    ("console", ["--calls", "1000"]),
    ("kms", ["--operations", "50", "--tickets", "100", "10000", "100000"]),
]
RECORDED: list[Bench] = [
    *(
        ("relay", ["--streams", *streams, "--suite", suite, "--rounds", "7", "--seconds", "0.5"])
        for suite in (CM, GCM)
        for streams in (["1", "100"], ["1000"], ["5000"])
    ),
    ("relay", ["--streams", "10", "300", "--direction", "RTP->SRTP", "--rounds", "7", "--seconds", "0.5"]),
    ("relay", ["--streams", "3000", "10000", "--direction", "RTP->SRTP", "--rounds", "7", "--seconds", "0.5"]),
    ("relay", ["--streams", "100", "1000", "--direction", "RTP->SRTP", "--rounds", "7", "--window", "1"]),
    ("relay", ["--streams", "100", "--suite", CM, GCM, "--rounds", "7", "--read"]),
    ("relay_latency", ["--rounds", "9", "--seconds", "2"]),
    ("relay_latency", ["--rounds", "9", "--seconds", "2", "--controller-core", "own"]),
    *(("relay_calls", ["--suite", suite, "--rounds", "3", "--seconds", "2"]) for suite in (CM, GCM)),
    ("relay_streams", ["--streams", "100", "1000", "5000", "--rounds", "7"]),
    ("relay_workers", ["--rounds", "9", "--seconds", "2"]),
    ("relay_profile", ["--streams", "1", "100", "1000", "5000", "--suite", CM]),
    ("relay_profile", ["--streams", "100", "1000", "--suite", CM, GCM, "--direction", "SRTP->RTP"]),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="DIR", default=HERE.parent / "build" / "bench")
    parser.add_argument("--only", action="append", choices=sorted({name for name, _ in SHORT}), help="this bench alone")
    parser.add_argument("--recorded", action="store_true", help="the relay alone, in its long form")
    parser.add_argument(
        "--part", type=int, action="append", choices=range(len(RECORDED)), metavar="N", help="the Nth alone, from 0"
    )
    parser.add_argument("--docs", action="store_true", help="draw the plots into docs/performance")
    options = parser.parse_args()
    options.json.mkdir(parents=True, exist_ok=True)
    status = 0
    for number, (name, arguments) in enumerate(RECORDED if options.recorded else SHORT):
        if (options.only and name not in options.only) or (options.part and number not in options.part):
            continue
        print(f"== {name} {' '.join(arguments)}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--json", str(options.json / f"{name}.json")]
        status |= subprocess.run(command, cwd=HERE.parent, check=False).returncode
    drawn = relay_plots.draw(options.json, relay_plots.DOCS if options.docs else options.json)
    tables = options.json / "relay.md"
    tables.write_text("\n".join(relay_tables.write(options.json)), encoding="utf-8")
    print(f"{len(drawn)} plots, {tables.name} with the tables")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
