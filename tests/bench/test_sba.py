"""The bench of the service-based interface in its shortest form: each process of it starts, and it tells a ratio."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheel import ROOT

pytestmark = [pytest.mark.load, pytest.mark.timeout(120)]


def test_a_node_under_load_is_measured_beside_bare_grpc(tmp_path: Path) -> None:
    rows = tmp_path / "sba.json"
    options = ["--rounds", "1", "--seconds", "0.3", "--in-flight", "4", "--json", str(rows)]
    ended = subprocess.run(
        [sys.executable, "bench/sba.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = json.loads(rows.read_text())
    assert row["rounds"] == 1
    assert row["calls_per_s"]["min"] > 0
    assert row["ratio_to_bare"]["min"] > 0
