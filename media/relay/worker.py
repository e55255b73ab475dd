"""The packet loop as a process of its own: `python -m media.relay.worker DESCRIPTOR`.

Commands come over the inherited socket; when it closes, the parent is gone, and so is this process: at once, or with a
refuge when nobody came there for its commands in time. Meanwhile packets are carried as before.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NoReturn

from keying.suites import SuiteError
from media.relay import wire
from media.relay.engine import TICK_MOST, TICK_S, TICK_SHARE, RelayEngine
from media.relay.interface import LocalAddress, RelayError, RelayEvent, Side, TappedPacket, Workers
from media.relay.refuge import Refuge, peer_of
from media.relay.wire import Frame, Json
from media.srtp_transform import enable_srtp_suite

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 0.004
"""Seconds a command may wait for packets that are being carried."""
_BACKLOG = 8 * 1024 * 1024
"""Octets of mirrored packets that may wait for the parent; more are not mirrored."""


class Worker:
    """Owns the engine and the socket to the parent, or to who took its place."""

    def __init__(
        self,
        control: socket.socket,
        port_range: tuple[int, int] | None,
        refuge: Refuge | None = None,
        workers: Workers | None = None,
    ) -> None:
        control.settimeout(0.0)
        self._control: socket.socket | None = control
        self._refuge = refuge
        self._listener = refuge.listen() if refuge is not None else None
        self._until = float("inf")
        """When an abandoned packet loop ends."""
        self._remembered: dict[str, str] = {}
        self._reader = wire.FrameReader()
        self._outgoing = bytearray()
        self._closing = False
        self._engine = RelayEngine(
            port_range=port_range, notify=self._notify, mirror=self._mirror, workers=workers or Workers()
        )
        self._poll = select.epoll()
        self._poll.register(control.fileno(), select.EPOLLIN)
        self._poll.register(self._engine.fileno(), select.EPOLLIN)
        if self._listener is not None:
            self._poll.register(self._listener.fileno(), select.EPOLLIN)

    def _notify(self, event: RelayEvent) -> None:
        self._send(wire.write_event(event))

    def _mirror(self, packet: TappedPacket) -> None:
        if len(self._outgoing) < _BACKLOG:
            self._send(packet)

    def _send(self, frame: Frame) -> None:
        if self._control is None:
            return  # nobody is there to hear it
        if not self._outgoing:
            self._poll.modify(self._control.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._outgoing += wire.pack(frame)

    def run(self) -> None:
        """Serve until the parent closes the socket, or asks to close, and nobody takes its place."""
        self._tell_ready()
        packets = self._engine.fileno()
        next_tick = time.monotonic() + TICK_S
        while (not self._closing or self._outgoing) and time.monotonic() < self._until:
            for descriptor, event in self._poll.poll(TICK_S):
                if descriptor == packets:
                    self._carry()
                elif self._listener is not None and descriptor == self._listener.fileno():
                    self._admit(self._listener)
                elif self._control is not None and descriptor == self._control.fileno():
                    if event & select.EPOLLOUT:
                        self._flush()
                    if event & ~select.EPOLLOUT and not self._heed():
                        self._abandoned()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._engine.tick(TICK_SHARE, TICK_MOST)
        self._engine.close()
        if self._refuge is not None:
            self._refuge.remove()

    def _tell_ready(self) -> None:
        """Say the first words to who commands from now on, and hand over the counters to read."""
        assert self._control is not None
        engine = self._engine
        words = wire.pack({"ready": True, "loop": engine.loop, "rows": wire.write_rows(engine.rows())})
        with contextlib.suppress(OSError):  # reading tells that the other end is gone
            words = words[socket.send_fds(self._control, [words], [engine.board.descriptor]) :]
            if words:
                self._poll.modify(self._control.fileno(), select.EPOLLIN | select.EPOLLOUT)
                self._outgoing += words

    def _heed(self) -> bool:
        """Read commands; False when the other end is gone or, with a refuge, is none that knows them."""
        if self._refuge is None:
            return self._read()
        try:
            return self._read()
        except (wire.FrameError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _abandoned(self) -> None:
        """Go on without commands, for as long as the refuge says."""
        if self._control is not None:
            self._poll.unregister(self._control.fileno())
            self._control.close()
        self._control = None
        self._reader, self._outgoing = wire.FrameReader(), bytearray()
        if self._refuge is not None:
            _let_go_of_output()
        patience = self._refuge.seconds if self._refuge is not None and not self._closing else 0.0
        self._until = time.monotonic() + patience

    def _admit(self, listener: socket.socket) -> None:
        """Take commands from who comes, of the same user, while nobody else gives any."""
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            if self._control is not None or peer_of(connection)[1] != os.getuid():
                connection.close()
                return
            connection.settimeout(0.0)
            self._control, self._until = connection, float("inf")
            self._poll.register(connection.fileno(), select.EPOLLIN)
            self._tell_ready()

    def _carry(self) -> None:
        """Stay with the packets while there are many, but not so long that a command waits for more than a moment."""
        until = time.monotonic() + _PATIENCE_S
        while self._engine.step() and time.monotonic() < until:
            pass

    def _flush(self) -> None:
        assert self._control is not None
        try:
            sent = self._control.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError:  # reading tells that the other end is gone
            sent = len(self._outgoing)
        del self._outgoing[:sent]
        if not self._outgoing:
            self._poll.modify(self._control.fileno(), select.EPOLLIN)

    def _read(self) -> bool:
        assert self._control is not None
        try:
            octets = self._control.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not octets:
            return False
        for frame in self._reader.feed(octets):
            if isinstance(frame, TappedPacket):
                raise wire.FrameError("packets are mirrored the other way")
            self._answer(frame)
        return True

    def _answer(self, command: dict[str, Json]) -> None:
        answer: dict[str, Json] = {"id": command["id"]}
        try:
            answer["result"] = self._execute(wire.text(command["command"]), command)
        except RelayError as error:
            answer["error"] = type(error).__name__
            answer["message"] = str(error)
        self._send(answer)

    def _execute(self, name: str, fields: dict[str, Json]) -> Json:  # one row per command
        engine = self._engine
        match name:
            case "add":
                config = wire.read_stream(fields["stream"])
                return self._opened(config.stream_id, engine.add(config))
            case "statistics":
                names = fields["streams"]
                wanted = None if names is None else [wire.text(each) for each in wire.items(names)]
                return [wire.write_statistics(each) for each in engine.statistics(wanted)]
            case "drain":
                return engine.drain()
            case "remember":
                self._remember(wire.text(fields["key"]), fields["note"])
                return None
            case "remembered":
                return dict(self._remembered)
            case "close":
                self._closing = True
                return None
        stream_id = wire.text(fields["stream"])
        side = None if fields.get("side") is None else Side(wire.text(fields["side"]))
        if name == "remove":
            return wire.write_statistics(engine.remove(stream_id, side))
        if name == "tap":
            engine.tap(stream_id, enabled=bool(fields["enabled"]))
            return None
        if side is None:
            raise wire.FrameError("a side was expected")
        if name == "modify":
            return self._opened(stream_id, {side: engine.modify(stream_id, side, wire.read_side(fields["config"]))})
        if name != "rekey":
            raise wire.FrameError("unknown command")
        send, receive = wire.read_keys(fields["send"]), wire.read_keys(fields["receive"])
        engine.rekey(stream_id, side, send=send, receive=receive, reset_roc=bool(fields["reset_roc"]))
        return None

    def _opened(self, stream_id: str, locals_: Mapping[Side, LocalAddress]) -> Json:
        return {"locals": wire.write_locals(locals_), "rows": wire.write_rows(self._engine.rows([stream_id]))}

    def _remember(self, key: str, note: Json) -> None:
        if note is None:
            self._remembered.pop(key, None)
        else:
            self._remembered[key] = wire.text(note)


def _let_go_of_output() -> None:
    """Who reads the parent's output shall see its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies; the closed socket is the second way to learn of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _enable(suites: Sequence[str]) -> None:
    """Load the suites of packages. Raises ImportError, AttributeError and SuiteError."""
    for suite in suites:
        name, _, value = suite.partition("=")
        enable_srtp_suite(name, EntryPoint(name, value, "").load())


