"""The package as somebody installs it: a wheel of the files under version control, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = """
import sys
from setuptools import build_meta
if sys.argv[1] == "sdist":
    print(build_meta.build_sdist(sys.argv[2]))
else:
    print(build_meta.build_wheel(sys.argv[2]))
"""
WITHOUT_COMPILER = {"CC": "false"}
"""The environment of a machine on which nothing compiles."""


def source(folder: Path, leave_out: tuple[str, ...] = ("tests/", "build/")) -> Path:
    """Copy what a checkout has, without what was built there and what is left out; returns the copy."""
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    names = files.stdout.splitlines() if files.returncode == 0 else []
    if not names:  # an unpacked archive has no git
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in found if ".venv" not in path.parts and path.suffix != ".so"]
    for name in names:
        if (ROOT / name).is_file() and not name.startswith(leave_out):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build(kind: str, of: Path, into: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Build a ``wheel`` or ``sdist`` of the sources in a folder; returns the file."""
    built = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(into)],
        cwd=of,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return into / built.stdout.splitlines()[-1]


def install(wheel: Path, into: Path) -> dict[str, str]:
    """Install without dependencies; returns the environment in which that installation comes before every other."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(into)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, timeout=120)
    return {**os.environ, "PYTHONPATH": str(into)}
