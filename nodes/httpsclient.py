"""The HTTPS client: one connection a request, to a server that shows the right name, with an end to everything."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final, cast

from OpenSSL import SSL
from opentelemetry.trace import SpanKind, Status, StatusCode
from twisted.internet import error
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, Request, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from nodes import siptls
from nodes.httpmessage import Fields, HttpError, HttpFault, HttpResponse, HttpsAddress
from nodes.httptap import HttpTap
from sba import runtime
from sba.identity import NodeIdentity
from sba.tap import Tap
from sba.telemetry import Telemetry, format_traceparent

MAX_RESPONSE: Final = 256 * 1024
"""Largest response with its head that is read, octets."""
_HTTPS: Final = 443
_CLIENT_FAULT: Final = 400
_CHALLENGE: Final = 401
"""Ends no procedure: the request comes again with an answer (RFC 9110 15.5.2)."""


class HttpsClient:
    """Asks HTTPS servers whose certificate the lab CA issued for the name asked for.

    `source` is the IP address to dial from, "" for any. With `identity` a server whose certificate the lab CA revoked
    is not talked to, and one that asks for a certificate is shown this node's.
    """

    def __init__(
        self,
        ca_path: Path,
        telemetry: Telemetry,
        *,
        source: str = "",
        identity: NodeIdentity | None = None,
        tap: Tap | None = None,
    ) -> None:
        self._tap = tap or Tap()
        self._tls = siptls.client(ca_path, identity)
        self._telemetry = telemetry
        self._durations = telemetry.latencies(
            "http.client.request.duration",
            "Duration of HTTP requests asked",
            ("http.request.method", "http.response.status_code", "error.type", "url.scheme"),
        )
        self._source = (source, 0) if source else None

    async def request(
        self,
        method: str,
        address: HttpsAddress,
        target: str,
        *,
        headers: Fields = (),
        body: bytes = b"",
        timeout_s: float = 10.0,
    ) -> HttpResponse:
        """Send a request and return the response, whatever its status.

        Host, Content-Length and traceparent are added. `timeout_s` bounds everything from the connection to the last
        octet of the response. Nothing is repeated. Raises :class:`~nodes.httpmessage.HttpError`.
        """
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "url.scheme": "https",
            "url.path": target.partition("?")[0],
            "server.address": address.name,
            "server.port": address.port,
        }
        with self._telemetry.tracer.start_as_current_span(method, None, SpanKind.CLIENT, attributes) as span:
            fields = (*headers, ("Traceparent", format_traceparent(span.get_span_context())))
            started, outcome = time.perf_counter(), ("", "cancelled")
            try:
                response = await self._exchange(method, address, target, fields, body, timeout_s)
                failed = response.status >= _CLIENT_FAULT and response.status != _CHALLENGE
                outcome = (str(response.status), str(response.status) if failed else "")
            except HttpError as fault:
                outcome = ("", fault.fault.value)
                raise
            finally:
                status, failure = outcome
                if status:
                    span.set_attribute("http.response.status_code", int(status))
                if failure:
                    span.set_attribute("error.type", failure)
                    span.set_status(Status(StatusCode.ERROR, failure))
                self._durations.record((method, status, failure, "https"), time.perf_counter() - started)
            return response

    async def _exchange(
        self, method: str, address: HttpsAddress, target: str, fields: Fields, body: bytes, timeout_s: float
    ) -> HttpResponse:
        attempt = _Attempt(address.name)
        factory = TLSMemoryBIOFactory(
            cast("Any", self._tls(address.name)), isClient=True, wrappedFactory=cast("Any", attempt)
        )
        factory.noisy = False
        cast("Any", runtime.reactor()).connectTCP(
            address.host, address.port, factory, timeout=timeout_s, bindAddress=self._source
        )
        try:
            async with asyncio.timeout(timeout_s):
                connection = await runtime.future(attempt.connected)
                watch = HttpTap(self._tap, connection.address, (address.host, address.port), outgoing=True)
                watch.request(method, target, (("Host", _host(address)), *fields), body)
                request = Request(
                    method.encode("ascii"),
                    target.encode("ascii"),
                    _headers(address, fields),
                    _Octets(body) if body or method in {"POST", "PUT"} else None,
                )
                answer = await runtime.future(connection.request(request))
                reading = _Body()
                cast("Any", answer).deliverBody(reading)
                content = await runtime.future(reading.done)
                response = HttpResponse(answer.code, _fields(cast("Headers", answer.headers)), content)
                watch.response(response.status, response.headers, response.body)
                return response
        except TimeoutError:
            raise HttpError(HttpFault.TIMEOUT, f"{address.name} did not answer in {timeout_s:g} s") from None
        except HttpError:
            raise
        except Exception as reason:  # noqa: BLE001 - Twisted wraps causes in many types; all mean the same to a caller
            raise attempt.fault(reason) from None
        finally:
            attempt.close()


def _host(address: HttpsAddress) -> str:
    return address.name if address.port == _HTTPS else f"{address.name}:{address.port}"


def _headers(address: HttpsAddress, fields: Fields) -> Headers:
    headers = Headers()
    headers.setRawHeaders(b"Host", [_host(address).encode("ascii")])
    for name, value in fields:
        headers.addRawHeader(name.encode("ascii"), value.encode("latin-1"))
    return headers


def _fields(headers: Headers) -> Fields:
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, values in headers.getAllRawHeaders()
        for value in values
    )


class _Attempt(ClientFactory):
    """The one connection of a request, and what became of it."""

    noisy = False

    def __init__(self, name: str) -> None:
        self._name = name
        self.connected: Deferred[_Connection] = Deferred(self._cancelled)
        self._connection: _Connection | None = None
        self._closed = False

    def buildProtocol(self, addr: object) -> Protocol | None:  # noqa: N802 - Twisted's name
        del addr
        if self._closed:
            return None
        self._connection = _Connection(self.connected)
        return cast("Protocol", self._connection)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        del connector
        if not self.connected.called:
            self.connected.errback(reason)

    def _cancelled(self, _deferred: Deferred[_Connection]) -> None:
        self._closed = True

    def close(self) -> None:
        """End the connection, standing or not yet."""
        self._closed = True
        if self._connection is not None:
            self._connection.end()

    def fault(self, reason: BaseException) -> HttpError:
        """Say in a word what went wrong; the text of the cause stays out, it may quote what was sent."""
        if self._connection is not None and self._connection.too_much:
            return HttpError(HttpFault.PROTOCOL, f"{self._name} sent more than {MAX_RESPONSE} octets")
        causes = tuple(_causes(reason))
        if any(isinstance(cause, SSL.Error) for cause in causes):
            return HttpError(HttpFault.TLS, f"{self._name} is not protected as it has to be")
        if any(isinstance(cause, (error.ConnectError, error.ConnectionClosed, OSError)) for cause in causes):
            return HttpError(HttpFault.UNREACHABLE, f"{self._name}: {type(causes[-1]).__name__}")
        return HttpError(HttpFault.PROTOCOL, f"{self._name}: {type(causes[-1]).__name__}")


def _causes(reason: BaseException) -> list[BaseException]:
    """The reason and what it wraps, outermost first."""
    wrapping = getattr(reason, "reasons", ())
    inner = [item.value for item in wrapping if isinstance(item, Failure) and item.value is not None]
    return [reason, *(cause for wrapped in inner for cause in _causes(wrapped))]


class _Connection(HTTP11ClientProtocol):
    """Counts what comes in, so that no server makes the client hold more than a response."""

    def __init__(self, connected: Deferred[_Connection]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._connected: Deferred[_Connection] | None = connected
        self._room = MAX_RESPONSE
        self.too_much = False
        self._standing = False

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        super().connectionMade()
        self._standing = True
        connected, self._connected = self._connected, None
        if connected is not None and not connected.called:
            connected.callback(self)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self._room -= len(data)
        if self._room < 0:
            self.too_much = True
            self.end()
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        self._standing = False
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    @property
    def address(self) -> tuple[str, int]:
        """The own address of the connection."""
        own = cast("Any", self.transport).getHost()
        return str(getattr(own, "host", "")), int(getattr(own, "port", 0))

    def end(self) -> None:
        """Close at once what is still open."""
        if self._standing:
            self._standing = False
            cast("Any", self.transport).abortConnection()


class _Body(Protocol):
    """Collects the body of a response; a broken one is none."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._octets = bytearray()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self._octets += data

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: N802 - Twisted's name
        if self.done.called:
            return
        if reason is not None and reason.check(ResponseDone):
            self.done.callback(bytes(self._octets))
        else:
            self.done.errback(reason or Failure(error.ConnectionLost()))


@implementer(IBodyProducer)
class _Octets:
    """A request body that is at hand."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: Any) -> Deferred[None]:  # noqa: N802 - Twisted's name
        """Write all of it."""
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing is held back."""

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing was held back."""

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing is left."""
