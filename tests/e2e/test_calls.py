"""What the project is for: calls through every process, and what each leg of them carries."""

from __future__ import annotations

import json
import subprocess
import wave
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab, running

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


def legs(result: dict[str, Any], side: str) -> dict[str, dict[str, Any]]:
    return {leg["node"]: leg for leg in result["legs"] if leg["side"] == side}


def assert_heard_both_ways(result: dict[str, Any], one: str, other: str) -> None:
    assert set(result["audio"]) == {f"{one}->{other}", f"{other}->{one}"}
    for direction, audio in result["audio"].items():
        assert audio["heard"], f"{direction}: {audio}"
        assert audio["loss"] < 0.05, f"{direction}: {audio}"


@pytest.mark.clause("TS 33.328", "4.1.2.1-2", "5.4.1-1", "5.4.1-2")
@pytest.mark.clause("TS 33.328", "4.2.2-1", "4.2.2-2", "6.2.1.1-1", "6.2.1.2-1", "7.3.1-5")
def test_e2ae_call_is_srtp_on_both_accesses_and_plain_in_the_core(lab: Lab) -> None:
    result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "3")
    assert result["result"] == "established"
    assert result["sip_status"] == 200
    assert result["security"] == "e2ae-sdes"
    access = legs(result, "access")
    assert set(access) == {"imsagw-a", "imsagw-b"}
    for leg in access.values():
        assert (leg["protection"], leg["keying"]) == ("SRTP", "SDES")
        assert leg["suite"]
        assert leg["packets_in"] > 100
        assert leg["packets_out"] > 100
        assert leg["auth_failures"] == leg["replays"] == 0
    core = legs(result, "core")
    assert set(core) == {"imsagw-a", "imsagw-b"}
    assert {leg["protection"] for leg in core.values()} == {"RTP"}
    assert {leg["keying"] for leg in core.values()} == {""}
    ends = legs(result, "end")
    assert {leg["protection"] for leg in ends.values()} == {"SRTP"}
    assert_heard_both_ways(result, "alice", "bob")


@pytest.mark.clause("TS 33.328", "4.1.2.1-2", "5.4.2-1")
@pytest.mark.clause("TS 33.328", "4.2.3-1", "6.2.2-1", "7.2.2-1", "7.3.2-2")
def test_e2e_sdes_call_passes_the_gateways_unopened(lab: Lab) -> None:
    result = lab.call("alice", "bob", "--security", "e2e-sdes", "--seconds", "2")
    assert result["result"] == "established"
    assert {leg["protection"] for leg in legs(result, "end").values()} == {"SRTP"}
    for side in ("access", "core"):
        assert {leg["protection"] for leg in legs(result, side).values()} == {"opaque"}
    assert_heard_both_ways(result, "alice", "bob")


@pytest.mark.clause("TS 33.328", "4.1.1-1", "7.1-4")
def test_plain_call_stays_plain_for_the_caller(lab: Lab) -> None:
    result = lab.call("carol", "alice", "--security", "none", "--seconds", "2")
    assert result["result"] == "established"
    assert legs(result, "access")["imsagw-b"]["protection"] == "RTP"
    assert_heard_both_ways(result, "carol", "alice")


@pytest.mark.clause("TS 33.328", "5.4.1-3", "7.2.1-9")
def test_call_to_a_phone_without_media_security_protects_the_callers_leg_only(lab: Lab) -> None:
    result = lab.call("alice", "carol", "--security", "e2ae-sdes", "--seconds", "2")
    assert result["result"] == "established"
    access = legs(result, "access")
    assert access["imsagw-a"]["protection"] == "SRTP"
    assert access["imsagw-b"]["protection"] == "RTP"
    assert_heard_both_ways(result, "alice", "carol")


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
def test_phone_without_media_security_is_refused_where_the_access_requires_it(own_folder: Path) -> None:
    def change(description: dict[str, Any]) -> None:
        for access in description["access_networks"]:
            if access["name"] == "access-b":
                access["media_security"] = "required"

    with running(own_folder, change) as lab:
        refused = lab.call("alice", "carol", "--security", "e2ae-sdes", "--seconds", "1", status=1)
        assert (refused["result"], refused["sip_status"]) == ("refused", 488)
        agreed = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")
        assert agreed["result"] == "established"


