"""What is wrong in a lab description, told with its line and what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError

_RIGHT = {
    "literal_error": "one of the listed words",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "missing": "this entry is needed",
    "extra_forbidden": "no such entry here; remove it or correct its spelling",
    "string_type": "text; write numbers in quotes",
    "model_type": "a table of entries, each 'name: value'",
    "list_type": "a list: [one, two] or one '- entry' a line",
    "dict_type": "a table of entries, each 'name: value'",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}
_LIMITS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}
"""What is right where a value is out of its range, by the model's word for it."""
_ALIKE = 0.7
"""How alike two names are, from 0 to 1, for one to be taken for the other misspelt."""
_FEW = 8
"""So many entries a table may have for all to be named beside one that it does not have."""
_PATTERNS = {
    "Name": "a lower-case name such as pcscf-a",
    "Domain": "a domain such as ims.test",
    "Impi": "a private identity such as 001010000000001@ims.test",
    "Tel": 'an international number in quotes, such as "+15550100"',
    "Key": "32 hexadecimal digits in quotes",
    "Amf": "4 hexadecimal digits in quotes",
    "Party": "a user's name, a sip: or tel: URI, *@domain, @home or @lab",
    "GroupUri": "a SIP URI of a home domain, such as sip:sales@ims.test",
    "Server": "the name of an extra node, or a SIP URI",
    "Method": "a SIP method in capitals, such as INVITE",
    "Header": "the name of a SIP header",
    "Suite": "the name of a crypto suite, such as AES_CM_128_HMAC_SHA1_80",
    "Mode": "e2e- and the rest of the name of a mode that a package brings",
    "Collector": "host:port of a collector such as 127.0.0.1:4317, or https://host:port",
}
_FIELD_PATTERN = {
    "domain": "Domain",
    "impi": "Impi",
    "tel": "Tel",
    "uri": "GroupUri",
    "k": "Key",
    "op": "Key",
    "opc": "Key",
    "amf": "Amf",
    "server": "Server",
    "otlp_forward": "Collector",
    "method": "Method",
    "header": "Header",
    "crypto_suites": "Suite",
    **dict.fromkeys(("peers", "also", "request_for", "resolve_from", "members", "requesters"), "Party"),
}

Location = tuple[str | int, ...]
Fault = tuple[Location, str, str]


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong in a lab description: where (file, line from 1), what, and what would be right."""

    file: str
    line: int
    where: str
    found: str
    right: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.where}: {self.found}; right would be: {self.right}"


class ConfigError(Exception):
    """The lab description cannot be used; ``problems`` holds every fault, in file order."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class InconsistentError(ValueError):
    """Entries that are well formed but do not fit together."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("inconsistent")
        self.faults = faults


def duplicate_keys(node: yaml.Node | None, file: str) -> Iterator[ConfigProblem]:
    """Yield a problem for every entry written twice."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                yield ConfigProblem(file, line, str(key.value), "is written twice", "each entry once")
            seen.add(key.value)
            yield from duplicate_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from duplicate_keys(item, file)


def faults_of(error: ValidationError, where: Location, model: type[BaseModel]) -> Iterator[Fault]:
    """Yield what another ``model`` found wrong in the entry at ``where``: the settings of a node of some kind."""
    for item in error.errors():
        location = (*where, *item["loc"])
        right = _right({**item, "loc": ()} if item["type"] == "string_pattern_mismatch" else item, model)
        yield location, _found(item["type"], item["msg"], item["input"]), right


def problems_of(
    error: ValidationError, tree: yaml.Node | None, file: str, model: type[BaseModel]
) -> Iterator[ConfigProblem]:
    """Yield what the ``model`` found wrong."""
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, InconsistentError):
            for location, found, right in cause.faults:
                yield ConfigProblem(file, line_of(tree, location), dotted(location), found, right)
            continue
        internal = ("function-", "constrained-", "[key]")
        location = tuple(part for part in item["loc"] if not str(part).startswith(internal))
        found = _found(item["type"], item["msg"], item["input"])
        yield ConfigProblem(file, line_of(tree, location), dotted(location), found, _right(item, model))


def _found(kind: str, message: str, value: object) -> str:
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is unknown"
    if isinstance(value, (str, int, float, bool)):
        return f"{value!r} does not fit"
    return "is no table of entries" if kind in ("model_type", "dict_type") else message


def _meant(model: type[BaseModel], location: Location) -> str:
    """Return the entry that is spelled almost like the last part of ``location``, else all of its table where they are
    few; empty without one."""
    models, sure = [model], len(location) > 1
    for part in location[:-1]:
        fields = [entry.model_fields[str(part)] for entry in models if str(part) in entry.model_fields]
        inner = [found for field in fields for found in _models(field.annotation)]
        sure = sure and (bool(inner) or isinstance(part, int))
        models = inner or models
    known = [name for entry in models for name in entry.model_fields]
    alike = get_close_matches(str(location[-1]), known, 1, _ALIKE)
    few = f"one of {', '.join(known)}" if sure and len(known) <= _FEW else ""
    return alike[0] if alike else few


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation: of the entries of a list, of a table, of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _right(item: object, model: type[BaseModel]) -> str:
    assert isinstance(item, dict)
    kind, location = item["type"], item["loc"]
    if kind == "extra_forbidden" and (meant := _meant(model, location)):
        return f"{meant}, or no such entry"
    if kind == "literal_error":
        return "one of " + str(item["ctx"]["expected"])
    if kind == "string_pattern_mismatch" and location:
        if location[-1] == "[key]":
            location = location[:-2]
        name = next((str(part) for part in reversed(location) if isinstance(part, str)), "")
        if name == "name" and location[0] == "home_domains":
            return _PATTERNS["Domain"]
        if name == "name" and location[0] == "extensions":
            return _PATTERNS["Mode"]
        if name in ("mcc", "mnc"):
            return 'digits in quotes, such as "001"'
        return _PATTERNS[_FIELD_PATTERN.get(name, "Name")]
    if kind in _LIMITS:
        return _LIMITS[kind].format(**item.get("ctx", {}))
    return _RIGHT.get(kind, str(item["msg"]))


def line_of(tree: yaml.Node | None, location: Location) -> int:
    """Return the line of an entry, counted from 1; of what surrounds it where it is missing."""
    node, line = tree, (tree.start_mark.line + 1 if tree else 1)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    node, line = value, key.start_mark.line + 1
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def dotted(location: Location) -> str:
    """Return a location as people write it, e.g. ``users[1].tel``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return re.sub(r"^\.", "", text) or "the file"
