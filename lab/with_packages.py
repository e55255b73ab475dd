"""Packages of others in a lab: ``imslab up --with DIR``, and what a state folder remembers of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from lab.config import ExtraNode, LabConfig
from lab.config_problems import problems_of
from lab.state import StateFolder
from sba.contract_build import compile_contracts
from sba.errors import ConfigurationError, ContractError
from sba.packages import Package, PackageError, check_together, extend_path, module_path, read_package, write_metadata
from sba.pki import write_private
from sba.run import node_class


def _record(folder: StateFolder) -> dict[str, tuple[str, ...]]:
    try:
        content = json.loads(folder.packages.read_text("utf-8"))
        return {name: tuple(map(str, content[name])) for name in ("folders", "path")}
    except (FileNotFoundError, NotADirectoryError):
        return {"folders": (), "path": ()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackageError(f"{folder.packages} cannot be read ({error}); remove it") from None


def remembered(folder: StateFolder) -> tuple[Path, ...]:
    """Return the folders that the last ``up --with`` of this lab named; raises :class:`PackageError` when damaged."""
    return tuple(map(Path, _record(folder)["folders"]))


def package_path(folder: StateFolder) -> tuple[str, ...]:
    """Return what the nodes of a lab have at the end of their ``sys.path``, as :func:`remember` left it.

    Raises :class:`PackageError` when the record is damaged.
    """
    return _record(folder)["path"]


def prepare(folder: StateFolder, folders: Sequence[Path] | None) -> tuple[Package, ...]:
    """Make packages ready: checked, contracts compiled, metadata written, on the path of this process, and loaded.

    ``folders`` None stands for those of the last time. Raises :class:`PackageError`, and :class:`OSError` when the
    state folder cannot be written.
    """
    wanted = remembered(folder) if folders is None else folders
    hint = "; an earlier up --with named it, up --without-packages leaves it out" if folders is None else ""
    packages = []
    for root in dict.fromkeys(path.expanduser().resolve() for path in wanted):
        try:
            packages.append(read_package(root))
        except PackageError as error:
            raise PackageError(f"{error}{hint}") from None
    check_together(packages)
    for package in packages:
        try:
            compile_contracts(package.modules, package.top_modules)
        except ContractError as error:
            raise PackageError(f"{package.name}: {error}{hint}") from None
    if packages:
        write_metadata(packages, folder.metadata)
    extend_path(module_path(packages, folder.metadata))
    for package in packages:
        _check_loadable(package, hint)
    return tuple(packages)


def remember(folder: StateFolder, packages: Sequence[Package]) -> None:
    """Have the lab use packages from now on. Raises :class:`OSError` when the state folder cannot be written."""
    path = module_path(packages, folder.metadata)
    record = {"folders": [str(package.root) for package in packages], "path": list(path)}
    write_private(folder.packages, json.dumps(record).encode())


def _check_loadable(package: Package, hint: str) -> None:
    """Load the network functions of a package, so that a fault in it is told as one of the package."""
    for kind in package.kinds:
        try:
            node_class(kind)
        except ConfigurationError as error:
            text = f"{error}, named in {package.root / 'pyproject.toml'}{hint}"
            raise PackageError(f"the package {package.name} cannot be loaded: {text}") from None


def with_nodes(config: LabConfig, packages: Sequence[Package]) -> LabConfig:
    """Return the description with a node of each kind of the packages that it does not mention, named like the kind.

    Raises :class:`PackageError` when that name is taken or cannot be one.
    """
    known = {extra.kind for extra in config.extra_nodes}
    kinds = [kind for package in packages for kind in package.kinds if kind not in known]
    if not kinds:
        return config
    nodes = [*config.extra_nodes, *(ExtraNode.model_construct(name=kind, kind=kind) for kind in kinds)]
    try:
        return LabConfig.model_validate({**config.model_dump(), "extra_nodes": [node.model_dump() for node in nodes]})
    except ValidationError as error:
        faults = "; ".join(f"{problem.where}: {problem.found}" for problem in problems_of(error, None, "", LabConfig))
        raise PackageError(
            f"no node can be added for {', '.join(kinds)} ({faults}): describe it in extra_nodes"
        ) from None
