"""docs/extending.md from nothing to a network function, every command and file as it stands on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import fences
from tests.docs.test_commands import Reader
from tests.e2e.lab import ROOT

pytest.importorskip("grpc_tools", reason="the contract compiler is the build extra")
PAGE = "docs/extending.md"
_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = {
    "imslab status": ["call-screening  call-screening  serving"],
    "imslab logs call-screening": ["node-ready"],
    "pytest": ["passed"],
    "imslab call alice bob": ["established", "SRTP"],
    "imslab call eve bob": ["refused SIP 603: Caller Refused"],
    "imslab call bob tel:": ["refused SIP 403: Target Barred"],
    "imslab flow": ["screening", "403 Target Barred (INVITE)"],
    "python call-screening/ask.py": ["sip:bob@ims.test answered 1", "sip:bob@ims.test refused 2"],
}
"""What the fence with a command shows."""


def files() -> dict[str, str]:
    return dict(_FILE.findall((ROOT / PAGE).read_text()))


def test_the_files_of_the_page_are_those_of_the_examples() -> None:
    found = files()
    assert len(found) > 6
    assert {name: (ROOT / "examples" / name).read_text() for name in found} == found


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    someone = Reader(tmp_path)
    try:
        yield someone
    finally:
        someone.run("imslab down")


@pytest.mark.lab
@pytest.mark.timeout(240)
def test_the_tutorial_runs_as_written(reader: Reader) -> None:
    """Fence after fence; the files are written once the first has made the folder."""
    mine = [fence for fence in fences(PAGE) if "test_the_tutorial_runs_as_written" in fence.played_by]
    assert len(mine) > 5
    shown: dict[str, str] = {}
    for number, fence in enumerate(mine):
        shown[fence.text] = reader.play(fence.text, f"{PAGE}:{fence.line}", fence.ends_with)
        if number == 0:
            for name, text in files().items():
                if name.startswith("call-screening/"):
                    assert (reader.folder / name).parent.is_dir(), f"new-nf made no folder for {name}"
                    (reader.folder / name).write_text(text)
    for command, words in EXPECTED.items():
        [output] = [output for text, output in shown.items() if command in text]
        assert [word for word in words if word not in output] == [], output


def test_outputs_shown_on_the_page_are_those_that_the_tutorial_is_held_to() -> None:
    shown = "".join(fence.text for fence in fences(PAGE) if fence.language == "text")
    told = [line.removesuffix(" security none") for line in shown.splitlines()]
    held = {word for words in EXPECTED.values() for word in words}
    assert told
    assert [line for line in told if line not in held] == []
