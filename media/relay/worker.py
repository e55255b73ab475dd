"""The packet loop as a process of its own: `python -m media.relay.worker DESCRIPTOR`.

Commands come over the inherited socket; when it closes, the parent is gone, and so is this process.
"""

import ctypes
import gc
import resource
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from media.relay import wire
from media.relay.engine import TICK_S, TICK_SHARE, RelayEngine
from media.relay.interface import RelayError, RelayEvent, Side, TappedPacket
from media.relay.wire import Frame, Json

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 0.004
"""Seconds a command may wait for packets that are being carried."""
_BACKLOG = 8 * 1024 * 1024
"""Octets of mirrored packets that may wait for the parent; more are not mirrored."""


class Worker:
    """Owns the engine and the socket to the parent."""

    def __init__(self, control: socket.socket, port_range: tuple[int, int] | None) -> None:
        control.settimeout(0.0)
        self._control = control
        self._reader = wire.FrameReader()
        self._outgoing = bytearray()
        self._closing = False
        self._engine = RelayEngine(port_range=port_range, notify=self._notify, mirror=self._mirror)
        self._poll = select.epoll()
        self._poll.register(control.fileno(), select.EPOLLIN)
        self._poll.register(self._engine.fileno(), select.EPOLLIN)

    def _notify(self, event: RelayEvent) -> None:
        self._send(wire.write_event(event))

    def _mirror(self, packet: TappedPacket) -> None:
        if len(self._outgoing) < _BACKLOG:
            self._send(packet)

    def _send(self, frame: Frame) -> None:
        if not self._outgoing:
            self._poll.modify(self._control.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._outgoing += wire.pack(frame)

    def run(self) -> None:
        """Serve until the parent closes the socket or asks to close."""
        self._send({"ready": True})
        control, packets = self._control.fileno(), self._engine.fileno()
        next_tick = time.monotonic() + TICK_S
        while not self._closing or self._outgoing:
            for descriptor, event in self._poll.poll(TICK_S):
                if descriptor == packets:
                    self._carry()
                elif descriptor == control:
                    if event & select.EPOLLOUT:
                        self._flush()
                    if event & ~select.EPOLLOUT and not self._read():
                        return
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._engine.tick(TICK_SHARE)
        self._engine.close()

    def _carry(self) -> None:
        """Stay with the packets while there are many, but not so long that a command waits for more than a moment."""
        until = time.monotonic() + _PATIENCE_S
        while self._engine.step() and time.monotonic() < until:
            pass

    def _flush(self) -> None:
        try:
            sent = self._control.send(self._outgoing)
        except BlockingIOError:
            return
        del self._outgoing[:sent]
        if not self._outgoing:
            self._poll.modify(self._control.fileno(), select.EPOLLIN)

    def _read(self) -> bool:
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
                return wire.write_locals(engine.add(wire.read_stream(fields["stream"])))
            case "statistics":
                names = fields["streams"]
                wanted = None if names is None else [wire.text(each) for each in wire.items(names)]
                return [wire.write_statistics(each) for each in engine.statistics(wanted)]
            case "drain":
                return engine.drain()
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
            return wire.write_locals({side: engine.modify(stream_id, side, wire.read_side(fields["config"]))})
        if name != "rekey":
            raise wire.FrameError("unknown command")
        send, receive = wire.read_keys(fields["send"]), wire.read_keys(fields["receive"])
        engine.rekey(stream_id, side, send=send, receive=receive, reset_roc=bool(fields["reset_roc"]))
        return None


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies; the closed socket is the second way to learn of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> NoReturn:
    """Run the loop on the socket whose descriptor is the first argument; two more give a port range."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    control = socket.socket(fileno=int(sys.argv[1]))
    port_range = (int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 3 else None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        worker = Worker(control, port_range)
    except RelayError as error:
        control.settimeout(None)
        control.sendall(wire.pack({"ready": False, "message": str(error)}))
        sys.exit(1)
    gc.freeze()  # a full collection would be heard; packets make no cycles
    gc.set_threshold(50_000, 100, 1000)
    worker.run()
    sys.exit(0)


if __name__ == "__main__":
    main()
