"""Every command in README and docs is executed: here as a reader would type it, or by the test that its page names."""

from __future__ import annotations

import math
import os
import re
import shlex
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lab.cli import imslab
from tests.docs.pages import ROOT, Fence, fences, has_placeholder, inline, is_command, pages

PAGES = pages()
LONG = (
    "make bench",
    "make soak",
    "make sanitize",
    "make fuzz",
    "make conformance",
    "make screenshots",
    "make demo",
    "make test",
    "make lint",
)
"""Commands named in the text of pages that take minutes: `make -n` says here that they exist, .ci/run and `make` play them."""
NO_LAB_NEEDED = ("imslab mikey", "imslab new-nf", "python ", "make ")


def played(page: str) -> list[Fence]:
    return [item for item in fences(page) if item.language == "sh" and not item.played_by]


READS_STANDARD_INPUT = ("imslab mikey decode",)
"""Commands that need no argument and mean nothing alone: a page that writes them names them."""


def is_name(command: str) -> bool:
    """Whether a text names a command of imslab without the arguments it needs."""
    words = shlex.split(command)
    if command in READS_STANDARD_INPUT:
        return True
    if words[0] != "imslab":
        return False
    known: click.Command = imslab
    rest = words[1:]
    while isinstance(known, click.Group):
        if not rest or rest[0] not in known.commands:
            return not rest
        known, rest = known.commands[rest[0]], rest[1:]
    try:
        known.make_context(known.name, list(rest))
    except click.MissingParameter:
        return True
    except click.UsageError:
        return False  # whoever plays it finds out
    return False


def typed(page: str) -> list[str]:
    """Commands in the text that can be typed as they stand."""
    return [command for command in inline(page) if not has_placeholder(command) and not is_name(command)]


PLAYED_ELSEWHERE = {
    "imslab console --open": "tests/console/test_live_lab.py",
    "imslab ticket request alice bob --mode-3": "tests/e2e/test_kms_lab.py",
    "imslab ticket request alice --group sip:helpdesk@ims.test": "tests/e2e/test_kms_lab.py",
    "imslab call alice bob --security e2e-kms --option responders=sip:sales@ims.test": "tests/e2e/test_kms_lab.py",
}
"""Commands within the text of pages that need another lab description or a screen, and the test that has one."""


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_are_marked_as_such(page: str) -> None:
    unmarked = [
        f"{page}:{item.line}"
        for item in fences(page)
        if item.language in ("", "bash", "shell", "console") and any(map(is_command, item.text.splitlines()))
    ]
    assert unmarked == []


def test_make_demo_is_what_the_test_of_the_demo_runs() -> None:
    command = ["make", "-n", "--no-print-directory", "demo"]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert recipe.splitlines()[-1].endswith("bin/imslab demo")
    assert '"demo"' in (ROOT / "tests" / "e2e" / "test_demo.py").read_text()


def test_whoever_is_said_to_play_a_fence_knows_the_page() -> None:
    told = [item for page in PAGES for item in fences(page) if item.played_by]
    for item in told:
        file, _, test = item.played_by.partition("::")
        text = (ROOT / file).read_text()
        where = f"{item.page}:{item.line} played by {item.played_by}"
        if test:
            assert re.search(rf"def {re.escape(test)}\b", text), where
            assert Path(item.page).name in text, f"{where}: it does not read the page"
        else:
            missing = [
                line for line in item.text.splitlines() if is_command(line) and line.split("#")[0].strip() not in text
            ]
            assert missing == [], where


@pytest.mark.parametrize(("command", "file"), PLAYED_ELSEWHERE.items())
def test_what_is_played_elsewhere_is_played_there(command: str, file: str) -> None:
    text = (ROOT / file).read_text()
    words = [word for word in command.split() if word not in ("--security", "--option")]
    options = [word.split("=")[0] for word in words if word.startswith("--") or "=" in word]
    assert [option for option in options if option not in text] == []


def check_pattern(command: str) -> None:
    """Walk a synopsis along the click commands; raises AssertionError at the first word that is not there."""
    words = re.sub(r"\\\|", "|", command).replace("[", " [ ").replace("]", " ] ").split()
    known: list[click.Command] = [imslab]
    for word in words[1:]:
        if word in ("[", "]", "...", "|"):
            continue
        if word.startswith("-"):
            option = word.split("=")[0]
            names = {
                name
                for one in known
                for parameter in one.params
                for name in (*parameter.opts, *parameter.secondary_opts)
            }
            assert option in names | {"--help", "-h"}, f"{command}: {option} is no option of {known[0].name}"
            continue
        groups = [one for one in known if isinstance(one, click.Group)]
        if groups:
            choices = word.split("|")
            found = [one.commands[choice] for one in groups for choice in choices if choice in one.commands]
            assert len(found) >= len(choices), f"{command}: {word} is no command of {groups[0].name}"
            known = found
    return


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(has_placeholder, inline(page)))])
def test_patterns_in_the_text_fit_the_command(page: str) -> None:
    for command in filter(has_placeholder, inline(page)):
        if command.startswith("imslab "):
            check_pattern(command)


