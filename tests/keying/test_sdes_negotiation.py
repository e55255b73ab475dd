import base64
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.sdes import (
    AnswerMismatch,
    BadTag,
    DuplicateTag,
    KeyChange,
    KeyReuse,
    MissingCrypto,
    NoAcceptableCrypto,
    ProtectionWeakened,
    SdesError,
    SdesPolicy,
    SessionParameterRefused,
    SuiteNotAcceptable,
    TooManyKeys,
    answer_for,
    check_unique_keys,
    choose,
    evaluate_offer,
    generate,
    key_change,
    parse_crypto,
    verify_answer,
)
from keying.suites import SUITES

POLICY = SdesPolicy()
CM80 = "AES_CM_128_HMAC_SHA1_80"
CM32 = "AES_CM_128_HMAC_SHA1_32"
GCM = "AEAD_AES_128_GCM"


def offer(*suites):
    return [generate(suite, tag) for tag, suite in enumerate(suites, 1)]


def values(lines):
    return [line.encode() for line in lines]


def key(octet):
    return base64.b64encode(bytes([octet]) * 30).decode()


@pytest.mark.clause("RFC 4568", "5.1.1", "5.1.2", "SDES-10")
@pytest.mark.clause("TS 33.328", "E-7")
def test_the_first_usable_line_is_chosen_whatever_the_own_order_is():
    policy = SdesPolicy(suites=(GCM, CM32, CM80))
    assert choose(values(offer(CM80, GCM, CM32)), policy).suite.name == CM80


@pytest.mark.clause("RFC 4568", "5.1.2", "SDES-3")
@pytest.mark.attack("T2")
def test_unknown_and_unsupported_suites_are_passed_over():
    lines = [f"1 FROM_MARS inline:{key(1)}", f"2 F8_128_HMAC_SHA1_80 inline:{key(2)}", f"3 {CM80} inline:{key(3)}"]
    evaluation = evaluate_offer(lines, POLICY)
    assert [line.tag for line in evaluation.acceptable] == [3]
    assert [refused.index for refused in evaluation.refused] == [0, 1]
    assert isinstance(evaluation.refused[1].error, SuiteNotAcceptable)


@pytest.mark.clause("RFC 4568", "4.1", "SDES-2")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (f"1 {CM80} inline:{key(2)}", DuplicateTag),
        (f"01 {CM80} inline:{key(2)}", BadTag),
        ("1 UNKNOWN inline:x", DuplicateTag),
    ],
)
def test_a_bad_or_repeated_tag_spoils_the_whole_stream(bad, fault):
    evaluation = evaluate_offer([f"1 {CM80} inline:{key(1)}", bad], POLICY)
    assert evaluation.acceptable == ()
    assert len(evaluation.refused) == 2
    assert all(isinstance(refused.error, fault) for refused in evaluation.refused)


@pytest.mark.clause("RFC 4568", "6.3.2", "6.3.3", "SDES-9")
@pytest.mark.clause("TS 33.328", "5.2-3", "5.3-1", "E-6")
@pytest.mark.attack("T2")
@pytest.mark.parametrize("param", ["UNENCRYPTED_SRTP", "UNENCRYPTED_SRTCP", "UNAUTHENTICATED_SRTP"])
def test_weakened_protection_is_skipped_unless_policy_allows_it(param):
    lines = [f"1 {CM80} inline:{key(1)} {param}", f"2 {CM80} inline:{key(2)}"]
    evaluation = evaluate_offer(lines, POLICY)
    assert [line.tag for line in evaluation.acceptable] == [2]
    assert isinstance(evaluation.refused[0].error, ProtectionWeakened)
    assert choose(lines, SdesPolicy(allow_null_protection=True)).tag == 1


@pytest.mark.clause("TS 33.328", "C-5", "E-6")
@pytest.mark.attack("T2")
@pytest.mark.parametrize("param", ["KDR=1", "FEC_ORDER=SRTP_FEC", f"FEC_KEY=inline:{key(9)}"])
def test_parameters_this_side_does_not_do_are_refused(param):
    evaluation = evaluate_offer([f"1 {CM80} inline:{key(1)} {param}"], POLICY)
    assert isinstance(evaluation.refused[0].error, SessionParameterRefused)


