"""A mode and a suite of packages in one lab: calls with them, what the wire shows, who refuses, what stays secret."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from keying import suites
from keying.sdes import parse_crypto
from keying.secret import Secret
from media import srtp_transform
from media.srtp import AuthenticationFailure, SrtpContext
from sba.store import Sealer
from sba.testing import use_packages
from tests.e2e.lab import ROOT, Lab
from tests.e2e.wire import WireTap

EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """alice and bob with the mode and the suite, carol without either; Mw is plain TCP, so that the tap reads it."""
    folder = tmp_path_factory.mktemp("extensions")
    description: dict[str, Any] = yaml.safe_load((EXAMPLES / "seed-suite" / "lab.yaml").read_text())
    description["mw_transport"] = "tcp"
    description["extensions"]["security_modes"] = [{"name": "e2e-psk", "users": ["alice", "bob"]}]
    config = folder / "lab.yaml"
    config.write_text(yaml.safe_dump(description))
    lab = Lab(folder / "state", config)
    packages = [str(EXAMPLES / name) for name in ("sealed-keys", "seed-suite")]
    try:
        lab.run("up", "--config", str(config), *(word for path in packages for word in ("--with", path)))
        yield lab
    finally:
        lab.run("down", check=False)


def shared_key(lab: Lab) -> Secret:
    sealer = Sealer(lab.state / "secrets" / "sealing.key", "lab security modes")
    content = json.loads(sealer.unseal((lab.state / "secrets" / "modes.sealed").read_bytes()))
    return Secret(bytes.fromhex(content["e2e-psk"]))


@pytest.fixture
def suites_as_before() -> Iterator[None]:
    """Suites enabled in this process are gone after the test: others count them."""
    with (
        patch.dict(suites._known),
        patch.dict(suites._BY_FOLDED_NAME),
        patch.dict(srtp_transform._OF_PACKAGES),
    ):
        yield


@pytest.mark.root
@pytest.mark.usefixtures("suites_as_before")
def test_media_is_srtp_under_keys_that_only_the_shared_key_opens(lab: Lab) -> None:
    use_packages([EXAMPLES / "sealed-keys", EXAMPLES / "seed-suite"], lab.state / "test-metadata")
    from sealed_keys.mode import PreSharedKeyMode
    from seed_suite.suite import SUITE

    srtp_transform.enable_srtp_suite(SUITE.suite.name, SUITE)
    nodes = lab.resolved
    with WireTap(nodes["network"]) as tap:
        verdict = lab.call("alice", "bob", "--security", "e2e-psk", "--seconds", "2")
    assert (verdict["result"], verdict["security"]) == ("established", "e2e-psk")
    ends = [leg for leg in verdict["legs"] if leg["side"] == "end"]
    assert [(leg["keying"], leg["suite"], leg["auth_failures"]) for leg in ends] == [("PSK", SUITE.suite.name, 0)] * 2
    assert all(sound["heard"] and sound["snr_db"] > 20 for sound in verdict["audio"].values())
    core = b"".join(payload for _, _, payload in tap.streams("TCP"))
    assert b"INVITE sip:bob@ims.test" in core, "the tap must have seen the core's SIP"
    assert b"a=crypto" not in core
    offer, answer = _seals(core)
    for stranger in (Secret(bytes(32)), Secret.random(32)):
        with pytest.raises(Exception, match="seal"):
            PreSharedKeyMode(stranger).open_offer(offer)
    holder = PreSharedKeyMode(shared_key(lab))
    [line] = holder.open_offer(offer)
    taken = holder.open_answer(answer, offer)
    assert line.split()[1] == taken.split()[1] == SUITE.suite.name
    alice, gateways = nodes["nodes"]["alice"]["settings"]["ip"], nodes["nodes"]["imsagw-a"]["settings"]
    _opens(tap, (alice, gateways["access_ip"]), line)
    far = nodes["nodes"]["imsagw-b"]["settings"]["core_ip"]
    _opens(tap, (gateways["core_ip"], far), line)
    with pytest.raises(AssertionError):
        _opens(tap, (gateways["core_ip"], far), f"1 {SUITE.suite.name} inline:{base64.b64encode(bytes(30)).decode()}")


def _seals(sip: bytes) -> tuple[str, str]:
    """The value of the offer and that of its answer."""
    values = list(dict.fromkeys(re.findall(rb"a=psk-crypto:(\S+)", sip)))
    assert len(values) == 2
    return values[0].decode(), values[1].decode()


def _opens(tap: WireTap, way: tuple[str, str], line: str) -> None:
    """The packets of one direction are SRTP under the key of a crypto line."""
    context = SrtpContext.from_crypto(parse_crypto(line))
    packets = [packet.payload for packet in tap.rtp(*way) if packet.source[0] == way[0]]
    assert len(packets) > 50
    opened = []
    for packet in packets:
        try:
            opened.append(context.unprotect_rtp(packet))
        except AuthenticationFailure:
            continue
    assert len(opened) == len(packets)
    assert all(clear[12:] not in packet for clear, packet in zip(opened, packets, strict=True))


def test_keys_in_sdp_are_refused_on_this_core_where_sealed_ones_pass(lab: Lab) -> None:
    assert lab.call("alice", "bob", "--security", "e2e-sdes", status=1)["sip_status"] == 488


def test_the_gateway_carries_the_suite_at_an_edge(lab: Lab) -> None:
    verdict = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "1")
    assert verdict["result"] == "established"
    carried = {(leg["node"], leg["side"]): leg["suite"] for leg in verdict["legs"] if leg["protection"] == "SRTP"}
    assert carried["alice", "end"] == carried["imsagw-a", "access"] == "SEED_CTR_128_HMAC_SHA1_80"
    assert all(sound["heard"] for sound in verdict["audio"].values())


def test_who_has_neither_refuses_with_488_and_words(lab: Lab) -> None:
    sealed = lab.call("alice", "carol", "--security", "e2e-psk", status=1)
    assert (sealed["sip_status"], "protection-required" in sealed["reason"]) == (488, True)
    assert sealed["meaning"]
    own = lab.call("carol", "bob", "--security", "e2e-psk", status=1)
    assert (own["sip_status"], "mode-unknown" in own["reason"]) == (488, True)
    assert "extensions.security_modes" in own["meaning"]


def test_names_that_the_lab_does_not_enable_are_wrong_usage(lab: Lab) -> None:
    for words in (("--security", "e2e-other"), ("--suite", "ARIA_128_80")):
        done = lab.run("call", "alice", "bob", *words, check=False)
        assert done.returncode == 2
    assert "e2e-psk" in lab.run("call", "alice", "bob", "--security", "e2e-other", check=False).stderr


@pytest.mark.attack("T8")
def test_the_shared_key_is_in_no_file_in_the_open_and_only_on_the_cards_of_its_users(lab: Lab) -> None:
    key = shared_key(lab).reveal()
    forms = (key, key.hex().encode(), base64.b64encode(key))
    assert [path for path in lab.files() if any(form in path.read_bytes() for form in forms)] == []
    held = {name: _card(lab, name).get("mode:e2e-psk") for name in ("alice", "bob", "carol")}
    assert held == {"alice": key.hex(), "bob": key.hex(), "carol": None}


def _card(lab: Lab, user: str) -> dict[str, str]:
    sealer = Sealer(lab.state / "secrets" / "sealing.key", lab.node(user)["nf_instance_id"])
    card: dict[str, str] = json.loads(sealer.unseal(Path(lab.node(user)["settings"]["key_file"]).read_bytes()))
    return card


def test_the_same_state_folder_has_packages_and_key_again(lab: Lab) -> None:
    key = shared_key(lab)
    lab.run("down")
    lab.run("up", "--config", str(lab.config))
    assert shared_key(lab) == key
    assert lab.call("bob", "alice", "--security", "e2e-psk", "--seconds", "1")["result"] == "established"
