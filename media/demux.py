"""Which protocol a datagram on a media port belongs to (RFC 7983 7, RFC 5761 4)."""

from enum import Enum


class MediaProtocol(Enum):
    """What shares a media port; DROP is everything outside the known ranges."""

    STUN = "stun"
    ZRTP = "zrtp"
    DTLS = "dtls"
    TURN_CHANNEL = "turn-channel"
    RTP = "rtp"
    RTCP = "rtcp"
    DROP = "drop"


_RANGES = (
    (0, 3, MediaProtocol.STUN),
    (16, 19, MediaProtocol.ZRTP),
    (20, 63, MediaProtocol.DTLS),
    (64, 79, MediaProtocol.TURN_CHANNEL),
    (128, 191, MediaProtocol.RTP),
)


def _by_first_octet() -> tuple[MediaProtocol, ...]:
    table = [MediaProtocol.DROP] * 256
    for first, last, protocol in _RANGES:
        table[first : last + 1] = [protocol] * (last + 1 - first)
    return tuple(table)


FIRST_OCTET = _by_first_octet()
"""The table of RFC 7983 7, one entry per value of the first octet; RTP stands for RTP and RTCP."""
RTCP_PACKET_TYPES = range(192, 224)
"""Second octets that mean RTCP where it shares the port with RTP: packet types 192 to 223 (RFC 5761 4)."""
MINIMUM_RTP = 12
MINIMUM_RTCP = 8


def is_rtcp(datagram: bytes | bytearray | memoryview) -> bool:
    """Tell RTCP from RTP on a shared port by the second octet (RFC 5761 4); the caller knows it is one of them."""
    return len(datagram) >= 2 and 192 <= datagram[1] <= 223


def classify(datagram: bytes | bytearray | memoryview) -> MediaProtocol:
    """Return the protocol of a datagram received on a media port; never raises.

    Anything outside the ranges of RFC 7983 7, empty, or too short for its RTP or RTCP header is DROP.
    """
    if not datagram:
        return MediaProtocol.DROP
    protocol = FIRST_OCTET[datagram[0]]
    if protocol is not MediaProtocol.RTP:
        return protocol
    if is_rtcp(datagram):
        return MediaProtocol.RTCP if len(datagram) >= MINIMUM_RTCP else MediaProtocol.DROP
    return MediaProtocol.RTP if len(datagram) >= MINIMUM_RTP else MediaProtocol.DROP
