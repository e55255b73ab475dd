"""What an HTTPS handler gets and gives, the limits it is protected by, and what may go wrong with a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl

from opentelemetry.trace import INVALID_SPAN, Span
from pydantic import BaseModel, ConfigDict, Field

MAX_QUERY_FIELDS: Final = 32
"""Parameters of a query that are read; a request with more has none."""

Fields = tuple[tuple[str, str], ...]
"""Header fields or parameters in order; names as they were written."""


class HttpsAddress(BaseModel):
    """Where an HTTPS server listens, and the name its certificate has to show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    """IP address or host name dialled."""
    port: int = Field(ge=1, le=65535)
    """TCP port."""
    tls_name: str = ""
    """DNS name the certificate has to show, sent as Host; empty: the host."""

    @property
    def name(self) -> str:
        """The name the server goes by."""
        return self.tls_name or self.host


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one client may cost a server."""

    body: int = 64 * 1024
    """Largest request body, octets; more is answered 413."""
    head: int = 16 * 1024
    """Largest request line with all header fields, octets; more is answered 400."""
    fields: int = 64
    """Most header fields; more is answered 400."""
    request_s: float = 10.0
    """From the accepted connection, or the response before, to the last octet of a request, s. TLS handshake included,
    and octets that dribble in earn no more time."""
    handler_s: float = 15.0
    """Longest work on one request, s; after that 503."""
    linger_s: float = 2.0
    """From the server's wish to close a connection to its end whether the client reads or not, s."""
    connections: int = 512
    """Open connections; one more is closed at once."""
    connections_per_address: int = 64
    """Open connections from one IP address."""


def first_field(fields: Fields, name: str) -> str | None:
    """Return the value of the first header field of that name, in any case of letters."""
    wanted = name.lower()
    return next((value for found, value in fields if found.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A complete request. `target` is the path with its query as sent; `remote` address and port of the client.

    `span` is the span of this request, for attributes that the handler knows.
    """

    method: str
    target: str
    headers: Fields = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    remote: tuple[str, int] = ("", 0)
    span: Span = field(default=INVALID_SPAN, repr=False, compare=False)

    @property
    def path(self) -> str:
        """The target without its query, not decoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the query, decoded; empty when one is repeated, malformed or there are too many."""
        text = self.target.partition("?")[2]
        if not text:
            return {}
        try:
            pairs = parse_qsl(
                text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
            )
        except ValueError:
            return {}
        found = dict(pairs)
        return found if len(found) == len(pairs) else {}

    def header(self, name: str) -> str | None:
        """The first header field of that name."""
        return first_field(self.headers, name)

    def headers_named(self, name: str) -> tuple[str, ...]:
        """All header fields of that name, in order."""
        return tuple(value for found, value in self.headers if found.lower() == name.lower())

    @property
    def content_type(self) -> str:
        """The media type of the body in lower case, without parameters; empty when the request names none."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response. Content-Length, Date and Cache-Control: no-store are added by the server."""

    status: int
    headers: Fields = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The first header field of that name."""
        return first_field(self.headers, name)

    @property
    def content_type(self) -> str:
        """The media type of the body in lower case, without parameters; empty when the response names none."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()


class HttpFault(Enum):
    """Why a request got no response."""

    UNREACHABLE = "unreachable"
    """No connection, or it broke before the response was complete."""
    TLS = "tls"
    """The server is not the one it should be, or the two agree on no protection."""
    TIMEOUT = "timeout"
    """No complete response in time."""
    PROTOCOL = "protocol"
    """What came back is not HTTP, or too much of it."""


class HttpError(Exception):
    """A request got no usable response; the text names the server and never what was sent."""

    def __init__(self, fault: HttpFault, text: str) -> None:
        super().__init__(f"{fault.value}: {text}")
        self.fault = fault
