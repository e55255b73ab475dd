"""Crypto sessions: SRTP policies by suite name, the keys of each session (RFC 6043 5.1.3, 6.1.1; RFC 3830 6.10.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keying.mikey.errors import InvalidPolicy, InvalidPolicyParameter, MalformedMessage, Unspecified
from keying.mikey.kdf import session_salt, tek
from keying.mikey.kdf import suite_of as algorithms_of
from keying.mikey.payloads import CryptoSession, KeyData, SecurityPolicy
from keying.mikey.registry import KeyDataType, PrfFunc, ProtType, SrtpEncryption, SrtpParameter
from keying.secret import Secret
from keying.suites import DEFAULT_SUITES, CryptoSuite


@dataclass(frozen=True, slots=True)
class CryptoSessionKeys:
    """The keys of one crypto session. `tek` is the SRTP master key, `salt` the master salt, `spi` the MKI.

    `ssrc` is None where the session is not SRTP; `salt` is empty where the protocol has none. `suite` names the SRTP
    suite as :data:`keying.suites.DEFAULT_SUITES` does, empty for other protocols.
    """

    cs_id: int
    prot_type: int
    ssrc: int | None
    spi: bytes
    tek: Secret
    salt: Secret
    policy: SecurityPolicy | None
    suite: str = ""
    roc: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys of a crypto session bundle by CS ID."""

    csb_id: int
    by_cs_id: Mapping[int, CryptoSessionKeys]

    def __getitem__(self, cs_id: int) -> CryptoSessionKeys:
        return self.by_cs_id[cs_id]


_P = SrtpParameter
_DEFAULTS = {
    _P.ENCRYPTION: SrtpEncryption.AES_CM,
    _P.ENCRYPTION_KEY_LENGTH: 16,
    _P.AUTHENTICATION: 1,
    _P.AUTHENTICATION_KEY_LENGTH: 20,
    _P.PRF: 0,
    _P.KEY_DERIVATION_RATE: 0,
    _P.SRTP_ENCRYPTION: 1,
    _P.SRTCP_ENCRYPTION: 1,
    _P.FEC_ORDER: 0,
    _P.SRTP_AUTHENTICATION: 1,
    _P.TAG_LENGTH: 10,
    _P.PREFIX_LENGTH: 0,
    _P.AEAD_TAG_LENGTH: 16,
}
"""Values of absent parameters (RFC 3711 8.2, RFC 7714 14.3); the salt length depends on the cipher."""
_FIXED = (
    _P.PRF,
    _P.KEY_DERIVATION_RATE,
    _P.SRTP_ENCRYPTION,
    _P.SRTCP_ENCRYPTION,
    _P.FEC_ORDER,
    _P.SRTP_AUTHENTICATION,
    _P.PREFIX_LENGTH,
)
"""Parameters of which no other value than the default is done: nothing here weakens the protection."""
_CIPHERS = {SrtpEncryption.AES_CM: "AES-CM", SrtpEncryption.AES_GCM: "AES-GCM"}
_DERIVED = frozenset({KeyDataType.TGK, KeyDataType.TGK_SALT, KeyDataType.GTGK, KeyDataType.GTGK_SALT})


def srtp_policy(suite: str, policy_no: int) -> SecurityPolicy:
    """Return the SP payload of a suite of :data:`keying.suites.DEFAULT_SUITES`. Raises KeyError for another."""
    row = DEFAULT_SUITES[suite]
    common: list[tuple[int, int]] = [
        (_P.ENCRYPTION, SrtpEncryption.AES_GCM if row.cipher == "AES-GCM" else SrtpEncryption.AES_CM),
        (_P.ENCRYPTION_KEY_LENGTH, row.key_length),
        (_P.SALT_KEY_LENGTH, row.salt_length),
        (_P.PRF, 0),
        (_P.SRTP_ENCRYPTION, 1),
        (_P.SRTCP_ENCRYPTION, 1),
    ]
    if row.auth == "AEAD":
        common.append((_P.AEAD_TAG_LENGTH, row.srtp_tag_length))
    else:
        common += [
            (_P.AUTHENTICATION, 1),
            (_P.AUTHENTICATION_KEY_LENGTH, 20),
            (_P.SRTP_AUTHENTICATION, 1),
            (_P.TAG_LENGTH, row.srtp_tag_length),
        ]
        if row.srtcp_tag_length != row.srtp_tag_length:
            common.append((_P.SRTCP_TAG_LENGTH, row.srtcp_tag_length))
    parameters = tuple((int(name), bytes([value])) for name, value in sorted(common))
    return SecurityPolicy(policy_no, ProtType.SRTP, parameters)


