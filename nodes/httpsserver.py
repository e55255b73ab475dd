"""The HTTPS server: Twisted's HTTP/1.1 with limits on everything a client can make it hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nodes.httpmessage import HttpLimits, HttpRequest, HttpResponse
from sba.identity import NodeIdentity
from sba.telemetry import Telemetry

Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Answers a request. May raise ``ProblemError`` (its status is answered); whatever else it raises is answered 500."""


class HttpsServer:
    """Serves one handler. Method and path are the handler's to judge."""

    def __init__(
        self, handler: Handler, identity: NodeIdentity, telemetry: Telemetry, *, limits: HttpLimits | None = None
    ) -> None:
        self._handler = handler
        self._identity = identity
        self._telemetry = telemetry
        self._limits = limits or HttpLimits()
        self.port = 0

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port; 0 lets the kernel choose. Raises ``CannotListenError``."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Take no more connections, let requests in progress end, close the rest."""
        raise NotImplementedError
