"""What a UE believes of a BSF: nothing that its USIM and RES do not vouch for (T1, T4, T7)."""

import dataclasses

import pytest

from keying.secret import Secret
from nodes.https import HttpLimits, HttpResponse, HttpsAddress, HttpsClient, HttpsServer
from nodes.ue.card import Card
from nodes.ue.gba import ROUNDS, GbaClient, GbaError
from nodes.ue.network import PinnedNetwork
from sba.identity import NodeIdentity
from sba.telemetry import Telemetry
from sba.testing import LabFixture, async_test
from signalling.aka.digest import AuthenticationInfo, DigestChallenge, DigestCredentials, aka_password, compute_rspauth
from signalling.aka.gba import BootstrappingInfo, Btid
from signalling.aka.vectors import Usim, generate_vector
from tests.bsf.home import BSF, KMS
from tests.cscf.home import ALICE, OPC, K

NOW = 1_900_000_000.0


class FalseBsf:
    """A BSF with the right certificate and the vectors of the home network, that does what a test makes of it."""

    def __init__(self):
        self.seen = []
        self.sqn = 32
        self.vector = None
        self.challenge = lambda challenge: challenge
        self.finish = lambda parts: parts

    async def answer(self, request):
        credentials = DigestCredentials.parse(request.header("Authorization"))
        self.seen.append(credentials)
        if len(credentials.response) and credentials.auts is None:
            return self.finished(credentials)
        self.sqn += 33
        self.vector = generate_vector(K, OPC, self.sqn)
        found = self.challenge(DigestChallenge(BSF, self.vector.nonce, "AKAv1-MD5", ("auth-int",), opaque="o"))
        if isinstance(found, HttpResponse):
            return found
        return HttpResponse(401, (("WWW-Authenticate", found.format()),))

    def finished(self, credentials):
        password = aka_password("AKAv1-MD5", self.vector.xres, self.vector.ik, self.vector.ck)
        info = BootstrappingInfo(Btid(self.vector.rand, BSF), NOW + 600, NOW)
        parts = self.finish({"info": info, "body": info.format(), "password": password, "shown": credentials})
        if isinstance(parts, HttpResponse):
            return parts
        if parts["info"] is not info and parts["body"] == info.format():
            parts["body"] = parts["info"].format()
        shown = parts["shown"]
        proof = compute_rspauth(shown, algorithm="AKAv1-MD5", password=parts["password"], body=parts["body"])
        header = AuthenticationInfo(Secret(proof.encode()), qop=shown.qop, cnonce=shown.cnonce, nc=shown.nc).format()
        return HttpResponse(200, (("Authentication-Info", header),), parts.get("sent", parts["body"]))


async def bootstrap(tmp_path, bsf, *, usim=None, name=BSF):
    lab = LabFixture(tmp_path, nrf=False)
    identity = NodeIdentity(lab.add("bsf", "bsf", nf_types=("BSF",)))
    telemetry = Telemetry("ue-test", "UE")
    server = HttpsServer(bsf.answer, identity, telemetry, limits=HttpLimits(handler_s=0.5))
    await server.start("127.0.0.1", 0)
    card = Card(ALICE.impi, "ims.test", "aka-tls", usim=usim or Usim(K, OPC))

    async def remember():
        bsf.stored = card.sequence()

    address = HttpsAddress(host="127.0.0.1", port=server.port, tls_name=name)
    client = GbaClient(
        HttpsClient(identity.ca_path, telemetry),
        card,
        address.name,
        PinnedNetwork(bsf=address),
        telemetry,
        remember,
        now=lambda: NOW,
        timeout_s=2,
    )
    try:
        return await client.credential(KMS)
    finally:
        await server.stop()


async def refused(tmp_path, bsf, **more):
    with pytest.raises(GbaError) as error:
        await bootstrap(tmp_path, bsf, **more)
    return error.value.reason


@async_test
async def test_an_honest_one_is_believed(tmp_path):
    bsf = FalseBsf()
    key = await bootstrap(tmp_path, bsf)
    assert (key.expires_at, len(key.key)) == (NOW + 600, 32)
    first, second = bsf.seen
    assert (first.username, first.realm, first.uri, first.nonce, len(first.response)) == (ALICE.impi, BSF, "/", "", 0)
    assert (second.qop, second.algorithm, second.nc, second.opaque) == ("auth-int", "AKAv1-MD5", "00000001", "o")
    assert bsf.stored


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 24.109", "4.2")
@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "MD5"},
        {"algorithm": None},
        {"algorithm": "AKAv2-MD5"},
        {"qop": ("auth",)},
        {"qop": ()},
        {"realm": "kms.ims.test"},
        {"realm": "ims.test"},
        {"nonce": "no base64"},
        {"nonce": "AAAA"},
    ],
)
@async_test
async def test_no_weaker_or_foreign_challenge_is_answered(tmp_path, change):
    bsf = FalseBsf()
    bsf.challenge = lambda challenge: dataclasses.replace(challenge, **change)
    assert await refused(tmp_path, bsf) == "network"
    assert len(bsf.seen) == 1


