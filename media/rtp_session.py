"""The sans-IO RTP session of an endpoint: G.711 out and in, DTMF, RTCP, optional SRTP (RFC 3550, 3551, 4733, 3711)."""

import random
import secrets
import struct
import time
from array import array
from collections import Counter
from collections.abc import Callable

from media.demux import MediaProtocol, classify
from media.dtmf import DigitReceived, DtmfError, DtmfReceiver, DtmfSender
from media.g711 import BY_PAYLOAD_TYPE, SAMPLE_RATE, Codec
from media.jitter import JitterBuffer
from media.protection import Protection
from media.recorder import Recording
from media.reports import RtcpReporter
from media.rtcp import RtcpError
from media.rtp import ReceptionStatistics, RtpError, RtpPacket, parse_rtp
from media.session_events import (
    Address,
    ByeReceived,
    Direction,
    DtmfReceived,
    MediaStarted,
    Outgoing,
    PacketRefused,
    RekeyNeeded,
    RtpStatistics,
    SessionEvent,
    SessionSettings,
)
from media.source import AudioSource
from media.srtp import SrtpError

_HEADER = struct.Struct("!BBHII")
SOURCE_SILENCE = 0.2
"""Seconds the present source must be silent before an unauthenticated other SSRC is taken (own choice)."""
REPLAY_CAUSES = ("replay", "replay_too_old")


