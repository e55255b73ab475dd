"""The Homer Encapsulation Protocol, version 3: what a capture agent says of a SIP message (HEP3 specification rev. 36).

A packet is ``HEP3``, its whole length, and chunks of vendor, type, length and value; every length counts its own head.
Pure: values in, octets out.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from keying.secret import Secret

MAGIC: Final = b"HEP3"
UDP: Final = 17
TCP: Final = 6
SIP: Final = 1
"""Protocol type of a SIP payload."""
MOST_PAYLOAD: Final = 60_000
"""Longest message sent, octets: a packet has 16 bits for its length, and fits a datagram."""
VENDOR: Final = 0x494D
"""Vendor of chunks that no specification has; not registered (a testbed decision)."""
TRACE_ID: Final = 0x0101
"""Own chunk: the W3C trace id, 32 hexadecimal digits. No generic chunk has this type, whoever looks at no vendor."""

_FAMILY, _PROTOCOL, _SOURCE_4, _DESTINATION_4, _SOURCE_6, _DESTINATION_6 = 1, 2, 3, 4, 5, 6
_SOURCE_PORT, _DESTINATION_PORT, _SECONDS, _MICROSECONDS, _TYPE, _AGENT = 7, 8, 9, 10, 11, 12
_AUTH_KEY, _PAYLOAD, _CORRELATION, _NODE = 14, 15, 17, 19
_AF_INET, _AF_INET6 = 2, 10
_MOST_TEXT: Final = 1024

Address = tuple[str, int]


@dataclass(frozen=True)
class HepMessage:
    """A SIP message on its way; time in nanoseconds since 1970, ``protocol`` is ``UDP`` or ``TCP`` (TLS included)."""

    time_ns: int
    protocol: int
    source: Address
    destination: Address
    payload: bytes
    call_id: str
    trace_id: str = ""


def encode(message: HepMessage, *, capture_id: int, node: str, password: Secret | None = None) -> bytes:
    """Return the packet of a message; ``capture_id`` names the agent, ``node`` the node that saw it.

    A message longer than ``MOST_PAYLOAD`` is cut. Raises ``ValueError`` for an address that is none.
    """
    source, destination = (ipaddress.ip_address(address[0]) for address in (message.source, message.destination))
    seconds, rest = divmod(message.time_ns, 1_000_000_000)
    six = source.version == 6
    chunks = [
        _chunk(_FAMILY, struct.pack("!B", _AF_INET6 if six else _AF_INET)),
        _chunk(_PROTOCOL, struct.pack("!B", message.protocol)),
        _chunk(_SOURCE_6 if six else _SOURCE_4, source.packed),
        _chunk(_DESTINATION_6 if six else _DESTINATION_4, destination.packed),
        _chunk(_SOURCE_PORT, struct.pack("!H", message.source[1])),
        _chunk(_DESTINATION_PORT, struct.pack("!H", message.destination[1])),
        _chunk(_SECONDS, struct.pack("!I", seconds)),
        _chunk(_MICROSECONDS, struct.pack("!I", rest // 1000)),
        _chunk(_TYPE, struct.pack("!B", SIP)),
        _chunk(_AGENT, struct.pack("!I", capture_id)),
    ]
    if password is not None:
        chunks.append(_chunk(_AUTH_KEY, password.reveal()))
    chunks.append(_chunk(_CORRELATION, _text(message.call_id)))
    chunks.append(_chunk(_NODE, _text(node)))
    if message.trace_id:
        chunks.append(_chunk(TRACE_ID, _text(message.trace_id), VENDOR))
    chunks.append(_chunk(_PAYLOAD, message.payload[:MOST_PAYLOAD]))
    body = b"".join(chunks)
    return MAGIC + struct.pack("!H", len(MAGIC) + 2 + len(body)) + body


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:_MOST_TEXT]


def _chunk(kind: int, value: bytes, vendor: int = 0) -> bytes:
    return struct.pack("!HHH", vendor, kind, 6 + len(value)) + value
