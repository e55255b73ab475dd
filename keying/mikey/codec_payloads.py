"""Every payload behind its next-payload octet, and chains of them (RFC 3830 6.2 to 6.15, RFC 6043 6.2 to 6.10).

Each number has a row: how its body is read and how it is written. An unknown number ends the reading, as nothing says
how long such a payload is; payloads that nobody expects are read like any other and left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keying.mikey.codec_wire import Reader, exactly, known, known_or_number, lv8, lv16, number, u8, u16
from keying.mikey.errors import (
    InvalidCertificate,
    InvalidEncryption,
    InvalidHash,
    InvalidIdentity,
    InvalidMac,
    InvalidPrf,
    InvalidTimestamp,
    MalformedMessage,
)
from keying.mikey.payloads import (
    Certificate,
    CertificateHash,
    EnvelopeKey,
    ErrorPayload,
    GeneralExtension,
    Id,
    IdRoled,
    Kemac,
    KeyData,
    Payload,
    Rand,
    RandRoled,
    SecurityPolicy,
    Signature,
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
    EncrAlg,
    HashFunc,
    IdRole,
    IdType,
    KeyDataType,
    KvType,
    MacAlg,
    NextPayload,
    PrfFunc,
    RandRole,
    SignType,
    TsRole,
    TsType,
)
from keying.secret import Secret

HASH_OCTETS = {HashFunc.SHA_1: 20, HashFunc.MD5: 16, HashFunc.SHA_256: 32}
"""Octets of a CHASH."""
_FLAGS = 0x01FFE0
"""Bits D to O of the 24-bit word in TP and TICKET; above them the PRF, below them five reserved bits."""
_RESERVED = 0x1F
_PRF_SHIFT = 17
_MAX_PRF = 0x7F
_MAX_PKE = 0x3FFF
_MAX_SIGNATURE = 0x0FFF

Span = tuple[int, int]


def read_chain(first: int, reader: Reader) -> tuple[tuple[Payload, ...], tuple[Span, ...]]:
    """Read payloads to the end of `reader`, the first of number `first`; return them and where each stands."""
    payloads: list[Payload] = []
    spans: list[Span] = []
    following = first
    while following != NextPayload.LAST:
        reader.budget.spend()
        start = reader.position
        if following == NextPayload.SIGN:  # always last, and without a next-payload octet (RFC 3830 6.5)
            payloads.append(_read_sign(reader))
            following = NextPayload.LAST
        else:
            read = _READ.get(following)
            if read is None:
                raise MalformedMessage("next payload", f"a payload of number {following} cannot be read")
            following = reader.u8("next payload")
            payloads.append(read(reader))
        spans.append((start, reader.position))
    reader.finish("message")
    return tuple(payloads), tuple(spans)


def write_chain(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Write payloads; return the number of the first (0 when there is none) and the octets."""
    numbers = [*(number_of(payload) for payload in payloads), NextPayload.LAST]
    parts: list[bytes] = []
    for payload, following in zip(payloads, numbers[1:], strict=True):
        if isinstance(payload, Signature):
            if following != NextPayload.LAST:
                raise MalformedMessage("SIGN", "is always the last payload")
        else:
            parts.append(bytes([following]))
        parts.append(write_body(payload))
    return numbers[0], b"".join(parts)


def number_of(payload: Payload) -> NextPayload:
    """Return the payload's number. Raises MalformedMessage for THDR, which has none (RFC 6043 A.3)."""
    row = _WRITE.get(type(payload))
    if row is None:
        raise MalformedMessage(type(payload).__name__, "does not stand in a payload chain")
    return row[0]


def write_body(payload: Payload) -> bytes:
    """Write a payload without its next-payload octet."""
    number_of(payload)
    return _WRITE[type(payload)][1](payload)


