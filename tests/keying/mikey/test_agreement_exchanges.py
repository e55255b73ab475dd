"""Exchanges played by keying.mikey, of every kind, and verified by the path that was written apart from it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from keying.mikey.authority import Authority
from keying.mikey.groups import Groups
from keying.mikey.identity import Identity
from keying.mikey.payloads import KeyData
from keying.mikey.pk import KmsKeyPair, PkCredential, Trust
from keying.mikey.policy import WantedKey, Wish
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import KeyDataType
from keying.mikey.request import TicketRequest
from keying.mikey.resolve import TicketResolve
from keying.mikey.sessions import SessionKeys, srtp_session
from keying.secret import Secret
from tests.keying.mikey.independent.rfc6043 import Verified, verify_exchange
from tests.keying.mikey.independent.update import verify_update
from tests.keying.mikey.independent.wire import Mismatch, parse
from tests.keying.mikey.stage import ALICE, BOB, BOBS_STREAM, CAROL, KMS, LONG, NOW, Played, Stage, counting

pytestmark = pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")

TGKS = (KeyDataType.TGK, KeyDataType.TGK_SALT)
SESSION_KEY_TYPES = [kind for kind in KeyDataType if kind is not KeyDataType.MPK]


def revealed(keys: SessionKeys) -> dict[int, tuple[bytes, bytes, bytes]]:
    return {cs_id: (each.tek.reveal(), each.salt.reveal(), each.spi) for cs_id, each in keys.by_cs_id.items()}


def seen(verified: Verified) -> dict[int, tuple[bytes, bytes, bytes]]:
    return {cs_id: (each["tek"], each["salt"], each["spi"]) for cs_id, each in verified.sessions.items()}


def assert_agreed(played: Played) -> Verified:
    """Initiator, responder and the independent verifier hold the same keys."""
    verified = verify_exchange(played.for_verifier())
    assert seen(verified) == revealed(played.established.keys) == revealed(played.accepted.keys)
    assert verified.keys["MPKi"] == played.ticket.mpki.key.reveal() == played.resolution.mpki.key.reveal()
    if played.ticket.forking:
        assert verified.keys["MPKr"] == played.ticket.mpkr.key.reveal()
        assert verified.keys["MPKr'"] == played.resolution.forked_mpkr.key.reveal()
        assert verified.rand_kms == played.resolution.rand_kms
    else:
        assert played.ticket.mpkr is None
        assert played.resolution.forked_mpkr is None
    assert [key["data"] for key in verified.session_keys[: len(verified.master)]] == [
        key.key.reveal() for key in played.resolution.keys
    ]
    assert played.established.initiator.data == played.accepted.initiator.data == verified.initiator
    return verified


@st.composite
def wishes(draw: st.DrawFn, key_octets: int) -> Wish:
    """Any wish that obeys the rules between the flags (RFC 6043 6.10)."""
    response, forking = draw(st.booleans()), draw(st.booleans())
    responder_rand = response and draw(st.booleans())
    kinds = draw(st.lists(st.sampled_from(SESSION_KEY_TYPES), max_size=4))
    if forking and not response:
        kinds = [kind for kind in kinds if kind not in TGKS] or [KeyDataType.GTGK]
    if kinds[:1] == [KeyDataType.TEK]:  # the streams take the first key, and SRTP wants a salt from somewhere
        kinds[0] = KeyDataType.TEK_SALT
    keys = tuple(
        WantedKey(kind, 16 if kind in (KeyDataType.TEK, KeyDataType.TEK_SALT) else key_octets) for kind in kinds
    )
    if key_octets == 32:  # the suite of the streams wants a master key of 32 octets
        keys = tuple(replace(key, length=32) for key in keys)
    return Wish(
        responders=draw(st.sampled_from([(BOB,), (CAROL, BOB), (BOB, CAROL)])),
        forking=forking,
        reusable=draw(st.booleans()),
        response=response,
        responder_rand=responder_rand,
        initiator_rand=not responder_rand or draw(st.booleans()),
        resolve=True,
        initiator_keys=draw(st.booleans()),
        responder_keys=response and draw(st.booleans()),
        validity_s=draw(st.sampled_from([None, 60.0, 3600.0, 86400.0 * 365])),
        rekey_interval_s=draw(st.sampled_from([None, 300])),
        keys=keys,
    )


def own_keys(kind: KeyDataType, octets: int, spi: bytes) -> tuple[KeyData, ...]:
    salt = Secret(b"\x5a" * 14) if kind.salted else None
    return (KeyData(kind, Secret(spi * (octets // len(spi))), salt, spi),)


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    profile = draw(st.sampled_from([DEFAULT_PROFILE, LONG]))
    octets = 32 if profile is LONG else 16
    wish = draw(wishes(octets))
    stage = Stage(
        profile=profile, wish=wish, streams=draw(st.integers(1, 6)), draw=counting(draw(st.integers(0, 2**16)))
    )
    if wish.initiator_keys and draw(st.booleans()):
        stage.initiator_keys = own_keys(draw(st.sampled_from(SESSION_KEY_TYPES)), octets, b"aaaa")
    if wish.responder_keys and draw(st.booleans()):
        stage.responder_keys = own_keys(draw(st.sampled_from(SESSION_KEY_TYPES)), octets, b"bbbb")
    return stage


@settings(max_examples=150)
@given(stages())
def test_every_kind_of_exchange_is_verified_from_outside(stage):
    verified = assert_agreed(stage.play())
    assert len(verified.sessions) == stage.streams


@pytest.mark.clause("TS 33.328", "D-3")
@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
@pytest.mark.parametrize("forking", [True, False])
def test_the_usual_call_is_verified_from_outside(profile, forking):
    verified = assert_agreed(Stage(profile=profile, wish=Wish(responders=(BOB,), forking=forking)).play())
    assert verified.responder == BOB.data
    assert {cs["data"][:4] for cs in verified.sessions.values()} == {
        bytes.fromhex("01020301"),
        (BOBS_STREAM + 2).to_bytes(4, "big"),
    }


@pytest.mark.parametrize("forking", [True, False])
def test_a_ticket_the_initiator_made_itself_is_verified_from_outside(forking):
    played = Stage(mode=3, wish=Wish(responders=(BOB,), forking=forking)).play()
    verified = assert_agreed(played)
    assert (verified.ticket["flags"]["D"], verified.ticket["flags"]["L"]) == (0, 1)


def test_without_response_the_initiator_alone_sets_the_keys():
    keys = (WantedKey(KeyDataType.GTGK),)
    wish = Wish(responders=(BOB,), response=False, responder_rand=False, keys=keys)
    played = Stage(wish=wish, streams=1).play()
    assert played.accepted.response is None
    assert_agreed(played)


@pytest.mark.parametrize("authorised", ["sip:*@ims.test", "sip:helpdesk@ims.test"])
def test_whoever_answers_for_a_group_is_named_by_the_kms(authorised):
    groups = Groups({"sip:helpdesk@ims.test": ["sip:bob@ims.test", "sip:carol@ims.test"]})
    target = Identity.uri(authorised)
    played = Stage(wish=Wish(responders=(target,)), peer=target, groups=groups).play()
    exchange = played.for_verifier()
    verified = verify_exchange(exchange)
    assert verified.responder == played.established.responder.data == played.resolution.responder.data
    assert seen(verified) == revealed(played.established.keys)


@pytest.mark.clause("RFC 6043", "12.2")
@pytest.mark.clause("TS 33.328", "D-4")
def test_two_branches_of_a_fork_share_the_ticket_and_no_key():
    stage = Stage(wish=Wish(responders=(BOB, CAROL)))
    first = stage.play()
    second = Played(octets=dict(first.octets), authority=first.authority, key=first.key, ticket=first.ticket)
    stage.own, stage.endpoint = (CAROL,), b"btid-carol"
    second.initiator = first.initiator
    second.responder = stage.respond(first.initiator.message, replay=None)
    second.resolve = stage.ask(second.responder)
    answer = stage.answer(second.resolve.message)
    second.resolution = second.resolve.receive(answer, stage.tick())
    second.accepted = stage.accept(second.responder, second.resolution)
    second.established = stage.finish(first.initiator, second.accepted)
    second.octets |= {"RESOLVE_INIT": second.resolve.message, "RESOLVE_RESP": answer}
    second.octets["TRANSFER_RESP"] = second.accepted.response
    one, other = assert_agreed(first), assert_agreed(second)
    assert (one.responder, other.responder) == (BOB.data, CAROL.data)
    assert one.keys["MPKr'"] != other.keys["MPKr'"]
    assert not {cs["tek"] for cs in one.sessions.values()} & {cs["tek"] for cs in other.sessions.values()}
    mixed = first.for_verifier() | {"TRANSFER_RESP": second.octets["TRANSFER_RESP"]}
    with pytest.raises(Exception, match="modifier"):
        verify_exchange(mixed)


@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
@pytest.mark.parametrize("forking", [True, False])
def test_a_reused_ticket_keeps_the_modifier_and_makes_new_keys(forking):
    stage = Stage(wish=Wish(responders=(BOB,), reusable=True, forking=forking))
    played = stage.play()
    one = assert_agreed(played)
    other = assert_agreed(stage.transfer(played))
    assert one.rand_kms == other.rand_kms
    assert one.keys.get("MPKr'") == other.keys.get("MPKr'")
    assert one.messages["TRANSFER_INIT"].csb_id != other.messages["TRANSFER_INIT"].csb_id
    assert not {cs["tek"] for cs in one.sessions.values()} & {cs["tek"] for cs in other.sessions.values()}


@pytest.mark.parametrize("starter", ["i", "r"])
@pytest.mark.parametrize("response", [True, False])
@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("profile", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
@pytest.mark.parametrize("forking", [True, False])
def test_updates_are_verified_from_outside(starter, response, with_key, profile, forking):
    octets = 32 if profile is LONG else 16
    wish = Wish(responders=(BOB,), forking=forking, initiator_keys=True, responder_keys=True)
    stage = Stage(profile=profile, wish=wish)
    played = stage.play()
    verified = assert_agreed(played)
    sides = [played.established.association, played.accepted.association]
    ours, theirs = sides if starter == "i" else sides[::-1]
    spi = b"new1" if with_key else next(iter(played.established.keys.by_cs_id.values())).spi
    keys = own_keys(KeyDataType.TGK, octets, spi) if with_key else ()
    wanted = [replace(session, spi=spi) for session in ours.sessions]
    wanted.append(srtp_session(3, wanted[0].policies, 0x01020303, spi))
    started = ours.start(stage.tick(), keys=keys, sessions=wanted, response=response)
    received = theirs.receive(started.message, stage.tick())
    assert received.response_wanted is response
    answer, their_keys = received.accept(stage.tick())
    our_keys = started.finish() if answer is None else started.receive(answer, stage.tick())
    fresh = verify_update(verified, started.message, answer, starter)
    assert seen(fresh) == revealed(our_keys) == revealed(their_keys)
    assert revealed(ours.keys) == revealed(theirs.keys) == revealed(our_keys)
    if with_key:
        assert not {cs["tek"] for cs in fresh.sessions.values()} & {cs["tek"] for cs in verified.sessions.values()}
    else:
        assert seen(fresh).items() >= seen(verified).items()


# --- certificates in place of pre-shared keys -------------------------------------------------------------------------


def certified(subject: str, uri: str, issuer: x509.Certificate | None, issuer_key: RSAPrivateKey | None):
    """A certificate for `uri` and its key; without issuer an authority that signs itself."""
    key = generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    start = dt.datetime.fromtimestamp(NOW, dt.UTC)
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=issuer.subject if issuer else name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start - dt.timedelta(days=1)).not_valid_after(start + dt.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256()), key


@pytest.mark.clause("RFC 6043", "4.2.3.3")
@pytest.mark.parametrize("base", [DEFAULT_PROFILE, LONG], ids=["128", "256"])
def test_request_and_resolve_under_certificates_are_verified_from_outside(base):
    authority, authority_key = certified("authority", "urn:authority", None, None)
    kms, kms_key = certified("kms", "urn:kms", authority, authority_key)
    profile = replace(base, accept_public_key=True)
    stage = Stage(profile=profile)
    pair, trust = KmsKeyPair(kms_key, kms), Trust([authority])
    stage.authority = Authority(profile, KMS, pk=pair, trust=trust, modifier_secret=Secret(b"m" * 32))
    users = {}
    for name, who in (("alice", ALICE), ("bob", BOB)):
        certificate, key = certified(name, who.text, authority, authority_key)
        users[name] = PkCredential(key, (certificate,), kms)

    def envelope(octets: bytes) -> bytes:
        return kms_key.decrypt(parse(octets).get("PKE")["data"], PKCS1v15())

    request = TicketRequest(
        profile, users["alice"], initiator=ALICE, kms=KMS, wish=stage.wish, now=stage.tick(), entropy=stage.draw
    )
    asked = stage.authority.read_request(request.message, stage.tick()).authenticate(None, stage.now)
    granted = asked.grant(stage.key, stage.now)
    initiator = stage.initiate(request.receive(granted.response, stage.tick()))
    responder = stage.respond(initiator.message)
    resolve = TicketResolve(
        profile, users["bob"], responder.ticket, responder=BOB, kms=KMS, now=stage.tick(), entropy=stage.draw
    )
    resolving = stage.authority.read_resolve(resolve.message, stage.tick()).authenticate(None, stage.now)
    resolution = stage.authority.resolve_ticket(resolving.ticket, [BOB], stage.find_tpk, stage.now)
    answer = resolving.answer(resolution, stage.now)
    accepted = stage.accept(responder, resolve.receive(answer, stage.tick()))
    established = stage.finish(initiator, accepted)
    exchange = {
        "REQUEST_INIT": request.message,
        "REQUEST_RESP": granted.response,
        "TRANSFER_INIT": initiator.message,
        "RESOLVE_INIT": resolve.message,
        "RESOLVE_RESP": answer,
        "TRANSFER_RESP": accepted.response,
        "psk_i": envelope(request.message),
        "psk_r": envelope(resolve.message),
        "tpk": stage.key.key.reveal(),
    }
    assert seen(verify_exchange(exchange)) == revealed(established.keys)
    for name in ("REQUEST_INIT", "RESOLVE_INIT"):
        spoilt = bytearray(exchange[name])
        spoilt[-1] ^= 1
        with pytest.raises(Mismatch, match="signature"):
            verify_exchange(exchange | {name: bytes(spoilt)})
