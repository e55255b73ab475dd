"""docs/mikey.md names code and tests that are there, and leaves out no clause."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import keying.mikey
from keying.mikey.registry import TicketFlag

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "mikey.md").read_text()
CLAUSES = """
4.1.1 4.2.1.1 4.2.1.2 4.2.1.3 4.2.1.4 4.2.1.5 4.2.1.6 4.2.2.1 4.2.2.2 4.2.2.3 4.2.2.4 4.2.3.1 4.2.3.2 4.2.3.3 4.2.3.4 4.2.3.5
4.2.3.6 5.1.1 5.1.2 5.1.3 5.2 5.3 5.4 5.5 6.1 6.1.1 6.2 6.2.1 6.3 6.4 6.5, 6.7 6.8 6.9 6.10 7 8 9 9.1 10 11 12.1 12.2 12.3
12.4 12.5 14 A.1 A.2.1 A.2.2 A.3 B.1
"""


def rows(title: str) -> list[list[str]]:
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


CLAUSE_ROWS = [*rows("RFC 6043, clause by clause"), *rows("RFC 3830, 4563, 4567, 6309")]
CHOICES = rows("Where the RFCs contradict themselves or leave a choice")


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def named(place: str) -> object:
    """What a dotted name of the page means."""
    parts = place.split(".")
    if parts[0] not in {"nodes", "signalling"}:
        parts = ["keying", "mikey", *parts]
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(place)


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_clause_has_a_row_and_stands_in_order() -> None:
    assert [row[0].split()[0] for row in rows("RFC 6043, clause by clause")] == CLAUSES.split()


@pytest.mark.parametrize("row", CLAUSE_ROWS, ids=lambda row: row[0])
def test_code_and_tests_of_a_clause_exist(row: list[str]) -> None:
    clause, code, proofs, remarks = row
    for place in quoted(code):
        assert named(place) is not None, place
    for proof in quoted(proofs):
        name, _, function = proof.partition("::")
        path = ROOT / "tests" / (name if "/" in name else f"keying/mikey/{name}")
        assert function in functions_of(path), proof
    assert (quoted(code) and quoted(proofs)) or "not built" in remarks, clause


@pytest.mark.parametrize("row", CHOICES, ids=lambda row: row[0])
def test_code_of_a_choice_exists(row: list[str]) -> None:
    assert quoted(row[3])
    for place in quoted(row[3]):
        assert named(place) is not None, place


def test_flags_have_their_masks() -> None:
    told = {row[0]: int(row[1], 16) for row in rows("Flags")}
    assert told == {flag.name: int(flag) for flag in TicketFlag}


def test_the_package_names_every_module() -> None:
    modules = {path.stem for path in Path(keying.mikey.__path__[0]).glob("*.py")} - {"__init__"}
    said = set(re.findall(r"``(\w+)``", keying.mikey.__doc__ or ""))
    assert modules - said == set()
