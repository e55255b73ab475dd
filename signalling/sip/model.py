"""The types of SIP requests and responses (RFC 3261 7).

Text is UTF-8; octets that are not are carried as surrogates and written back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable

from signalling.sip.fields import Headers
from signalling.sip.grammar import GrammarError
from signalling.sip.headers import NameAddr, Via, parse_cseq, parse_media_type, parse_name_addr, parse_via
from signalling.sip.reasons import REASONS

VERSION = "SIP/2.0"


class SipParseError(Exception):
    """Octets that are no well-formed SIP message.

    ``status`` is the code a server should answer, ``reason`` says what was wrong, ``partial`` is what could be read,
    None when that is too little to answer. ``fatal``: a stream cannot go on after it.
    """

    def __init__(
        self, status: int, reason: str, partial: SipRequest | SipResponse | None = None, *, fatal: bool = False
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.partial = partial
        self.fatal = fatal

    def __str__(self) -> str:
        return f"{self.status} {self.reason}"


class SipMessage:
    """What requests and responses share: ``headers``, ``body``, and cached views of the headers all elements use."""

    __slots__ = ("_address_cache", "_cseq_cache", "_via_cache", "body", "headers")

    def __init__(self, headers: Headers | Iterable[tuple[str, str]], body: bytes = b"") -> None:
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body
        self._via_cache: tuple[str, Via] | None = None
        self._cseq_cache: tuple[str, tuple[int, str]] | None = None
        self._address_cache: dict[str, NameAddr] = {}

    def start_line(self) -> str:
        """Return the request or status line without CRLF."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """Write the message; Content-Length is always that of the body."""
        lines = [self.start_line()]
        length = str(len(self.body))
        counted = False
        for one in self.headers:
            if one.key == "content-length":
                if counted:
                    continue
                counted = True
                lines.append(one.text() if one.value == length else f"{one.name}: {length}")
            else:
                lines.append(one.text())
        if not counted:
            lines.append(f"Content-Length: {length}")
        return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape") + self.body

    @property
    def call_id(self) -> str:
        """The Call-ID, empty when missing."""
        return self.headers.get("call-id") or ""

    @property
    def cseq(self) -> tuple[int, str]:
        """Number and method of CSeq; GrammarError when missing or malformed."""
        text = self.headers.get("cseq")
        if text is None:
            raise GrammarError("no CSeq")
        if self._cseq_cache is None or self._cseq_cache[0] != text:
            self._cseq_cache = (text, parse_cseq(text))
        return self._cseq_cache[1]

    @property
    def top_via(self) -> Via:
        """The topmost Via, not to be changed in place; GrammarError when missing or malformed."""
        text = self.headers.first_value("via")
        if text is None:
            raise GrammarError("no Via")
        if self._via_cache is None or self._via_cache[0] != text:
            self._via_cache = (text, parse_via(text))
        return self._via_cache[1]

    def _address(self, name: str) -> NameAddr:
        text = self.headers.get(name)
        if text is None:
            raise GrammarError(f"no {name}")
        address = self._address_cache.get(text)
        if address is None:
            address = self._address_cache[text] = parse_name_addr(text)
        return address

    @property
    def from_(self) -> NameAddr:
        """The From address, not to be changed in place; GrammarError when missing or malformed."""
        return self._address("from")

    @property
    def to(self) -> NameAddr:
        """The To address, not to be changed in place; GrammarError when missing or malformed."""
        return self._address("to")

    @property
    def from_tag(self) -> str | None:
        """The tag of From."""
        return self.from_.tag

    @property
    def to_tag(self) -> str | None:
        """The tag of To."""
        return self.to.tag

    @property
    def content_type(self) -> str | None:
        """The media type of the body in lower case, without parameters and the blanks allowed round its slash.

        None without Content-Type; empty when it is no media type, or when there is more than one (RFC 3261 20.15).
        """
        lines = self.headers.get_all("content-type")
        if not lines:
            return None
        return parse_media_type(lines[0]) if len(lines) == 1 else ""

    def supports(self, option: str) -> bool:
        """Say whether an option tag stands in Supported or Require."""
        wanted = option.lower()
        return any(tag.lower() == wanted for name in ("supported", "require") for tag in self.headers.values(name))


class SipRequest(SipMessage):
    """A request: ``method`` as written (case-sensitive) and ``uri`` as text."""

    __slots__ = ("method", "uri")

    def __init__(
        self, method: str, uri: str, headers: Headers | Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        super().__init__(headers, body)
        self.method = method
        self.uri = uri

    def start_line(self) -> str:
        """Return the Request-Line."""
        return f"{self.method} {self.uri} {VERSION}"

    def copy(self) -> SipRequest:
        """Return an independent copy."""
        new = SipRequest(self.method, self.uri, self.headers.copy(), self.body)
        new._via_cache, new._cseq_cache = self._via_cache, self._cseq_cache
        return new

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SipRequest)
            and (self.method, self.uri, self.body) == (other.method, other.uri, other.body)
            and self.headers == other.headers
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<SipRequest {self.method}>"


class SipResponse(SipMessage):
    """A response: ``status`` 100-699 and ``reason`` phrase, which may be empty."""

    __slots__ = ("reason", "status")

    def __init__(
        self,
        status: int,
        reason: str | None = None,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(headers, body)
        self.status = status
        self.reason = REASONS.get(status, "Unknown") if reason is None else reason

    def start_line(self) -> str:
        """Return the Status-Line."""
        return f"{VERSION} {self.status} {self.reason}"

    def copy(self) -> SipResponse:
        """Return an independent copy."""
        new = SipResponse(self.status, self.reason, self.headers.copy(), self.body)
        new._via_cache, new._cseq_cache = self._via_cache, self._cseq_cache
        return new

    def without_top_via(self) -> SipResponse:
        """Return a copy without the topmost Via, as a proxy passes it on (RFC 3261 16.7 step 3)."""
        new = self.copy()
        new.headers.remove_first_value("via")
        return new

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SipResponse)
            and (self.status, self.reason, self.body) == (other.status, other.reason, other.body)
            and self.headers == other.headers
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<SipResponse {self.status}>"
