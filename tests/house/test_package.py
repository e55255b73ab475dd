"""The built package holds what an installed `imslab` needs without a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = """
import sys
from setuptools import build_meta
print(build_meta.build_wheel(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    names = files.stdout.splitlines() if files.returncode == 0 else []
    if not names:  # an unpacked archive has no git
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    for name in names:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "build/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(folder / built.stdout.splitlines()[-1])


def test_wheel_holds_the_default_lab_the_contracts_and_their_code(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert wheel.read("lab/lab.yaml") == (ROOT / "config" / "lab.yaml").read_bytes()
    for proto in (ROOT / "protos").glob("*.proto"):
        assert f"protos/{proto.name}" in names
        assert f"protos/{proto.stem}_pb2.py" in names
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert b"imslab = " in wheel.read(entry)


def test_wheel_holds_the_migrations_of_every_kind_and_what_runs_and_writes_them(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    steps = {str(path.relative_to(ROOT)) for path in (ROOT / "nodes").glob("*/migrations/*.py")}
    assert len(steps) >= 2 * 7
    assert steps <= names
    assert {"sba/migrations/env.py", "sba/migrations/run.py", "sba/migrations/script.py.mako"} <= names


def test_wheel_holds_no_tests_and_no_build_leftovers(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/", 1)[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "keying",
        "lab",
        "media",
        "nodes",
        "protos",
        "sba",
        "signalling",
    }
