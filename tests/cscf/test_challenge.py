"""Challenges and their judgement against numbers worked out beforehand (RFC 3310, TS 33.203)."""

from dataclasses import replace

import pytest

from keying.secret import Secret
from nodes.cscf.challenge import (
    Scheme,
    Verdict,
    auts_of,
    challenge_aka,
    challenge_digest,
    judge_aka,
    judge_digest,
    same_family,
    scheme_proved,
    select_scheme,
)
from nodes.cscf.hss import AkaVector, DigestVector
from nodes.cscf.rejection import RejectionError
from signalling.aka.digest import DigestChallenge, DigestCredentials, answer_challenge, compute_ha1
from signalling.aka.nonces import NonceBook

VECTOR = AkaVector(
    bytes.fromhex("23553cbe9637a89d218ae64dae47bf35"),
    bytes.fromhex("55f328b43577b9b94a9ffac354dfafb3"),
    Secret(bytes.fromhex("a54211d5e3ba50bf")),
    Secret(bytes.fromhex("b40ba9a3c58b2a05bbf0d987b21bf8cb")),
    Secret(bytes.fromhex("f769bcd751044604127672711c6d3441")),
)
IMPI = "001010000000001@ims.test"
NONCE = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M="
DIGEST = DigestVector("ims.test", {})


def issue(scheme):
    return challenge_aka(scheme, VECTOR, IMPI, "sip:alice@ims.test", "ims.test", "call", 100.0)


def credentials(algorithm, response, **more):
    base = DigestCredentials(
        IMPI, "ims.test", "sip:ims.test", NONCE, Secret(response.encode()), algorithm, "auth", "00000001", "0a4f113b"
    )
    return replace(base, **more)


def judge(scheme, given, *, call_id="call", now=0.0):
    return judge_aka(issue(scheme).challenge, given, call_id, "REGISTER", now)


GOOD = {
    Scheme.AKA: credentials("AKAv1-MD5", "640ff1af79e1c149460bb5a06f273348"),
    Scheme.AKA_OPEN: credentials("AKAv1-MD5", "640ff1af79e1c149460bb5a06f273348"),
    Scheme.AKA_TLS: credentials("AKAv2-SHA-256", "05bf4de137f023432cd613dbfb6ceb29270f2eddaa1275b9879b8fccff92bfd5"),
}


@pytest.mark.clause("RFC 3310", "3.2", "AKA-3")
@pytest.mark.clause("TS 33.203", "SC-6", "DG-4")
def test_the_401_octet_for_octet():
    [value] = issue(Scheme.AKA).values
    challenge = DigestChallenge.parse(value)
    assert (challenge.nonce, challenge.algorithm) == (NONCE, "AKAv1-MD5")
    assert 'ik="f769bcd751044604127672711c6d3441"' in value
    assert 'ck="b40ba9a3c58b2a05bbf0d987b21bf8cb"' in value
    for scheme in (Scheme.AKA_TLS, Scheme.AKA_OPEN):
        [value] = issue(scheme).values
        assert "ik=" not in value
        assert "f769bc" not in value
    assert "f769bc" not in repr(issue(Scheme.AKA))


@pytest.mark.clause("TS 24.229", "SC-8")
@pytest.mark.clause("RFC 3310", "3.3", "DG-1", "DG-2")
@pytest.mark.parametrize("scheme", list(GOOD))
def test_answers_worked_out_beforehand_are_good(scheme):
    assert judge(scheme, GOOD[scheme]) is Verdict.GOOD


@pytest.mark.clause("TS 24.229", "SC-8", "E-8")
@pytest.mark.attack("T7")
@pytest.mark.parametrize("scheme", list(GOOD))
def test_answers_to_something_else_do_not_match(scheme):
    good = GOOD[scheme]
    assert judge(scheme, replace(good, nonce="other")) is Verdict.NO_MATCH
    assert judge(scheme, good, call_id="another") is Verdict.NO_MATCH
    assert judge(scheme, good, now=100.0) is Verdict.NO_MATCH
    assert judge(scheme, replace(good, username="x@ims.test")) is Verdict.NO_MATCH
    assert judge_aka(None, good, "call", "REGISTER", 0.0) is Verdict.NO_MATCH


@pytest.mark.clause("TS 33.203", "E-1", "E-4", "E-5")
def test_wrong_empty_and_resynchronising_answers():
    good = GOOD[Scheme.AKA_TLS]
    assert judge(Scheme.AKA_TLS, replace(good, response=Secret(b"0" * 64))) is Verdict.WRONG
    assert judge(Scheme.AKA_TLS, replace(good, algorithm="AKAv1-MD5")) is Verdict.WRONG
    assert judge(Scheme.AKA_TLS, replace(good, response=Secret(b""))) is Verdict.CHALLENGE_REFUSED
    resync = replace(good, response=Secret(b""), auts=Secret(b"uoU/PBI8z0TpNZbjVcY="))
    assert judge(Scheme.AKA_TLS, resync) is Verdict.SYNCHRONISATION
    assert auts_of(resync).hex() == "ba853f3c123ccf44e93596e355c6"
    with pytest.raises(RejectionError):
        auts_of(replace(resync, auts=Secret(b"!!")))


