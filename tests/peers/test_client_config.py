"""``imslab client-config``: what it writes is what baresip, linphone and sipp register and call with, as it stands."""

from __future__ import annotations

import json
import os
import pty
import shlex
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.state import StateFolder
from lab.subscribers import load
from tests.e2e.lab import Lab, running

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of these tests alone: a client that has gone leaves its contact behind."""
    with running(tmp_path_factory.mktemp("clients")) as own:
        yield own


class Console:
    """A program that is typed to and read, on a terminal of its own."""

    def __init__(self, command: str, folder: Path) -> None:
        self._said = bytearray()
        self._terminal, theirs = pty.openpty()
        environment = {**os.environ, "HOME": str(folder), "TERM": "dumb"}
        self._process = subprocess.Popen(
            shlex.split(command), stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._said += os.read(self._terminal, 4096)
            except OSError:  # the program has gone
                return

    @property
    def log(self) -> str:
        return self._said.decode(errors="replace")

    def type(self, line: str) -> None:
        os.write(self._terminal, line.encode() + b"\n")

    def wait(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert self._process.poll() is None, f"the program ended\n{self.log}"
            assert time.monotonic() < deadline, f"the program never said {text!r}\n{self.log}"
            time.sleep(0.1)

    def asked(self, line: str, text: str) -> bool:
        """Type a line and say whether the program has answered so by now."""
        self.type(line)
        return text in self.log

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        os.close(self._terminal)


@contextmanager
def console(command: str, folder: Path) -> Iterator[Console]:
    """The program for the length of the block."""
    program = Console(command, folder)
    try:
        yield program
    finally:
        program.end()


def written(lab: Lab, client: str, user: str, folder: Path, *more: str) -> list[str]:
    """Write the configuration of a client; returns the commands that were printed."""
    done = lab.run("client-config", client, user, "-o", str(folder), *more)
    secrets = {name: own for name, own in vars(load(StateFolder.at(lab.state))[user]).items() if own is not None}
    for secret in secrets.values():
        for form in (secret.reveal(), secret.reveal().hex().encode()):
            assert form not in (done.stdout + done.stderr).encode(), "a secret is printed"
            for path in folder.iterdir():
                if form in path.read_bytes():
                    assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    return done.stdout.splitlines()


def last_call(lab: Lab) -> dict[str, Any]:
    """The last call of the lab as its flow has it; an empty one before the first."""
    done = lab.run("flow", "--format", "json", check=False)
    flow: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"call_id": "", "steps": []}
    return flow


def end_of_bob(lab: Lab, before: str) -> dict[str, Any]:
    """What bob's phone reported of the call that came since `before`."""

    def ends() -> list[dict[str, Any]]:
        call = last_call(lab)
        if call["call_id"] == before:
            return []
        steps = [step for step in call["steps"] if step["kind"] == "media"]
        return [end for step in steps for end in step["ends"] if end["node"] == "bob"]

    lab.wait(lambda: bool(ends()), 20, "the call left no media association at bob")
    return ends()[0]


@pytest.mark.peer("baresip")
def test_baresip_registers_and_calls(lab: Lab, tmp_path: Path) -> None:
    lab.run("register", "bob")
    before = last_call(lab)["call_id"]
    folder = tmp_path / "baresip"
    (command,) = written(lab, "baresip", "dave", folder)
    with console(command, folder) as phone:
        phone.wait("200 OK () [1 binding]")
        phone.type("/dial sip:bob@ims.test")
        phone.wait("Call established", 30)
        time.sleep(1.2)  # of a call shorter than a second baresip does not say that it ended
        phone.type("/hangup")
        phone.wait("terminated")
        end = end_of_bob(lab, before)
    assert (end["protection"], end["suite"]) == ("SRTP", "AES_CM_128_HMAC_SHA1_80")
    assert end["packets_in"] > 5


@pytest.mark.peer("linphonec")
def test_linphone_registers_and_calls(lab: Lab, tmp_path: Path) -> None:
    lab.run("register", "bob")
    before = last_call(lab)["call_id"]
    folder = tmp_path / "linphone"
    (command,) = written(lab, "linphone", "dave", folder)
    with console(command, folder) as phone:
        lab.wait(lambda: phone.asked("status register", "registered, identity="), 20, phone.log)
        phone.type("soundcard use files")
        phone.type(f"play {folder}/tone.wav")
        phone.type("call sip:bob@ims.test")
        phone.wait("Media streams established", 30)
        time.sleep(0.5)  # something has to be said
        phone.type("terminate")
        phone.wait("ended")
        end = end_of_bob(lab, before)
        phone.type("quit")
    assert end["protection"] == "SRTP"
    assert end["packets_in"] > 5


@pytest.mark.peer("sipp")
def test_sipp_registers_with_digest_and_calls(lab: Lab, tmp_path: Path) -> None:
    lab.run("register", "bob")
    before = last_call(lab)["call_id"]
    commands = written(lab, "sipp", "dave", tmp_path / "sipp")
    assert all("password" not in (tmp_path / "sipp" / name).read_text() for name in ("register.sh", "call.sh"))
    for command in commands:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-1000:])
    end = end_of_bob(lab, before)
    assert end["protection"] == "SRTP", "bob's access is protected though sipp's is not"
    assert end["packets_in"] > 100, "sipp sends back what it hears"


def test_users_and_profiles_that_need_something_else_are_told_what(lab: Lab, tmp_path: Path) -> None:
    for arguments, said in (
        (("baresip", "alice"), "software_ue: false"),
        (("sipp", "nobody"), "no user is called nobody"),
        (("sipp", "dave", "--config", str(tmp_path / "absent")), "does not exist"),
    ):
        done = lab.run("client-config", *arguments, "-o", str(tmp_path / "x"), check=False)
        assert done.returncode == 2, arguments
        assert said in done.stderr, done.stderr
        assert not (tmp_path / "x").exists()


def test_a_file_in_the_way_is_replaced_and_not_followed(lab: Lab, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "sipp", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.write_text("mine")
    (folder / "register.xml").symlink_to(elsewhere)
    lab.run("client-config", "sipp", "dave", "-o", str(folder))
    assert elsewhere.read_text() == "mine"
    assert not (folder / "register.xml").is_symlink()
    assert stat.S_IMODE((folder / "register.xml").stat().st_mode) == 0o600
