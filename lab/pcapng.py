"""Writes pcapng (draft-ietf-opsawg-pcapng): raw IP packets, one interface a node, comments.

Messages that nodes tell of are put into UDP or TCP frames between the addresses that were used, the way they would
look without TLS. A file is written at once or as it grows. Pure: bytes out, no sockets.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LINKTYPE_RAW = 101
"""Packets begin with an IPv4 or IPv6 header (tcpdump.org link types)."""
UDP = 17
TCP = 6
MAX_PAYLOAD = 65_000
"""Longest payload put into one frame, octets."""
MAX_COMMENT = 4000
"""Longest comment of a frame, characters: nodes tell of Call-IDs, peers and reasons that others chose."""
NOWHERE = "0.0.0.0"  # noqa: S104 - an unknown address in a capture, nothing is bound
_MOST_PORT = (1 << 16) - 1
_MOST_TIME_NS = (1 << 64) - 1

_SECTION, _INTERFACE, _STATISTICS, _ENHANCED = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_OPT_END, _OPT_COMMENT, _IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _SHB_USERAPPL = 0, 1, 2, 3, 9, 4
_ISB_RECEIVED, _ISB_DROPPED = 4, 5
_NANOSECONDS = 9
_PSH_ACK = 0x18
_MASKED_KEY = re.compile(rb"(?i)inline:<[^<>\r\n]*>")
_MASK = b"inline:<" + b"A" * 64 + b">"
_LENGTH_HEADER = re.compile(rb"(?im)^(content-length|l)([ \t]*:[ \t]*)\d+")

Address = tuple[str, int]


@dataclass(frozen=True)
class Frame:
    """A payload on its way: ``node`` saw it, ``protocol`` is ``UDP`` or ``TCP``; time in nanoseconds since 1970.

    Nodes say all this: what no packet can hold is written as nothing known, or cut.
    """

    time_ns: int
    node: str
    protocol: int
    source: Address
    destination: Address
    payload: bytes
    comment: str = ""


@dataclass
class PcapngWriter:
    """Collects frames and returns the file. TCP sequence numbers run per direction, so that streams reassemble."""

    comment: str = ""
    _interfaces: dict[str, int] = field(default_factory=dict)
    _sequence: dict[tuple[Address, Address], int] = field(default_factory=dict)
    _count: dict[str, int] = field(default_factory=dict)

    def file(self, frames: Iterable[Frame]) -> bytes:
        """Return a whole pcapng file of ``frames``, in time order."""
        ordered = sorted(frames, key=lambda frame: frame.time_ns)
        blocks = [self._section()]
        for node in dict.fromkeys(frame.node for frame in ordered):
            self._interfaces[node] = len(self._interfaces)
            blocks.append(_interface(node))
        blocks += [self._packet(frame) for frame in ordered]
        return b"".join(blocks)

    def begin(self) -> bytes:
        """Return the beginning of a file that grows."""
        return self._section()

    def add(self, frame: Frame) -> bytes:
        """Return the blocks of one more frame; an interface is told of before its first one."""
        head = b""
        if frame.node not in self._interfaces:
            self._interfaces[frame.node] = len(self._interfaces)
            head = _interface(frame.node)
        self._count[frame.node] = self._count.get(frame.node, 0) + 1
        return head + self._packet(frame)

    def end(self, time_ns: int, lost: Mapping[str, int]) -> bytes:
        """Return the statistics of every interface: frames in the file, and those that were ``lost`` of each node."""
        high, low = divmod(time_ns, 1 << 32)
        blocks = []
        for node in lost:
            if node not in self._interfaces:
                self._interfaces[node] = len(self._interfaces)
                blocks.append(_interface(node))
        for node, number in self._interfaces.items():
            options = [
                (_ISB_RECEIVED, struct.pack("<Q", self._count.get(node, 0))),
                (_ISB_DROPPED, struct.pack("<Q", lost.get(node, 0))),
            ]
            blocks.append(_block(_STATISTICS, struct.pack("<III", number, high, low), options))
        return b"".join(blocks)

    def _section(self) -> bytes:
        options = [(_SHB_USERAPPL, b"imslab")]
        if self.comment:
            options.insert(0, (_OPT_COMMENT, self.comment.encode()))
        return _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1), options)

    def _packet(self, frame: Frame) -> bytes:
        packet = self._ip(frame)
        high, low = divmod(min(max(frame.time_ns, 0), _MOST_TIME_NS), 1 << 32)
        head = struct.pack("<IIIII", self._interfaces[frame.node], high, low, len(packet), len(packet))
        options = [(_OPT_COMMENT, frame.comment[:MAX_COMMENT].encode())] if frame.comment else []
        return _block(_ENHANCED, head + _padded(packet), options)

    def _ip(self, frame: Frame) -> bytes:
        source, destination = (_ip_address(address[0]) for address in (frame.source, frame.destination))
        payload = frame.payload[:MAX_PAYLOAD]
        segment = self._tcp(frame, payload) if frame.protocol == TCP else _udp(frame, payload)
        pseudo = source.packed + destination.packed
        if source.version == 6:
            pseudo += struct.pack("!IxxxB", len(segment), frame.protocol)
        else:
            pseudo += struct.pack("!xBH", frame.protocol, len(segment))
        at = 16 if frame.protocol == TCP else 6
        checksum = _checksum(pseudo + segment) or 0xFFFF
        segment = segment[:at] + struct.pack("!H", checksum) + segment[at + 2 :]
        if source.version == 6:
            head = struct.pack("!IHBB", 6 << 28, len(segment), frame.protocol, 64)
            return head + source.packed + destination.packed + segment
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, frame.protocol, 0)
        head += source.packed + destination.packed
        return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + segment

    def _tcp(self, frame: Frame, payload: bytes) -> bytes:
        way, back = (frame.source, frame.destination), (frame.destination, frame.source)
        sequence = self._sequence.get(way, 1)
        self._sequence[way] = (sequence + len(payload)) & 0xFFFFFFFF
        acknowledged = self._sequence.setdefault(back, 1)
        ports = _ports(frame)
        return struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, 5 << 4, _PSH_ACK, 65535, 0, 0) + payload


def _udp(frame: Frame, payload: bytes) -> bytes:
    return struct.pack("!HHHH", *_ports(frame), 8 + len(payload), 0) + payload


def _ports(frame: Frame) -> tuple[int, int]:
    source, destination = (port if 0 <= port <= _MOST_PORT else 0 for _, port in (frame.source, frame.destination))
    return source, destination


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return ipaddress.ip_address(NOWHERE)


def _interface(node: str) -> bytes:
    options = [
        (_IF_NAME, node.encode()),
        (_IF_DESCRIPTION, f"as seen by {node}".encode()),
        (_IF_TSRESOL, bytes([_NANOSECONDS])),
    ]
    return _block(_INTERFACE, struct.pack("<HHI", LINKTYPE_RAW, 0, 0), options)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def _block(kind: int, body: bytes, options: list[tuple[int, bytes]]) -> bytes:
    tail = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options)
    if options:
        tail += struct.pack("<HH", _OPT_END, 0)
    length = 12 + len(body) + len(tail)
    return struct.pack("<II", kind, length) + body + tail + struct.pack("<I", length)


def _checksum(octets: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + bytes(len(octets) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def sip_payload(text: str | bytes) -> bytes:
    """Return a redacted SIP message as octets whose Content-Length is true again (redaction changed the body).

    A masked key becomes a mask of the length of a key: dissectors give up on a shorter one.
    """
    octets = text.encode() if isinstance(text, str) else text
    head, gap, body = octets.partition(b"\r\n\r\n")
    body = _MASKED_KEY.sub(_MASK, body)
    return _LENGTH_HEADER.sub(rb"\g<1>\g<2>" + str(len(body)).encode(), head) + gap + body
