"""The packet loop: epoll over every port, commands in between. One thread owns it; time is an argument."""

import math
import select
import time
from collections.abc import Callable, Mapping, Sequence

from media.relay.batch import Batch
from media.relay.board import Board
from media.relay.compiled import CompiledFlow, CompiledLoop, why_not_compiled
from media.relay.contexts import UsedKeys
from media.relay.descriptors import ByDescriptor
from media.relay.fast_path import VIEWS, Flow, Means, ReceivePackets
from media.relay.interface import (
    MAX_DATAGRAM,
    Address,
    BadStreamConfigError,
    DropCause,
    DuplicateStreamError,
    InactivityDirection,
    KeyExpired,
    KeySet,
    LocalAddress,
    MediaInactive,
    Protection,
    RelayEvent,
    RelayStatistics,
    RelayUnavailableError,
    Resume,
    Side,
    SideConfig,
    SideCounts,
    StreamConfig,
    TappedPacket,
    UnknownStreamError,
    Workers,
)
from media.relay.libsrtp import PacketBuffer
from media.relay.port import Port
from media.relay.self_test import run_self_test
from media.relay.slow_path import SlowPath
from media.relay.sockets import PortPool
from media.relay.stream import Stream, StreamSide, check_resume, check_sides

_BUSY = 32
"""Sockets with packets at the same moment, above which the loop is behind and reads and sends in bursts."""
IN_A_ROW = 32
"""Streams that go to one loop before the next has its turn."""
TICK_S = 0.02
"""Seconds between two ticks."""
TICK_SHARE = 0.04
"""Share of the streams a tick looks at, so that each comes round twice a second."""
TICK_MOST = 20
"""Streams a tick looks at: of more than 500 each comes round more rarely, 1000 in a second, for the sake of packets."""


def _ignore(_: object) -> None:
    """Take what nobody listens for."""


