"""Security modes and crypto suites of packages: what must hold of them, in a call, at a P-CSCF, in a description."""

from __future__ import annotations

import base64
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keying import CryptoSuite, ModeFacts, ModeRefused, Secret, SecurityMode
from keying.modes import BUILT_IN, ModeError, check_mode, check_modes
from keying.sdes import SdesPolicy
from keying.suites import DEFAULT_SUITES, RECOGNISED_SUITES, SUITES, SuiteError, enable_suite
from lab.config import ConfigError, parse
from media.srtp_transform import SrtpSuite, enable_srtp_suite
from nodes.pcscf.config import MediaPolicy, PcscfSettings
from nodes.pcscf.ims_alg import offer_from_access, offer_from_core
from nodes.pcscf.media_plan import AlgPolicy, Treatment
from nodes.ue.config import UeSettings
from nodes.ue.media_security import MediaSecurityRefused, choose_mode
from nodes.ue.offers import OfferRefused, offered_mode
from nodes.ue.sealed_keys import SealedKeys
from nodes.ue.session_media import SessionMedia
from nodes.ue.stream import Stream
from signalling.sdp import parse_sdp
from tests.extending.package import run
from tests.ue.test_session_media import CONTEXT, FakeEndpoint


class Swapped(SecurityMode):
    """A mode that anybody can read: what it does is seen in tests."""

    facts = ModeFacts("e2e-swapped", "UE to UE, letters swapped", "SWAP", {"swap-broken": "it was not swapped"})
    attribute = "swapped-crypto"

    def _flip(self, text: str) -> str:
        return base64.b64encode(text.swapcase().encode()).decode()

    def _back(self, value: str) -> str:
        if value == "broken":
            raise ModeRefused("swap-broken", "it is broken")
        return base64.b64decode(value, validate=True).decode().swapcase()

    def seal_offer(self, lines: Sequence[str]) -> str:
        return self._flip("\n".join(lines))

    def open_offer(self, value: str) -> tuple[str, ...]:
        return tuple(self._back(value).split("\n"))

    def seal_answer(self, line: str, offer: str) -> str:
        return self._flip(f"{offer}\n{line}")

    def open_answer(self, value: str, offer: str) -> str:
        bound, _, line = self._back(value).partition("\n")
        if bound != offer:
            raise ModeRefused("swap-broken", "of another offer")
        return line


MODE = "e2e-swapped"
KNOWING = dataclasses.replace(CONTEXT, modes=frozenset({MODE}))


def side(port: int, *, knows: bool = True, context=KNOWING) -> SessionMedia:
    def opener(index: int) -> Stream:
        return Stream(index, "127.0.0.1", FakeEndpoint(port + 2 * index))

    return SessionMedia("127.0.0.1", context, opener, SealedKeys({MODE: Swapped(None)} if knows else {}))


def agreed() -> tuple[SessionMedia, SessionMedia]:
    one, other = side(4000), side(5000)
    one.take_answer(other.answer(one.first_offer(MODE)))
    return one, other


def altered(body: bytes, change: Callable[[bytes], bytes]) -> bytes:
    new = change(body)
    assert new != body
    return new


# in a call


def test_keys_travel_sealed_and_both_ends_have_them() -> None:
    one, other = side(4000), side(5000)
    offer = one.first_offer(MODE)
    answer = other.answer(offer)
    one.take_answer(answer)
    assert b"a=crypto" not in offer + answer
    assert b"a=swapped-crypto:" in offer
    assert b"a=swapped-crypto:" in answer
    mine, theirs = one.streams[0].keys, other.streams[0].keys
    assert (mine.send, mine.receive) == (theirs.receive, theirs.send)
    assert one.security == other.security == MODE
    assert offered_mode(offer, other.sealed) == MODE


def test_signalling_that_is_not_encrypted_may_carry_sealed_keys() -> None:
    open_air = dataclasses.replace(KNOWING, confidential=False)
    one, other = side(4000, context=open_air), side(5000, context=open_air)
    assert choose_mode(MODE, open_air) == MODE
    one.take_answer(other.answer(one.first_offer(MODE)))
    assert one.security == MODE


