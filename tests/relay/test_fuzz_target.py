"""The fuzz target of the packet loop holds for its seeds and for invented inputs, under ASan and UBSan."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheel import ROOT


@pytest.mark.attack("T3")
@pytest.mark.peer("gcc")
def test_seeds_and_invented_scripts_leave_the_packet_loop_as_it_must_be(tmp_path: Path) -> None:
    program, seeds = tmp_path / "target", tmp_path / "seeds"
    flags = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-DREPLAY"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    target = str(ROOT / "fuzz" / "fuzz_packet_loop.c")
    subprocess.run(["gcc", *flags, target, "-o", str(program), "-lm", "-lpthread"], check=True)
    subprocess.run([sys.executable, str(ROOT / "fuzz" / "seeds_packet_loop.py"), str(seeds)], check=True)
    files = sorted(map(str, seeds.iterdir()))
    assert len(files) > 50
    played = subprocess.run([str(program), "20000", *files], capture_output=True, text=True, timeout=100, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