class RelayEngine:
    """Streams and the loop over them. Call :meth:`step` whenever :meth:`fileno` is readable, and :meth:`tick` now and
    then.

    `clock` gives seconds that never go back; `port_range` limits the ports given out (containers); `compiled` says
    which loop carries packets, None: the compiled one where there is one. With `workers` that one has threads of its
    own; without, :meth:`step` carries packets whatever the loop.
    Raises RelayUnavailableError when the SRTP library is not the one that was tested, or no compiled loop is there.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        port_range: tuple[int, int] | None = None,
        notify: Callable[[RelayEvent], None] = _ignore,
        mirror: Callable[[TappedPacket], None] = _ignore,
        compiled: bool | None = None,
        workers: Workers | None = None,
    ) -> None:
        run_self_test()
        self._clock = clock
        self._loops: dict[int, CompiledLoop] = {}
        self._refused = ""
        self._threads = 0
        if not why_not_compiled() if compiled is None else compiled:
            self._start_loops(workers)
        self.board = Board()
        """Counters of the streams, to be shown to others."""
        self._pool = PortPool(clock, port_range)
        self._buffer = PacketBuffer(MAX_DATAGRAM + 1)
        self._epoll = select.epoll()
        for descriptor in self._loops:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._receivers: dict[int, ReceivePackets] = {}
        """Of sockets connected to a peer, those that no compiled loop reads."""
        self._catching: ByDescriptor[StreamSide] = ByDescriptor()
        """Sides by the sockets where anybody is heard."""
        self._by_descriptor: ByDescriptor[CompiledFlow] = ByDescriptor()
        self._streams: dict[str, Stream] = {}
        self._unseen: list[str] = []
        """Streams the present round of ticks has yet to look at."""
        self._draining = False
        self._filling: CompiledLoop | None = None
        """The loop that gets the next streams."""
        self._notify = notify
        self._slow = SlowPath(
            self._buffer,
            notify=notify,
            mirror=mirror,
            latched=self._sockets_changed,
            settle=self._settle_flow,
            resume=self._resume_flow,
            counted=self._publish,
        )
        self._means = Means(self._buffer, Batch(VIEWS), self._slow, self._receivers, self._epoll, self.board)
        self._later: list[tuple[StreamSide, Port, Address, bytes]] = []

    def fileno(self) -> int:
        """Descriptor that is readable when packets wait."""
        return self._epoll.fileno()

    def _start_loops(self, workers: Workers | None) -> None:
        for number in range(workers.number if workers is not None else 1):
            loop = CompiledLoop()
            if workers is not None:
                cpu = workers.cpus[number % len(workers.cpus)] if workers.cpus else None
                try:
                    self._refused = loop.start(cpu, workers.priority) or self._refused
                except RelayUnavailableError:
                    self._stop_loops()
                    raise
                self._threads += 1
            self._loops[loop.descriptor] = loop

    def _stop_loops(self) -> None:
        for loop in self._loops.values():
            loop.stop()
        self._loops.clear()

    @property
    def loop(self) -> str:
        """See :attr:`media.relay.interface.Relay.loop`."""
        if not self._loops:
            return f"interpreted: {why_not_compiled() or 'as was asked'}"
        threads = f", {self._threads} thread{'s' if self._threads > 1 else ''}" if self._threads else ""
        return f"compiled{threads}" + (f" ({self._refused})" if self._refused else "")

    @property
    def stream_ids(self) -> list[str]:
        """Names of the streams there are."""
        return list(self._streams)

    def step(self, timeout: float = 0.0) -> int:
        """Wait up to `timeout` seconds, handle what is there, return the number of ports that had packets."""
        ready = [descriptor for descriptor, _ in self._epoll.poll(timeout)]
        found, now = len(ready), self._clock()
        receivers, loops, busy = self._receivers, self._loops, found > _BUSY
        for descriptor in ready:
            receiver = receivers.get(descriptor)
            if receiver is not None:
                receiver(now, busy)
            elif descriptor in loops:
                found += self._serve(loops[descriptor], now)
            else:
                self._catch(descriptor, now)
        self._take_early(now)
        return found

    def _take_early(self, now: float) -> None:
        """Look at what came to new sockets before they were connected, in its order."""
        while self._later:
            side, port, address, packet = self._later.pop(0)
            self._buffer.load(packet[: MAX_DATAGRAM + 1])
            self._slow.receive(side, port, address, now)

    def settled(self) -> bool:
        """Whether nothing waits to be carried; all that was dropped is then counted. With threads :meth:`step` may
        return 0 while they work."""
        for loop in self._loops.values():
            with loop:
                if self._clock is not time.monotonic:
                    loop.set_time(self._clock())
                if loop.waiting():
                    return False
                self._count_dropped(loop)
        return True

    def _serve(self, loop: CompiledLoop, now: float) -> int:
        """Carry what waits, where no thread does, and look at what was handed back; returns how much there was."""
        flows = self._by_descriptor
        with loop:
            if loop.threaded:
                found = 0
            else:
                if self._clock is not time.monotonic:
                    loop.set_time(now)
                found = loop.run()
                self._count_dropped(loop)
            taken = [
                (flows[descriptor], descriptor, packet, source)
                for descriptor, packet, source in loop.take_handed_back()
                if descriptor in flows
            ]
        for flow, descriptor, packet, source in taken:
            with loop:
                flow.closer_look(descriptor, packet, source, now)
        with loop:
            for flow in dict.fromkeys(flow for flow, *_ in taken):
                flow.go_on()
        return found + len(taken)

    def _count_dropped(self, loop: CompiledLoop) -> None:
        flows = self._by_descriptor
        while noted := loop.noted():
            for descriptor in noted:
                if descriptor in flows:
                    flows[descriptor].settle()

    def tick(self, share: float = 1.0, most: int | None = None) -> None:
        """Report silence and keys near their end, end grace times.

        `share` of the streams is looked at, `most` of them, the next ones each time, so that thousands do not hold up
        their packets.
        """
        now = self._clock()
        self._take_early(now)
        for loop in self._loops.values():
            if loop.threaded:
                with loop:
                    self._count_dropped(loop)
        if not self._unseen:
            self._unseen = list(self._streams)
        count = math.ceil(len(self._streams) * share)
        for _ in range(count if most is None else min(count, most)):
            stream = self._streams.get(self._unseen.pop()) if self._unseen else None
            if stream is None:
                continue
            for side in stream.sides.values():
                if side.flow is not None:
                    side.flow.review(now)
                if side.receiver is not None:
                    side.receiver.in_grace(now)  # also where nobody asks: the key before is not kept for longer
            for side in stream.sides.values():
                self._check_silence(side, now)
                self._check_lifetimes(side)
            self._publish(stream)

    def add(self, config: StreamConfig) -> Mapping[Side, LocalAddress]:
        """See :meth:`media.relay.interface.Relay.add`."""
        if self._draining:
            raise RelayUnavailableError("the relay is draining")
        if config.stream_id in self._streams:
            raise DuplicateStreamError(f"stream {config.stream_id} exists")
        if not config.sides:
            raise BadStreamConfigError("a stream needs a side")
        check_sides(config.sides)
        for name, side_config in config.sides.items():
            check_resume(side_config, config.resume.get(name))
        loop = self._next_loop()
        stream = Stream(config.stream_id, self._buffer, loop)
        stream.used_keys = UsedKeys(config.used_keys)
        try:
            for name, side_config in config.sides.items():
                self._open_side(stream, name, side_config, config.resume.get(name))
        except Exception:
            with stream.guard:
                for side in list(stream.sides.values()):
                    self._close_side(side)
            raise
        self._streams[config.stream_id] = stream
        if loop is not None:
            loop.streams += 1
        self._refresh(stream, self._clock())
        return {name: side.local for name, side in stream.sides.items()}

    def _next_loop(self) -> CompiledLoop | None:
        """Return the loop for another stream: one of those with the fewest, give or take a few.

        Several in a row go to the same: what the kernel keeps of sockets lies in memory as they were made, and
        neighbours of one processor's would be fetched from its cache by the other.
        """
        loops = self._loops.values()
        least = min(loops, key=lambda each: each.streams, default=None)
        if least is None:
            return None
        if self._filling is None or self._filling.streams >= least.streams + IN_A_ROW:
            self._filling = least
        return self._filling

    def modify(self, stream_id: str, name: Side, config: SideConfig) -> LocalAddress:
        """See :meth:`media.relay.interface.Relay.modify`."""
        stream = self._stream(stream_id)
        with stream.guard:
            return self._modify(stream, name, config)

    def _modify(self, stream: Stream, name: Side, config: SideConfig) -> LocalAddress:
        check_sides({**{other: side.config for other, side in stream.sides.items()}, name: config})
        now = self._clock()
        side = stream.sides.get(name)
        if side is None:
            side = self._open_side(stream, name, config)
        else:
            if config.local_ip != side.config.local_ip:
                raise BadStreamConfigError("the local address of a side does not change")
            if not config.rtcp_mux and config.rtcp and side.rtcp is None:
                raise BadStreamConfigError("RTCP was multiplexed when the ports were opened")
            self._settle(stream)
            moved = side.remote_moved(config)
            side.take_keys(config, now, reset_receive=moved)
            if config.mode != side.config.mode:
                side.last_in = side.last_out = now
            side.configure(config)
            self._configure_ports(side, config, again=True)
        self._refresh(stream, now)
        return side.local

    def rekey(
        self,
        stream_id: str,
        name: Side,
        *,
        send: KeySet | None = None,
        receive: KeySet | None = None,
        reset_roc: bool = False,
    ) -> None:
        """See :meth:`media.relay.interface.Relay.rekey`."""
        stream = self._stream(stream_id)
        side = self._side(stream, name)
        if side.config.protection is not Protection.SRTP:
            raise BadStreamConfigError("keys belong to an SRTP side")
        with stream.guard:
            self._settle(stream)
            now = self._clock()
            side.change_keys(send, receive, now, reset_roc=reset_roc)
            self._refresh(stream, now)

    def remove(self, stream_id: str, name: Side | None = None) -> RelayStatistics:
        """See :meth:`media.relay.interface.Relay.remove`."""
        stream = self._stream(stream_id)
        names = list(stream.sides) if name is None else [name]
        with stream.guard:
            self._settle(stream)
            statistics = stream.statistics(self._clock())
            for each in names:
                self._close_side(self._side(stream, each))
            self._refresh(stream, self._clock())
        self._publish(stream)
        if not stream.sides:
            del self._streams[stream_id]
            if isinstance(stream.guard, CompiledLoop):
                stream.guard.streams -= 1
        return RelayStatistics(stream_id, {each: statistics.sides[each] for each in names})

    def tap(self, stream_id: str, *, enabled: bool) -> None:
        """See :meth:`media.relay.interface.Relay.tap`."""
        stream = self._stream(stream_id)
        with stream.guard:
            stream.tapped = enabled
            self._refresh(stream, self._clock())

    def statistics(self, stream_ids: Sequence[str] | None = None) -> list[RelayStatistics]:
        """See :meth:`media.relay.interface.Relay.statistics`."""
        now = self._clock()
        names = list(self._streams) if stream_ids is None else [name for name in stream_ids if name in self._streams]
        result = []
        for name in names:
            self._settle(self._streams[name])
            result.append(self._streams[name].statistics(now))
            self._publish(self._streams[name])
        return result

    def rows(self, stream_ids: Sequence[str] | None = None) -> Mapping[str, Mapping[Side, int]]:
        """Which rows of the board the named streams, or all of them, have."""
        streams = dict(self._streams)  # metrics are read in a thread of their own
        names = streams if stream_ids is None else [name for name in stream_ids if name in streams]
        return {name: {each: side.tally.row for each, side in streams[name].sides.items()} for name in names}

    def counts(self) -> Mapping[str, Mapping[Side, SideCounts]]:
        """See :meth:`media.relay.interface.Relay.counts`."""
        return self.board.read(self.rows())

    def _publish(self, stream: Stream) -> None:
        for side in stream.sides.values():
            self.board.publish(side.tally, side.counters, side.drops)

    def drain(self) -> int:
        """See :meth:`media.relay.interface.Relay.drain`."""
        self._draining = True
        return len(self._streams)

    def close(self) -> None:
        """Close every port and the loop."""
        self._draining = True
        for loop in self._loops.values():
            loop.stop()
        for stream in list(self._streams.values()):
            for side in list(stream.sides.values()):
                self._close_side(side)
        self._streams.clear()
        self._loops.clear()
        self._epoll.close()
        self.board.release()

    def roc(self, stream_id: str, name: Side, ssrc: int, *, received: bool) -> int | None:
        """Return the rollover counter of an SSRC, of what is received or of what is sent; None when it is not bound."""
        side = self._side(self._stream(stream_id), name)
        context = side.receiver if received else side.sender
        with side.stream.guard:
            return None if context is None else context.session.roc(ssrc)

    def _stream(self, stream_id: str) -> Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise UnknownStreamError(f"no stream {stream_id}")
        return stream

    @staticmethod
    def _side(stream: Stream, name: Side) -> StreamSide:
        side = stream.sides.get(name)
        if side is None:
            raise UnknownStreamError(f"stream {stream.stream_id} has no {name} side")
        return side

    def _open_side(self, stream: Stream, name: Side, config: SideConfig, resume: Resume | None = None) -> StreamSide:
        pair = config.rtcp and not config.rtcp_mux
        if resume is None:
            rtp, rtcp = self._pool.open(config.local_ip, pair=pair, dscp=config.dscp)
        else:
            rtp, rtcp = self._pool.open_again(config.local_ip, resume.port, pair=pair, dscp=config.dscp)
        try:
            tally = self.board.open()
        except RelayUnavailableError:
            for each in (rtp, rtcp):
                if each is not None:
                    each.close()
            raise
        ports = Port(rtp, rtcp=False), None if rtcp is None else Port(rtcp, rtcp=True)
        now = self._clock()
        side = StreamSide(stream, name, config, ports, tally, now)
        if resume is not None:
            side.resume = resume
            side.rtp.resume(resume.latched)
        try:
            side.take_keys(config, now, reset_receive=False)
        except Exception:
            for port in side.ports:
                port.close()
            self.board.close(tally)
            raise
        stream.join(side)
        for port in side.ports:
            self._catching[port.catch.fileno()] = side
            self._epoll.register(port.catch.fileno(), select.EPOLLIN)
        self._configure_ports(side, config, again=False)
        return side

    def _configure_ports(self, side: StreamSide, config: SideConfig, *, again: bool) -> None:
        for port in side.ports:
            before = port.flow
            early = port.configure(config, side.config, again=again)
            if port.flow is not before:
                self._sockets_changed(side, port, early)

    def _sockets_changed(self, side: StreamSide, port: Port, early: list[tuple[bytes, Address]]) -> None:
        """Watch the new twin of a port and set aside what came to it while it was made."""
        self._later += [(side, port, address, packet) for packet, address in early]
        if not port.rtcp and (side.flow is None or side.flow.sock is not port.flow):  # else it pointed there already
            self._retire(side)
            if port.flow is not None:
                side.flow = self._new_flow(side, port.flow.fileno())
        self._refresh(side.stream, self._clock())

    def _new_flow(self, side: StreamSide, descriptor: int) -> Flow:
        if not isinstance(side.stream.guard, CompiledLoop):
            self._epoll.register(descriptor, select.EPOLLIN)
            return Flow(side, self._means)
        flow = CompiledFlow(side, self._means)
        for each in flow.descriptors:
            self._by_descriptor[each] = flow
        return flow

    def _retire(self, side: StreamSide) -> None:
        flow, side.flow = side.flow, None
        if flow is not None:
            flow.retire()
        if isinstance(flow, CompiledFlow):
            for each in flow.descriptors:
                if self._by_descriptor.get(each) is flow:
                    del self._by_descriptor[each]

    def _close_side(self, side: StreamSide) -> None:
        self._retire(side)
        for port in side.ports:
            self._pool.release(port.local)
            self._catching.pop(port.catch.fileno(), None)
            port.close()
        side.stream.part(side)
        self.board.close(side.tally)
        self._later = [entry for entry in self._later if entry[0] is not side]

    def _catch(self, descriptor: int, now: float) -> None:
        """Look at what came to a port's unconnected socket: one packet a round, so that a flood waits its turn."""
        try:
            side = self._catching[descriptor]
        except KeyError:  # closed by an earlier packet of this round
            return
        port = side.rtp
        if side.rtcp is not None and side.rtcp.catch.fileno() == descriptor:
            port = side.rtcp
        buffer = self._buffer
        try:
            buffer.length[0], address = port.catch.recvfrom_into(buffer.octets)
        except OSError:  # nothing there after all, or an ICMP error about something sent earlier
            return
        self._slow.receive(side, port, address[:2], now)

    def _settle(self, stream: Stream) -> None:
        for side in stream.sides.values():
            self._settle_flow(side)
            for port in side.ports:
                self._count_overflow(side, port)

    def _settle_flow(self, side: StreamSide) -> None:
        if side.flow is not None:
            side.flow.settle()

    def _resume_flow(self, side: StreamSide) -> None:
        if side.flow is not None:
            side.flow.resume()

    def _count_overflow(self, side: StreamSide, port: Port) -> None:
        lost = port.take_overflow()
        if not lost:
            return
        if port.rtcp:
            side.rtcp_in += lost
        else:
            side.packets_in += lost
        self._slow.drop(side, DropCause.QUEUE_FULL, lost)

    def _refresh(self, stream: Stream, now: float) -> None:
        with stream.guard:
            for side in stream.sides.values():
                if side.flow is not None:
                    side.flow.refresh(now)

    def _check_silence(self, side: StreamSide, now: float) -> None:
        config = side.config
        if not config.inactivity_s or side.silence_told:
            return
        incoming = now - side.last_in if config.mode.receives else 0.0
        outgoing = now - side.last_out if config.mode.sends else 0.0
        silence = {
            InactivityDirection.IN: incoming,
            InactivityDirection.OUT: outgoing,
            InactivityDirection.BOTH: min(incoming, outgoing),
        }[config.inactivity_direction]
        if silence >= config.inactivity_s:
            side.silence_told = True
            self._notify(MediaInactive(side.stream.stream_id, side.name, config.inactivity_direction, silence))

    def _check_lifetimes(self, side: StreamSide) -> None:
        for context in (side.receiver, side.sender):
            if context is None:
                continue
            lifetime = context.lifetime
            if lifetime.expired and not lifetime.end_told:
                lifetime.end_told = lifetime.near_told = True
                self._notify(KeyExpired(side.stream.stream_id, side.name, near=False))
            elif lifetime.near and not lifetime.near_told:
                lifetime.near_told = True
                self._notify(KeyExpired(side.stream.stream_id, side.name, near=True))
