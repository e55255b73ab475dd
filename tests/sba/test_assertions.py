"""Client credentials assertions (CCA): verified when present, never trusted half-way."""

import base64
import time

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from sba.assertions import AssertionVerifier, make_assertion
from sba.identity import NodeIdentity
from sba.pki import LabCa
from sba.testing import LabFixture, async_test
from sba.tokens import TokenRefused
from tests.sba.gateway import forge, lab_with_gateway, present

pytestmark = [pytest.mark.clause("TS 33.328 Annex P", "P.1.3-14"), pytest.mark.attack("T6")]
CCA = "3gpp-sbi-client-credentials"


class Pair:
    def __init__(self, tmp_path):
        self.lab = LabFixture(tmp_path, nrf=False)
        self.consumer = NodeIdentity(self.lab.add("client", "pcscf", nf_types=("PCSCF",)))
        producer = NodeIdentity(self.lab.add("client", "agw", nf_types=("IMS_AGW",)))
        self.now = time.time()
        self.verifier = AssertionVerifier(producer, nf_types=("IMS_AGW",), clock=lambda: self.now)

    def forged(self, *, key_of="pcscf", certificate_of="pcscf", headers=None, folder=None, **claims):
        folder = folder or self.lab.ca.folder
        key = serialization.load_pem_private_key((folder / f"{key_of}.key").read_bytes(), None)
        pem = (folder / f"{certificate_of}.crt").read_text()
        x5c = ["".join(pem.split("-----")[2].split())]
        now = int(self.now)
        payload = {"sub": self.consumer.instance_id, "iat": now, "exp": now + 60, "aud": ["IMS_AGW"]} | claims
        return jwt.encode(payload, key, algorithm="ES256", headers={"x5c": x5c} | (headers or {}))


def test_a_genuine_assertion_proves_its_subject(tmp_path):
    pair = Pair(tmp_path)
    assert pair.verifier.verify(make_assertion(pair.consumer, ["NRF", "IMS_AGW"])) == pair.consumer.instance_id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aud": ["HSS"]}, "cca-audience"),
        ({"sub": "00000000-0000-0000-0000-000000000000"}, "cca-subject"),
        ({"exp": 1}, "cca-times"),
        ({"iat": 1}, "cca-times"),
        ({"iat": 99999999999}, "cca-times"),
        ({"exp": None}, "cca-times"),
        ({"key_of": "agw"}, "cca-signature"),
        ({"certificate_of": "agw"}, "cca-signature"),
        ({"headers": {"crit": ["exp"]}}, "cca-malformed"),
        ({"headers": {"x5u": "https://evil.test"}}, "cca-header"),
        ({"headers": {"x5c": []}}, "cca-certificate"),
        ({"headers": {"x5c": ["AAAA"]}}, "cca-certificate"),
        ({"headers": {"x5c": [base64.b64encode(b"\x30\x00").decode()]}}, "cca-certificate"),
    ],
)
def test_assertions_that_prove_nothing(tmp_path, change, reason):
    pair = Pair(tmp_path)
    with pytest.raises(TokenRefused) as raised:
        pair.verifier.verify(pair.forged(**change))
    assert raised.value.reason == reason


def test_certificate_of_another_ca(tmp_path):
    pair = Pair(tmp_path)
    other = LabCa.create(tmp_path / "other")
    other.issue("pcscf", ["PCSCF"], pair.consumer.instance_id, dns=["pcscf.ims.test"])
    with pytest.raises(TokenRefused, match="cca-certificate"):
        pair.verifier.verify(pair.forged(folder=tmp_path / "other"))


def test_revoked_certificate(tmp_path):
    pair = Pair(tmp_path)
    pair.lab.ca.revoke("pcscf")
    pair.verifier._identity.revoked.refresh()
    with pytest.raises(TokenRefused, match="cca-certificate"):
        pair.verifier.verify(pair.forged())


@pytest.mark.parametrize("text", ["", "a.b.c", "x" * 9000])
def test_garbage(tmp_path, text):
    with pytest.raises(TokenRefused):
        Pair(tmp_path).verifier.verify(text)


@async_test
async def test_a_bad_assertion_refuses_a_call_whose_token_is_good(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        problem = await present(lab, forge(lab), metadata=((CCA, "a.b.c"),))
        assert problem.code is grpc.StatusCode.PERMISSION_DENIED
        assert problem.cause == "CCA_VERIFICATION_FAILURE"
        assert gateway.handled == []


@async_test
async def test_an_assertion_for_somebody_else_than_the_token(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        other = NodeIdentity(lab.add("client", "pcscf-2", nf_types=("PCSCF",)))
        problem = await present(lab, forge(lab), metadata=((CCA, make_assertion(other, ["IMS_AGW"])),))
        assert problem.cause == "TOKEN_CCA_MISMATCH"
        assert gateway.handled == []
        mine = NodeIdentity(lab.add("client", "client-pcscf", nf_types=("PCSCF",)))
        assert await present(lab, forge(lab), metadata=((CCA, make_assertion(mine, ["IMS_AGW"])),)) is None


@async_test
async def test_a_bad_assertion_does_not_show_whether_the_token_was_good(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        problem = await present(lab, forge(lab, aud="HSS"), metadata=((CCA, "a.b.c"),))
        assert problem.problem.access_token_error == "invalid_token", "the token is checked first"
