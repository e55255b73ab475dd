"""An initiator who sends what a responder must not take, and whoever else knows MPKi (T5)."""

from __future__ import annotations

import pytest

from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidIdentity,
    InvalidMac,
    InvalidPolicy,
    InvalidPolicyParameter,
    InvalidPrf,
    InvalidTicket,
    InvalidTicketPolicy,
    InvalidTimestamp,
    MalformedMessage,
    MikeyError,
    Unspecified,
    UnsupportedDataType,
)
from keying.mikey.policy import Wish
from tests.keying.mikey.independent import forge
from tests.keying.mikey.spoil import (
    SHORT_POLICY,
    Edit,
    before_v,
    instead,
    played,
    repolicied,
    respelt_resolve,
    respelt_transfer,
    twice,
    without,
)
from tests.keying.mikey.stage import ALICE, BOB, CAROL, MALLORY, Stage

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")]


def test_a_transfer_respelt_without_change_is_accepted():
    stage, done = played()
    responder, resolution = stage.resolved(respelt_transfer(done))
    assert stage.accept(responder, resolution).initiator == ALICE


AES_CM = bytes.fromhex("000101 010110 020101 030114 04010e 050100 070101 080101 0a0101 0b010a".replace(" ", ""))
BAD_TRANSFERS: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRi": (twice(15), MalformedMessage),
    "two IDRi": (twice(14, 1), MalformedMessage),
    "two IDRr": (twice(14, 2), MalformedMessage),
    "two TICKET": (twice(17), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "two SP of one number": (twice(10), MalformedMessage),
    "no T": (without(5), MalformedMessage),
    "no RANDRi": (without(15), MalformedMessage),
    "no TICKET": (without(17), MalformedMessage),
    "no SP": (without(10), InvalidPolicy),
    "RAND of 8": (instead(15, forge.randr(1, b"r" * 8)), Unspecified),
    "T is a counter": (instead(5, forge.t(bytes(4), 2)), InvalidTimestamp),
    "IDRi of another": (instead(14, forge.idr(1, MALLORY.data), 1), InvalidIdentity),
    "KEMAC without L": (before_v(forge.kemac(bytes(40), 1)), InvalidTicketPolicy),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "NULL encryption": (instead(10, forge.sp(0, b"\0\1\0" + AES_CM[3:])), InvalidPolicyParameter),
    "F8": (instead(10, forge.sp(0, b"\0\1\2" + AES_CM[3:])), InvalidPolicyParameter),
    "SRTP encryption off": (instead(10, forge.sp(0, AES_CM.replace(b"\7\1\1", b"\7\1\0"))), InvalidPolicyParameter),
    "SRTCP encryption off": (
        instead(10, forge.sp(0, AES_CM.replace(b"\x08\1\1", b"\x08\1\0"))),
        InvalidPolicyParameter,
    ),
    "SRTP authentication off": (
        instead(10, forge.sp(0, AES_CM.replace(b"\x0a\1\1", b"\x0a\1\0"))),
        InvalidPolicyParameter,
    ),
    "NULL authentication": (instead(10, forge.sp(0, AES_CM.replace(b"\2\1\1", b"\2\1\0"))), InvalidPolicyParameter),
    "tag of nothing": (instead(10, forge.sp(0, AES_CM.replace(b"\x0b\1\x0a", b"\x0b\1\0"))), InvalidPolicyParameter),
    "key of 8 octets": (instead(10, forge.sp(0, AES_CM.replace(b"\1\1\x10", b"\1\1\x08"))), InvalidPolicyParameter),
    "parameter twice": (instead(10, forge.sp(0, AES_CM + b"\7\1\0")), InvalidPolicyParameter),
    "parameter without value": (instead(10, forge.sp(0, b"\0\0" + AES_CM[3:])), InvalidPolicyParameter),
    "unknown parameter": (instead(10, forge.sp(0, AES_CM + b"\x63\1\1")), InvalidPolicyParameter),
    "another protocol": (instead(10, forge.sp(0, AES_CM, prot=241)), InvalidPolicy),
    "not for us": (repolicied(parts=[*SHORT_POLICY[:2], forge.idr(2, CAROL.data)]), InvalidIdentity),
    "for nobody": (repolicied(parts=SHORT_POLICY[:2]), InvalidTicketPolicy),
    "unknown ticket type": (repolicied(kind=(9, 1, 1)), InvalidTicket),
    "unknown subtype without O": (repolicied("DEFGHIN", kind=(1, 9, 1)), InvalidTicket),
    "PRF of the ticket": (repolicied(prf_func=1), InvalidPrf),
    "ended": (repolicied(parts=[*SHORT_POLICY[:2], forge.tr(3, b"\xd0" + bytes(3)), SHORT_POLICY[2]]), InvalidTicket),
    "not begun": (
        repolicied(parts=[*SHORT_POLICY[:2], forge.tr(2, b"\xff" + bytes(3)), SHORT_POLICY[2]]),
        InvalidTicket,
    ),
    "begins in another era": (
        repolicied(parts=[*SHORT_POLICY[:2], forge.tr(2, bytes(4)), SHORT_POLICY[2]]),
        InvalidTicket,
    ),
    "a wish in the policy": (
        repolicied(
            parts=[*SHORT_POLICY[:2], forge.kemac(forge.chain([forge.key(0, bytes(16), b"x")])[1], 0), SHORT_POLICY[2]]
        ),
        InvalidTicketPolicy,
    ),
    **{
        f"flags {flags}": (repolicied(flags), InvalidTicketPolicy)
        for flags in ("EFGHINO", "DEGHINO", "DEFINO", "DFGHINO", "DEHMNO", "EFGHIKLNO")
    },
}


