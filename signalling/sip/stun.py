"""STUN Binding on SIP UDP ports, for keep-alive only (RFC 5389 6-7, RFC 5626 4.4.2 and 8)."""

from __future__ import annotations

import ipaddress
import struct

MAGIC_COOKIE = 0x2112A442
_HEADER = struct.Struct("!HHI12s")
_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_BINDING_ERROR = 0x0111
_XOR_MAPPED_ADDRESS = 0x0020
_ERROR_CODE = 0x0009
_UNKNOWN_ATTRIBUTES = 0x000A
_KNOWN_REQUIRED = frozenset({0x0001, 0x0006, 0x0008, 0x0009, 0x000A, 0x0014, 0x0015, 0x0020})
_FIRST_OPTIONAL = 0x8000
_MOST_ATTRIBUTES = 32


def is_stun(data: bytes) -> bool:
    """Say whether a datagram is STUN: top bits zero, magic cookie, length a multiple of 4 (RFC 5389 6)."""
    return (
        len(data) >= _HEADER.size
        and data[0] & 0xC0 == 0
        and data[4:8] == b"\x21\x12\xa4\x42"
        and len(data) == _HEADER.size + int.from_bytes(data[2:4], "big")
        and len(data) % 4 == 0
    )


def _attributes(data: bytes) -> list[tuple[int, bytes]] | None:
    """Return (type, value) pairs, None when they do not fill the message."""
    found: list[tuple[int, bytes]] = []
    position = _HEADER.size
    while position < len(data):
        if position + 4 > len(data) or len(found) == _MOST_ATTRIBUTES:
            return None
        kind, length = struct.unpack_from("!HH", data, position)
        end = position + 4 + length
        if end > len(data):
            return None
        found.append((kind, data[position + 4 : end]))
        position = end + (-length % 4)
    return found


def _xor_address(address: tuple[str, int], transaction: bytes) -> bytes:
    ip = ipaddress.ip_address(address[0])
    key = MAGIC_COOKIE.to_bytes(4, "big") + transaction
    masked = bytes(one ^ other for one, other in zip(ip.packed, key, strict=False))
    return struct.pack("!BBH", 0, 1 if ip.version == 4 else 2, address[1] ^ (MAGIC_COOKIE >> 16)) + masked


def _message(kind: int, transaction: bytes, attribute: int, value: bytes) -> bytes:
    padded = value + bytes(-len(value) % 4)
    return (
        _HEADER.pack(kind, 4 + len(padded), MAGIC_COOKIE, transaction)
        + struct.pack("!HH", attribute, len(value))
        + padded
    )


def binding_answer(data: bytes, source: tuple[str, int]) -> bytes | None:
    """Answer a Binding request with the source address as seen; None for anything that is no sound request."""
    if not is_stun(data):
        return None
    kind, _, _, transaction = _HEADER.unpack_from(data)
    attributes = _attributes(data)
    if kind != _BINDING_REQUEST or attributes is None:
        return None
    unknown = [one for one, _ in attributes if one < _FIRST_OPTIONAL and one not in _KNOWN_REQUIRED]
    if unknown:
        listed = b"".join(struct.pack("!H", one) for one in unknown)
        head = _message(_BINDING_ERROR, transaction, _ERROR_CODE, b"\x00\x00\x04\x14Unknown Attribute")
        tail = struct.pack("!HH", _UNKNOWN_ATTRIBUTES, len(listed)) + listed + bytes(-len(listed) % 4)
        return head[:2] + struct.pack("!H", len(head) - _HEADER.size + len(tail)) + head[4:] + tail
    return _message(_BINDING_SUCCESS, transaction, _XOR_MAPPED_ADDRESS, _xor_address(source, transaction))


def binding_request(transaction: bytes) -> bytes:
    """Build a Binding request; ``transaction`` is 12 random octets."""
    return _HEADER.pack(_BINDING_REQUEST, 0, MAGIC_COOKIE, transaction)


def mapped_address(data: bytes) -> tuple[bytes, tuple[str, int] | None] | None:
    """Read a Binding response: its transaction and the mapped address, None in its place for an error response.

    Returns None when the datagram is no Binding response.
    """
    if not is_stun(data):
        return None
    kind, _, _, transaction = _HEADER.unpack_from(data)
    if kind == _BINDING_ERROR:
        return transaction, None
    attributes = _attributes(data)
    if kind != _BINDING_SUCCESS or attributes is None:
        return None
    for one, value in attributes:
        if one == _XOR_MAPPED_ADDRESS and len(value) in (8, 20):
            key = MAGIC_COOKIE.to_bytes(4, "big") + transaction
            packed = bytes(octet ^ mask for octet, mask in zip(value[4:], key, strict=False))
            port = int.from_bytes(value[2:4], "big") ^ (MAGIC_COOKIE >> 16)
            return transaction, (str(ipaddress.ip_address(packed)), port)
    return transaction, None
