"""The compiled packet loop: whether there is one, and its quick way as a drop-in for the interpreted one.

`packet_loop.c` carries what the quick way carries, for all flows of an engine in one call. Everything else stays where
it is: a packet that needs a closer look comes back and goes the careful way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from media.relay import libsrtp
from media.relay.batch import Batch
from media.relay.contexts import CAUSE_OF, Source
from media.relay.fast_path import Flow, Path, ReceivePackets, trailer_of
from media.relay.interface import MAX_DATAGRAM, MAX_SSRCS, DropCause, RelayUnavailableError
from media.relay.libsrtp import PacketBuffer, Session
from media.relay.port import Port
from media.relay.reference import SrtpSession
from media.relay.slow_path import SlowPath
from media.relay.stream import StreamSide

CHOICE = "IMSLAB_PACKET_LOOP"
"""Environment variable: ``python`` leaves a compiled loop unused, ``compiled`` refuses to run without it."""
_EVENTS = 256
_UNSENT = (DropCause.SEND_BLOCKED, DropCause.OVERSIZE, DropCause.UNREACHABLE)


class _Fields(Protocol):
    """relay_flow; the arrays are only indexed."""

    out: int
    open: int
    receiving: object
    sending: object
    receiving_mki: int
    sending_mki: int
    trailer: int
    rate: float
    last: float
    active: float
    packets: int
    octets_in: int
    octets_out: int
    failed: list[int]
    unsent: list[int]
    source_count: int
    sources: list[_SourceFields]


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

    def new(self, kind: str) -> object: ...
    def cast(self, kind: str, value: int) -> object: ...
    def gc(self, value: object, destructor: object) -> object: ...
    def buffer(self, value: object, size: int) -> memoryview: ...


class _Lib(Protocol):
    loop_free: object

    def loop_new(self, protect: object, unprotect: object, protect_mki: object, unprotect_mki: object) -> object: ...
    def loop_watch(self, loop: object, descriptor: int, flow: object) -> int: ...
    def loop_run(self, loop: object, epoll: int, timeout_ms: int, now: float) -> int: ...
    def loop_others(self, loop: object, into: object) -> int: ...
    def loop_noted(self, loop: object, into: object) -> int: ...
    def loop_handed_back(self, loop: object) -> int: ...
    def loop_packet(self, loop: object, number: int, octets: object, size: object) -> int: ...


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
    lib = cast("dict[str, int]", {name: getattr(found.lib, name) for name in ("MAX_DATAGRAM", "TRAILER_LIMIT")})
    wanted = {"MAX_DATAGRAM": MAX_DATAGRAM, "TRAILER_LIMIT": libsrtp.TRAILER_LIMIT}
    if lib != wanted or cast("int", getattr(found.lib, "RELAY_SOURCES", 0)) < MAX_SSRCS:
        return None, "built from another version; install anew"
    return found, ""


def why_not_compiled() -> str:
    """Return why the interpreted loop runs; empty where the compiled one does."""
    chosen = os.environ.get(CHOICE, "")
    if chosen == "python":
        return f"{CHOICE}=python"
    return _extension()[1]


class CompiledLoop:
    """The loop of one engine. Raises RelayUnavailableError where there is none."""

    def __init__(self) -> None:
        extension, why = _extension()
        if extension is None:
            raise RelayUnavailableError(f"no compiled packet loop: {why}")
        self.ffi, self._lib = extension.ffi, extension.lib
        functions = [self._pointer(address) for address in libsrtp.transform_addresses()]
        made = self._lib.loop_new(*functions)
        if made == self.ffi.NULL:
            raise RelayUnavailableError("no memory for the packet loop")
        self._loop = self.ffi.gc(made, self._lib.loop_free)
        self._numbers = self.ffi.new(f"int[{_EVENTS}]")
        self._octets = self.ffi.new("unsigned char **")
        self._size = self.ffi.new("int *")

    def _pointer(self, address: int) -> object:
        return self.ffi.cast("void *", address)

    def new_flow(self) -> _Fields:
        """Return the memory of a flow; the loop keeps only a pointer to it."""
        return cast("_Fields", self.ffi.new("relay_flow *"))

    def watch(self, descriptor: int, flow: _Fields | None) -> None:
        """Carry packets of a descriptor by `flow`; None: leave them to others. Raises RelayUnavailableError."""
        if self._lib.loop_watch(self._loop, descriptor, self.ffi.NULL if flow is None else flow):
            raise RelayUnavailableError("no memory for another flow")

    def session(self, session: SrtpSession | None) -> object:
        """Return the pointer to a session of libsrtp."""
        return self._pointer(session.address) if isinstance(session, Session) else self.ffi.NULL

    def run(self, epoll: int, timeout_s: float, now: float) -> int:
        """Wait, carry what can be carried, return how many descriptors had something."""
        return self._lib.loop_run(self._loop, epoll, max(0, int(timeout_s * 1000)), now)

    def others(self) -> list[int]:
        """Return descriptors of the last run that are no flow of this loop."""
        count = self._lib.loop_others(self._loop, self._numbers)
        return [cast("list[int]", self._numbers)[number] for number in range(count)]

    def noted(self) -> list[int]:
        """Return descriptors of the last run where a packet was dropped."""
        count = self._lib.loop_noted(self._loop, self._numbers)
        return [cast("list[int]", self._numbers)[number] for number in range(count)]

    def handed_back(self) -> Iterator[tuple[int, bytes]]:
        """Yield descriptor and octets of each packet of the last run that needs a closer look."""
        for number in range(self._lib.loop_handed_back(self._loop)):
            descriptor = self._lib.loop_packet(self._loop, number, self._octets, self._size)
            size = cast("list[int]", self._size)[0]
            yield descriptor, bytes(self.ffi.buffer(cast("list[object]", self._octets)[0], size))


class CompiledFlow(Flow):
    """A flow whose quick way is compiled where its sessions are libsrtp's own."""

    def __init__(
        self,
        side: StreamSide,
        port: Port,
        buffer: PacketBuffer,
        batch: Batch,
        slow: SlowPath,
        receivers: MutableMapping[int, ReceivePackets],
        loop: CompiledLoop,
    ) -> None:
        super().__init__(side, port, buffer, batch, slow, receivers)
        self._loop = loop
        self._fields = loop.new_flow()
        self._compiled: Path | None = None
        self._order: list[Source] = []
        self._sessions: tuple[object, ...] = ()
        """Kept for as long as the loop may use them."""

    def retire(self) -> None:
        """See :class:`Flow`."""
        super().retire()
        self._loop.watch(self.descriptor, None)
        self._compiled, self._sessions = None, ()

    def _enter(self) -> None:
        super()._enter()
        compiled = self._path is not None and self._path is self._compiled
        self._loop.watch(self.descriptor, self._fields if compiled else None)
        self._fields.open = int(compiled)

    def _quick_way(self) -> Path:
        side, far = self._side, self._side.far
        assert far is not None
        assert far.rtp.flow is not None
        receiving = None if side.receiver is None else side.receiver.session
        sending = None if far.sender is None else far.sender.session
        if not all(session is None or isinstance(session, Session) for session in (receiving, sending)):
            self._compiled = None
            return super()._quick_way()
        fields = self._fields
        fields.out = far.rtp.flow.fileno()
        fields.receiving, fields.sending = self._loop.session(receiving), self._loop.session(sending)
        fields.receiving_mki = int(receiving is not None and receiving.mki_length > 0)
        fields.sending_mki = int(sending is not None and sending.mki_length > 0)
        fields.trailer = trailer_of(side.receiver)
        fields.rate = float(side.config.clock_rate)
        self._sessions = (receiving, sending, far.rtp.flow)
        self._load()
        self._compiled = Path(self._receive_carefully, self._take)
        return self._compiled

    def closer_look(self, packet: bytes, now: float) -> None:
        """Take a packet that the loop handed back the careful way; the quick way stands again after it."""
        path = self._path
        self.settle()
        self._careful_slot(packet, len(packet), now)
        if self._path is path and path is not None and path is self._compiled:
            self._load()
            self._fields.open = 1

    def _load(self) -> None:
        """Tell the loop the sources as they stand."""
        fields = self._fields
        self._order = list(self._side.sources.values())
        for number, source in enumerate(self._order):
            entry = fields.sources[number]
            entry.ssrc, entry.highest, entry.first = source.ssrc, source.highest, source.first
            entry.received, entry.cycles, entry.jitter = source.received, source.cycles, source.jitter
            entry.has_transit, entry.transit = int(source.transit is not None), source.transit or 0.0
        fields.source_count = len(self._order)

    def _take(self) -> None:
        """Take over what the loop counted, and the sources as it left them."""
        fields, side = self._fields, self._side
        for number, source in enumerate(self._order):
            entry = fields.sources[number]
            source.highest, source.first, source.received = entry.highest, entry.first, entry.received
            source.cycles, source.jitter = entry.cycles, entry.jitter
            source.transit = entry.transit if entry.has_transit else None
        dropped = self._take_drops()
        moved = fields.packets
        side.packets_in += moved + dropped
        side.octets_in += fields.octets_in
        far = side.far
        if moved and far is not None:
            far.packets_out += moved
            far.octets_out += fields.octets_out
            side.last_in = far.last_out = fields.active
            side.silence_told = False
            for context in (side.receiver, far.sender):
                if context is not None:
                    context.lifetime.srtp_used += moved
        fields.packets = fields.octets_in = fields.octets_out = 0

    def _take_drops(self) -> int:
        fields, dropped = self._fields, 0
        causes = [(fields.failed, CAUSE_OF.get(at, DropCause.AUTH_FAILED), at) for at in range(len(fields.failed))]
        causes += [(fields.unsent, cause, at) for at, cause in enumerate(_UNSENT)]
        for counts, cause, at in causes:
            count = counts[at]
            if count:
                counts[at] = 0
                dropped += count
                self._slow.drop(self._side, cause, count)
        return dropped
