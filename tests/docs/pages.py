"""The commands of a documentation page, as a reader would copy them.

A fence marked ``sh`` holds commands. Comments before it, which a reader does not see, say what a test has to know:

- ``<!-- played by: tests/x/test_y.py::test_z -->``: that test plays this fence from the page, this run leaves it out
- ``<!-- put WORD: COMMAND -->``: WORD stands for something of the reader's own; the run puts what COMMAND prints there
- ``<!-- ends with: N -->``: the exit status of the last command of the fence

Commands within the text are played after the fences of their page unless they have a placeholder; with one, their words
and options are checked against the command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("imslab", "make", "docker", "docker-compose", "python", "pip")
"""Programs whose commands are looked for."""
_FENCE = re.compile(
    r"^(?P<notes>(?:<!--[^\n]*-->\n)*)```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NOTE = re.compile(r"<!-- (played by|put \w+|ends with): (.*?) -->")
_INLINE = re.compile(r"`([^`\n]+)`")
_PLACEHOLDER = re.compile(r"(?<![\w$-])[A-Z][A-Z_]*\b|[\[\]<>|]|\.\.\.|\\\|")


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page; ``line`` counts from 1."""

    page: str
    line: int
    language: str
    text: str
    played_by: str = ""
    ends_with: int = 0
    put: dict[str, str] = field(default_factory=dict)


def pages() -> list[str]:
    """Every page, relative to the checkout."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "compose").glob("*.md")]
    found += (ROOT / "examples").rglob("*.md") if (ROOT / "examples").exists() else []
    return sorted(str(path.relative_to(ROOT)) for path in found)


def fences(page: str) -> Iterator[Fence]:
    """The fenced blocks of a page."""
    text = (ROOT / page).read_text()
    for match in _FENCE.finditer(text):
        notes = dict(_NOTE.findall(match["notes"]))
        put = {key.removeprefix("put "): value for key, value in notes.items() if key.startswith("put ")}
        line = text.count("\n", 0, match.start("language")) + 1
        yield Fence(
            page,
            line,
            match["language"],
            match["text"],
            notes.get("played by", ""),
            int(notes.get("ends with", "0")),
            put,
        )


def is_command(line: str) -> bool:
    """Whether a line begins with a program of the table."""
    words = line.split()
    return bool(words) and words[0] in PROGRAMS and len(words) > 1


def inline(page: str) -> list[str]:
    """Commands within the text of a page, outside of fences, each once."""
    text = _FENCE.sub("", (ROOT / page).read_text())
    return list(dict.fromkeys(command for command in _INLINE.findall(text) if is_command(command)))


def has_placeholder(command: str) -> bool:
    """Whether a command is a pattern rather than something to type: capitals, brackets, dots."""
    return bool(_PLACEHOLDER.search(command))
