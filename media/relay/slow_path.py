"""The careful way of a packet: every check in order, each with its cause. The fast path skips only what cannot fail.

Order: size, protocol, header, gate, source, SSRC bound, keys, latching, far side. A packet for a closed gate is dropped
unread, except that a latched SRTP side still authenticates it, so that the ROC survives a long hold (TS 33.328 7.4-10).
"""

import time
from collections.abc import Callable

from media.relay.contexts import Source
from media.relay.demultiplex import RTP_HEADER, foreign, is_rtcp, rtcp_is_whole, rtp_is_whole
from media.relay.interface import (
    MAX_DATAGRAM,
    Address,
    DropCause,
    Latched,
    Mode,
    Protection,
    RelayEvent,
    SrtpFailures,
    TappedPacket,
)
from media.relay.libsrtp import PacketBuffer
from media.relay.port import Port, Verdict
from media.relay.stream import Stream, StreamSide

_FAILURES = frozenset({DropCause.AUTH_FAILED, DropCause.REPLAYED, DropCause.MKI})
_SSRC_OFFSET = {False: 8, True: 4}


class SlowPath:
    """Judges and forwards the packet in the loop's buffer.

    `notify` takes events, `mirror` takes tapped packets, `latched` is told (side, packets that came meanwhile) after
    the sockets of a port changed. `settle` and `resume` are called around a change of a side's sources, of which the
    quick way keeps a state of its own; `counted` is told the stream after a packet.
    """

    def __init__(
        self,
        buffer: PacketBuffer,
        *,
        notify: Callable[[RelayEvent], None],
        mirror: Callable[[TappedPacket], None],
        latched: Callable[[StreamSide, Port, list[tuple[bytes, Address]]], None],
        settle: Callable[[StreamSide], None],
        resume: Callable[[StreamSide], None],
        counted: Callable[[Stream], None],
    ) -> None:
        self._buffer = buffer
        self._notify = notify
        self._mirror = mirror
        self._latched = latched
        self._settle = settle
        self._resume = resume
        self._counted = counted
        self._left: TappedPacket | None = None
        """The packet just sent, when the stream is tapped: it is told after the one that came."""

    def receive(self, side: StreamSide, port: Port, address: Address, now: float) -> None:
        """Carry the packet in the buffer, which came to `port` from `address`, to the other side, or count why not."""
        with side.stream.guard:
            self._receive(side, port, address, now)
        self._counted(side.stream)

    def _receive(self, side: StreamSide, port: Port, address: Address, now: float) -> None:
        length = self._buffer.length[0]
        octets = self._buffer.octets
        muxed = side.config.rtcp_mux and side.config.protection is not Protection.OPAQUE
        rtcp = port.rtcp or (muxed and length > 1 and octets[0] >> 6 == 2 and is_rtcp(octets[1]))
        if rtcp:
            side.rtcp_in += 1
        else:
            side.packets_in += 1
            side.octets_in += length
        if side.stream.tapped:
            cause = self._judge_and_mirror(side, port, address, now, rtcp=rtcp)
        else:
            cause = self._judge(side, port, address, now, rtcp=rtcp)
        if cause is not None:
            self.drop(side, cause)

    def _judge_and_mirror(
        self, side: StreamSide, port: Port, address: Address, now: float, *, rtcp: bool
    ) -> DropCause | None:
        came, wire = time.time(), self._buffer.packet()
        cause = self._judge(side, port, address, now, rtcp=rtcp)
        self._mirror(TappedPacket(side.stream.stream_id, side.name, came, address, port.local, wire, cause))
        if self._left is not None:
            self._mirror(self._left)
            self._left = None
        return cause

    def drop(self, side: StreamSide, cause: DropCause, count: int = 1) -> None:
        """Count drops on the side the packets came in; tell when failures pass a threshold."""
        side.count_drops(cause, count)
        if cause not in _FAILURES:
            return
        authentication = side.drops[DropCause.AUTH_FAILED] + side.drops[DropCause.MKI]
        replays = side.drops[DropCause.REPLAYED]
        if authentication + replays >= side.failure_threshold:
            while authentication + replays >= side.failure_threshold:
                side.failure_threshold *= 10
            self._notify(SrtpFailures(side.stream.stream_id, side.name, authentication, replays))

    def _judge(self, side: StreamSide, port: Port, address: Address, now: float, *, rtcp: bool) -> DropCause | None:
        length = self._buffer.length[0]
        if length > MAX_DATAGRAM:
            return DropCause.OVERSIZE
        far = side.far
        opaque = side.config.protection is Protection.OPAQUE
        if not opaque:
            cause = self._malformed(side, length, rtcp=rtcp)
            if cause is not None:
                return cause
        verdict = port.verdict(address)
        if rtcp and not opaque:
            gate_open = far is not None and Mode.INACTIVE not in (side.config.mode, far.config.mode)
        else:
            gate_open = side.gate_open
        if not gate_open or far is None:
            if verdict is Verdict.ACCEPT and port.settled and side.receiver is not None:
                cause = self._unprotect(side, now, rtcp=rtcp)
                if cause is not None:
                    return cause
            return DropCause.GATE_CLOSED
        if isinstance(verdict, DropCause):
            return verdict
        if not opaque:
            cause = self._unprotect(side, now, rtcp=rtcp)
            if cause is not None:
                return cause
        if verdict is Verdict.CANDIDATE:
            self._latch(side, port, address)
        side.last_in, side.silence_told = now, False
        return self._forward(far, now, rtcp=rtcp, opaque=opaque)

    def _malformed(self, side: StreamSide, length: int, *, rtcp: bool) -> DropCause | None:
        octets = self._buffer.octets
        if not length:
            return DropCause.TOO_SHORT
        other = foreign(octets[0])
        if other is not None:
            return other
        if length > 1 and is_rtcp(octets[1]) is not rtcp:
            return DropCause.NOT_RTP
        trailer = 0
        if side.receiver is not None:
            suite = side.receiver.suite
            trailer = side.receiver.session.mki_length + (suite.srtcp_tag_length + 4 if rtcp else suite.srtp_tag_length)
        whole = rtcp_is_whole if rtcp else rtp_is_whole
        return None if whole(octets, length, trailer) else DropCause.TOO_SHORT

    def _unprotect(self, side: StreamSide, now: float, *, rtcp: bool) -> DropCause | None:
        offset = _SSRC_OFFSET[rtcp]
        octets = self._buffer.octets
        ssrc = int.from_bytes(octets[offset : offset + 4], "big")
        if not side.known(ssrc):
            return DropCause.SSRC_LIMIT
        if side.config.protection is Protection.SRTP:
            if side.receiver is None:
                return DropCause.NO_KEY
            cause = side.receiver.unprotect(now, rtcp=rtcp)
            if cause is not None:
                return cause
        source = side.source(ssrc)
        if not rtcp:
            self._settle(side)
            self._note(side, source, now)
            self._resume(side)
        return None

    def _note(self, side: StreamSide, source: Source, now: float) -> None:
        _, _, sequence, timestamp, _ = RTP_HEADER.unpack_from(self._buffer.octets)
        source.note(sequence)
        source.measure(now * side.config.clock_rate - timestamp)

    def _latch(self, side: StreamSide, port: Port, address: Address) -> None:
        meanwhile = port.latch(address)
        if not port.rtcp:
            self._notify(Latched(side.stream.stream_id, side.name, address))
        self._latched(side, port, meanwhile)

    def _forward(self, far: StreamSide, now: float, *, rtcp: bool, opaque: bool) -> DropCause | None:
        out = (far.rtcp if opaque else far.rtcp_port()) if rtcp else far.rtp
        if out is None:
            return DropCause.RTCP_OFF
        if out.destination is None:
            return DropCause.NOT_LATCHED
        buffer = self._buffer
        if far.config.protection is Protection.SRTP:
            if far.sender is None:
                return DropCause.NO_KEY
            cause = far.sender.protect(rtcp=rtcp)
            if cause is not None:
                return cause
        packet = buffer.view[: buffer.length[0]]
        cause = out.send(packet)
        if cause is not None:
            return cause
        if rtcp:
            far.rtcp_out += 1
        else:
            far.packets_out += 1
            far.octets_out += len(packet)
        far.last_out = now
        if far.stream.tapped:
            far_id = far.stream.stream_id
            self._left = TappedPacket(far_id, far.name, time.time(), out.local, out.destination, bytes(packet))
        return None
