"""Distributions beside the lab's own, used from a folder: what is in it, whose it is, how it gets onto the path.

A package is a folder with a ``pyproject.toml`` that names entry points of the lab. It need not be installed: its
metadata is written beside the lab, and folder and metadata go to the end of ``sys.path``, where the entry points are
then found as those of any installed distribution are. Whatever is in the folder will run as the user who starts the
lab, so a folder that others may write is refused.
"""

from __future__ import annotations

import grp
import importlib
import os
import pwd
import re
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sba.errors import SbaError

NODES: Final = "imslab.nodes"
"""Entry-point group of network functions: kind = class."""
CONTRACTS: Final = "imslab.contracts"
"""Entry-point group of contracts: name = module generated from a .proto file."""
SECURITY_MODES: Final = "imslab.security_modes"
"""Entry-point group of media security modes: name = class."""
CRYPTO_SUITES: Final = "imslab.crypto_suites"
"""Entry-point group of SRTP crypto suites: name = object."""
GROUPS: Final = (NODES, CONTRACTS, SECURITY_MODES, CRYPTO_SUITES)
MOST_FILES: Final = 10_000
"""Files looked at in a package; a folder with more is no package of source code."""
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(:[A-Za-z_][A-Za-z0-9_.]*)?")
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!-]*")


class PackageError(SbaError):
    """A folder cannot be used as a package of the lab."""


@dataclass(frozen=True)
class Package:
    """A distribution in a folder."""

    name: str
    version: str
    root: Path
    modules: Path
    """Folder that its modules lie in: ``root`` or ``root/src``."""
    entry_points: Mapping[str, Mapping[str, str]]
    """Entry points of the lab's groups: group -> name -> what it names."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of network function it brings."""
        return tuple(self.entry_points.get(NODES, {}))

    @property
    def top_modules(self) -> tuple[str, ...]:
        """Top-level modules that the entry points name."""
        named = (value for group in self.entry_points.values() for value in group.values())
        return tuple(dict.fromkeys(value.partition(":")[0].partition(".")[0] for value in named))


