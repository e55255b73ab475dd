"""The HTTPS server: Twisted's HTTP/1.1 with limits on everything a client can make it hold."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web import http

from nodes import siptls
from nodes.httpmessage import Fields, HttpLimits, HttpRequest, HttpResponse
from sba import runtime
from sba.errors import ProblemError
from sba.identity import NodeIdentity
from sba.telemetry import Telemetry, activate, deactivate, remote_context

Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Answers a request. May raise ``ProblemError`` (its status is answered); whatever else it raises is answered 500."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
"""Methods that name a span; others come from somebody who may write anything."""
_SERVER_FAULT: Final = 500
_SHOWN_PATH: Final = 128
"""Octets of a path that are kept on a span."""
_DRAIN_S: Final = 2.0
"""Longest time that requests in progress get when the server stops, s."""


class HttpsServer:
    """Serves one handler. Method and path are the handler's to judge."""

    def __init__(
        self, handler: Handler, identity: NodeIdentity, telemetry: Telemetry, *, limits: HttpLimits | None = None
    ) -> None:
        self.limits = limits or HttpLimits()
        self.port = 0
        self.telemetry = telemetry
        self._handler = handler
        self._identity = identity
        self._listening: Any = None
        self._channels: set[_Channel] = set()
        self._from: Counter[str] = Counter()
        self._working: set[asyncio.Future[None]] = set()
        self._answered = telemetry.meter.create_counter("http.server.requests", "1", "HTTP requests answered")
        self._turned_away = telemetry.meter.create_counter("http.server.refused", "1", "HTTP refused before a handler")

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; 0 lets the kernel choose. Raises ``CannotListenError``."""
        settings = cast("Any", siptls.server(self._identity, mutual=False))
        factory = _TlsFactory(settings, isClient=False, wrappedFactory=cast("Any", _Channels(self)))
        factory.noisy = False
        self._listening = cast("Any", runtime.reactor()).listenTCP(port, factory, interface=host)
        self.port = int(self._listening.getHost().port)
        return self.port

    async def stop(self) -> None:
        """Take no more connections, let requests in progress end, close the rest."""
        if self._listening is None:
            return
        stopped, self._listening = self._listening.stopListening(), None
        if stopped is not None:
            await runtime.future(stopped)
        if self._working:
            await asyncio.wait(tuple(self._working), timeout=_DRAIN_S)
        for task in tuple(self._working):
            task.cancel()
        for channel in tuple(self._channels):
            channel.abort()

    def admits(self, host: str) -> bool:
        """Tell whether one more connection from an address is taken."""
        within = len(self._channels) < self.limits.connections
        if within and self._from[host] < self.limits.connections_per_address:
            return True
        self.refused("connections")
        return False

    def opened(self, channel: _Channel) -> None:
        """Count a connection."""
        self._channels.add(channel)
        self._from[channel.remote[0]] += 1

    def closed(self, channel: _Channel) -> None:
        """Count a connection no more."""
        if channel in self._channels:
            self._channels.remove(channel)
            self._from[channel.remote[0]] -= 1
            if not self._from[channel.remote[0]]:
                del self._from[channel.remote[0]]

    def refused(self, reason: str) -> None:
        """Count what was turned away before it was a request."""
        self._turned_away.add(1, {"reason": reason})

    def serve(self, request: _Request) -> None:
        """Answer a complete request in a task and a context of its own."""
        task = contextvars.Context().run(runtime.spawn, self._serve(request))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _serve(self, request: _Request) -> None:
        method = request.method.decode("ascii", "replace")
        target = request.uri.decode("ascii", "replace")
        fields: Fields = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        )
        named = method if method in _METHODS else "_OTHER"
        traceparent = next((value for name, value in fields if name.lower() == "traceparent"), None)
        span = self.telemetry.tracer.start_span(
            f"HTTP {named}",
            _trace_of(traceparent),
            SpanKind.SERVER,
            {
                "http.request.method": named,
                "url.path": target.partition("?")[0][:_SHOWN_PATH],
                "server.address": self._identity.fqdn,
                "client.address": request.remote[0],
                "imslab.http.to": self._identity.instance,
                "imslab.http.from": request.remote[0],
            },
        )
        token = activate(span)
        try:
            found = HttpRequest(method, target, fields, request.body, request.remote, span)
            response = await self._answer(found, request.acceptable)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= _SERVER_FAULT:
                span.set_status(Status(StatusCode.ERROR))
            self._answered.add(1, {"http.request.method": named, "http.response.status_code": response.status})
            request.respond(response)
        finally:
            span.end()
            deactivate(token)

    async def _answer(self, request: HttpRequest, acceptable: bool) -> HttpResponse:
        if not acceptable:
            return HttpResponse(400)
        try:
            async with asyncio.timeout(self.limits.handler_s):
                return await self._handler(request)
        except ProblemError as problem:
            return HttpResponse(problem.status)
        except TimeoutError:
            self.telemetry.log("http-handler-slow", level="warning", method=request.method, path=request.path[:64])
            return HttpResponse(503, (("Retry-After", "1"),))
        except Exception as fault:  # noqa: BLE001 - a fault of ours is no news for the client, and no text may leak
            frame = fault.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame is not None else ""
            self.telemetry.log("http-handler-failed", level="error", error=type(fault).__name__, at=where)
            _failed(request.span)
            return HttpResponse(500)


def _trace_of(traceparent: str | None) -> Context:
    """The trace of the client where it records it; else one of our own.

    A client is anybody: whether what he does here is recorded is not for him to say.
    """
    context = remote_context(traceparent)
    sampled = get_current_span(context).get_span_context().trace_flags.sampled
    return context if sampled else Context()


def _failed(span: Span) -> None:
    span.set_status(Status(StatusCode.ERROR, "handler failed"))


class _TlsFactory(TLSMemoryBIOFactory):
    """Lets the inner factory refuse a connection before a handshake costs anything."""

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]  # noqa: N802 - Twisted's name; it answers None to refuse
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else TLSMemoryBIOProtocol(self, inner)


class _Channels(ServerFactory):
    """Makes the protocol of each accepted connection."""

    noisy = False

    def __init__(self, server: HttpsServer) -> None:
        self._server = server

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 - Twisted's name
        remote = (str(getattr(addr, "host", "")), int(getattr(addr, "port", 0)))
        if not self._server.admits(remote[0]):
            return None
        return _Channel(self._server, remote)


class _Channel(http.HTTPChannel):
    """One connection. Its deadline is absolute: a slow client is cut however often it sends an octet."""

    transport: Any
    factory = None

    def __init__(self, server: HttpsServer, remote: tuple[str, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.server = server
        self.remote = remote
        self.requestFactory = cast("Any", _Request)
        self.maxHeaders = server.limits.fields
        self.totalHeadersSize = server.limits.head
        self.MAX_LENGTH = server.limits.head
        self.timeOut = cast("int", server.limits.request_s)
        self._refused = False
        self._linger: Any = None

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.server.opened(self)
        super().connectionMade()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        self.server.closed(self)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def resetTimeout(self) -> None:  # noqa: N802 - Twisted's name
        """Octets that dribble in earn no more time."""

    def timeoutConnection(self) -> None:  # noqa: N802 - Twisted's name
        self.server.refused("slow")
        self.loseConnection()

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Close, and do not wait for a client that does not read."""
        if self._linger is None:
            self.setTimeout(None)  # type: ignore[no-untyped-call]
            self._linger = cast("Any", runtime.reactor()).callLater(self.server.limits.linger_s, self.abort)
            super().loseConnection()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abortConnection()

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        del line
        self._respondToBadRequestAndDisconnect()

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._refused:
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:  # noqa: N802 - Twisted's name
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


class _Request(http.Request):
    """A request as Twisted reads it; forms, cookies and queries in it are not looked at."""

    channel: Any
    content: BytesIO

    def __init__(self, channel: _Channel, _queued: int = 0) -> None:
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
        del length
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self._room -= len(data)
        if self._room < 0:
            self.channel.refuse(413, "body")
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:  # noqa: N802 - Twisted's name
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
