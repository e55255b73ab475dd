"""Compile the contracts of a package: no command of its own is needed before a test or the lab uses it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import protos
from sba.errors import ContractError


def stale_contracts(folder: Path, modules: Iterable[str]) -> list[Path]:
    """Return the .proto files below the top-level ``modules`` in ``folder`` whose code is missing or older."""
    found = sorted(path for module in modules for path in (folder / module).rglob("*.proto"))
    return [path for path in found if not _is_fresh(path)]


def _is_fresh(contract: Path) -> bool:
    try:
        made = contract.with_name(f"{contract.stem}_pb2.py").stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return made >= contract.stat().st_mtime_ns


def compile_contracts(folder: Path, modules: Iterable[str]) -> list[Path]:
    """Compile what :func:`stale_contracts` finds and return it; the code is written beside each contract.

    Raises :class:`ContractError` with the compiler's own message, or when there is no compiler.
    """
    stale = stale_contracts(folder, modules)
    if not stale:
        return []
    if find_spec("grpc_tools") is None:
        raise ContractError("there is no contract compiler here; install it with: pip install grpcio-tools")
    includes = [folder, Path(protos.__file__).resolve().parents[1]]
    command = [sys.executable, "-P", "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    command += [f"--python_out={folder}", f"--pyi_out={folder}"]
    command += [path.relative_to(folder).as_posix() for path in stale]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise ContractError(f"the contracts in {folder} do not compile: {said}")
    return stale
