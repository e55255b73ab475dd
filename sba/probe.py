"""The health check of a container: ``python -m sba.probe``; exit status 0 when the node serves.

It asks the node's own ``grpc.health.v1`` over mutual TLS with the node's own certificate. Twenty containers are asked
all the time, and loading gRPC costs more than the question: the one request is written here as the HTTP/2 frames it is
(RFC 9113), and of the answer the message alone is read, whose octets do not depend on header compression.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

RUN = "/tmp/imslab"  # noqa: S108 - a tmpfs of the container's own
PATIENCE_S = 2.5
"""Longest wait for an answer, s."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_STREAM = 1
_MOST_FRAME = 1 << 14
_MOST_FRAMES = 64
_EMPTY_MESSAGE = b"\x00\x00\x00\x00\x00"
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""gRPC message of two octets: field 1 of HealthCheckResponse is SERVING."""


class NotServingError(Exception):
    """The node does not serve; the text says how that shows."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame (RFC 9113 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field that neither side indexes, without Huffman code (RFC 7541 6.2.2)."""
    octets = [name.encode("ascii"), value.encode("ascii")]
    if any(len(text) > 126 for text in octets):
        raise NotServingError(f"the name {value[:40]} is too long")
    return b"\x00" + b"".join(bytes((len(text),)) + text for text in octets)


def request(authority: str) -> bytes:
    """Return the octets of one health check of the whole server, as a client sends them."""
    fields = (
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", f"{int(PATIENCE_S * 1000)}m"),
    )
    headers = b"".join(_literal(name, value) for name, value in fields)
    return (
        _PREFACE
        + frame(_SETTINGS, 0, 0)
        + frame(_HEADERS, _END_HEADERS, _STREAM, headers)
        + frame(_DATA, _END_STREAM, _STREAM, _EMPTY_MESSAGE)
    )


def frames(connection: ssl.SSLSocket) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, stream and payload of each frame; raises ``NotServingError`` for what is none."""

    def exactly(count: int) -> bytes:
        octets = b""
        while len(octets) < count:
            more = connection.recv(count - len(octets))
            if not more:
                raise NotServingError("the connection was closed")
            octets += more
        return octets

    for _ in range(_MOST_FRAMES):
        head = exactly(9)
        length = int.from_bytes(head[:3], "big")
        if length > _MOST_FRAME:
            raise NotServingError("the answer is no HTTP/2")
        yield head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, exactly(length)
    raise NotServingError("no answer among many frames")


def check(place: dict[str, str | int]) -> None:
    """Ask the node of ``place`` (what :mod:`sba.container` wrote); raises ``NotServingError`` unless it serves."""
    context = ssl.create_default_context(cafile=str(place["ca"]))
    context.load_cert_chain(str(place["certificate"]), str(place["key"]))
    context.set_alpn_protocols(["h2"])
    fqdn = str(place["fqdn"])
    with (
        socket.create_connection((str(place["host"]), int(place["port"])), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=fqdn) as connection,
    ):
        connection.sendall(request(fqdn))
        for kind, flags, stream, payload in frames(connection):
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(frame(_SETTINGS, _ACK, 0))
            elif kind == _DATA and stream == _STREAM:
                if payload == _SERVING:
                    return
                raise NotServingError("the node says that it does not serve")
            elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
                raise NotServingError("the request was refused")


def main() -> int:
    """Check the node of this container; return 0 when it serves, else 1 with the reason on standard error."""
    path = Path(os.environ.get("IMSLAB_RUN", RUN)) / "node.json"
    try:
        check(json.loads(path.read_text("utf-8")))
    except (NotServingError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
