"""RTCP compound packets: SR, RR, SDES, BYE, and every other type kept as it came (RFC 3550 6, A.2)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

RTCP_VERSION = 2
SR, RR, SDES, BYE, APP, RTPFB, PSFB, XR = 200, 201, 202, 203, 204, 205, 206, 207
MAXIMUM_PACKETS = 64
"""Packets one compound packet may hold here (own limit)."""
MAXIMUM_BLOCKS = 31
CNAME = 1
NTP_EPOCH_OFFSET = 2_208_988_800
"""Seconds from 1900 (NTP) to 1970 (Unix)."""
_REPORT_BLOCK = struct.Struct("!IIIIII")
_SENDER_INFO = struct.Struct("!IQIII")


class RtcpError(ValueError):
    """The octets are no valid compound RTCP packet, or a field does not fit."""


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What the reporter received of `ssrc` (RFC 3550 6.4.1).

    `fraction_lost` in 256ths, `jitter` in timestamp units, `last_sr` the middle 32 bits of the SR's NTP time,
    `delay_since_last_sr` in 1/65536 s.
    """

    ssrc: int
    fraction_lost: int
    packets_lost: int
    extended_highest: int
    jitter: int
    last_sr: int
    delay_since_last_sr: int

    def to_bytes(self) -> bytes:
        """Return the 24 octets of the block; the cumulative loss is clamped to its 24 bits."""
        lost = max(-(1 << 23), min((1 << 23) - 1, self.packets_lost)) & 0xFFFFFF
        return _REPORT_BLOCK.pack(
            self.ssrc,
            self.fraction_lost << 24 | lost,
            self.extended_highest,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        )


@dataclass(frozen=True, slots=True)
class SenderReport:
    """SR (RFC 3550 6.4.1); `ntp_time` is 64 bits, 32 of them fraction."""

    ssrc: int
    ntp_time: int
    rtp_timestamp: int
    packet_count: int
    octet_count: int
    blocks: tuple[ReportBlock, ...] = ()
    extension: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """RR (RFC 3550 6.4.2)."""

    ssrc: int
    blocks: tuple[ReportBlock, ...] = ()
    extension: bytes = b""


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """SDES (RFC 3550 6.5): per SSRC the items as (type, octets)."""

    chunks: tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...]


@dataclass(frozen=True, slots=True)
class Bye:
    """BYE (RFC 3550 6.6)."""

    ssrcs: tuple[int, ...]
    reason: bytes = b""


@dataclass(frozen=True, slots=True)
class OtherRtcp:
    """A packet type that is carried, not read: APP, feedback, XR and unknown ones; `count` is the 5-bit field."""

    packet_type: int
    count: int
    content: bytes = field(repr=False)


RtcpPacket = SenderReport | ReceiverReport | SourceDescription | Bye | OtherRtcp


def ntp_time(unix_seconds: float) -> int:
    """Return the 64-bit NTP time of a Unix time in seconds (RFC 3550 4)."""
    return int((unix_seconds + NTP_EPOCH_OFFSET) * (1 << 32)) & (1 << 64) - 1


def middle_32(ntp: int) -> int:
    """Return the middle 32 bits of a 64-bit NTP time, as LSR carries them."""
    return ntp >> 16 & 0xFFFFFFFF


def round_trip_time(now_ntp: int, block: ReportBlock) -> float | None:
    """Return the round trip in seconds that `block` shows at `now_ntp`; None before any SR (RFC 3550 6.4.1)."""
    if not block.last_sr:
        return None
    trip = middle_32(now_ntp) - block.last_sr - block.delay_since_last_sr & 0xFFFFFFFF
    return trip / 65536 if trip < 1 << 31 else None


def parse_rtcp(compound: bytes, *, reduced_size: bool = False) -> tuple[RtcpPacket, ...]:
    """Return the packets of a compound packet. Raises RtcpError, and nothing else.

    Checks RFC 3550 A.2: version, first packet SR or RR (unless `reduced_size`, RFC 5506), padding in the last
    packet only, lengths adding up.
    """
    packets: list[RtcpPacket] = []
    offset, end = 0, len(compound)
    if not end:
        raise RtcpError("empty")
    while offset < end:
        if end - offset < 4:
            raise RtcpError("packet header cut short")
        first, packet_type, words = struct.unpack_from("!BBH", compound, offset)
        if first >> 6 != RTCP_VERSION:
            raise RtcpError("not RTCP version 2")
        stop = offset + 4 + 4 * words
        if stop > end:
            raise RtcpError("packet cut short")
        content_end = stop
        if first & 0x20:
            padding = compound[stop - 1]
            if stop != end or not padding or padding % 4 or padding > 4 * words:
                raise RtcpError("padding is wrong or not in the last packet")
            content_end -= padding
        if not packets and packet_type not in (SR, RR) and not reduced_size:
            raise RtcpError("a compound packet starts with SR or RR")
        if len(packets) >= MAXIMUM_PACKETS:
            raise RtcpError("too many packets in a compound packet")
        packets.append(_parse_packet(packet_type, first & 0x1F, compound[offset + 4 : content_end]))
        offset = stop
    return tuple(packets)


