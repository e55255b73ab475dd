"""HDR and its CS ID map (RFC 3830 6.1, RFC 4563 5, RFC 6043 6.1).

RFC 3830 6.1 gives the CS ID map info 16 bits; it is as long as the map of its type and #CS make it.
"""

from __future__ import annotations

from keying.mikey.codec_wire import Reader, known, lv8, lv16, number, u8
from keying.mikey.errors import InvalidPrf, MalformedMessage, UnsupportedDataType
from keying.mikey.payloads import CryptoSession, Header, SrtpIdSession
from keying.mikey.registry import CsIdMapType, DataType, PrfFunc

VERSION = 1
_RESPONSE_WANTED = 0x80
_ROLLOVER = 0x80
_MAX_POLICIES = 0x7F


def read_data_type(reader: Reader) -> DataType:
    """Read version and data type. Raises UnsupportedDataType for a number that is not in the registry."""
    version = reader.u8("HDR")
    if version != VERSION:
        raise MalformedMessage("HDR", f"version {version}")
    value = reader.u8("HDR")
    try:
        return DataType(value)
    except ValueError:
        raise UnsupportedDataType("HDR", f"data type {value} is not known", data_type=value) from None


def read_header(reader: Reader) -> tuple[Header, int]:
    """Read HDR; return it and the number of the first payload."""
    data_type = read_data_type(reader)
    first = reader.u8("HDR")
    flag_and_prf = reader.u8("HDR")
    prf = known(PrfFunc, flag_and_prf & ~_RESPONSE_WANTED, "HDR PRF func", InvalidPrf)
    csb_id = reader.u32("HDR CSB ID")
    count = reader.u8("HDR #CS")
    map_type = known(CsIdMapType, reader.u8("HDR CS ID map type"), "HDR CS ID map type")
    header = Header(
        data_type=data_type,
        csb_id=csb_id,
        prf=prf,
        verification=bool(flag_and_prf & _RESPONSE_WANTED),
        map_type=map_type,
        sessions=_read_map(reader, map_type, count),
        version=VERSION,
    )
    return header, first


def write_header(header: Header, first: int) -> bytes:
    """Write HDR in front of a payload of number `first`."""
    if header.version != VERSION:
        raise MalformedMessage("HDR", f"version {header.version}")
    if not 0 <= header.prf < _RESPONSE_WANTED:
        raise MalformedMessage("HDR", "the PRF func has seven bits")
    flag = _RESPONSE_WANTED if header.verification else 0
    parts = [
        bytes([VERSION, header.data_type, first, flag | header.prf]),
        number(header.csb_id, 4, "HDR CSB ID"),
        u8(len(header.sessions), "HDR #CS"),
        u8(header.map_type, "HDR CS ID map type"),
    ]
    parts += [_write_session(session, header.map_type) for session in header.sessions]
    return b"".join(parts)


def _read_map(
    reader: Reader, map_type: CsIdMapType, count: int
) -> tuple[CryptoSession, ...] | tuple[SrtpIdSession, ...]:
    if map_type is CsIdMapType.SRTP_ID:
        return tuple(_read_srtp_id(reader) for _ in range(count))
    if map_type is CsIdMapType.GENERIC_ID:
        return tuple(_read_generic_id(reader) for _ in range(count))
    if count:
        raise MalformedMessage("HDR CS ID map", "an Empty map has no crypto sessions")
    return ()


def _read_srtp_id(reader: Reader) -> SrtpIdSession:
    where = "SRTP-ID map"
    return SrtpIdSession(policy_no=reader.u8(where), ssrc=reader.u32(where), roc=reader.u32(where))


def _read_generic_id(reader: Reader) -> CryptoSession:
    where = "GENERIC-ID map"
    cs_id, prot_type, flag_and_count = reader.take(3, where)
    return CryptoSession(
        cs_id=cs_id,
        prot_type=prot_type,
        rollover=bool(flag_and_count & _ROLLOVER),
        policies=tuple(reader.take(flag_and_count & _MAX_POLICIES, where)),
        session_data=reader.lv16(where),
        spi=reader.lv8(where),
    )


def _write_session(session: CryptoSession | SrtpIdSession, map_type: CsIdMapType) -> bytes:
    if isinstance(session, SrtpIdSession):
        if map_type is not CsIdMapType.SRTP_ID:
            raise MalformedMessage("HDR CS ID map", "an SRTP-ID session in another map")
        where = "SRTP-ID map"
        parts = [u8(session.policy_no, where), number(session.ssrc, 4, where), number(session.roc, 4, where)]
        return b"".join(parts)
    where = "GENERIC-ID map"
    if map_type is not CsIdMapType.GENERIC_ID:
        raise MalformedMessage("HDR CS ID map", "a GENERIC-ID session in another map")
    if len(session.policies) > _MAX_POLICIES:
        raise MalformedMessage(where, f"more than {_MAX_POLICIES} policies of a crypto session")
    flag = _ROLLOVER if session.rollover else 0
    return b"".join(
        [
            u8(session.cs_id, where),
            u8(session.prot_type, where),
            bytes([flag | len(session.policies)]),
            *(u8(policy_no, where) for policy_no in session.policies),
            lv16(session.session_data, where),
            lv8(session.spi, where),
        ]
    )
