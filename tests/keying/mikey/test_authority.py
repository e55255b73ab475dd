"""The KMS's engine: authentication before state, tickets resolved, modifiers, another KMS's tickets, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.mikey import codec
from keying.mikey.authority import Authority
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidIdentity,
    InvalidTicket,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    Replayed,
    Unspecified,
    UnsupportedDataType,
)
from keying.mikey.groups import Groups
from keying.mikey.identity import Identity, identity
from keying.mikey.payloads import ErrorPayload, IdRoled, Verification
from keying.mikey.policy import Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.protection import rand_of
from keying.mikey.registry import DataType, ErrorNumber, IdRole, RandRole
from keying.mikey.replay import ReplayCache
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.resolve import TicketResolve
from keying.mikey.ticket import mode3_ticket_key
from keying.secret import Secret
from tests.keying.mikey.stage import ALICE, BOB, CAROL, KMS, MALLORY, NOW, Stage, counting, credential, tpk

pytestmark = pytest.mark.clause("TS 33.328", "D-10")


def transferred(stage: Stage):
    """A responder with a TRANSFER_INIT that it is about to have resolved."""
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    return stage.respond(stage.initiate(ticket).message)


def resolved(stage: Stage, ticket, responders=(BOB,), **arguments):
    return stage.authority.resolve_ticket(ticket, responders, stage.find_tpk, stage.now, **arguments)


# Authentication


@pytest.mark.clause("RFC 6043", "12.3")
def test_what_is_read_is_not_believed_and_not_remembered():
    stage = Stage()
    request = stage.request()
    for _ in range(3):
        pending = stage.authority.read_request(request.message, stage.tick())
    assert pending.psk_identity == credential("alice").identity
    assert (pending.initiator, pending.kms) == (ALICE, KMS)
    assert len(stage.replay) == 0
    assert not hasattr(pending, "grant")


@pytest.mark.attack("T5")
def test_a_wrong_key_leaves_nothing_behind():
    stage = Stage()
    pending = stage.authority.read_request(stage.request().message, stage.tick())
    for key in (credential("mallory").key, None):
        with pytest.raises(AuthenticationFailure):
            pending.authenticate(key, stage.now)
    assert len(stage.replay) == 0
    assert pending.authenticate(credential("alice").key, stage.now).initiator == ALICE


@pytest.mark.attack("T5")
def test_after_a_restart_without_its_cache_a_kms_refuses_what_it_may_have_seen():
    stage = Stage()
    request = stage.request()
    stage.grant(request.message)
    stage.authority.replay = ReplayCache(reject_before=stage.now)
    with pytest.raises(Replayed):
        stage.grant(request.message)


@pytest.mark.clause("RFC 6043", "4.2.1.2")
def test_a_request_without_idri_belongs_to_the_owner_of_the_credential():
    stage = Stage()
    message = codec.decode(stage.request().message)
    without = tuple(
        each for each in message.payloads if not (isinstance(each, IdRoled) and each.role == IdRole.INITIATOR)
    )
    octets = codec.encode(replace(message, payloads=without, raw=b"", spans=()))
    pending = stage.authority.read_request(octets, stage.tick())
    with pytest.raises(InvalidIdentity):
        pending.authenticate(credential("alice").key, stage.now)
    with pytest.raises(AuthenticationFailure):  # read right, but the MAC is that of the whole message
        pending.authenticate(credential("alice").key, stage.now, initiator=ALICE)


def test_a_message_for_another_kms_is_refused():
    stage = Stage()
    stage.authority.identity = Identity.uri("kms.partner.test")
    with pytest.raises(InvalidIdentity):
        stage.authority.read_request(stage.request().message, stage.tick())


def test_the_kms_s_name_may_be_written_otherwise():
    stage = Stage()
    request = TicketRequest(
        DEFAULT_PROFILE,
        credential("alice"),
        initiator=ALICE,
        kms=Identity.uri("KMS.ims.test"),
        wish=stage.wish,
        now=stage.tick(),
        entropy=stage.draw,
    )
    assert request.receive(stage.grant(request.message).response, stage.tick()).mpki


@pytest.mark.clause("RFC 6043", "6.8")
@pytest.mark.clause("TS 33.328", "D-7")
def test_a_random_value_shorter_than_the_key_is_refused():
    short = replace(DEFAULT_PROFILE, rand_min_octets=16)
    stage = Stage(profile=short)
    request = TicketRequest(
        short,
        PskCredential(b"x", Secret(bytes(16))),
        initiator=ALICE,
        kms=KMS,
        wish=stage.wish,
        now=stage.tick(),
        entropy=lambda length: stage.draw(min(length, 16)),
    )
    pending = stage.authority.read_request(request.message, stage.now)
    with pytest.raises(Unspecified):
        pending.authenticate(credential("alice").key, stage.now)
    strict = Authority(replace(short, rand_min_octets=17), KMS)
    with pytest.raises(Unspecified):
        strict.read_request(request.message, stage.now)


def test_the_public_key_variants_are_off_unless_they_are_on():
    stage = Stage()
    octets = bytearray(stage.request().message)
    octets[1] = DataType.REQUEST_INIT_PK
    with pytest.raises(UnsupportedDataType) as refused:
        stage.authority.read_request(bytes(octets), stage.now)
    assert refused.value.number == 11


# The modifier of forked keys: RANDRkms and IDRr


@pytest.mark.clause("RFC 6043", "5.3")
@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
def test_the_same_endpoint_gets_the_same_modifier_from_a_kms_that_stores_nothing():
    stage = Stage(wish=Wish((BOB, CAROL), reusable=True))
    ticket = transferred(stage).ticket
    again = Authority(DEFAULT_PROFILE, KMS, modifier_secret=Secret(b"m" * 32), entropy=counting(9))
    one = resolved(stage, ticket, endpoint=b"device-1")
    two = again.resolve_ticket(ticket, (BOB,), stage.find_tpk, stage.now, endpoint=b"device-1")
    assert (one.rand_kms, one.responder, one.keys) == (two.rand_kms, two.responder, two.keys)


def test_another_device_another_name_and_another_ticket_have_other_modifiers():
    stage = Stage(wish=Wish((BOB, CAROL), reusable=True))
    ticket, other = transferred(stage).ticket, transferred(stage).ticket
    found = [
        resolved(stage, ticket, endpoint=b"device-1"),
        resolved(stage, ticket, endpoint=b"device-2"),
        resolved(stage, ticket, (CAROL,), endpoint=b"device-1"),
        resolved(stage, other, endpoint=b"device-1"),
    ]
    assert len({each.rand_kms for each in found}) == 4
    assert len({each.forked_mpkr.key.reveal() for each in found}) == 4


def test_without_endpoint_or_secret_each_resolution_has_a_fresh_modifier():
    stage = Stage(wish=Wish((BOB,), reusable=True))
    ticket = transferred(stage).ticket
    assert resolved(stage, ticket).rand_kms != resolved(stage, ticket).rand_kms
    stage.authority.modifier_secret = None
    assert resolved(stage, ticket, endpoint=b"x").rand_kms != resolved(stage, ticket, endpoint=b"x").rand_kms


@pytest.mark.clause("TS 33.328", "D-7")
def test_the_modifier_is_as_long_as_the_longest_key():
    stage = Stage(profile=replace(DEFAULT_PROFILE, kms_rand_octets=1))
    assert len(resolved(stage, transferred(stage).ticket, endpoint=b"x").rand_kms) == 16


# Who may resolve


@pytest.mark.clause("RFC 6043", "4.2.3.5")
def test_the_name_in_the_modifier_is_the_ticket_s_when_the_ticket_names_it():
    spelt = Identity.uri("sip:bob@IMS.test")
    stage = Stage()
    assert resolved(stage, transferred(stage).ticket, (spelt,)).responder == BOB


def test_a_user_with_several_names_resolves_under_the_one_the_ticket_has():
    stage = Stage()
    resolution = resolved(stage, transferred(stage).ticket, (Identity.uri("tel:+4930"), BOB))
    assert resolution.responder == BOB


def test_a_member_of_a_group_is_named_itself():
    group = Identity.uri("sip:support@ims.test")
    groups = Groups({group.text: [CAROL.text]})
    stage = Stage(wish=Wish((group,)), own=(CAROL,), groups=groups)
    assert resolved(stage, transferred(stage).ticket, (CAROL,), groups=groups).responder == CAROL
    with pytest.raises(InvalidIdentity):
        resolved(stage, transferred(stage).ticket, (MALLORY,), groups=groups)


@pytest.mark.clause("RFC 6043", "4.2.3.4")
@pytest.mark.attack("T5")
def test_nobody_resolves_for_others_or_too_late():
    stage = Stage(wish=Wish((BOB,), validity_s=60))
    ticket = transferred(stage).ticket
    with pytest.raises(InvalidIdentity) as refused:
        resolved(stage, ticket, (MALLORY,))
    assert refused.value.number == ErrorNumber.INVALID_ID
    with pytest.raises(InvalidTicket):
        stage.authority.resolve_ticket(ticket, (BOB,), stage.find_tpk, NOW + 3600)


@pytest.mark.attack("T5")
def test_no_bit_of_initiator_data_may_flip_on_the_way_to_the_kms():
    stage = Stage()
    ticket = transferred(stage).ticket
    for place in range(len(ticket.initiator_data)):
        changed = bytearray(ticket.initiator_data)
        changed[place] ^= 1 << place % 8
        with pytest.raises(MikeyError):
            resolved(stage, replace(ticket, initiator_data=bytes(changed)))


def test_the_ticket_of_a_user_is_resolved_under_the_user_s_key_alone():
    stage = Stage(mode=3)
    played = stage.play()
    assert played.established.responder == BOB
    stage.key = mode3_ticket_key(stage.key.key_id, credential("alice").key, KMS, 16, (MALLORY,))
    with pytest.raises(InvalidIdentity):
        resolved(stage, played.responder.ticket)


def test_a_user_s_key_issues_no_ticket_of_the_kms():
    stage = Stage()
    authentic = stage.authority.read_request(stage.request().message, stage.tick()).authenticate(
        credential("alice").key, stage.now
    )
    with pytest.raises(InvalidTicketPolicy):
        authentic.grant(replace(tpk(), owners=(ALICE,)), stage.now)


# Two KMSs


@pytest.mark.clause("RFC 6043", "10")
@pytest.mark.clause("TS 33.328", "B.2.3-1")
@pytest.mark.parametrize("forking", [True, False])
def test_a_kms_relays_what_another_resolved_unchanged(forking):
    stage = Stage(wish=Wish((BOB,), forking=forking))
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    initiator = stage.initiate(ticket)
    responder = stage.respond(initiator.message)
    partner = Identity.uri("kms.partner.test")
    own_kms = Authority(DEFAULT_PROFILE, partner, entropy=counting(7))
    resolve = TicketResolve(
        DEFAULT_PROFILE, credential("bob"), responder.ticket, responder=BOB, kms=partner, now=stage.tick()
    )
    pending = own_kms.read_resolve(resolve.message, stage.now)
    assert pending.issuer == KMS
    authentic = pending.authenticate(credential("bob").key, stage.now)
    issued = resolved(stage, authentic.ticket)
    answer = codec.decode(authentic.answer(issued, stage.tick()))
    if forking:
        assert identity(answer.payloads, IdRole.RESPONDER) == issued.responder
        assert rand_of(answer, RandRole.KMS) == issued.rand_kms
    relayed = resolve.receive(answer.raw, stage.tick())
    assert relayed == issued
    accepted = stage.accept(responder, relayed)
    assert stage.finish(initiator, accepted).keys[1].tek == accepted.keys[1].tek


def test_a_kms_resolves_no_ticket_of_another():
    stage = Stage()
    ticket = transferred(stage).ticket
    other = Authority(DEFAULT_PROFILE, Identity.uri("kms.partner.test"))
    with pytest.raises(InvalidTicket):
        other.resolve_ticket(ticket, (BOB,), lambda _: None, stage.now)


@pytest.mark.clause("RFC 6043", "4.2.3.5")
def test_an_answer_that_contradicts_the_ticket_is_not_sent():
    stage = Stage()
    responder = transferred(stage)
    resolve = stage.ask(responder)
    authentic = stage.authority.read_resolve(resolve.message, stage.tick()).authenticate(
        credential("bob").key, stage.now
    )
    resolution = resolved(stage, responder.ticket)
    for wrong in (
        replace(resolution, forked_mpkr=None),
        replace(resolution, rand_kms=b""),
        replace(resolution, responder=None),
    ):
        with pytest.raises(MalformedMessage):
            authentic.answer(wrong, stage.now)


# Errors


@pytest.mark.clause("RFC 6043", "5.4")
@pytest.mark.parametrize("authenticated", [True, False])
def test_an_error_message_repeats_the_header_and_has_a_fresh_time(authenticated):
    stage = Stage()
    request = stage.request()
    pending = stage.authority.read_request(request.message, stage.tick())
    sender = pending.authenticate(credential("alice").key, stage.now) if authenticated else pending
    octets = sender.error(InvalidTicket("Ticket Type", "unknown"), NOW + 100)
    assert octets is not None
    message, asked = codec.decode(octets), codec.decode(request.message)
    assert message.header.data_type is DataType.ERROR
    assert (message.header.csb_id, message.header.prf) == (asked.header.csb_id, asked.header.prf)
    assert not message.header.verification
    assert message.payloads[0] != asked.payloads[0]
    assert [each.number for each in message.payloads if isinstance(each, ErrorPayload)] == [14]
    assert isinstance(message.payloads[-1], Verification) is authenticated


def test_an_error_without_number_and_an_unreadable_message_are_answered_by_silence():
    stage = Stage()
    request = stage.request()
    assert stage.authority.error(request.message, AuthenticationFailure("V", "x", silent=True), NOW) is None
    assert stage.authority.error(b"\x00\x01", MalformedMessage("HDR", "x"), NOW) is None
    octets = stage.authority.error(request.message, MalformedMessage("HDR", "x"), NOW)
    assert octets is not None
    assert stage.authority.error(octets, MalformedMessage("HDR", "x"), NOW) is None


def test_no_error_shows_a_key():
    stage = Stage()
    pending = stage.authority.read_request(stage.request().message, stage.tick())
    with pytest.raises(AuthenticationFailure) as refused:
        pending.authenticate(credential("mallory").key, stage.now)
    assert credential("mallory").key.reveal().decode() not in str(refused.value)
