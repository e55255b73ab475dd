"""RTP packets and what a receiver counts of a source (RFC 3550 5, 6.4.1, A.1, A.3, A.8)."""

import struct
from dataclasses import dataclass

RTP_VERSION = 2
FIXED_HEADER = 12
MAXIMUM_CSRCS = 15
_HEADER = struct.Struct("!BBHII")


class RtpError(ValueError):
    """The octets are no RTP packet, or a field does not fit."""


@dataclass(frozen=True, slots=True)
class HeaderExtension:
    """The one header extension: 16-bit profile and whole 32-bit words (RFC 3550 5.3.1)."""

    profile: int
    content: bytes


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """An RTP packet (RFC 3550 5.1); `timestamp` in units of the payload's clock, `padding` in octets."""

    payload_type: int
    sequence_number: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extension: HeaderExtension | None = None
    padding: int = 0

    def to_bytes(self) -> bytes:
        """Return the packet's octets. Raises RtpError when a field is out of range."""
        if len(self.csrcs) > MAXIMUM_CSRCS or not 0 <= self.payload_type < 128 or not 0 <= self.padding < 256:
            raise RtpError("a header field is out of range")
        first = RTP_VERSION << 6 | len(self.csrcs)
        tail = [self.payload]
        if self.extension is not None:
            first |= 0x10
            if len(self.extension.content) % 4:
                raise RtpError("a header extension is made of 32-bit words")
            tail[:0] = [
                struct.pack("!HH", self.extension.profile, len(self.extension.content) // 4),
                self.extension.content,
            ]
        if self.padding:
            first |= 0x20
            tail.append(bytes(self.padding - 1) + bytes((self.padding,)))
        try:
            header = _HEADER.pack(
                first, self.marker << 7 | self.payload_type, self.sequence_number, self.timestamp, self.ssrc
            )
            sources = struct.pack(f"!{len(self.csrcs)}I", *self.csrcs)
        except struct.error:
            raise RtpError("a header field is out of range") from None
        return b"".join((header, sources, *tail))


def parse_rtp(packet: bytes) -> RtpPacket:
    """Return the RTP packet in `packet` (RFC 3550 5.1, A.1). Raises RtpError, and nothing else."""
    length = len(packet)
    if length < FIXED_HEADER:
        raise RtpError("shorter than an RTP header")
    first, second, sequence_number, timestamp, ssrc = _HEADER.unpack_from(packet)
    if first >> 6 != RTP_VERSION:
        raise RtpError("not RTP version 2")
    start, end = FIXED_HEADER, length
    csrcs: tuple[int, ...] = ()
    extension = None
    padding = 0
    if first & 0x3F:
        count = first & 0x0F
        start += 4 * count
        if start > length:
            raise RtpError("CSRC list cut short")
        csrcs = struct.unpack_from(f"!{count}I", packet, FIXED_HEADER)
        if first & 0x10:
            extension, start = _parse_extension(packet, start)
        if first & 0x20:
            padding = packet[-1] if start < length else 0
            end -= padding
            if not padding or end < start:
                raise RtpError("padding does not fit the packet")
    return RtpPacket(
        second & 0x7F,
        sequence_number,
        timestamp,
        ssrc,
        packet[start:end],
        marker=second >= 0x80,
        csrcs=csrcs,
        extension=extension,
        padding=padding,
    )


def _parse_extension(packet: bytes, start: int) -> tuple[HeaderExtension, int]:
    if start + 4 > len(packet):
        raise RtpError("header extension cut short")
    profile, words = struct.unpack_from("!HH", packet, start)
    end = start + 4 + 4 * words
    if end > len(packet):
        raise RtpError("header extension cut short")
    return HeaderExtension(profile, packet[start + 4 : end]), end


def timestamp_difference(later: int, earlier: int) -> int:
    """Return `later - earlier` of two 32-bit RTP timestamps as a signed number, nearest way round."""
    return (later - earlier + (1 << 31) & 0xFFFFFFFF) - (1 << 31)


MAXIMUM_DROPOUT = 3000
MAXIMUM_MISORDER = 100
SEQUENCE_SPACE = 1 << 16


class ReceptionStatistics:
    """Loss and interarrival jitter of one synchronization source (RFC 3550 A.1, A.3, A.8).

    `clock_rate` in Hz. Without the probation of A.1: who is heard is decided by the session.
    """

    __slots__ = (
        "_bad_sequence",
        "_base",
        "_cycles",
        "_expected_prior",
        "_highest",
        "_jitter",
        "_last_transit",
        "_received_prior",
        "clock_rate",
        "received",
    )

    def __init__(self, clock_rate: int = 8000) -> None:
        self.clock_rate = clock_rate
        self._start(0)
        self.received = -1

    def _start(self, sequence: int) -> None:
        self._base = self._highest = sequence
        self._cycles = 0
        self._bad_sequence: int | None = None
        self.received = 0
        self._received_prior = self._expected_prior = 0
        self._jitter = 0.0
        self._last_transit: int | None = None

    def packet(self, sequence: int, timestamp: int, arrival: float, *, timed: bool = True) -> bool:
        """Count a packet that arrived at `arrival` (seconds); False when its SEQ jumped too far to be believed yet.

        Not `timed`: the timestamp is not the sampling time (telephone events, RFC 4733 2.5.1.2), no jitter then.
        """
        if self.received < 0:
            self._start(sequence)
        delta = sequence - self._highest & 0xFFFF
        if delta < MAXIMUM_DROPOUT:
            if sequence < self._highest:
                self._cycles += SEQUENCE_SPACE
            self._highest = sequence
        elif delta <= SEQUENCE_SPACE - MAXIMUM_MISORDER:
            if sequence != self._bad_sequence:
                self._bad_sequence = sequence + 1 & 0xFFFF
                return False
            self._start(sequence)  # two in sequence: the sender restarted without telling
        elif self._cycles == 0 and self.received < MAXIMUM_MISORDER:
            # reordered at the very beginning: the first one sent is not the first one seen
            self._base -= max(0, (self._base - sequence + 0x8000 & 0xFFFF) - 0x8000)
        self.received += 1
        if not timed:
            return True
        transit = int(arrival * self.clock_rate) - timestamp
        if self._last_transit is not None:
            change = abs(timestamp_difference(transit & 0xFFFFFFFF, self._last_transit & 0xFFFFFFFF))
            self._jitter += (change - self._jitter) / 16
        self._last_transit = transit
        return True

    @property
    def extended_highest(self) -> int:
        """The highest SEQ received with the count of cycles above it, 32 bits."""
        return self._cycles + self._highest & 0xFFFFFFFF

    @property
    def expected(self) -> int:
        """Packets expected so far."""
        return self._cycles + self._highest - self._base + 1 if self.received > 0 else 0

    @property
    def lost(self) -> int:
        """Packets lost so far; negative when duplicates outweigh losses."""
        return self.expected - max(self.received, 0)

    @property
    def jitter(self) -> int:
        """Interarrival jitter in timestamp units."""
        return int(self._jitter)

    @property
    def jitter_ms(self) -> float:
        """Interarrival jitter in milliseconds."""
        return self._jitter * 1000 / self.clock_rate

    def fraction_lost(self) -> int:
        """Return the loss since the last call in 256ths, as a report block carries it (RFC 3550 A.3)."""
        expected, received = self.expected, max(self.received, 0)
        expected_interval, received_interval = expected - self._expected_prior, received - self._received_prior
        self._expected_prior, self._received_prior = expected, received
        lost = expected_interval - received_interval
        return min(255, lost * 256 // expected_interval) if expected_interval > 0 and lost > 0 else 0
