"""Rows T1 and T2 of the threat table at the IMS-ALG: shared keys, and protection that is only claimed."""

from __future__ import annotations

import pytest

from keying.sdes import generate
from nodes.pcscf.alg_answers import answer_from_access
from nodes.pcscf.ims_alg import offer_from_access, offer_from_core
from nodes.pcscf.media_plan import AlgPolicy, Treatment
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
