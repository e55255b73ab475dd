"""The compiled packet loop: whether there is one, and its quick way as a drop-in for the interpreted one.

`packet_loop.c` carries what the quick way carries, in threads of its own that need no interpreter, or in the engine's.
Everything else stays where it is: a packet that needs a closer look comes back and goes the careful way. What both
touch is guarded by holding the loop, which is what its context is.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Protocol, Self, cast

from media.relay import libsrtp
from media.relay.board import CAUSES, COUNTS_OCTETS, Board, Tally
from media.relay.contexts import CAUSE_OF
from media.relay.fast_path import Flow, Means, Path, let_lie, nothing, rtcp_trailer_of, trailer_of
from media.relay.interface import MAX_DATAGRAM, MAX_SSRCS, Address, DropCause, Protection, RelayUnavailableError
from media.relay.libsrtp import Session
from media.relay.reference import SrtpSession
from media.relay.stream import StreamSide

CHOICE = "IMSLAB_PACKET_LOOP"
"""Environment variable: ``python`` leaves a compiled loop unused, ``compiled`` refuses to run without it."""
_NOTED_AT_ONCE = 256
_STRANGERS = 1
_ADDRESS_OCTETS, _KNOWN = 18, 2
_UNLIMITED = (1 << 64) - 1
_COMPILED = Path(let_lie, nothing)
"""The quick way of every flow that the loop carries."""


class _Fields(Protocol):
    """relay_flow; the arrays are only indexed."""

    kind: int
    out: int
    open: int
    opaque: int
    muxed: int
    receiving: object
    sending: object
    receiving_mki: int
    sending_mki: int
    trailer: int
    rtcp_trailer: int
    rate: float
    left: int
    counts: object
    far: object
    routed: int
    known: object
    known_count: int
    source_count: int
    source_limit: int
    sources: object


class _SourceFields(Protocol):
    """relay_source."""

    ssrc: int
    highest: int
    first: int
    received: int
    cycles: int
    transit: float
    jitter: float
    has_transit: int


class _Ffi(Protocol):
    NULL: object

    def new(self, kind: str, value: object = None) -> object: ...
    def cast(self, kind: str, value: object) -> object: ...
    def gc(self, value: object, destructor: object) -> object: ...
    def buffer(self, value: object, size: int = -1) -> memoryview: ...
    def from_buffer(self, value: object) -> object: ...
    def addressof(self, value: object, field: str) -> object: ...
    def sizeof(self, kind: str) -> int: ...


class _Lib(Protocol):
    loop_free: object

    def loop_new(
        self, protect: object, unprotect: object, protect_mki: object, unprotect_mki: object, cause_of: object
    ) -> object: ...
    def loop_start(self, loop: object, cpu: int, priority: int) -> int: ...
    def loop_stop(self, loop: object) -> None: ...
    def loop_descriptor(self, loop: object) -> int: ...
    def loop_notice(self, loop: object) -> int: ...
    def loop_hold(self, loop: object) -> None: ...
    def loop_release(self, loop: object) -> None: ...
    def loop_set_time(self, loop: object, now: float) -> None: ...
    def loop_watch(self, loop: object, descriptor: int, flow: object) -> int: ...
    def loop_reopen(self, loop: object, descriptor: int) -> int: ...
    def loop_run(self, loop: object) -> int: ...
    def loop_waiting(self, loop: object) -> int: ...
    def loop_noted(self, loop: object, into: object, room: int) -> int: ...
    def loop_handed_back(self, loop: object) -> int: ...
    def loop_packet(self, loop: object, number: int, octets: object, size: object, source: object) -> int: ...
    def loop_taken(self, loop: object) -> None: ...
    def loop_disown(self, loop: object, descriptor: int, flow: object) -> None: ...


class _Extension(Protocol):
    ffi: _Ffi
    lib: _Lib


@cache
def _extension() -> tuple[_Extension | None, str]:
    """Return the extension, or None and why there is none."""
    try:
        found = cast("_Extension", import_module("media.relay._packet_loop"))
    except ImportError as error:
        return None, f"not built at installation, or not loadable: {error}"
    wanted = {
        "MAX_DATAGRAM": MAX_DATAGRAM,
        "TRAILER_LIMIT": libsrtp.TRAILER_LIMIT,
        "RELAY_CAUSES": len(CAUSES),
        "ADDRESS_OCTETS": _ADDRESS_OCTETS,
        "RELAY_KNOWN": _KNOWN,
        "STRANGERS": _STRANGERS,
        **{f"DROP_{cause.name}": number for number, cause in enumerate(CAUSES)},
    }
    if any(cast("int | None", getattr(found.lib, name, None)) != value for name, value in wanted.items()):
        return None, "built from another version; install anew"
    if found.ffi.sizeof("relay_counts") != COUNTS_OCTETS:
        return None, "built with other counters; install anew"
    return found, ""


def why_not_compiled() -> str:
    """Return why the interpreted loop runs; empty where the compiled one does."""
    chosen = os.environ.get(CHOICE, "")
    if chosen == "python":
        return f"{CHOICE}=python"
    return _extension()[1]


def _known_address(address: Address) -> bytes | None:
    """Write an address as relay_flow.known has it; None for what is no plain IP address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            host = socket.inet_pton(family, address[0])
        except OSError:
            continue
        return host.ljust(16, b"\0") + address[1].to_bytes(2, "big")
    return None