def read_policy(reader: Reader) -> TicketPolicy:
    """Read from Ticket Type to the end of TP Data."""
    where = "ticket policy"
    ticket_type, subtype, version, word = reader.u16(where), reader.u8(where), reader.u8(where), reader.u24(where)
    data = reader.nested(reader.lv16("TP Data"), "TP Data")
    return TicketPolicy(
        ticket_type=ticket_type,
        subtype=subtype,
        version=version,
        prf=known(PrfFunc, word >> _PRF_SHIFT, "ticket policy PRF func", InvalidPrf),
        flags=word & _FLAGS,
        payloads=read_chain(data.u8("TP Data"), data)[0],
        reserved=word & _RESERVED,
    )


def write_policy(policy: TicketPolicy) -> bytes:
    """Write from Ticket Type to the end of TP Data."""
    where = "ticket policy"
    if policy.flags & ~_FLAGS or policy.reserved & ~_RESERVED or not 0 <= policy.prf <= _MAX_PRF:
        raise MalformedMessage(where, "a flag, reserved bit or PRF outside its field")
    first, chain = write_chain(policy.payloads)
    word = policy.prf << _PRF_SHIFT | policy.flags | policy.reserved
    fixed = [u16(policy.ticket_type, where), u8(policy.subtype, where), u8(policy.version, where)]
    return b"".join([*fixed, number(word, 3, where), lv16(bytes([first]) + chain, "TP Data")])


def read_ticket(reader: Reader) -> TicketPayload:
    """Read a TICKET body."""
    policy = read_policy(reader)
    return TicketPayload(policy, ticket_data=reader.lv16("Ticket Data"), initiator_data=reader.lv16("Initiator Data"))


def write_ticket(ticket: TicketPayload) -> bytes:
    """Write a TICKET body.

    A ticket that is passed on (TRANSFER_INIT to RESOLVE_INIT) has the octets it was read from: only the next payload in
    front of it is another one, so the MACs inside still hold.
    """
    data = lv16(ticket.ticket_data, "Ticket Data") + lv16(ticket.initiator_data, "Initiator Data")
    return write_policy(ticket.policy) + data


def _read_key_data(reader: Reader) -> KeyData:
    octet = reader.u8("Key data")
    key_type = known(KeyDataType, octet >> 4, "Key data type")
    kv_type = known(KvType, octet & 0x0F, "Key data KV")
    key = Secret(reader.lv16("Key data"))
    salt = Secret(reader.lv16("Key data salt")) if key_type.salted else None
    spi = reader.lv8("Key data SPI") if kv_type is KvType.SPI else None
    interval = None
    if kv_type is KvType.INTERVAL:
        interval = (reader.lv8("Key data interval"), reader.lv8("Key data interval"))
    return KeyData(key_type, key, salt, spi, interval)


def _write_key_data(data: KeyData) -> bytes:
    if data.spi is not None and data.interval is not None:
        raise MalformedMessage("Key data", "an SPI and an interval at once")
    if (data.salt is not None) is not data.key_type.salted:
        raise MalformedMessage("Key data", "a salt goes with the +SALT types and with no other")
    kv_type = KvType.SPI if data.spi is not None else KvType.INTERVAL if data.interval is not None else KvType.NULL
    parts = [bytes([data.key_type << 4 | kv_type]), lv16(data.key.reveal(), "Key data")]
    if data.salt is not None:
        parts.append(lv16(data.salt.reveal(), "Key data salt"))
    if data.spi is not None:
        parts.append(lv8(data.spi, "Key data SPI"))
    parts += [lv8(bound, "Key data interval") for bound in data.interval or ()]
    return b"".join(parts)


def _read_kemac(reader: Reader) -> Kemac:
    encr_alg = known(EncrAlg, reader.u8("KEMAC"), "KEMAC Encr alg", InvalidEncryption)
    encr_data = reader.lv16("KEMAC")
    mac_alg = known(MacAlg, reader.u8("KEMAC"), "KEMAC MAC alg", InvalidMac)
    return Kemac(encr_alg, encr_data, mac_alg, reader.take(mac_alg.length, "KEMAC MAC"))