def suite_of_policy(policy: SecurityPolicy) -> CryptoSuite:
    """Return the suite that an SRTP policy describes, defaults applied (RFC 3711 8.2, RFC 4771 4, RFC 7714 14.3).

    Raises InvalidPolicy for another protocol, InvalidPolicyParameter for a combination that is no known suite.
    """
    if policy.prot_type != ProtType.SRTP:
        raise InvalidPolicy("SP", f"protocol {policy.prot_type} is not SRTP")
    given: dict[int, int] = {}
    for name, octets in policy.parameters:
        if name not in {*_DEFAULTS, _P.SALT_KEY_LENGTH, _P.SRTP_TAG_LENGTH, _P.SRTCP_TAG_LENGTH} or name in given:
            raise InvalidPolicyParameter("SP", f"parameter {name} is not taken, or stands there twice")
        if not octets:
            raise InvalidPolicyParameter("SP", f"parameter {name} has no value")
        given[name] = int.from_bytes(octets, "big")
    values = {int(name): int(value) for name, value in _DEFAULTS.items()} | given
    if any(values[name] != int(_DEFAULTS[name]) for name in _FIXED):
        raise InvalidPolicyParameter("SP", "a parameter that would weaken or change the protection")
    cipher = _CIPHERS.get(values[_P.ENCRYPTION])  # type: ignore[call-overload]  # any number may have been sent
    aead = cipher == "AES-GCM"
    if not aead and (values[_P.AUTHENTICATION], values[_P.AUTHENTICATION_KEY_LENGTH]) != (1, 20):
        raise InvalidPolicyParameter("SP", "authentication other than HMAC-SHA-1 with 20 octets of key")
    salt_length = values.get(_P.SALT_KEY_LENGTH, 12 if aead else 14)
    tag = values[_P.AEAD_TAG_LENGTH] if aead else values.get(_P.SRTP_TAG_LENGTH, values[_P.TAG_LENGTH])
    # A short tag is for SRTP alone: SRTCP keeps 80 bits (RFC 3711 5.2) unless its own length says otherwise.
    rtcp_tag = tag if aead else values.get(_P.SRTCP_TAG_LENGTH, max(tag, 10))
    for suite in DEFAULT_SUITES.values():
        row = (suite.cipher, suite.key_length, suite.salt_length, suite.srtp_tag_length, suite.srtcp_tag_length)
        if row == (cipher, values[_P.ENCRYPTION_KEY_LENGTH], salt_length, tag, rtcp_tag):
            return suite
    raise InvalidPolicyParameter("SP", "no known suite")


def suite_of(policy: SecurityPolicy) -> str:
    """Return the name of the suite that an SRTP policy describes; raises as :func:`suite_of_policy`."""
    return suite_of_policy(policy).name


def srtp_session(cs_id: int, policies: Sequence[int], ssrc: int | None, spi: bytes = b"") -> CryptoSession:
    """Return a GENERIC-ID entry for an SRTP stream; `ssrc` None leaves Session Data to the responder."""
    data = b"" if ssrc is None else ssrc.to_bytes(4, "big")
    return CryptoSession(cs_id, ProtType.SRTP, policies=tuple(policies), session_data=data, spi=spi)


def ssrc_of(session: CryptoSession) -> int | None:
    """Return the SSRC of an SRTP session, None without Session Data. Raises MalformedMessage for another length."""
    if session.prot_type != ProtType.SRTP or not session.session_data:
        return None
    if len(session.session_data) != (10 if session.rollover else 4):
        raise MalformedMessage("Session Data", "an SRTP session has 4 octets, with the S flag 10")
    return int.from_bytes(session.session_data[:4], "big")