def test_later_offers_are_sealed_too_and_change_keys_as_with_sdes() -> None:
    one, other = agreed()
    before = one.streams[0].keys
    hold = one.next_offer(direction="sendonly")
    assert b"a=crypto" not in hold
    one.take_answer(other.answer(hold))
    assert one.streams[0].keys.send == before.send
    one.take_answer(other.answer(one.next_offer(rekey=0)))
    assert one.streams[0].keys.send != before.send
    other.take_answer(one.answer(other.next_offer(add=True)))
    assert [stream.keys.security for stream in one.streams] == [MODE, MODE]


def test_an_offer_that_is_sent_again_has_a_seal_of_its_own() -> None:
    one, other = agreed()
    first = one.next_offer(rekey=0)
    again = one.renew_offer()
    assert parse_sdp(again).media[0].has("swapped-crypto")
    assert b"a=crypto" not in again
    one.take_answer(other.answer(again))
    assert first


def test_who_does_not_have_the_mode_refuses_and_can_not_ask_for_it() -> None:
    offer = side(4000).first_offer(MODE)
    with pytest.raises(OfferRefused) as refused:
        side(5000, knows=False, context=CONTEXT).answer(offer)
    assert (refused.value.status, refused.value.token) == (488, "protection-required")
    with pytest.raises(MediaSecurityRefused) as asked:
        choose_mode(MODE, CONTEXT)
    assert asked.value.token == "mode-unknown"


@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    ("change", "token"),
    [
        (lambda body: body.replace(b"a=swapped-crypto:", b"a=swapped-crypto:broken\r\na=x:"), "swap-broken"),
        (lambda body: body.replace(b"a=swapped-crypto:", b"a=swapped-crypto:!!"), "bad-key"),
        (lambda body: body.replace(b"a=swapped-crypto:", b"a=x:"), "protection-required"),
        (lambda body: body.replace(b"a=swapped-crypto:", b"a=swapped-crypto:" + b"A" * 5000), "bad-key"),
        (lambda body: body + b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + b"A" * 40 + b"\r\n", "profile-refused"),
        (lambda body: body + b"a=swapped-crypto:AAAA\r\n", "profile-refused"),
        (lambda body: body + b"a=3ge2ae:applied\r\n", "profile-refused"),
        (lambda body: body.replace(b"RTP/SAVP", b"RTP/AVP"), "profile-refused"),
    ],
)
def test_an_offer_whose_seal_was_touched_is_refused(change: Callable[[bytes], bytes], token: str) -> None:
    with pytest.raises(OfferRefused) as refused:
        side(5000).answer(altered(side(4000).first_offer(MODE), change))
    assert (refused.value.status, refused.value.token) == (488, token)


@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b"a=swapped-crypto:", b"a=x:"),
        lambda body: body.replace(b"a=swapped-crypto:", b"a=swapped-crypto:broken\r\na=x:"),
        lambda body: body.replace(
            b"a=swapped-crypto:", b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + b"A" * 40 + b"\r\na=x:"
        ),
        lambda body: body.replace(b"RTP/SAVP", b"RTP/AVP").replace(b"a=swapped-crypto:", b"a=x:"),
    ],
)
def test_an_answer_whose_seal_was_touched_ends_the_call(change: Callable[[bytes], bytes]) -> None:
    one, other = side(4000), side(5000)
    answer = other.answer(one.first_offer(MODE))
    with pytest.raises(OfferRefused) as refused:
        one.take_answer(altered(answer, change))
    assert refused.value.status == 488


@pytest.mark.attack("T1")
def test_the_answer_to_another_offer_is_refused() -> None:
    one, again, other = side(4000), side(4000), side(5000)
    again.first_offer(MODE)
    with pytest.raises(OfferRefused):
        again.take_answer(other.answer(one.first_offer(MODE)))


@pytest.mark.attack("T1")
@pytest.mark.parametrize("weaker", ["none", "e2e-sdes"])
def test_sealed_keys_do_not_give_way_to_less_in_the_call(weaker: str) -> None:
    _one, other = agreed()
    stranger = side(4000)
    with pytest.raises(OfferRefused) as refused:
        other.answer(stranger.first_offer(weaker))
    assert refused.value.token in {"downgrade-refused", "profile-refused"}
    assert other.security == MODE


