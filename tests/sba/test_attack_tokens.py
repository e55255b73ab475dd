"""Access tokens that must not open anything: each is refused before the handler runs (threat T6)."""

import base64
import json
import time

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from sba.testing import async_test
from tests.sba.gateway import HEARTBEAT, SCOPE, forge, lab_with_gateway, present

pytestmark = [pytest.mark.attack("T6")]
ANNEX_P = "TS 33.328 Annex P"


async def refused(tmp_path, make_token, **options):
    """Present a token and return the refusal; nothing may have reached the handler."""
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        assert await present(lab, forge(lab)) is None, "the genuine token is accepted"
        gateway.handled.clear()
        problem = await present(lab, make_token(lab), **options)
        assert problem is not None, "the token was accepted"
        assert gateway.handled == []
        return problem


def assert_invalid_token(problem):
    assert problem.code is grpc.StatusCode.UNAUTHENTICATED
    assert problem.problem.status == 401
    assert problem.problem.access_token_error == "invalid_token"
    assert problem.problem.detail == "", "the refusal does not say which check failed"
    assert problem.challenge == 'Bearer error="invalid_token"'


@pytest.mark.clause(ANNEX_P, "P.1.3-12", "P.1.3-13")
@async_test
async def test_no_token(tmp_path):
    problem = await refused(tmp_path, lambda lab: None)
    assert problem.code is grpc.StatusCode.UNAUTHENTICATED
    assert problem.problem.status == 401
    assert problem.challenge == "Bearer"
    assert problem.problem.access_token_error == ""


@pytest.mark.clause(ANNEX_P, "P.1.3-8", "P.1.3-13")
@async_test
async def test_wrong_scope(tmp_path):
    problem = await refused(tmp_path, lambda lab: forge(lab, scope="nimsagw-capture"))
    assert problem.code is grpc.StatusCode.PERMISSION_DENIED
    assert problem.problem.access_token_error == "insufficient_scope"
    assert "insufficient_scope" in problem.challenge


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_operation_scope_of_another_operation(tmp_path):
    problem = await refused(tmp_path, lambda lab: forge(lab, scope=f"{SCOPE} {SCOPE}:events:read"))
    assert problem.code is grpc.StatusCode.PERMISSION_DENIED
    assert problem.problem.access_token_error == "insufficient_scope"


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_scope_that_only_begins_like_the_right_one(tmp_path):
    problem = await refused(tmp_path, lambda lab: forge(lab, scope=f"{SCOPE}-more"))
    assert problem.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_wrong_audience(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, aud="HSS")))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_audience_that_contains_the_right_one_as_a_substring(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, aud="IMS_AGW_X")))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_audience_list_without_this_instance(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, aud=[lab.instance_id("agw-2")])))


@pytest.mark.clause(ANNEX_P, "P.1.3-8", "P.1.3-2")
@async_test
async def test_other_nf_instance_id(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, sub=lab.instance_id("somebody-else"))))


@pytest.mark.clause(ANNEX_P, "P.1.3-8", "P.1.3-11")
@async_test
async def test_expired(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, exp=int(time.time()) - 10)))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@pytest.mark.parametrize("claim", ["nbf", "iat"])
@async_test
async def test_not_yet_valid(tmp_path, claim):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, **{claim: int(time.time()) + 60})))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@pytest.mark.clause("RFC 8725", "3.1")
@async_test
async def test_alg_none(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, algorithm="none")))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@pytest.mark.clause("RFC 8725", "2.1")
@async_test
async def test_hs256_with_the_public_key(tmp_path):
    def token(lab):
        public = lab.nodes["nrf"].signing_keys.current.private.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        genuine = forge(lab)
        payload = genuine.split(".")[1]
        header = {"alg": "HS256", "typ": "JWT", "kid": jwt.get_unverified_header(genuine)["kid"]}
        head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
            f"{head}.{payload}".encode(), pem
        )
        return f"{head}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    assert_invalid_token(await refused(tmp_path, token))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_unknown_kid(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, headers={"kid": "0123456789abcdef"})))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_signature_of_another_key(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, key=key)))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_payload_altered_after_signing(tmp_path):
    def token(lab):
        head, _, signature = forge(lab).split(".")
        payload = jwt.decode(forge(lab), options={"verify_signature": False}) | {"scope": "everything"}
        return f"{head}.{base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b'=').decode()}.{signature}"

    assert_invalid_token(await refused(tmp_path, token))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@pytest.mark.clause("RFC 8725", "3.5")
@async_test
async def test_embedded_jwk(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    embedded = {"jwk": ECAlgorithm.to_jwk(key.public_key(), as_dict=True)}
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, key=key, headers=embedded)))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"jku": "https://evil.test/keys"}, {"x5u": "https://evil.test"}])
@async_test
async def test_header_that_names_other_keys_or_rules(tmp_path, header):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, headers=header)))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_issuer_that_is_not_my_nrf(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, iss=lab.instance_id("other-nrf"))))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@async_test
async def test_nf_set_that_is_not_mine(tmp_path):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, producerNfSetId="another-set")))


@pytest.mark.clause(ANNEX_P, "P.1.3-8")
@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "scope", "exp"])
@async_test
async def test_missing_claim(tmp_path, claim):
    assert_invalid_token(await refused(tmp_path, lambda lab: forge(lab, drop=(claim,))))


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "x" * 5000, "..", "e30.e30.", "eyJhbGciOiJFUzI1NiJ9.W10.AA"])
@async_test
async def test_garbage(tmp_path, token):
    assert_invalid_token(await refused(tmp_path, lambda lab: token))


@pytest.mark.clause(ANNEX_P, "P.1.3-8", "P.1.3-2")
@async_test
async def test_token_stolen_by_another_nf_with_its_own_certificate(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        stolen = forge(lab)
        assert await present(lab, stolen) is None, "its owner may use it, so the gateway now remembers it"
        gateway.handled.clear()
        from tests.sba.gateway import channel_to, raw_call

        thief = lab.add("client", "thief", nf_types=("PCSCF",))
        async with channel_to(lab, "agw-1", thief) as channel:
            with pytest.raises(Exception) as raised:
                await raw_call(channel, HEARTBEAT, metadata=(("authorization", f"Bearer {stolen}"),))
        assert_invalid_token(raised.value)
        assert gateway.handled == []


@pytest.mark.clause(ANNEX_P, "P.1.3-6")
@async_test
async def test_nf_type_that_the_contract_does_not_permit(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        from sba.errors import RemoteProblem
        from tests.sba.gateway import channel_to, raw_call

        hss = lab.add("client", "client-hss", nf_types=("HSS",))
        token = forge(lab, sub=lab.instance_id("client-hss"))
        async with channel_to(lab, "agw-1", hss) as channel:
            with pytest.raises(RemoteProblem) as raised:
                await raw_call(channel, metadata=(("authorization", f"Bearer {token}"),))
        assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert gateway.handled == []