def main() -> NoReturn:
    """Run the loop on the socket whose descriptor is the first argument."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("descriptor", type=int)
    parser.add_argument("--ports", type=int, nargs=2, metavar=("FIRST", "LAST"))
    parser.add_argument("--refuge", type=Path, help="socket at which to wait without a parent")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait there")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="threads that carry packets; 0: all there may be"
    )
    parser.add_argument("--cpu", type=int, action="append", default=[], help="processor to pin the next of them to")
    parser.add_argument("--priority", type=int, default=0, help="SCHED_FIFO priority of theirs, 0: usual scheduling")
    parser.add_argument("--suite", action="append", default=[], metavar="NAME=MODULE:OBJECT")
    parser.add_argument("--path", action="append", default=[], help="where modules of suites are found")
    options = parser.parse_args()
    refuge = Refuge(options.refuge, options.patience) if options.refuge is not None else None
    if refuge is None:
        _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    control = socket.socket(fileno=options.descriptor)
    port_range = (options.ports[0], options.ports[1]) if options.ports else None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.path.extend(options.path)
    try:
        _enable(options.suite)
        workers = Workers(options.workers, tuple(options.cpu), options.priority)
        worker = Worker(control, port_range, refuge, workers)
    except (RelayError, OSError, ImportError, AttributeError, SuiteError) as error:
        control.settimeout(None)
        control.sendall(wire.pack({"ready": False, "message": str(error)}))
        sys.exit(1)
    gc.freeze()  # a full collection would be heard; packets make no cycles
    gc.set_threshold(50_000, 100, 1000)
    worker.run()
    sys.exit(0)


if __name__ == "__main__":
    main()
