"""The public-key variants of Request and Resolve: envelope key, signature, certificates."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keying.mikey import codec
from keying.mikey.authority import Authority
from keying.mikey.errors import (
    AuthenticationFailure,
    InvalidCertificate,
    InvalidHash,
    InvalidIdentity,
    MalformedMessage,
    MikeyError,
    Replayed,
)
from keying.mikey.identity import Identity
from keying.mikey.payloads import Certificate, CertificateHash, EnvelopeKey, Signature
from keying.mikey.pk import MAX_CHAIN, KmsKeyPair, PkCredential, Trust, certificate_hash, der_chain, verify_signature
from keying.mikey.policy import Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import CertType, DataType, HashFunc, SignType
from keying.mikey.request import TicketRequest
from keying.mikey.resolve import TicketResolve
from tests.keying.mikey.stage import ALICE, BOB, KMS, LONG, MALLORY, NOW, Stage, tpk

pytestmark = pytest.mark.clause("TS 33.328", "D-8", "D-10")

MOMENT = dt.datetime.fromtimestamp(NOW, dt.UTC)
DAY = dt.timedelta(days=1)


def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    return _made_key(name, bits)


@cache
def _made_key(name: str, bits: int) -> rsa.RSAPrivateKey:
    del name  # each has a key of its own
    return rsa.generate_private_key(65537, bits)


@cache
def certificate(
    name: str, issuer: str, uri: str = "", *, ca: bool = False, ends: int = 1, bits: int = 2048
) -> x509.Certificate:
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(rsa_key(name, bits).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(MOMENT - 2 * DAY)
        .not_valid_after(MOMENT + ends * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if uri:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
    return builder.sign(rsa_key(issuer), SHA256())


ROOT = ("root", "root")


def root() -> x509.Certificate:
    return certificate(*ROOT, ca=True)


def kms_pair() -> KmsKeyPair:
    return KmsKeyPair(rsa_key("kms"), certificate("kms", "root"))


def user(name: str, issuer: str = "root") -> PkCredential:
    chain = (certificate(name, issuer, f"sip:{name}@ims.test"),)
    return PkCredential(rsa_key(name), chain, kms_pair().certificate)


def stage_with_pk(**changes) -> Stage:
    profile = replace(changes.pop("profile", DEFAULT_PROFILE), accept_public_key=True)
    stage = Stage(profile=profile, **changes)
    stage.authority = Authority(
        profile, KMS, replay=stage.replay, pk=kms_pair(), trust=Trust([root()]), entropy=stage.draw
    )
    return stage


def request(stage: Stage, credential: PkCredential, initiator: Identity = ALICE) -> TicketRequest:
    return TicketRequest(
        stage.profile,
        credential,
        initiator=initiator,
        kms=KMS,
        wish=stage.wish,
        now=stage.tick(),
        entropy=stage.draw,
    )


def grant(stage: Stage, octets: bytes):
    authentic = stage.authority.read_request(octets, stage.tick()).authenticate(None, stage.now)
    assert authentic.certified == (authentic.initiator,)
    return authentic.grant(tpk(stage.profile), stage.now)


@pytest.mark.clause("RFC 6043", "4.2.3.3")
@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
def test_a_call_with_certificates_in_place_of_shared_keys(profile):
    stage = stage_with_pk(profile=profile)
    asked = request(stage, user("alice"))
    ticket = asked.receive(grant(stage, asked.message).response, stage.tick())
    initiator = stage.initiate(ticket)
    responder = stage.respond(initiator.message)
    resolve = TicketResolve(
        stage.profile, user("bob"), responder.ticket, responder=BOB, kms=KMS, now=stage.tick(), entropy=stage.draw
    )
    authentic = stage.authority.read_resolve(resolve.message, stage.tick()).authenticate(None, stage.now)
    answer = authentic.answer(
        stage.authority.resolve_ticket(authentic.ticket, authentic.certified, stage.find_tpk, stage.now), stage.now
    )
    accepted = stage.accept(responder, resolve.receive(answer, stage.tick()))
    assert stage.finish(initiator, accepted).keys[1].tek == accepted.keys[1].tek


@pytest.mark.clause("RFC 6043", "4.2.1.3")
def test_the_request_has_the_payloads_of_the_rfc_in_order():
    message = codec.decode(request(stage_with_pk(), user("alice")).message)
    assert message.header.data_type is DataType.REQUEST_INIT_PK
    names = "Timestamp RandRoled IdRoled Certificate IdRoled TicketPolicyPayload CertificateHash EnvelopeKey Signature"
    assert [type(each).__name__ for each in message.payloads] == names.split()


@pytest.mark.attack("T5")
def test_no_octet_of_a_signed_request_may_change():
    stage = stage_with_pk()
    octets = request(stage, user("alice")).message
    for place in range(len(octets)):
        changed = bytearray(octets)
        changed[place] ^= 1 << place % 8
        stage.now = NOW + 1  # hundreds of tries must not run the clock out of the skew
        with pytest.raises(MikeyError):
            grant(stage, bytes(changed))
    assert len(stage.replay) == 0
    stage.now = NOW + 1
    assert grant(stage, octets).response
    with pytest.raises(Replayed):
        grant(stage, octets)


@pytest.mark.attack("T5")
def test_a_certificate_speaks_for_the_names_in_it_alone():
    stage = stage_with_pk()
    with pytest.raises(InvalidIdentity):
        grant(stage, request(stage, user("mallory"), ALICE).message)


@pytest.mark.attack("T5")
def test_the_certificate_of_another_does_not_help():
    stage = stage_with_pk()
    stolen = replace(user("mallory"), chain=user("alice").chain)
    with pytest.raises(AuthenticationFailure):
        grant(stage, request(stage, stolen).message)


@pytest.mark.clause("RFC 6043", "4.2.1.3")
@pytest.mark.attack("T5")
def test_an_envelope_that_does_not_open_is_not_told_from_one_that_does():
    stage = stage_with_pk()
    asked = request(stage, user("alice"))
    message = codec.decode(asked.message)
    spoilt = tuple(
        replace(each, data=bytes(len(each.data))) if isinstance(each, EnvelopeKey) else each
        for each in message.payloads
    )
    alice = user("alice")
    blank = codec.without_signature(codec.encode(replace(message, payloads=spoilt, raw=b"", spans=())))
    octets = blank + alice.sign(blank + ALICE.data + KMS.data)
    response = grant(stage, octets).response
    with pytest.raises(AuthenticationFailure):
        asked.receive(response, stage.tick())


@pytest.mark.clause("RFC 6043", "6.7")
def test_the_certificate_the_envelope_is_for_is_named():
    stage = stage_with_pk()
    pair = kms_pair()
    key = EnvelopeKey(0, user("alice").kms_certificate.public_key().encrypt(bytes(16), padding.PKCS1v15()))  # type: ignore[union-attr]
    assert len(pair.open(key, None, (16,))) == 16
    with pytest.raises(InvalidCertificate):
        pair.open(key, CertificateHash(HashFunc.SHA_256, bytes(32)), (16,))
    with pytest.raises(InvalidHash):
        pair.open(key, CertificateHash(HashFunc.SHA_1, bytes(20)), (16,))
    assert pair.open(
        key, CertificateHash(HashFunc.SHA_256, certificate_hash(pair.certificate)), (16,)
    ).reveal() == bytes(16)
    assert pair.open(key, None, (32,)).reveal() != bytes(32)
    assert stage.authority.pk is not None


def ders(*certificates: x509.Certificate) -> list[bytes]:
    return [each.public_bytes(Encoding.DER) for each in certificates]


def test_a_chain_ends_at_an_authority_that_is_believed():
    trust = Trust([root()])
    middle = certificate("middle", "root", ca=True)
    leaf = certificate("alice", "middle", "sip:alice@ims.test")
    assert trust.verify(ders(leaf, middle), NOW)[1] == (ALICE,)
    assert trust.verify(ders(leaf, middle, root()), NOW)[1] == (ALICE,)


@pytest.mark.clause("RFC 6043", "4.2.1.3")
@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "chain",
    [
        [],
        [b"no certificate"],
        ders(certificate("alice", "alice", "sip:alice@ims.test")),
        ders(certificate("alice", "middle", "sip:alice@ims.test")),
        ders(certificate("alice", "mallory", "sip:alice@ims.test"), certificate("mallory", "root")),
        ders(certificate("alice", "root", "sip:alice@ims.test", ends=-1)),
        ders(certificate("alice", "root")),
        ders(root()) * (MAX_CHAIN + 1),
    ],
    ids=[
        "none",
        "junk",
        "self-signed",
        "gap",
        "issued by a user",
        "outdated",
        "without name",
        "too long",
    ],
)
def test_a_chain_that_does_not_hold_is_refused(chain):
    with pytest.raises(InvalidCertificate) as refused:
        Trust([certificate("other", "other", ca=True)] if chain and len(chain) > MAX_CHAIN else [root()]).verify(
            chain, NOW
        )
    assert refused.value.number == 8


def test_a_short_key_is_not_believed():
    weak = certificate("weak", "root", "sip:alice@ims.test", bits=1024)
    signature = Signature(SignType.RSA_PKCS1_V1_5, rsa_key("weak", 1024).sign(b"x", padding.PKCS1v15(), SHA256()))
    with pytest.raises(InvalidCertificate):
        verify_signature(weak, signature, b"x")


def test_pss_is_taken_and_eccsi_is_not():
    alice = user("alice")
    pss = alice.key.sign(b"x", padding.PSS(padding.MGF1(SHA256()), 32), SHA256())
    verify_signature(alice.chain[0], Signature(SignType.RSA_PSS, pss), b"x")
    with pytest.raises(AuthenticationFailure):
        verify_signature(alice.chain[0], Signature(SignType.ECCSI, pss), b"x")
    with pytest.raises(AuthenticationFailure):
        verify_signature(alice.chain[0], Signature(SignType.RSA_PSS, pss), b"y")


def test_no_certificate_is_fetched_from_anywhere():
    with pytest.raises(MalformedMessage):
        der_chain((Certificate(CertType.X509_V3_URL, b"http://evil.example/"),))


def test_the_profile_says_whether_public_keys_are_taken_at_all():
    stage = stage_with_pk()
    stage.authority.profile = DEFAULT_PROFILE
    with pytest.raises(MikeyError) as refused:
        grant(stage, request(stage, user("alice")).message)
    assert refused.value.number == 11


def test_no_private_key_is_shown():
    assert "RSA" not in repr(user("alice"))
    assert "Certificate" not in repr(kms_pair())


def test_another_wish_another_user():
    stage = stage_with_pk(wish=Wish((ALICE,)))
    asked = request(stage, user("bob"), BOB)
    assert asked.receive(grant(stage, asked.message).response, stage.tick()).initiator == BOB
    with pytest.raises(InvalidIdentity):
        grant(stage, request(stage, user("bob"), MALLORY).message)
