"""The clause table says what the data and the results say, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keying.mikey.profile import assumed
from lab.conformance import CatalogueError, load_catalogue, render, unknown_marks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def catalogue():
    return load_catalogue(ROOT / "docs" / "requirements.yaml")


def test_every_clause_of_the_specification_has_a_row(catalogue) -> None:
    page = render(catalogue, {})
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", page, re.MULTILINE)
    assert rows == [number for number, _ in catalogue.clauses]
    assert len(rows) == 175
    assert {"0", "4.2.6", "6.2.4.3.1", "7.5", "P.1.3", "R.3"} <= set(rows)


def test_a_clause_without_requirements_is_not_built(catalogue) -> None:
    assert "| **R.3** | **Security Procedures** | not built |" in render(catalogue, {})


def test_a_failing_test_fails_its_requirement(catalogue) -> None:
    record = {"clauses": [["TS 33.328", "C-7"]], "attacks": ["T3"]}
    page = render(
        catalogue,
        {"tests/a.py::x[1]": {"outcome": "passed", **record}, "tests/a.py::x[2]": {"outcome": "failed", **record}},
    )
    row = next(line for line in page.splitlines() if line.startswith("| C-7 "))
    assert "`a.py::x`" in row
    assert "| failed |" in row
    assert "| T3 | `a.py::x` | failed |" in page


def test_every_assumed_value_of_the_mikey_profile_is_listed(catalogue) -> None:
    page = render(catalogue, {})
    values = assumed()
    assert len(values) > 20
    for name, _, why in values:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert why.replace("|", "\\|") in row


def test_a_requirement_without_a_test_says_so(catalogue) -> None:
    row = next(line for line in render(catalogue, {}).splitlines() if line.startswith("| C-7 "))
    assert "| no test |" in row


def test_a_claim_to_an_unknown_requirement_is_named(catalogue) -> None:
    results = {"tests/a.py::x": {"outcome": "passed", "clauses": [["TS 33.328", "9.9-9"]], "attacks": []}}
    assert unknown_marks(catalogue, results) == ["tests/a.py::x: 9.9-9"]


def test_contradicting_data_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "r.yaml"
    data.write_text(
        "clauses: [['1', 'Scope']]\nrequirements: [{id: 2-1, clause: '2', basis: assumed, where: [], text: x}]\n"
    )
    with pytest.raises(CatalogueError, match="unknown clause 2"):
        load_catalogue(data)


def test_places_named_by_requirements_exist(catalogue) -> None:
    missing = {place for r in catalogue.requirements for place in r.where if not (ROOT / place).exists()}
    assert missing == set()
