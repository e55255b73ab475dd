"""docs/kms.md shows what its commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from lab.mikey_cli import mikey

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "kms.md").read_text()


def blocks(marker: str) -> list[str]:
    return re.findall(rf"^<!-- {marker} -->\n```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_steps_of_the_page_are_those_of_the_command() -> None:
    result = CliRunner().invoke(mikey, ["follow", str(ROOT / "docs/kms/call.json"), "--show-keys"])
    assert result.exit_code == 0
    steps = re.split(r"(?m)^(?=\d\. )", result.output)[1:]
    assert len(steps) == 6
    assert [block.strip() for block in blocks(r"follow \d")] == [step.strip() for step in steps]


def test_the_packet_opens_as_the_page_says() -> None:
    (program,) = blocks("run")
    (output,) = blocks("output")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == output
    assert re.fullmatch(
        r"MKI [0-9a-f]{8} SSRC [0-9a-f]{8}\nin the clear [0-9a-f]{32} \.\.\. of 160 octets PCMA\n", output
    )


def test_the_variants_print_what_the_page_shows() -> None:
    shown = re.findall(r"^<!-- variant ([\w-]+) -->\n```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names = [name for name, _ in shown]
    assert names == ["no-forking", "reuse", "update", "mode-3", "group", "error"]
    program = [sys.executable, "-m", "docs.kms.variants", *names]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "".join(block for _, block in shown)


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:nodes|keying|signalling|tests|lab|protos)/[\w/.*]+?)`", PAGE)
    assert len(named) > 10
    missing = [name for name in named if not list(ROOT.glob(name.rstrip("/")))]
    assert missing == []
