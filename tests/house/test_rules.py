"""Rules of the house that a linter does not check."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in names.decode().split("\0") if name and (ROOT / name).is_file()]


def test_readme_starts_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    first = text.split("```")[1].splitlines()[1:]
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]


def test_every_dependency_has_a_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    page = (ROOT / "docs" / "dependencies.md").read_text().lower()
    names = [
        re.split(r"[\[<>=]", line.strip().strip('",'))[0].lower()
        for line in listed.group(1).splitlines()
        if line.strip()
    ]
    assert len(names) > 15
    for name in names:
        short = name.removeprefix("grpcio").removeprefix("opentelemetry")
        assert name in page or short in page, f"{name} has no line in docs/dependencies.md"


def test_generated_code_is_not_committed() -> None:
    assert not [path for path in tracked() if "_pb2" in path.name]


def test_every_tracked_text_is_free_of_machine_paths() -> None:
    pattern = re.compile(rb"(?<![\w.])/(?:root|work|home/\w+)/")
    hits = [
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.suffix not in {".dat", ".bin"} and path.name != "test_rules.py" and pattern.search(path.read_bytes())
    ]
    assert hits == []


def test_every_lock_entry_is_pinned() -> None:
    lines = (ROOT / "requirements.lock").read_text().split()
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=]+", line) for line in lines)
