"""The tests of the relay with its packet loop under ASan and UBSan: ``python -m tests.sanitize [PYTEST ARGUMENTS]``.

Builds the extension with ``-fsanitize=address,undefined`` in a copy of the checkout, ``build/sanitized``, and runs the
tests there, with the interpreter on the system's allocator so that its buffers are guarded, too. Worker processes that
tests start are watched like the tests themselves. Ends with another status than 0 where a test fails or anything was
reported anywhere. Needs gcc with its sanitizers (Debian: gcc).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.wheel import ROOT, source

PLACE = ROOT / "build" / "sanitized"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
RUNTIMES = ("libasan.so", "libubsan.so")
OPTIONS = {
    # Leaks: the interpreter frees not everything at its end. Mismatches: other libraries in the process, in C++.
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:exitcode=99:alloc_dealloc_mismatch=0:detect_odr_violation=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
}
REPORTED = (": runtime error: ", "ERROR: AddressSanitizer", "AddressSanitizer:DEADLYSIGNAL")
TESTS = (
    "tests/relay",
    "-n",
    "2",
    "-m",
    "not load",  # they measure what a slower loop cannot give
    "-k",
    "not interpreted",
    "--deselect",
    "tests/relay/test_threads.py::test_threads_race_for_nothing",  # a program under another sanitizer
)


def runtimes(compiler: str) -> list[str]:
    """The sanitizers' libraries of a compiler."""
    found = []
    for name in RUNTIMES:
        asked = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        place = asked.stdout.strip()
        if not Path(place).is_absolute():
            raise SystemExit(f"{compiler} has no {name}")
        found.append(place)
    return found


def build(compiler: str) -> Path:
    """Copy the checkout and build the extension there; returns it."""
    shutil.rmtree(PLACE, ignore_errors=True)
    source(PLACE, leave_out=("build/",))
    environment = {**os.environ, "CC": compiler, "CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined"}
    environment["PYTHONPATH"] = str(PLACE)
    for command in (["protos/generate.py"], ["setup.py", "-q", "build_ext", "--inplace"]):
        subprocess.run([sys.executable, *command], cwd=PLACE, env=environment, check=True, stdout=subprocess.DEVNULL)
    for extension in (PLACE / "media" / "relay").glob("_packet_loop.*.so"):
        if b"__asan_report" in extension.read_bytes():
            return extension
    raise SystemExit("the extension was not built, or without sanitizers")


def run(arguments: Sequence[str]) -> int:
    """Build, run the tests, and show every report."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("gcc is not installed (Debian package gcc)")
    preload = " ".join(runtimes(compiler))
    build(compiler)
    environment = {**os.environ, **OPTIONS, "PYTHONPATH": str(PLACE), "LD_PRELOAD": preload, "PYTHONMALLOC": "malloc"}
    # what is reported goes to the descriptor of standard error, in the tests and in processes that they start
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider", *(arguments or TESTS)]
    reports = 0
    with subprocess.Popen(
        command,
        cwd=PLACE,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            reports += any(mark in line for mark in REPORTED)
    sys.stdout.write(f"{reports} reports of sanitizers, tests ended with {process.returncode}\n")
    return process.returncode or (1 if reports else 0)


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))
