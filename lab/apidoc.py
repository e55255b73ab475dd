"""Writes docs/api.md: the stable interface for packages of others, out of ``__all__`` and the docstrings.

``python -m lab.apidoc`` writes the page, ``--check`` says whether it is what would be written.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from pydantic import BaseModel

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "api.md"
MODULES: Final = {
    "sba": "The framework of every network function.",
    "sba.runtime": "One event loop for Twisted and asyncio.",
    "sba.testing": "A small lab for tests.",
    "signalling": "SIP, SDP, and what an application server reads on ISC.",
    "nodes.application_server": "Where SBA and SIP meet: the base of application servers.",
    "keying": "Keys, crypto suites, SDES, and security modes of packages.",
    "media": "SRTP, and crypto suites of packages.",
}
"""Modules whose ``__all__`` is stable, in the order of the page."""
_HEAD: Final = """# The stable interface

What packages of others may use: these names stay, with their meaning, as long as the major version does. Everything
else in imslab may change any day. Besides, these are stable: the entry points `imslab.nodes`, `imslab.contracts`,
`imslab.security_modes` and `imslab.crypto_suites`, the contracts in `protos/` (a service that changes gets another
version in its package name), and the lab description. How to use it all: [extending.md](extending.md).

This page is written by `lab/apidoc.py` (make api) out of docstrings; a test fails when it is not what would be written.
"""
_GENERATED: Final = "A message of `protos/`; its fields are in the contract."
_INNER: Final = {
    "NetworkFunction": re.compile(
        r"beat|deregister|fetch_key_set|keep_registered|profile|ready|register|rejoin_node|retir\w+|start|startService"
        r"|stop|stopService|work_left"
    ),
    "ApplicationServer": re.compile(r"\w+_received|endpoints|flow_closed|servicers"),
}
"""Members that are there for the framework itself: public to it, not stable for others."""
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


class UndocumentedError(Exception):
    """Something public has no docstring; the text says what."""


def page() -> str:
    """Return the text of the page; raises :class:`UndocumentedError`."""
    parts = [_HEAD]
    for name, about in MODULES.items():
        module = importlib.import_module(name)
        parts.append(f"## `{name}`\n\n{about}\n")
        parts += [_entry(module, public) for public in sorted(public_names(module), key=str.lower)]
    return "\n".join(parts)


def public_names(module: ModuleType) -> tuple[str, ...]:
    """Return the names in ``__all__`` of a module; raises :class:`UndocumentedError` when it has none."""
    names = getattr(module, "__all__", ())
    if not names:
        raise UndocumentedError(f"{module.__name__} does not say what is public")
    return tuple(names)


def _entry(module: ModuleType, name: str) -> str:
    found = getattr(module, name)
    where = f"{module.__name__}.{name}"
    if _is_message(found):
        return f"### `{where}`\n\n{_GENERATED}\n"
    if inspect.isclass(found):
        return _class_entry(where, name, found)
    if callable(found):
        return f"### `{name}{_signature(found)}`\n\n{_text(found, where)}\n"
    return f"### `{name}`\n\n{_value_text(module, name, where)}\n"


def _class_entry(where: str, name: str, found: type) -> str:
    shown = "" if issubclass(found, enum.Enum) or _is_protocol(found) else _constructor(found)
    parts = [f"### `{name}{shown}`\n\n{_text(found, where)}\n"]
    members = []
    if issubclass(found, BaseModel):
        parts[0] += "\nSettings: " + ", ".join(f"`{field}`" for field in found.model_fields) + ".\n"
    if issubclass(found, enum.Enum):
        members.append("Members: " + ", ".join(f"`{member.name}`" for member in found) + ".\n")
    else:
        members += [f"- `{member}`: {_one_line(text)}" for member, text in _members(found, where)]
    return parts[0] + ("\n" + "\n".join(members) + "\n" if members else "")


def _members(found: type, where: str) -> Iterator[tuple[str, str]]:
    """Yield the public members of a class that it or a base among ours defines, with their docstrings."""
    seen: set[str] = set()
    for base in found.__mro__:
        if base.__module__.partition(".")[0] not in {"sba", "signalling", "media", "keying", "nodes"}:
            continue
        for name, value in vars(base).items():
            inner = _INNER.get(base.__name__)
            if name.startswith("_") or name in seen or (inner is not None and inner.fullmatch(name)):
                continue
            seen.add(name)
            if isinstance(value, property):
                yield name, _text(value.fget, f"{where}.{name}")
            elif isinstance(value, (classmethod, staticmethod)) or inspect.isfunction(value):
                function = getattr(found, name)
                yield f"{_awaited(function)}{name}{_signature(function)}", _text(function, f"{where}.{name}")


def _awaited(function: object) -> str:
    return "await " if inspect.iscoroutinefunction(function) else ""


def _text(found: object, where: str) -> str:
    """Return the docstring of an object, or the one it inherits; raises :class:`UndocumentedError`."""
    text = found.__doc__ if inspect.isclass(found) else inspect.getdoc(found)
    inherited = (
        inspect.isclass(found) and dataclasses.is_dataclass(found) and (text or "").startswith(f"{found.__name__}(")
    )
    if not text or inherited:
        raise UndocumentedError(f"{where} has no docstring")
    return _tidy(inspect.cleandoc(text))


def _tidy(text: str) -> str:
    """Return a docstring as Markdown: references and literals as code."""
    text = re.sub(r":(?:class|meth|func|mod|data|attr):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _constructor(found: type) -> str:
    own = inspect.getattr_static(found, "__init__", None)
    return _signature(found) if inspect.isfunction(own) and not issubclass(found, BaseModel) else ""


def _signature(found: object) -> str:
    try:
        signature = inspect.signature(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    shown = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for name, parameter in signature.parameters.items()
        if name not in {"self", "cls"} and not name.startswith("_")
    ]
    return _ADDRESS.sub("", str(inspect.Signature(shown)))


class _Shown:
    """A default as the page writes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _default(value: object) -> object:
    """Return a default that reads the same on every machine."""
    if value is inspect.Parameter.empty or isinstance(value, (bool, int, float, str, bytes, type(None))):
        return value
    if isinstance(value, (tuple, frozenset)) and not value:
        return value
    return _Shown("...")


def _is_protocol(found: type) -> bool:
    return bool(getattr(found, "_is_protocol", False))


def _is_message(found: object) -> bool:
    return inspect.isclass(found) and hasattr(found, "DESCRIPTOR")


def _value_text(module: ModuleType, name: str, where: str) -> str:
    """Return the text below the assignment of a value, read from the source of the module that defines it."""
    homes = getattr(module, "_HOMES", {})
    source = inspect.getsource(importlib.import_module(homes.get(name, module.__name__)))
    match = re.search(rf'^{name}\b[^\n]*?=.*?^"""(.*?)"""', source, re.MULTILINE | re.DOTALL)
    if match is None:
        raise UndocumentedError(f"{where} has no text below it")
    return _tidy(inspect.cleandoc(match[1]))


def main() -> int:
    """Write the page, or with ``--check`` compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        text = page()
    except UndocumentedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.check:
        same = PAGE.exists() and PAGE.read_text("utf-8") == text
        sys.stderr.write("" if same else f"{PAGE} is not what `make api` writes\n")
        return 0 if same else 1
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
