"""Reads what ``imslab call --pcap FILE --with-keys`` wrote: frames, key lines, and media opened with those keys."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from keying.sdes import CryptoAttribute, parse_crypto
from media.srtp import SrtpContext, SrtpError

UDP, TCP = 17, 6
_ENHANCED_PACKET = 6
_KEY_LINE = re.compile(rb"^(\S+) (\S+):(\d+) -> (\S+):(\d+) a=crypto:([ -~]+)", re.MULTILINE)

Address = tuple[str, int]


@dataclass(frozen=True)
class Frame:
    """One frame: seconds since the epoch, protocol number, ends, payload above the transport."""

    time: float
    protocol: int
    source: Address
    destination: Address
    payload: bytes

    @property
    def is_rtp(self) -> bool:
        octets = self.payload
        return self.protocol == UDP and len(octets) >= 12 and octets[0] >> 6 == 2 and not 192 <= octets[1] <= 223


@dataclass(frozen=True)
class KeyLine:
    """A key of a capture: whose packets it protects, and the crypto line."""

    gateway: str
    source: Address
    destination: Address
    crypto: CryptoAttribute


class Capture:
    """A pcapng file of one call."""

    def __init__(self, path: Path) -> None:
        self.octets = path.read_bytes()
        self.frames = list(_frames(self.octets))
        self.keys = [
            KeyLine(
                match[1].decode(),
                (match[2].decode(), int(match[3])),
                (match[4].decode(), int(match[5])),
                parse_crypto(match[6].decode()),
            )
            for match in _KEY_LINE.finditer(self.octets)
        ]

    def keys_from(self, host: str) -> list[CryptoAttribute]:
        """The keys that protect what `host` sends, oldest first, each once."""
        found: list[CryptoAttribute] = []
        for key in self.keys:
            if key.source[0] == host and all(key.crypto.master_key != known.master_key for known in found):
                found.append(key.crypto)
        return found

    def rtp_from(self, host: str) -> list[Frame]:
        return [frame for frame in self.frames if frame.is_rtp and frame.source[0] == host]

    def sip(self, start: bytes, host: str = "") -> list[Frame]:
        """The SIP messages whose start line begins so, sent by `host` when given."""
        return [frame for frame in self.frames if frame.payload.startswith(start) and host in ("", frame.source[0])]

    def opened(self, host: str, crypto: CryptoAttribute) -> list[Frame]:
        """The RTP of `host` that opens under one key from a fresh context on: ROC 0 (RFC 4568 7.1.4)."""
        context = SrtpContext.from_crypto(crypto)
        good = []
        for frame in self.rtp_from(host):
            try:
                context.unprotect_rtp(frame.payload)
            except SrtpError:
                continue
            good.append(frame)
        return good


def _frames(octets: bytes):
    at = 0
    while at + 12 <= len(octets):
        kind, length = struct.unpack_from("<II", octets, at)
        if kind == _ENHANCED_PACKET:
            _, high, low, captured, _ = struct.unpack_from("<IIIII", octets, at + 8)
            packet = octets[at + 28 : at + 28 + captured]
            protocol = packet[9]
            ports = struct.unpack_from("!HH", packet, 20)
            skip = 8 if protocol == UDP else 4 * (packet[32] >> 4)
            hosts = [str(ipaddress.ip_address(packet[place : place + 4])) for place in (12, 16)]
            yield Frame(
                ((high << 32) + low) / 1e9, protocol, (hosts[0], ports[0]), (hosts[1], ports[1]), packet[20 + skip :]
            )
        at += length
