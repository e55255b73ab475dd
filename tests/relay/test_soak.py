"""The soak of bench/soak.py in its short form: calls come and go under half of what the relay carries at most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheel import ROOT

pytestmark = [pytest.mark.load, pytest.mark.timeout(180)]


def test_calls_come_and_go_under_load_and_nothing_is_lost_and_nothing_grows(tmp_path: Path) -> None:
    found = tmp_path / "soak.json"
    options = ["--seconds", "20", "--hold", "3", "--share", "0.5", "--json", str(found)]
    ended = subprocess.run(
        [sys.executable, "bench/soak.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=170, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(found.read_text())
    assert result["lost"] == 0
    assert result["faults"] == []
    assert result["calls"] > 200
    assert result["key_changes"] > 10
    assert result["replays_dropped"] > 100