@pytest.mark.clause("TS 33.203", "P.4.2", "SC-1")
@pytest.mark.parametrize(
    ("flag", "algorithm", "vector", "scheme"),
    [
        ("yes", "", VECTOR, Scheme.AKA),
        ("no", "", VECTOR, Scheme.AKA),
        ("tls-connected", "AKAv2-SHA-256", VECTOR, Scheme.AKA_TLS),
        ("tls-connected", "", VECTOR, Scheme.AKA_OPEN),
        ("", "", VECTOR, Scheme.AKA_OPEN),
        ("", "", DIGEST, Scheme.DIGEST),
        ("tls-pending", "", DIGEST, Scheme.DIGEST),
        ("no", "", DIGEST, None),
        ("tls-connected", "AKAv2-SHA-256", DIGEST, None),
    ],
)
def test_the_scheme(flag, algorithm, vector, scheme):
    if scheme is None:
        with pytest.raises(RejectionError):
            select_scheme(flag, algorithm, vector, allow_open=True)
    else:
        assert select_scheme(flag, algorithm, vector, allow_open=True) is scheme
        if scheme is Scheme.AKA_OPEN:
            with pytest.raises(RejectionError):
                select_scheme(flag, algorithm, vector, allow_open=False)


@pytest.mark.clause("TS 33.203", "PC-17", "SC-1")
@pytest.mark.parametrize(
    ("challenged", "flag", "strict", "lenient"),
    [
        (Scheme.AKA, "yes", Scheme.AKA, Scheme.AKA),
        (Scheme.AKA, "no", None, Scheme.AKA_OPEN),
        (Scheme.AKA, "tls-connected", None, None),
        (Scheme.AKA_TLS, "tls-connected", Scheme.AKA_TLS, Scheme.AKA_TLS),
        (Scheme.AKA_TLS, "no", None, None),
        (Scheme.AKA_TLS, "", None, None),
        (Scheme.AKA_OPEN, "", None, Scheme.AKA_OPEN),
        (Scheme.AKA_OPEN, "no", None, Scheme.AKA_OPEN),
        (Scheme.AKA_OPEN, "yes", None, None),
    ],
)
def test_what_an_answer_proves_depends_on_what_protected_it(challenged, flag, strict, lenient):
    assert scheme_proved(challenged, flag, allow_open=False) is strict
    assert scheme_proved(challenged, flag, allow_open=True) is lenient


def test_schemes_of_one_registration():
    assert same_family("aka", "aka-open")
    assert not same_family("aka-tls", "aka-open")
    assert not same_family("digest", "aka")


@pytest.mark.clause("RFC 8760", "2.3", "DG-7")
@pytest.mark.clause("TS 33.203", "TLS-6", "E-9")
def test_digest_counts_and_stale():
    time = [0.0]
    nonces = NonceBook(lambda: time[0], lifetime_s=10)
    issued = challenge_digest("ims.test", ["SHA-256", "MD5"], nonces)
    challenges = [DigestChallenge.parse(value) for value in issued.values]
    assert [challenge.algorithm for challenge in challenges] == ["SHA-256", "MD5"]
    ha1 = {name: compute_ha1(name, "d", "ims.test", Secret(b"pw")) for name in ("SHA-256", "MD5")}

    def made(index=0, nc=1, password=b"pw", nonce=None):
        challenge = challenges[index] if nonce is None else replace(challenges[index], nonce=nonce)
        return answer_challenge(
            challenge, username="d", password=Secret(password), method="REGISTER", uri="sip:ims.test", cnonce="c", nc=nc
        )

    def judged(given, algorithms=("SHA-256", "MD5")):
        return judge_digest(ha1, algorithms, given, "REGISTER", nonces)

    assert judged(None) is Verdict.NO_MATCH
    assert judged(made(password=b"no")) is Verdict.WRONG
    assert judged(made()) is Verdict.GOOD
    assert judged(made()) is Verdict.STALE
    assert judged(made(index=1, nc=2)) is Verdict.GOOD
    assert judged(made(index=1, nc=3), ["SHA-256"]) is Verdict.NO_MATCH
    assert judged(made(nonce="never issued")) is Verdict.STALE
    time[0] = 11.0
    assert judged(made(nc=9)) is Verdict.STALE
