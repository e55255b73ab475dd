"""Which protocol a datagram on a media port is (RFC 7983 7, RFC 5761 4), and whether its RTP header is whole (RFC 3550
5.1)."""

from struct import Struct

from media.relay.interface import DropCause

RTP_HEADER = Struct("!BBHII")
"""First octet, marker and payload type, sequence number, timestamp, SSRC."""
_RTCP_HEADER_OCTETS = 8


def is_rtcp(second: int) -> bool:
    """Whether the second octet is an RTCP packet type (RFC 5761 4: 192 to 223)."""
    return 192 <= second <= 223


def foreign(first: int) -> DropCause | None:
    """Name what a datagram with that first octet is when it is no RTP or RTCP, else None (RFC 7983 7)."""
    if 128 <= first <= 191:
        return None
    if first <= 3:
        return DropCause.STUN
    return DropCause.DTLS if 20 <= first <= 63 else DropCause.NOT_RTP


def rtp_is_whole(packet: bytearray | bytes, length: int, trailer: int = 0) -> bool:
    """Whether `length` octets hold the fixed header, CSRCs, header extension and a trailer of `trailer` octets."""
    end = length - trailer
    if end < RTP_HEADER.size:
        return False
    header = RTP_HEADER.size + 4 * (packet[0] & 0x0F)
    if not packet[0] & 0x10:
        return header <= end
    if header + 4 > end:
        return False
    return header + 4 + 4 * int.from_bytes(packet[header + 2 : header + 4], "big") <= end


def rtcp_is_whole(packet: bytearray | bytes, length: int, trailer: int = 0) -> bool:
    """Whether `length` octets hold an RTCP header with SSRC and a trailer of `trailer` octets."""
    return length - trailer >= _RTCP_HEADER_OCTETS and packet[0] & 0xC0 == 0x80
