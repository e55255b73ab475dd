"""The relay in a process of its own, commanded over a socket pair: control work never delays a packet."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from media.relay import interface, wire
from media.relay.board import SharedCounters
from media.relay.interface import (
    EventListener,
    KeySet,
    LocalAddress,
    Relay,
    RelayError,
    RelayStatistics,
    RelayUnavailableError,
    Side,
    SideConfig,
    SideCounts,
    StreamConfig,
    TapListener,
    TappedPacket,
    Workers,
)
from media.relay.refuge import Refuge, peer_of
from media.relay.wire import Frame, Json

_READY_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_KNOCKS = 5
_KNOCK_PAUSE_S = 0.1


def _spawn(
    control: socket.socket,
    port_range: tuple[int, int] | None,
    refuge: Refuge | None,
    suites: Mapping[str, str],
    path: Sequence[str],
    workers: Workers,
) -> "subprocess.Popen[bytes]":
    """Start the packet loop with `control` as its end of the pair, and close it here."""
    arguments = [sys.executable, "-m", "media.relay.worker", str(control.fileno())]
    if port_range is not None:
        arguments += ["--ports", *(str(port) for port in port_range)]
    if refuge is not None:
        arguments += ["--refuge", str(refuge.path), "--patience", str(refuge.seconds)]
    arguments += ["--workers", str(workers.count), "--priority", str(workers.priority)]
    for cpu in workers.cpus:
        arguments += ["--cpu", str(cpu)]
    for name, value in suites.items():
        arguments += ["--suite", f"{name}={value}"]
    for folder in path if suites else ():
        arguments += ["--path", folder]
    with control:
        return subprocess.Popen(  # noqa: S603 - own interpreter, own module
            arguments,
            pass_fds=(control.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=refuge is not None,
        )


class RelayProcess(Relay):
    """A packet loop in a process of its own. Make one with :meth:`start`, find one again with :meth:`adopt`.

    The child dies with its parent unless it has a refuge; `on_death` is called on the event loop when the child dies
    unasked. Commands then raise RelayUnavailableError. Keys travel through the socket alone, never through arguments
    or the environment.
    """

    def __init__(self, child: "subprocess.Popen[bytes] | None", control: socket.socket, pid: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._pid = pid
        self._control = control
        self._reader = wire.FrameReader()
        self._outgoing = bytearray()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._events: EventListener | None = None
        self._taps: TapListener | None = None
        self._closed = False
        self._kind = ""
        self._counters: SharedCounters | None = None
        self._rows: dict[str, dict[Side, int]] = {}
        self.on_death: Callable[[], None] | None = None

    @classmethod
    async def start(
        cls,
        *,
        port_range: tuple[int, int] | None = None,
        refuge: Refuge | None = None,
        suites: Mapping[str, str] = MappingProxyType({}),
        path: Sequence[str] = (),
        workers: Workers | None = None,
    ) -> "RelayProcess":
        """Start the child and wait until it serves; with a `refuge` it goes on there when this process is gone.

        `workers` are the threads of a compiled packet loop; `suites` are those of packages to be run, name ->
        ``module:object``, `path` where their modules are found.
        Raises RelayUnavailableError with the reason when it refuses.
        """
        ours, theirs = socket.socketpair()
        child = _spawn(theirs, port_range, refuge, suites, path, workers or Workers())
        ours.settimeout(0.0)
        relay = cls(child, ours, child.pid)
        relay._loop.add_reader(ours.fileno(), relay._readable)
        try:
            await asyncio.wait_for(relay._ready, _READY_TIMEOUT_S)
        except (RelayUnavailableError, TimeoutError) as error:
            relay._end()
            child.kill()
            child.wait()
            raise RelayUnavailableError(str(error) or "the packet loop does not start") from None
        return relay

    @classmethod
    async def adopt(cls, refuge: Refuge) -> "RelayProcess":
        """Take the command of a packet loop whose gateway process is gone.

        Raises RelayUnavailableError where none waits.
        """
        for _ in range(_KNOCKS):
            try:
                control = refuge.knock()
            except OSError as error:
                raise RelayUnavailableError(f"no packet loop waits: {error.strerror or error}") from None
            relay = cls(None, control, peer_of(control)[0])
            relay._loop.add_reader(control.fileno(), relay._readable)
            try:
                await asyncio.wait_for(asyncio.shield(relay._ready), _READY_TIMEOUT_S)
            except (RelayUnavailableError, TimeoutError):  # it has not noticed yet that it was left
                relay._end()
                await asyncio.sleep(_KNOCK_PAUSE_S)
                continue
            return relay
        raise RelayUnavailableError("the packet loop takes its commands from somebody else")

    @property
    def pid(self) -> int:
        """Process id of the packet loop."""
        return self._pid

    @property
    def pending(self) -> int:
        """Commands that were given and not answered yet."""
        return len(self._waiting)

    @property
    def loop(self) -> str:
        """See :class:`Relay`."""
        return self._kind

    @property
    def alive(self) -> bool:
        """Whether commands can still be given."""
        return not self._closed

    def _readable(self) -> None:
        try:
            octets = self._control.recv(1 << 20) if self._counters is not None else self._receive_counters()
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        except RelayUnavailableError as error:
            self._refuse(error)
            return
        if not octets:
            self._died()
            return
        for frame in self._reader.feed(octets):
            self._take(frame)

    def _receive_counters(self) -> bytes:
        """Read the first words, with which the shared counters come. Raises RelayUnavailableError."""
        octets, descriptors, _, _ = socket.recv_fds(self._control, 1 << 20, 1, socket.MSG_CMSG_CLOEXEC)
        for descriptor in descriptors:
            self._counters = SharedCounters(descriptor)
        return octets

    def _refuse(self, error: RelayUnavailableError) -> None:
        """Have nothing to do with a packet loop that is not as it should be."""
        if not self._ready.done():
            self._ready.set_exception(error)
        self._died()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, TappedPacket):
            if self._taps is not None:
                self._taps(frame)
        elif "event" in frame:
            if self._events is not None:
                self._events(wire.read_event(frame))
        elif "ready" in frame:
            if frame["ready"] and self._counters is None:
                self._ready.set_exception(RelayUnavailableError("the packet loop does not share its counters"))
            elif frame["ready"]:
                self._kind = wire.text(frame["loop"])
                self._rows = wire.read_rows(frame["rows"])
                self._ready.set_result(None)
            else:
                self._ready.set_exception(RelayUnavailableError(wire.text(frame["message"])))
        else:
            self._settle(frame)

    def _settle(self, answer: dict[str, Json]) -> None:
        future = self._waiting.pop(wire.number(answer["id"]), None)
        if future is None or future.done():
            return
        if "error" in answer:
            kind = getattr(interface, wire.text(answer["error"]), RelayError)
            future.set_exception(kind(wire.text(answer["message"])))
        else:
            future.set_result(answer["result"])

    def _died(self) -> None:
        asked = self._closed
        self._end()
        if not self._ready.done():
            self._ready.set_exception(RelayUnavailableError("the packet loop ended while it started"))
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=0.1)
        if not asked and self._ready.done() and self.on_death is not None:
            self.on_death()

    def _end(self) -> None:
        self._closed = True
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
            self._control.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RelayUnavailableError("the packet loop is gone"))
        self._waiting.clear()

    async def _command(self, name: str, **fields: Json) -> Json:
        if self._closed:
            raise RelayUnavailableError("the packet loop is gone")
        number = next(self._ids)
        future: asyncio.Future[Json] = self._loop.create_future()
        self._waiting[number] = future
        self._outgoing += wire.pack({"id": number, "command": name, **fields})
        self._flush()
        return await future

    def _flush(self) -> None:
        try:
            sent = self._control.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._died()
            return
        del self._outgoing[:sent]
        if self._outgoing:
            self._loop.add_writer(self._control.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._control.fileno())

    async def add(self, config: StreamConfig) -> Mapping[Side, LocalAddress]:
        """See :class:`Relay`."""
        return self._opened(await self._command("add", stream=wire.write_stream(config)))

    async def modify(self, stream_id: str, side: Side, config: SideConfig) -> LocalAddress:
        """See :class:`Relay`."""
        answer = await self._command("modify", stream=stream_id, side=side.value, config=wire.write_side(config))
        return self._opened(answer)[side]

    def _opened(self, answer: Json) -> dict[Side, LocalAddress]:
        try:
            told = wire.members(answer)
            self._rows |= wire.read_rows(told["rows"])
            return wire.read_locals(told["locals"])
        except (wire.FrameError, KeyError, ValueError) as error:
            raise RelayUnavailableError(f"the packet loop speaks nonsense: {error}") from None

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
        keys = {"send": wire.write_keys(send), "receive": wire.write_keys(receive)}
        await self._command("rekey", stream=stream_id, side=side.value, reset_roc=reset_roc, **keys)

    async def remove(self, stream_id: str, side: Side | None = None) -> RelayStatistics:
        """See :class:`Relay`."""
        name = None if side is None else side.value
        statistics = wire.read_statistics(await self._command("remove", stream=stream_id, side=name))
        left = {each: row for each, row in self._rows.pop(stream_id, {}).items() if each not in statistics.sides}
        if left:
            self._rows[stream_id] = left
        return statistics

    async def tap(self, stream_id: str, *, enabled: bool) -> None:
        """See :class:`Relay`."""
        await self._command("tap", stream=stream_id, enabled=enabled)

    async def statistics(self, stream_ids: Sequence[str] | None = None) -> list[RelayStatistics]:
        """See :class:`Relay`."""
        names: Json = None if stream_ids is None else list(stream_ids)
        return [wire.read_statistics(each) for each in wire.items(await self._command("statistics", streams=names))]

    def counts(self) -> Mapping[str, Mapping[Side, SideCounts]]:
        """See :class:`Relay`."""
        return self._counters.read(self._rows) if self._counters is not None else {}

    async def remember(self, key: str, note: str | None) -> None:
        """See :class:`Relay`."""
        await self._command("remember", key=key, note=note)

    async def remembered(self) -> Mapping[str, str]:
        """See :class:`Relay`."""
        answer = await self._command("remembered")
        return {key: wire.text(note) for key, note in answer.items()} if isinstance(answer, dict) else {}

    async def drain(self) -> int:
        """See :class:`Relay`."""
        return wire.number(await self._command("drain"))

    async def close(self) -> None:
        """See :class:`Relay`."""
        if self._closed:
            return
        with contextlib.suppress(RelayUnavailableError):
            await self._command("close")
        self._end()
        self._counters = None
        if self._child is None:
            await asyncio.to_thread(_wait_for_end, self._pid)
            return
        try:
            await asyncio.to_thread(self._child.wait, _CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            await asyncio.to_thread(self._child.wait)

    def set_listeners(self, events: EventListener | None = None, taps: TapListener | None = None) -> None:
        """See :class:`Relay`."""
        self._events, self._taps = events, taps


def _wait_for_end(pid: int) -> None:
    """Wait for a process that is nobody's child here, and end it when it takes too long."""
    deadline = time.monotonic() + _CLOSE_TIMEOUT_S
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
