"""The quick way of a packet that every standing check has already let through.

A flow reads from a socket connected to the accepted peer, so the source needs no look. The quick way is open only while
both gates are, the peer is settled, one key is in use on each side and far from its lifetime, and nobody taps. All
else, and every packet that is not plain good RTP of a bound SSRC, goes the careful way.

What the quick way needs is bound into a closure whenever the stream changes: in the interpreter, looking things up once
more per packet would cost as much as the encryption.
"""

import select
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from struct import Struct

from media.relay.batch import Batch
from media.relay.board import Board
from media.relay.contexts import CAUSE_OF, Lifetime, Receiver, Sender, Source
from media.relay.demultiplex import rtp_is_whole
from media.relay.interface import MAX_DATAGRAM, DropCause, Protection
from media.relay.libsrtp import TRAILER_LIMIT, PacketBuffer
from media.relay.slow_path import SlowPath
from media.relay.sockets import segments_of
from media.relay.stream import StreamSide

LIFETIME_MARGIN = 1 << 22
"""Packets a key must still be good for on the interpreted quick way; counts are brought up to date with every tick."""
QUICK_OCTETS = 1600
"""Octets of the longest packet on the quick way: more than an Ethernet frame carries."""
VIEWS = QUICK_OCTETS + TRAILER_LIMIT + 1
"""Lengths up to which the slots of a batch keep prepared views."""
_NONE = 1 << 16
"""No sequence number of a packet."""
_CLOSE_S = 0.002
"""Seconds between two packets of a flow below which several may wait, so that they are read in one call."""
_MANY = 8
"""Packets of one flow that wait only when the loop is behind, even if no other flow has any."""
_HEADER = Struct("!HH4xI")
_QUICK = bytes(word >> 14 == 2 and not 192 <= word & 0xFF <= 223 for word in range(1 << 16))
"""By the first two octets: whether a packet is RTP (RFC 7983 7, RFC 5761 4)."""
_SIMPLE = bytes(_QUICK[word] and word & 0xDF00 == 0x8000 for word in range(1 << 16))
"""By the first two octets: whether it is RTP with the fixed header alone, without CSRC and extension."""

ReceivePackets = Callable[[float, bool], None]
"""Handles what waits at a socket, at a time in seconds; the flag tells that many sockets have something."""


def let_lie(_now: float, _busy: bool) -> None:
    """Leave what waits at a socket that is given up."""


def nothing() -> None:
    """Settle what is settled."""


def trailer_of(context: Receiver | Sender | None) -> int:
    """Octets that tag and MKI add to an RTP packet; 0 without protection."""
    return 0 if context is None else context.suite.srtp_tag_length + context.session.mki_length


def rtcp_trailer_of(context: Receiver | Sender | None) -> int:
    """Octets that index, tag and MKI add to an RTCP packet; 0 without protection."""
    return 0 if context is None else context.suite.srtcp_tag_length + 4 + context.session.mki_length


@dataclass(frozen=True, slots=True)
class Means:
    """What all flows of an engine share.

    `receivers` is the loop's table from descriptor to handler, `poll` tells it what has packets; `board` is where
    threads count.
    """

    buffer: PacketBuffer
    batch: Batch
    slow: SlowPath
    receivers: MutableMapping[int, ReceivePackets]
    poll: select.epoll
    board: Board


@dataclass(slots=True)
class Path:
    """The closures of one open quick way."""

    receive: ReceivePackets
    settle: Callable[[], None]