@pytest.mark.clause("TS 33.328", "E-6")
@pytest.mark.parametrize("param", ["KDR=0", "FEC_ORDER=FEC_SRTP", "WSH=128", "-NEW=1"])
def test_parameters_that_change_nothing_are_accepted(param):
    assert choose([f"1 {CM80} inline:{key(1)} {param}"], POLICY).tag == 1


@pytest.mark.clause("TS 33.328", "E-5")
@pytest.mark.clause("RFC 4568", "SDES-7")
def test_several_keys_on_a_line_are_taken_only_when_policy_says_so():
    line = f"1 {CM80} inline:{key(1)}|1:4;inline:{key(2)}|2:4"
    assert isinstance(evaluate_offer([line], POLICY).refused[0].error, TooManyKeys)
    assert choose([line], SdesPolicy(max_keys_per_line=2)).keys[1].mki == 2


@pytest.mark.clause("RFC 4568", "6.1", "SDES-7", "SDES-16")
@pytest.mark.clause("TS 33.328", "5.5.1-1")
@pytest.mark.attack("T2")
def test_a_key_that_stands_twice_in_the_offer_is_taken_once():
    evaluation = evaluate_offer([f"1 {CM80} inline:{key(1)}", f"2 {CM32} inline:{key(1)}"], POLICY)
    assert [line.tag for line in evaluation.acceptable] == [1]
    assert isinstance(evaluation.refused[0].error, KeyReuse)


@pytest.mark.clause("RFC 4568", "6.1", "SDES-7")
@pytest.mark.attack("T2")
def test_a_key_of_another_media_description_is_refused():
    audio = parse_crypto(f"1 {CM80} inline:{key(1)}")
    evaluation = evaluate_offer([f"1 {CM80} inline:{key(1)}"], POLICY, other_keys=audio.all_keys)
    assert isinstance(evaluation.refused[0].error, KeyReuse)
    with pytest.raises(KeyReuse):
        check_unique_keys([[audio], [audio]])
    check_unique_keys([[audio], offer(CM80)])


@pytest.mark.clause("RFC 4568", "5.1.2", "SDES-15")
@pytest.mark.clause("TS 33.328", "7.2.1-5")
@pytest.mark.attack("T2")
@pytest.mark.parametrize("lines", [[], ["1 X inline:y"], [f"1 {CM80} inline:{key(1)[:-4]}"], ["garbage"]])
def test_nothing_usable_is_an_error_of_its_own(lines):
    with pytest.raises(NoAcceptableCrypto) as caught:
        choose(lines, POLICY)
    assert caught.value.media_sec_token == "no-common-suite"


@pytest.mark.clause("TS 33.328", "E-8")
def test_eight_lines_are_read_and_an_endless_list_is_cut():
    assert len(evaluate_offer(values(offer(*SUITES)), POLICY).acceptable) == 8
    many = [f"{tag} {CM80} inline:{base64.b64encode(tag.to_bytes(30, 'big')).decode()}" for tag in range(1, 200)]
    evaluation = evaluate_offer(many, POLICY)
    assert len(evaluation.acceptable) == POLICY.max_lines
    assert len(evaluation.refused) == len(many) - POLICY.max_lines


@pytest.mark.clause("RFC 4568", "5.1.2", "7.1.2", "SDES-11", "SDES-12", "SDES-16")
@pytest.mark.clause("TS 33.328", "7.2.1-2", "7.2.1-4")
@given(st.sampled_from(sorted(SUITES)), st.integers(0, 999_999_999))
def test_the_answer_repeats_tag_and_suite_with_a_key_of_its_own(suite, tag):
    offered = [generate(suite, tag)]
    answer = answer_for(choose(values(offered), POLICY))
    assert (answer.tag, answer.suite) == (tag, SUITES[suite])
    assert answer.keys[0].key_salt != offered[0].keys[0].key_salt
    assert verify_answer(offered, [answer.encode()], POLICY) == answer


