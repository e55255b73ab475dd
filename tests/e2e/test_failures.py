"""Nodes die with ``kill -9``; calls in progress keep their media and the node returns with its state (T9)."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import pytest

from tests.e2e.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.attack("T9"), pytest.mark.timeout(240)]


class BackgroundCall:
    """A call placed from another thread, so that the test can break things meanwhile."""

    def __init__(self, lab: Lab, *arguments: str) -> None:
        self.result: dict[str, Any] = {}
        self._lab, self._arguments = lab, arguments
        self._thread = threading.Thread(target=self._place)
        self._thread.start()

    def _place(self) -> None:
        process = self._lab.run("call", *self._arguments, "--json", check=False)
        self.result = json.loads(process.stdout) if process.stdout.strip() else {"stderr": process.stderr}

    def wait_media(self) -> None:
        """Until the gateway of the caller counts packets of this call."""
        self._lab.wait(lambda: self._lab.json("status")["media_streams"] > 0, 20, "no media stream appeared")

    def join(self) -> dict[str, Any]:
        self._thread.join()
        return self.result


def assert_calls_work(lab: Lab) -> None:
    result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")
    assert result["result"] == "established", result


def test_media_goes_on_while_the_callers_pcscf_is_dead_and_the_call_ends_in_order(lab: Lab) -> None:
    call = BackgroundCall(lab, "alice", "bob", "--security", "e2ae-sdes", "--seconds", "8")
    call.wait_media()
    dead = lab.kill("pcscf-a")
    lab.wait_back("pcscf-a", dead)
    result = call.join()
    assert result["result"] == "established", result
    for direction, audio in result["audio"].items():
        assert audio["heard"], direction
        assert audio["loss"] < 0.05, (direction, audio)
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 30, "the gateway kept streams of the ended call")
    assert_calls_work(lab)


@pytest.mark.parametrize("instance", ["cscf", "hss", "nrf"])
def test_core_node_returns_with_its_state_and_the_call_in_progress_ends_in_order(lab: Lab, instance: str) -> None:
    lab.run("register", "alice")
    lab.run("register", "bob")
    call = BackgroundCall(lab, "alice", "bob", "--security", "e2ae-sdes", "--seconds", "6")
    call.wait_media()
    dead = lab.kill(instance)
    lab.wait_back(instance, dead)
    result = call.join()
    assert result["result"] == "established", result
    assert all(audio["heard"] and audio["loss"] < 0.05 for audio in result["audio"].values())
    assert_calls_work(lab)


def test_registrations_survive_the_death_of_the_cscf(lab: Lab) -> None:
    lab.run("register", "bob")
    before = lab.json("status")["registrations"]
    dead = lab.kill("cscf")
    lab.wait_back("cscf", dead)
    assert lab.json("status")["registrations"] == before
    assert_calls_work(lab)


def test_media_goes_on_while_the_gateway_is_dead_and_the_call_ends_in_order(lab: Lab) -> None:
    call = BackgroundCall(lab, "alice", "bob", "--security", "e2ae-sdes", "--seconds", "6")
    call.wait_media()
    dead = lab.kill("imsagw-a")
    lab.wait_back("imsagw-a", dead)
    result = call.join()
    assert (result["result"], result["reason"]) == ("established", "talk time over"), result
    assert all(audio["heard"] and audio["loss"] < 0.02 for audio in result["audio"].values()), result["audio"]
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 30, "streams of an ended call remain")
    assert_calls_work(lab)


def test_death_of_the_packet_loop_ends_its_calls_and_new_calls_work(lab: Lab) -> None:
    call = BackgroundCall(lab, "alice", "bob", "--security", "e2ae-sdes", "--seconds", "20")
    call.wait_media()
    log = (lab.state / "logs" / "imsagw-a.log").read_text()
    loops = [json.loads(line)["pid"] for line in log.splitlines() if '"packet-loop' in line and '"pid"' in line]
    os.kill(loops[-1], signal.SIGKILL)
    result = call.join()
    assert result.get("result") in {"established", "failed"}, result
    assert result.get("reason") != "talk time over"
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 30, "streams of a dead call remain")
    assert_calls_work(lab)


def test_phone_that_vanishes_leaves_no_media_behind(lab: Lab) -> None:
    call = BackgroundCall(lab, "alice", "bob", "--security", "e2ae-sdes", "--seconds", "4")
    call.wait_media()
    dead = lab.kill("bob")
    call.join()
    lab.wait_back("bob", dead)
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 60, "the gateways kept streams of a vanished phone")
    lab.run("register", "bob")
    assert_calls_work(lab)
