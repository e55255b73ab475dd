"""The console's HTTP server: every request passes the ways in, then one route; event streams stay open."""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import unquote

from twisted.internet.error import CannotListenError

from lab.console import ways_in
from lab.console.access import Access, AccessError
from lab.console.answers import SECURITY_FIELDS, Problem, answer
from lab.console.events import Client, EventStream
from lab.console.static_files import StaticFiles
from lab.control import ControlError, Params
from nodes.httpchannel import Channels, HttpServer, Request
from nodes.httpmessage import Fields, HttpLimits, HttpRequest, HttpResponse
from sba import runtime

LIMITS: Final = HttpLimits(connections=128, connections_per_address=128, handler_s=60.0)
"""What whoever connects may cost: a user's browser tabs fit many times over."""
LONGEST_QUERY_VALUE: Final = 512
"""Characters of one parameter of a query."""
JSON_DEPTH: Final = 16
"""Nesting of a JSON body."""


@dataclass(frozen=True)
class Ask:
    """A request that may come in: parts of its path, query, and the JSON object of its body."""

    parts: Mapping[str, str]
    query: Mapping[str, str]
    body: Params = field(default_factory=dict)


Handler = Callable[[Ask], Awaitable[object]]
"""Returns the document of the answer, or an ``HttpResponse``. May raise ``Problem`` and ``ControlError``."""


class Routes:
    """Handlers by method and path; ``{name}`` in a path stands for one part of it."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Route a method and path."""
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
        self._routes.append((method, re.compile(pattern), handler))

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]]:
        """Return the handler and the decoded parts of the path. Raises ``Problem`` 404 or 405."""
        allowed = []
        for known, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if known == method:
                return handler, {name: _decoded(value) for name, value in match.groupdict().items()}
            allowed.append(known)
        if allowed:
            raise method_refused(*allowed)
        raise Problem(404, "NOT_FOUND", "there is nothing here")


