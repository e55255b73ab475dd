"""docs/api.md is what the docstrings say, and packages need nothing else."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lab import apidoc
from tests.e2e.lab import ROOT

OURS = frozenset({"sba", "signalling", "media", "keying", "nodes", "lab", "protos", "tests"})
SOURCES = sorted((*(ROOT / "examples").rglob("*.py"), *(ROOT / "lab" / "newnf" / "template").rglob("*.py.tmpl")))


def test_the_page_is_what_the_generator_writes() -> None:
    assert apidoc.PAGE.read_text() == apidoc.page(), "run `make api`"


@pytest.mark.parametrize("name", apidoc.MODULES)
def test_every_public_name_is_there(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in apidoc.public_names(module):
        assert getattr(module, public) is not None
    homes = getattr(module, "_HOMES", None)
    assert homes is None or set(homes) == set(module.__all__)
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def fake(**content: object) -> ModuleType:
    module = ModuleType("fake")
    module.__dict__.update(content, __all__=list(content))
    return module


class Documented:
    """It says what it is."""

    def spoken(self) -> None:
        """Say something."""


class Silent:
    pass


class HalfSilent(Documented):
    """It says what it is."""

    def unspoken(self) -> None:
        pass


HalfSilent.__module__ = "sba.fake"


@pytest.mark.parametrize("found", [Silent, lambda: None, HalfSilent])
def test_a_public_object_without_docstring_is_an_error(found: object) -> None:
    with pytest.raises(apidoc.UndocumentedError):
        apidoc._entry(fake(found=found), "found")
    assert "It says" in apidoc._entry(fake(found=Documented), "found")


def test_a_module_without_all_is_an_error() -> None:
    with pytest.raises(apidoc.UndocumentedError, match="does not say what is public"):
        apidoc.public_names(ModuleType("fake"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Modules of imslab that a file imports, with the name taken from them; empty for the module as a whole."""
    text = path.read_text().replace("@module@", "a_module").replace("@class@", "AClass").replace("@name@", "a-name")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] in OURS)


@pytest.mark.parametrize("path", [path for path in SOURCES if "_pb2" not in path.name], ids=lambda path: path.name)
def test_packages_use_what_is_stable_and_nothing_else(path: Path) -> None:
    for module, name in imports(path):
        assert module in apidoc.MODULES, f"{path} imports {module}"
        stable = {*apidoc.public_names(importlib.import_module(module))}
        stable |= {public.rpartition(".")[2] for public in apidoc.MODULES if public.rpartition(".")[0] == module}
        assert name in stable, f"{path}: {module}.{name} is not stable"


def test_the_examples_do_import_something() -> None:
    assert sum(1 for path in SOURCES for _ in imports(path)) > 15
