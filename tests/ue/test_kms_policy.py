import dataclasses

import pytest

from keying.mikey.identity import Identity
from keying.mikey.policy import wished_policy
from keying.mikey.profile import DEFAULT_PROFILE
from nodes.ue.config import KmsPolicy
from nodes.ue.kms_policy import (
    groups_of,
    identity_of,
    judge_initiator,
    judge_responder,
    level_towards,
    own_responder,
    responders_for,
    wish_for,
)
from nodes.ue.media_security import (
    KMS,
    MediaSecurityRefused,
    SecurityContext,
    StreamKeys,
    check_remote_change,
    choose_mode,
    judge_answer,
    judge_offer,
    lines_of_mode,
    offer_lines,
    secure_offer,
)
from signalling.sdp import MediaDescription
from tests.ue.kms_stand_in import ALICE, BOB, CAROL

SUITES = ("AES_CM_128_HMAC_SHA1_80",)
GOOD = SecurityContext("preferred", announced=True, agreed=True, confidential=True, suites=SUITES, kms="preferred")
MADE = StreamKeys(offer_lines(SUITES)[0], offer_lines(SUITES)[0], "e2e", "kms")


def change(**facts):
    return dataclasses.replace(GOOD, **facts)


def media(proto="RTP/SAVP", e2ae="", crypto=()):
    description = MediaDescription.build("audio", 4000, proto, ["8"])
    if e2ae:
        description.add("3ge2ae", e2ae)
    description.crypto = [line.encode() for line in crypto]
    return description


def token_of(step, *args, **more):
    with pytest.raises(MediaSecurityRefused) as refused:
        step(*args, **more)
    return refused.value.token


# whom (6.2.3.3) -------------------------------------------------------------------------------------------------------


@pytest.mark.clause("TS 33.328", "6.2.3.3-1", "6.2.3.2-1")
@pytest.mark.parametrize(
    ("peer", "override", "level"),
    [
        (BOB, "", "required"),
        ("sip:bob@IMS.test;user=phone", "", "required"),
        ("sip:anybody@partner.test", "", "off"),
        ("sip:somebody@third.test", "", "preferred"),
        ("tel:+1-555-0100", "", "required"),
        (CAROL, "", "allowed"),
        (BOB, "off", "off"),
    ],
)
def test_the_level_is_that_of_the_user_else_of_its_domain(peer, override, level):
    policy = KmsPolicy(
        peers={BOB: "required", "*@partner.test": "off", "sip:*@third.test": "preferred", "tel:+15550100": "required"}
    )
    assert level_towards(policy, peer, override) == level


@pytest.mark.clause("TS 33.328", "7.2.3-1")
def test_a_ticket_names_who_is_called_and_whom_policy_adds_once_each():
    policy = KmsPolicy(also=(CAROL, BOB))
    assert [each.text for each in responders_for(policy, "sip:bob@IMS.TEST;x=1")] == [BOB, CAROL]
    assert [each.text for each in responders_for(policy, BOB, [CAROL, CAROL])] == [CAROL]


@pytest.mark.clause("TS 33.328", "7.2.3-2")
@pytest.mark.parametrize("policy", [{}, {"forking": False}, {"reusable": True}, {"session_keys": False}])
def test_what_policy_wishes_is_a_ticket_that_can_be(policy):
    wish = wish_for(KmsPolicy(**policy), (identity_of(BOB),))
    made = wished_policy(DEFAULT_PROFILE, wish, identity_of(ALICE), Identity.uri("kms.ims.test"), 1_800_000_000.0)
    assert made.payloads


@pytest.mark.clause("RFC 6043", "9")
def test_a_ticket_is_resolved_under_the_identity_that_it_names():
    own = (identity_of(ALICE), Identity.uri("tel:+15550100"))
    groups = groups_of(KmsPolicy(groups=("sip:team@ims.test",)), own)
    for named, mine in (("tel:+1-555-0100", own[1]), ("sip:team@ims.test", own[0]), ("sip:*@ims.test", own[0]),
                        (BOB, own[0])):  # fmt: skip
        assert own_responder(ticket(named), own, groups) == mine


# who (6.2.3.6) --------------------------------------------------------------------------------------------------------


