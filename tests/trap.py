"""A host that nobody has a reason to talk to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Trap:
    """A host of nobody: counts what connects to it or is sent to it."""

    def __init__(self) -> None:
        self.port = 0
        self.caught: list[bytes] = []

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        self.caught.append(b"connection")
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, trap: Trap) -> None:
        self.trap = trap

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr
        self.trap.caught.append(data)


@contextlib.asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    """The trap on one port, for TCP and UDP."""
    found = Trap()
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(found.connected, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    endpoint, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(found), ("127.0.0.1", found.port))
    try:
        yield found
    finally:
        endpoint.close()
        server.close()