def _parse_packet(packet_type: int, count: int, content: bytes) -> RtcpPacket:
    if packet_type == SR:
        if len(content) < _SENDER_INFO.size:
            raise RtcpError("SR cut short")
        ssrc, ntp, timestamp, packet_count, octets = _SENDER_INFO.unpack_from(content)
        blocks, rest = _parse_blocks(content, _SENDER_INFO.size, count)
        return SenderReport(ssrc, ntp, timestamp, packet_count, octets, blocks, rest)
    if packet_type == RR:
        if len(content) < 4:
            raise RtcpError("RR cut short")
        blocks, rest = _parse_blocks(content, 4, count)
        return ReceiverReport(int.from_bytes(content[:4], "big"), blocks, rest)
    if packet_type == SDES:
        return _parse_sdes(count, content)
    if packet_type == BYE:
        return _parse_bye(count, content)
    return OtherRtcp(packet_type, count, content)


def _parse_blocks(content: bytes, start: int, count: int) -> tuple[tuple[ReportBlock, ...], bytes]:
    end = start + count * _REPORT_BLOCK.size
    if end > len(content):
        raise RtcpError("report block cut short")
    blocks = []
    for ssrc, loss, highest, jitter, last_sr, delay in _REPORT_BLOCK.iter_unpack(content[start:end]):
        lost = loss & 0xFFFFFF
        lost -= (lost & 0x800000) << 1
        blocks.append(ReportBlock(ssrc, loss >> 24, lost, highest, jitter, last_sr, delay))
    return tuple(blocks), content[end:]


def _parse_sdes(count: int, content: bytes) -> SourceDescription:
    chunks = []
    offset = 0
    for _ in range(count):
        if offset + 4 > len(content):
            raise RtcpError("SDES chunk cut short")
        ssrc = int.from_bytes(content[offset : offset + 4], "big")
        offset += 4
        items: list[tuple[int, bytes]] = []
        while True:
            if offset >= len(content):
                raise RtcpError("SDES chunk has no end")
            item = content[offset]
            if item == 0:
                offset = offset + 4 & ~3  # null octets up to the next word
                break
            if offset + 2 > len(content):
                raise RtcpError("SDES item cut short")
            stop = offset + 2 + content[offset + 1]
            if stop > len(content):
                raise RtcpError("SDES item cut short")
            items.append((item, content[offset + 2 : stop]))
            offset = stop
        chunks.append((ssrc, tuple(items)))
    return SourceDescription(tuple(chunks))


def _parse_bye(count: int, content: bytes) -> Bye:
    end = 4 * count
    if end > len(content):
        raise RtcpError("BYE cut short")
    reason = b""
    if len(content) > end:
        length = content[end]
        if end + 1 + length > len(content):
            raise RtcpError("BYE reason cut short")
        reason = content[end + 1 : end + 1 + length]
    return Bye(struct.unpack_from(f"!{count}I", content), reason)


def build_rtcp(packets: Sequence[RtcpPacket]) -> bytes:
    """Return the octets of a compound packet. Raises RtcpError when a field does not fit."""
    try:
        return b"".join(map(_build_packet, packets))
    except struct.error:
        raise RtcpError("a field is out of range") from None


def _build_packet(packet: RtcpPacket) -> bytes:
    if isinstance(packet, SenderReport):
        info = _SENDER_INFO.pack(
            packet.ssrc, packet.ntp_time, packet.rtp_timestamp, packet.packet_count, packet.octet_count
        )
        return _framed(SR, len(packet.blocks), info + _blocks(packet.blocks) + packet.extension)
    if isinstance(packet, ReceiverReport):
        return _framed(
            RR, len(packet.blocks), packet.ssrc.to_bytes(4, "big") + _blocks(packet.blocks) + packet.extension
        )
    if isinstance(packet, SourceDescription):
        return _framed(SDES, len(packet.chunks), b"".join(_chunk(ssrc, items) for ssrc, items in packet.chunks))
    if isinstance(packet, Bye):
        content = struct.pack(f"!{len(packet.ssrcs)}I", *packet.ssrcs)
        if packet.reason:
            content += _padded(struct.pack("!B", len(packet.reason)) + packet.reason)
        return _framed(BYE, len(packet.ssrcs), content)
    return _framed(packet.packet_type, packet.count, packet.content)


def _blocks(blocks: tuple[ReportBlock, ...]) -> bytes:
    return b"".join(block.to_bytes() for block in blocks)


def _chunk(ssrc: int, items: tuple[tuple[int, bytes], ...]) -> bytes:
    content = b"".join(struct.pack("!BB", item, len(text)) + text for item, text in items)
    return struct.pack("!I", ssrc) + _padded(content + b"\0")


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _framed(packet_type: int, count: int, content: bytes) -> bytes:
    if count > MAXIMUM_BLOCKS or len(content) % 4:
        raise RtcpError("a packet holds 31 entries at most and whole words")
    return struct.pack("!BBH", RTCP_VERSION << 6 | count, packet_type, len(content) // 4) + content