def ticket(*responders, **policy):
    wish = wish_for(KmsPolicy(**policy), tuple(Identity.uri(uri) for uri in responders))
    return wished_policy(DEFAULT_PROFILE, wish, identity_of(ALICE), Identity.uri("kms.ims.test"), 1_800_000_000.0)


@pytest.mark.clause("TS 33.328", "6.2.3.6-1", "7.3.3-2")
@pytest.mark.parametrize(
    ("named", "responder", "asserted", "allowed", "fine"),
    [
        ((BOB,), BOB, (BOB,), False, True),
        ((BOB,), "sip:bob@IMS.test", (), False, True),
        ((BOB,), BOB, ("tel:+15550102",), False, True),  # the ticket proves more than the network says
        ((BOB, CAROL), BOB, (CAROL,), False, True),
        ((BOB, CAROL), CAROL, (CAROL,), False, False),
        ((BOB, CAROL), CAROL, (CAROL,), True, True),
        ((BOB, CAROL), CAROL, (), True, True),
        ((BOB, CAROL), CAROL, (BOB,), True, False),
        ((BOB, CAROL), "sip:mallory@ims.test", ("sip:mallory@ims.test",), True, False),
        (("sip:*@ims.test",), CAROL, (CAROL,), True, True),
        (("sip:*@ims.test",), CAROL, (CAROL,), False, False),
        (("sip:*@ims.test",), "sip:erin@partner.test", (), True, False),
        ((CAROL,), CAROL, (CAROL,), False, False),
    ],
)
def test_who_may_answer(named, responder, asserted, allowed, fine):
    facts = {"dialled": BOB, "asserted": asserted, "allow_diverted": allowed}
    if fine:
        judge_responder(ticket(*named), Identity.uri(responder), **facts)
    else:
        assert token_of(judge_responder, ticket(*named), Identity.uri(responder), **facts) == "responder-not-allowed"


@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@pytest.mark.attack("T5")
def test_without_key_forking_who_answered_is_a_claim():
    alone, shared = ticket(BOB, forking=False), ticket(BOB, CAROL, forking=False)
    facts = {"dialled": BOB, "asserted": ()}
    shown = judge_responder(alone, Identity.uri("sip:ceo@ims.test"), **facts, allow_diverted=False)
    assert shown.text == BOB
    assert token_of(judge_responder, shared, identity_of(BOB), **facts, allow_diverted=False) == "responder-not-allowed"
    assert judge_responder(shared, identity_of(CAROL), **facts, allow_diverted=True).text == CAROL
    stranger = Identity.uri("sip:mallory@ims.test")
    assert token_of(judge_responder, shared, stranger, **facts, allow_diverted=True) == "responder-not-allowed"


@pytest.mark.clause("TS 33.328", "6.2.3.6-1")
@pytest.mark.attack("T5")
def test_whose_ticket_an_offer_may_rest_on():
    judge_initiator(Identity.uri(BOB), asserted=())
    judge_initiator(Identity.uri(BOB), asserted=("tel:+15550102", "sip:bob@IMS.TEST"))
    assert token_of(judge_initiator, Identity.uri(BOB), asserted=(CAROL,)) == "mikey-invalid"
    judge_initiator(Identity.uri(BOB), asserted=(BOB,), dialled=BOB)
    assert token_of(judge_initiator, Identity.uri(CAROL), asserted=(CAROL,), dialled=BOB) == "responder-not-allowed"
    judge_initiator(Identity.uri(CAROL), asserted=(CAROL,), dialled=BOB, allow_diverted=True)


# which mode -----------------------------------------------------------------------------------------------------------


