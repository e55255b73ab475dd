"""The HTTPS client: one connection a request, to a server that shows the right name, with an end to everything."""

from __future__ import annotations

from pathlib import Path

from nodes.httpmessage import Fields, HttpResponse, HttpsAddress
from sba.telemetry import Telemetry

MAX_RESPONSE = 256 * 1024
"""Largest response with its head that is read, octets."""


class HttpsClient:
    """Asks HTTPS servers whose certificate the lab CA issued for the name asked for."""

    def __init__(self, ca_path: Path, telemetry: Telemetry) -> None:
        self._ca_path = ca_path
        self._telemetry = telemetry

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
        raise NotImplementedError
