"""A console without a lab behind it, and a client that sends what it likes; what a browser would add it adds itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from keying.secret import Secret
from lab.console.access import Access, as_text
from lab.console.events import EventStream
from lab.console.server import LIMITS, Ask, ConsoleServer, Routes
from nodes.httpmessage import HttpLimits
from sba import runtime


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cause(self) -> str:
        return str(self.json["cause"])


def parsed(octets: bytes) -> Answer:
    head, _, body = octets.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split(" ")[1]), headers, body)


@dataclass
class Browser:
    """Speaks to one console; ``cookie`` and ``page_key`` are the halves of its session."""

    port: int
    cookie: str = ""
    page_key: str = ""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def raw(self, octets: bytes, *, wait_s: float = 10) -> bytes:
        """What comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = bytearray()
        try:
            writer.write(octets)
            async with asyncio.timeout(wait_s):
                with contextlib.suppress(OSError):
                    while more := await reader.read(65536):
                        found += more
        finally:
            writer.close()
        return bytes(found)

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str | None] | None = None
    ) -> bytes:
        fields: dict[str, str | None] = {"Host": self.host, "Connection": "close"}
        if self.cookie:
            fields["Cookie"] = self.cookie
        if self.page_key:
            fields["X-Imslab"] = self.page_key
        octets = b""
        if body is not None:
            octets = body if isinstance(body, bytes) else json.dumps(body).encode()
            fields |= {
                "Content-Type": "application/json",
                "Content-Length": str(len(octets)),
                "Origin": f"http://{self.host}",
            }
        fields |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + octets

    async def send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str | None] | None = None
    ) -> Answer:
        return parsed(await self.raw(self.request(method, path, body, headers)))

    async def get(self, path: str, **headers: str | None) -> Answer:
        return await self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def sign_in(self, token: str) -> Answer:
        answer = await self.send("POST", "/api/session", {"token": token})
        if answer.status == 200:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]
            self.page_key = answer.json["page_key"]
        return answer

    @contextlib.asynccontextmanager
    async def events(self, **headers: str) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            fields: dict[str, str | None] = {name.replace("_", "-"): value for name, value in headers.items()}
            writer.write(self.request("GET", "/api/events", headers=fields))
            yield reader
        finally:
            writer.close()


async def next_event(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    """The next event of a stream: its name and its document; comments and chunk sizes are passed over."""
    async with asyncio.timeout(40):
        while True:
            line = await reader.readline()
            assert line, "the stream ended"
            if line.startswith(b"event: "):
                name = line[7:].strip().decode()
                data = await reader.readline()
                return name, json.loads(data.removeprefix(b"data: "))


class Site:
    """A console with one path of its own: ``/api/echo`` answers what reached the handler."""

    def __init__(self, limits: HttpLimits, hosts: tuple[str, ...], now: Any) -> None:
        self.token = Secret.random(32)
        self.access = Access(self.token, **({} if now is None else {"monotonic": now}))
        self.events = EventStream(runtime.loop().time)
        self.asked: list[Ask] = []
        routes = Routes()
        for method in ("GET", "POST"):
            routes.add(method, "/api/echo", self.echo)
        routes.add("GET", "/api/echo/{name}", self.echo)
        self.server = ConsoleServer(self.access, routes, self.events, hosts=hosts, metrics=self.metrics, limits=limits)

    async def echo(self, ask: Ask) -> object:
        self.asked.append(ask)
        return {"parts": dict(ask.parts), "query": dict(ask.query), "body": ask.body}

    async def metrics(self) -> str:
        return "imslab_up 1\n"

    @property
    def text(self) -> str:
        return as_text(self.token)

    def browser(self) -> Browser:
        return Browser(self.server.port)

    async def signed_in(self) -> Browser:
        browser = self.browser()
        assert (await browser.sign_in(self.text)).status == 200
        return browser


@contextlib.asynccontextmanager
async def console(limits: HttpLimits = LIMITS, hosts: tuple[str, ...] = (), now: Any = None) -> AsyncIterator[Site]:
    site = Site(limits, hosts, now)
    site.server.start("127.0.0.1", 0)
    try:
        yield site
    finally:
        await site.server.stop()