@pytest.mark.clause("TS 33.328", "6.2.3.3-1", "7.5", "4.1.1-2")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    ("wanted", "context", "target", "mode"),
    [
        ("", GOOD, BOB, KMS),
        ("", change(kms="required", agreed=False), BOB, KMS),
        ("", change(kms="allowed"), BOB, "e2ae-sdes"),
        ("", change(kms="off"), BOB, "e2ae-sdes"),
        ("", change(level="off"), BOB, "none"),
        (KMS, change(kms="allowed", confidential=False), BOB, KMS),
        (KMS, change(level="required", kms="allowed"), BOB, KMS),
        (KMS, change(kms="off"), BOB, "profile-refused"),
        (KMS, change(level="off"), BOB, "profile-refused"),
        ("none", GOOD, BOB, "none"),
        ("none", change(kms="required"), BOB, "protection-required"),
        ("e2e-sdes", change(kms="required"), BOB, "protection-required"),
        ("", change(kms="required", level="off"), BOB, "protection-required"),
        ("", change(kms="required"), "urn:service:sos", "e2ae-sdes"),
        ("", GOOD, "urn:service:sos.fire", "e2ae-sdes"),
        (KMS, GOOD, "urn:service:sos", "profile-refused"),
        ("e2e-sdes", GOOD, "URN:service:sos", "profile-refused"),
    ],
)
def test_what_is_offered(wanted, context, target, mode):
    if mode.endswith(("refused", "required")):
        assert token_of(choose_mode, wanted, context, target=target) == mode
    else:
        assert choose_mode(wanted, context, target=target) == mode


@pytest.mark.clause("TS 33.328", "7.2.3-4")
def test_sdes_stands_beside_mikey_only_where_policy_and_signalling_let_it():
    assert lines_of_mode(KMS, GOOD) == ()
    assert len(lines_of_mode(KMS, change(beside_sdes=True))) == 1
    assert lines_of_mode(KMS, change(beside_sdes=True, confidential=False)) == ()
    description = MediaDescription.build("audio", 4000, "RTP/AVP", ["8"])
    secure_offer(description, KMS, ())
    assert (description.proto, description.e2ae, description.crypto) == ("RTP/SAVP", None, [])


@pytest.mark.clause("TS 33.328", "7.3.3")
@pytest.mark.attack("T1")
def test_an_offered_stream_with_keys_of_the_kms():
    taken = judge_offer(media(), GOOD, managed=True)
    assert (taken.managed, taken.scope, taken.chosen, taken.protected) == (True, "e2e", None, True)
    assert token_of(judge_offer, media("RTP/AVP"), GOOD, managed=True) == "profile-refused"
    assert token_of(judge_offer, media(e2ae="applied"), GOOD, managed=True) == "profile-refused"
    assert token_of(judge_offer, media(), change(level="off"), managed=True) == "profile-refused"
    required = change(kms="required")
    for offered in (media("RTP/AVP"), media(crypto=offer_lines(SUITES))):
        assert token_of(judge_offer, offered, required) == "protection-required"
    assert judge_offer(media(), required, managed=True).managed


@pytest.mark.clause("TS 33.328", "7.2.3-4", "7.2.1-6")
@pytest.mark.attack("T1")
def test_an_answer_to_mikey():
    lines = offer_lines(SUITES)
    assert judge_answer(KMS, (), media(), GOOD, managed=MADE) == MADE
    assert token_of(judge_answer, KMS, lines, media(crypto=lines), GOOD, managed=MADE) == "mikey-invalid"
    assert token_of(judge_answer, KMS, (), media(), GOOD) == "downgrade-refused"
    assert token_of(judge_answer, KMS, (), media("RTP/AVP"), GOOD) == "downgrade-refused"
    assert token_of(judge_answer, KMS, (), media("RTP/AVP"), GOOD, managed=MADE) == "downgrade-refused"
    assert token_of(judge_answer, KMS, (), media(crypto=lines), GOOD) == "downgrade-refused"
    assert token_of(judge_answer, KMS, lines, media(crypto=lines), change(kms="required")) == "downgrade-refused"


@pytest.mark.clause("RFC 4567", "4.1.2")
@pytest.mark.attack("T1")
def test_keys_of_the_kms_are_followed_by_such_keys_alone():
    line = offer_lines(SUITES)[0]
    assert token_of(check_remote_change, MADE, line, moved=False) == "downgrade-refused"
    assert token_of(check_remote_change, MADE, None, moved=False) == "downgrade-refused"
    assert check_remote_change(MADE, MADE.receive, moved=False, managed=True).value == "unchanged"
    assert token_of(check_remote_change, MADE, MADE.receive, moved=True, managed=True) == "bad-key"
