import dataclasses

import pytest

from keying.sdes import KeyChange, answer_for, generate, parse_crypto
from nodes.ue.media_security import (
    MediaSecurityRefused,
    OfferJudgement,
    SecurityContext,
    StreamKeys,
    answer_keys,
    check_remote_change,
    choose_mode,
    judge_answer,
    judge_offer,
    offer_lines,
    secure_offer,
    spoil_answer,
    spoil_offer,
)
from signalling.sdp import MediaDescription

SUITES = ("AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM")
GOOD = SecurityContext("preferred", announced=True, agreed=True, confidential=True, suites=SUITES)


def media(proto="RTP/AVP", e2ae="", crypto=()):
    description = MediaDescription.build("audio", 4000, proto, ["8"])
    if e2ae:
        description.add("3ge2ae", e2ae)
    description.crypto = [line.encode() for line in crypto]
    return description


def change(**facts):
    return dataclasses.replace(GOOD, **facts)


@pytest.mark.clause("TS 33.328", "5.4.1-3", "7.2.2-1")
@pytest.mark.clause("TS 24.229", "GE-3", "GE-5")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    ("wanted", "context", "mode"),
    [
        ("", GOOD, "e2ae-sdes"),
        ("", change(agreed=False), "none"),
        ("", change(level="off"), "none"),
        ("none", GOOD, "none"),
        ("e2ae-sdes", GOOD, "e2ae-sdes"),
        ("e2e-sdes", change(agreed=False), "e2e-sdes"),
        ("", change(level="required", agreed=False), "protection-required"),
        ("none", change(level="required"), "protection-required"),
        ("e2ae-sdes", change(agreed=False), "e2ae-not-announced"),
        ("e2ae-sdes", change(level="off"), "profile-refused"),
        ("e2ae-sdes", change(confidential=False), "profile-refused"),
        ("e2e-sdes", change(confidential=False), "profile-refused"),
    ],
)
def test_what_is_offered(wanted, context, mode):
    if mode in {"none", "e2ae-sdes", "e2e-sdes"}:
        assert choose_mode(wanted, context) == mode
        return
    with pytest.raises(MediaSecurityRefused) as caught:
        choose_mode(wanted, context)
    assert caught.value.token == mode


@pytest.mark.clause("TS 33.328", "7.2.1-1", "7.2.1-4")
@pytest.mark.clause("TS 24.229", "UO-1")
def test_an_e2ae_offer_asks_and_an_e2e_offer_does_not():
    lines = offer_lines(SUITES)
    for mode, asks in (("e2ae-sdes", "requested"), ("e2e-sdes", None)):
        description = media()
        secure_offer(description, mode, lines)
        assert (description.proto, description.e2ae) == ("RTP/SAVP", asks)
        assert [parse_crypto(value).tag for value in description.crypto] == [1, 2]
    avp = media()
    secure_offer(avp, "e2ae-sdes", lines, shape="avp")
    assert (avp.proto, avp.e2ae, len(avp.crypto)) == ("RTP/AVP", "requested", 2)
    plain = media()
    secure_offer(plain, "none", lines)
    assert plain.crypto == []


@pytest.mark.clause("TS 33.328", "7.2.1-4")
@pytest.mark.clause("TS 24.229", "UO-3")
@pytest.mark.clause("RFC 4568", "5.1.3", "SDES-11", "SDES-13")
def test_a_good_answer_gives_keys_for_both_directions():
    lines = offer_lines(SUITES)
    answer = answer_for(lines[1])
    keys = judge_answer("e2ae-sdes", lines, media("RTP/SAVP", crypto=[answer]), GOOD)
    assert keys == StreamKeys(lines[1], answer, "e2ae")
    assert keys.security == "e2ae-sdes"


@pytest.mark.clause("TS 33.328", "7.2.1-6")
@pytest.mark.clause("TS 24.229", "UO-3")
@pytest.mark.attack("T1")
def test_a_stripped_answer_is_never_plain_for_a_secure_offer():
    lines = offer_lines(SUITES)
    with pytest.raises(MediaSecurityRefused) as caught:
        judge_answer("e2ae-sdes", lines, media("RTP/SAVP"), GOOD)
    assert caught.value.token == "downgrade-refused"
    with pytest.raises(MediaSecurityRefused):
        judge_answer("e2ae-sdes", lines, media("RTP/AVP"), change(level="required"))


@pytest.mark.clause("RFC 8643", "3.1", "UO-3")
def test_the_best_effort_shape_may_be_answered_in_the_plain_when_policy_prefers():
    keys = judge_answer("e2ae-sdes", offer_lines(SUITES), media("RTP/AVP"), GOOD)
    assert not keys.protected


@pytest.mark.attack("T2")
@pytest.mark.parametrize("fault", ["reflected", "wrong-tag", "wrong-suite", "two"])
def test_a_wrong_answer_fails(fault):
    lines = offer_lines(SUITES)
    answers = {
        "reflected": [lines[0]],
        "wrong-tag": [generate(SUITES[0], 9)],
        "wrong-suite": [generate(SUITES[0], 2)],
        "two": [answer_for(lines[0]), answer_for(lines[1])],
    }
    with pytest.raises(MediaSecurityRefused):
        judge_answer("e2e-sdes", lines, media("RTP/SAVP", crypto=answers[fault]), GOOD)


