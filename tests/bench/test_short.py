"""Benches of several processes in their shortest form: each process starts, and the rows have their ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.kms import NOT_AWAITED, POSTGRESQL
from tests.wheel import ROOT

pytestmark = [pytest.mark.load, pytest.mark.timeout(150)]


def rows_of(folder: Path, bench: str, *options: str) -> list[dict[str, Any]]:
    """Run a bench and return what it keeps."""
    kept = folder / "rows.json"
    command = [sys.executable, f"bench/{bench}.py", *options, "--json", str(kept)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=140, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows: list[dict[str, Any]] = json.loads(kept.read_text())
    return rows


def test_the_sba_under_load_is_measured_beside_bare_grpc(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "sba", "--rounds", "1", "--seconds", "0.3", "--in-flight", "4")
    assert row["rounds"] == 1
    assert row["calls_per_s"]["min"] > 0
    assert row["ratio_to_bare"]["min"] > 0


@pytest.mark.peer("pg_ctlcluster")
def test_the_kms_is_measured_over_every_store(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "kms", "--rounds", "1", "--operations", "2", "--tickets", "10")
    over = {row["layer"] for row in rows if row["tickets"] is None}
    assert over >= {"sqlite", POSTGRESQL, NOT_AWAITED}, over
    assert {row["layer"] for row in rows if row["tickets"] == 10} >= {"sqlite", NOT_AWAITED}
    assert all(row["ratio_to_crypto"]["min"] > 0 for row in rows)
