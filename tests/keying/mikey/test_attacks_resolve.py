"""A responder who asks for keys that are not its own, and tickets that somebody made itself (T5)."""

from __future__ import annotations

from typing import Any

import pytest

from keying.mikey.codec import decode_ticket
from keying.mikey.errors import (
    InvalidEncryption,
    InvalidIdentity,
    InvalidMac,
    InvalidTicket,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    Unspecified,
)
from keying.mikey.groups import Groups
from keying.mikey.identity import Identity
from keying.mikey.policy import Wish
from keying.mikey.ticket import mode3_ticket_key
from keying.secret import Secret
from tests.keying.mikey.independent import forge
from tests.keying.mikey.independent.forge import Part
from tests.keying.mikey.spoil import (
    LATER,
    SHORT_POLICY,
    Edit,
    instead,
    played,
    repolicied,
    respelt_resolve,
    twice,
    without,
)
from tests.keying.mikey.stage import ALICE, BOB, CAROL, KMS, MALLORY, NOW, Stage, credential

pytestmark = [pytest.mark.attack("T5"), pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")]


def test_a_resolve_respelt_without_change_is_answered():
    stage, done = played()
    assert stage.answer(respelt_resolve(stage, done))


BAD_RESOLVES: dict[str, tuple[Edit, type[MikeyError] | tuple[type[MikeyError], ...]]] = {
    "two T": (twice(5), MalformedMessage),
    "two RANDRr": (twice(15), MalformedMessage),
    "two TICKET": (twice(17), MalformedMessage),
    "two IDRr": (twice(14, 2), MalformedMessage),
    "two IDRkms": (twice(14, 3), MalformedMessage),
    "two IDRpsk": (twice(14, 4), MalformedMessage),
    "two V": (twice(9), MalformedMessage),
    "no RANDRr": (without(15), MalformedMessage),
    "no TICKET": (without(17), MalformedMessage),
    "RAND shorter than the key": (instead(15, forge.randr(2, b"r" * 16)), Unspecified),
    "NULL MAC": (instead(9, forge.v(0)), InvalidMac),
    "policy for another": (repolicied(parts=[*SHORT_POLICY, forge.idr(2, MALLORY.data)]), InvalidTicket),
    "policy without forking": (
        lambda parts: [
            forge.ticket(forge.policy(SHORT_POLICY, "DEFGHNO"), forge.parse_ticket(b)[1]) if n == 17 else (n, b)
            for n, b in parts
        ],
        InvalidTicket,
    ),
    "flags that contradict each other": (repolicied("DFGHINO"), InvalidTicketPolicy),
    "another PRF for the ticket": (repolicied(prf_func=1), (InvalidMac, InvalidTicket)),
    "another ticket type": (repolicied(kind=(2, 1, 1)), InvalidTicket),
    "unknown ticket type": (repolicied(kind=(9, 1, 1)), InvalidTicket),
}


@pytest.mark.clause("RFC 6043", "4.2.3.4")
@pytest.mark.parametrize("what", BAD_RESOLVES)
def test_a_kms_resolves_nothing_that_is_wrong(what):
    edit, error = BAD_RESOLVES[what]
    stage, done = played(wish=Wish(responders=(BOB,), validity_s=None))
    with pytest.raises(error):
        stage.answer(respelt_resolve(stage, done, edit))


@pytest.mark.clause("RFC 6043", "4.2.3.4")
def test_who_is_not_in_the_policy_gets_no_keys():
    stage, done = played()
    responder = stage.respond(done.initiator.message)
    message = stage.ask(responder).message
    stage.own = (MALLORY,)
    with pytest.raises(InvalidIdentity):
        stage.answer(message)


@pytest.mark.parametrize(
    "name",
    [
        "sip:*@ims.test",
        "sip:*@*",
        "*",
        "sip:bob@ims.test@evil.test",
        "sip:bob@ims.test;x=y",
        "SIP:BOB@ims.test",
        "sip:bob@ims.tes",
    ],
)
def test_a_name_that_only_looks_like_a_responder_is_none(name):
    stage, done = played(wish=Wish(responders=(BOB,)))
    responder = stage.respond(done.initiator.message)
    ticket = stage.ask(responder)._ticket
    claimed = Identity.uri(name)
    try:
        resolution = stage.authority.resolve_ticket(ticket, [claimed], stage.find_tpk, stage.now)
    except InvalidIdentity:
        return
    assert claimed.same(BOB)  # only another spelling of the same identity
    assert resolution.responder == BOB  # and the KMS says it as the ticket does


def test_a_wildcard_of_a_ticket_does_not_reach_beyond_its_domain():
    everyone = Identity.uri("sip:*@ims.test")
    stage, done = played(wish=Wish(responders=(everyone,)), peer=everyone)
    ticket = Stage(wish=stage.wish).respond(done.initiator.message).ticket
    for name in (
        "sip:bob@evil.test",
        "sip:bob@ims.test.evil.test",
        "sip:bob@sub.ims.test",
        "sip:@ims.test",
        "sip:ims.test",
        "tel:+1@ims.test",
        "sips:bob@ims.test",
        "sip:*@ims.test",
    ):
        with pytest.raises(InvalidIdentity):
            stage.authority.resolve_ticket(ticket, [Identity.uri(name)], stage.find_tpk, stage.now)
    assert stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now).responder == BOB