def _write_kemac(kemac: Kemac) -> bytes:
    mac = exactly(kemac.mac, kemac.mac_alg.length, "KEMAC MAC")
    return bytes([kemac.encr_alg]) + lv16(kemac.encr_data, "KEMAC") + bytes([kemac.mac_alg]) + mac


def _read_pke(reader: Reader) -> EnvelopeKey:
    word = reader.u16("PKE")
    return EnvelopeKey(word >> 14, reader.take(word & _MAX_PKE, "PKE"))


def _write_pke(key: EnvelopeKey) -> bytes:
    if not 0 <= key.cache <= 3 or len(key.data) > _MAX_PKE:
        raise MalformedMessage("PKE", "C has two bits and the length fourteen")
    return u16(key.cache << 14 | len(key.data), "PKE") + key.data


def _read_sign(reader: Reader) -> Signature:
    word = reader.u16("SIGN")
    return Signature(known(SignType, word >> 12, "SIGN S type"), reader.take(word & _MAX_SIGNATURE, "SIGN"))


def _write_sign(signature: Signature) -> bytes:
    if len(signature.value) > _MAX_SIGNATURE:
        raise MalformedMessage("SIGN", "the length has twelve bits")
    return u16(signature.sign_type << 12 | len(signature.value), "SIGN") + signature.value


def _read_t(reader: Reader) -> Timestamp:
    ts_type = known(TsType, reader.u8("T"), "T TS type", InvalidTimestamp)
    return Timestamp(ts_type, reader.take(ts_type.length, "T"))


def _read_tr(reader: Reader) -> TimestampRole:
    role = known_or_number(TsRole, reader.u8("TR"))
    ts_type = known(TsType, reader.u8("TR"), "TR TS type", InvalidTimestamp)
    return TimestampRole(role, ts_type, reader.take(ts_type.length, "TR"))


def _read_id(reader: Reader) -> Id:
    return Id(known(IdType, reader.u8("ID"), "ID type", InvalidIdentity), reader.lv16("ID"))


def _read_idr(reader: Reader) -> IdRoled:
    role = known_or_number(IdRole, reader.u8("IDR"))
    return IdRoled(role, known(IdType, reader.u8("IDR"), "IDR type", InvalidIdentity), reader.lv16("IDR"))


def _read_cert(reader: Reader) -> Certificate:
    return Certificate(known(CertType, reader.u8("CERT"), "CERT type", InvalidCertificate), reader.lv16("CERT"))


def _read_chash(reader: Reader) -> CertificateHash:
    hash_func = known(HashFunc, reader.u8("CHASH"), "CHASH Hash func", InvalidHash)
    return CertificateHash(hash_func, reader.take(HASH_OCTETS[hash_func], "CHASH"))


def _read_v(reader: Reader) -> Verification:
    auth_alg = known(MacAlg, reader.u8("V"), "V Auth alg", InvalidMac)
    return Verification(auth_alg, reader.take(auth_alg.length, "V"))


def _read_sp(reader: Reader) -> SecurityPolicy:
    policy_no, prot_type = reader.u8("SP"), reader.u8("SP")
    data = Reader(reader.lv16("SP"))
    parameters: list[tuple[int, bytes]] = []
    while data.left:
        parameters.append((data.u8("SP parameter"), data.lv8("SP parameter")))
    return SecurityPolicy(policy_no, prot_type, tuple(parameters))


def _write_sp(policy: SecurityPolicy) -> bytes:
    data = b"".join(u8(kind, "SP parameter") + lv8(value, "SP parameter") for kind, value in policy.parameters)
    return u8(policy.policy_no, "SP") + u8(policy.prot_type, "SP") + lv16(data, "SP")


