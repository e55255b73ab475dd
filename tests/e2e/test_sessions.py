"""Sessions that change while people talk: hold, new keys, new ports, streams that come and go, and how calls end."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.capture import Capture, Frame
from tests.e2e.lab import Lab
from tests.e2e.live import LiveCall, behaving

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

SECURED = ("--security", "e2ae-sdes", "--suite", "AES_CM_128_HMAC_SHA1_80")


def address(lab: Lab, name: str) -> str:
    settings = lab.node(name)["settings"]
    return str(settings.get("ip") or settings["access_ip"])


def with_keys(target: Path) -> tuple[str, ...]:
    return "--pcap", str(target), "--with-keys"


def ends(result: dict[str, Any], node: str, side: str = "end") -> list[dict[str, Any]]:
    return [leg for leg in result["legs"] if (leg["node"], leg["side"]) == (node, side)]


def assert_heard(result: dict[str, Any], loss: float = 0.1) -> None:
    assert result["result"] == "established", result
    assert result["audio"], result
    for direction, audio in result["audio"].items():
        assert audio["heard"], (direction, audio)
        assert audio["loss"] < loss, (direction, audio)


def assert_all_protected(result: dict[str, Any]) -> None:
    """Every access leg and every end is SRTP, and nothing failed to authenticate."""
    legs = [leg for leg in result["legs"] if leg["side"] != "core"]
    assert {leg["protection"] for leg in legs} == {"SRTP"}, legs
    assert sum(leg["auth_failures"] for leg in legs) == 0, legs


def assert_released(lab: Lab) -> None:
    lab.wait(lambda: lab.json("status")["media_streams"] == 0, 10, "the gateways kept streams of a call that is over")


def assert_goes_on(frames: list[Frame], after: float, packets: int = 10) -> None:
    late = [frame for frame in frames if frame.time > after]
    assert len(late) >= packets, f"{len(late)} packets after the change"


@pytest.mark.clause("TS 33.328", "7.4-2", "7.4-10")
@pytest.mark.clause("RFC 3264", "8.4")
def test_hold_stops_the_sound_and_resume_goes_on_under_the_same_key_and_roll_over_counter(
    lab: Lab, tmp_path: Path
) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED, *with_keys(tmp_path / "c.pcapng")) as call:
        call.talk(0.4)
        assert call.modify("alice", "hold", "direction=inactive") == 200
        call.talk(0.6)
        assert call.modify("alice", "resume") == 200
        call.talk(0.6)
    assert_heard(call.result(), loss=0.6)
    assert_all_protected(call.result())
    capture = Capture(tmp_path / "c.pcapng")
    host = address(lab, "alice")
    assert len(capture.keys_from(host)) == 1, "hold and resume keep the key"
    (key,) = capture.keys_from(host)
    opened = capture.opened(host, key)
    assert len(opened) >= 0.95 * len(capture.rtp_from(host))
    changes = [frame.time for frame in capture.sip(b"INVITE ", host)]
    assert len(changes) == 3
    silence = [frame for frame in capture.rtp_from(host) if changes[1] + 0.2 < frame.time < changes[2]]
    assert len(silence) <= 2, "nothing is spoken on hold"
    assert_goes_on(opened, changes[2])


@pytest.mark.clause("TS 33.328", "7.4-2", "7.4-5")
@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_rekey_on_the_same_port_changes_one_senders_key_and_no_packet_is_lost(
    lab: Lab, tmp_path: Path, who: str
) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED, *with_keys(tmp_path / "c.pcapng")) as call:
        call.talk(0.4)
        assert call.modify(who, "rekey") == 200
        call.talk(0.6)
    assert_heard(call.result(), loss=0.05)
    assert_all_protected(call.result())
    capture = Capture(tmp_path / "c.pcapng")
    other = "bob" if who == "alice" else "alice"
    old, new = capture.keys_from(address(lab, who))
    assert old.suite == new.suite
    changed = capture.sip(b"INVITE ", address(lab, who))[-1].time
    before, after = (capture.opened(address(lab, who), key) for key in (old, new))
    assert before
    assert len(before) + len(after) >= 0.95 * len(capture.rtp_from(address(lab, who)))
    assert_goes_on(after, changed)
    assert len(capture.keys_from(address(lab, other))) == 1, "the far end's access is not touched (7.4-2)"


@pytest.mark.clause("TS 33.328", "7.4-3")
@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_new_port_brings_a_new_key_and_a_context_that_begins_at_roll_over_counter_zero(
    lab: Lab, tmp_path: Path, who: str
) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED, *with_keys(tmp_path / "c.pcapng")) as call:
        call.talk(0.4)
        assert call.modify(who, "move-port") == 200
        call.talk(0.8)
    assert_heard(call.result(), loss=0.2)
    assert_all_protected(call.result())
    capture = Capture(tmp_path / "c.pcapng")
    host = address(lab, who)
    old, new = capture.keys_from(host)
    ports = [frame.source[1] for frame in capture.rtp_from(host)]
    assert len(set(ports)) == 2
    after = capture.opened(host, new)
    assert {frame.source[1] for frame in after} == {ports[-1]}
    assert_goes_on(after, capture.sip(b"INVITE ", host)[-1].time)
    accepted = after[0].time
    assert all(frame.time < accepted for frame in capture.opened(host, old)), "the old key ends with the old port"


@pytest.mark.clause("TS 33.328", "7.4-1")
def test_added_stream_gets_keys_of_its_own_and_the_first_stream_keeps_its_own(lab: Lab, tmp_path: Path) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED, *with_keys(tmp_path / "c.pcapng")) as call:
        call.talk(0.3)
        assert call.modify("alice", "add-stream") == 200
        call.talk(0.6)
        assert call.modify("alice", "drop-stream") == 200
        call.talk(0.4)
    result = call.result()
    assert_heard(result, loss=0.05)
    assert_all_protected(result)
    for user in ("alice", "bob"):
        streams = {leg["stream"]: leg for leg in ends(result, user)}
        assert set(streams) == {"1", "2"}
        assert streams["2"]["packets_in"] >= 10
        assert streams["2"]["packets_out"] >= 10
        assert streams["1"]["packets_out"] > streams["2"]["packets_out"] + 10, "the dropped stream fell silent"
    capture = Capture(tmp_path / "c.pcapng")
    assert len(capture.keys_from(address(lab, "alice"))) == 2
    assert_released(lab)


@pytest.mark.clause("TS 33.328", "7.4-2")
@pytest.mark.clause("RFC 3311", "5.1")
def test_update_changes_a_confirmed_session_as_a_re_invite_does(lab: Lab) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED) as call:
        assert call.modify("alice", "hold", "method=UPDATE") == 200
        assert call.modify("alice", "resume", "method=UPDATE") == 200
        assert call.modify("bob", "rekey", "method=UPDATE") == 200
        call.talk(0.5)
    assert_heard(call.result(), loss=0.6)
    assert_all_protected(call.result())


@pytest.mark.clause("TS 33.328", "7.4-2")
def test_session_goes_through_every_change_from_both_sides_and_stays_protected(lab: Lab) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED) as call:
        for action in ("hold", "resume", "rekey", "move-port", "add-stream"):
            for user in ("alice", "bob"):
                assert call.modify(user, action) == 200, (action, user)
        call.talk(0.4)
    assert_heard(call.result(), loss=0.6)
    assert_all_protected(call.result())
    assert_released(lab)


@pytest.mark.clause("RFC 3261", "14.1", "14.2")
@pytest.mark.clause("RFC 3264", "4")
def test_glare_of_offers_from_both_sides_ends_with_both_carried_out(lab: Lab) -> None:
    statuses: dict[str, int] = {}
    with LiveCall(lab, "alice", "bob", *SECURED) as call:

        def change(user: str) -> None:
            statuses[user] = call.modify(user, "rekey")

        both = [threading.Thread(target=change, args=(user,)) for user in ("alice", "bob")]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert statuses == {"alice": 200, "bob": 200}
        call.talk(0.4)
    assert_heard(call.result())
    assert_all_protected(call.result())


@pytest.mark.clause("RFC 3261", "15.1")
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_either_side_ends_the_call_and_the_gateways_give_everything_back(lab: Lab, who: str) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED) as call:
        call.talk(0.3)
        assert call.hang_up(who) == 200
        assert_heard(call.result())
    assert_released(lab)
    flow = lab.flow(call.call_id)
    byes = [step for step in flow["steps"] if step["kind"] == "sip" and step["label"].startswith("BYE")]
    assert byes[0]["from"] == who
    releases = [step for step in flow["steps"] if step["kind"] == "rpc" and "Release" in step["label"]]
    assert {step["to"] for step in releases} == {"imsagw-a", "imsagw-b"}


@pytest.mark.clause("RFC 3261", "9.1", "9.2")
@pytest.mark.parametrize("early", ["true", "false"])
def test_cancel_while_it_rings_ends_with_487_and_frees_the_gateways(lab: Lab, early: str) -> None:
    state = "early" if early == "true" else "ringing"
    with (
        behaving(lab, "bob", keep_ringing="true", early_media=early),
        LiveCall(lab, "alice", "bob", *SECURED, state=state) as call,
    ):
        assert call.modify("alice", "cancel") == 487
        result = call.result()
    assert (result["result"], result["sip_status"]) == ("refused", 487)
    assert_released(lab)
    labels = [step["label"] for step in lab.flow(call.call_id)["steps"] if step["kind"] == "sip"]
    assert any(label.startswith("CANCEL") for label in labels)
    assert any(label.startswith("487") for label in labels)


@pytest.mark.clause("RFC 3261", "9.1")
def test_caller_that_gives_up_by_itself_leaves_nothing_behind(lab: Lab) -> None:
    with behaving(lab, "bob", keep_ringing="true"):
        result = lab.call("alice", "bob", *SECURED, "--option", "cancel_after_s=0.3", status=1)
    assert result["sip_status"] == 487
    assert_released(lab)


@pytest.mark.clause("RFC 3261", "21.4.18", "21.6.2")
@pytest.mark.parametrize("status", [486, 480, 603])
def test_refusal_of_the_callee_reaches_the_caller_and_frees_the_gateways(lab: Lab, status: int) -> None:
    with behaving(lab, "bob", reject_status=status):
        result = lab.call("alice", "bob", *SECURED, status=1)
    assert (result["result"], result["sip_status"]) == ("refused", status)
    assert result["legs"] == []
    assert_released(lab)


@pytest.mark.clause("TS 33.328", "7.2.1-9")
@pytest.mark.clause("RFC 3262", "3", "4", "5")
def test_early_media_is_protected_and_heard_before_the_answer(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "c.pcapng"
    with (
        behaving(lab, "bob", early_media="true", answer_after_s=1.0),
        LiveCall(lab, "alice", "bob", *SECURED, *with_keys(target)) as call,
    ):
        call.talk(0.3)
    assert_heard(call.result())
    assert_all_protected(call.result())
    capture = Capture(target)
    answered = next(
        frame.time for frame in capture.sip(b"SIP/2.0 200", address(lab, "bob")) if b" INVITE\r\n" in frame.payload
    )
    gateway = address(lab, "imsagw-a")
    key = capture.keys_from(gateway)[0]
    early = [frame for frame in capture.opened(gateway, key) if frame.time < answered]
    assert len(early) >= 20, "the caller hears protected sound before the answer"


@pytest.mark.clause("RFC 3261", "13.2.2.4")
@pytest.mark.clause("RFC 3264", "5")
@pytest.mark.parametrize("reliable", ["off", "supported"])
def test_call_without_an_offer_is_offered_to_by_the_far_end_and_protected(lab: Lab, reliable: str) -> None:
    result = lab.call(
        "alice",
        "bob",
        "--seconds",
        "0.6",
        "--option",
        "offerless=true",
        "--option",
        f"reliable={reliable}",
        status=None,
    )
    assert_heard(result)
    assert {leg["protection"] for leg in result["legs"] if leg["side"] == "core"} == {"RTP"}
    assert {leg["protection"] for leg in ends(result, "bob")} == {"SRTP"}


def test_several_calls_at_once_between_the_same_phones_do_not_mix(lab: Lab, tmp_path: Path) -> None:
    results: list[dict[str, Any]] = []

    def place(number: int, caller: str, callee: str) -> None:
        arguments = (*SECURED, "--seconds", "1.5", *with_keys(tmp_path / f"{number}.pcapng"))
        results.append(lab.call(caller, callee, *arguments))

    lab.run("register", "alice")
    lab.run("register", "bob")
    pairs = [("alice", "bob"), ("bob", "alice"), ("alice", "bob"), ("bob", "alice")]
    threads = [threading.Thread(target=place, args=(number, *pair)) for number, pair in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result["call_id"] for result in results}) == len(pairs)
    for result in results:
        assert_heard(result)
        assert_all_protected(result)
    keys = [
        key.crypto.master_key.reveal()
        for number in range(len(pairs))
        for key in Capture(tmp_path / f"{number}.pcapng").keys
    ]
    # Every capture sees its own call alone, and no key serves twice (RFC 3711 9.1).
    assert len(keys) == len(set(keys)) == 4 * len(pairs)
    assert_released(lab)


@pytest.mark.clause("RFC 3264", "8.2")
def test_change_that_the_session_cannot_take_is_refused_and_the_call_goes_on(lab: Lab) -> None:
    with LiveCall(lab, "alice", "bob", *SECURED) as call:
        broken = lab.run("ue", "modify", "alice", call.call_id, "drop-stream", "--option", "stream=7", check=False)
        assert broken.returncode != 0
        unknown = lab.run("ue", "modify", "alice", call.call_id, "teleport", check=False)
        assert unknown.returncode != 0
        call.talk(0.4)
    assert_heard(call.result())


@pytest.mark.clause("TS 33.328", "7.4-2", "7.2.2-1")
def test_end_to_end_keys_are_changed_through_gateways_that_cannot_read_them(lab: Lab) -> None:
    with LiveCall(lab, "alice", "bob", "--security", "e2e-sdes") as call:
        call.talk(0.3)
        for action in ("rekey", "hold", "resume", "move-port"):
            assert call.modify("alice", action) == 200, action
        call.talk(0.5)
    result = call.result()
    assert_heard(result, loss=0.6)
    assert {leg["protection"] for leg in result["legs"] if leg["side"] != "end"} == {"opaque"}
    assert {leg["protection"] for leg in result["legs"] if leg["side"] == "end"} == {"SRTP"}
    assert "inline:" not in json.dumps(lab.flow(call.call_id)).replace("inline:<", "")
