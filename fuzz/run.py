"""Run every coverage-guided fuzz target in this folder, one after the other.

``python fuzz/run.py --seconds 600`` runs each ``fuzz_*.py`` for ten minutes from its seeds in
``fuzz/seeds/<name>`` and keeps a corpus under ``build/fuzz``. ``fuzz_*.c`` is compiled before (clang with libFuzzer,
Debian: clang), its seeds are written by ``seeds_<name>.py``; without clang it is left out, and named. A finding stops
the run with status 1 and leaves the input beside the corpus; add it to the fixtures of the tests.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLANG = "clang"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("--target", action="append", help="only this one, e.g. sip")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time")
    options = parser.parse_args()
    targets = sorted((*HERE.glob("fuzz_*.py"), *HERE.glob("fuzz_*.c")))
    if options.target:
        targets = [path for path in targets if path.stem.removeprefix("fuzz_") in options.target]
    failed: list[str] = []
    if shutil.which(CLANG) is None:
        for path in [path for path in targets if path.suffix == ".c"]:
            targets.remove(path)
            print(f"{path.stem.removeprefix('fuzz_')}: left out, {CLANG} is not installed", flush=True)
            if options.target:  # it was asked for by name
                failed.append(path.stem.removeprefix("fuzz_"))
    waiting = list(targets)
    while waiting:
        batch, waiting = waiting[: options.jobs], waiting[options.jobs :]
        running = [(path.stem.removeprefix("fuzz_"), start(path, options.seconds)) for path in batch]
        for name, process in running:
            if process.wait() != 0:
                failed.append(name)
            print(f"{name}: {'FINDING' if name in failed else 'clean'} after {options.seconds} s", flush=True)
    if failed:
        print(f"findings in: {', '.join(failed)}; inputs are under build/fuzz", file=sys.stderr)
    return 1 if failed else 0


def start(path: Path, seconds: int) -> subprocess.Popen[bytes]:
    name = path.stem.removeprefix("fuzz_")
    corpus = HERE.parent / "build" / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = HERE / "seeds" / name
    program = [sys.executable, str(path)]
    if path.suffix == ".c":
        seeds = corpus.parent / f"{name}.seeds"
        subprocess.run([sys.executable, str(HERE / f"seeds_{name}.py"), str(seeds)], check=True)
        program = [str(compiled(path, corpus.parent / f"fuzz_{name}"))]
    command = [*program, f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10"]
    command += [f"-artifact_prefix={corpus}/finding-", "-print_final_stats=1", str(corpus)]
    if seeds.is_dir():
        command.append(str(seeds))
    log = (corpus.parent / f"{name}.log").open("wb")
    return subprocess.Popen(command, cwd=HERE.parent, stdout=log, stderr=log)


def compiled(path: Path, program: Path) -> Path:
    flags = ["-std=c11", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    subprocess.run([CLANG, *flags, str(path), "-o", str(program), "-lm", "-lpthread"], check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
