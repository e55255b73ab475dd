"""Rows T1 and T2 of the threat table at the IMS-ALG: shared keys, and protection that is only claimed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keying.sdes import generate
from nodes.pcscf.alg_answers import answer_from_access, answer_from_core
from nodes.pcscf.alg_media import answer_work, offer_work
from nodes.pcscf.config import MediaPolicy
from nodes.pcscf.ims_alg import offer_from_access, offer_from_core
from nodes.pcscf.iq import remote_spec
from nodes.pcscf.media_plan import AlgPolicy, Treatment
from protos import iq_pb2
from signalling.sdp import parse_sdp
from tests.pcscf.edge import CRYPTO_1, REQUESTED, audio

SUITE = "AES_CM_128_HMAC_SHA1_80"
AGREED = AlgPolicy(agreed=True, offer_suites=(SUITE,))
OTHER_KEY = f"crypto:2 {SUITE} inline:YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh"


def second(*attributes: str, proto: str = "RTP/SAVP", media: str = "audio") -> str:
    return f"m={media} 40002 {proto} 8\r\n" + "".join(f"a={attribute}\r\n" for attribute in attributes)


# one key in two places (RFC 4568 6.1) ---------------------------------------------------------------------------------


def two_streams_answered(first: str, other: str):
    """The UE's answer to an offer of two plain streams; `offered` are the gateway's lines."""
    decision = offer_from_core(parse_sdp(audio(50000, "RTP/AVP", extra=second(proto="RTP/AVP"))), AGREED)
    offered = {index: (generate(SUITE, 1),) for index in (0, 1)}
    lines = {"own": generate(SUITE, 1).encode(), "other": generate(SUITE, 1).encode()}
    lines |= {f"gateway-{index}": offered[index][0].encode() for index in offered}
    body = audio(40000, "RTP/SAVP", f"crypto:{lines[first]}", extra=second(f"crypto:{lines[other]}"))
    return answer_from_access(parse_sdp(body), decision.plans, offered, AGREED)


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1")
@pytest.mark.clause("TS 33.328", "7.3.1-4")
@pytest.mark.parametrize(("first", "other"), [("own", "own"), ("own", "gateway-0"), ("gateway-1", "own")])
def test_one_key_on_two_streams_of_the_ues_answer_ends_the_session(first, other):
    violation = two_streams_answered(first, other).violation
    assert violation is not None
    assert (violation.status, violation.token) == (488, "bad-key")


def test_a_key_per_stream_in_the_ues_answer_is_taken():
    answer = two_streams_answered("own", "other")
    assert answer.violation is None
    assert all(stream.crypto is not None for stream in answer.streams)


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1")
def test_a_key_of_a_line_that_was_not_chosen_may_not_protect_another_stream():
    shared = OTHER_KEY.replace("crypto:2", "crypto:1")
    body = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1, OTHER_KEY, extra=second(REQUESTED, shared))
    plans = offer_from_access(parse_sdp(body), AGREED).plans
    assert [plan.treatment for plan in plans] == [Treatment.E2AE_SDES, Treatment.REFUSED]
    assert plans[1].token == "bad-key"


@pytest.mark.attack("T2")
@pytest.mark.clause("RFC 4568", "6.1")
def test_a_key_of_an_end_to_end_stream_may_not_protect_another_stream():
    body = audio(40000, "RTP/SAVP", CRYPTO_1, extra=second(REQUESTED, CRYPTO_1))
    plans = offer_from_access(parse_sdp(body), AGREED).plans
    assert [plan.treatment for plan in plans] == [Treatment.E2E, Treatment.REFUSED]


# protection that is only claimed (7.2.1-6) ----------------------------------------------------------------------------

REQUIRED = replace(AGREED, e2ae=MediaPolicy.REQUIRED)
FINGERPRINT = "fingerprint:sha-256 " + ":".join(["AB"] * 32)
NULL_CRYPTO = f"{CRYPTO_1} UNENCRYPTED_SRTP UNAUTHENTICATED_SRTP"
MIKEY = "key-mgmt:mikey AQAFgM0XflABAAAAAAAAAAAAAAsAyONQ6gAAAAAGAAEBAQ=="
OFFERS = {"access": offer_from_access, "core": offer_from_core}


def offered_by(side: str, proto: str, *attributes: str, policy: AlgPolicy, media: str = "audio"):
    body = audio(40000, proto, *attributes).replace(b"m=audio", f"m={media}".encode())
    return OFFERS[side](parse_sdp(body), policy)


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6", "ID-6")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("media", ["audio", "video", "text", "image", "application"])
@pytest.mark.parametrize(
    ("proto", "attributes"),
    [
        ("UDP", ()),
        ("UDP", (FINGERPRINT, CRYPTO_1)),
        ("UDPTL", ()),
        ("UDP/TLS/UDPTL", ()),
        ("UDP/DTLS/SCTP", ()),
        ("RTP/SAVP", ()),
        ("RTP/SAVPF", (NULL_CRYPTO,)),
        ("RTP/SAVP", ("crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAEC",)),
        ("UDP/TLS/RTP/SAVP", ()),
        ("UDP/TLS/RTP/SAVPF", (CRYPTO_1,)),
        ("UDP/TLS/RTP/SAVP", ("fingerprint:sha-256 nonsense",)),
    ],
)
def test_media_that_is_not_protected_is_refused_where_protection_is_required(side, media, proto, attributes):
    refusal = offered_by(side, proto, *attributes, policy=REQUIRED, media=media).refusal
    assert refusal is not None
    assert (refusal.status, refusal.token) == (488, "protection-required")


@pytest.mark.attack("T1")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("proto", ["RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"])
def test_a_protected_profile_without_keys_is_refused_whatever_the_policy(side, proto):
    refusal = offered_by(side, proto, policy=AGREED).refusal
    assert refusal is not None
    assert (refusal.status, refusal.token) == (488, "protection-required")


@pytest.mark.clause("TS 33.328", "7.2.2-2")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("policy", [AGREED, REQUIRED])
@pytest.mark.parametrize(
    ("proto", "attribute", "treatment"),
    [
        ("RTP/SAVP", CRYPTO_1, Treatment.E2E),
        ("RTP/SAVP", MIKEY, Treatment.E2E),
        ("RTP/SAVPF", FINGERPRINT, Treatment.E2E),
        ("UDP/TLS/RTP/SAVP", FINGERPRINT, Treatment.E2E),
        ("UDP/TLS/UDPTL", FINGERPRINT, Treatment.RELAYED),
        ("UDP/DTLS/SCTP", FINGERPRINT, Treatment.RELAYED),
    ],
)
def test_end_to_end_protection_passes_where_protection_is_required(side, policy, proto, attribute, treatment):
    decision = offered_by(side, proto, attribute, policy=policy)
    assert decision.refusal is None
    assert decision.plans[0].treatment is treatment


@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize("proto", ["UDP", "UDPTL", "UDP/DTLS/SCTP"])
def test_other_media_is_relayed_where_protection_is_only_preferred(side, proto):
    assert offered_by(side, proto, policy=AGREED, media="image").plans[0].treatment is Treatment.RELAYED


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "7.2.1-6")
@pytest.mark.parametrize("side", OFFERS)
@pytest.mark.parametrize(
    ("proto", "offer", "answer", "policy"),
    [
        ("RTP/SAVP", CRYPTO_1, "ptime:20", AGREED),
        ("RTP/SAVP", CRYPTO_1, "ptime:20", REQUIRED),
        ("RTP/SAVP", CRYPTO_1, NULL_CRYPTO, REQUIRED),
        ("UDP/TLS/RTP/SAVP", FINGERPRINT, "ptime:20", AGREED),
        ("UDP/DTLS/SCTP", FINGERPRINT, "ptime:20", REQUIRED),
    ],
)
def test_an_answer_that_drops_the_end_to_end_protection_ends_the_session(side, proto, offer, answer, policy):
    decision = offered_by(side, proto, offer, policy=policy)
    body = parse_sdp(audio(50000, proto, answer))
    if side == "access":
        judged = answer_from_core(body, decision.plans, policy)
    else:
        judged = answer_from_access(body, decision.plans, {}, policy)
    assert judged.violation is not None
    assert (judged.violation.status, judged.violation.token) == (488, "downgrade-refused")


# media aimed at somebody who never asked (RFC 5245 18.5.1) ------------------------------------------------------------

ON_LOOPBACK = replace(AGREED, ue_ip="127.0.0.1")


def told(address: str, *attributes: str, policy: AlgPolicy = ON_LOOPBACK, origin: str = "offer") -> iq_pb2.RemoteSpec:
    """What the gateway is told about the UE's media, after an SDP of the UE with this c= address."""
    body = audio(40000, "RTP/AVP", *attributes).replace(b"c=IN IP4 127.0.0.1", address.encode())
    if origin == "offer":
        work = offer_work(offer_from_access(parse_sdp(body), policy)).access[0]
    else:
        plain = replace(policy, agreed=False)
        decision = offer_from_core(parse_sdp(audio(50000, "RTP/AVP")), plain)
        judged = answer_from_access(parse_sdp(body), decision.plans, {}, plain)
        work = answer_work(decision, judged, gate_open=True).access[0]
    assert work.remote is not None
    return remote_spec(work.remote)


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 5245", "18.5.1")
@pytest.mark.parametrize("origin", ["offer", "answer"])
def test_media_is_held_back_from_an_address_that_is_not_the_ues(origin):
    spec = told("c=IN IP4 127.77.7.7", "rtcp:9 IN IP4 127.66.6.6", origin=origin)
    assert spec.await_media
    assert (spec.ip, spec.port, spec.rtcp_ip, spec.rtcp_port) == ("127.0.0.1", 40000, "", 9)


@pytest.mark.attack("T3")
def test_rtcp_is_not_sent_to_another_host_than_the_ues():
    spec = told("c=IN IP4 127.0.0.1", "rtcp:9 IN IP4 127.66.6.6")
    assert not spec.await_media
    assert (spec.ip, spec.rtcp_ip, spec.rtcp_port) == ("127.0.0.1", "", 9)


@pytest.mark.parametrize("address", ["c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0"])
def test_media_goes_to_the_ues_own_address_at_once(address):
    spec = told(address)
    assert not spec.await_media
    assert spec.ip == address.rpartition(" ")[2]


@pytest.mark.attack("T3")
def test_a_name_or_another_family_in_sdp_is_no_proof_either():
    assert told("c=IN IP4 victim.example").await_media
    spec = told("c=IN IP6 2001:db8::7")
    assert (spec.await_media, spec.ip) == (True, "2001:db8::7")


def test_any_media_address_is_believed_where_the_operator_says_so():
    spec = told("c=IN IP4 127.77.7.7", policy=replace(ON_LOOPBACK, ue_ip=""))
    assert (spec.await_media, spec.ip) == (False, "127.77.7.7")