def test_an_expired_ticket_opens_for_nobody():
    stage, done = played(wish=Wish(responders=(BOB,), validity_s=60.0))
    ticket = stage.respond(done.initiator.message).ticket
    stage.now += 120
    with pytest.raises(InvalidTicket):
        stage.respond(done.initiator.message)
    with pytest.raises(InvalidTicket):
        stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now)
    with pytest.raises(InvalidTicket):
        stage.initiate(done.ticket)


@pytest.mark.clause("RFC 6043", "12.5")
def test_members_of_a_group_are_those_the_kms_knows():
    desk = Identity.uri("sip:helpdesk@ims.test")
    groups = Groups({"sip:helpdesk@ims.test": ["sip:bob@ims.test"]})
    stage, done = played(wish=Wish(responders=(desk,)), peer=desk, groups=groups)
    ticket = stage.respond(done.initiator.message).ticket
    with pytest.raises(InvalidIdentity):
        stage.authority.resolve_ticket(ticket, [CAROL], stage.find_tpk, stage.now, groups=groups)
    with pytest.raises(InvalidIdentity):
        stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now)  # a KMS without that group
    assert stage.authority.resolve_ticket(ticket, [BOB], stage.find_tpk, stage.now, groups=groups).responder == BOB


def homemade(
    flags: str = "EFGHILNO", maker: str = "mallory", name: bytes = MALLORY.data, **changes: Any
) -> tuple[Stage, forge.Part, Any]:
    """A TICKET under the key that `maker` shares with the KMS, in the name of `name`."""
    stage = Stage(wish=Wish(responders=(BOB,)))
    owner = {"mallory": MALLORY, "alice": ALICE}[maker]
    stage.key = mode3_ticket_key(credential(maker).identity, credential(maker).key, KMS, 16, (owner,))
    parts = changes.pop("parts", [forge.idr(3, KMS.data), forge.idr(1, name), forge.idr(2, BOB.data)])
    policy = forge.policy(parts, flags, **changes.pop("fields", {}))
    keys = changes.pop("keys", [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 16, b"2")])
    rand = changes.pop("rand", b"r" * 16)
    key_id = forge.idr(4, stage.key.key_id, 2)
    data = forge.ticket_data(
        policy, stage.key.key.reveal(), keys, rand, LATER[1][1:], changes.pop("suite", forge.SHORT), key_id
    )
    mpkr = forge.mpk_part(forge.SHORT, "MPKr", b"m" * 16, rand)
    inserted = forge.initiator_data(forge.SHORT, mpkr, b"v" * 20) if "I" in flags else b""
    return stage, forge.ticket(policy, data, changes.pop("inserted", inserted)), stage.key