@pytest.mark.clause("TS 33.328", "7.3.1-5", "7.3.1-6")
@pytest.mark.clause("TS 24.229", "UO-4")
def test_applied_tells_e2ae_from_e2e():
    line = generate(SUITES[0], 1)
    assert judge_offer(media("RTP/SAVP", "applied", [line]), GOOD) == OfferJudgement(line, "e2ae")
    assert judge_offer(media("RTP/SAVP", "", [line]), GOOD) == OfferJudgement(line, "e2e")
    assert judge_offer(media(), GOOD) == OfferJudgement()


@pytest.mark.clause("TS 33.328", "7.3.2-1")
@pytest.mark.clause("TS 24.229", "UO-4", "UO-5")
@pytest.mark.attack("T1", "T2")
@pytest.mark.parametrize(
    ("offer", "context", "token"),
    [
        (media("RTP/SAVP", "applied", [generate(SUITES[0], 1)]), change(announced=False), "e2ae-not-announced"),
        (media("RTP/AVP", "applied"), GOOD, "protection-required"),
        (media("RTP/AVP", "", [generate(SUITES[0], 1)]), GOOD, "profile-refused"),
        (media(), change(level="required"), "protection-required"),
        (media("RTP/SAVP"), GOOD, "protection-required"),
        (media("RTP/SAVP", "", [generate(SUITES[0], 1)]), change(level="off"), "profile-refused"),
        (media("RTP/SAVP", "", [generate(SUITES[0], 1)]), change(confidential=False), "profile-refused"),
        (media("RTP/SAVP", "", [generate("AES_256_CM_HMAC_SHA1_80", 1)]), GOOD, "no-common-suite"),
        (media("UDP/TLS/RTP/SAVP"), GOOD, "profile-refused"),
    ],
)
def test_what_is_refused_with_488(offer, context, token):
    with pytest.raises(MediaSecurityRefused) as caught:
        judge_offer(offer, context)
    assert caught.value.token == token
    assert caught.value.status == 488
    assert caught.value.warning == f"media-sec:{token}"


@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-16", "SDES-17")
@pytest.mark.clause("TS 33.328", "7.4-2", "7.4-3")
def test_a_later_answer_keeps_its_key_unless_this_side_moved():
    line = generate(SUITES[0], 1)
    first = answer_keys(OfferJudgement(line, "e2ae"), None, moved=False)
    assert answer_keys(OfferJudgement(line, "e2ae"), first, moved=False).send is first.send
    assert answer_keys(OfferJudgement(line, "e2ae"), first, moved=True).send != first.send
    assert answer_keys(OfferJudgement(), first, moved=False) == StreamKeys()


@pytest.mark.clause("TS 33.328", "7.4-2")
@pytest.mark.clause("TS 24.229", "PS-8")
@pytest.mark.attack("T1", "T2")
def test_a_protected_stream_never_becomes_plain_and_a_moved_one_needs_a_new_key():
    keys = StreamKeys(generate(SUITES[0], 1), generate(SUITES[0], 1), "e2ae")
    with pytest.raises(MediaSecurityRefused):
        check_remote_change(keys, None, moved=False)
    with pytest.raises(MediaSecurityRefused):
        check_remote_change(keys, keys.receive, moved=True)
    assert check_remote_change(keys, keys.receive, moved=False) is KeyChange.UNCHANGED
    assert check_remote_change(keys, generate(SUITES[0], 1), moved=False) is KeyChange.REKEYED
    assert check_remote_change(StreamKeys(), None, moved=True) is KeyChange.UNCHANGED


@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    "how",
    [
        "short-key",
        "unknown-suite",
        "unencrypted",
        "unauthenticated",
        "long-lifetime",
        "bad-mki",
        "same-tag",
        "strip-crypto",
    ],
)
def test_every_way_to_spoil_an_offer_makes_it_unacceptable(how):
    description = media()
    secure_offer(description, "e2e-sdes", offer_lines(SUITES))
    spoil_offer(description, how)
    with pytest.raises(MediaSecurityRefused):
        judge_offer(description, GOOD)


@pytest.mark.attack("T1", "T2")
@pytest.mark.parametrize("how", ["strip-crypto", "wrong-tag", "wrong-suite", "reflect-key", "two-lines", "short-key"])
def test_every_way_to_spoil_an_answer_makes_it_unacceptable(how):
    lines = offer_lines(SUITES)
    description = media("RTP/SAVP", crypto=[answer_for(lines[0])])
    spoil_answer(description, how, OfferJudgement(lines[0], "e2e"))
    with pytest.raises(MediaSecurityRefused):
        judge_answer("e2e-sdes", lines, description, GOOD)


@pytest.mark.clause("TS 33.328", "E-11", "6.1.1-2")
@pytest.mark.clause("RFC 5124", "3.2")
def test_the_feedback_profile_uses_the_same_lines():
    line = generate(SUITES[0], 1)
    assert judge_offer(media("RTP/SAVPF", "applied", [line]), GOOD).chosen == line
    answer = answer_for(line)
    assert judge_answer("e2e-sdes", [line], media("RTP/SAVPF", crypto=[answer]), GOOD).protected


@pytest.mark.clause("TS 33.328", "7.2.2-3")
@pytest.mark.attack("T1")
def test_an_e2e_call_is_never_tried_again_in_the_plain_by_itself():
    required = change(level="required")
    assert choose_mode("e2e-sdes", required) == "e2e-sdes"
    with pytest.raises(MediaSecurityRefused):
        judge_answer("e2e-sdes", offer_lines(SUITES), media("RTP/AVP"), required)
    with pytest.raises(MediaSecurityRefused):
        choose_mode("none", required)