class Flow:
    """Packets of one side's RTP port that come from its peer; it keeps its entry of the loop's table right."""

    __slots__ = ("_entry", "_means", "_path", "_peer", "_side", "descriptor", "sock")
    margin = LIFETIME_MARGIN
    """Packets a key must still be good for."""

    def __init__(self, side: StreamSide, means: Means) -> None:
        self.sock = side.rtp.flow
        self.descriptor = self.sock.fileno() if self.sock is not None else -1
        self._side = side
        self._peer = side.rtp.destination
        self._means = means
        self._path: Path | None = None
        self._entry: ReceivePackets = let_lie

    def refresh(self, now: float) -> None:
        """Look again at everything the quick way takes for granted. Call after any change to the stream."""
        self._leave()
        self._path = self._quick_way() if self._ready(now) else None
        self._enter()

    def review(self, now: float) -> None:
        """Settle, and look again only whether time has opened or closed the quick way: grace over, key near its end."""
        self.settle()
        if self._ready(now) is (self._path is None):
            with self._side.stream.guard:
                self.refresh(now)

    def _enter(self) -> None:
        """Have what waits at the socket read from now on."""
        self._entry = self._receive_carefully if self._path is None else self._path.receive
        self._means.receivers[self.descriptor] = self._entry

    def settle(self) -> None:
        """Add what went the quick way to the counters of both sides."""
        if self._path is not None:
            self._path.settle()

    def _leave(self) -> None:
        """Settle, and let go of the closures of the quick way: they know one another.

        So what they hold, keys among it, goes with the last reference, without waiting for a collector.
        """
        self.settle()
        if self._path is not None:
            self._path.receive, self._path.settle = let_lie, nothing

    def resume(self) -> None:
        """Go on from the sources as they stand now. Call after they changed; :meth:`settle` comes before it."""

    def retire(self) -> None:
        """Count the last packets and leave the loop's table."""
        self._leave()
        self._path = None
        self._leave_table()

    def _leave_table(self) -> None:
        if self._means.receivers.get(self.descriptor) is self._entry:
            del self._means.receivers[self.descriptor]
        self._entry = let_lie

    def _ready(self, now: float) -> bool:
        side, port, far = self._side, self._side.rtp, self._side.far
        if far is None or far.rtp.flow is None or not side.gate_open or side.stream.tapped or not port.settled:
            return False
        if side.config.protection is Protection.OPAQUE and not self._takes_opaque():
            return False
        receiver, sender = side.receiver, far.sender
        if side.config.protection is Protection.SRTP and (
            receiver is None or receiver.in_grace(now) or not self._lasting(receiver.lifetime)
        ):
            return False
        return far.config.protection is not Protection.SRTP or (sender is not None and self._lasting(sender.lifetime))

    def _lasting(self, lifetime: Lifetime) -> bool:
        return lifetime.srtp - lifetime.srtp_used >= self.margin

    def _takes_opaque(self) -> bool:
        """Whether the quick way carries opaque packets, too."""
        return False

    def _receive_carefully(self, now: float, _: bool) -> None:
        sock, buffer = self.sock, self._means.buffer
        if sock is None:
            return
        try:
            buffer.length[0] = sock.recv_into(buffer.octets)
        except OSError:  # nothing there, or an ICMP error about something sent earlier
            return
        self._careful(now)

    def _careful(self, now: float) -> None:
        if self._peer is not None:
            self._means.slow.receive(self._side, self._side.rtp, self._peer, now)

    def _careful_slot(self, octets: bytes | bytearray, size: int, now: float) -> None:
        self._means.buffer.load(bytes(octets[: min(size, MAX_DATAGRAM + 1)]))  # a slot has room for more than may pass
        self._careful(now)

    def _failed(self, size: int, status: int) -> None:
        self._side.packets_in += 1
        self._side.octets_in += size
        self._means.slow.drop(self._side, CAUSE_OF.get(status, DropCause.AUTH_FAILED))

    def _send_again(self, packet: memoryview, size: int, far: StreamSide) -> None:
        """Send once more after an error, which may tell of an earlier packet; count the packet either way."""
        side = self._side
        side.packets_in += 1
        side.octets_in += size
        cause = far.rtp.send(packet)
        if cause is None:
            far.packets_out += 1
            far.octets_out += len(packet)
        else:
            self._means.slow.drop(side, cause)

    def _quick_way(self) -> Path:  # noqa: C901 - one body: a call costs as much as a check
        side, sock = self._side, self.sock
        far = side.far
        assert far is not None
        assert sock is not None
        assert far.rtp.flow is not None
        receiver, sender = side.receiver, far.sender
        receive_into, send, send_train = sock.recv_into, far.rtp.flow.send, far.rtp.flow.sendmsg
        unprotect = receiver.session.rtp if receiver is not None else None
        protect = sender.session.rtp if sender is not None else None
        shortest = 12 + trailer_of(receiver)
        growth = trailer_of(sender) - trailer_of(receiver)
        find, rate, length, batch = side.find, side.config.clock_rate, self._means.buffer.length, self._means.batch
        receive_many, descriptor, sizes, slots = batch.receive, self.descriptor, batch.sizes, batch.slots
        one, (first_octets, _, _, first_place) = slots[:1], slots[0]
        unpack, quick, simple, longest = _HEADER.unpack_from, _QUICK, _SIMPLE, QUICK_OCTETS
        careful, failed, send_again = self._careful_slot, self._failed, self._send_again
        source: Source | None = None
        bound = expected = -1
        moved = in_order = taken = 0
        last = active = 0.0  # when packets were last read, and last sent on

        def settle() -> None:
            nonlocal moved, taken
            catch_up()
            if moved:
                side.packets_in += moved
                side.octets_in += taken
                far.packets_out += moved
                far.octets_out += taken + growth * moved
                side.last_in = far.last_out = active
                side.silence_told = False
                if receiver is not None:
                    receiver.lifetime.srtp_used += moved
                if sender is not None:
                    sender.lifetime.srtp_used += moved
                moved = taken = 0

        def catch_up() -> None:
            """Bring the source's own state up to date, and look the source up again with the next packet."""
            nonlocal in_order, bound
            if source is not None and bound >= 0:
                source.received += in_order
                source.highest = expected - 1
            in_order, bound = 0, -1

        def depart(train: list[memoryview]) -> None:
            """Send packets of one length in one system call, and empty the train."""
            nonlocal moved, taken
            size = len(train[0])
            try:
                send_train(train, segments_of(size))
            except OSError:
                for packet in train:
                    send_again(packet, size - growth, far)
            else:
                moved += len(train)
                taken += len(train) * (size - growth)
            train.clear()

        def receive(now: float, busy: bool) -> None:  # noqa: C901
            nonlocal source, bound, expected, moved, in_order, taken, last, active
            before = moved
            train: list[memoryview] | None = None
            if busy or now - last < _CLOSE_S:
                count = receive_many(descriptor)
                if count < 1:
                    return
                ready, alone = slots[:count], False
                if count >= _MANY or (busy and count > 1):
                    train = []
            else:
                try:
                    sizes[first_place] = receive_into(first_octets)
                except OSError:  # nothing there, or an ICMP error about something sent earlier
                    return
                ready, alone = one, True
            rest = iter(ready)
            for octets, data, views, place in rest:
                size = sizes[place]
                length[0] = size
                word, sequence, ssrc = unpack(octets)
                if ssrc != bound:
                    catch_up()
                    source = find(ssrc)
                    if source is not None:
                        bound, expected = ssrc, source.highest + 1 if source.received else _NONE
                if (
                    source is None
                    or not shortest <= size <= longest
                    or not (simple[word] or (quick[word] and rtp_is_whole(octets, size)))
                ):
                    if train:
                        depart(train)
                    catch_up()
                    source = None
                    careful(octets, size, now)
                    if self._path is not path:  # the stream has changed under this very packet
                        for slot in rest:
                            careful(slot.octets, sizes[slot.place], now)
                        return
                    continue
                if unprotect is not None:
                    status = unprotect(data, length)
                    if status:
                        failed(size, status)
                        continue
                if sequence == expected:
                    expected += 1
                    in_order += 1
                else:
                    source.received += in_order
                    source.highest = expected - 1
                    in_order = 0
                    source.note(sequence)
                    expected = source.highest + 1
                if alone:
                    source.measure(now * rate - int.from_bytes(octets[4:8], "big"))
                if protect is not None:
                    status = protect(data, length)
                    if status:
                        failed(size, status)
                        continue
                packet = views[size + growth]
                if packet is None:
                    packet = views[size + growth] = memoryview(octets)[: size + growth]
                if train is not None:
                    if train and len(packet) != len(train[0]):
                        depart(train)
                    train.append(packet)
                    continue
                try:
                    send(packet)
                except OSError:
                    send_again(packet, size, far)
                    continue
                moved += 1
                taken += size
            if train:
                depart(train)
            last = now
            if moved != before:
                active = now

        path = Path(receive, settle)
        return path
