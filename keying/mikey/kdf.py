"""Key derivation of MIKEY and MIKEY-TICKET: the PRF, the constants, and one function for each label.

A label is a constant and the scope of the key: ``*_scope`` make the latter. Every function that derives returns
:class:`keying.secret.Secret` and raises Unspecified for a key below 128 bits (RFC 6043 12.1).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import IntEnum

from keying.mikey.errors import InvalidEncryption, InvalidMac, InvalidPrf, Unspecified
from keying.mikey.registry import EncrAlg, MacAlg, PrfFunc
from keying.secret import Secret

MIN_KEY_OCTETS = 16
"""All keys have at least 128 bits (RFC 6043 12.1)."""
SALT_BITS = 112
"""Salt of AES-CM in a KEMAC, and SRTP master salt of the AES-CM transforms."""
_INKEY_BLOCK_OCTETS = 32
"""The inkey is cut into blocks of 256 bits with either PRF (RFC 3830 4.1.2, RFC 6043 6.1)."""
_ANY_SESSION = 0xFF
_ANY_BUNDLE = 0xFFFFFFFF


class Constant(IntEnum):
    """First four octets of a label (RFC 3830 4.1.3 and 4.1.4, RFC 6043 tables 5.1 and A.1)."""

    TEK = 0x2AD01C64
    """TEK from TGK."""
    TGK_AUTH = 0x1B5C7973
    TGK_ENCR = 0x15798CEF
    TGK_SALT = 0x39A2C14B
    ENCR = 0x150533E1
    """Encryption key from PSK, envelope key, MPK or TPK."""
    AUTH = 0x2D22AC75
    SALT = 0x29B88916
    FORK_MPKR = 0x2B288856
    FORK_TGK = 0x1512B54A
    MPKI = 0x220E99A2
    MPKR = 0x1F4D675B


class Phase(IntEnum):
    """The octet of a MIKEY-TICKET label that keeps its uses apart (RFC 6043 5.1, 6.10, A.2)."""

    FORK = 0
    INITIAL = 1
    """Keys that protect a *_INIT message."""
    RESPONSE = 2
    """Keys that protect a *_RESP message."""
    SESSION = 3
    INITIATOR_DATA = 4
    TICKET = 5
    MPK = 6


@dataclass(frozen=True, slots=True)
class Suite:
    """Algorithms that go together, and their key lengths in bits (RFC 6043 12.1)."""

    name: str
    prf: PrfFunc
    encr_alg: EncrAlg
    mac_alg: MacAlg
    encr_bits: int
    auth_bits: int
    key_bits: int
    """PSK-derived and ticket keys made under it: MPK, TGK, TEK."""
    salt_bits: int = SALT_BITS


SUITES = {
    suite.name: suite
    for suite in (
        Suite("128", PrfFunc.MIKEY_1, EncrAlg.AES_CM_128, MacAlg.HMAC_SHA_1_160, 128, 160, 128),
        Suite("256", PrfFunc.PRF_HMAC_SHA_256, EncrAlg.AES_CM_256, MacAlg.HMAC_SHA_256_256, 256, 256, 256),
    )
}
"""256-bit algorithms are never mixed with shorter ones (RFC 6043 12.1), so these are all."""


def suite_of(prf_func: PrfFunc, mac_alg: MacAlg | None = None, encr_alg: EncrAlg | None = None) -> Suite:
    """Return the suite of a message's PRF (RFC 6043 12.1).

    Raises InvalidPrf, or InvalidMac or InvalidEncryption for an algorithm that does not go with the PRF.
    """
    for suite in SUITES.values():
        if suite.prf == prf_func:
            break
    else:
        raise InvalidPrf("PRF func", f"{int(prf_func)} is not done")
    if mac_alg is not None and mac_alg != suite.mac_alg:
        raise InvalidMac("MAC alg", f"{mac_alg.name} does not go with {suite.prf.name}")
    if encr_alg is not None and encr_alg != suite.encr_alg:
        raise InvalidEncryption("Encr alg", f"{encr_alg.name} does not go with {suite.prf.name}")
    return suite


@dataclass(frozen=True, slots=True)
class MessageKeys:
    """What protects a message or Ticket Data."""

    encr: Secret
    salt: Secret
    auth: Secret


_HASHES = {PrfFunc.MIKEY_1: "sha1", PrfFunc.PRF_HMAC_SHA_256: "sha256"}


def prf(func: PrfFunc, inkey: Secret, label: bytes, bits: int) -> Secret:
    """Return `bits` bits (a multiple of eight) of PRF(inkey, label) (RFC 3830 4.1.2, RFC 6043 6.1)."""
    digest = _HASHES.get(func)
    if digest is None:
        raise InvalidPrf("PRF func", f"{int(func)} is not done")
    octets = inkey.reveal()
    if len(octets) < MIN_KEY_OCTETS:
        raise Unspecified("key", f"{8 * len(octets)} bits, 128 are the least")
    if bits <= 0 or bits % 8:
        raise ValueError("keys are whole octets")
    length = bits // 8
    result = 0
    for start in range(0, len(octets), _INKEY_BLOCK_OCTETS):
        block = octets[start : start + _INKEY_BLOCK_OCTETS]
        result ^= int.from_bytes(_p(block, label, length, digest))
    return Secret(result.to_bytes(length))


def _p(block: bytes, label: bytes, length: int, digest: str) -> bytes:
    output, a = b"", label
    while len(output) < length:
        a = hmac.digest(block, a, digest)
        output += hmac.digest(block, a + label, digest)
    return output[:length]


def label(constant: Constant, scope: bytes) -> bytes:
    """Return the label of a MIKEY-TICKET key."""
    return constant.to_bytes(4) + scope


def message_scope(phase: Phase, csb_id: int, rand_i: bytes, rand_r: bytes) -> bytes:
    """Return the scope of the keys that protect a message (RFC 6043 5.1.2)."""
    return _scope(_ANY_SESSION, csb_id, phase) + _lv8(rand_i) + _lv8(rand_r)


def ticket_scope(rand: bytes) -> bytes:
    """Return the scope of the keys of Ticket Data, with the RAND inside (RFC 6043 A.2.1)."""
    return _scope(_ANY_SESSION, _ANY_BUNDLE, Phase.TICKET) + _lv8(rand)


def mpk_scope(rand: bytes) -> bytes:
    """Return the scope of MPKi and MPKr, with the RAND in Ticket Data (RFC 6043 A.2.2)."""
    return _scope(_ANY_SESSION, _ANY_BUNDLE, Phase.MPK) + _lv8(rand)


def fork_scope(id_data: bytes, rand_kms: bytes) -> bytes:
    """Return the scope of forked keys, whose modifier is the data of IDRr and RANDRkms (RFC 6043 5.1.1)."""
    modifier = len(id_data).to_bytes(2) + id_data + _lv8(rand_kms)
    return _scope(_ANY_SESSION, _ANY_BUNDLE, Phase.FORK) + modifier


def session_scope(cs_id: int, rand_i: bytes, rand_r: bytes) -> bytes:
    """Return the scope of a crypto session's keys (RFC 6043 5.1.3)."""
    return _scope(cs_id, _ANY_BUNDLE, Phase.SESSION) + _lv8(rand_i) + _lv8(rand_r)


