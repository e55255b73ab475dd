"""RPCs as HTTP/2 (RFC 9113, gRPC over HTTP/2): what a dissector reads, made anew from what both ends told.

Frame limits, stream numbers and header compression are not those of the wire, which only the nodes' gRPC library sees.
Every header is a literal that no table holds (RFC 7541 6.2.2), so that each frame can be read without those before it.
Pure: steps in, octets out.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from protos import capture_pb2

MOST_CALLS = 10_000
"""Calls in progress that are remembered; the oldest are forgotten first."""
MOST_FRAME = 16_384
"""SETTINGS_MAX_FRAME_SIZE of a connection that negotiated none, octets."""
_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 1, 4
_FIRST_PORT = 1
_PORTS = 1024

Address = tuple[str, int]
Header = tuple[str, str]


@dataclass(frozen=True)
class Piece:
    """Octets from one end of a connection to the other, and what a reader has to know of them."""

    source: Address
    destination: Address
    octets: bytes
    comment: str = ""


@dataclass
class _Call:
    stream: int
    consumer: Address
    producer: Address
    answered: bool = False


class Http2View:
    """Gives every RPC a stream of the connection it ran on."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[Address, Address], int] = OrderedDict()
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._strangers: dict[tuple[str, Address], int] = {}

    def pieces(self, node: str, step: capture_pb2.SbaStep, source: Address, destination: Address) -> Iterator[Piece]:
        """Yield the octets of a step of an RPC between two addresses; port 0 is one that nobody knows."""
        asking = step.phase == capture_pb2.SbaStep.REQUEST
        call = self._calls.get(step.call)
        if call is None:
            consumer, producer = (source, destination) if asking else (destination, source)
            call = self._open(node, step.call, consumer, producer)
            if not asking:
                octets = _frame(_HEADERS, _END_HEADERS | _END_STREAM, call.stream, _block(_asked(step)))
                yield Piece(call.consumer, call.producer, octets, "began before this capture; its request is not shown")
        if asking:
            yield Piece(call.consumer, call.producer, _request(call, step))
        else:
            yield Piece(call.producer, call.consumer, _answer(call, step))
        if step.phase == capture_pb2.SbaStep.END:
            del self._calls[step.call]

    def _open(self, node: str, name: str, consumer: Address, producer: Address) -> _Call:
        if not consumer[1]:
            consumer = consumer[0], self._port(node, producer)
        number = self._streams.pop((consumer, producer), -1) + 2
        self._streams[consumer, producer] = number
        call = self._calls[name] = _Call(number, consumer, producer)
        for table in (self._streams, self._calls):
            if len(table) > MOST_CALLS:
                table.popitem(last=False)
        return call

    def _port(self, node: str, producer: Address) -> int:
        """A port for a consumer that does not know its own: the same for the same connection."""
        return self._strangers.setdefault((node, producer), _FIRST_PORT + len(self._strangers) % _PORTS)


def _asked(step: capture_pb2.SbaStep) -> Iterator[Header]:
    yield ":method", "POST"
    yield ":scheme", "https"
    yield ":path", step.path
    yield ":authority", step.authority
    yield "content-type", "application/grpc"
    yield "te", "trailers"
    for header in step.headers:
        yield header.name, header.value


def _request(call: _Call, step: capture_pb2.SbaStep) -> bytes:
    last = 0 if step.shown else _END_STREAM
    head = _frame(_HEADERS, _END_HEADERS | last, call.stream, _block(_asked(step)))
    return head + (_data(call.stream, step.body, end=True) if step.shown else b"")


def _answer(call: _Call, step: capture_pb2.SbaStep) -> bytes:
    octets = b""
    ending = step.phase == capture_pb2.SbaStep.END
    headers: list[Header] = []
    if not call.answered:
        headers = [(":status", "200"), ("content-type", "application/grpc")]
        if not ending:
            octets = _frame(_HEADERS, _END_HEADERS, call.stream, _block(headers))
            call.answered = True
    if ending:
        headers.append(("grpc-status", str(step.status)))
        if step.status_message:
            headers.append(("grpc-message", quote(step.status_message, safe=" -_.:,/()'=")))
        return _frame(_HEADERS, _END_HEADERS | _END_STREAM, call.stream, _block(headers))
    if step.shown:
        return octets + _data(call.stream, step.body, end=False)
    return octets or _frame(_DATA, 0, call.stream, b"")


def _data(stream: int, message: bytes, *, end: bool) -> bytes:
    octets = struct.pack("!BI", 0, len(message)) + message
    parts = [octets[at : at + MOST_FRAME] for at in range(0, len(octets), MOST_FRAME)]
    last = len(parts) - 1
    return b"".join(
        _frame(_DATA, _END_STREAM if end and index == last else 0, stream, part) for index, part in enumerate(parts)
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _block(headers: Iterable[Header]) -> bytes:
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)[:MOST_FRAME]


def _string(text: str) -> bytes:
    octets = text.encode("utf-8", "replace")
    length = len(octets)
    if length < 127:
        return bytes([length]) + octets
    head, rest = bytearray([127]), length - 127
    while rest >= 128:
        head.append(rest % 128 + 128)
        rest //= 128
    head.append(rest)
    return bytes(head) + octets
