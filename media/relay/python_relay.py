"""The relay inside the caller's own event loop: the reference, and what tests drive."""

import asyncio
from collections.abc import Mapping, Sequence

from media.relay.engine import RelayEngine
from media.relay.interface import (
    EventListener,
    KeySet,
    LocalAddress,
    Relay,
    RelayEvent,
    RelayStatistics,
    Side,
    SideConfig,
    SideCounts,
    StreamConfig,
    TapListener,
    TappedPacket,
)

_TICK_S = 0.25
"""Seconds between looks at silence, lifetimes and grace times."""


class PythonRelay(Relay):
    """Runs a :class:`RelayEngine` on the running asyncio loop: its epoll descriptor is itself watched.

    `port_range` limits the ports given out. Raises RelayUnavailableError when the SRTP library is not the one that was
    tested.
    """

    def __init__(self, *, port_range: tuple[int, int] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: EventListener | None = None
        self._taps: TapListener | None = None
        self.engine = RelayEngine(port_range=port_range, notify=self._notify, mirror=self._mirror)
        self._loop.add_reader(self.engine.fileno(), self.engine.step)
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _notify(self, event: RelayEvent) -> None:
        if self._events is not None:
            self._events(event)

    def _mirror(self, packet: TappedPacket) -> None:
        if self._taps is not None:
            self._taps(packet)

    def _tick(self) -> None:
        self.engine.tick()
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    @property
    def loop(self) -> str:
        """See :class:`Relay`."""
        return self.engine.loop

    async def add(self, config: StreamConfig) -> Mapping[Side, LocalAddress]:
        """See :class:`Relay`."""
        return self.engine.add(config)

    async def modify(self, stream_id: str, side: Side, config: SideConfig) -> LocalAddress:
        """See :class:`Relay`."""
        return self.engine.modify(stream_id, side, config)

    async def rekey(
        self,
        stream_id: str,
        side: Side,
        *,
        send: KeySet | None = None,
        receive: KeySet | None = None,
        reset_roc: bool = False,
    ) -> None:
        """See :class:`Relay`."""
        self.engine.rekey(stream_id, side, send=send, receive=receive, reset_roc=reset_roc)

    async def remove(self, stream_id: str, side: Side | None = None) -> RelayStatistics:
        """See :class:`Relay`."""
        return self.engine.remove(stream_id, side)

    async def tap(self, stream_id: str, *, enabled: bool) -> None:
        """See :class:`Relay`."""
        self.engine.tap(stream_id, enabled=enabled)

    async def statistics(self, stream_ids: Sequence[str] | None = None) -> list[RelayStatistics]:
        """See :class:`Relay`."""
        return self.engine.statistics(stream_ids)

    def counts(self) -> Mapping[str, Mapping[Side, SideCounts]]:
        """See :class:`Relay`."""
        return self.engine.counts()

    async def drain(self) -> int:
        """See :class:`Relay`."""
        return self.engine.drain()

    async def close(self) -> None:
        """See :class:`Relay`."""
        self._timer.cancel()
        self._loop.remove_reader(self.engine.fileno())
        self.engine.close()

    def set_listeners(self, events: EventListener | None = None, taps: TapListener | None = None) -> None:
        """See :class:`Relay`."""
        self._events, self._taps = events, taps
