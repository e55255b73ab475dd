"""The clause table: requirements kept as data, joined with the tests that prove them.

``python -m lab.conformance --results build/results.json -o docs/conformance.md`` writes one row for every
clause of TS 33.328 and one for every requirement under it: where it is implemented, which tests prove it,
their last result, and whether the requirement is confirmed or assumed. ``make conformance`` runs the tests first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import yaml

from keying.mikey.profile import assumed

SPEC = "TS 33.328"
NOT_BUILT = "not built"
SHOWN_TESTS = 3


class TestRecord(TypedDict):
    """One test of a results file: its outcome and the clauses and threat rows it carries."""

    outcome: str
    clauses: list[tuple[str, str]]
    attacks: list[str]


@dataclass(frozen=True)
class Requirement:
    """A numbered check under a clause. ``basis`` is ``confirmed`` or ``assumed``."""

    id: str
    clause: str
    basis: str
    where: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Catalogue:
    """Clause titles in the order of the specification, and the requirements filed under them."""

    clauses: tuple[tuple[str, str], ...]
    requirements: tuple[Requirement, ...]


class CatalogueError(ValueError):
    """The requirement data contradicts itself; the message names the entry."""


def load_catalogue(path: Path) -> Catalogue:
    """Read the requirement data. Raises :class:`CatalogueError` for unknown clauses, double ids, bad bases."""
    data = yaml.safe_load(path.read_text())
    clauses = tuple((str(number), str(title)) for number, title in data["clauses"])
    known = {number for number, _ in clauses}
    seen: set[str] = set()
    requirements = []
    for entry in data["requirements"]:
        requirement = Requirement(
            str(entry["id"]), str(entry["clause"]), entry["basis"], tuple(entry["where"]), entry["text"]
        )
        if requirement.id in seen:
            raise CatalogueError(f"{path}: requirement {requirement.id} stands twice")
        if requirement.clause not in known and not requirement.id.startswith("7.1-"):
            raise CatalogueError(f"{path}: requirement {requirement.id} names unknown clause {requirement.clause}")
        if requirement.basis not in {"confirmed", "assumed"}:
            raise CatalogueError(f"{path}: requirement {requirement.id} has basis {requirement.basis!r}")
        seen.add(requirement.id)
        requirements.append(requirement)
    return Catalogue(clauses, tuple(requirements))


def unknown_marks(catalogue: Catalogue, results: dict[str, TestRecord]) -> list[str]:
    """Tests that claim a TS 33.328 requirement the data does not hold, as ``test: id`` lines."""
    known = {requirement.id for requirement in catalogue.requirements} | {number for number, _ in catalogue.clauses}
    return sorted(
        f"{name}: {clause}"
        for name, record in results.items()
        for spec, clause in record["clauses"]
        if spec.startswith(SPEC) and clause not in known
    )


def _verdict(outcomes: Iterable[str]) -> str:
    outcomes = set(outcomes)
    if not outcomes:
        return "no test"
    if "failed" in outcomes:
        return "failed"
    return "passed" if "passed" in outcomes else "skipped"


def _tests_cell(names: Sequence[str]) -> str:
    shown = [f"`{name.removeprefix('tests/')}`" for name in names[:SHOWN_TESTS]]
    if len(names) > SHOWN_TESTS:
        shown.append(f"and {len(names) - SHOWN_TESTS} more")
    return "<br>".join(shown) or "-"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def render(catalogue: Catalogue, results: dict[str, TestRecord]) -> str:
    """The whole page as Markdown."""
    proofs: dict[str, list[str]] = defaultdict(list)
    others: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    attacks: dict[str, list[str]] = defaultdict(list)
    for name, record in sorted(results.items()):
        base = name.split("[", 1)[0]
        for spec, clause in record["clauses"]:
            target = proofs[clause] if spec.startswith(SPEC) else others[spec][clause]
            if base not in target:
                target.append(base)
        for row in record["attacks"]:
            if base not in attacks[row]:
                attacks[row].append(base)
    outcomes: dict[str, list[str]] = defaultdict(list)
    for name, record in results.items():
        outcomes[name.split("[", 1)[0]].append(record["outcome"])

    def verdict(names: Sequence[str]) -> str:
        return _verdict(outcome for name in names for outcome in outcomes[name])

    by_clause: dict[str, list[Requirement]] = defaultdict(list)
    for requirement in catalogue.requirements:
        by_clause[requirement.clause].append(requirement)

    lines = [
        "# Conformance: TS 33.328, clause by clause",
        "",
        "Generated by `make conformance` from `docs/requirements.yaml` and the tests that carry a clause mark.",
        "*Confirmed*: the rule was read in a companion 3GPP text or an RFC. *Assumed*: the text of TS 33.328 was not",
        "at hand; the rule is a documented design decision and its values are configuration. The numbers are ours.",
        "",
        "| clause | requirement | implemented in | proved by | last result | basis |",
        "|---|---|---|---|---|---|",
    ]
    for number, title in catalogue.clauses:
        requirements = by_clause.get(number, [])
        below = [r for clause, rs in by_clause.items() if clause.startswith(f"{number}.") for r in rs]
        state = "built" if requirements else ("see below" if below else NOT_BUILT)
        lines.append(f"| **{number}** | **{_escape(title)}** | {state} |  |  |  |")
        for requirement in requirements:
            names = proofs.get(requirement.id, [])
            where = "<br>".join(f"`{place}`" for place in requirement.where)
            lines.append(
                f"| {requirement.id} | {_escape(requirement.text)} | {where} | {_tests_cell(names)} "
                f"| {verdict(names)} | {requirement.basis} |"
            )
    lines += ["", "## Threats", "", "| row | acted out by | last result |", "|---|---|---|"]
    for row in sorted(attacks, key=lambda row: (len(row), row)):
        lines.append(f"| {row} | {_tests_cell(attacks[row])} | {verdict(attacks[row])} |")
    lines += ["", "## Other specifications", "", "| specification | section or check | proved by | last result |"]
    lines.append("|---|---|---|---|")
    for spec in sorted(others):
        for clause in sorted(others[spec]):
            names = others[spec][clause]
            lines.append(f"| {spec} | {_escape(clause)} | {_tests_cell(names)} | {verdict(names)} |")
    return "\n".join([*lines, *_assumed_values()]) + "\n"


def _assumed_values() -> list[str]:
    """Every value of the MIKEY-TICKET profile that no text at hand confirms, with what it stands in for."""
    lines = ["", "## Assumed values of the MIKEY-TICKET profile", ""]
    lines += [
        "Each is a field of `keying.mikey.profile.Profile`.",
        "",
        "| value | shipped | stands in for |",
        "|---|---|---|",
    ]
    for name, value, why in assumed():
        shown = ", ".join(map(str, sorted(value, key=str))) if isinstance(value, frozenset) else str(value)
        lines.append(f"| `{name}` | {_escape(shown)} | {_escape(why)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; exit status 1 when a test claims a requirement that does not exist."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--requirements", type=Path, default=Path("docs/requirements.yaml"))
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    catalogue = load_catalogue(options.requirements)
    results: dict[str, TestRecord] = json.loads(options.results.read_text())
    options.output.write_text(render(catalogue, results))
    unknown = unknown_marks(catalogue, results)
    for line in unknown:
        sys.stderr.write(f"no such requirement: {line}\n")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
