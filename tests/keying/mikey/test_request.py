"""Ticket Request: what an initiator asks for, and what it takes from its KMS."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.mikey import codec
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidPrf,
    InvalidTicketPolicy,
    InvalidTimestamp,
    MalformedMessage,
    PeerError,
    Unspecified,
)
from keying.mikey.grant import grant
from keying.mikey.identity import Identity, identity
from keying.mikey.policy import Limits, WantedKey, Wish, flags_text
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.protection import rand_of
from keying.mikey.registry import CsIdMapType, DataType, IdRole, IdType, KeyDataType, RandRole, TicketFlag
from keying.mikey.request import PskCredential, TicketRequest
from keying.secret import Secret
from tests.keying.mikey.stage import ALICE, BOB, KMS, LONG, NOW, Stage, counting, credential

pytestmark = pytest.mark.clause("TS 33.328", "D-8")


@pytest.mark.clause("RFC 6043", "4.2.1.1")
def test_the_request_has_the_payloads_of_the_rfc_in_order():
    message = codec.decode(Stage().request().message)
    header = message.header
    assert (header.data_type, header.map_type, header.sessions) == (DataType.REQUEST_INIT_PSK, CsIdMapType.EMPTY, ())
    assert header.verification
    names = ["Timestamp", "RandRoled", "IdRoled", "IdRoled", "TicketPolicyPayload", "IdRoled", "Verification"]
    assert [type(each).__name__ for each in message.payloads] == names
    roles = (IdRole.INITIATOR, IdRole.KMS, IdRole.PSK)
    assert [identity(message.payloads, role) for role in roles] == [
        ALICE,
        KMS,
        Identity(IdType.BYTE_STRING, credential("alice").identity),
    ]


@pytest.mark.clause("RFC 6043", "12.1")
@pytest.mark.clause("TS 33.328", "D-7")
def test_the_random_value_is_never_shorter_than_the_key():
    short = replace(DEFAULT_PROFILE, request_rand_octets=16)
    long_key = PskCredential(b"btid", Secret(bytes(64)))
    request = TicketRequest(short, long_key, initiator=ALICE, kms=KMS, wish=Wish((BOB,)), now=NOW, entropy=counting())
    assert len(rand_of(codec.decode(request.message), RandRole.INITIATOR) or b"") == 64


@pytest.mark.clause("RFC 3830", "6.1")
@pytest.mark.clause("RFC 6043", "4.2.1.1")
def test_two_requests_have_nothing_random_in_common():
    wish = Wish((BOB,))
    one, two = (
        TicketRequest(DEFAULT_PROFILE, credential("alice"), initiator=ALICE, kms=KMS, wish=wish, now=NOW)
        for _ in range(2)
    )
    assert one.message[4:8] != two.message[4:8]
    assert one.message[-20:] != two.message[-20:]


def test_a_weak_key_is_no_credential():
    with pytest.raises(Unspecified):
        TicketRequest(
            DEFAULT_PROFILE,
            PskCredential(b"x", Secret(bytes(15))),
            initiator=ALICE,
            kms=KMS,
            wish=Wish((BOB,)),
            now=NOW,
        )


@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
@pytest.mark.parametrize("forking", [True, False])
def test_the_ticket_comes_with_the_keys_of_its_policy(profile, forking):
    stage = Stage(profile=profile, wish=Wish((BOB,), forking=forking))
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    assert (ticket.mpkr is not None) is forking
    assert {len(key.key) for key in (ticket.mpki, *ticket.keys)} == {32 if profile is LONG else 16}
    assert "K" not in flags_text(ticket.policy)


def test_the_keys_asked_for_are_the_keys_that_come():
    wanted = (WantedKey(KeyDataType.TEK_SALT, spi=b"\x09"), WantedKey(KeyDataType.GTGK), WantedKey(KeyDataType.TGK))
    stage = Stage(wish=Wish((BOB,), keys=wanted))
    request = stage.request()
    ticket = request.receive(stage.grant(request.message).response, stage.tick())
    assert [key.key_type for key in ticket.keys] == [want.key_type for want in wanted]
    assert ticket.keys[0].spi == b"\x09"
    assert not any(key.key == Secret(bytes(16)) for key in ticket.keys)


@pytest.mark.clause("RFC 6043", "4.2.1.6")
@pytest.mark.parametrize("limits", [Limits(forking_required=True), Limits(max_keys=1), Limits(max_validity_s=60)])
def test_an_altered_policy_that_is_no_worse_is_taken_or_else_discarded(limits):
    wish = Wish((BOB,), forking=False, keys=(WantedKey(), WantedKey()))
    stage = Stage(wish=wish, limits=limits)
    request = stage.request()
    granted = stage.grant(request.message)
    assert granted.altered
    if limits.max_keys == 1:
        with pytest.raises(InvalidTicketPolicy):
            request.receive(granted.response, stage.tick())
        return
    assert request.receive(granted.response, stage.tick()).policy.flags & TicketFlag.K


@pytest.mark.clause("RFC 6043", "4.2.1.6")
def test_after_a_grant_that_is_not_acceptable_another_request_may_follow():
    stage = Stage(wish=Wish((BOB,), initiator_keys=True), limits=Limits(initiator_keys=False))
    request = stage.request()
    with pytest.raises(InvalidTicketPolicy):
        request.receive(stage.grant(request.message).response, stage.tick())
    stage.wish = Wish((BOB,))
    again = stage.request()
    assert again.receive(stage.grant(again.message).response, stage.tick()).mpki


@pytest.mark.parametrize("other", [WantedKey(KeyDataType.GTGK), WantedKey(length=32), WantedKey(spi=b"\x0a"), None])
def test_a_kms_that_alters_keys_without_saying_so_is_refused(other, monkeypatch):
    stage = Stage(profile=LONG, wish=Wish((BOB,), keys=(WantedKey(length=24, spi=b"\x09"),)))
    request = stage.request()

    def generous(*arguments):
        policy, _ = grant(*arguments)
        return policy, () if other is None else (other,)

    monkeypatch.setattr("keying.mikey.authority.grant", generous)
    with pytest.raises(InvalidTicketPolicy):
        request.receive(stage.grant(request.message).response, stage.tick())


@pytest.mark.attack("T5")
def test_the_answer_to_an_older_request_is_not_taken():
    stage = Stage()
    one, two = stage.request(), stage.request()
    response = stage.grant(one.message).response
    with pytest.raises(MalformedMessage, match="CSB ID"):
        two.receive(response, stage.tick())
    assert one.receive(response, stage.tick()).mpki


@pytest.mark.attack("T5")
def test_an_answer_outside_the_clock_skew_is_refused():
    stage = Stage()
    request = stage.request()
    response = stage.grant(request.message).response
    with pytest.raises(InvalidTimestamp):
        request.receive(response, NOW + 1000)


def test_an_error_of_the_kms_has_its_numbers_and_says_whether_it_is_authentic():
    stage = Stage()
    request = stage.request()
    pending = stage.authority.read_request(request.message, stage.tick())
    refusal = InvalidTicketPolicy("IDRr", "not for you")
    open_error = pending.error(refusal, stage.now)
    sealed = pending.authenticate(credential("alice").key, stage.now).error(refusal, stage.now)
    for octets, authenticated in ((open_error, False), (sealed, True)):
        assert octets is not None
        with pytest.raises(PeerError) as error:
            request.receive(octets, stage.now)
        assert error.value.numbers == (15,)
        assert error.value.authenticated is authenticated


@pytest.mark.clause("RFC 3830", "5.1.2")
def test_a_forged_error_leaves_the_request_open():
    stage = Stage()
    request = stage.request()
    pending = stage.authority.read_request(request.message, stage.tick())
    sealed = pending.authenticate(credential("alice").key, stage.now).error(InvalidTicketPolicy("x", "y"), stage.now)
    assert sealed is not None
    with pytest.raises(AuthenticationFailure):
        request.receive(sealed[:-1] + bytes([sealed[-1] ^ 1]), stage.now)


def test_a_kms_that_does_not_take_the_algorithms_says_so():
    stage = Stage(profile=LONG)
    stage.authority.profile = replace(DEFAULT_PROFILE, suites_accepted=frozenset({"128"}))
    with pytest.raises(InvalidPrf) as refused:
        stage.grant(stage.request().message)
    assert refused.value.number == 2
