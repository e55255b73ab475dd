"""Two paths, written apart, have to agree: keying.mikey and the verifier that was read from the RFCs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keying.mikey import cipher, codec, kdf, registry
from keying.mikey.errors import MikeyError
from keying.mikey.ntp import to_unix
from keying.mikey.payloads import Id, KeyData, Message, Payload, TicketPayload, TicketPolicyPayload, Timestamp
from keying.mikey.registry import EncrAlg, KeyDataType, MacAlg, PrfFunc, TicketFlag
from keying.secret import Secret
from tests.keying.mikey.independent import crypto, forge, wire
from tests.keying.mikey.independent.example import EXCHANGE, KEYS

MESSAGES = [name for name in EXCHANGE if name.isupper()]
IANA = json.loads((Path(__file__).parent / "iana.json").read_text())


# --- code points -----------------------------------------------------------------------------------------------------

REGISTRIES = {
    "data type": registry.DataType,
    "next payload": registry.NextPayload,
    "prf func": registry.PrfFunc,
    "cs id map type": registry.CsIdMapType,
    "encr alg": registry.EncrAlg,
    "mac alg": registry.MacAlg,
    "ts type": registry.TsType,
    "ts role": registry.TsRole,
    "id type": registry.IdType,
    "id role": registry.IdRole,
    "rand role": registry.RandRole,
    "cert type": registry.CertType,
    "hash func": registry.HashFunc,
    "s type": registry.SignType,
    "key data type": registry.KeyDataType,
    "kv": registry.KvType,
    "prot type": registry.ProtType,
    "error no": registry.ErrorNumber,
    "general extension": registry.ExtensionType,
    "srtp parameter": registry.SrtpParameter,
}


@pytest.mark.clause("TS 33.328", "D-1", "D-2")
@pytest.mark.parametrize("name", REGISTRIES)
def test_code_points_are_those_of_the_registry(name):
    ours = {member.value for member in REGISTRIES[name]}
    assert {int(value) for value in IANA[name]} <= ours


@pytest.mark.clause("TS 33.328", "D-1", "D-2")
def test_names_stand_at_the_right_numbers():
    for name in ("data type", "next payload", "error no", "key data type", "encr alg", "mac alg", "ts type", "id role"):
        for value, label in IANA[name].items():
            ours, theirs = (set(_words(text)) for text in (REGISTRIES[name](int(value)).name, label))
            assert ours & theirs or (name, value) in SPELT_ELSE, (name, value, label)


SPELT_ELSE = {("data type", "1"), ("data type", "3"), ("next payload", "20"), ("id role", "4")}


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.upper().replace("D-H", "DH")).split()


def test_lengths_flags_and_constants_are_those_of_the_rfcs():
    assert {str(alg.value): alg.length for alg in registry.MacAlg} == IANA["mac length"]
    assert {str(kind.value): kind.length for kind in registry.TsType} == IANA["ts length"]
    assert {flag.name: f"{flag.value:06X}" for flag in TicketFlag} == {
        k: v.upper() for k, v in IANA["ticket flag"].items()
    }
    names = {"TEK": "TEK", "TGK auth": "TGK_AUTH", "TGK encr": "TGK_ENCR", "TGK salt": "TGK_SALT", "encr": "ENCR"}
    names |= {
        "auth": "AUTH",
        "salt": "SALT",
        "fork MPKr": "FORK_MPKR",
        "fork TGK": "FORK_TGK",
        "MPKi": "MPKI",
        "MPKr": "MPKR",
    }
    assert {name: f"{kdf.Constant[names[name]].value:08X}" for name in names} == IANA["constant"]


# --- octets and derivations ------------------------------------------------------------------------------------------


def assert_same_reading(octets: bytes) -> None:
    """What keying.mikey reads, the independent path reads alike, field by field."""
    ours, theirs = codec.decode(octets), wire.parse(octets)
    header = ours.header
    assert (header.data_type, header.prf, header.csb_id.to_bytes(4, "big"), header.verification, header.map_type) == (
        theirs.data_type,
        theirs.prf,
        theirs.csb_id,
        bool(theirs.v),
        theirs.map_type,
    )
    assert len(ours.payloads) == len(theirs.payloads)
    assert list(ours.spans) == [(payload["start"], payload["end"]) for payload in theirs.payloads]
    if header.map_type == registry.CsIdMapType.GENERIC_ID:
        for session, block in zip(header.sessions, theirs.sessions, strict=True):
            assert (session.cs_id, session.prot_type, session.rollover, list(session.policies)) == (
                block["cs_id"],
                block["prot"],
                bool(block["s"]),
                block["policies"],
            )
            assert (session.session_data, session.spi) == (block["data"], block["spi"])
    for payload, block in zip(ours.payloads, theirs.payloads, strict=True):
        assert_same_payload(payload, block)
    assert codec.encode(ours) == octets


def assert_same_payload(payload: Payload, block: dict[str, Any]) -> None:
    for ours, theirs in (("data", "data"), ("value", "value"), ("value", "data"), ("mac", "mac"), ("auth_alg", "alg")):
        if (
            hasattr(payload, ours)
            and theirs in block
            and not (ours == "value" and "value" in block and theirs == "data")
        ):
            assert getattr(payload, ours) == block[theirs]
    if isinstance(payload, (TicketPayload, TicketPolicyPayload)):
        policy = payload.policy
        assert (policy.ticket_type, policy.subtype, policy.version) == block["kind"]
        assert (policy.prf, policy.reserved) == (block["prf"], block["reserved"])
        assert {flag: bool(policy.flags & TicketFlag[flag]) for flag in wire.FLAGS} == {
            flag: bool(value) for flag, value in block["flags"].items()
        }
        assert len(policy.payloads) == len(block["policy"])
        for inner, inside in zip(policy.payloads, block["policy"], strict=True):
            assert_same_payload(inner, inside)
    if isinstance(payload, TicketPayload):
        assert (payload.ticket_data, payload.initiator_data) == (block["data"], block["initiator_data"])
    if isinstance(payload, Timestamp) and payload.ts_type is not registry.TsType.COUNTER:
        assert to_unix(payload) == crypto.unix(block)


@pytest.mark.clause("TS 33.328", "D-2")
@pytest.mark.parametrize("name", MESSAGES)
def test_both_read_the_example_alike(name):
    assert_same_reading(EXCHANGE[name])


@settings(max_examples=400)
@given(st.sampled_from(MESSAGES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3))
@example("REQUEST_INIT", [(2, 5)])
def test_what_ours_accepts_of_spoilt_octets_both_read_alike(name, changes):
    octets = bytearray(EXCHANGE[name])
    for place, value in changes:
        octets[place % len(octets)] = value
    try:
        message = codec.decode(bytes(octets))
    except MikeyError:
        return
    if not _holds_id(message):  # the independent path knows IDR alone, as the RFC wants it
        assert_same_reading(bytes(octets))


def _holds_id(message: Message) -> bool:
    inner = [payload.policy.payloads for payload in message.payloads if hasattr(payload, "policy")]
    return any(isinstance(payload, Id) for chain in (message.payloads, *inner) for payload in chain)


@given(
    st.sampled_from([0, 1]),
    st.binary(min_size=16, max_size=80),
    st.binary(max_size=64),
    st.integers(1, 80).map(lambda octets: octets * 8),
)
def test_prfs_agree(function, inkey, label, bits):
    assert kdf.prf(PrfFunc(function), Secret(inkey), label, bits).reveal() == crypto.prf(function, inkey, label, bits)


@pytest.mark.clause("RFC 6043", "5.1.2")
@given(
    st.sampled_from(["128", "256"]),
    st.binary(min_size=16, max_size=48),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=255),
    st.binary(max_size=255),
    st.sampled_from([1, 2]),
)
def test_message_keys_agree(suite, inkey, csb_id, rand_i, rand_r, phase):
    row = kdf.SUITES[suite]
    ours = kdf.message_keys(row.prf, Secret(inkey), kdf.Phase(phase), csb_id, rand_i, rand_r, row)
    label = crypto.message_label(csb_id.to_bytes(4, "big"), phase, rand_i, rand_r)
    theirs = crypto.protection(int(row.prf), inkey, label, int(row.encr_alg), int(row.mac_alg))
    assert {use: getattr(ours, use).reveal() for use in theirs} == theirs


@pytest.mark.clause("RFC 6043", "5.1.1")
@given(
    st.sampled_from([0, 1]),
    st.binary(min_size=16, max_size=32),
    st.binary(max_size=300),
    st.binary(min_size=16, max_size=255),
)
def test_forks_agree(function, inkey, identity, rand_kms):
    for name, constant in (("fork MPKr", kdf.Constant.FORK_MPKR), ("fork TGK", kdf.Constant.FORK_TGK)):
        ours = kdf.fork(PrfFunc(function), Secret(inkey), constant, identity, rand_kms).reveal()
        assert ours == crypto.fork(function, name, inkey, identity, rand_kms)


@given(
    st.sampled_from([(EncrAlg.AES_CM_128, 16), (EncrAlg.AES_CM_256, 32)]),
    st.binary(min_size=78, max_size=78),
    st.integers(0, 2**32 - 1),
    st.lists(st.binary(min_size=16, max_size=32), min_size=1, max_size=6),
)
def test_key_transport_agrees(alg, material, csb_id, keys):
    encr, salt, auth, time = material[: alg[1]], material[32:46], material[46:66], material[66:74]
    plain = [KeyData(KeyDataType.GTGK_SALT, Secret(key), Secret(b"s" * 14), bytes([n])) for n, key in enumerate(keys)]
    under = kdf.MessageKeys(Secret(encr), Secret(salt), Secret(auth))
    sealed = cipher.seal_kemac(alg[0], under, csb_id, time, plain)
    parts = [forge.key(5, key, bytes([n]), b"s" * 14) for n, key in enumerate(keys)]
    boxed = forge.encrypted(parts, {"encr": encr, "salt": salt}, csb_id.to_bytes(4, "big"), time, int(alg[0]))
    assert codec.encode_chain([sealed]) == (1, b"\0" + boxed[1])


@pytest.mark.clause("RFC 6043", "5.5")
@pytest.mark.clause("TS 33.328", "D-8", "D-9", "D-10")
@pytest.mark.parametrize("name", MESSAGES)
def test_mac_inputs_agree_on_the_example(name):
    octets = EXCHANGE[name]
    ours = codec.without_initiator_data(octets) if name == "TRANSFER_INIT" else codec.without_mac(octets)
    key, alg = Secret(bytes.fromhex(KEYS[f"{name}.auth"])), MacAlg.HMAC_SHA_1_160
    initial = EXCHANGE.get(name.replace("RESP", "INIT"), b"")
    identities = {"REQUEST": b"sip:alice@a.examplekms.a.example", "RESOLVE": b"sip:bob@b.examplekms.a.example"}
    identities["TRANSFER"] = b"sip:alice@a.examplesip:bob@b.example"
    behind = initial if name.endswith("RESP") else identities[name.split("_")[0]]
    cipher.verify_mac(alg, key, ours + behind, octets[-20:])


def test_the_ticket_mac_agrees_on_the_example():
    ticket = next(p for p in codec.decode(EXCHANGE["TRANSFER_INIT"]).payloads if isinstance(p, TicketPayload))
    covered = codec.ticket_mac_input(ticket.policy, ticket.ticket_data)
    cipher.verify_mac(
        MacAlg.HMAC_SHA_1_160, Secret(bytes.fromhex(KEYS["ticket.auth"])), covered, ticket.ticket_data[-20:]
    )