def _read_randr(reader: Reader) -> RandRoled:
    return RandRoled(known_or_number(RandRole, reader.u8("RANDR")), reader.lv8("RANDR"))


def _ts(payload: Timestamp | TimestampRole) -> bytes:
    return u8(payload.ts_type, "T") + exactly(payload.value, payload.ts_type.length, "T")


_READ: dict[int, Callable[[Reader], Payload]] = {
    NextPayload.KEMAC: _read_kemac,
    NextPayload.PKE: _read_pke,
    NextPayload.T: _read_t,
    NextPayload.ID: _read_id,
    NextPayload.CERT: _read_cert,
    NextPayload.CHASH: _read_chash,
    NextPayload.V: _read_v,
    NextPayload.SP: _read_sp,
    NextPayload.RAND: lambda reader: Rand(reader.lv8("RAND")),
    NextPayload.ERR: lambda reader: ErrorPayload(reader.u8("ERR"), reader.u16("ERR")),
    NextPayload.TR: _read_tr,
    NextPayload.IDR: _read_idr,
    NextPayload.RANDR: _read_randr,
    NextPayload.TP: lambda reader: TicketPolicyPayload(read_policy(reader)),
    NextPayload.TICKET: read_ticket,
    NextPayload.KEY_DATA: _read_key_data,
    NextPayload.GENERAL_EXTENSION: lambda reader: GeneralExtension(reader.u8("GENEXT"), reader.lv16("GENEXT")),
}
"""Bodies by number. SIGN has no next-payload octet and stands apart; DH (3) is refused."""

_WRITE: dict[type, tuple[NextPayload, Callable[[Any], bytes]]] = {
    Kemac: (NextPayload.KEMAC, _write_kemac),
    EnvelopeKey: (NextPayload.PKE, _write_pke),
    Signature: (NextPayload.SIGN, _write_sign),
    Timestamp: (NextPayload.T, _ts),
    Id: (NextPayload.ID, lambda p: u8(p.id_type, "ID") + lv16(p.data, "ID")),
    Certificate: (NextPayload.CERT, lambda p: u8(p.cert_type, "CERT") + lv16(p.data, "CERT")),
    CertificateHash: (
        NextPayload.CHASH,
        lambda p: u8(p.hash_func, "CHASH") + exactly(p.value, HASH_OCTETS[p.hash_func], "CHASH"),
    ),
    Verification: (NextPayload.V, lambda p: u8(p.auth_alg, "V") + exactly(p.mac, p.auth_alg.length, "V MAC")),
    SecurityPolicy: (NextPayload.SP, _write_sp),
    Rand: (NextPayload.RAND, lambda p: lv8(p.value, "RAND")),
    ErrorPayload: (NextPayload.ERR, lambda p: u8(p.number, "ERR") + u16(p.reserved, "ERR")),
    TimestampRole: (NextPayload.TR, lambda p: u8(p.role, "TR") + _ts(p)),
    IdRoled: (NextPayload.IDR, lambda p: u8(p.role, "IDR") + u8(p.id_type, "IDR") + lv16(p.data, "IDR")),
    RandRoled: (NextPayload.RANDR, lambda p: u8(p.role, "RANDR") + lv8(p.value, "RANDR")),
    TicketPolicyPayload: (NextPayload.TP, lambda p: write_policy(p.policy)),
    TicketPayload: (NextPayload.TICKET, write_ticket),
    KeyData: (NextPayload.KEY_DATA, _write_key_data),
    GeneralExtension: (
        NextPayload.GENERAL_EXTENSION,
        lambda p: u8(p.extension_type, "GENEXT") + lv16(p.data, "GENEXT"),
    ),
}
"""Number and body by payload."""


def read_ticket_header(reader: Reader) -> tuple[TicketHeader, int]:
    """Read THDR; return it and the number of the payload behind it."""
    reader.budget.spend()
    following = reader.u8("THDR")
    return TicketHeader(reader.lv16("THDR")), following