def _decoded(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Problem(400, "BAD_REQUEST", "the path is not UTF-8") from None


def method_refused(*allowed: str) -> Problem:
    """Return the answer to a method that a path does not have."""
    return Problem(405, "METHOD", f"only {', '.join(allowed)} here", (("Allow", ", ".join(allowed)),))


class ConsoleServer(HttpServer):
    """Serves the page, its interface and its events on one address.

    ``hosts`` are the names, with port, that the console goes by besides the address it is bound to.
    """

    def __init__(
        self,
        access: Access,
        routes: Routes,
        events: EventStream,
        *,
        hosts: Collection[str] = (),
        metrics: Callable[[], Awaitable[str]] | None = None,
        limits: HttpLimits = LIMITS,
    ) -> None:
        super().__init__(limits)
        self.port = 0
        self._access = access
        self._routes = routes
        self._events = events
        self._static = StaticFiles()
        self._hosts = {host.lower() for host in hosts}
        self._metrics = metrics
        self._listening: Any = None
        self.turned_away: dict[str, int] = {}

    @property
    def cookie_name(self) -> str:
        """Name of the session cookie: consoles on two ports of one host do not overwrite each other's."""
        return f"imslab_console_{self.port}"

    def start(self, host: str, port: int) -> int:
        """Listen and return the port; where ``port`` is taken, one of the kernel. Raises ``CannotListenError``."""
        factory = Channels(self)
        try:
            self._listening = cast("Any", runtime.reactor()).listenTCP(port, factory, interface=host)
        except CannotListenError:
            if not port:
                raise
            self._listening = cast("Any", runtime.reactor()).listenTCP(0, factory, interface=host)
        self.port = int(self._listening.getHost().port)
        for name in _loopback_names(host):
            self._hosts.add(f"{name}:{self.port}")
        return self.port

    async def stop(self) -> None:
        """Take no more connections and end those that are open."""
        self._events.close()
        if self._listening is not None:
            stopped, self._listening = self._listening.stopListening(), None
            if stopped is not None:
                await runtime.future(stopped)
        await self.end()

    def refused(self, reason: str) -> None:
        """Count what was turned away before it was a request."""
        self.turned_away[reason] = self.turned_away.get(reason, 0) + 1

    def serve(self, request: Request) -> None:
        """Answer a complete request in a task of its own."""
        self.working(contextvars.Context().run(runtime.spawn, self._serve(request)))

    async def _serve(self, request: Request) -> None:
        fields: Fields = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, values in request.requestHeaders.getAllRawHeaders()
            for value in values
        )
        method, target = request.method.decode("ascii", "replace"), request.uri.decode("latin-1")
        asked = HttpRequest(method, target, fields, request.body, request.remote)
        try:
            response = await self._answer(asked, request)
        except Problem as problem:
            response = problem.response()
        except ControlError as error:
            response = Problem(409, "REFUSED", str(error)).response()
        except TimeoutError:
            response = Problem(503, "BUSY", "the lab took too long to answer").response()
        except Exception:  # noqa: BLE001 - a fault of ours ends neither the lab nor what the page shows
            traceback.print_exc(file=sys.stdout)
            response = Problem(500, "FAULT", "the console failed; see the log of the supervisor").response()
        if response is not None:
            request.respond(_protected(response))

    async def _answer(self, asked: HttpRequest, request: Request) -> HttpResponse | None:
        path = ways_in.check_target(asked)
        host = ways_in.check_host(asked, self._hosts)
        own = path.startswith("/api/") or path in ("/api", "/metrics")
        ways_in.check_origin(asked, host, page=path == "/")
        if path == "/metrics" and self._metrics is not None:
            return await self._metrics_text(asked)
        if not own:
            return self._file(asked, path)
        if path == "/api/session" and asked.method == "POST":
            return self._begin_session(asked)
        left = ways_in.check_access(asked, self._access, self.cookie_name)
        if path == "/api/session":
            return self._session(asked, left)
        if path == "/api/events":
            if asked.method != "GET":
                raise method_refused("GET")
            await self._stream(asked, request)
            return None
        handler, parts = self._routes.find(asked.method, path)
        if any(len(value) > LONGEST_QUERY_VALUE for value in asked.query.values()):
            raise Problem(400, "BAD_REQUEST", "a parameter of the query is too long")
        body = read_object(asked) if asked.method == "POST" else {}
        async with asyncio.timeout(self.limits.handler_s):
            document = await handler(Ask(parts, asked.query, body))
        return document if isinstance(document, HttpResponse) else answer(document)

    def _file(self, asked: HttpRequest, path: str) -> HttpResponse:
        response = self._static.find(path, asked.header("If-None-Match"))
        if response is None:
            raise Problem(404, "NOT_FOUND", "there is nothing here")
        if asked.method != "GET":
            raise method_refused("GET")
        return response

    async def _metrics_text(self, asked: HttpRequest) -> HttpResponse:
        if asked.method != "GET":
            raise method_refused("GET")
        ways_in.check_token_alone(asked, self._access)
        assert self._metrics is not None
        text = await self._metrics()
        return HttpResponse(200, (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),), text.encode())

    def _begin_session(self, asked: HttpRequest) -> HttpResponse:
        token = read_object(asked).get("token")
        if not isinstance(token, str) or not token:
            raise Problem(400, "BAD_REQUEST", "token: text is needed")
        try:
            session = self._access.begin(token)
        except AccessError as refused:
            raise ways_in.refusal(refused) from None
        attributes = f"HttpOnly; SameSite=Strict; Path=/; Max-Age={session.lifetime_s}"
        document = {"page_key": session.page_key, "expires_in_s": session.lifetime_s}
        return answer(document, 200, (("Set-Cookie", f"{self.cookie_name}={session.cookie}; {attributes}"),))

    def _session(self, asked: HttpRequest, left: float | None) -> HttpResponse:
        if asked.method == "GET":
            return answer({"expires_in_s": None if left is None else int(left)})
        if asked.method != "DELETE":
            raise method_refused("GET", "POST", "DELETE")
        self._access.end(ways_in.cookie(asked, self.cookie_name) or "")
        gone = f"{self.cookie_name}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0"
        return HttpResponse(204, (("Set-Cookie", gone),))

    async def _stream(self, asked: HttpRequest, request: Request) -> None:
        with self._events.watching(asked.header("Last-Event-ID")) as client:
            head = HttpResponse(200, (("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")))
            if not request.begin(_protected(head)):
                return
            flow = _Flow(client)
            request.notifyFinish().addBoth(flow.gone)
            request.registerProducer(flow, streaming=True)  # type: ignore[no-untyped-call]
            try:
                while octets := await flow.next():
                    request.write(octets)  # type: ignore[no-untyped-call]
            finally:
                if not flow.over:
                    request.unregisterProducer()  # type: ignore[no-untyped-call]
                    request.channel.abort()


class _Flow:
    """Sends to a client only while its connection takes octets; what cannot be sent waits in the client's queue."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._free = asyncio.Event()
        self._free.set()
        self.over = False

    async def next(self) -> bytes:
        """Return what is to be written next; empty when the stream is over."""
        while not self._free.is_set() and not self.over and not self._client.cut:
            self._client.news.clear()
            waits = [asyncio.ensure_future(event.wait()) for event in (self._free, self._client.news)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        return b"" if self.over or self._client.cut else await self._client.next()

    def gone(self, result: object) -> None:
        """Note that the connection is closed."""
        del result
        self.over = self._client.cut = True
        self._free.set()
        self._client.news.set()

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The connection takes no more for now."""
        self._free.clear()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The connection takes octets again."""
        self._free.set()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """The connection is gone."""
        self.gone(None)


def read_object(asked: HttpRequest) -> Params:
    """Return the JSON object of a body. Raises ``Problem`` 415 or 400."""
    if asked.content_type != "application/json":
        raise Problem(415, "MEDIA_TYPE", "the body has to be application/json")
    try:
        found = json.loads(asked.body.decode("utf-8")) if asked.body else {}
    except (ValueError, RecursionError):
        raise Problem(400, "BAD_REQUEST", "the body is not JSON") from None
    if not isinstance(found, dict) or not _shallow(found, JSON_DEPTH):
        raise Problem(400, "BAD_REQUEST", "the body is not a plain JSON object")
    return found


def _shallow(value: object, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    items = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_shallow(item, depth - 1) for item in items)


def _loopback_names(host: str) -> tuple[str, ...]:
    if host == "::1":
        return "[::1]", "localhost"
    return (host, "localhost") if host.startswith("127.") else ()


def _protected(response: HttpResponse) -> HttpResponse:
    return HttpResponse(response.status, (*response.headers, *SECURITY_FIELDS), response.body)
