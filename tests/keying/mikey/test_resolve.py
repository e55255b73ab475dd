"""Ticket Resolve of the responder, and tickets that a responder opens itself (modes 2 and 4)."""

from __future__ import annotations

import pytest

from keying.mikey import codec
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidIdentity,
    InvalidTicket,
    InvalidTicketPolicy,
    MikeyError,
    PeerError,
)
from keying.mikey.payloads import TicketPayload
from keying.mikey.policy import Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import CsIdMapType, DataType
from keying.mikey.resolve import resolve_locally
from keying.mikey.ticket import create_ticket, mode3_ticket_key
from keying.secret import Secret
from tests.keying.mikey.stage import ALICE, BOB, KMS, LONG, MALLORY, NOW, Stage, counting, credential, tpk

pytestmark = pytest.mark.clause("TS 33.328", "D-10")

SELF_RESOLVED = Wish((BOB,), forking=False, resolve=False)


@pytest.mark.clause("RFC 6043", "4.2.3.1")
def test_the_resolve_request_has_the_payloads_of_the_rfc_and_the_ticket_as_it_came():
    played = Stage().play()
    message = codec.decode(played.octets["RESOLVE_INIT"])
    assert (message.header.data_type, message.header.map_type) == (DataType.RESOLVE_INIT_PSK, CsIdMapType.EMPTY)
    names = ["Timestamp", "RandRoled", "IdRoled", "IdRoled", "TicketPayload", "IdRoled", "Verification"]
    assert [type(each).__name__ for each in message.payloads] == names
    ticket = next(each for each in message.payloads if isinstance(each, TicketPayload))
    assert ticket == played.responder.ticket
    assert message.header.csb_id != codec.decode(played.octets["TRANSFER_INIT"]).header.csb_id


@pytest.mark.clause("RFC 6043", "4.2.3.6")
@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
@pytest.mark.parametrize("forking", [True, False])
def test_a_resolution_has_what_the_ticket_says(profile, forking):
    played = Stage(profile=profile, wish=Wish((BOB,), forking=forking)).play()
    resolution = played.resolution
    assert resolution.mpki == played.ticket.mpki
    assert (resolution.forked_mpkr is not None) is forking
    assert (resolution.responder == BOB) is forking
    assert bool(resolution.rand_kms) is forking
    assert (resolution.keys == played.ticket.keys) is not forking


@pytest.mark.clause("RFC 6043", "4.2.3.6")
@pytest.mark.attack("T5")
def test_no_bit_of_a_resolve_response_may_flip():
    stage = Stage()
    played = stage.play()
    octets = played.octets["RESOLVE_RESP"]
    for place in range(len(octets)):
        changed = bytearray(octets)
        changed[place] ^= 1 << place % 8
        with pytest.raises(MikeyError):
            played.resolve.receive(bytes(changed), stage.now)
    assert played.resolve.receive(octets, stage.now) == played.resolution


@pytest.mark.attack("T5")
def test_the_answer_to_somebody_else_is_not_taken():
    stage = Stage()
    played = stage.play()
    other = stage.ask(played.responder)
    with pytest.raises(MikeyError):
        other.receive(played.octets["RESOLVE_RESP"], stage.now)


def test_the_refusal_of_the_kms_reaches_the_responder():
    stage = Stage()
    played = stage.play()
    resolve = stage.ask(played.responder)
    authentic = stage.authority.read_resolve(resolve.message, stage.now).authenticate(credential("bob").key, stage.now)
    octets = authentic.error(InvalidIdentity("IDRr", "the ticket is for others"), stage.now)
    assert octets is not None
    with pytest.raises(PeerError) as error:
        resolve.receive(octets, stage.now)
    assert (error.value.numbers, error.value.authenticated) == ((7,), True)


def local(stage: Stage, ticket, key, own=(BOB,)):
    return resolve_locally(DEFAULT_PROFILE, ticket, lambda _: key, own, stage.now)


@pytest.mark.clause("RFC 6043", "4.1.1")
def test_a_responder_that_has_the_ticket_key_asks_nobody():
    stage = Stage(wish=SELF_RESOLVED)
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    initiator = stage.initiate(ticket)
    responder = stage.respond(initiator.message)
    accepted = stage.accept(responder, local(stage, responder.ticket, tpk()))
    assert stage.finish(initiator, accepted).keys[1].tek == accepted.keys[1].tek


@pytest.mark.clause("RFC 6043", "4.1.1")
def test_two_parties_with_a_common_key_need_no_kms_at_all():
    stage = Stage()
    shared = mode3_ticket_key(b"alice-bob", Secret(b"p" * 32), KMS, 16, (ALICE,))
    ticket = create_ticket(DEFAULT_PROFILE, SELF_RESOLVED, ALICE, KMS, shared, NOW, counting())
    initiator = stage.initiate(ticket)
    responder = stage.respond(initiator.message)
    accepted = stage.accept(responder, local(stage, responder.ticket, shared))
    assert stage.finish(initiator, accepted).keys[2].tek == accepted.keys[2].tek


@pytest.mark.attack("T5")
def test_a_responder_opens_no_ticket_that_needs_a_kms_or_is_for_others():
    stage = Stage()
    played = stage.play()
    with pytest.raises(InvalidTicketPolicy):
        local(stage, played.responder.ticket, tpk())
    stage = Stage(wish=SELF_RESOLVED)
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    with pytest.raises(InvalidIdentity):
        local(stage, ticket.payload, tpk(), (MALLORY,))
    with pytest.raises(InvalidTicket):
        local(stage, ticket.payload, None)
    stage.now += 10_000
    with pytest.raises(InvalidTicket):
        local(stage, ticket.payload, tpk())


@pytest.mark.attack("T5")
def test_a_responder_that_resolves_for_somebody_else_is_not_let_in():
    stage = Stage()
    played = stage.play()
    stage.own = (MALLORY,)
    resolve = stage.ask(played.responder)
    pending = stage.authority.read_resolve(resolve.message, stage.now)
    authentic = pending.authenticate(credential("bob").key, stage.now)
    assert authentic.responder == MALLORY  # what the KMS node compares with the owner of the credential
    with pytest.raises(InvalidIdentity):
        stage.authority.resolve_ticket(authentic.ticket, (authentic.responder,), stage.find_tpk, stage.now)
    with pytest.raises(AuthenticationFailure):
        pending.authenticate(credential("mallory").key, stage.now)