def message_keys(
    func: PrfFunc, inkey: Secret, phase: Phase, csb_id: int, rand_i: bytes, rand_r: bytes, suite: Suite
) -> MessageKeys:
    """Return the keys of a MIKEY-TICKET message (RFC 6043 5.1.2).

    `inkey` is PSK, envelope key, MPKi or MPKr'; `phase` INITIAL or RESPONSE. RANDRi enters in Request and Transfer,
    RANDRr in Resolve and in TRANSFER_RESP when the G flag is set; the other is empty.
    """
    return _keys(func, inkey, message_scope(phase, csb_id, rand_i, rand_r), suite)


def ticket_keys(func: PrfFunc, tpk: Secret, rand: bytes, suite: Suite) -> MessageKeys:
    """Return the keys of Ticket Data; `func` is the policy's PRF, `rand` the RAND inside (RFC 6043 A.2.1)."""
    return _keys(func, tpk, ticket_scope(rand), suite)


def mpki(func: PrfFunc, mpk: Secret, rand: bytes) -> Secret:
    """Return MPKi; `func` is the policy's PRF, `rand` the RAND in Ticket Data (RFC 6043 A.2.2)."""
    return prf(func, mpk, label(Constant.MPKI, mpk_scope(rand)), 8 * len(mpk))