def _address_of(octets: bytes, family: int) -> Address:
    """Read an address as relay_flow.known has it."""
    host = octets[: 16 if family == socket.AF_INET6 else 4]
    return socket.inet_ntop(family, host), int.from_bytes(octets[16:], "big")


class CompiledLoop:
    """The loop over some of the streams of an engine; entered as a context it is held, as often as one likes.

    Raises RelayUnavailableError where there is none.
    """

    def __init__(self) -> None:
        extension, why = _extension()
        if extension is None:
            raise RelayUnavailableError(f"no compiled packet loop: {why}")
        self.ffi, self._lib = extension.ffi, extension.lib
        first, second, third, fourth = map(self._pointer, libsrtp.transform_addresses())
        causes = [CAUSES.index(CAUSE_OF.get(status, DropCause.AUTH_FAILED)) for status in range(libsrtp.STATUSES)]
        made = self._lib.loop_new(first, second, third, fourth, self.ffi.new("int[]", causes))
        if made == self.ffi.NULL:
            raise RelayUnavailableError("no memory or no descriptors for the packet loop")
        self._loop = self.ffi.gc(made, self._lib.loop_free)
        self._numbers = self.ffi.new(f"int[{_NOTED_AT_ONCE}]")
        self._octets = self.ffi.new("unsigned char **")
        self._source = self.ffi.new("unsigned char **")
        self._size = self.ffi.new("int *")
        self._depth = 0
        self.threaded = False
        self.streams = 0
        """Streams given to this loop."""

    def __enter__(self) -> Self:
        """Hold the loop: nothing is carried until it is let go."""
        if self.threaded and not self._depth:
            self._lib.loop_hold(self._loop)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Let the loop go."""
        self._depth -= 1
        if self.threaded and not self._depth:
            self._lib.loop_release(self._loop)

    def start(self, cpu: int | None, priority: int) -> str:
        """Carry packets in a thread from now on; returns what was not granted. Raises RelayUnavailableError."""
        refused = ""
        fault = self._lib.loop_start(self._loop, -1 if cpu is None else cpu, priority)
        if fault and priority:
            refused = f"SCHED_FIFO refused: {os.strerror(fault)}"
            fault = self._lib.loop_start(self._loop, -1 if cpu is None else cpu, 0)
        if fault:
            where = "" if cpu is None else f" on processor {cpu}"
            raise RelayUnavailableError(f"no thread for packets{where}: {os.strerror(fault)}")
        self.threaded = True
        return refused

    def stop(self) -> None:
        """End the thread."""
        self._lib.loop_stop(self._loop)
        self.threaded = False

    @property
    def descriptor(self) -> int:
        """Readable when there is something to do here: to run, or, with a thread, to take what it handed back."""
        return self._lib.loop_notice(self._loop) if self.threaded else self._lib.loop_descriptor(self._loop)

    def set_time(self, now: float) -> None:
        """Take `now` for the time, whatever the clock says."""
        self._lib.loop_set_time(self._loop, now)

    def _pointer(self, address: int) -> object:
        return self.ffi.cast("void *", address)

    def new_side(self, counts: object) -> object:
        """Return the memory of a side's flows that are counted at `counts`; the loop keeps only pointers into it."""
        memory = self.ffi.new("relay_side[1]")  # one object; of a pointer to a struct there would be two
        peer, strangers = self.part(memory, "peer"), self.part(memory, "strangers")
        peer.counts = strangers.counts = counts
        strangers.kind = _STRANGERS
        return memory

    def part(self, memory: object, name: str) -> _Fields:
        """Return the pointer to a flow in the memory of a side: ``peer`` or ``strangers``."""
        return cast("_Fields", self.ffi.addressof(cast("list[object]", memory)[0], name))

    def first_source(self, memory: object) -> Sequence[_SourceFields]:
        """Return the pointer to the one source in the memory of a side."""
        return cast("Sequence[_SourceFields]", self.ffi.addressof(cast("list[object]", memory)[0], "first"))

    def counts(self, board: Board, tally: Tally) -> object:
        """Return the pointer to where a side is counted; good for as long as the board's memory."""
        start = int(cast("int", self.ffi.cast("uintptr_t", self.ffi.from_buffer(board.memory))))
        return self.ffi.cast("relay_counts *", start + board.offset(tally))

    def new_sources(self, count: int) -> Sequence[_SourceFields]:
        """Return the memory of sources."""
        return cast("Sequence[_SourceFields]", self.ffi.new("relay_source[]", count))

    def watch(self, descriptor: int, flow: _Fields | None) -> None:
        """Carry packets of a descriptor by `flow`; None: leave them to others. Raises RelayUnavailableError."""
        if self._lib.loop_watch(self._loop, descriptor, self.ffi.NULL if flow is None else flow):
            raise RelayUnavailableError("no memory for another flow")

    def reopen(self, descriptor: int) -> None:
        """Go on with a flow that rested. Raises RelayUnavailableError."""
        if self._lib.loop_reopen(self._loop, descriptor):
            raise RelayUnavailableError("no memory for another flow")

    def session(self, session: SrtpSession | None) -> object:
        """Return the pointer to a session of libsrtp."""
        return self._pointer(session.address) if isinstance(session, Session) else self.ffi.NULL

    def run(self) -> int:
        """Carry what waits, where no thread does; returns how many descriptors had something."""
        return self._lib.loop_run(self._loop)

    def waiting(self) -> bool:
        """Whether packets wait to be carried or to be taken. The loop is held."""
        return bool(self._lib.loop_waiting(self._loop))

    def _copy(self, pointer: object, size: int) -> bytes:
        return bytes(self.ffi.buffer(cast("list[object]", pointer)[0], size))

    def disown(self, descriptor: int, flow: _Fields) -> None:
        """Refuse what a flow handed back and nobody took, before its descriptor is another's. The loop is held."""
        self._lib.loop_disown(self._loop, descriptor, flow)

    def noted(self) -> list[int]:
        """Return descriptors where packets were dropped since the last call, up to 256 of them. The loop is held."""
        count = self._lib.loop_noted(self._loop, self._numbers, _NOTED_AT_ONCE)
        return [cast("list[int]", self._numbers)[number] for number in range(count)]

    def take_handed_back(self) -> list[tuple[int, bytes, bytes]]:
        """Return descriptor, octets and source (as relay_flow.known has it; of what the peer's own socket heard: zeros)
        of each packet that needs a closer look. The loop is held.
        """
        taken = []
        for number in range(self._lib.loop_handed_back(self._loop)):
            descriptor = self._lib.loop_packet(self._loop, number, self._octets, self._size, self._source)
            packet = self._copy(self._octets, cast("list[int]", self._size)[0])
            taken.append((descriptor, packet, self._copy(self._source, _ADDRESS_OCTETS)))
        self._lib.loop_taken(self._loop)
        return taken