@pytest.mark.attack("T7")
@async_test
async def test_a_challenge_of_another_home_network_is_not_answered(tmp_path):
    bsf = FalseBsf()
    other = generate_vector(Secret(bytes(16)), OPC, 32)
    bsf.challenge = lambda challenge: dataclasses.replace(challenge, nonce=other.nonce)
    assert await refused(tmp_path, bsf) == "network"
    assert len(bsf.seen) == 1


@pytest.mark.attack("T7")
@async_test
async def test_an_old_challenge_gets_a_resynchronisation_and_no_endless_talk(tmp_path):
    bsf = FalseBsf()
    old = generate_vector(K, OPC, 33)
    usim = Usim(K, OPC)
    usim.authenticate(old.rand, old.autn)
    bsf.challenge = lambda challenge: dataclasses.replace(challenge, nonce=old.nonce)
    assert await refused(tmp_path, bsf, usim=usim) == "network"
    assert len(bsf.seen) == ROUNDS + 1
    assert all(credentials.auts is not None for credentials in bsf.seen[1:])


@pytest.mark.attack("T7")
@async_test
async def test_a_bsf_that_never_accepts_is_left(tmp_path):
    bsf = FalseBsf()
    bsf.finish = lambda parts: HttpResponse(
        401, (("WWW-Authenticate", DigestChallenge(BSF, _next(bsf), "AKAv1-MD5", ("auth-int",)).format()),)
    )
    assert await refused(tmp_path, bsf) == "network"
    assert len(bsf.seen) == ROUNDS + 1


def _next(bsf):
    bsf.sqn += 33
    bsf.vector = generate_vector(K, OPC, bsf.sqn)
    return bsf.vector.nonce


def _other_info(parts, **change):
    return {**parts, "info": dataclasses.replace(parts["info"], **change)}


@pytest.mark.attack("T4", "T7")
@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        (lambda parts: {**parts, "password": Secret(bytes(8))}, "network"),
        (lambda parts: {**parts, "sent": parts["body"].replace(b"2030", b"2031")}, "network"),
        (lambda parts: {**parts, "sent": b""}, "network"),
        (lambda parts: {**parts, "shown": dataclasses.replace(parts["shown"], qop="auth")}, "network"),
        (lambda parts: {**parts, "shown": dataclasses.replace(parts["shown"], cnonce="x")}, "network"),
        (lambda parts: {**parts, "shown": dataclasses.replace(parts["shown"], nc="00000002")}, "network"),
        (lambda parts: HttpResponse(200, (), parts["body"]), "network"),
        (lambda parts: HttpResponse(200, (("Authentication-Info", "rspauth=,,"),), parts["body"]), "network"),
        (lambda parts: _other_info(parts, btid=Btid(bytes(16), BSF)), "protocol"),
        (lambda parts: _other_info(parts, btid=Btid(parts["info"].btid.rand, "bsf.partner.test")), "protocol"),
        (lambda parts: _other_info(parts, expires_at=NOW), "protocol"),
        (lambda parts: _other_info(parts, expires_at=NOW - 1, now=None), "protocol"),
        (lambda parts: {**parts, "body": b"<x/>"}, "protocol"),
        (lambda parts: HttpResponse(403), "refused"),
        (lambda parts: HttpResponse(302, (("Location", "https://elsewhere/"),)), "refused"),
        (lambda parts: HttpResponse(503), "unreachable"),
        (lambda parts: HttpResponse(401), "network"),
    ],
)
@async_test
async def test_an_end_that_is_not_proved_and_about_this_challenge_is_none(tmp_path, finish, reason):
    bsf = FalseBsf()
    bsf.finish = finish
    assert await refused(tmp_path, bsf) == reason


@pytest.mark.attack("T4")
@async_test
async def test_a_200_without_any_challenge_is_no_end(tmp_path):
    bsf = FalseBsf()
    bsf.challenge = lambda _challenge: HttpResponse(200, (), b"x")
    assert await refused(tmp_path, bsf) == "network"


@pytest.mark.attack("T4")
@async_test
async def test_a_host_that_does_not_show_the_name_of_the_bsf_hears_nothing(tmp_path):
    bsf = FalseBsf()
    assert await refused(tmp_path, bsf, name="bsf.partner.test") == "network"
    assert bsf.seen == []


@async_test
async def test_a_bsf_that_does_not_answer_is_unreachable(tmp_path):
    bsf = FalseBsf()

    async def fail(_request):
        raise TimeoutError

    bsf.answer = fail
    assert await refused(tmp_path, bsf) == "unreachable"