@pytest.mark.parametrize(
    "suite",
    [
        "AES_CM_128_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
        "AES_192_CM_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_80",
        "AEAD_AES_128_GCM",
        "AEAD_AES_256_GCM",
    ],
)
@pytest.mark.clause("TS 33.328", "C-1", "C-2", "C-3")
def test_every_suite_carries_a_call(lab: Lab, suite: str) -> None:
    result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1", "--suite", suite)
    assert result["result"] == "established"
    assert legs(result, "access")["imsagw-a"]["suite"] == suite


def test_a_wav_is_played_and_both_ends_are_recorded(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "in.wav"
    with wave.open(str(source), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        frame = b"".join(int(9000 * ((i // 40) % 2 * 2 - 1)).to_bytes(2, "little", signed=True) for i in range(16_000))
        out.writeframes(frame * 2)
    result = lab.call(
        "alice",
        "bob",
        "--security",
        "e2ae-sdes",
        "--seconds",
        "2",
        "--play",
        str(source),
        "--record",
        str(tmp_path / "rec"),
    )
    assert result["audio"]["alice->bob"]["heard"]
    recordings = sorted((tmp_path / "rec").glob("*.wav"))
    assert len(recordings) == 2
    for path in recordings:
        with wave.open(str(path), "rb") as heard:
            assert heard.getframerate() == 8000
            assert heard.getnframes() > 8000


@pytest.mark.peer("tshark")
def test_capture_of_a_call_is_dissected_as_sip_and_rtp(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "call.pcapng"
    result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1", "--pcap", str(target))
    dissected = subprocess.run(
        ["tshark", "-r", str(target), "-T", "fields", "-e", "frame.protocols", "-e", "sip.Call-ID"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert result["call_id"] in dissected
    assert dissected.count(":sip") >= 10
    assert ":rtp" in dissected
    assert b"inline:" not in target.read_bytes().replace(b"inline:<", b"")


def test_flow_shows_sip_iq_key_decisions_and_media_of_one_trace(lab: Lab) -> None:
    result = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")
    text = lab.run("flow", result["call_id"]).stdout
    for expected in ("INVITE", "200", "ACK", "BYE", "pcscf-a", "pcscf-b", "cscf", "imsagw-a", "e2ae", "SRTP"):
        assert expected in text, text
    document = lab.flow(result["call_id"])
    assert document["call_id"] == result["call_id"]
    assert document["trace_id"] == result["trace_id"]
    kinds = {step["kind"] for step in document["steps"]}
    assert {"sip", "rpc", "decision", "media"} <= kinds
    assert "<svg" in lab.run("flow", result["call_id"], "--format", "html").stdout
    assert lab.run("flow", result["call_id"], "--format", "mermaid").stdout.lstrip().startswith("sequenceDiagram")


def test_usage_errors_end_with_two(lab: Lab) -> None:
    assert lab.run("call", "alice", check=False).returncode == 2
    assert lab.run("call", "alice", "bob", "--security", "rot13", check=False).returncode == 2
    unknown = lab.run("call", "alice", "nobody", check=False)
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr


def test_json_of_a_call_is_one_object_with_the_documented_keys(lab: Lab) -> None:
    process = lab.run("call", "alice", "bob", "--seconds", "1", "--json")
    document = json.loads(process.stdout)
    assert {"call_id", "trace_id", "result", "sip_status", "setup_ms", "security", "legs", "audio"} <= set(document)
    assert set(document["legs"][0]) >= {
        "node",
        "side",
        "protection",
        "keying",
        "suite",
        "packets_in",
        "packets_out",
        "auth_failures",
        "replays",
    }


def test_two_labs_run_side_by_side(lab: Lab, own_folder: Path) -> None:
    with running(own_folder) as second:
        assert second.resolved != lab.resolved
        assert second.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")["result"] == "established"
        assert lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")["result"] == "established"