class RtpSession:
    """One audio stream of one endpoint. `clock` gives monotonic seconds, `wall` Unix seconds for RTCP.

    The shell calls :meth:`tick` once per packet time and sends what it returns, hands datagrams to :meth:`receive` and
    takes the events of both from :meth:`events`. Nothing is sent before :attr:`remote` is known.
    """

    def __init__(
        self,
        settings: SessionSettings | None = None,
        *,
        source: AudioSource | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        randomness: random.Random | None = None,
    ) -> None:
        self.settings = settings or SessionSettings()
        self.source = source
        self.protection = Protection(clock)
        self.direction = Direction.SENDRECV
        self.remote: Address | None = None
        self.remote_rtcp: Address | None = None
        self._clock = clock
        chance = randomness or random.SystemRandom()
        self.ssrc = chance.getrandbits(32)
        self._sequence = chance.getrandbits(15)  # below 2^15: RFC 4568 6.4
        self._timestamp = chance.getrandbits(32)
        self._step = self.settings.samples_per_packet
        self._position = 0
        self._talking = False
        self._rekey_told = False
        self._events: list[SessionEvent] = []
        self.set_codec(self.settings.codec, self.settings.payload_type, self.settings.dtmf_payload_type)
        self._dtmf_out = DtmfSender()
        self._dtmf_in = DtmfReceiver()
        self._jitter = JitterBuffer(self.settings.jitter_delay, self._step)
        self.recording = Recording(self.codec, self._step)
        self._remote_ssrc: int | None = None
        self._candidate: tuple[int, int] | None = None
        self._last_arrival = float("-inf")
        self._reception = ReceptionStatistics(SAMPLE_RATE)
        self.drops: Counter[str] = Counter()
        self.packets_in = self.packets_out = self.octets_in = self.octets_out = 0
        self._reporter = RtcpReporter(
            self.ssrc,
            self.settings.cname or secrets.token_urlsafe(12),
            clock=clock,
            wall=wall,
            randomness=chance,
            interval=self.settings.rtcp_interval,
            first=self.settings.first_rtcp,
        )

    # -- what the offer/answer decides ---------------------------------------------------------------------------------

    def set_codec(self, codec: Codec, payload_type: int | None = None, dtmf_payload_type: int | None = None) -> None:
        """Send and take `codec` under `payload_type` (None: the static one); the other G.711 law stays understood."""
        self.codec = codec
        self._payload_type = codec.payload_type if payload_type is None else payload_type
        self._dtmf_payload_type = dtmf_payload_type
        self._codecs = {**BY_PAYLOAD_TYPE, self._payload_type: codec}

    def set_remote(self, remote: Address, rtcp: Address | None = None) -> None:
        """Send to `remote`, RTCP to `rtcp` (None: the next port; with rtcp-mux always the same one)."""
        if remote != self.remote:
            self._last_arrival = float("-inf")  # another far end: its SSRC is taken at once
        self.remote = remote
        if self.settings.rtcp_mux:
            self.remote_rtcp = remote
        else:
            self.remote_rtcp = rtcp or (remote[0], remote[1] + 1)

    def set_direction(self, direction: Direction) -> None:
        """Hold or resume; contexts, SSRC and RTCP go on (TS 33.328 7.4, RFC 4568 6.5)."""
        if direction.sends and not self.direction.sends:
            self._talking = False
        self.direction = direction

    def play(self, source: AudioSource | None) -> None:
        """Say something else from its beginning on; None: silence."""
        self.source = source
        self._position = 0

    def send_digits(self, digits: str) -> None:
        """Queue DTMF digits. Raises DtmfError for an unknown digit, or when no telephone event was negotiated."""
        if self._dtmf_payload_type is None:
            raise DtmfError("no telephone-event was negotiated")
        self._dtmf_out.enqueue(digits)

    # -- out -----------------------------------------------------------------------------------------------------------

    def tick(self) -> list[Outgoing]:
        """Pass one packet time: return the datagrams due now. Raises nothing; an expired key shows in the drops."""
        now = self._clock()
        due: list[Outgoing] = []
        if self.remote is not None:
            if self.direction.sends:
                self._send_media(due, self.remote)
            if self._reporter.due(now) and self.remote_rtcp is not None:
                self._send_rtcp(self._reporter.report(self._timestamp, self._remote_ssrc, self._reception), due)
        self._position += self._step
        self._timestamp = self._timestamp + self._step & 0xFFFFFFFF
        self._play_out(now)
        return due

    def skip(self, packets: int) -> None:
        """Let `packets` packet times pass unsent: the process stood still, the far end shall see the gap as silence."""
        self._timestamp = self._timestamp + packets * self._step & 0xFFFFFFFF
        self._position += packets * self._step
        self._talking = False

    def bye(self, reason: str = "") -> list[Outgoing]:
        """Return the farewell of RFC 3550 6.6; sent once something was sent."""
        due: list[Outgoing] = []
        if self.remote_rtcp is not None and (self.packets_out or self._reporter.sent):
            self._send_rtcp(self._reporter.bye(self._timestamp, self._remote_ssrc, self._reception, reason), due)
        return due

    def _send_media(self, due: list[Outgoing], remote: Address) -> None:
        if self._dtmf_out.active and self._dtmf_payload_type is not None:
            events = self._dtmf_out.next_packets(self._timestamp, self._step)
            for event in events:
                self._send_rtp(self._dtmf_payload_type, event.marker, event.timestamp, event.payload, due, remote)
            if events:
                return
        if self.source is None:
            payload = self.codec.silent(self._step)
        else:
            payload = self.source.frame(self.codec, self._position, self._step)
        self._send_rtp(self._payload_type, not self._talking, self._timestamp, payload, due, remote)
        self._talking = True

    def _send_rtp(  # the fields of one header, in its order
        self, payload_type: int, marker: bool, timestamp: int, payload: bytes, due: list[Outgoing], remote: Address
    ) -> None:
        packet = _HEADER.pack(0x80, marker << 7 | payload_type, self._sequence, timestamp, self.ssrc) + payload
        if self.protection.required:
            context = self.protection.sending
            if context is None:
                self.drops["no_sending_key"] += 1
                return
            try:
                packet = context.protect_rtp(packet)
            except SrtpError as fault:
                self.drops[f"send_{fault.cause}"] += 1
                return
            needs_rekey = context.needs_rekey
            if needs_rekey and not self._rekey_told:
                self._events.append(RekeyNeeded(context.suite.name))
            self._rekey_told = needs_rekey
        self._sequence = self._sequence + 1 & 0xFFFF
        self.packets_out += 1
        self.octets_out += len(payload)
        self._reporter.sent_media(len(payload))
        due.append(Outgoing(packet, rtcp=False, destination=remote))

    def _send_rtcp(self, packet: bytes, due: list[Outgoing]) -> None:
        if self.remote_rtcp is None:
            return
        if self.protection.required:
            if self.protection.sending is None:
                self.drops["no_sending_key"] += 1
                return
            try:
                packet = self.protection.sending.protect_rtcp(packet)
            except SrtpError as fault:
                self.drops[f"send_{fault.cause}"] += 1
                return
        self._reporter.sent += 1
        due.append(Outgoing(packet, rtcp=True, destination=self.remote_rtcp))

    # -- in ------------------------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Address) -> None:
        """Take a datagram of either port; RTP and RTCP are told apart as RFC 5761 4 says. Raises nothing."""
        protocol = classify(datagram)
        if protocol is MediaProtocol.RTP:
            self._receive_rtp(datagram, source)
        elif protocol is MediaProtocol.RTCP:
            self._receive_rtcp(datagram, source)
        else:
            self._drop("not_media", source)

    def events(self) -> list[SessionEvent]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    def _drop(self, cause: str, source: Address) -> None:
        self.drops[cause] += 1
        if self.drops[cause] == 1:
            self._events.append(PacketRefused(cause, source))

    def _foreign(self, source: Address) -> bool:
        """Without authentication only the far end's own IP address is listened to."""
        return not self.protection.required and self.remote is not None and source[0] != self.remote[0]

    def _receive_rtp(self, datagram: bytes, source: Address) -> None:
        if self._foreign(source):
            self._drop("foreign_source", source)
            return
        if self.protection.required:
            if self.protection.receiving is None:
                self._drop("no_receiving_key", source)
                return
            try:
                datagram = self.protection.receiving.unprotect_rtp(datagram)
            except SrtpError as fault:
                self._drop(fault.cause, source)
                return
        try:
            packet = parse_rtp(datagram)
        except RtpError:
            self._drop("malformed", source)
            return
        if packet.payload_type not in self._codecs and packet.payload_type != self._dtmf_payload_type:
            self._drop("unknown_payload_type", source)
            return
        now = self._clock()
        if packet.ssrc != self._remote_ssrc and not self._take_source(packet, source, now):
            self._drop("foreign_ssrc", source)
            return
        timed = packet.payload_type != self._dtmf_payload_type
        if not self._reception.packet(packet.sequence_number, packet.timestamp, now, timed=timed):
            self._drop("sequence_jump", source)
            return
        self._last_arrival = now
        self.packets_in += 1
        self.octets_in += len(packet.payload)
        if self.settings.symmetric and source != self.remote:
            self.set_remote(source)
        if self.direction.receives:
            self._take_payload(packet, source, now)

    def _take_source(self, packet: RtpPacket, source: Address, now: float) -> bool:
        """Decide whether another SSRC becomes the one that is heard.

        At once when nobody is heard or the present one fell silent; an authenticated one also when two of its packets
        follow each other (RFC 3550 A.1 calls that probation).
        """
        if self._remote_ssrc is not None and now - self._last_arrival < SOURCE_SILENCE:
            expected = (packet.ssrc, packet.sequence_number)
            self._candidate, candidate = (packet.ssrc, packet.sequence_number + 1 & 0xFFFF), self._candidate
            if not self.protection.required or candidate != expected:
                return False
        self._candidate = None
        self._remote_ssrc = packet.ssrc
        self._reception = ReceptionStatistics(SAMPLE_RATE)
        self._play_out(now, flush=True)
        self._jitter.restart()
        self._events.append(MediaStarted(packet.ssrc, source, self.protection.required))
        return True

    def _take_payload(self, packet: RtpPacket, source: Address, now: float) -> None:
        if packet.payload_type == self._dtmf_payload_type:
            try:
                self._tell_digits(self._dtmf_in.packet(packet.payload, packet.timestamp))
            except DtmfError:
                self._drop("malformed", source)
            return
        codec = self._codecs[packet.payload_type]
        payload = packet.payload
        if codec is not self.recording.codec:
            payload = self.recording.codec.encode(codec.decode(payload))
        if payload:
            self._jitter.put(packet.timestamp, payload, now)

    def _tell_digits(self, digits: list[DigitReceived]) -> None:
        self._events += [DtmfReceived(digit.digit, digit.duration * 1000 // SAMPLE_RATE) for digit in digits]

    def _play_out(self, now: float, *, flush: bool = False) -> None:
        for frame in self._jitter.take(now, flush=flush):
            if self.settings.record:
                self.recording.add(frame)

    def _receive_rtcp(self, datagram: bytes, source: Address) -> None:
        if self._foreign(source):
            self._drop("foreign_source", source)
            return
        if self.protection.required:
            if self.protection.receiving is None:
                self._drop("no_receiving_key", source)
                return
            try:
                datagram = self.protection.receiving.unprotect_rtcp(datagram)
            except SrtpError as fault:
                self._drop(fault.cause, source)
                return
        try:
            farewells = self._reporter.receive(datagram)
        except RtcpError:
            self._drop("malformed", source)
            return
        self._events += [ByeReceived(ssrc, reason) for ssrc, reason in farewells]

    # -- figures -------------------------------------------------------------------------------------------------------

    def heard(self) -> "array[int]":
        """Return what was heard so far, 16-bit samples at 8 kHz, including what the jitter buffer still held."""
        self._play_out(self._clock(), flush=True)
        return self.recording.samples()

    def statistics(self) -> RtpStatistics:
        """Return the figures so far."""
        sending, receiving = self.protection.sending, self.protection.receiving
        return RtpStatistics(
            packets_in=self.packets_in,
            packets_out=self.packets_out,
            octets_in=self.octets_in,
            octets_out=self.octets_out,
            rtcp_in=self._reporter.received,
            rtcp_out=self._reporter.sent,
            lost=self._reception.lost,
            expected=self._reception.expected,
            jitter_ms=self._reception.jitter_ms,
            auth_failures=self.drops["auth_failure"],
            replays=sum(self.drops[cause] for cause in REPLAY_CAUSES),
            drops={cause: count for cause, count in self.drops.items() if count},
            late=self._jitter.late,
            duplicates=self._jitter.duplicates,
            reordered=self._jitter.reordered,
            round_trip_ms=self._reporter.round_trip_ms,
            remote_lost=self._reporter.remote_lost,
            remote_jitter_ms=self._reporter.remote_jitter_ms,
            ssrc=self.ssrc,
            remote_ssrc=self._remote_ssrc,
            suite_in=receiving.suite.name if receiving else None,
            suite_out=sending.suite.name if sending else None,
        )
