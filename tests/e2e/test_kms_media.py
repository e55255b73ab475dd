"""The media of a call with keys of the KMS, opened from its capture by code that is not imslab's.

The keys come from the exchange file through the verifier that was written from the RFCs alone, the packets from the
capture of the gateways, and libsrtp opens them.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keying.mikey.describe import summary
from keying.suites import SUITES
from media.g711 import PCMA
from media.quality import FRAME, compare
from media.rtp import parse_rtp
from media.tone import speech_like
from tests.e2e.capture import Capture
from tests.e2e.lab import ROOT, Lab
from tests.e2e.live import LiveCall
from tests.keying.mikey.independent.rfc6043 import verify_exchange
from tests.media.libsrtp import Libsrtp, LibsrtpError

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

SUITE = SUITES["AES_CM_128_HMAC_SHA1_80"]
CS_OF = {"alice": 1, "erin": 2}
"""Two CS IDs for the first media line: the caller's stream, then the answerer's (RFC 4567 7.1; order assumed)."""


@pytest.fixture(scope="module")
def call(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One call from alice to erin with everything written down."""
    folder: Path = tmp_path_factory.mktemp("kms-media")
    exchange, pcap = folder / "exchange.json", folder / "call.pcapng"
    result = lab.call(
        "alice", "erin", "--security", "e2e-kms", "--seconds", "3",
        "--with-keys", "--exchange", str(exchange), "--pcap", str(pcap),
    )  # fmt: skip
    assert result["result"] == "established"
    return {
        "exchange": verify_exchange(json.loads(exchange.read_text())),
        "capture": Capture(pcap),
        "pcap": pcap,
        "address": {name: lab.resolved["users"][name]["address"] for name in CS_OF},
    }


def master(call: dict[str, Any], name: str) -> tuple[bytes, bytes]:
    """Master key with salt, and MKI, of what `name` sends."""
    session = call["exchange"].sessions[CS_OF[name]]
    spi = next(
        offered["spi"]
        for offered in call["exchange"].messages["TRANSFER_RESP"].sessions
        if offered["cs_id"] == CS_OF[name]
    )
    return session["tek"] + session["salt"], spi


@pytest.mark.clause("TS 33.328", "7.2.3-6", "5.5.3-1", "B.1.2-1")
@pytest.mark.parametrize("name", sorted(CS_OF))
def test_the_exchange_alone_opens_the_media_in_libsrtp_and_it_is_what_was_said(call: dict[str, Any], name: str) -> None:
    key, mki = master(call, name)
    packets = [frame.payload for frame in call["capture"].rtp_from(call["address"][name])]
    assert len(packets) > 100
    opener = Libsrtp(SUITE, (key, mki), inbound=True)
    opened = [parse_rtp(opener.unprotect_rtp(packet)) for packet in packets]
    opener.close()
    stretches = [opened[:1]]
    for before, packet in itertools.pairwise(opened):  # a capture on a busy machine may lack a packet
        if (packet.timestamp - before.timestamp) % 2**32 != FRAME:
            stretches.append([])
        stretches[-1].append(packet)
    whole = max(stretches, key=len)
    assert len(whole) > 50
    found = compare(speech_like(name), PCMA.decode(b"".join(packet.payload for packet in whole)))
    assert found.heard
    assert found.snr_db > 30


@pytest.mark.clause("TS 33.328", "7.2.3-6")
@pytest.mark.parametrize("name", sorted(CS_OF))
def test_every_packet_carries_the_spi_of_its_key_as_mki_and_the_ssrc_of_its_session(
    call: dict[str, Any], name: str
) -> None:
    _, mki = master(call, name)
    answered = call["exchange"].messages["TRANSFER_RESP"].sessions
    session_data = next(each["data"] for each in answered if each["cs_id"] == CS_OF[name])
    packets = [frame.payload for frame in call["capture"].rtp_from(call["address"][name])]
    assert {packet[-len(mki) - SUITE.srtp_tag_length : -SUITE.srtp_tag_length] for packet in packets} == {mki}
    assert {packet[8:12] for packet in packets} == {session_data[:4]}