def read_package(folder: str | Path) -> Package:
    """Read and check the package in ``folder``.

    Raises :class:`PackageError` when the folder is no package of the lab, when somebody else may write in it, or when
    what it brings is there already.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise PackageError(f"{folder} is no folder")
    description = root / "pyproject.toml"
    if not description.is_file():
        raise PackageError(f"{folder} holds no pyproject.toml, so it is no package; write one with: imslab new-nf NAME")
    check_writers(root)
    try:
        content = tomllib.loads(description.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PackageError(f"{description} cannot be read: {error}") from None
    package = _package(root, content)
    for top in package.top_modules:
        if PathFinder.find_spec(top, [str(package.modules)]) is None:
            raise PackageError(f"{description} names the module {top}, which is not in {package.modules}")
    check_not_taken(package)
    return package


def _package(root: Path, content: Mapping[str, object]) -> Package:
    description = root / "pyproject.toml"
    project = content.get("project")
    if not isinstance(project, dict) or not _fits(_NAME, project.get("name")):
        raise PackageError(f"{description} has no [project] with a name")
    groups = project.get("entry-points", {})
    found: dict[str, dict[str, str]] = {}
    for group in GROUPS:
        entries = groups.get(group, {}) if isinstance(groups, dict) else {}
        if not isinstance(entries, dict) or not all(
            _fits(_ENTRY, name) and _fits(_MODULE, value) for name, value in entries.items()
        ):
            raise PackageError(f'{description}: [project.entry-points."{group}"] is no table of name = "module:object"')
        if entries:
            found[group] = {str(name): str(value) for name, value in entries.items()}
    if not found:
        known = ", ".join(GROUPS)
        raise PackageError(f"{description} brings nothing to the lab: it has none of the entry points {known}")
    version = project.get("version", "0")
    if not _fits(_VERSION, version):
        raise PackageError(f"{description}: the version is {version!r}")
    source = root / "src"
    tops = {value.partition(":")[0].partition(".")[0] for group in found.values() for value in group.values()}
    modules = source if any((source / top).exists() or (source / f"{top}.py").exists() for top in tops) else root
    return Package(str(project["name"]), str(version), root, modules, found)


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


# Whose code it is.


def check_writers(root: Path) -> None:
    """Look whether anybody but this user, root and the owner of the lab's own code may alter what would run.

    Raises :class:`PackageError` naming the first file or folder that another may write, and for a link.
    """
    trusted = {0, os.geteuid(), Path(__file__).stat().st_uid}
    for above in root.parents:
        state = above.stat()
        sticky = bool(state.st_mode & stat.S_ISVTX)
        if not sticky and (reason := _writer(state, trusted)):
            raise _unsafe(above, reason)
        if sticky and state.st_uid not in trusted:
            raise _unsafe(above, _owner(state))
    for count, path in enumerate(_files(root)):
        if count == MOST_FILES:
            raise PackageError(f"{root} holds more than {MOST_FILES} files; a package is a folder of its own")
        state = path.lstat()
        if stat.S_ISLNK(state.st_mode):
            raise PackageError(f"{path} is a link; a package holds its files itself")
        if reason := _writer(state, trusted):
            raise _unsafe(path, reason)


def _files(root: Path) -> Iterator[Path]:
    yield root
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".")]  # no module can have such a name
        for name in (*names, *files):
            if not name.startswith("."):
                yield Path(folder, name)


def _writer(state: os.stat_result, trusted: set[int]) -> str:
    """Say who else may write a file; empty when nobody may."""
    if state.st_uid not in trusted:
        return _owner(state)
    if state.st_mode & stat.S_IWOTH:
        return "anybody may write it"
    if state.st_mode & stat.S_IWGRP and not _is_alone(state.st_gid, trusted):
        return f"the group {_group(state.st_gid)} may write it"
    return ""


def _owner(state: os.stat_result) -> str:
    try:
        name = pwd.getpwuid(state.st_uid).pw_name
    except KeyError:
        name = str(state.st_uid)
    return f"it belongs to the user {name}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _is_alone(gid: int, trusted: set[int]) -> bool:
    """Tell whether only trusted users are in a group, as in the private group that many systems give each user."""
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(gid).gr_mem}
    except KeyError:
        return False
    members |= {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    return members <= trusted


def _unsafe(path: Path, reason: str) -> PackageError:
    return PackageError(f"{path} is not safe to run code from: {reason}; take that away first (chmod, chown)")


# What is there already.


def check_not_taken(package: Package) -> None:
    """Raise :class:`PackageError` when a module or an entry point of the package is somebody else's already."""
    for top in package.top_modules:
        spec = find_spec(top)
        places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])] if spec else []
        if spec is not None and not any(Path(place).resolve().is_relative_to(package.root) for place in places):
            where = places[0] if places else "Python itself"
            raise PackageError(f"{package.name}: the module {top} is there already ({where}); give yours another name")
    for group, entries in package.entry_points.items():
        for entry in entry_points(group=group):
            owner = "" if entry.dist is None else entry.dist.name
            if entry.name in entries and _plain(owner) != _plain(package.name):
                raise PackageError(f"{package.name}: {entry.name} of {group} is taken by the distribution {owner}")


def check_together(packages: Sequence[Package]) -> None:
    """Raise :class:`PackageError` when two packages bring the same name, module or entry point."""
    owners: dict[tuple[str, str], Package] = {}
    for package in packages:
        claims = [("the name", _plain(package.name)), *(("the module", top) for top in package.top_modules)]
        claims += [(group, name) for group, entries in package.entry_points.items() for name in entries]
        for what, name in claims:
            first = owners.setdefault((what, name), package)
            if first is not package:
                raise PackageError(f"{first.root} and {package.root} both bring {what} {name}")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# The path.


def write_metadata(packages: Iterable[Package], folder: Path) -> None:
    """Write the metadata that an installation of the packages would leave, each as a ``.dist-info`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for package in packages:
        info = folder / f"{_plain(package.name).replace('-', '_')}-{package.version}.dist-info"
        info.mkdir(exist_ok=True, mode=0o700)
        facts = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
        (info / "METADATA").write_text(facts, "utf-8")
        lines = []
        for group, entries in package.entry_points.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
        (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")


def module_path(packages: Iterable[Package], metadata: Path) -> tuple[str, ...]:
    """Return what has to be on ``sys.path`` for the packages and their entry points to be found."""
    folders = [str(package.modules) for package in packages]
    return (str(metadata), *folders) if folders else ()


def extend_path(folders: Iterable[str]) -> None:
    """Put folders at the end of ``sys.path`` of this process, so that they hide no module that is there already."""
    new = [folder for folder in folders if folder not in sys.path]
    if new:
        sys.path.extend(new)
        importlib.invalidate_caches()
