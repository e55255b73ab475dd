"""Nodes die with ``kill -9``; calls in progress keep their media and the node returns with its state (T9)."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import pytest

from tests.e2e.lab import Lab
from tests.e2e.live import LiveCall

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


def test_three_deaths_of_a_gateway_cost_its_calls_no_packet(lab: Lab) -> None:
    modes = (("alice", "bob", "e2ae-sdes"), ("alice", "carol", "none"), ("alice", "erin", "e2e-sdes"))
    calls = []
    for number, (caller, callee, security) in enumerate(modes, start=1):
        calls.append(BackgroundCall(lab, caller, callee, "--security", security, "--seconds", "25"))
        lab.wait(lambda: lab.json("status")["media_streams"] >= 2 * number, 20, "no media stream appeared")  # noqa: B023
    for _ in range(3):
        lab.wait_back("imsagw-a", lab.kill("imsagw-a"))
    for call in calls:
        result = call.join()
        assert (result["result"], result["reason"]) == ("established", "talk time over"), result
        assert all(audio["heard"] and audio["loss"] < 0.02 for audio in result["audio"].values()), result["audio"]
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 30, "streams of an ended call remain")


def kill_packet_loop(lab: Lab, gateway: str) -> int:
    """``kill -9`` of a gateway's packet loop; returns how often that gateway had replaced one before."""
    events = _events(lab, gateway)
    os.kill(
        [one["pid"] for one in events if one["event"].startswith("packet-loop") and "pid" in one][-1], signal.SIGKILL
    )
    return sum(one["event"] == "packet-loop-restarted" for one in events)


def _events(lab: Lab, node: str) -> list[dict[str, Any]]:
    lines = (lab.state / "logs" / f"{node}.log").read_text().splitlines()
    return [one for one in (json.loads(line) for line in lines if line.startswith("{")) if "event" in one]


TALK_S = 10
RECOVERED_S = 2.0
"""A call has its media back within this time after the death of a data plane."""


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("RFC 3711", "9.1")
@pytest.mark.parametrize("gateways", [("imsagw-a",), ("imsagw-a", "imsagw-b")], ids=["one", "both"])
@pytest.mark.parametrize("security", ["e2ae-sdes", "none", "e2e-sdes"])
def test_media_is_back_soon_after_the_death_of_the_packet_loop(
    lab: Lab, security: str, gateways: tuple[str, ...]
) -> None:
    with LiveCall(lab, "alice", "bob", "--security", security, "--seconds", str(TALK_S)) as call:
        call.talk(1)
        before = {gateway: kill_packet_loop(lab, gateway) for gateway in gateways}
        result = call.result()
    assert (result["result"], result["reason"]) == ("established", "talk time over"), result
    assert result["security"] == security
    for direction, audio in result["audio"].items():
        assert audio["heard"], direction
        assert audio["loss"] * TALK_S < RECOVERED_S, (direction, audio)
    for gateway, times in before.items():
        restarts = [one for one in _events(lab, gateway) if one["event"] == "packet-loop-restarted"]
        assert len(restarts) == times + 1
        assert (restarts[-1]["contexts"], restarts[-1]["lost"]) == (1, 0)
        protected = security == "e2ae-sdes" or (security == "none" and gateway == "imsagw-b")  # bob's own leg
        assert restarts[-1]["to_be_keyed"] == protected
        assert f"{times + 1} in all" in lab.json("status")["packet_loops"][gateway]
        pcscf = gateway.replace("imsagw", "pcscf")
        assert (result["call_id"] in _keyed_at(lab, pcscf)) is protected
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 30, "streams of an ended call remain")
    assert_calls_work(lab)


@pytest.mark.clause("RFC 3261", "12.2.1.1")
def test_both_ends_change_a_call_that_was_keyed_again(lab: Lab) -> None:
    """Two streams; the far end numbers its requests as before, and its phone sees them rise."""
    with LiveCall(lab, "alice", "bob", "--security", "e2ae-sdes") as call:
        assert call.modify("alice", "add-stream") == 200
        for gateway in ("imsagw-a", "imsagw-b"):
            kill_packet_loop(lab, gateway)
            pcscf = gateway.replace("imsagw", "pcscf")
            lab.wait(lambda: call.call_id in _keyed_at(lab, pcscf), 10, f"{pcscf} made no new keys")  # noqa: B023
        for action in ("hold", "resume", "rekey", "move-port"):
            for user in ("alice", "bob"):
                assert call.modify(user, action) == 200, (action, user)
        call.talk(0.5)
        assert call.hang_up("bob") == 200
        result = call.result()
    assert result["result"] == "established", result
    assert all(audio["heard"] for audio in result["audio"].values()), result["audio"]
    ends = [leg for leg in result["legs"] if leg["side"] == "end"]
    assert {leg["protection"] for leg in ends} == {"SRTP"}
    assert {leg["stream"] for leg in ends} == {"1", "2"}
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 30, "streams of an ended call remain")


def _keyed_at(lab: Lab, pcscf: str) -> list[str]:
    return [one["call_id"] for one in _events(lab, pcscf) if one["event"] == "media.rekeyed"]


def test_phone_that_vanishes_leaves_no_media_behind(lab: Lab) -> None:
    call = BackgroundCall(lab, "alice", "bob", "--security", "e2ae-sdes", "--seconds", "4")
    call.wait_media()
    dead = lab.kill("bob")
    call.join()
    lab.wait_back("bob", dead)
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 60, "the gateways kept streams of a vanished phone")
    lab.run("register", "bob")
    assert_calls_work(lab)