@pytest.mark.clause("TS 33.328", "D-4")
def test_the_key_of_one_direction_opens_nothing_of_the_other(call: dict[str, Any]) -> None:
    key, mki = master(call, "alice")
    opener = Libsrtp(SUITE, (key, mki), inbound=True)
    opened = 0
    for frame in call["capture"].rtp_from(call["address"]["erin"]):
        try:
            opener.unprotect_rtp(frame.payload)
        except LibsrtpError:
            continue
        opened += 1
    opener.close()
    assert opened == 0


@pytest.mark.clause("TS 33.328", "5.5.3-1")
@pytest.mark.attack("T5")
def test_what_a_gateway_sees_of_the_call_does_not_open_it(call: dict[str, Any]) -> None:
    """Every run of octets in the MIKEY messages that pass the gateways, tried as master key, beside the true salt."""
    seen = b"".join(call["exchange"].messages[name].octets for name in ("TRANSFER_INIT", "TRANSFER_RESP"))
    for secret in (*call["exchange"].keys.values(), *(each["tek"] for each in call["exchange"].sessions.values())):
        assert secret not in seen
    key, mki = master(call, "alice")
    packet = call["capture"].rtp_from(call["address"]["alice"])[0].payload
    length = SUITE.key_length
    guesses = {seen[start : start + length] for start in range(len(seen) - length + 1)}
    assert len(guesses) > 400
    for guess in guesses:
        opener = Libsrtp(SUITE, (guess + key[length:], mki), inbound=True)
        with pytest.raises(LibsrtpError):
            opener.unprotect_rtp(packet)
        opener.close()


@pytest.mark.clause("TS 33.328", "7.2.3-7")
@pytest.mark.clause("RFC 4567", "4.1.2")
def test_no_packet_is_lost_for_its_key_while_keys_change(lab: Lab) -> None:
    with LiveCall(lab, "alice", "erin", "--security", "e2e-kms") as call:
        call.talk(0.4)
        for user in ("alice", "erin"):
            for method in ("INVITE", "UPDATE"):
                assert call.modify(user, "rekey", f"method={method}") == 200, (user, method)
                call.talk(0.7)
    assert {leg["auth_failures"] for leg in call.result()["legs"]} == {0}
    lines = [line for path in lab.files() if path.suffix == ".log" for line in path.read_text().splitlines()]
    refused = [line for line in lines if "ue.packet-refused" in line and call.call_id in line]
    assert not [line for line in refused if "mki" in line or "auth" in line]


def as_the_page_says(name: str, pcap: Path) -> list[str]:
    """Run the command of docs/wireshark/README.md that has `name` in it; returns the lines it printed."""
    page = (ROOT / "docs" / "wireshark" / "README.md").read_text()
    (command,) = [line for line in page.splitlines() if line.startswith("tshark ") and name in line]
    words = [str(pcap) if word == "call.pcapng" else word for word in command.split()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "Lua" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.peer("tshark")
def test_wireshark_shows_the_ticket_transfer_of_the_call(call: dict[str, Any]) -> None:
    messages = [call["exchange"].messages[name].octets for name in ("TRANSFER_INIT", "TRANSFER_RESP")]
    told = as_the_page_says("-T fields", call["pcap"])
    assert list(dict.fromkeys(told)) == [summary(message) for message in messages]
    assert min(map(told.count, told)) >= 5, "every hop of both networks passed them on"
    tree = "\n".join(as_the_page_says("-O ", call["pcap"]))
    for word in ("TRANSFER_INIT", "TRANSFER_RESP", "Ticket Data", "sip:erin@partner.test", "MIKEY base ticket"):
        assert word in tree, word
    assert "Malformed" not in tree
