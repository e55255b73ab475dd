"""Attacks on an established bundle: both sides hold the same keys, so direction, time and contents must tell (T5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidEncryption,
    InvalidIdentity,
    InvalidPolicy,
    InvalidPolicyParameter,
    InvalidTicketPolicy,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    PeerError,
    Replayed,
    UnsupportedDataType,
)
from keying.mikey.payloads import KeyData
from keying.mikey.policy import WantedKey, Wish
from keying.mikey.registry import KeyDataType
from keying.mikey.update import Association
from keying.secret import Secret
from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.forge import Part
from tests.keying.mikey.independent.wire import parse
from tests.keying.mikey.stage import ALICE, BOB, CAROL, NOW, Played, Stage, counting

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-9", "D-11")]


def bundle(**stage: Any) -> tuple[Stage, Played, Association, Association]:
    wish = Wish(responders=(BOB,), initiator_keys=True, responder_keys=True)
    staged = Stage(**{"wish": wish} | stage)
    done = staged.play()
    return staged, done, done.established.association, done.accepted.association


def tgk(spi: bytes = b"new1", length: int = 16, kind: KeyDataType = KeyDataType.TGK) -> KeyData:
    return KeyData(kind, Secret(b"n" * length), spi=spi)


def state(association: Association) -> tuple[Any, ...]:
    keys = {cs: (each.tek.reveal(), each.salt.reveal()) for cs, each in association.keys.by_cs_id.items()}
    return keys, association.sessions, association.policies, len(association.session_keys)


def forged(
    started: bytes, association: Association, *middle: Part, behind: bytes | None = None, **header: Any
) -> bytes:
    """An update with right MAC: HDR as `started` has it, T, `middle`, V."""
    head, parts = forge.take_apart(started)
    head |= header
    data_type, csb_id = head.pop("data_type"), head.pop("csb_id")
    parts = [parts[0], *middle] if middle else parts[:-1]
    octets = forge.message(data_type, csb_id, [*parts, forge.v(1)], **head)
    suffix = ALICE.data + BOB.data if behind is None else behind
    return forge.sealed(octets, forge.SHORT, association.protection.auth.reveal(), suffix)


def test_a_forged_update_without_change_is_accepted():
    stage, _, ours, theirs = bundle()
    started = ours.start(stage.tick())
    assert theirs.receive(forged(started.message, ours), stage.now).response_wanted


@pytest.mark.parametrize("starter", ["initiator", "responder"])
def test_no_octet_of_an_update_may_be_flipped(starter):
    stage, _, *sides = bundle()
    ours, theirs = sides if starter == "initiator" else sides[::-1]
    started = ours.start(stage.tick(), keys=[tgk()])
    before = state(theirs)
    for place in range(len(started.message)):
        spoilt = bytearray(started.message)
        spoilt[place] ^= 1
        with pytest.raises(MikeyError):
            theirs.receive(bytes(spoilt), stage.now)
    assert state(theirs) == before
    answer, _ = theirs.receive(started.message, stage.tick()).accept(stage.tick())
    before = state(ours)
    for place in range(len(answer)):
        spoilt = bytearray(answer)
        spoilt[place] ^= 1
        with pytest.raises(MikeyError):
            started.receive(bytes(spoilt), stage.now)
    assert state(ours) == before
    started.receive(answer, stage.tick())
    assert state(ours) == state(theirs)


@pytest.mark.parametrize("starter", ["initiator", "responder"])
@pytest.mark.parametrize("response", [True, False])
def test_an_update_does_not_come_back_to_its_sender(starter, response):
    stage, _, *sides = bundle()
    ours = sides[0] if starter == "initiator" else sides[1]
    started = ours.start(stage.tick(), keys=[tgk()], response=response, sessions=_complete(ours))
    before = state(ours)
    with pytest.raises(Replayed):
        ours.receive(started.message, stage.tick())
    with pytest.raises((UnsupportedDataType, MalformedMessage)):
        started.receive(started.message, stage.tick())
    assert state(ours) == before


def _complete(association: Association) -> Any:
    return [replace(session, spi=b"new1") for session in association.sessions]


def test_an_update_is_taken_once_and_in_order():
    stage, _, ours, theirs = bundle()
    first, second = (ours.start(stage.tick(), response=False) for _ in range(2))
    theirs.receive(second.message, stage.tick()).accept(stage.tick())
    for old in (first, second):
        with pytest.raises(Replayed):
            theirs.receive(old.message, stage.tick())


def test_an_answer_to_one_update_is_none_to_another():
    stage, _, ours, theirs = bundle()
    first, second = (ours.start(stage.tick()) for _ in range(2))
    answer, _ = theirs.receive(first.message, stage.tick()).accept(stage.tick())
    with pytest.raises(AuthenticationFailure):
        second.receive(answer, stage.tick())


def test_the_initial_messages_are_no_updates():
    stage, done, ours, theirs = bundle()
    for side in (ours, theirs):
        with pytest.raises(MikeyError):
            side.receive(done.octets["TRANSFER_INIT"], stage.tick())
        with pytest.raises(UnsupportedDataType):
            side.receive(done.octets["TRANSFER_RESP"], stage.tick())


@pytest.mark.parametrize("forking", [True, False])
def test_the_initial_message_is_no_update_of_a_bundle_that_it_alone_protects(forking):
    """With F=0 an update has the very keys of TRANSFER_INIT: its MAC would hold."""
    keys = (WantedKey(KeyDataType.GTGK),)
    wish = Wish(responders=(BOB,), response=False, responder_rand=False, forking=forking, keys=keys)
    stage, done, ours, theirs = bundle(wish=wish, streams=1)
    for side in (ours, theirs):
        before = state(side)
        with pytest.raises((Replayed, MalformedMessage, AuthenticationFailure)):
            side.receive(done.octets["TRANSFER_INIT"], stage.tick())
        assert state(side) == before


@pytest.mark.parametrize(
    ("middle", "error"),
    [
        ((forge.randr(1, b"r" * 32),), MalformedMessage),
        ((forge.randr(2, b"r" * 32),), MalformedMessage),
        ((forge.randr(3, b"r" * 32),), MalformedMessage),
        (((11, b"\x10" + bytes(16)),), MalformedMessage),
        ((forge.idr(1, CAROL.data),), InvalidIdentity),
        ((forge.idr(2, CAROL.data),), InvalidIdentity),
        ((forge.idr(1, BOB.data), forge.idr(2, ALICE.data)), InvalidIdentity),
        ((forge.t(b"\xee" * 8),), MalformedMessage),
        ((forge.sp(0, b"\0\1\0"),), MalformedMessage),
        ((forge.kemac(forge.chain([forge.key(0, b"k" * 16, b"new1")])[1], 0),), InvalidEncryption),
        ((forge.kemac(bytes(40), 2),), InvalidEncryption),
        ((forge.kemac(bytes(40), 3),), InvalidEncryption),
        ((forge.kemac(b"", 1),), MalformedMessage),
    ],
)
def test_an_update_brings_nothing_that_would_change_the_bundle_s_roots(middle, error):
    stage, _, ours, theirs = bundle()
    started = ours.start(stage.tick())
    before = state(theirs)
    with pytest.raises(error):
        theirs.receive(forged(started.message, ours, *middle), stage.now)
    assert state(theirs) == before


def test_a_ticket_does_not_come_with_an_update():
    stage, done, ours, theirs = bundle()
    ticket = next(part for part in forge.take_apart(done.octets["TRANSFER_INIT"])[1] if part[0] == 17)
    with pytest.raises(MikeyError):
        theirs.receive(forged(ours.start(stage.tick()).message, ours, ticket), stage.now)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"csb_id": b"\0\1\2\3"}, MalformedMessage),
        ({"prf_func": 1}, MalformedMessage),
        ({"data_type": 15}, UnsupportedDataType),
        ({"map_type": 0, "sessions": [bytes(9)]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abcd", b"SPI.", b"\7")]}, InvalidPolicy),
        ({"sessions": [forge.session(1, b"abcd", b"SPI."), forge.session(1, b"abcd", b"SPI.")]}, MalformedMessage),
    ],
)
def test_an_update_has_the_header_of_its_bundle(header, error):
    stage, _, ours, theirs = bundle()
    with pytest.raises(error):
        theirs.receive(forged(ours.start(stage.tick()).message, ours, **header), stage.now)


@pytest.mark.parametrize("params", [b"\0\1\0", b"\7\1\0", b"\x0a\1\0"])
def test_an_update_does_not_talk_a_bundle_down(params):
    stage, _, ours, theirs = bundle()
    blocks = [forge.session(1, b"\1\2\3\1", ours.sessions[0].spi, b"\5")]
    octets = forged(ours.start(stage.tick()).message, ours, forge.sp(5, params), sessions=blocks)
    with pytest.raises((InvalidPolicy, InvalidPolicyParameter)):
        theirs.receive(octets, stage.now)


@pytest.mark.parametrize("starter", ["initiator", "responder"])
def test_keys_come_only_from_those_whom_the_ticket_lets(starter):
    stage, _, *sides = bundle(wish=Wish(responders=(BOB,)))
    ours, theirs = sides if starter == "initiator" else sides[::-1]
    with pytest.raises(InvalidTicketPolicy):
        ours.start(stage.tick(), keys=[tgk()])
    under = {"encr": ours.protection.encr.reveal(), "salt": ours.protection.salt.reveal()}
    started = ours.start(stage.tick()).message
    box = forge.encrypted(
        [forge.key(0, b"k" * 16, b"new1")], under, parse(started).csb_id, parse(started).get("T")["value"], 1
    )
    with pytest.raises(InvalidTicketPolicy):
        theirs.receive(forged(started, ours, box), stage.now)


@pytest.mark.clause("RFC 6043", "6.2.1")
@pytest.mark.parametrize(
    "key",
    [
        (6, b"k" * 16, b"new1"),
        (0, b"k" * 8, b"new1"),
        (0, b"k" * 16, b""),
        (0, b"k" * 32, b"new1"),
        (0, b"k" * 16, None),
    ],
    ids=["an MPK", "weak", "without SPI", "too long for the algorithms", "with the SPI of another"],
)
def test_a_key_of_an_update_is_strong_and_told_from_the_others(key):
    stage, _, ours, theirs = bundle()
    kind, octets, spi = key
    under = {"encr": ours.protection.encr.reveal(), "salt": ours.protection.salt.reveal()}
    started = ours.start(stage.tick()).message
    part = forge.key(kind, octets, ours.session_keys[0].spi or b"" if spi is None else spi)
    box = forge.encrypted([part], under, parse(started).csb_id, parse(started).get("T")["value"], 1)
    with pytest.raises(MikeyError):
        theirs.receive(forged(started, ours, box), stage.now)


def test_an_update_of_one_branch_is_none_of_another():
    stage, done, _, theirs = bundle()
    other = Stage(wish=stage.wish, draw=counting(5))
    other_done = other.play()
    started = other_done.established.association.start(other.tick())
    with pytest.raises(MikeyError):
        theirs.receive(started.message, stage.tick())
    with pytest.raises(AuthenticationFailure):
        theirs.receive(
            forged(started.message, other_done.established.association, csb_id=done.octets["TRANSFER_INIT"][4:8]),
            stage.tick(),
        )


@pytest.mark.parametrize("shift", [-301, 301])
def test_an_update_outside_its_time_is_refused(shift):
    stage, _, ours, theirs = bundle()
    started = ours.start(stage.tick())
    with pytest.raises(InvalidTimestamp):
        theirs.receive(started.message, stage.now + shift)


@pytest.mark.clause("RFC 6043", "5.2")
def test_updates_that_cross_never_encrypt_under_one_iv():
    """Both sides encrypt under one key and the IV has T alone to differ (RFC 3830 4.2.3): equal times would give keys away."""
    _, _, ours, theirs = bundle()
    for now in (NOW, NOW, NOW + 100):
        times = {
            parse(side.start(now, keys=[tgk(b"k%03d" % n)]).message).get("T")["value"]
            for n, side in enumerate((ours, theirs))
        }
        assert len(times) == 2


def test_a_forged_error_does_not_end_an_update():
    stage, _, ours, theirs = bundle()
    started = ours.start(stage.tick())
    header, parts = forge.take_apart(started.message)
    error = forge.message(6, header["csb_id"], [parts[0], forge.err(0)])
    with pytest.raises(PeerError) as caught:
        started.receive(error, stage.tick())
    assert not caught.value.authenticated
    answer, _ = theirs.receive(started.message, stage.tick()).accept(stage.tick())
    assert started.receive(answer, stage.tick()).by_cs_id


# --- time ------------------------------------------------------------------------------------------------------------

OVERFLOW = 2085978496.0  # 2036-02-07 06:28:16 UTC, when NTP seconds begin anew


@pytest.mark.parametrize("now", [OVERFLOW - 2.0, OVERFLOW - 0.6, OVERFLOW, OVERFLOW + 1000, 4233462144.0 - 100000])
def test_calls_and_updates_go_on_across_the_end_of_an_era(now):
    stage, _, ours, theirs = bundle(now=now)
    for _ in range(12):
        started = ours.start(stage.tick())
        answer, _ = theirs.receive(started.message, stage.tick()).accept(stage.tick())
        started.receive(answer, stage.tick())
        ours, theirs = theirs, ours


@pytest.mark.parametrize("validity_s", [60.0, 3600.0])
def test_a_ticket_ends_on_the_other_side_of_the_overflow_too(validity_s):
    stage = Stage(now=OVERFLOW - 30, wish=Wish(responders=(BOB,), validity_s=validity_s))
    done = stage.play()
    assert done.ticket.validity.end == pytest.approx(OVERFLOW - 30 + validity_s, abs=1)
    assert done.ticket.validity.covers(OVERFLOW + 10)
    assert not done.ticket.validity.covers(OVERFLOW + validity_s)
