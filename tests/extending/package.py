"""Packages for tests: written by hand where what is wrong with them matters, and the commands to look at them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.lab import ROOT

ENTRY = '[project.entry-points."imslab.nodes"]\nodd = "odd_nf.node:Odd"\n'
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def run(*command: str, cwd: Path = ROOT, path: tuple[Path, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the programs of this environment on PATH and ``path`` on PYTHONPATH."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        **more,
    }
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=100)


def imslab(*arguments: str, cwd: Path = ROOT, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "lab.cli", *arguments, cwd=cwd, path=(*path, ROOT))


def small_package(folder: Path, entries: str = ENTRY, *, name: str = "odd-nf", module: str = "odd_nf") -> Path:
    """Write a package of one module that brings the kind ``odd``; returns its folder."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").touch()
    (folder / module / "node.py").write_text(
        "from sba import NetworkFunction\n\n\nclass Odd(NetworkFunction):\n    nf_types = ('AF',)\n"
    )
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "1.0"\n\n{entries}')
    return folder


def tool(name: str) -> str:
    """A program of the lint extra; without it the test fails in CI and is skipped elsewhere."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed (the lint extra)")
    return str(program)
