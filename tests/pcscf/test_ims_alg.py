"""Every kind of offer line by line, GE-1..7, PS-1..13, 7.2.1-1..11, 7.3.1-1..4: pure functions on SDP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.sdes import generate
from nodes.pcscf.alg_answers import answer_from_access, answer_from_core
from nodes.pcscf.alg_media import answer_lines, answer_work, offer_lines, offer_work, streams_after, withdraw_work
from nodes.pcscf.config import MediaPolicy, UnannouncedPolicy
from nodes.pcscf.ims_alg import offer_from_access, offer_from_core
from nodes.pcscf.media_plan import Address, AlgPolicy, LocalStream, Side, Treatment
from nodes.pcscf.sdp_writer import OriginKeeper, rewrite
from signalling.sdp import parse_sdp
from tests.pcscf.edge import CRYPTO_1, CRYPTO_2, REQUESTED, audio

AGREED = AlgPolicy(agreed=True, offer_suites=("AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80"))
STRANGER = AlgPolicy()


def access(*attributes: str, proto: str = "RTP/SAVP", policy: AlgPolicy = AGREED, previous=None, **more):
    return offer_from_access(parse_sdp(audio(40000, proto, *attributes, **more)), policy, previous)


def core(*attributes: str, proto: str = "RTP/AVP", policy: AlgPolicy = AGREED, previous=None, **more):
    return offer_from_core(parse_sdp(audio(50000, proto, *attributes, **more)), policy, previous)


def gateway(decision, suite: str = "AES_CM_128_HMAC_SHA1_80", tag: int = 1):
    """What an IMS-AGW would give for a decision."""
    given = {}
    for work, side in ((offer_work(decision).access, Side.ACCESS), (offer_work(decision).core, Side.CORE)):
        for stream in work:
            lines = tuple(
                generate(name, (stream.local_tag or 1) + index) for index, name in enumerate(stream.local_suites)
            )
            port = (30000 if side is Side.ACCESS else 20000) + 2 * stream.index
            given[side, stream.index] = LocalStream(Address("127.0.0.1", port, port + 1), lines)
    return given


def settled(offer, answer_sdp: bytes):
    """Streams after an offer of the UE and an answer of the core."""
    given = gateway(offer)
    answer = answer_from_core(parse_sdp(answer_sdp), offer.plans, AGREED)
    return streams_after(offer, answer, given), given


# FLOW-4 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("TS 33.328", "6.1.1-3")
@pytest.mark.clause("TS 33.328", "FLOW-4", "5.4.1-3")
@pytest.mark.parametrize(("proto", "plain"), [("RTP/SAVP", "RTP/AVP"), ("RTP/SAVPF", "RTP/AVPF")])
def test_row_1_secure_profile_with_requested_and_agreement_is_e2ae(proto, plain):
    plan = access(REQUESTED, CRYPTO_1, proto=proto).plans[0]
    assert (plan.treatment, plan.access_proto, plan.core_proto) == (Treatment.E2AE_SDES, proto, plain)


@pytest.mark.clause("TS 33.328", "FLOW-4", "7.2.1-6")
@pytest.mark.clause("TS 24.229", "GE-3")
def test_row_2_requested_without_agreement_is_refused_with_488():
    decision = access(REQUESTED, CRYPTO_1, policy=STRANGER)
    assert decision.refusal is not None
    assert (decision.refusal.status, decision.refusal.token) == (488, "e2ae-not-announced")


def test_row_2_requested_without_agreement_passes_as_e2e_when_policy_says_so():
    policy = replace(STRANGER, unannounced=UnannouncedPolicy.AS_E2E)
    assert access(REQUESTED, CRYPTO_1, policy=policy).plans[0].treatment is Treatment.E2E


@pytest.mark.clause("TS 33.328", "FLOW-4", "7.2.2-2")
@pytest.mark.clause("TS 24.229", "GE-7")
@pytest.mark.parametrize("policy", [AGREED, STRANGER])
def test_row_3_secure_profile_without_marker_is_end_to_end(policy):
    decision = access(CRYPTO_1, policy=policy)
    assert decision.plans[0].treatment is Treatment.E2E
    assert offer_work(decision).access[0].transport == "OPAQUE_UDP"
    assert offer_work(decision).access[0].remote_crypto is None


@pytest.mark.clause("TS 33.328", "FLOW-4")
def test_row_4_plain_profile_with_requested_and_key_is_srtp_and_keeps_its_profile():
    decision = access(REQUESTED, CRYPTO_1, proto="RTP/AVP")
    plan = decision.plans[0]
    assert (plan.treatment, plan.access_proto, plan.osrtp) == (Treatment.E2AE_SDES, "RTP/AVP", True)
    assert offer_work(decision).access[0].transport == "RTP_SAVP"
    assert offer_work(decision).core[0].transport == "RTP_AVP"


def test_row_4_strict_strips_marker_and_key():
    decision = access(REQUESTED, CRYPTO_1, proto="RTP/AVP", policy=replace(AGREED, accept_osrtp_shape=False))
    assert decision.plans[0].treatment is Treatment.PLAIN
    out = offered_to(decision, audio(40000, "RTP/AVP", REQUESTED, CRYPTO_1))
    assert b"crypto" not in out
    assert b"3ge2ae" not in out


@pytest.mark.clause("TS 33.328", "FLOW-4", "7.2.1-6")
def test_row_4_without_agreement_is_never_silently_plain():
    assert access(REQUESTED, CRYPTO_1, proto="RTP/AVP", policy=STRANGER).refusal is not None


def test_row_4_without_key_is_refused():
    assert access(REQUESTED, proto="RTP/AVP").refusal.token == "bad-key"


@pytest.mark.clause("TS 33.328", "ID-3")
def test_optional_security_by_capability_negotiation_falls_back_to_plain_without_its_lines():
    lines = (REQUESTED, "tcap:1 RTP/SAVP", f"acap:1 {CRYPTO_1}", "pcfg:1 t=1 a=1")
    decision = access(*lines, proto="RTP/AVP")
    assert decision.plans[0].treatment is Treatment.PLAIN
    out = offered_to(decision, audio(40000, "RTP/AVP", *lines))
    assert b"inline" not in out
    assert b"pcfg" not in out


@pytest.mark.clause("TS 33.328", "FLOW-4")
def test_row_5_plain_offer_is_a_plain_call():
    assert access(proto="RTP/AVP").plans[0].treatment is Treatment.PLAIN


@pytest.mark.clause("TS 33.328", "ID-6")
def test_row_5_plain_offer_is_refused_where_protection_is_required():
    decision = access(proto="RTP/AVP", policy=replace(AGREED, e2ae=MediaPolicy.REQUIRED))
    assert (decision.refusal.status, decision.refusal.token) == (488, "protection-required")


@pytest.mark.clause("TS 24.229", "7.5.2", "GE-1")
@pytest.mark.parametrize("value", ["maybe", "REQUESTED", "", "applied"])
def test_row_6_other_values_of_the_marker_are_ignored(value):
    assert access(f"3ge2ae:{value}", CRYPTO_1).plans[0].treatment is Treatment.E2E


def test_one_space_behind_the_marker_is_taken():
    assert access("3ge2ae: requested", CRYPTO_1).plans[0].treatment is Treatment.E2AE_SDES


@pytest.mark.clause("TS 24.229", "GE-1")
def test_a_contradictory_marker_is_refused():
    assert access(REQUESTED, "3ge2ae:applied", CRYPTO_1).refusal.status == 488
    assert access(REQUESTED, REQUESTED, CRYPTO_1).refusal is None


@pytest.mark.clause("TS 33.328", "7.2.1-1")
def test_the_marker_at_session_level_means_nothing():
    sdp = audio(40000, "RTP/SAVP", CRYPTO_1).replace(b"t=0 0\r\n", b"t=0 0\r\na=3ge2ae:requested\r\n")
    decision = offer_from_access(parse_sdp(sdp), AGREED)
    assert decision.plans[0].treatment is Treatment.E2E
    assert b"3ge2ae" not in offered_to(decision, sdp)


# keys -----------------------------------------------------------------------------------------------------------------


def offered_to(decision, body: bytes) -> bytes:
    lines = offer_lines(decision, gateway(decision))
    return rewrite(parse_sdp(body), lines, OriginKeeper("alg", "7"), "127.0.0.1")


@pytest.mark.clause("TS 33.328", "7.2.1-3", "5.5.2-1", "SDP-2")
@pytest.mark.clause("TS 24.229", "PS-3", "GE-2")
def test_nothing_of_the_key_goes_into_the_core():
    body = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, "ptime:20", "rtcp-fb:* nack", "curr:qos local none")
    out = offered_to(access(REQUESTED, CRYPTO_1), body)
    assert b"inline" not in out
    assert b"3ge2ae" not in out
    line = parse_sdp(out).media[0]
    assert (line.proto, line.port) == ("RTP/AVP", 20000)
    assert line.get("curr") == "qos local none"
    assert line.formats == ("0", "8")


@pytest.mark.clause("RFC 4568", "5.1.2")
@pytest.mark.clause("TS 24.229", "PS-2")
def test_the_first_valid_line_is_taken_and_goes_to_the_gateway_with_its_tag():
    bad = "crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAEC"
    good = CRYPTO_1.replace("crypto:1", "crypto:7")
    decision = access(REQUESTED, bad, good)
    work = offer_work(decision).access[0]
    assert (work.remote_crypto.tag, work.local_tag, work.local_suites) == (7, 7, ("AES_CM_128_HMAC_SHA1_80",))
    assert work.remote == Address("127.0.0.1", 40000)


@pytest.mark.clause("TS 33.328", "7.2.1-5")
@pytest.mark.clause("TS 24.229", "PS-1")
def test_without_valid_key_the_only_line_is_refused_with_488():
    decision = access(REQUESTED, "crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAEC")
    assert (decision.refusal.status, decision.refusal.token) == (488, "bad-key")


@pytest.mark.clause("TS 24.229", "PS-1")
def test_without_valid_key_one_of_two_lines_goes_to_port_0():
    extra = "m=video 40002 RTP/SAVP 99\r\na=3ge2ae:requested\r\na=crypto:1 NONE inline:AAAA\r\n"
    body = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, extra=extra)
    decision = offer_from_access(parse_sdp(body), AGREED)
    assert [plan.treatment for plan in decision.plans] == [Treatment.E2AE_SDES, Treatment.REFUSED]
    assert parse_sdp(offered_to(decision, body)).media[1].port == 0


@pytest.mark.clause("TS 33.328", "7.2.1-2", "5.5.1-1")
@pytest.mark.attack("T2")
def test_the_same_key_on_two_lines_is_not_taken_twice():
    extra = f"m=video 40002 RTP/SAVP 99\r\na=3ge2ae:requested\r\na={CRYPTO_1}\r\n"
    decision = offer_from_access(parse_sdp(audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, extra=extra)), AGREED)
    assert [plan.treatment for plan in decision.plans] == [Treatment.E2AE_SDES, Treatment.REFUSED]


@pytest.mark.clause("TS 33.328", "7.2.1-9")
def test_e2ae_audio_beside_plain_and_end_to_end_video():
    extra = f"m=video 40002 RTP/AVP 99\r\nm=video 40004 RTP/SAVP 99\r\na={CRYPTO_2}\r\n"
    decision = offer_from_access(parse_sdp(audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, extra=extra)), AGREED)
    assert [plan.treatment for plan in decision.plans] == [Treatment.E2AE_SDES, Treatment.PLAIN, Treatment.E2E]


@pytest.mark.clause("RFC 4568", "8.3")
@pytest.mark.clause("TS 24.229", "SDES-22", "GE-5")
@pytest.mark.parametrize("hop", ["gm_encrypted", "mw_encrypted"])
def test_end_to_end_keys_do_not_pass_a_hop_in_clear(hop):
    policy = replace(AGREED, **{hop: False})
    assert access(CRYPTO_1, policy=policy).refusal.token == "bad-key"
    assert core(CRYPTO_1, proto="RTP/SAVP", policy=policy).refusal.token == "bad-key"
    assert access(CRYPTO_1, policy=replace(policy, e2e_on_clear_hop=True)).refusal is None


@pytest.mark.clause("TS 33.328", "7.2.2", "E2E-1", "7.3.1-1")
def test_end_to_end_lines_pass_unchanged_but_for_the_address():
    body = audio(50000, "RTP/SAVPF", CRYPTO_1, "ptime:20", "3ge2ae:applied")
    decision = core(CRYPTO_1, "ptime:20", "3ge2ae:applied", proto="RTP/SAVPF")
    line = parse_sdp(offered_to(decision, body)).media[0]
    assert (line.proto, line.crypto, line.get("ptime")) == ("RTP/SAVPF", [CRYPTO_1.partition(":")[2]], "20")
    assert line.e2ae is None


# the other direction --------------------------------------------------------------------------------------------------


@pytest.mark.clause("TS 24.229", "GE-6")
@pytest.mark.clause("TS 33.328", "FLOW-6", "7.3.1-6")
def test_a_plain_offer_for_an_agreed_ue_becomes_secure_with_applied_and_fresh_tags():
    decision = core()
    line = parse_sdp(offered_to(decision, audio(50000))).media[0]
    assert (line.proto, line.e2ae) == ("RTP/SAVP", "applied")
    assert [text.split(" ")[:2] for text in line.crypto] == [
        ["1", "AEAD_AES_128_GCM"],
        ["2", "AES_CM_128_HMAC_SHA1_80"],
    ]


def test_a_plain_offer_for_a_stranger_stays_plain():
    assert core(policy=STRANGER).plans[0].treatment is Treatment.PLAIN


@pytest.mark.clause("TS 33.328", "ID-6")
def test_a_plain_offer_for_a_stranger_is_refused_where_protection_is_required():
    decision = core(policy=replace(STRANGER, e2ae=MediaPolicy.REQUIRED))
    assert (decision.refusal.status, decision.refusal.token) == (488, "e2ae-not-announced")


def test_policy_off_never_protects():
    assert core(policy=replace(AGREED, e2ae=MediaPolicy.OFF)).plans[0].treatment is Treatment.PLAIN
    assert access(REQUESTED, CRYPTO_1, policy=replace(AGREED, e2ae=MediaPolicy.OFF)).refusal is not None


@pytest.mark.clause("TS 33.328", "7.3.1-2")
@pytest.mark.attack("T1")
def test_marker_and_key_of_a_plain_core_offer_are_removed_not_believed():
    decision = core("3ge2ae:applied", CRYPTO_1, policy=STRANGER)
    out = offered_to(decision, audio(50000, "RTP/AVP", "3ge2ae:applied", CRYPTO_1))
    assert b"3ge2ae" not in out
    assert b"inline" not in out


# answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("TS 33.328", "7.2.1-4")
@pytest.mark.clause("TS 24.229", "PS-5")
def test_the_answer_to_the_ue_has_one_line_with_the_accepted_tag_and_suite():
    offer = access(REQUESTED, CRYPTO_1.replace("crypto:1", "crypto:4"))
    given = gateway(offer)
    answer = answer_from_core(parse_sdp(audio(50000)), offer.plans, AGREED)
    out = parse_sdp(rewrite(parse_sdp(audio(50000)), answer_lines(offer, answer, given), OriginKeeper("a", "1"), "x"))
    line = out.media[0]
    assert (line.proto, line.port, line.e2ae) == ("RTP/SAVP", 30000, None)
    assert [text.split(" ")[:2] for text in line.crypto] == [["4", "AES_CM_128_HMAC_SHA1_80"]]


@pytest.mark.clause("TS 33.328", "7.2.1-7")
def test_port_0_in_the_cores_answer_gives_the_resources_back():
    offer = access(REQUESTED, CRYPTO_1)
    answer = answer_from_core(parse_sdp(audio(0)), offer.plans, AGREED)
    work = answer_work(offer, answer, gate_open=True)
    assert work.access[0].removed
    assert work.core[0].removed
    out = rewrite(parse_sdp(audio(0)), answer_lines(offer, answer, gateway(offer)), OriginKeeper("a", "1"), "127.0.0.9")
    assert parse_sdp(out).media[0].port == 0


@pytest.mark.clause("TS 24.229", "PS-6")
def test_a_secure_answer_of_the_core_to_a_plain_offer_is_a_violation():
    answer = answer_from_core(parse_sdp(audio(50000, "RTP/SAVP", CRYPTO_1)), access(REQUESTED, CRYPTO_1).plans, AGREED)
    assert answer.violation.status == 500


def test_an_answer_with_other_lines_is_a_violation():
    extra = "m=video 2 RTP/AVP 9\r\n"
    assert (
        answer_from_core(parse_sdp(audio(5, extra=extra)), access(REQUESTED, CRYPTO_1).plans, AGREED).violation
        is not None
    )


def _ue_answer(decision, *attributes: str, proto: str = "RTP/SAVP", port: int = 41000):
    given = gateway(decision)
    offered = {0: given[Side.ACCESS, 0].crypto}
    return answer_from_access(parse_sdp(audio(port, proto, *attributes)), decision.plans, offered, AGREED), given


@pytest.mark.clause("RFC 4568", "5.1.3")
def test_the_ues_answer_with_an_offered_tag_gives_its_key_to_the_gateway():
    decision = core()
    answer, _ = _ue_answer(decision, CRYPTO_2.replace("crypto:1", "crypto:2"))
    work = answer_work(decision, answer, gate_open=True).access[0]
    assert (work.remote_crypto.tag, work.selected_tag, work.mode) == (2, 2, "SENDRECV")


@pytest.mark.clause("TS 33.328", "7.3.1-4")
@pytest.mark.parametrize(
    ("attributes", "proto"),
    [
        ((), "RTP/SAVP"),
        ((CRYPTO_2.replace("crypto:1", "crypto:9"),), "RTP/SAVP"),
        ((CRYPTO_2,), "RTP/SAVP"),  # tag 1 was another suite
        ((CRYPTO_2.replace("crypto:1", "crypto:2"), CRYPTO_1.replace("crypto:1", "crypto:2")), "RTP/SAVP"),
        ((CRYPTO_2.replace("crypto:1", "crypto:2"),), "RTP/AVP"),
        ((), "RTP/AVP"),
    ],
)
@pytest.mark.attack("T1")
def test_a_bad_answer_of_the_ue_is_a_violation_never_plain_media(attributes, proto):
    answer, _ = _ue_answer(core(), *attributes, proto=proto)
    assert answer.violation.status == 488


@pytest.mark.clause("RFC 4568", "7.1.2")
@pytest.mark.attack("T2")
def test_our_own_key_sent_back_is_a_violation():
    decision = core()
    given = gateway(decision)
    line = given[Side.ACCESS, 0].crypto[1]
    answer = answer_from_access(
        parse_sdp(audio(41000, "RTP/SAVP", f"crypto:{line.encode()}")),
        decision.plans,
        {0: given[Side.ACCESS, 0].crypto},
        AGREED,
    )
    assert answer.violation is not None


@pytest.mark.clause("TS 33.328", "7.3.1-3")
def test_a_refusing_ue_is_passed_on_as_port_0():
    decision = core()
    answer, given = _ue_answer(decision, port=0)
    assert answer.violation is None
    assert (
        parse_sdp(
            rewrite(parse_sdp(audio(0)), answer_lines(decision, answer, given), OriginKeeper("a", "1"), "127.0.0.1")
        )
        .media[0]
        .port
        == 0
    )


# session update -------------------------------------------------------------------------------------------------------


def protected():
    return settled(access(REQUESTED, CRYPTO_1), audio(50000))[0]


@pytest.mark.clause("TS 33.328", "7.4-2", "7.4-10")
@pytest.mark.clause("TS 24.229", "PS-7")
def test_hold_keeps_the_key_and_tells_the_gateway_nothing_new():
    decision = access(REQUESTED, CRYPTO_1, "sendonly", previous=protected())
    assert decision.refusal is None
    assert not offer_work(decision)
    answer = answer_from_core(parse_sdp(audio(50000, "RTP/AVP", "recvonly")), decision.plans, AGREED)
    near, far = (
        answer_work(decision, answer, gate_open=True).access[0],
        answer_work(decision, answer, gate_open=True).core[0],
    )
    assert (near.remote_crypto, near.remote, near.mode, far.mode) == (None, None, "RECVONLY", "SENDONLY")


@pytest.mark.clause("TS 33.328", "7.4-3")
@pytest.mark.clause("TS 24.229", "PS-7")
def test_a_new_key_on_the_same_port_is_given_to_the_gateway_alone():
    decision = access(REQUESTED, CRYPTO_2, previous=protected())
    answer = answer_from_core(parse_sdp(audio(50000)), decision.plans, AGREED)
    near = answer_work(decision, answer, gate_open=True).access[0]
    assert near.remote_crypto is not None
    assert (near.remote, near.moved) == (None, False)


@pytest.mark.clause("TS 33.328", "7.4-3")
def test_a_new_port_with_a_new_key_moves_the_termination():
    previous = protected()
    decision = offer_from_access(parse_sdp(audio(42000, "RTP/SAVP", REQUESTED, CRYPTO_2)), AGREED, previous)
    answer = answer_from_core(parse_sdp(audio(50000)), decision.plans, AGREED)
    near = answer_work(decision, answer, gate_open=True).access[0]
    assert (near.remote, near.moved) == (Address("127.0.0.1", 42000), True)
    assert near.remote_crypto is not None


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 24.229", "PS-7", "SDES-17")
@pytest.mark.attack("T2")
def test_the_same_key_on_a_new_port_is_refused():
    decision = offer_from_access(parse_sdp(audio(42000, "RTP/SAVP", REQUESTED, CRYPTO_1)), AGREED, protected())
    assert (decision.refusal.status, decision.refusal.token) == (488, "bad-key")


@pytest.mark.clause("TS 24.229", "PS-8")
@pytest.mark.attack("T1")
@pytest.mark.parametrize("proto", ["RTP/SAVP", "RTP/AVP"])
def test_a_protected_stream_offered_again_without_key_is_refused(proto):
    assert access(REQUESTED, proto=proto, previous=protected()).refusal.token == "downgrade-refused"
    assert access(proto=proto, previous=protected()).refusal.token == "downgrade-refused"


@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    ("treatment", "token"), [(Treatment.E2E, "downgrade-refused"), (Treatment.PLAIN, "protection-required")]
)
def test_only_a_stream_that_was_protected_before_is_called_downgraded(treatment, token):
    before = {index: replace(state, treatment=treatment) for index, state in protected().items()}
    assert access(previous=before).plans[0].token == token
    required = replace(AGREED, e2ae=MediaPolicy.REQUIRED)
    assert access(proto="RTP/AVP", policy=required, previous=before).refusal.token == token


@pytest.mark.clause("TS 33.328", "7.4-8")
@pytest.mark.attack("T1")
def test_a_key_the_gateway_knows_never_goes_end_to_end():
    decision = access(CRYPTO_1, previous=protected())
    assert decision.plans[0].treatment is Treatment.E2AE_SDES
    assert access(CRYPTO_2, previous=protected()).plans[0].treatment is Treatment.E2E


@pytest.mark.clause("TS 33.328", "7.4-1")
def test_an_added_stream_is_reserved_alone_and_withdrawn_when_refused():
    extra = f"m=video 40002 RTP/SAVP 99\r\na=3ge2ae:requested\r\na={CRYPTO_2}\r\n"
    decision = offer_from_access(
        parse_sdp(audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, extra=extra)), AGREED, protected()
    )
    assert [stream.index for stream in offer_work(decision).access] == [1]
    assert [(stream.index, stream.removed) for stream in withdraw_work(decision).core] == [(1, True)]


@pytest.mark.clause("TS 24.229", "PS-9")
def test_an_offer_of_the_core_is_rebuilt_with_the_gateways_present_key():
    decision = core(previous=protected())
    work = offer_work(decision)
    assert (work.core, work.access[0].local_tag, work.access[0].rekey) == ((), 1, False)
    assert work.access[0].local_suites == ("AES_CM_128_HMAC_SHA1_80",)
    rekeyed = core(previous=protected(), policy=replace(AGREED, rekey_on_reoffer=True))
    assert offer_work(rekeyed).access[0].rekey


@pytest.mark.clause("TS 24.229", "PS-9")
def test_a_moved_far_end_changes_the_core_side_alone():
    decision = offer_from_core(parse_sdp(audio(51000)), AGREED, protected())
    given = gateway(decision)
    line = given[Side.ACCESS, 0].crypto[0]
    answer = answer_from_access(parse_sdp(audio(40000, "RTP/SAVP", CRYPTO_1)), decision.plans, {0: (line,)}, AGREED)
    work = answer_work(decision, answer, gate_open=True)
    assert work.core[0].remote == Address("127.0.0.1", 51000)
    assert (work.access[0].remote, work.access[0].remote_crypto) == (None, None)


@pytest.mark.clause("RFC 3264", "8")
def test_a_later_offer_may_not_drop_a_line():
    sdp = parse_sdp(audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1))
    del sdp.media[:]
    assert offer_from_access(sdp, AGREED, protected()).refusal.status == 400


# emergency ------------------------------------------------------------------------------------------------------------

EMERGENCY = replace(AGREED, emergency=True, e2ae=MediaPolicy.REQUIRED)


@pytest.mark.clause("TS 33.328", "7.5-3")
@pytest.mark.clause("TS 24.229", "EM-8")
@pytest.mark.parametrize(
    ("attributes", "proto", "treatment"),
    [
        ((REQUESTED, CRYPTO_1), "RTP/SAVP", Treatment.E2AE_SDES),
        ((REQUESTED, "crypto:1 NONE inline:AAAA"), "RTP/SAVP", Treatment.PLAIN),
        ((CRYPTO_1,), "RTP/SAVP", Treatment.E2AE_SDES),
        ((), "RTP/AVP", Treatment.PLAIN),
        ((REQUESTED, CRYPTO_1), "RTP/AVP", Treatment.E2AE_SDES),
    ],
)
@pytest.mark.parametrize("agreed", [True, False])
def test_media_security_never_blocks_an_emergency_call(attributes, proto, treatment, agreed):
    decision = access(*attributes, proto=proto, policy=replace(EMERGENCY, agreed=agreed))
    assert decision.refusal is None
    assert decision.plans[0].treatment is treatment


@pytest.mark.clause("TS 24.229", "EM-9")
def test_an_emergency_call_on_a_clear_gm_is_plain():
    policy = replace(EMERGENCY, agreed=False, gm_encrypted=False)
    assert access(REQUESTED, CRYPTO_1, policy=policy).plans[0].treatment is Treatment.PLAIN


def test_a_protected_emergency_stream_may_lose_its_key_but_goes_on():
    decision = access(REQUESTED, policy=EMERGENCY, previous=protected())
    assert decision.refusal is None


# writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.clause("RFC 3264", "8")
def test_the_origin_version_rises_with_a_change_and_only_then():
    decision = access(REQUESTED, CRYPTO_1)
    given = gateway(decision)
    keeper = OriginKeeper("alg", "7")
    lines = offer_lines(decision, given)
    body = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)
    first = rewrite(parse_sdp(body), lines, keeper, "127.0.0.1")
    assert rewrite(parse_sdp(body), lines, keeper, "127.0.0.1") == first
    changed = rewrite(parse_sdp(body + b"a=sendonly\r\n"), lines, keeper, "127.0.0.1")
    assert parse_sdp(first).origin.version + 1 == parse_sdp(changed).origin.version
    assert parse_sdp(first).origin.session_id == parse_sdp(changed).origin.session_id


def test_ice_lines_go_because_media_goes_through_the_gateway():
    lines = ("candidate:1 1 UDP 1 192.0.2.1 5000 typ host", "ice-ufrag:abcd", "ice-pwd:0123456789012345678901")
    out = offered_to(access(*lines, proto="RTP/AVP"), audio(40000, "RTP/AVP", *lines))
    assert b"candidate" not in out
    assert b"ice-" not in out


def test_an_explicit_rtcp_port_is_replaced_by_the_gateways():
    body = audio(40000, "RTP/AVP", "rtcp:40007")
    decision = access("rtcp:40007", proto="RTP/AVP")
    assert offer_work(decision).access[0].remote == Address("127.0.0.1", 40000, 40007)
    assert b"a=rtcp:" not in offered_to(decision, body)
