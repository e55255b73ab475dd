"""The packet loop: epoll over every port, commands in between. One thread owns it; time is an argument."""

import math
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from media.relay.batch import Batch
from media.relay.compiled import CompiledFlow, CompiledLoop, why_not_compiled
from media.relay.fast_path import VIEWS, Flow, ReceivePackets
from media.relay.interface import (
    MAX_DATAGRAM,
    Address,
    BadStreamConfigError,
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
    Side,
    SideConfig,
    StreamConfig,
    TappedPacket,
    UnknownStreamError,
)
from media.relay.libsrtp import PacketBuffer
from media.relay.port import Port
from media.relay.self_test import run_self_test
from media.relay.slow_path import SlowPath
from media.relay.sockets import PortPool
from media.relay.stream import Stream, StreamSide, check_sides

_BUSY = 32
"""Sockets with packets at the same moment, above which the loop is behind and reads and sends in bursts."""
TICK_S = 0.02
"""Seconds between two ticks."""
TICK_SHARE = 0.04
"""Share of the streams a tick looks at, so that each comes round twice a second."""


def _ignore(_: object) -> None:
    """Take what nobody listens for."""


class RelayEngine:
    """Streams and the loop over them. Call :meth:`step` whenever :meth:`fileno` is readable, and :meth:`tick` now and
    then.

    `clock` gives seconds that never go back; `port_range` limits the ports given out (containers); `compiled` says
    which loop carries packets, None: the compiled one where there is one.
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
    ) -> None:
        run_self_test()
        self._clock = clock
        self._loop = CompiledLoop() if (not why_not_compiled() if compiled is None else compiled) else None
        self._pool = PortPool(clock, port_range)
        self._buffer = PacketBuffer(MAX_DATAGRAM + 1)
        self._batch = Batch(VIEWS)
        self._epoll = select.epoll()
        self._receivers: dict[int, ReceivePackets] = {}
        self._flows: dict[Port, Flow] = {}
        self._by_descriptor: dict[int, CompiledFlow] = {}
        self._streams: dict[str, Stream] = {}
        self._unseen: list[str] = []
        """Streams the present round of ticks has yet to look at."""
        self._draining = False
        self._notify = notify
        self._slow = SlowPath(self._buffer, notify=notify, mirror=mirror, latched=self._sockets_changed)
        self._later: list[tuple[StreamSide, Port, Address, bytes]] = []

    def fileno(self) -> int:
        """Descriptor that is readable when packets wait."""
        return self._epoll.fileno()

    @property
    def loop(self) -> str:
        """See :attr:`media.relay.interface.Relay.loop`."""
        return "compiled" if self._loop is not None else f"interpreted: {why_not_compiled() or 'as was asked'}"

    @property
    def stream_ids(self) -> list[str]:
        """Names of the streams there are."""
        return list(self._streams)

    def step(self, timeout: float = 0.0) -> int:
        """Wait up to `timeout` seconds, handle what is there, return the number of ports that had packets."""
        if self._loop is None:
            ready = [descriptor for descriptor, _ in self._epoll.poll(timeout)]
            found, now = len(ready), self._clock()
        else:
            found, ready, now = self._run(self._loop, timeout)
        receivers, busy = self._receivers, found > _BUSY
        for descriptor in ready:
            try:
                receiver = receivers[descriptor]
            except KeyError:  # closed by an earlier packet of this round
                continue
            receiver(now, busy)
        while self._later:
            side, port, address, packet = self._later.pop()
            if len(packet) <= MAX_DATAGRAM:
                self._buffer.load(packet)
                self._slow.receive(side, port, address, now)
        return found

    def _run(self, loop: CompiledLoop, timeout: float) -> tuple[int, list[int], float]:
        """Let the compiled loop carry what it can; returns what it found, the descriptors left over, and the time."""
        found = loop.run(self._epoll.fileno(), timeout, -1.0 if self._clock is time.monotonic else self._clock())
        now = self._clock()
        ready = loop.others()
        flows = self._by_descriptor
        looks = [(flows[descriptor], packet) for descriptor, packet in loop.handed_back() if descriptor in flows]
        for flow in [flows[descriptor] for descriptor in loop.noted() if descriptor in flows]:
            flow.settle()
        for flow, packet in looks:
            flow.closer_look(packet, now)
        return found, ready, now

    def tick(self, share: float = 1.0) -> None:
        """Report silence and keys near their end, end grace times.

        `share` of the streams is looked at, the next ones each time, so that thousands do not hold up their packets.
        """
        now = self._clock()
        if not self._unseen:
            self._unseen = list(self._streams)
        for _ in range(math.ceil(len(self._streams) * share)):
            stream = self._streams.get(self._unseen.pop()) if self._unseen else None
            if stream is None:
                continue
            for side in stream.sides.values():
                flow = self._flows.get(side.rtp)
                if flow is not None:
                    flow.review(now)
            for side in stream.sides.values():
                self._check_silence(side, now)
                self._check_lifetimes(side)

    def add(self, config: StreamConfig) -> Mapping[Side, LocalAddress]:
        """See :meth:`media.relay.interface.Relay.add`."""
        if self._draining:
            raise RelayUnavailableError("the relay is draining")
        if config.stream_id in self._streams:
            raise DuplicateStreamError(f"stream {config.stream_id} exists")
        if not config.sides:
            raise BadStreamConfigError("a stream needs a side")
        check_sides(config.sides)
        stream = Stream(config.stream_id, self._buffer)
        try:
            for name, side_config in config.sides.items():
                self._open_side(stream, name, side_config)
        except Exception:
            for side in list(stream.sides.values()):
                self._close_side(side)
            raise
        self._streams[config.stream_id] = stream
        self._refresh(stream, self._clock())
        return {name: side.local for name, side in stream.sides.items()}

    def modify(self, stream_id: str, name: Side, config: SideConfig) -> LocalAddress:
        """See :meth:`media.relay.interface.Relay.modify`."""
        stream = self._stream(stream_id)
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
            side.config = config
            self._configure_ports(side, again=True)
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
        self._settle(stream)
        now = self._clock()
        side.change_keys(send, receive, now, reset_roc=reset_roc)
        side.config = replace(side.config, send=send or side.config.send, receive=receive or side.config.receive)
        self._refresh(stream, now)

    def remove(self, stream_id: str, name: Side | None = None) -> RelayStatistics:
        """See :meth:`media.relay.interface.Relay.remove`."""
        stream = self._stream(stream_id)
        self._settle(stream)
        statistics = stream.statistics(self._clock())
        names = list(stream.sides) if name is None else [name]
        for each in names:
            self._close_side(self._side(stream, each))
        if not stream.sides:
            del self._streams[stream_id]
        self._refresh(stream, self._clock())
        return RelayStatistics(stream_id, {each: statistics.sides[each] for each in names})

    def tap(self, stream_id: str, *, enabled: bool) -> None:
        """See :meth:`media.relay.interface.Relay.tap`."""
        stream = self._stream(stream_id)
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
        return result

    def drain(self) -> int:
        """See :meth:`media.relay.interface.Relay.drain`."""
        self._draining = True
        return len(self._streams)

    def close(self) -> None:
        """Close every port and the loop."""
        self._draining = True
        for stream in list(self._streams.values()):
            for side in list(stream.sides.values()):
                self._close_side(side)
        self._streams.clear()
        self._epoll.close()

    def roc(self, stream_id: str, name: Side, ssrc: int, *, received: bool) -> int | None:
        """Return the rollover counter of an SSRC, of what is received or of what is sent; None when it is not bound."""
        side = self._side(self._stream(stream_id), name)
        context = side.receiver if received else side.sender
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

    def _open_side(self, stream: Stream, name: Side, config: SideConfig) -> StreamSide:
        pair = config.rtcp and not config.rtcp_mux
        rtp, rtcp = self._pool.open(config.local_ip, pair=pair, dscp=config.dscp)
        ports = Port(rtp, rtcp=False), None if rtcp is None else Port(rtcp, rtcp=True)
        now = self._clock()
        side = StreamSide(stream, name, config, ports, now)
        try:
            side.take_keys(config, now, reset_receive=False)
        except Exception:
            for port in side.ports:
                port.close()
            raise
        stream.sides[name] = side
        for port in side.ports:
            self._receivers[port.catch.fileno()] = self._catcher(side, port)
            self._epoll.register(port.catch.fileno(), select.EPOLLIN)
        self._configure_ports(side, again=False)
        return side

    def _configure_ports(self, side: StreamSide, *, again: bool) -> None:
        for port in side.ports:
            before = port.flow
            early = port.configure(side.config, again=again)
            if port.flow is not before:
                self._sockets_changed(side, port, early)

    def _sockets_changed(self, side: StreamSide, port: Port, early: list[tuple[bytes, Address]]) -> None:
        """Watch the new twin of a port and set aside what came to it while it was made."""
        self._later += [(side, port, address, packet) for packet, address in early]
        stale = self._flows.get(port)
        if stale is not None and stale.sock is port.flow:
            self._refresh(side.stream, self._clock())  # latched to where it pointed already
            return
        self._flows.pop(port, None)
        if stale is not None:
            self._retire(stale)
        if port.flow is not None:
            self._flows[port] = self._new_flow(side, port, port.flow.fileno())
            self._epoll.register(port.flow.fileno(), select.EPOLLIN)
        self._refresh(side.stream, self._clock())

    def _new_flow(self, side: StreamSide, port: Port, descriptor: int) -> Flow:
        parts = side, port, self._buffer, self._batch, self._slow, self._receivers
        if self._loop is None:
            return Flow(*parts)
        self._by_descriptor[descriptor] = flow = CompiledFlow(*parts, self._loop)
        return flow

    def _retire(self, flow: Flow) -> None:
        flow.retire()
        if self._by_descriptor.get(flow.descriptor) is flow:
            del self._by_descriptor[flow.descriptor]

    def _close_side(self, side: StreamSide) -> None:
        for port in side.ports:
            self._pool.release(port.local)
            self._receivers.pop(port.catch.fileno(), None)
            flow = self._flows.pop(port, None)
            if flow is not None:
                self._retire(flow)
            port.close()
        side.stream.sides.pop(side.name, None)
        self._later = [entry for entry in self._later if entry[0] is not side]

    def _catcher(self, side: StreamSide, port: Port) -> ReceivePackets:
        """Return the receiver of a port's unconnected socket: one packet a round, so that a flood waits its turn."""
        buffer, slow, catch = self._buffer, self._slow, port.catch

        def receive(now: float, _: bool) -> None:
            try:
                size, address = catch.recvfrom_into(buffer.octets)
            except OSError:  # nothing there after all, or an ICMP error about something sent earlier
                return
            buffer.length[0] = size
            slow.receive(side, port, address[:2], now)

        return receive

    def _settle(self, stream: Stream) -> None:
        for side in stream.sides.values():
            flow = self._flows.get(side.rtp)
            if flow is not None:
                flow.settle()

    def _refresh(self, stream: Stream, now: float) -> None:
        for side in stream.sides.values():
            flow = self._flows.get(side.rtp)
            if flow is not None:
                flow.refresh(now)

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
