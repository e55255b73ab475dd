"""Connections of an HTTP server: Twisted's HTTP/1.1 with limits on everything a client can make it hold.

The HTTPS server of the nodes and the console of the lab stand on it; neither trusts whoever connects.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from io import BytesIO
from typing import Any, Final, cast

from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.python.failure import Failure
from twisted.web import http

from nodes.httpmessage import HttpLimits, HttpResponse
from sba import runtime

_DRAIN_S: Final = 2.0
"""Longest time that requests in progress get when the server stops, s."""
_CLOSE_S: Final = 1.0
"""Longest time that clients then get to read what was answered, s."""


class HttpServer(ABC):
    """Admits connections within its limits and keeps account of them; a subclass answers their requests."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self._channels: set[Channel] = set()
        self._from: Counter[str] = Counter()
        self._working: set[asyncio.Future[None]] = set()
        self._empty = asyncio.Event()

    @abstractmethod
    def serve(self, request: Request) -> None:
        """Answer a complete request."""

    @abstractmethod
    def refused(self, reason: str) -> None:
        """Count what was turned away before it was a request."""

    def working(self, task: asyncio.Future[None]) -> None:
        """Let a request in progress end when the server stops."""
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    def admits(self, host: str) -> bool:
        """Tell whether one more connection from an address is taken."""
        within = len(self._channels) < self.limits.connections
        if within and self._from[host] < self.limits.connections_per_address:
            return True
        self.refused("connections")
        return False

    def opened(self, channel: Channel) -> None:
        """Count a connection."""
        self._channels.add(channel)
        self._empty.clear()
        self._from[channel.remote[0]] += 1

    def closed(self, channel: Channel) -> None:
        """Count a connection no more."""
        if channel in self._channels:
            self._channels.remove(channel)
            if not self._channels:
                self._empty.set()
            self._from[channel.remote[0]] -= 1
            if not self._from[channel.remote[0]]:
                del self._from[channel.remote[0]]

    async def end(self) -> None:
        """Let requests in progress end and their answers leave, then close every connection; take no more of either.

        Without TLS a client that goes on sending may lose the end of its answer: what is not read resets a connection.
        """
        for channel in tuple(self._channels):
            channel.last()
        if self._working:
            await asyncio.wait(tuple(self._working), timeout=_DRAIN_S)
        for task in tuple(self._working):
            task.cancel()
        if not self._channels:
            return
        for channel in tuple(self._channels):
            channel.loseConnection()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._empty.wait()
        for channel in tuple(self._channels):
            channel.abort()


class Channels(ServerFactory):
    """Makes the protocol of each accepted connection."""

    noisy = False

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        """Make the protocol of one connection, none where it is not admitted."""
        remote = (str(getattr(addr, "host", "")), int(getattr(addr, "port", 0)))
        if not self._server.admits(remote[0]):
            return None
        return Channel(self._server, remote)


class Channel(http.HTTPChannel):
    """One connection. Its deadline is absolute: a slow client is cut however often it sends an octet."""

    transport: Any
    factory = None

    def __init__(self, server: HttpServer, remote: tuple[str, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.server = server
        self.remote = remote
        self.requestFactory = cast("Any", Request)
        self.maxHeaders = server.limits.fields
        self.totalHeadersSize = server.limits.head
        self.MAX_LENGTH = server.limits.head
        self.timeOut = cast("int", server.limits.request_s)
        self._refused = False
        self._linger: Any = None

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Count the connection and give it time for its first request."""
        self.server.opened(self)
        super().connectionMade()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        """Count the connection no more."""
        self.server.closed(self)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Octets that dribble in earn no more time."""

    def timeoutConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Cut a client that took too long to send a request."""
        self.server.refused("slow")
        self.loseConnection()

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Close, and do not wait for a client that does not read."""
        if self._linger is None:
            self.setTimeout(None)  # type: ignore[no-untyped-call]
            self._linger = cast("Any", runtime.reactor()).callLater(self.server.limits.linger_s, self.abort)
            super().loseConnection()  # type: ignore[no-untyped-call]

    def last(self) -> None:
        """Look at nothing more that the client sends, and say so in the answer that it still gets (RFC 9112 9.6)."""
        self._refused = True
        self.persistent = False
        for request in self.requests:
            if not request.startedWriting:
                request.responseHeaders.setRawHeaders(b"Connection", [b"close"])

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abortConnection()

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """Refuse a line beyond the limit."""
        del line
        self._respondToBadRequestAndDisconnect()

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        """Read on, unless what the client sends was refused."""
        if not self._refused:
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Read on, unless what the client sends was refused."""
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
        """Refuse a body that says it is too long before any of it is read."""
        if self.length is not None and self.length > self.server.limits.body:
            self.refuse(413, "body")
            return
        super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def refuse(self, status: int, reason: str) -> None:
        """Answer without a handler and close; what else the client sends is not looked at."""
        if self._refused:
            return
        self._refused = True
        self.server.refused(reason)
        phrase = http.RESPONSES.get(status, b"")
        self.transport.write(b"HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, phrase))
        self.loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 - Twisted's name
        self.refuse(400, "malformed")


class Request(http.Request):
    """A request as Twisted reads it; forms, cookies and queries in it are not looked at."""

    channel: Any
    content: BytesIO

    def __init__(self, channel: Channel, _queued: int = 0) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self.remote = channel.remote
        self.body = b""
        self._room = channel.server.limits.body

    @property
    def acceptable(self) -> bool:
        """An HTTP/1.1 request has exactly one Host (RFC 9112 3.2)."""
        return self.clientproto != b"HTTP/1.1" or len(self.requestHeaders.getRawHeaders(b"Host") or ()) == 1

    def parseCookies(self) -> None:  # noqa: N802 - Twisted's name
        """No cookies."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        """Keep the body in memory: it is limited."""
        del length
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Take in a part of the body; one beyond the limit ends the request."""
        self._room -= len(data)
        if self._room < 0:
            self.channel.refuse(413, "body")
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - Twisted's name
        """Hand the complete request to the server."""
        if self._room < 0:
            return
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.body = self.content.getvalue()
        self.channel.server.serve(self)

    def respond(self, response: HttpResponse) -> None:
        """Send the response unless the client has gone."""
        if self._disconnected or self.finished:
            return
        self.setResponseCode(response.status)
        headers = self.responseHeaders
        for name, value in response.headers:
            headers.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
        headers.setRawHeaders(b"Date", [http.datetimeToString()])
        if not headers.hasHeader(b"Cache-Control"):
            headers.setRawHeaders(b"Cache-Control", [b"no-store"])
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(response.body)])
        self.write(response.body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]

    def begin(self, response: HttpResponse) -> bool:
        """Send the head of a response whose body has no length yet; tells whether the client is still there.

        What follows goes through ``write``; ``finish`` ends it. With HTTP/1.0 the end of the connection ends the body.
        """
        if self._disconnected or self.finished:
            return False
        self.setResponseCode(response.status)
        for name, value in response.headers:
            self.responseHeaders.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
        self.responseHeaders.setRawHeaders(b"Date", [http.datetimeToString()])
        self.write(response.body)  # type: ignore[no-untyped-call]
        return True