@pytest.mark.parametrize(
    "pattern", ["imslab call FROM TO --no-such-option", "imslab colour NODE", "imslab ticket grow USER"]
)
def test_a_pattern_that_does_not_fit_is_found(pattern: str) -> None:
    with pytest.raises(AssertionError):
        check_pattern(pattern)


PARSE_ONLY = """
import argparse, runpy, sys
parse = argparse.ArgumentParser.parse_args
def parse_and_leave(self, *arguments, **named):
    parse(self, *arguments, **named)
    sys.exit(0)
argparse.ArgumentParser.parse_args = parse_and_leave
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit("arguments were never read")
"""


def test_bench_commands_are_understood() -> None:
    """The commands of docs/performance.md take hours; that they are understood is checked, `make bench` runs short forms."""
    (block,) = [item.text for item in fences("docs/performance.md") if item.played_by and "bench/" in item.text]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) > 4
    for words in commands:
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
            continue
        done = subprocess.run(
            [sys.executable, "-c", PARSE_ONLY, *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"


def write_tone(path: Path) -> None:
    """One second of 440 Hz, 16 bit at 8 kHz: the recording that pages call speech.wav."""
    samples = [int(8000 * math.sin(2 * math.pi * 440 * number / 8000)) for number in range(8000)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))


class Reader:
    """Somebody with a checkout, an environment in which imslab is installed, and a folder of his own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in ROOT.iterdir():
            if path.name not in (".git", "build", ".venv") and not path.name.startswith("."):
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        self.state = folder / "state"
        programs = os.pathsep.join((str(Path(sys.prefix) / "bin"), os.environ["PATH"]))
        self.environment = {**os.environ, "PATH": programs, "IMSLAB_STATE": str(self.state), "HOME": str(folder)}
        self.shell_file = folder / "shell-state"
        write_tone(folder / "speech.wav")

    def run(self, text: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
        """Play text in the shell the reader has open: folder and variables stay as the last text left them."""
        keep = self.shell_file
        before = f"[ -f {keep} ] && . {keep}\n"
        after = f"\nstatus=$?; {{ export -p; echo \"cd '$PWD'\"; }} > {keep}; exit $status"
        return subprocess.run(
            ["bash", "-c", f"{before}set -e -o pipefail\ntrap 'exit $?' ERR\n{text}\nset +e{after}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def play(self, text: str, where: str, ends_with: int = 0) -> str:
        done = self.run(text)
        assert done.returncode == ends_with, (
            f"{where} ended with {done.returncode}\n{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def play_fence(self, fence: Fence) -> None:
        text = fence.text
        for word, command in fence.put.items():
            value = self.play(command, f"{fence.page}:{fence.line} put {word}").strip()
            assert value, f"{fence.page}:{fence.line}: {command} prints nothing to put for {word}"
            text = re.sub(rf"\b{word}\b", lambda _match, value=value: value, text)
        self.play(text, f"{fence.page}:{fence.line}", fence.ends_with)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    someone = Reader(tmp_path)
    try:
        yield someone
    finally:
        someone.run("imslab down")


@pytest.mark.lab
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [page for page in PAGES if played(page) or typed(page)])
def test_the_commands_of_the_page_run_as_written(page: str, reader: Reader) -> None:
    brings_lab_up = any(re.search(r"(?m)^imslab up\b", fence.text) for fence in played(page))
    if played(page) and not brings_lab_up:
        reader.play("imslab up", f"{page}, before its commands")
    for fence in played(page):
        reader.play_fence(fence)
    commands = typed(page)
    if any(not command.startswith(NO_LAB_NEEDED) for command in commands):
        reader.play("imslab up", f"{page}, before the commands within its text")
    if any(command.startswith("imslab flow") for command in commands):
        reader.play("imslab call alice bob --security e2ae-sdes --seconds 1", f"{page}, a call to draw")
    for command in commands:
        if command.startswith(LONG):
            reader.play(f"make -n {shlex.split(command)[1]}", f"{page}: {command}")
        elif command.startswith(("docker", "imslab up", "imslab down", "imslab demo")):
            continue  # played by fences of README and compose/README.md
        elif command in PLAYED_ELSEWHERE:
            continue
        else:
            reader.play(command, f"{page}: {command}")
