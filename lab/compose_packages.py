"""Packages of others in a lab of containers: mounted beside the lab's own code, read-only, in every container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.config import LabConfig
from lab.with_packages import with_nodes
from sba.contract_build import compile_contracts
from sba.errors import ContractError
from sba.packages import Package, PackageError, check_together, extend_path, read_package, write_metadata

INSIDE: Final = "/packages"
"""Where a container finds them."""
_METADATA: Final = ".metadata"


@dataclass(frozen=True)
class Mounts:
    """Folders of this machine by the place that a container has them in, and the kinds of node they bring."""

    folders: tuple[tuple[Path, str], ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        """What nodes have at the end of ``sys.path``."""
        return tuple(inside for _, inside in self.folders)


def mounted(config: LabConfig, folders: Sequence[Path], here: Path) -> tuple[LabConfig, Mounts]:
    """Make packages ready for containers; return the description with their nodes and what to mount.

    Contracts are compiled in the packages' own folders and metadata is written to ``packages`` in ``here``: containers
    write nothing there. Raises :class:`PackageError`, ``OSError``.
    """
    if not folders:
        return config, Mounts()
    packages = [read_package(folder) for folder in dict.fromkeys(path.expanduser().resolve() for path in folders)]
    check_together(packages)
    for package in packages:
        try:
            compile_contracts(package.modules, package.top_modules)
        except ContractError as error:
            raise PackageError(f"{package.name}: {error}") from None
    metadata = here / "packages" / _METADATA
    write_metadata(packages, metadata)
    for path in (here / "packages", metadata, *metadata.iterdir()):
        path.chmod(0o755)
    extend_path([str(metadata), *(str(package.modules) for package in packages)])
    places = [(metadata, f"{INSIDE}/{_METADATA}"), *((package.modules, _place(package)) for package in packages)]
    kinds = tuple(kind for package in packages for kind in package.kinds)
    return with_nodes(config, packages), Mounts(tuple(places), kinds)


def _place(package: Package) -> str:
    return f"{INSIDE}/{package.name}"
