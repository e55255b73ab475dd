"""``imslab new-nf``: a network function as a package of its own, complete and tested, written from a template."""

from __future__ import annotations

import contextlib
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from lab.config import OWN_KINDS
from sba.packages import NODES

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MOST_LETTERS: Final = 31
"""Length of a name at most: it is also the name of a node in the lab description."""
_TEMPLATE: Final = "template"
_RESERVED: Final = frozenset({"test", "tests", "lab", "include", "src", "build", "dist", "imslab"})


class NewNfError(Exception):
    """The package cannot be written; the text says why."""


def check_name(name: str) -> None:
    """Raise :class:`NewNfError` unless ``name`` can be a kind of node, a distribution and a Python module at once."""
    if len(name) > MOST_LETTERS or NAME.fullmatch(name) is None:
        raise NewNfError(
            f"{name!r} cannot be the name: lower-case letters and digits, a letter first, parts joined by hyphens, "
            f"at most {MOST_LETTERS} characters, such as call-watch"
        )
    module = module_of(name)
    if name in OWN_KINDS:
        raise NewNfError(f"{name} is a kind of node that the lab has already")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in _RESERVED:
        raise NewNfError(f"{name} cannot be the name: {module} means something else to Python or to a package")
    for entry in entry_points(group=NODES, name=name):
        raise NewNfError(f"{name} is a kind of node that {entry.value} brings already")
    with contextlib.suppress(PackageNotFoundError):
        version(name)
        raise NewNfError(f"{name} cannot be the name: a distribution {name} is installed in this environment")
    if find_spec(module) is not None:
        raise NewNfError(f"{name} cannot be the name: a module {module} is installed in this environment")


def module_of(name: str) -> str:
    """Return the Python module of a network function."""
    return name.replace("-", "_")


def class_of(name: str) -> str:
    """Return the class of a network function; the suffix keeps it apart from Python's own names."""
    return "".join(part.capitalize() for part in name.split("-")) + "Function"


def write(name: str, folder: Path) -> list[Path]:
    """Write the package ``name`` into ``folder``, which must not exist or be empty, and return the files written.

    Raises :class:`NewNfError`, and :class:`OSError` where nothing can be written.
    """
    check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NewNfError(f"{folder} is there already and nothing is overwritten; name another folder")
    module = module_of(name)
    words = {
        "@name@": name,
        "@module@": module,
        "@class@": class_of(name),
        "@grpcio_tools@": _compiler_version(),
    }
    files = {_place(path, module): _filled(text, words) for path, text in _template()}
    files["include/protos/options.proto"] = (resources.files("protos") / "options.proto").read_text("utf-8")
    files[f"{module}/py.typed"] = ""
    for place, text in files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    return sorted(folder / place for place in files)


def _place(path: str, module: str) -> str:
    """Return where a file of the template belongs in the package."""
    parent, _, name = path.removesuffix(".tmpl").rpartition("/")
    name = {"gitignore": ".gitignore", "contract.proto": f"{module}.proto"}.get(name, name)
    return "/".join(part for part in (module if parent == "module" else parent, name) if part)


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


def _template() -> Iterator[tuple[str, str]]:
    """Yield the files of the template: path below it, text."""
    root = resources.files(__name__) / _TEMPLATE
    for prefix, folder in (("", root), *((f"{item.name}/", item) for item in root.iterdir() if item.is_dir())):
        for item in folder.iterdir():
            if item.name.endswith(".tmpl"):
                yield f"{prefix}{item.name}", item.read_text("utf-8")


def _compiler_version() -> str:
    """Return the version of the contract compiler that fits the message library imslab runs with."""
    try:
        return version("grpcio-tools")
    except PackageNotFoundError:
        pinned = (re.match(r"grpcio-tools==([0-9.]+)", line) for line in requires("imslab") or ())
        return next((match[1] for match in pinned if match), version("grpcio"))