@pytest.mark.clause("RFC 6043", "4.2.2.2")
@pytest.mark.parametrize("what", BAD_TRANSFERS)
def test_a_responder_refuses_before_it_asks_its_kms(what):
    edit, error = BAD_TRANSFERS[what]
    stage, done = played()
    changes = {"mpkr": None} if what == "NULL MAC" else {}
    with pytest.raises(error):
        stage.respond(respelt_transfer(done, edit, **changes))


@pytest.mark.clause("RFC 6043", "4.2.2.2")
@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"sessions": [forge.session(1, b"abcd", b""), forge.session(1, b"", b"")]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abc", b"")]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abcdefghij", b"")]}, MalformedMessage),
        ({"sessions": [forge.session(1, b"abcd", b"", b"\7")]}, InvalidPolicy),
        ({"sessions": [forge.session(1, b"", b"", b"\0", prot=241)]}, InvalidPolicy),
        ({"sessions": [forge.session(n, b"abcd", b"") for n in range(40)]}, MalformedMessage),
        ({"sessions": [bytes(9)], "map_type": 0}, MalformedMessage),
        ({"sessions": [], "map_type": 1}, MalformedMessage),
        ({"prf_func": 1}, (InvalidPrf, InvalidMac)),
        ({"data_type": 15}, UnsupportedDataType),
    ],
)
def test_a_map_that_cannot_be_answered_is_refused_early(header, error):
    stage, done = played()
    with pytest.raises(error):
        stage.respond(respelt_transfer(done, **header))


@pytest.mark.clause("RFC 6043", "4.2.3.6")
def test_initiator_data_of_one_message_cannot_be_spliced_into_another():
    stage, done = played()
    fresh = respelt_transfer(done, instead(15, forge.randr(1, b"R" * 32)), mpkr=None)
    responder, resolution = stage.resolved(fresh)  # the KMS sees a right Vr: it is Alice's
    with pytest.raises(AuthenticationFailure, match="Vi"):
        stage.accept(responder, resolution)


@pytest.mark.clause("RFC 6043", "9.1")
def test_initiator_data_takes_mpkr_which_no_responder_has():
    stage, done = played()
    forged = respelt_transfer(done, instead(15, forge.randr(1, b"R" * 32)), mpkr=done.ticket.mpki.key.reveal())
    with pytest.raises(AuthenticationFailure, match="Vr"):
        stage.resolved(forged)


def test_a_forked_ticket_without_initiator_data_goes_nowhere():
    stage, done = played()
    bare = respelt_transfer(
        done,
        lambda parts: [forge.ticket(*forge.parse_ticket(b)[:2]) if n == 17 else (n, b) for n, b in parts],
        mpkr=None,
    )
    with pytest.raises(InvalidTicket):
        stage.respond(bare)
    kms = Stage()
    kms.key = stage.key
    octets = respelt_resolve(
        stage, done, lambda parts: [forge.ticket(*forge.parse_ticket(b)[:2]) if n == 17 else (n, b) for n, b in parts]
    )
    with pytest.raises(InvalidTicket):
        kms.answer(octets)


def test_a_stranger_to_an_unforked_ticket_is_not_its_initiator():
    stage, done = played(wish=Wish(responders=(BOB, CAROL), forking=False))
    forged = respelt_transfer(done, instead(14, forge.idr(1, MALLORY.data), 1), who=MALLORY.data + BOB.data)
    with pytest.raises(InvalidIdentity):
        stage.respond(forged)


def test_another_bundle_of_a_transfer_is_not_accepted_under_its_mac():
    stage, done = played()
    other = respelt_transfer(done, csb_id=b"\0\1\2\3", mpkr=None)
    responder, resolution = stage.resolved(other)
    with pytest.raises(AuthenticationFailure):
        stage.accept(responder, resolution)


@pytest.mark.parametrize(
    "box",
    [
        forge.kemac(forge.chain([forge.key(2, b"t" * 16, b"own1")])[1], 0),
        forge.kemac(bytes(40), 2),
        forge.kemac(bytes(40), 3),
        forge.kemac(b"", 1),
        (1, b"\1" + forge.vector(bytes(40)) + b"\1" + bytes(20)),
    ],
)
def test_keys_of_the_initiator_come_encrypted_or_not_at_all(box):
    stage, done = played(wish=Wish(responders=(BOB,), initiator_keys=True))
    responder, resolution = stage.resolved(respelt_transfer(done, before_v(box)))
    with pytest.raises(MikeyError):
        stage.accept(responder, resolution)
