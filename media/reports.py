"""RTCP of a session: when to report, what to report, and what the far end's reports say (RFC 3550 6.2, 6.3, 6.4)."""

import random
from collections.abc import Callable

from media.g711 import SAMPLE_RATE
from media.rtcp import (
    CNAME,
    Bye,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    build_rtcp,
    middle_32,
    ntp_time,
    parse_rtcp,
    round_trip_time,
)
from media.rtp import ReceptionStatistics

INTERVAL_COMPENSATION = 1.21828
"""e - 3/2, which makes the randomised interval's mean come out right (RFC 3550 6.3.1)."""
ACTIVE_INTERVALS = 2
"""Report intervals without media after which a sender reports as receiver (RFC 3550 6.3.8)."""


class RtcpReporter:
    """Builds SR or RR with SDES every `interval` seconds (randomised), the first after about `first` seconds."""

    def __init__(
        self,
        ssrc: int,
        cname: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        randomness: random.Random,
        interval: float,
        first: float,
    ) -> None:
        self._ssrc = ssrc
        self._cname = cname.encode()[:255]
        self._clock = clock
        self._wall = wall
        self._random = randomness
        self._interval = interval
        self._first = first
        self._next: float | None = None
        self._media_packets = self._media_octets = 0
        self._quiet_reports = ACTIVE_INTERVALS
        self._last_sr: tuple[int, int, float] | None = None
        self.sent = 0
        self.received = 0
        self.round_trip_ms: float | None = None
        self.remote_lost: int | None = None
        self.remote_jitter_ms: float | None = None

    def sent_media(self, octets: int) -> None:
        """Count an RTP packet sent with `octets` of payload."""
        self._media_packets += 1
        self._media_octets += octets
        self._quiet_reports = 0

    def due(self, now: float) -> bool:
        """Tell whether a report is due, and if so when the next one is."""
        if self._next is None:
            self._next = now + self._first * self._random.uniform(0.5, 1.5)
        if now < self._next:
            return False
        self._next = now + self._interval * self._random.uniform(0.5, 1.5) / INTERVAL_COMPENSATION
        return True

    def report(self, timestamp: int, remote_ssrc: int | None, reception: ReceptionStatistics) -> bytes:
        """Return the compound packet to send now; `timestamp` is the RTP time of now."""
        return build_rtcp(self._report(timestamp, remote_ssrc, reception))

    def bye(self, timestamp: int, remote_ssrc: int | None, reception: ReceptionStatistics, reason: str) -> bytes:
        """Return the last compound packet, with BYE (RFC 3550 6.6)."""
        farewell = Bye((self._ssrc,), reason.encode()[:255])
        return build_rtcp([*self._report(timestamp, remote_ssrc, reception), farewell])

    def _report(self, timestamp: int, remote_ssrc: int | None, reception: ReceptionStatistics) -> list[RtcpPacket]:
        blocks = () if remote_ssrc is None else (self._block(remote_ssrc, reception),)
        report: RtcpPacket
        if self._quiet_reports < ACTIVE_INTERVALS:
            self._quiet_reports += 1
            report = SenderReport(
                self._ssrc,
                ntp_time(self._wall()),
                timestamp,
                self._media_packets & 0xFFFFFFFF,
                self._media_octets & 0xFFFFFFFF,
                blocks,
            )
        else:
            report = ReceiverReport(self._ssrc, blocks)
        return [report, SourceDescription(((self._ssrc, ((CNAME, self._cname),)),))]

    def _block(self, remote_ssrc: int, reception: ReceptionStatistics) -> ReportBlock:
        last_sr = delay = 0
        if self._last_sr is not None and self._last_sr[0] == remote_ssrc:
            last_sr = self._last_sr[1]
            delay = int((self._clock() - self._last_sr[2]) * 65536) & 0xFFFFFFFF
        return ReportBlock(
            remote_ssrc,
            reception.fraction_lost(),
            reception.lost,
            reception.extended_highest,
            reception.jitter & 0xFFFFFFFF,
            last_sr,
            delay,
        )

    def receive(self, compound: bytes) -> list[tuple[int, str]]:
        """Take a compound packet; return (SSRC, reason) of those that left. Raises `media.rtcp.RtcpError`."""
        farewells: list[tuple[int, str]] = []
        packets = parse_rtcp(compound)
        self.received += 1
        for packet in packets:
            if isinstance(packet, SenderReport):
                self._last_sr = (packet.ssrc, middle_32(packet.ntp_time), self._clock())
                self._take_blocks(packet.blocks)
            elif isinstance(packet, ReceiverReport):
                self._take_blocks(packet.blocks)
            elif isinstance(packet, Bye):
                reason = packet.reason.decode("utf-8", "replace")
                farewells += [(ssrc, reason) for ssrc in packet.ssrcs]
        return farewells

    def _take_blocks(self, blocks: tuple[ReportBlock, ...]) -> None:
        for block in blocks:
            if block.ssrc != self._ssrc:
                continue
            self.remote_lost = block.packets_lost
            self.remote_jitter_ms = block.jitter * 1000 / SAMPLE_RATE
            trip = round_trip_time(ntp_time(self._wall()), block)
            if trip is not None:
                self.round_trip_ms = trip * 1000
