"""The HTTPS server of a node: each request is answered by one handler, in a task and on a span of its own."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from twisted.internet.interfaces import IAddress
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from nodes import siptls
from nodes.handshakes import Handshakes
from nodes.httpchannel import Channels, HttpServer, Request
from nodes.httpmessage import Fields, HttpLimits, HttpRequest, HttpResponse
from nodes.httptap import HttpTap
from sba import runtime
from sba.errors import ProblemError, StoreUnavailableError
from sba.faults import raised_at
from sba.identity import NodeIdentity
from sba.tap import Tap
from sba.telemetry import Telemetry, activate, deactivate, parse_traceparent

Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Answers a request. May raise ``ProblemError`` (its status is answered); whatever else it raises is answered 500."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
"""Methods that name a span; others come from somebody who may write anything."""
_SERVER_FAULT: Final = 500
_SHOWN_PATH: Final = 128
"""Octets of a path that are kept on a span."""


class HttpsServer(HttpServer):
    """Serves one handler. Method and path are the handler's to judge."""

    def __init__(
        self,
        handler: Handler,
        identity: NodeIdentity,
        telemetry: Telemetry,
        *,
        limits: HttpLimits | None = None,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(limits or HttpLimits())
        self._tap = tap or Tap()
        self._address = ("", 0)
        self.port = 0
        self.telemetry = telemetry
        self._handler = handler
        self._identity = identity
        self._listening: list[Any] = []
        self._handshakes = Handshakes(telemetry)
        self._durations = telemetry.latencies(
            "http.server.request.duration",
            "Duration of HTTP requests answered",
            ("http.request.method", "http.response.status_code", "url.scheme"),
        )
        self._turned_away = telemetry.meter.create_counter(
            "imslab.http.refused", "{connection}", "HTTP refused before a handler"
        )
        for reason in ("connections", "slow"):
            self._turned_away.add(0, {"imslab.refusal.reason": reason})

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; 0 lets the kernel choose. Raises ``CannotListenError``.

        Again with another host the server is reached there as well; the first address is the one it goes by.
        """
        settings = cast("Any", siptls.server(self._identity, mutual=False, watch=self._handshakes.watch("HTTPS")))
        factory = _TlsFactory(settings, isClient=False, wrappedFactory=cast("Any", Channels(self)))
        factory.noisy = False
        listening = cast("Any", runtime.reactor()).listenTCP(port, factory, interface=host)
        taken = int(listening.getHost().port)
        if not self._listening:
            self.port = taken
            self._address = (host, taken)
        self._listening.append(listening)
        return taken

    async def stop(self) -> None:
        """Take no more connections, let requests in progress end, close the rest."""
        if not self._listening:
            return
        listening, self._listening = self._listening, []
        for one in listening:
            stopped = one.stopListening()
            if stopped is not None:
                await runtime.future(stopped)
        await self.end()

    def refused(self, reason: str) -> None:
        """Count what was turned away before it was a request."""
        self._turned_away.add(1, {"imslab.refusal.reason": reason})

    def serve(self, request: Request) -> None:
        """Answer a complete request in a task and a context of its own."""
        self.working(contextvars.Context().run(runtime.spawn, self._serve(request)))

    async def _serve(self, request: Request) -> None:
        method = request.method.decode("ascii", "replace")
        target = request.uri.decode("ascii", "replace")
        fields: Fields = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        )
        named = method if method in _METHODS else "_OTHER"
        started = time.perf_counter()
        traceparent = next((value for name, value in fields if name.lower() == "traceparent"), None)
        span = self.telemetry.tracer.start_span(
            named if named in _METHODS else "HTTP",
            _trace_of(traceparent, self.telemetry),
            SpanKind.SERVER,
            {
                "http.request.method": named,
                "url.scheme": "https",
                "url.path": target.partition("?")[0][:_SHOWN_PATH],
                "server.address": self._identity.fqdn,
                "client.address": request.remote[0],
                "server.port": self.port,
            },
        )
        token = activate(span)
        watch = HttpTap(self._tap, request.remote, self._address, outgoing=False)
        watch.request(method, target, fields, request.body)
        try:
            found = HttpRequest(method, target, fields, request.body, request.remote, span)
            response = await self._answer(found, request.acceptable)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= _SERVER_FAULT:
                span.set_attribute("error.type", str(response.status))
                span.set_status(Status(StatusCode.ERROR))
            self._durations.record((named, str(response.status), "https"), time.perf_counter() - started)
            watch.response(response.status, response.headers, response.body)
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
        except StoreUnavailableError as away:  # as with any NF that is not there, a client may ask another instance
            self.telemetry.log("store-away", level="error", fault=str(away))
            return HttpResponse(503, (("Retry-After", "1"),))
        except TimeoutError:
            self.telemetry.log("http-handler-slow", level="warning", method=request.method, path=request.path[:64])
            return HttpResponse(503, (("Retry-After", "1"),))
        except Exception as fault:  # noqa: BLE001 - a fault of ours is no news for the client, and no text may leak
            self.telemetry.log("http-handler-failed", level="error", error=type(fault).__name__, at=raised_at(fault))
            _failed(request.span)
            return HttpResponse(500)


def _trace_of(traceparent: str | None, telemetry: Telemetry) -> Context:
    """Below the span the client names; whether that trace is recorded is for this node's share of traces to say.

    A client is anybody: it may say to which trace its requests belong, and not whether they are recorded.
    """
    named = parse_traceparent(traceparent)
    if named is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if telemetry.tracer.samples(named.trace_id) else TraceFlags.DEFAULT)
    above = SpanContext(named.trace_id, named.span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(above), Context())


def _failed(span: Span) -> None:
    span.set_status(Status(StatusCode.ERROR, "handler failed"))


class _TlsFactory(TLSMemoryBIOFactory):
    """Lets the inner factory refuse a connection before a handshake costs anything."""

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]  # noqa: N802 - Twisted's name; it answers None to refuse
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else TLSMemoryBIOProtocol(self, inner)
