"""A responder who answers what the initiator must not take (T5)."""

from __future__ import annotations

from typing import Any

import pytest

from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidMac,
    InvalidPolicy,
    InvalidPolicyParameter,
    InvalidTicketPolicy,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    Unspecified,
)
from keying.mikey.policy import WantedKey, Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import KeyDataType
from tests.keying.mikey.independent import forge
from tests.keying.mikey.spoil import Edit, before_v, instead, twice, without
from tests.keying.mikey.stage import ALICE, BOB, CAROL, Played, Stage

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")]


def respelt_answer(edit: Edit = list, stage: Stage | None = None, **header: Any) -> tuple[Stage, Played, bytes]:
    staged = stage or Stage()
    done = staged.play()
    key = (done.resolution.forked_mpkr or done.resolution.mpki).key.reveal()
    octets = forge.respell(done.octets["TRANSFER_RESP"], key, edit, initial=done.initiator.message, **header)
    return staged, done, octets


def test_an_answer_respelt_without_change_is_taken():
    stage, done, octets = respelt_answer()
    assert done.initiator.receive(octets, stage.now).responder == BOB


BAD_ANSWERS: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRr": (twice(15, 2), MalformedMessage),
    "two RANDRkms": (twice(15, 3), MalformedMessage),
    "two IDRr": (twice(14, 2), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "no RANDRr": (without(15, 2), MalformedMessage),
    "no RANDRkms": (without(15, 3), MalformedMessage),
    "no IDRr": (without(14, 2), MalformedMessage),
    "RANDRkms of 8": (instead(15, forge.randr(3, b"k" * 8), 3), Unspecified),
    "RANDRr of 8": (instead(15, forge.randr(2, b"k" * 8), 2), Unspecified),
    "the name of another": (instead(14, forge.idr(2, CAROL.data), 2), AuthenticationFailure),
    "the name of the caller": (instead(14, forge.idr(2, ALICE.data), 2), AuthenticationFailure),
    "another modifier": (instead(15, forge.randr(3, b"k" * 32), 3), AuthenticationFailure),
    "KEMAC without M": (before_v(forge.kemac(bytes(40), 1)), InvalidTicketPolicy),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "policy redefined": (before_v(forge.sp(0, b"\0\1\0")), MalformedMessage),
    "T is a counter": (instead(5, forge.t(bytes(4), 2)), InvalidTimestamp),
}


@pytest.mark.clause("RFC 6043", "4.2.2.4")
@pytest.mark.parametrize("what", BAD_ANSWERS)
def test_an_initiator_takes_no_answer_that_is_wrong(what):
    edit, error = BAD_ANSWERS[what]
    stage, done, octets = respelt_answer(edit)
    with pytest.raises(error):
        done.initiator.receive(octets, stage.now)
    assert done.initiator.receive(done.octets["TRANSFER_RESP"], stage.now).responder == BOB


CS1, CS2 = (forge.session(cs, b"\1\2\3" + bytes([cs]), b"SPI.") for cs in (1, 2))


@pytest.mark.clause("RFC 6043", "4.2.2.4")
@pytest.mark.parametrize(
    "sessions",
    [
        [],
        [CS1],
        [CS2],
        [CS1, CS1],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", b"")],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", b"\0\0")],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", b"\7")],
        [CS1, forge.session(2, b"", b"SPI.")],
        [CS1, forge.session(2, b"\1\2\3", b"SPI.")],
        [CS1, forge.session(2, b"\1\2\3\2", b"")],
        [CS1, forge.session(2, b"\1\2\3\2", b"none")],
        [CS1, forge.session(2, b"\1\2\3\2", b"SPI.", prot=241)],
        [CS1, CS2, forge.session(3, b"", b"SPI.", prot=241)],
        [CS1, CS2, forge.session(3, b"\1\2\3\3", b"SPI.", b"\7")],
    ],
)
def test_the_map_of_an_answer_is_complete_and_what_was_offered(sessions):
    stage = Stage()
    done = stage.play()
    spi = done.ticket.keys[0].spi
    blocks = [block.replace(b"SPI.", spi) for block in sessions]
    key = done.resolution.forked_mpkr.key.reveal()
    octets = forge.respell(done.octets["TRANSFER_RESP"], key, initial=done.initiator.message, sessions=blocks)
    with pytest.raises(MikeyError):
        done.initiator.receive(octets, stage.now)


@pytest.mark.clause("RFC 6043", "4.2.2.4")
@pytest.mark.parametrize("params", [b"\0\1\0", b"\7\1\0", b"\x0a\1\0", b"\2\1\0", b"\0\1\2"])
def test_a_responder_cannot_talk_the_initiator_down(params):
    stage = Stage()
    done = stage.play()
    spi = done.ticket.keys[0].spi
    blocks = [forge.session(cs, b"\1\2\3" + bytes([cs]), spi, b"\5") for cs in (1, 2)]
    key = done.resolution.forked_mpkr.key.reveal()
    octets = forge.respell(
        done.octets["TRANSFER_RESP"],
        key,
        before_v(forge.sp(5, params)),
        initial=done.initiator.message,
        sessions=blocks,
    )
    with pytest.raises((InvalidPolicy, InvalidPolicyParameter)):
        done.initiator.receive(octets, stage.now)


@pytest.mark.clause("RFC 6043", "12.2")
def test_the_key_of_the_initial_message_does_not_protect_the_answer_of_a_fork():
    stage = Stage()
    done = stage.play()
    octets = forge.respell(done.octets["TRANSFER_RESP"], done.ticket.mpki.key.reveal(), initial=done.initiator.message)
    with pytest.raises(AuthenticationFailure):
        done.initiator.receive(octets, stage.now)


@pytest.mark.clause("RFC 6043", "12.1")
@pytest.mark.parametrize("kind", [KeyDataType.TEK_SALT])
def test_two_streams_never_share_key_and_ssrc(kind):
    """A TEK that is carried serves every stream: with one SSRC twice, SRTP would use its keystream twice (RFC 3711 9.1)."""
    wish = Wish(responders=(BOB,), keys=(WantedKey(kind),))
    stage = Stage(wish=wish)
    done = Played(request=stage.request())
    done.ticket = done.request.receive(stage.grant(done.request.message).response, stage.tick())
    initiator = stage.initiate(done.ticket)
    responder, resolution = stage.resolved(initiator.message)
    with pytest.raises(MikeyError):
        stage.accept(responder, resolution, ssrcs={2: 0x01020301})


def test_the_strengths_are_all_on_where_nobody_says_otherwise():
    wish = Wish((BOB,))
    assert (wish.forking, wish.responder_rand, wish.initiator_rand) == (True, True, True)
    assert not DEFAULT_PROFILE.accept_public_key