class CompiledFlow(Flow):
    """A flow whose quick way is compiled where its sessions are libsrtp's own.

    While it is, the loop watches its socket, and what strangers send to its port where all of that is refused; at other
    times `poll` does.
    """

    __slots__ = (
        "_carried",
        "_memory",
        "_more",
        "_out",
        "_receiving",
        "_refusing",
        "_resting",
        "_sending",
    )
    margin = 1 << 10  # the loop counts every packet itself

    def __init__(self, side: StreamSide, means: Means) -> None:
        super().__init__(side, means)
        self._memory = self._loop.new_side(self._loop.counts(means.board, side.tally))
        self._more: Sequence[_SourceFields] | None = None
        """Memory of the sources where there is more than one."""
        self._receiving: SrtpSession | None = None
        self._sending: SrtpSession | None = None
        self._out: socket.SocketType | None = None
        """Like the sessions kept for as long as the loop may use it."""
        self._carried = self._refusing = self._resting = False
        means.poll.register(self.descriptor, select.EPOLLIN)

    @property
    def _loop(self) -> CompiledLoop:
        return cast("CompiledLoop", self._side.stream.guard)

    @property
    def _fields(self) -> _Fields:
        return self._loop.part(self._memory, "peer")

    @property
    def _strangers(self) -> _Fields:
        return self._loop.part(self._memory, "strangers")

    @property
    def _rows(self) -> Sequence[_SourceFields]:
        return self._loop.first_source(self._memory) if self._more is None else self._more

    @property
    def _catch(self) -> int:
        return self._side.rtp.catch.fileno()

    @property
    def descriptors(self) -> tuple[int, int]:
        """Sockets the loop may watch for this flow: that of the peer, and that of everybody else."""
        return self.descriptor, self._catch

    def retire(self) -> None:
        """See :class:`Flow`."""
        self._loop.disown(self.descriptor, self._fields)
        self._loop.disown(self._catch, self._strangers)
        super().retire()
        self._watch(carried=False, refusing=False)
        self._resting = False
        self._take_counts()
        self._let_go()
        self._out = None

    def _enter(self) -> None:
        carried = self._path is _COMPILED
        if carried:
            self._leave_table()
        else:
            super()._enter()
        self._watch(carried=carried, refusing=carried and self._refuses_strangers())
        if not carried:
            self._let_go()

    def _let_go(self) -> None:
        """Keep no session that the loop does not use: it has keys."""
        fields, nothing_there = self._fields, self._loop.ffi.NULL
        fields.receiving, fields.sending = nothing_there, nothing_there
        self._receiving = self._sending = None

    def _watch(self, *, carried: bool, refusing: bool) -> None:
        self._note_rest()
        self._fields.open, self._strangers.open = int(carried and not self._resting), int(refusing)
        if carried is not self._carried:
            self._carried = carried
            self._move(self.descriptor, self._fields if carried else None)
        elif carried and not self._resting:
            self._loop.reopen(self.descriptor)
        if refusing is not self._refusing:
            self._refusing = refusing
            self._move(self._catch, self._strangers if refusing else None)

    def _move(self, descriptor: int, fields: _Fields | None) -> None:
        """Let the loop watch a socket, or the engine; one that is closed is watched by nobody."""
        resting = self._resting and descriptor == self.descriptor
        if fields is not None:
            if not resting:
                self._means.poll.unregister(descriptor)
            self._loop.watch(descriptor, fields)
            return
        self._loop.watch(descriptor, None)
        if self._is_open(descriptor) and not resting:
            self._means.poll.register(descriptor, select.EPOLLIN)

    def _note_rest(self) -> None:
        """Note whether the loop has put the flow to rest: then nobody reads on until it is told to go on."""
        self._resting = self._resting or (self._carried and not self._fields.open)

    def _is_open(self, descriptor: int) -> bool:
        """Whether a socket of this flow has that descriptor: one that is closed may have left it to another."""
        return any(sock is not None and sock.fileno() == descriptor for sock in (self.sock, self._side.rtp.catch))

    def _refuses_strangers(self) -> bool:
        """Tell the loop whom to refuse; False where strangers may become the peer.

        Packets of the peer itself may wait among those of strangers: they came before there was a socket for it alone.
        """
        side, port, strangers = self._side, self._side.rtp, self._strangers
        if not port.hears_peer_alone:
            return False
        known = [_known_address(address) for address in (port.destination, port.reclaimer) if address is not None]
        octets = [address for address in known if address is not None]
        if len(octets) < len(known):
            return False
        strangers.known_count = len(known)
        self._loop.ffi.buffer(strangers.known)[:] = b"".join(octets).ljust(_ADDRESS_OCTETS * _KNOWN, b"\0")
        self._say_what(strangers)
        strangers.trailer, strangers.rtcp_trailer = trailer_of(side.receiver), rtcp_trailer_of(side.receiver)
        return True

    def _quick_way(self) -> Path:
        side, far = self._side, self._side.far
        assert far is not None
        assert far.rtp.flow is not None
        receiving = None if side.receiver is None else side.receiver.session
        sending = None if far.sender is None else far.sender.session
        if not all(session is None or isinstance(session, Session) for session in (receiving, sending)):
            return super()._quick_way()
        fields = self._fields
        fields.out = far.rtp.flow.fileno()
        fields.far = self._loop.counts(self._means.board, far.tally)
        if far.rtp.flow is not self._out:
            fields.routed = 0
        self._say_what(fields)
        fields.receiving, fields.sending = self._loop.session(receiving), self._loop.session(sending)
        fields.receiving_mki = int(receiving is not None and receiving.mki_length > 0)
        fields.sending_mki = int(sending is not None and sending.mki_length > 0)
        fields.trailer, fields.rtcp_trailer = trailer_of(side.receiver), rtcp_trailer_of(side.receiver)
        fields.source_limit = MAX_SSRCS
        fields.rate = float(side.config.clock_rate)
        self._receiving, self._sending, self._out = receiving, sending, far.rtp.flow
        self._load()
        return _COMPILED

    def settle(self) -> None:
        """See :class:`Flow`."""
        if self._path is _COMPILED:
            self._take()
        else:
            super().settle()

    def _takes_opaque(self) -> bool:
        return True

    def closer_look(self, descriptor: int, packet: bytes, source: bytes, now: float) -> None:
        """Take a packet that the loop handed back the careful way; the quick way stands again after it.

        `source` is where a packet came from that was not heard on the peer's own socket.
        """
        if descriptor != self.descriptor:
            port = self._side.rtp
            self._means.buffer.load(packet)
            self._means.slow.receive(self._side, port, _address_of(source, port.catch.family), now)
            return
        self.settle()
        self._careful_slot(packet, len(packet), now)
        self.resume()
        if not self._fields.left:
            self.refresh(now)

    def resume(self) -> None:
        """See :class:`Flow`."""
        if self._path is _COMPILED:
            self._load()

    def go_on(self) -> None:
        """Every packet handed back was looked at: let the loop carry the next ones."""
        self._note_rest()
        if not self._resting:
            return
        self._resting = False
        if self._carried:
            self._fields.open = 1
            self._loop.reopen(self.descriptor)
        elif self._is_open(self.descriptor):
            self._means.poll.register(self.descriptor, select.EPOLLIN)

    def _say_what(self, fields: _Fields) -> None:
        """Tell the loop what is expected; in what is opaque there is no RTCP to be seen."""
        config = self._side.config
        fields.opaque = int(config.protection is Protection.OPAQUE)
        fields.muxed = int(config.rtcp_mux and not fields.opaque)

    def _load(self) -> None:
        """Tell the loop the sources as they stand."""
        fields, sources = self._fields, self._side.sources
        if len(sources) > 1 and (self._more is None or len(sources) > len(self._more)):
            self._more = self._loop.new_sources(2 * len(sources))
        rows = self._rows
        for number, source in enumerate(sources):
            entry = rows[number]
            entry.ssrc, entry.highest, entry.first = source.ssrc, source.highest, source.first
            entry.received, entry.cycles, entry.jitter = source.received, source.cycles, source.jitter
            entry.has_transit, entry.transit = int(source.transit is not None), source.transit or 0.0
        fields.sources, fields.source_count = rows, len(sources)
        far = self._side.far
        keys = self._side.receiver, far.sender if far is not None else None
        left = [each.lifetime.srtp - each.lifetime.srtp_used - self.margin for each in keys if each is not None]
        fields.left = max(0, min(left, default=_UNLIMITED))

    def _take(self) -> None:
        """Take over what the loop counted, and the sources as it left them."""
        rows = self._rows
        for number, source in enumerate(self._side.sources[: self._fields.source_count]):
            entry = rows[number]
            source.highest, source.first, source.received = entry.highest, entry.first, entry.received
            source.cycles, source.jitter = entry.cycles, entry.jitter
            source.transit = entry.transit if entry.has_transit else None
        self._take_counts()

    def _take_counts(self) -> None:
        """Take over what the thread counted of this side, and of the far one what left there."""
        side, far, tally = self._side, self._side.far, self._side.tally
        refused, rtcp, causes = tally.take_drops()
        moved, octets_in = tally.take_in()
        side.packets_in += moved + refused
        side.octets_in += octets_in
        side.rtcp_in += rtcp
        for cause, count in causes:
            self._means.slow.drop(side, cause, count)
        if far is None:
            return
        packets_out, octets_out = far.tally.take_out()
        far.packets_out += packets_out
        far.octets_out += octets_out
        if moved:
            side.last_in = far.last_out = self._means.board.active(tally)
            side.silence_told = False
            for context in (side.receiver, far.sender):
                if context is not None:
                    context.lifetime.srtp_used += moved
