"""What a tap on the wire sees: nothing of a key beyond the P-CSCF, SRTP where SRTP is claimed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from keying.suites import SUITES
from tests.e2e.lab import Lab, running
from tests.e2e.wire import WireTap

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def clear_core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose Mw is plain TCP, so that a tap reads what passes between P-CSCF and S-CSCF."""

    def change(description: dict[str, Any]) -> None:
        description["mw_transport"] = "tcp"

    with running(tmp_path_factory.mktemp("clear-core"), change) as lab:
        yield lab


@pytest.mark.clause("TS 33.328", "5.5.2-1", "7.2.1-3", "7.1.1-5", "4.2.2-1")
@pytest.mark.clause("TS 33.328", "5.5.1-1")
@pytest.mark.attack("T8")
def test_no_key_or_e2ae_mark_crosses_the_core_and_media_is_what_the_legs_say(clear_core: Lab) -> None:
    nodes = clear_core.resolved
    with WireTap(nodes["network"]) as tap:
        result = clear_core.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "2")
    assert result["result"] == "established"
    core_sip = b"".join(payload for _, _, payload in tap.streams("TCP"))
    assert b"INVITE sip:bob@ims.test" in core_sip, "the tap must have seen the core's SIP"
    assert b"a=crypto" not in core_sip
    assert b"inline:" not in core_sip
    assert b"3ge2ae" not in core_sip
    assert b"ecurity-" not in core_sip
    gateway = {name: clear_core.node(name)["settings"] for name in ("imsagw-a", "imsagw-b")}
    phones = {name: clear_core.node(name)["settings"] for name in ("alice", "bob")}
    core = tap.rtp(gateway["imsagw-a"]["core_ip"], gateway["imsagw-b"]["core_ip"])
    assert len(core) > 100
    assert {len(packet.payload) for packet in core} == {172}, "plain G.711 in the core"
    for phone, name in (("alice", "imsagw-a"), ("bob", "imsagw-b")):
        access = tap.rtp(phones[phone]["ip"], gateway[name]["access_ip"])
        assert len(access) > 100
        suite = next(leg["suite"] for leg in result["legs"] if (leg["node"], leg["side"]) == (name, "access"))
        tag = SUITES[suite].srtp_tag_length
        assert {len(packet.payload) for packet in access} == {172 + tag}, f"{suite} on the access"
    clear = {packet.payload[12:] for packet in core}
    protected = [
        packet
        for phone, name in (("alice", "imsagw-a"), ("bob", "imsagw-b"))
        for packet in tap.rtp(phones[phone]["ip"], gateway[name]["access_ip"])
    ]
    assert not any(packet.payload[12:172] in clear for packet in protected)
    # The same sound under keys that differ per leg and direction never gives the same octets.
    bodies = [packet.payload[12:172] for packet in protected]
    assert len(bodies) == len(set(bodies))


@pytest.mark.clause("TS 33.328", "4.1.2.1-1", "5.5.2-2")
def test_e2e_sdes_is_refused_where_the_core_would_show_the_key(clear_core: Lab) -> None:
    with WireTap(clear_core.resolved["network"]) as tap:
        result = clear_core.call("alice", "bob", "--security", "e2e-sdes", "--seconds", "1", status=1)
    assert (result["result"], result["sip_status"]) == ("refused", 488)
    assert all(b"inline:" not in payload for _, _, payload in tap.streams("TCP"))


@pytest.mark.clause("TS 33.328", "4.1.2.1-1")
def test_default_lab_shows_no_sip_at_all_on_the_wire(lab: Lab) -> None:
    with WireTap(lab.resolved["network"]) as tap:
        result = lab.call("alice", "bob", "--security", "e2e-sdes", "--seconds", "1")
    assert result["result"] == "established"
    assert tap.packets
    for _, _, payload in (*tap.streams("TCP"), *tap.streams("UDP")):
        assert b"SIP/2.0" not in payload
        assert b"inline:" not in payload


@pytest.mark.attack("T3")
def test_plain_rtp_thrown_at_a_protected_leg_is_dropped_and_counted(lab: Lab) -> None:
    settings = lab.node("imsagw-a")["settings"]
    with WireTap(lab.resolved["network"]) as tap:
        outcome: dict[str, Any] = {}

        def place() -> None:
            outcome.update(lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "3"))

        caller = threading.Thread(target=place)
        caller.start()
        phone = lab.node("alice")["settings"]["ip"]
        lab.wait(lambda: len(tap.rtp(phone, settings["access_ip"])) > 10, 20, "no media seen")
        target = next(
            packet.destination for packet in tap.rtp(phone, settings["access_ip"]) if packet.destination[0] != phone
        )
        attacker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with attacker:
            for number in range(300):
                forged = bytes([0x80, 0]) + number.to_bytes(2, "big") + bytes(8) + bytes(160) + bytes(10)
                attacker.sendto(forged, target)
                if number % 10 == 9:
                    caller.join(0.02)  # no more at once than the kernel keeps for the gateway
        assert caller.is_alive(), "all of them came while the call was on"
        caller.join()
    assert outcome["result"] == "established"
    assert outcome["audio"]["alice->bob"]["loss"] < 0.05
    assert outcome["audio"]["bob->alice"]["heard"]
    leg = next(leg for leg in outcome["legs"] if leg["node"] == "imsagw-a" and leg["side"] == "access")
    assert sum(leg["drops"].values()) >= 300, leg