def resolve(stage: Stage, part: Part) -> Any:
    return stage.authority.resolve_ticket(decode_ticket(part[1]), [BOB], stage.find_tpk, NOW)


def test_an_honest_homemade_ticket_is_resolved():
    stage, part, _ = homemade()
    assert resolve(stage, part).responder == BOB


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": ALICE.data}, InvalidIdentity),
        ({"parts": [forge.idr(3, KMS.data), forge.idr(2, BOB.data)]}, InvalidIdentity),
        ({"flags": "DEFGHINO"}, InvalidTicket),
        ({"flags": "DEFGHILNO"}, InvalidTicket),
        ({"flags": "EFGHINO"}, (InvalidTicketPolicy, InvalidTicket)),
        ({"flags": "EFGHIKLNO"}, (InvalidTicketPolicy, InvalidTicket)),
        ({"flags": "FGHILNO"}, InvalidTicketPolicy),
        ({"flags": "EGHILNO"}, InvalidTicketPolicy),
        ({"flags": "EHILNO"}, InvalidTicketPolicy),
        ({"keys": [forge.key(0, b"g" * 16, b"2")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(6, b"n" * 16, b"2")]}, MalformedMessage),
        ({"keys": [forge.key(0, b"g" * 16, b"2"), forge.key(6, b"m" * 16, b"1")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 16, b"1")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 16, b"")]}, MalformedMessage),
        ({"keys": [forge.key(6, b"m" * 16, b"1"), forge.key(0, b"g" * 8, b"2")]}, Unspecified),
        ({"keys": [forge.key(6, b"m" * 8, b"1"), forge.key(0, b"g" * 16, b"2")]}, Unspecified),
        ({"rand": b"r" * 15}, Unspecified),
        ({"rand": b""}, Unspecified),
        ({"suite": (0, 0, 1)}, InvalidEncryption),
        ({"suite": (0, 2, 1)}, InvalidEncryption),
        ({"suite": (0, 3, 1)}, InvalidEncryption),
        ({"suite": (0, 1, 2)}, InvalidMac),
        ({"suite": forge.LONG}, (InvalidMac, InvalidTicket, InvalidEncryption)),
        ({"inserted": b""}, InvalidTicket),
        ({"inserted": b"\x09\x00\x00\x00\x00"}, (InvalidTicket, InvalidMac)),
        ({"inserted": b"\x09\x09\x00\x00\x00"}, (InvalidTicket, InvalidMac)),
        ({"inserted": b"\x09\x09\x01" + bytes(20)}, InvalidTicket),
        ({"inserted": b"\x05\x09\x01" + bytes(42)}, InvalidTicket),
        ({"flags": "EFGHLNO", "inserted": b"\x09\x09\x01" + bytes(42)}, InvalidTicket),
        ({"fields": {"kind": (7, 1, 1)}}, InvalidTicket),
    ],
)
def test_a_homemade_ticket_obeys_every_rule_or_opens_nothing(changes, error):
    stage, part, _ = homemade(**changes)
    with pytest.raises(error):
        resolve(stage, part)


def test_a_ticket_under_a_key_of_ones_own_choice_opens_nothing():
    stage, part, key = homemade()
    stage.key = type(key)(key.key_id, Secret(b"another key here"), key.owners)
    with pytest.raises(InvalidTicket):
        resolve(stage, part)


def test_the_kms_key_makes_no_ticket_in_the_name_of_a_user():
    stage, part, key = homemade(name=ALICE.data)
    stage.key = type(key)(key.key_id, key.key, None)
    with pytest.raises(InvalidTicket):
        resolve(stage, part)
