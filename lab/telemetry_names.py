"""Every name that telemetry of a lab has: spans, events, links, attributes and metrics, and what each means.

The names stand in ``telemetry.yaml``. ``docs/tracing.md`` holds them as tables, which ``python -m lab.telemetry_names``
prints, and a test compares them with what a lab really sends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Name:
    """One name. ``by``: who named it, or the span of an event; a name in braces stands for what is filled in."""

    name: str
    meaning: str
    by: str = ""
    kinds: str = ""
    nodes: str = ""
    kind: str = ""
    unit: str = ""
    labels: tuple[str, ...] = ()


_COLUMNS = {
    "resource": ("attribute", "named by", "meaning"),
    "spans": ("span", "kind", "nodes", "what it covers"),
    "events": ("event", "on", "meaning"),
    "links": ("attribute", "of", "meaning"),
    "attributes": ("attribute", "named by", "meaning"),
    "metrics": ("metric", "kind", "unit", "nodes", "attributes", "meaning"),
}
"""Sections of the file, and the columns of their tables."""


@cache
def names() -> dict[str, tuple[Name, ...]]:
    """Return the names of each section: resource, spans, events, links, attributes, metrics."""
    content = yaml.safe_load((Path(__file__).parent / "telemetry.yaml").read_text("utf-8"))
    return {
        section: tuple(Name(**{**row, "labels": tuple(row.get("labels", ()))}) for row in content[section])
        for section in _COLUMNS
    }


def table(section: str) -> str:
    """Return a section as a Markdown table."""
    rows = (_row(section, one) for one in names()[section])
    columns = _COLUMNS[section]
    return "\n".join([_line(columns), _line("---" for _ in columns), *map(_line, rows)])


def _row(section: str, one: Name) -> tuple[str, ...]:
    name = f"`{one.name}`"
    if section == "spans":
        return name, one.kinds, one.nodes, one.meaning
    if section == "metrics":
        return name, one.kind, f"`{one.unit}`", one.nodes, " ".join(f"`{label}`" for label in one.labels), one.meaning
    return name, one.by, one.meaning


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print all tables."""
    sys.stdout.write("\n\n".join(f"{section}\n\n{table(section)}" for section in _COLUMNS) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