def derive(
    prf: PrfFunc,
    csb_id: int,
    sessions: Sequence[CryptoSession],
    policies: Mapping[int, SecurityPolicy],
    keys: Sequence[KeyData],
    rands: tuple[bytes, bytes],
) -> SessionKeys:
    """Return the keys of each crypto session (RFC 6043 5.1.3).

    `keys` are those of the bundle (TGK or TGK', TEK, GTGK), found by SPI; `rands` RANDRi and RANDRr, either empty where
    the ticket's H or G flag keeps it out. Raises InvalidPolicy for a session without its one policy, Unspecified for
    one without a key or Session Data.
    """
    found: dict[int, CryptoSessionKeys] = {}
    for session in sessions:
        if session.cs_id in found:
            raise MalformedMessage("CS ID", f"{session.cs_id} stands there twice")
        policy = _policy_of(session, policies)
        key = next((each for each in keys if each.spi and each.spi == session.spi), None)
        if key is None or key.key_type is KeyDataType.MPK:
            raise Unspecified("SPI", f"crypto session {session.cs_id} names no key of the bundle")
        keyed = _session_keys(prf, session, policy, key, rands)
        if keyed.ssrc is not None and any(each.ssrc == keyed.ssrc and each.tek == keyed.tek for each in found.values()):
            # A TEK that was carried serves several streams: one SSRC twice is one keystream twice (RFC 3711 9.1).
            raise InvalidPolicy("Session Data", f"crypto session {session.cs_id} has TEK and SSRC of another")
        found[session.cs_id] = keyed
    return SessionKeys(csb_id, found)


def _policy_of(session: CryptoSession, policies: Mapping[int, SecurityPolicy]) -> SecurityPolicy | None:
    if not session.policies and session.prot_type != ProtType.SRTP:
        return None  # assumed for protocols without parameters (TS 33.328 Annex H is unseen)
    if len(session.policies) != 1:
        raise InvalidPolicy("CS ID map", f"crypto session {session.cs_id} has not exactly one policy")
    policy = policies.get(session.policies[0])
    if policy is None or policy.prot_type != session.prot_type:
        raise InvalidPolicy("CS ID map", f"crypto session {session.cs_id} names no policy of its protocol")
    return policy


def _session_keys(
    prf: PrfFunc, session: CryptoSession, policy: SecurityPolicy | None, key: KeyData, rands: tuple[bytes, bytes]
) -> CryptoSessionKeys:
    length, salt_length, name = algorithms_of(prf).key_bits // 8, 0, ""
    ssrc = ssrc_of(session)
    if session.prot_type == ProtType.SRTP and policy is not None:
        suite = suite_of_policy(policy)
        length, salt_length, name = suite.key_length, suite.salt_length, suite.name
        if ssrc is None:
            raise Unspecified("Session Data", f"crypto session {session.cs_id} has no SSRC")
    if length * 8 > algorithms_of(prf).key_bits:
        raise InvalidPolicy("SP", "session keys of 256 bits need the 256-bit algorithms (RFC 6043 12.1)")
    if key.key_type in _DERIVED:
        master = tek(prf, key.key, session.cs_id, *rands, 8 * length)
    elif len(key.key) == length:
        master = key.key
    else:
        raise InvalidPolicy("KEMAC", f"the TEK has {len(key.key)} octets, the session takes {length}")
    salt = Secret(b"")
    if salt_length:
        if key.salt is None and key.key_type in _DERIVED:
            salt = session_salt(prf, key.key, session.cs_id, *rands, 8 * salt_length)
        elif key.salt is not None and len(key.salt) >= salt_length:
            salt = key.salt.part(0, salt_length)
        else:
            raise InvalidPolicy("KEMAC", "no salt, or too short a one, for a session that takes one")
    extra = session.session_data[4:] if session.rollover and ssrc is not None else b""
    return CryptoSessionKeys(
        session.cs_id,
        session.prot_type,
        ssrc,
        session.spi,
        master,
        salt,
        policy,
        name,
        int.from_bytes(extra[:4], "big") if extra else None,
        int.from_bytes(extra[4:], "big") if extra else None,
    )