# at a P-CSCF


def test_a_p_cscf_passes_sealed_keys_where_the_lab_has_the_mode_and_refuses_them_elsewhere() -> None:
    offer = parse_sdp(side(4000).first_offer(MODE))
    for policy in (MediaPolicy.PREFERRED, MediaPolicy.REQUIRED):
        knowing = AlgPolicy(e2ae=policy, mw_encrypted=False, sealed=frozenset({"swapped-crypto"}))
        for decide in (offer_from_access, offer_from_core):
            decision = decide(offer, knowing)
            assert decision.refusal is None
            assert [plan.treatment for plan in decision.plans] == [Treatment.E2E]
            ignorant = decide(offer, dataclasses.replace(knowing, sealed=frozenset()))
            assert ignorant.refusal is not None
            assert ignorant.refusal.status == 488


def test_no_sealed_keys_on_an_emergency_call() -> None:
    policy = AlgPolicy(sealed=frozenset({"swapped-crypto"}), emergency=True)
    assert offer_from_access(parse_sdp(side(4000).first_offer(MODE)), policy).refusal is not None


# what a package may bring


def mode_class(**changes: object) -> type[SecurityMode]:
    return type("Changed", (Swapped,), changes)


NOT_MODES = {
    "no class": (MODE, "text", "is no SecurityMode"),
    "another class": (MODE, dict, "is no SecurityMode"),
    "unfinished": (MODE, type("Half", (SecurityMode,), {"facts": Swapped.facts, "attribute": "x-half"}), "lacks"),
    "another name": ("e2e-other", Swapped, "do not give it that name"),
    "built in": ("e2e-sdes", mode_class(facts=ModeFacts("e2e-sdes", "mine", "X")), "cannot be the name"),
    "not end to end": ("e2ae-mine", mode_class(facts=ModeFacts("e2ae-mine", "mine", "X")), "cannot be the name"),
    "attribute of SDP": (MODE, mode_class(attribute="crypto"), "cannot be its attribute"),
    "attribute no word": (MODE, mode_class(attribute="a b"), "cannot be its attribute"),
    "no keying": (MODE, mode_class(facts=ModeFacts(MODE, "mine")), "its keying has a name"),
    "control characters": (MODE, mode_class(facts=ModeFacts(MODE, "a\nb", "X")), "lines of text"),
    "bad word": (MODE, mode_class(facts=ModeFacts(MODE, "mine", "X", {"Not A Word": "x"})), "no word in lower case"),
}


@pytest.mark.parametrize(("name", "offered", "said"), NOT_MODES.values(), ids=NOT_MODES)
def test_what_is_no_mode_is_refused(name: str, offered: object, said: str) -> None:
    with pytest.raises(ModeError, match=said):
        check_mode(name, offered)


def test_two_modes_do_not_share_an_attribute() -> None:
    with pytest.raises(ModeError, match="both write the attribute swapped-crypto"):
        check_modes({MODE: Swapped, "e2e-other": mode_class()})
    assert check_mode(MODE, Swapped) is Swapped


SEED = RECOGNISED_SUITES["SEED_CTR_128_HMAC_SHA1_80"]
NEW = CryptoSuite("ODD_128_TEST_80", "ODD", 16, 14, "HMAC-SHA1", 10, 10, 2**31, 2**31)
NOT_SUITES = {
    "built in": (DEFAULT_SUITES["AEAD_AES_128_GCM"], "is built in"),
    "built in by another case": (dataclasses.replace(NEW, name="aead_aes_128_gcm"), "is built in"),
    "other lengths than registered": (dataclasses.replace(SEED, srtp_tag_length=4), "registered with other lengths"),
    "short key": (dataclasses.replace(NEW, key_length=8), "protects too little"),
    "no tag": (dataclasses.replace(NEW, srtp_tag_length=0), "protects too little"),
    "short RTCP tag": (dataclasses.replace(NEW, srtcp_tag_length=4), "protects too little"),
    "tag beyond buffers": (dataclasses.replace(NEW, srtp_tag_length=32), "a tag of more than"),
    "no name": (dataclasses.replace(NEW, name="ODD SUITE"), "cannot be the name"),
}


