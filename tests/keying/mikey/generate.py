"""Hypothesis strategies for every payload and for whole messages."""

from __future__ import annotations

from hypothesis import strategies as st

from keying.mikey.payloads import (
    Certificate,
    CertificateHash,
    CryptoSession,
    EnvelopeKey,
    ErrorPayload,
    GeneralExtension,
    Header,
    Id,
    IdRoled,
    Kemac,
    KeyData,
    Message,
    Rand,
    RandRoled,
    SecurityPolicy,
    Signature,
    SrtpIdSession,
    TicketHeader,
    TicketPayload,
    TicketPolicy,
    TicketPolicyPayload,
    Timestamp,
    TimestampRole,
    Verification,
)
from keying.mikey.registry import (
    CertType,
    CsIdMapType,
    DataType,
    EncrAlg,
    HashFunc,
    IdType,
    KeyDataType,
    MacAlg,
    PrfFunc,
    SignType,
    TsType,
)
from keying.secret import Secret

octet = st.integers(0, 255)
short = st.binary(max_size=255) | st.binary(max_size=8)
long = st.binary(max_size=300)
HASH = {HashFunc.SHA_1: 20, HashFunc.MD5: 16, HashFunc.SHA_256: 32}


def sized(registry, build, length):
    """A value of `registry` together with octets of the length it asks for."""
    return st.sampled_from(list(registry)).flatmap(
        lambda kind: st.binary(min_size=length(kind), max_size=length(kind)).map(lambda value: build(kind, value))
    )


def keys_of(key_type):
    salt = long.map(Secret) if key_type.salted else st.none()
    return st.one_of(
        st.builds(KeyData, st.just(key_type), long.map(Secret), salt),
        st.builds(KeyData, st.just(key_type), long.map(Secret), salt, spi=short),
        st.builds(KeyData, st.just(key_type), long.map(Secret), salt, interval=st.tuples(short, short)),
    )


key_data = st.sampled_from(list(KeyDataType)).flatmap(keys_of)
timestamps = sized(TsType, Timestamp, lambda kind: kind.length)
verifications = sized(MacAlg, Verification, lambda kind: kind.length)
kemacs = st.builds(
    lambda encr, data, v: Kemac(encr, data, v.auth_alg, v.mac), st.sampled_from(list(EncrAlg)), long, verifications
)
policies = st.builds(
    SecurityPolicy, octet, octet, st.lists(st.tuples(octet, st.binary(max_size=16)), max_size=6).map(tuple)
)
signatures = st.builds(Signature, st.sampled_from(list(SignType)), long)
id_roled = st.builds(IdRoled, octet, st.sampled_from(list(IdType)), long)
flags = st.integers(0, 0xFFF).map(lambda bits: bits << 5)


def ticket_policies(payloads):
    return st.builds(
        TicketPolicy,
        st.integers(0, 0xFFFF),
        octet,
        octet,
        st.sampled_from(list(PrfFunc)),
        flags,
        st.lists(payloads, max_size=5).map(tuple),
        st.integers(0, 0x1F),
    )


flat = st.one_of(
    timestamps,
    sized(TsType, lambda kind, value: TimestampRole(value[0], kind, value), lambda kind: kind.length),
    st.builds(Rand, short),
    st.builds(RandRoled, octet, short),
    st.builds(Id, st.sampled_from(list(IdType)), long),
    id_roled,
    st.builds(Certificate, st.sampled_from(list(CertType)), long),
    sized(HashFunc, CertificateHash, HASH.__getitem__),
    policies,
    key_data,
    kemacs,
    st.builds(EnvelopeKey, st.integers(0, 3), long),
    verifications,
    st.builds(ErrorPayload, octet, st.integers(0, 0xFFFF)),
    st.builds(GeneralExtension, octet, long),
)
tickets = st.builds(TicketPayload, ticket_policies(flat), long, long)
payloads = st.one_of(flat, st.builds(TicketPolicyPayload, ticket_policies(flat)), tickets)
ticket_data = st.builds(
    lambda header, chain: (header, *chain), st.builds(TicketHeader, long), st.lists(flat, max_size=6)
)
generic_sessions = st.builds(
    CryptoSession, octet, octet, st.booleans(), st.lists(octet, max_size=6).map(tuple), long, short
)
srtp_sessions = st.builds(SrtpIdSession, octet, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
maps = st.one_of(
    st.tuples(st.just(CsIdMapType.EMPTY), st.just(())),
    st.tuples(st.just(CsIdMapType.GENERIC_ID), st.lists(generic_sessions, max_size=4).map(tuple)),
    st.tuples(st.just(CsIdMapType.SRTP_ID), st.lists(srtp_sessions, max_size=4).map(tuple)),
)
READABLE = [kind for kind in DataType if kind not in {4, 5, 7, 8, 9, 10}]
headers = st.builds(
    lambda kind, csb, prf, flag, chosen: Header(kind, csb, prf, flag, *chosen),
    st.sampled_from(READABLE),
    st.integers(0, 2**32 - 1),
    st.sampled_from(list(PrfFunc)),
    st.booleans(),
    maps,
)
messages = st.builds(
    lambda header, chain, last: Message(header, (*chain, *last)),
    headers,
    st.lists(payloads, min_size=1, max_size=8),
    st.lists(signatures, max_size=1),
)
