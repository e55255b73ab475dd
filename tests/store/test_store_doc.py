"""docs/store.md: the package of one's own gets the history the page shows, by the page's commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.store.page import COMMANDS, FILES


def run(command: str, folder: Path) -> str:
    """Run what the page says in the folder the reader is in."""
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": programs, "IMSLAB_STATE": str(folder / "state")}
    done = subprocess.run(
        ["sh", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_package_of_ones_own_gets_its_history(tmp_path: Path) -> None:
    run("imslab new-nf call-watch", tmp_path)
    package = tmp_path / "call-watch" / "call_watch"
    (package / "migrations").mkdir()
    (package / "tables.py").write_text(FILES["call_watch/tables.py"])
    said = run(COMMANDS["first"], tmp_path)
    assert "migrations/0001_the_first_tables.py written; read it" in said
    first = (package / "migrations" / "0001_the_first_tables.py").read_text()
    assert "kv_calls" in first
    assert "refused" in first
    tables = FILES["call_watch/tables.py"].replace(
        "nullable=False),\n)", 'nullable=False),\n    Column("by", String(64)),\n)'
    )
    (package / "tables.py").write_text(tables)
    run(COMMANDS["next"], tmp_path)
    second = (package / "migrations" / "0002_who_refused.py").read_text()
    assert "batch_op.add_column(sa.Column('by'" in second
    assert "down_revision = '0001'" in second
