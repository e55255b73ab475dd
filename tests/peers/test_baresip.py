"""A client nobody here wrote registers with digest over TLS and talks SDES with bob."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import Lab
from tests.peers.baresip import Baresip

pytestmark = [pytest.mark.lab, pytest.mark.peer("baresip"), pytest.mark.timeout(180)]


def client(lab: Lab, folder: Path) -> Baresip:
    facts = lab.json("user", "dave", "--show-password")
    row = lab.resolved["users"]["dave"]
    return Baresip(
        folder,
        user="dave",
        domain=row["domain"],
        password=facts["password"],
        outbound=f"{row['pcscf']['host']}:{row['pcscf']['tls_port']}",
        ca=lab.state / "pki" / "ca.crt",
        # baresip sends media from the address the kernel picks on the loopback, whatever it writes into SDP.
        address="127.0.0.1",
    )


def loudness(path: Path) -> float:
    """Root mean square of the audible part of a recording, 0 when there is none."""
    data = path.read_bytes()[44:] if path.exists() else b""
    samples = [int.from_bytes(data[i : i + 2], "little", signed=True) for i in range(0, len(data) - 1, 2)]
    loud = [sample for sample in samples if abs(sample) > 100]
    return (sum(sample * sample for sample in loud) / len(loud)) ** 0.5 if len(loud) > 2000 else 0.0


def calls_of_bob(lab: Lab) -> list[dict[str, Any]]:
    status: dict[str, Any] = json.loads(lab.run("ue", "status", "bob").stdout)
    return list(status["calls"])


def media_ends(lab: Lab, call_id: str) -> dict[str, dict[str, Any]]:
    """What each node reported of the media of a call, by node."""
    return {end["node"]: end for step in lab.flow(call_id)["steps"] if step["kind"] == "media" for end in step["ends"]}


def test_baresip_calls_bob_and_both_hear(lab: Lab, tmp_path: Path) -> None:
    lab.run("register", "bob")
    before = {call["call_id"] for call in calls_of_bob(lab)}
    with client(lab, tmp_path / "baresip") as phone:
        phone.wait("200 OK () [1 binding]")
        phone.command("dial", "sip:bob@ims.test")
        phone.wait("Call established", 30)
        lab.wait(lambda: loudness(phone.heard) > 500, 20, f"nothing heard\n{phone.log}")
        calls = [call for call in calls_of_bob(lab) if call["call_id"] not in before]
    assert calls, "bob saw no call"
    call_id = calls[-1]["call_id"]
    lab.wait(lambda: "bob" in media_ends(lab, call_id), 20, "the call left no media association")
    end = media_ends(lab, call_id)["bob"]
    assert (end["protection"], end["suite"]) == ("SRTP", "AES_CM_128_HMAC_SHA1_80")
    assert end["packets_in"] > 20
    assert end["auth_failures"] == 0
    assert media_ends(lab, call_id)["imsagw-a"]["protection"] == "opaque"


def test_bob_calls_baresip_and_both_hear(lab: Lab, tmp_path: Path) -> None:
    with client(lab, tmp_path / "baresip") as phone:
        phone.wait("200 OK () [1 binding]")
        result = lab.call("bob", "dave", "--security", "e2e-sdes", "--seconds", "4")
        assert result["result"] == "established", (result, phone.log)
        assert result["audio"]["dave->bob"]["heard"], (result, phone.log)
        lab.wait(lambda: loudness(phone.heard) > 500, 10, f"nothing heard\n{phone.log}")
