"""An HTTPS server under test and raw clients that send it what they like."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodes.https import Handler, HttpLimits, HttpsAddress, HttpsClient, HttpsServer
from sba.identity import NodeIdentity
from sba.telemetry import Telemetry
from sba.testing import LabFixture

NAME = "web-1.ims.test"


class Site:
    """A server on loopback, a client that trusts its CA, and what both let be seen."""

    def __init__(self, folder: Path) -> None:
        self.lab = LabFixture(folder, nrf=False)
        environment = self.lab.add("web", "web-1", nf_types=("BSF",))
        self.identity = NodeIdentity(environment)
        self.log = io.StringIO()
        self.spans = InMemorySpanExporter()
        self.telemetry = Telemetry("web-1", "BSF", stream=self.log)
        self.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.client = HttpsClient(self.identity.ca_path, self.telemetry)
        self.server: HttpsServer

    @property
    def address(self) -> HttpsAddress:
        return HttpsAddress(host="127.0.0.1", port=self.server.port, tls_name=NAME)

    def tls(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(str(self.identity.ca_path))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.server.port, ssl=self.tls(), server_hostname=NAME)

    async def raw(self, octets: bytes) -> bytes:
        """Send octets and return everything that comes back until the server closes."""
        reader, writer = await self.open()
        with contextlib.suppress(OSError):
            writer.write(octets)
            await writer.drain()
        try:
            async with asyncio.timeout(8):
                return await read_all(reader)
        finally:
            writer.close()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Everything until the connection ends, in whatever way."""
    found = bytearray()
    with contextlib.suppress(OSError):
        while octets := await reader.read(65536):
            found += octets
    return bytes(found)


@contextlib.asynccontextmanager
async def serving(folder: Path, handler: Handler, limits: HttpLimits | None = None) -> AsyncIterator[Site]:
    site = Site(folder)
    site.server = HttpsServer(handler, site.identity, site.telemetry, limits=limits)
    await site.server.start("127.0.0.1", 0)
    try:
        yield site
    finally:
        await site.server.stop()
