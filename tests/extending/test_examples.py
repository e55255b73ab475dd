"""Each package under examples/: its own tests, the rules of the house, its README."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import fences
from tests.docs.test_commands import Reader
from tests.e2e.lab import ROOT
from tests.extending.package import run, tool

pytest.importorskip("grpc_tools", reason="the contract compiler is the build extra")
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/pyproject.toml"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples as a checkout has them: nothing generated."""
    target = tmp_path_factory.mktemp("examples")
    shutil.copytree(
        ROOT / "examples", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*_pb2.*", "__pycache__")
    )
    return target


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_example_passes_its_own_tests_and_keeps_the_rules(copied: Path, example: str) -> None:
    folder = copied / example
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    ruff = tool("ruff")
    for command in ((ruff, "check", "--no-cache", "."), (ruff, "format", "--no-cache", "--check", ".")):
        linted = run(*command, cwd=folder)
        assert linted.returncode == 0, linted.stdout
    typed = run(tool("mypy"), "--cache-dir", str(folder / ".mypy_cache"), cwd=folder, MYPYPATH=str(ROOT))
    assert typed.returncode == 0, typed.stdout


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    someone = Reader(tmp_path)
    try:
        yield someone
    finally:
        someone.run("imslab down")


@pytest.mark.lab
@pytest.mark.timeout(200)
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_readme_of_an_example_runs_as_written(reader: Reader, example: str) -> None:
    page = f"examples/{example}/README.md"
    mine = [fence for fence in fences(page) if fence.played_by]
    assert mine
    for fence in mine:
        reader.play_fence(fence)