@pytest.mark.parametrize(("suite", "said"), NOT_SUITES.values(), ids=NOT_SUITES)
def test_what_is_no_suite_or_weakens_is_refused(suite: CryptoSuite, said: str) -> None:
    with pytest.raises(SuiteError, match=said):
        enable_suite(suite)
    assert set(SUITES) == set(DEFAULT_SUITES)


@pytest.mark.parametrize("offered", [None, NEW, SrtpSuite(SEED, None, None)])
def test_an_entry_point_names_a_suite_of_its_name(offered: object) -> None:
    with pytest.raises(SuiteError, match="is no SrtpSuite of that name"):
        enable_srtp_suite("ODD_128_TEST_80", offered)


def test_an_enabled_suite_is_in_no_default() -> None:
    program = """
from keying.suites import RECOGNISED_SUITES, SUITES
from media.srtp_transform import SrtpSuite, enable_srtp_suite
name = "SEED_CTR_128_HMAC_SHA1_80"
enable_srtp_suite(name, SrtpSuite(RECOGNISED_SUITES[name], None, None))
assert name in SUITES
from keying.sdes import SdesPolicy
from nodes.imsagw.config import ImsAgwSettings
from nodes.pcscf.config import PcscfSettings
from nodes.ue.config import UeSettings
pcscf = PcscfSettings()
ue = UeSettings.model_fields["suites"].default
print([name in suites for suites in (SdesPolicy().suites, ImsAgwSettings().suites, pcscf.suites, pcscf.accepted_suites, ue)])
"""
    done = run(sys.executable, "-c", program)
    assert done.stdout.strip() == str([False] * 5), done.stderr
    assert set(PcscfSettings().accepted_suites) == set(SdesPolicy().suites) == set(DEFAULT_SUITES)
    assert set(UeSettings.model_fields["suites"].default) <= set(DEFAULT_SUITES)


# the description


DESCRIPTION = """
home_domains: [{name: ims.test}]
access_networks: [{name: access-a, pcscf: pcscf-a, gateway: imsagw-a}]
users:
  - {name: alice, domain: ims.test, impi: alice@ims.test, access: access-a}
"""


@pytest.mark.parametrize(
    ("extensions", "where", "said"),
    [
        ("{security_modes: [{name: e2e-psk, users: [eve]}]}", "security_modes[0].users[0]", "eve is no user"),
        ("{security_modes: [{name: e2e-psk}, {name: e2e-psk}]}", "security_modes[1].name", "listed twice"),
        ("{security_modes: [{name: e2ae-psk}]}", "security_modes[0].name", "does not fit"),
        ("{crypto_suites: [seed]}", "crypto_suites[0]", "does not fit"),
        ("{crypto_suites: [SEED_X, SEED_X]}", "crypto_suites[1]", "listed twice"),
        ("{modes: []}", "extensions.modes", "is unknown"),
    ],
)
def test_what_is_wrong_with_extensions_is_named(extensions: str, where: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{DESCRIPTION}extensions: {extensions}\n")
    assert [problem for problem in caught.value.problems if where in problem.where and said in problem.found]


def test_the_modes_built_in_are_those_of_the_specification() -> None:
    assert list(BUILT_IN) == ["none", "e2ae-sdes", "e2e-sdes", "e2e-kms"]
    assert Secret(b"x") != Swapped(None).shared_key


def test_a_mode_that_nobody_brings_keeps_the_lab_down(tmp_path: Path) -> None:
    from tests.extending.package import imslab

    file = tmp_path / "lab.yaml"
    file.write_text(
        f"{DESCRIPTION}extensions: {{security_modes: [{{name: e2e-nobody}}], crypto_suites: [NOBODYS_80]}}\n"
    )
    up = imslab("up", "--config", str(file), "--state", str(tmp_path / "state"))
    assert up.returncode == 2
    assert "e2e-nobody is no security mode that a package brings" in up.stderr
    assert "NOBODYS_80 is no suite that a package brings" in up.stderr
    assert "Traceback" not in up.stderr