@pytest.mark.clause("RFC 4568", "4.4", "6.3", "SDES-8a")
def test_the_answer_repeats_negotiated_parameters_and_not_declarative_ones():
    policy = SdesPolicy(allow_null_protection=True)
    offered = parse_crypto(f"1 {CM80} inline:{key(1)} UNENCRYPTED_SRTCP WSH=128 FEC_ORDER=FEC_SRTP")
    answer = answer_for(offered)
    assert answer.session_params == ("UNENCRYPTED_SRTCP",)
    assert verify_answer([offered], [answer.encode()], policy) == answer
    with pytest.raises(AnswerMismatch):
        verify_answer([offered], [dataclasses.replace(answer, session_params=()).encode()], policy)
    with pytest.raises(AnswerMismatch):
        verify_answer(offer(CM80), [answer.encode()], policy)


@pytest.mark.clause("RFC 4568", "5.1.3", "7.1.3", "SDES-11")
@pytest.mark.clause("TS 33.328", "7.2.1-4", "7.3.2-1")
@pytest.mark.attack("T1")
def test_an_answer_that_does_not_fit_the_offer_fails_the_negotiation():
    offered = offer(CM80, GCM)
    good = answer_for(offered[0])
    two = [good.encode(), answer_for(offered[1]).encode()]
    with pytest.raises(AnswerMismatch, match="exactly one"):
        verify_answer(offered, two, POLICY)
    with pytest.raises(AnswerMismatch, match="tag"):
        verify_answer(offered, [generate(CM80, 3).encode()], POLICY)
    with pytest.raises(AnswerMismatch, match="suite"):
        verify_answer(offered, [generate(CM80, 2).encode()], POLICY)


@pytest.mark.clause("RFC 4568", "5.3", "7.4", "SDES-11")
@pytest.mark.attack("T1")
def test_an_answer_whose_crypto_was_stripped_is_never_taken_for_a_plain_one():
    with pytest.raises(MissingCrypto) as caught:
        verify_answer(offer(CM80), [], POLICY)
    assert caught.value.media_sec_token == "downgrade-refused"


@pytest.mark.clause("RFC 4568", "7.1.2", "SDES-12")
@pytest.mark.clause("TS 33.328", "5.5.1-1")
@pytest.mark.attack("T2")
def test_an_answer_that_reflects_a_key_of_the_offer_is_refused():
    offered = offer(CM80, GCM, CM32)
    with pytest.raises(KeyReuse):
        verify_answer(offered, [offered[0].encode()], POLICY)
    crossed = dataclasses.replace(offered[0], keys=offered[2].keys)
    with pytest.raises(KeyReuse):
        verify_answer(offered, [crossed.encode()], POLICY)


@pytest.mark.clause("RFC 4568", "5.1.3", "SDES-9")
@pytest.mark.attack("T1")
@pytest.mark.parametrize("param", ["UNENCRYPTED_SRTP", "UNENCRYPTED_SRTCP", "UNAUTHENTICATED_SRTP"])
def test_an_answer_cannot_weaken_what_was_offered(param):
    offered = offer(CM80)
    with pytest.raises(AnswerMismatch):
        verify_answer(offered, [f"{answer_for(offered[0]).encode()} {param}"], SdesPolicy(allow_null_protection=True))


@pytest.mark.clause("RFC 4568", "7.1.4", "SDES-17")
@pytest.mark.clause("TS 33.328", "7.4-2", "7.4-3")
def test_a_change_of_address_asks_for_a_new_key():
    old, new = generate(CM80, 1), generate(CM80, 1)
    assert key_change(old, old, moved=False) is KeyChange.UNCHANGED
    assert key_change(old, new, moved=False) is KeyChange.REKEYED
    assert key_change(old, new, moved=True) is KeyChange.NEW_CONTEXT
    assert key_change(old, generate(GCM, 1), moved=False) is KeyChange.REKEYED
    with pytest.raises(KeyReuse):
        key_change(old, old, moved=True)


@pytest.mark.clause("RFC 4568", "6.1", "SDES-16")
def test_generated_keys_never_repeat():
    check_unique_keys([offer(*SUITES) for _ in range(20)])


@pytest.mark.attack("T2")
@given(st.lists(st.text(max_size=60), max_size=6))
def test_any_offer_is_judged_without_an_exception(lines):
    evaluation = evaluate_offer(lines, POLICY)
    assert len(evaluation.acceptable) + len(evaluation.refused) == len(lines)
    assert all(isinstance(refused.error, SdesError) for refused in evaluation.refused)