def mpkr(func: PrfFunc, mpk: Secret, rand: bytes) -> Secret:
    """Return MPKr; `func` is the policy's PRF, `rand` the RAND in Ticket Data (RFC 6043 A.2.2)."""
    return prf(func, mpk, label(Constant.MPKR, mpk_scope(rand)), 8 * len(mpk))


def fork(func: PrfFunc, key: Secret, constant: Constant, id_data: bytes, rand_kms: bytes) -> Secret:
    """Return MPKr' (FORK_MPKR) or TGK' (FORK_TGK) as long as `key` (RFC 6043 5.1.1).

    `func` is the policy's PRF, `id_data` the data of the IDRr in RESOLVE_RESP and TRANSFER_RESP.
    """
    if constant not in {Constant.FORK_MPKR, Constant.FORK_TGK}:
        raise ValueError("not a constant of key forking")
    return prf(func, key, label(constant, fork_scope(id_data, rand_kms)), 8 * len(key))


def vr_auth_key(func: PrfFunc, mpkr_key: Secret, suite: Suite) -> Secret:
    """Return the key of Vr in Initiator Data from the unforked MPKr (RFC 6043 6.10).

    The RFC does not name the PRF: the policy's is assumed, as the KMS that checks Vr has no other.
    """
    return prf(func, mpkr_key, label(Constant.AUTH, INITIATOR_DATA_SCOPE), suite.auth_bits)


def tek(func: PrfFunc, tgk: Secret, cs_id: int, rand_i: bytes, rand_r: bytes, bits: int) -> Secret:
    """Return the TEK of a crypto session from TGK, TGK' or GTGK; `func` is the PRF of HDR (RFC 6043 5.1.3).

    `rand_i` is empty unless the H flag is set, `rand_r` unless the G flag is.
    """
    return _session(func, tgk, Constant.TEK, cs_id, rand_i, rand_r, bits)


def session_salt(func: PrfFunc, tgk: Secret, cs_id: int, rand_i: bytes, rand_r: bytes, bits: int = SALT_BITS) -> Secret:
    """Return the salt of a crypto session, where the Key data carried none (RFC 6043 5.1.3)."""
    return _session(func, tgk, Constant.TGK_SALT, cs_id, rand_i, rand_r, bits)


def _session(
    func: PrfFunc, tgk: Secret, constant: Constant, cs_id: int, rand_i: bytes, rand_r: bytes, bits: int
) -> Secret:
    if not rand_i and not rand_r:
        raise Unspecified("RANDR", "neither side's random value enters the session keys (RFC 6043 5.1.3)")
    return prf(func, tgk, label(constant, session_scope(cs_id, rand_i, rand_r)), bits)


def _keys(func: PrfFunc, inkey: Secret, scope: bytes, suite: Suite) -> MessageKeys:
    return MessageKeys(
        encr=prf(func, inkey, label(Constant.ENCR, scope), suite.encr_bits),
        salt=prf(func, inkey, label(Constant.SALT, scope), suite.salt_bits),
        auth=prf(func, inkey, label(Constant.AUTH, scope), suite.auth_bits),
    )


def _scope(cs_id: int, csb_id: int, phase: Phase) -> bytes:
    return bytes([cs_id]) + csb_id.to_bytes(4) + bytes([phase])


def _lv8(value: bytes) -> bytes:
    return bytes([len(value)]) + value


INITIATOR_DATA_SCOPE = _scope(_ANY_SESSION, _ANY_BUNDLE, Phase.INITIATOR_DATA)
"""Scope of the key of Vr (RFC 6043 6.10)."""
