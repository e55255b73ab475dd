"""Ticket Transfer between initiator and responder: what travels, what is refused early, what both end up with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.mikey import codec
from keying.mikey.errors import (
    InvalidIdentity,
    InvalidPolicy,
    InvalidPolicyParameter,
    InvalidTicket,
    InvalidTicketPolicy,
    MalformedMessage,
    MikeyError,
    PeerError,
    Replayed,
    Unspecified,
)
from keying.mikey.groups import Groups
from keying.mikey.identity import Identity
from keying.mikey.origin import sdp_ids
from keying.mikey.payloads import CryptoSession, ErrorPayload, KeyData, SecurityPolicy, TicketPayload
from keying.mikey.policy import WantedKey, Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.protection import rand_of
from keying.mikey.registry import CsIdMapType, IdRole, KeyDataType, RandRole
from keying.mikey.sessions import SessionKeys, srtp_policy, srtp_session, suite_of
from keying.mikey.transfer import reject
from keying.secret import Secret
from tests.keying.mikey.stage import ALICE, BOB, BOBS_STREAM, CAROL, KMS, MALLORY, NOW, Stage, counting

pytestmark = pytest.mark.clause("TS 33.328", "D-9")

ONE_WAY = Wish((BOB,), forking=False, response=False, responder_rand=False)
TEK = KeyData(KeyDataType.TEK_SALT, Secret(b"k" * 16), Secret(b"s" * 14), b"\x77")


def revealed(keys: SessionKeys) -> dict[int, tuple[bytes, bytes, bytes, int | None]]:
    return {each.cs_id: (each.tek.reveal(), each.salt.reveal(), each.spi, each.ssrc) for each in keys.by_cs_id.values()}


def with_ticket(stage: Stage) -> Stage:
    request = stage.request()
    stage.ticket = request.receive(stage.grant(request.message).response, stage.tick())  # type: ignore[attr-defined]
    return stage


@pytest.mark.clause("RFC 6043", "4.1.1")
def test_both_sides_have_the_same_keys_and_each_stream_its_own():
    played = Stage().play()
    keys = revealed(played.established.keys)
    assert keys == revealed(played.accepted.keys)
    assert len({tek for tek, _, _, _ in keys.values()}) == 2
    assert keys[2][3] == BOBS_STREAM + 2
    assert (played.established.initiator, played.established.responder) == (ALICE, BOB)


@pytest.mark.clause("RFC 6043", "5.1.3")
@pytest.mark.parametrize(
    ("g", "h"), [(True, True), (True, False), (False, True)], ids=["G and H", "G alone", "H alone"]
)
def test_which_random_values_enter_the_keys_is_the_ticket_s_to_say(g, h):
    played = Stage(wish=Wish((BOB,), responder_rand=g, initiator_rand=h)).play()
    response = codec.decode(played.octets["TRANSFER_RESP"])
    assert (rand_of(response, RandRole.RESPONDER) is not None) is g
    assert revealed(played.established.keys) == revealed(played.accepted.keys)
    association = played.established.association
    assert [bool(rand) for rand in association.rands] == [h, g]


def test_without_forking_mpki_protects_the_response_and_nobody_adds_initiator_data():
    played = Stage(wish=Wish((BOB,), forking=False)).play()
    message = codec.decode(played.octets["TRANSFER_INIT"])
    ticket = next(each for each in message.payloads if isinstance(each, TicketPayload))
    assert ticket.initiator_data == b""
    assert played.resolution.forked_mpkr is None
    assert revealed(played.established.keys) == revealed(played.accepted.keys)


@pytest.mark.clause("RFC 6043", "5.3")
@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
def test_a_reusable_ticket_serves_several_calls_with_new_names_times_and_randoms():
    stage = Stage(wish=Wish((BOB,), reusable=True))
    played = stage.play()
    first = dict(played.octets)
    again = stage.transfer(played)
    one, two = codec.decode(first["TRANSFER_INIT"]), codec.decode(again.octets["TRANSFER_INIT"])
    assert one.header.csb_id != two.header.csb_id
    assert rand_of(one, RandRole.INITIATOR) != rand_of(two, RandRole.INITIATOR)
    before, after = codec.decode(first["TRANSFER_RESP"]), codec.decode(again.octets["TRANSFER_RESP"])
    assert rand_of(before, RandRole.KMS) == rand_of(after, RandRole.KMS)
    assert rand_of(before, RandRole.RESPONDER) != rand_of(after, RandRole.RESPONDER)


@pytest.mark.clause("RFC 6043", "5.3")
@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
def test_a_responder_that_resolved_the_ticket_before_need_not_ask_again():
    stage = Stage(wish=Wish((BOB,), reusable=True))
    played = stage.play()
    initiator = stage.initiate(played.ticket)
    accepted = stage.accept(stage.respond(initiator.message), played.resolution)
    assert revealed(stage.finish(initiator, accepted).keys) == revealed(accepted.keys)


@pytest.mark.clause("RFC 6043", "12.2")
def test_every_branch_that_answers_has_keys_of_its_own():
    stage = with_ticket(Stage(wish=Wish((BOB, CAROL))))
    initiator = stage.initiate(stage.ticket)
    found = []
    for own in (BOB, CAROL):
        stage.own, stage.endpoint = (own,), own.data
        stage.responder_replay = type(stage.responder_replay)()
        responder, resolution = stage.resolved(initiator.message)
        established = stage.finish(initiator, stage.accept(responder, resolution))
        assert established.responder == own
        found.append(revealed(established.keys))
    assert found[0][1][0] != found[1][1][0]


# One way


def test_a_transfer_without_response_gives_the_keys_at_once():
    stage = with_ticket(Stage(wish=ONE_WAY))
    sessions = (CryptoSession(1, 242, spi=stage.ticket.keys[0].spi or b""),)
    initiator = stage.initiate(stage.ticket, sessions=sessions, policies=())
    responder, resolution = _resolved(stage, initiator.message)
    accepted = responder.accept(resolution, stage.tick())
    assert accepted.response is None
    assert revealed(accepted.keys) == revealed(initiator.established().keys)
    with pytest.raises(InvalidTicketPolicy):
        initiator.receive(b"\x01\x0f\x05\x00" + bytes(6) + b"\x00\x00", NOW)


def _resolved(stage: Stage, octets: bytes):
    responder = stage.respond(octets, prot_types=(242,))
    resolve = stage.ask(responder)
    return responder, resolve.receive(stage.answer(resolve.message), stage.tick())


@pytest.mark.parametrize(
    "session",
    [srtp_session(1, (0,), None, b"\x01"), srtp_session(1, (0, 1), 5, b"\x01"), srtp_session(1, (0,), 5)],
    ids=["no SSRC", "two policies", "no SPI"],
)
def test_a_transfer_without_response_has_to_be_complete(session):
    stage = with_ticket(Stage(wish=ONE_WAY))
    policies = [srtp_policy(stage.suite, 0), srtp_policy("AEAD_AES_128_GCM", 1)]
    with pytest.raises(Unspecified):
        stage.initiate(stage.ticket, sessions=(session,), policies=policies)


def test_established_is_for_transfers_without_response():
    with pytest.raises(InvalidTicketPolicy):
        with_ticket(Stage()).initiate(with_ticket(Stage()).ticket).established()


# Negotiation


def offer(stage: Stage, *suites: str):
    policies = [srtp_policy(suite, number) for number, suite in enumerate(suites)]
    numbers = tuple(range(len(suites)))
    sessions = (srtp_session(1, numbers, 0x01020301), srtp_session(2, numbers, None))
    return stage.initiate(stage.ticket, sessions=sessions, policies=policies)


def complete(stage: Stage, initiator, suites: tuple[str, ...], **accept):
    responder = stage.respond(initiator.message, suites=suites)
    resolve = stage.ask(responder)
    resolution = resolve.receive(stage.answer(resolve.message), stage.tick())
    accepted = responder.accept(resolution, stage.tick(), **{"ssrcs": {2: 9}} | accept)
    return stage.finish(initiator, accepted)


@pytest.mark.clause("RFC 6043", "4.2.2.3")
def test_of_several_policies_the_responder_takes_the_one_it_likes_best():
    stage = with_ticket(Stage())
    initiator = offer(stage, "AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM")
    established = complete(stage, initiator, ("AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"))
    assert {each.suite for each in established.keys.by_cs_id.values()} == {"AEAD_AES_128_GCM"}


def test_the_responder_may_be_told_which_policy_to_take():
    stage = with_ticket(Stage())
    initiator = offer(stage, "AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM")
    established = complete(stage, initiator, ("AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"), chosen={1: 0, 2: 0})
    assert {each.suite for each in established.keys.by_cs_id.values()} == {"AES_CM_128_HMAC_SHA1_80"}


@pytest.mark.clause("RFC 6043", "4.2.2.3")
def test_a_session_without_policy_gets_the_responder_s_if_the_initiator_takes_it():
    stage = with_ticket(Stage())
    for suites, taken in ((("AEAD_AES_128_GCM",), True), ((), False)):
        initiator = stage.initiate(
            stage.ticket, sessions=(srtp_session(1, (), 3),), policies=(SecurityPolicy(5),), suites=suites
        )
        accept = {"policies": (srtp_policy("AEAD_AES_128_GCM", 7),), "ssrcs": {}}
        if taken:
            established = complete(stage, initiator, ("AEAD_AES_128_GCM",), **accept)
            assert established.keys[1].suite == "AEAD_AES_128_GCM"
        else:
            with pytest.raises(InvalidPolicyParameter):
                complete(stage, initiator, ("AEAD_AES_128_GCM",), **accept)


@pytest.mark.clause("RFC 6043", "4.2.2.3")
def test_the_responder_adds_a_crypto_session():
    stage = with_ticket(Stage())
    extra = srtp_session(9, (0,), 99, stage.ticket.keys[0].spi or b"")
    established = complete(stage, offer(stage, stage.suite), (stage.suite,), sessions=(extra,))
    assert established.keys[9].ssrc == 99


def test_a_number_that_means_another_policy_is_refused():
    stage = with_ticket(Stage())
    with pytest.raises(MalformedMessage):
        complete(stage, offer(stage, stage.suite), (stage.suite,), policies=(srtp_policy("AEAD_AES_128_GCM", 0),))


def test_a_responder_that_does_not_do_what_is_offered_says_what_it_does():
    stage = with_ticket(Stage())
    initiator = offer(stage, "AES_CM_128_HMAC_SHA1_80")
    with pytest.raises(InvalidPolicyParameter) as refused:
        stage.respond(initiator.message, suites=("AEAD_AES_128_GCM",))
    octets = reject(initiator.message, refused.value, stage.now)
    assert octets is not None
    with pytest.raises(PeerError) as error:
        initiator.receive(octets, stage.now)
    assert error.value.numbers == (10,)


@pytest.mark.clause("RFC 6043", "5.4")
def test_an_error_after_the_checks_lists_the_supported_policies_and_is_authentic():
    stage = with_ticket(Stage())
    initiator = stage.initiate(stage.ticket)
    responder, resolution = stage.resolved(initiator.message)
    early = responder.error(InvalidPolicy("SP", "no"), stage.now)
    stage.accept(responder, resolution)
    late = responder.error(InvalidPolicy("SP", "no"), stage.now)
    for octets, authenticated in ((early, False), (late, True)):
        assert octets is not None
        message = codec.decode(octets)
        assert message.header.map_type is CsIdMapType.GENERIC_ID
        assert [suite_of(each) for each in message.payloads if isinstance(each, SecurityPolicy)] == [stage.suite]
        with pytest.raises(PeerError) as error:
            initiator.receive(octets, stage.now)
        assert error.value.authenticated is authenticated


def test_an_error_is_answered_by_silence():
    stage = with_ticket(Stage())
    initiator = stage.initiate(stage.ticket)
    octets = reject(initiator.message, InvalidTicket("x", "y"), stage.now)
    assert octets is not None
    assert [each.number for each in codec.decode(octets).payloads if isinstance(each, ErrorPayload)] == [14]
    assert reject(octets, InvalidTicket("x", "y"), stage.now) is None
    assert reject(b"", InvalidTicket("x", "y"), stage.now) is None
    assert reject(initiator.message, PeerError((1,)), stage.now) is None


# Session keys of the parties (L and M)


@pytest.mark.clause("RFC 6043", "4.2.2.1")
@pytest.mark.parametrize("l", [True, False])
def test_the_initiator_supplies_keys_where_the_ticket_lets_it(l):  # noqa: E741 - the flag
    stage = with_ticket(Stage(wish=Wish((BOB,), initiator_keys=l), initiator_keys=(TEK,)))
    sessions = (srtp_session(1, (0,), 3, TEK.spi or b""),)
    if not l:
        with pytest.raises(InvalidTicketPolicy):
            stage.initiate(stage.ticket, sessions=sessions)
        return
    initiator = stage.initiate(stage.ticket, sessions=sessions)
    responder, resolution = stage.resolved(initiator.message)
    accepted = responder.accept(resolution, stage.tick())
    assert accepted.keys[1].tek == TEK.key
    assert revealed(stage.finish(initiator, accepted).keys) == revealed(accepted.keys)


@pytest.mark.clause("RFC 6043", "4.2.2.3", "8")
@pytest.mark.parametrize("m", [True, False])
def test_the_responder_supplies_keys_where_the_ticket_lets_it(m):
    stage = with_ticket(Stage(wish=Wish((BOB,), responder_keys=m)))
    initiator = stage.initiate(stage.ticket, sessions=(srtp_session(1, (0,), 3, TEK.spi or b""),))
    responder, resolution = stage.resolved(initiator.message)
    if not m:
        with pytest.raises(InvalidTicketPolicy):
            responder.accept(resolution, stage.tick(), keys=(TEK,))
        return
    accepted = responder.accept(resolution, stage.tick(), keys=(TEK,))
    assert stage.finish(initiator, accepted).keys[1].tek == TEK.key


def test_an_initiator_with_a_key_that_the_ticket_has_already_is_refused():
    stage = with_ticket(Stage(wish=Wish((BOB,), initiator_keys=True)))
    with pytest.raises(MalformedMessage):
        stage.initiate(stage.ticket, keys=(replace(TEK, spi=stage.ticket.keys[0].spi),))


@pytest.mark.clause("RFC 6043", "5.1.1")
@pytest.mark.clause("TS 33.328", "D-4")
def test_forking_leaves_tek_and_gtgk_as_they_are():
    kinds = (KeyDataType.TGK, KeyDataType.TEK_SALT, KeyDataType.GTGK)
    played = Stage(wish=Wish((BOB,), keys=tuple(WantedKey(kind) for kind in kinds))).play()
    tgk, tek, gtgk = played.ticket.keys
    assert played.resolution.keys[0].key != tgk.key
    assert [key.key for key in played.resolution.keys[1:]] == [tek.key, gtgk.key]


# Who may


@pytest.mark.clause("RFC 6043", "4.2.2.2")
@pytest.mark.attack("T5")
def test_somebody_the_ticket_does_not_name_refuses_before_it_asks():
    stage = with_ticket(Stage())
    message = stage.initiate(stage.ticket).message
    with pytest.raises(InvalidIdentity):
        stage.respond(message, own=(MALLORY,))
    assert stage.respond(message, own=(MALLORY,), may_be_in_groups=True).called == BOB


@pytest.mark.clause("RFC 6043", "9")
def test_a_member_answers_for_its_group_and_is_named():
    group = Identity.uri("sip:support@ims.test")
    groups = Groups({group.text: [BOB.text]})
    played = Stage(wish=Wish((group,)), peer=group, groups=groups).play()
    assert played.established.responder == played.accepted.responder == BOB
    assert played.responder.called == group


@pytest.mark.clause("RFC 6043", "9.1")
@pytest.mark.attack("T5")
def test_an_initiator_uses_no_ticket_of_another():
    stage = with_ticket(Stage())
    with pytest.raises(InvalidIdentity):
        stage.initiate(stage.ticket, own=MALLORY)


@pytest.mark.clause("RFC 6043", "4.2.2.1")
def test_an_initiator_uses_no_ticket_out_of_its_time():
    stage = with_ticket(Stage(wish=Wish((BOB,), validity_s=60)))
    with pytest.raises(InvalidTicket):
        stage.initiate(stage.ticket, now=NOW + 61.5)


@pytest.mark.clause("RFC 6043", "9")
def test_in_a_group_without_forking_a_member_passes_the_ticket_on():
    stage = with_ticket(Stage(wish=Wish((BOB, CAROL), forking=False)))
    ticket = replace(stage.ticket, payload=stage.ticket.payload)
    initiator = stage.initiate(ticket)
    responder = stage.respond(initiator.message)
    assert responder.initiator == ALICE


@pytest.mark.attack("T5")
def test_a_transfer_is_taken_once():
    stage = with_ticket(Stage())
    message = stage.initiate(stage.ticket).message
    first, second = stage.resolved(message), stage.resolved(message)
    assert stage.accept(*first).response
    with pytest.raises(Replayed):
        stage.accept(*second)
    with pytest.raises(Replayed):
        stage.respond(message)


@pytest.mark.clause("RFC 6043", "9")
def test_a_group_key_takes_the_same_random_value_in_every_transfer():
    wish = Wish((BOB,), reusable=True, responder_rand=False, keys=(WantedKey(KeyDataType.GTGK),))
    stage = with_ticket(Stage(wish=wish))
    found = set()
    for _ in range(2):
        initiator = stage.initiate(stage.ticket, rand=b"group random value..............")
        responder, resolution = stage.resolved(initiator.message)
        found.add(stage.finish(initiator, stage.accept(responder, resolution)).keys[1].tek.reveal())
    assert len(found) == 1
    with pytest.raises(Unspecified):
        stage.initiate(stage.ticket, rand=b"short")


def test_extensions_are_there_for_the_responder_to_check():
    stage = with_ticket(Stage())
    responder = stage.respond(stage.initiate(stage.ticket, extensions=(sdp_ids(("mikey", "other")),)).message)
    assert responder.extensions == (sdp_ids(("mikey", "other")),)


def test_a_policy_of_another_prf_than_the_message_is_refused():
    played = Stage().play()
    message = codec.decode(played.octets["TRANSFER_INIT"])
    payloads = tuple(
        replace(each, policy=replace(each.policy, prf=1)) if isinstance(each, TicketPayload) else each
        for each in message.payloads
    )
    octets = codec.encode(replace(message, payloads=payloads, raw=b"", spans=()))
    with pytest.raises(MikeyError):
        Stage().respond(octets)


def test_the_random_source_is_an_argument():
    one, two = (Stage(draw=counting()).play() for _ in range(2))
    assert one.octets == two.octets
    assert Stage(draw=counting(1)).play().octets != one.octets


def test_the_identity_of_the_kms_travels_with_the_ticket():
    played = Stage().play()
    message = codec.decode(played.octets["TRANSFER_INIT"])
    ticket = next(each for each in message.payloads if isinstance(each, TicketPayload))
    assert KMS.payload(IdRole.KMS) in ticket.policy.payloads
    assert DEFAULT_PROFILE.ticket_kind_issued == (
        ticket.policy.ticket_type,
        ticket.policy.subtype,
        ticket.policy.version,
    )
