"""Structured headers: addresses, Via, CSeq, RAck and friends (RFC 3261 20, 25; RFC 3262; RFC 3581).

Each ``parse_*`` takes one header value and raises :class:`GrammarError` when it is malformed. Nothing here is called
before somebody needs the value: a proxy leaves the headers it does not use as they came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from signalling.sip.auth import (
    Challenge,
    Credentials,
    format_auth,
    parse_auth_params,
    parse_challenge,
    parse_credentials,
)
from signalling.sip.grammar import (
    GrammarError,
    Memory,
    format_host,
    format_params,
    is_token,
    parse_digits,
    parse_params,
    quote,
    quoted_string_end,
    split_host_port,
    split_outside,
    unquote,
)
from signalling.sip.uri import SipUri, Uri, UriError, parse_uri

__all__ = [
    "MAX_CSEQ",
    "Challenge",
    "Credentials",
    "GrammarError",
    "NameAddr",
    "RAck",
    "Via",
    "format_auth",
    "format_params",
    "parse_auth_params",
    "parse_challenge",
    "parse_credentials",
    "parse_cseq",
    "parse_media_type",
    "parse_name_addr",
    "parse_params",
    "parse_rack",
    "parse_via",
    "quote",
    "split_outside",
    "unquote",
]

MAX_CSEQ = 2**32 - 1
BRANCH_COOKIE = "z9hG4bK"
"""Opens every branch of RFC 3261 8.1.1.7."""

_ADDRESS = re.compile(
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<tokens>[A-Za-z0-9\-.!%*_+`\'~ \t]*))'
    r'[ \t]*<(?P<uri>[^<>"\s]+)>(?P<params>.*)\Z',
    re.DOTALL,
)
_VIA = re.compile(
    r"(?P<protocol>[^\s/]+)[ \t]*/[ \t]*(?P<version>[^\s/]+)[ \t]*/[ \t]*(?P<transport>[^\s/]+)[ \t]+(?P<rest>\S.*)\Z",
    re.DOTALL,
)
_ADDRESSES: Memory[NameAddr] = Memory()
"""Addresses whose SIP URI has no password."""
_VIAS: Memory[Via] = Memory()
_CSEQ = re.compile(r"([0-9]+)[ \t]+(\S+)\Z")
_MEDIA_TYPE = re.compile(r"([^\s/;]+)[ \t]*/[ \t]*([^\s/;]+)[ \t]*(?:;.*)?\Z", re.DOTALL)
_RACK = re.compile(r"([0-9]+)[ \t]+([0-9]+)[ \t]+(\S+)\Z")


@dataclass(slots=True)
class NameAddr:
    """A name-addr or addr-spec with header parameters (To, From, Contact, Route ...)."""

    uri: Uri
    display_name: str | None = None
    params: dict[str, str | None] = field(default_factory=dict)

    @property
    def tag(self) -> str | None:
        """The tag parameter (RFC 3261 19.3)."""
        return self.params.get("tag")

    @property
    def sip_uri(self) -> SipUri:
        """The URI as a SIP URI; GrammarError when it is of another scheme."""
        if not isinstance(self.uri, SipUri):
            raise GrammarError("not a SIP URI")
        return self.uri

    def copy(self) -> NameAddr:
        """Return a copy that can be changed."""
        uri = self.uri.copy() if isinstance(self.uri, SipUri) else self.uri
        return NameAddr(uri, self.display_name, dict(self.params))

    def __str__(self) -> str:
        name = "" if self.display_name is None else f"{quote(self.display_name)} "
        return f"{name}<{self.uri}>{format_params(self.params)}"


def parse_name_addr(text: str) -> NameAddr:
    """Parse a name-addr or addr-spec; without ``<>`` parameters belong to the header (RFC 3261 20)."""
    text = text.strip(" \t")
    known = _ADDRESSES.find(text)
    if known is not None:
        return known.copy()
    address = _parse_name_addr(text)
    if isinstance(address.uri, SipUri) and address.uri.password is None:
        _ADDRESSES.keep(text, address.copy())
    return address


def _parse_name_addr(text: str) -> NameAddr:
    match = _ADDRESS.match(text)
    if match is None:
        return _parse_addr_spec(text)
    quoted, tokens = match.group("quoted", "tokens")
    name = (unquote(f'"{quoted}"') if "\\" in quoted else quoted) if quoted is not None else tokens.strip(" \t")
    return NameAddr(
        _uri(match.group("uri")),
        name if quoted is not None or name else None,
        _after_address(match.group("params")),
    )


def _after_address(text: str) -> dict[str, str | None]:
    text = text.strip(" \t")
    if not text:
        return {}
    if not text.startswith(";"):
        raise GrammarError("text after an address")
    return parse_params(text)


def _parse_addr_spec(text: str) -> NameAddr:
    if text.startswith('"'):
        quoted_string_end(text, 0)
        raise GrammarError("display name without an address in brackets")
    if any(mark in text for mark in '<>" \t'):
        head, _, params = text.partition(";")
        if any(mark in head.rstrip(" \t") for mark in '<>" \t'):
            raise GrammarError("malformed address")
    else:
        head, _, params = text.partition(";")
    if "?" in head or "," in head:
        raise GrammarError("address needs angle brackets")
    return NameAddr(_uri(head.rstrip(" \t")), None, parse_params(params) if params or text.endswith(";") else {})


def _uri(text: str) -> Uri:
    try:
        return parse_uri(text)
    except UriError as error:
        raise GrammarError(str(error)) from error


@dataclass(slots=True)
class Via:
    """One Via value (RFC 3261 20.42): transport in upper case, host without brackets."""

    transport: str
    host: str
    port: int | None = None
    params: dict[str, str | None] = field(default_factory=dict)
    protocol: str = "SIP"
    version: str = "2.0"

    @property
    def branch(self) -> str | None:
        """The branch parameter."""
        return self.params.get("branch")

    @property
    def received(self) -> str | None:
        """The received parameter, without the brackets some senders put round IPv6 (RFC 5118 4.5)."""
        value = self.params.get("received")
        return value.strip("[]") if value else None

    @property
    def rport(self) -> int | None:
        """The number in rport, None when absent or still empty (RFC 3581 3)."""
        value = self.params.get("rport")
        return parse_digits(value, 65_535) if value else None

    @property
    def sent_by(self) -> tuple[str, int]:
        """Host in lower case and port, 5060 or 5061 when not given."""
        return self.host.lower(), self.port if self.port is not None else default_port(self.transport)

    def copy(self) -> Via:
        """Return a copy that can be changed."""
        return Via(self.transport, self.host, self.port, dict(self.params), self.protocol, self.version)

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        protocol = f"{self.protocol}/{self.version}/{self.transport}"
        return f"{protocol} {format_host(self.host)}{port}{format_params(self.params)}"


def default_port(transport: str) -> int:
    """Return 5061 for TLS, else 5060 (RFC 3261 18.2.1)."""
    return 5061 if transport.upper() == "TLS" else 5060


def parse_via(text: str) -> Via:
    """Parse one Via value; unknown transports pass, a stray separator does not."""
    known = _VIAS.find(text)
    if known is not None:
        return known.copy()
    via = _parse_via(text)
    _VIAS.keep(text, via.copy())
    return via


def _parse_via(text: str) -> Via:
    match = _VIA.match(text.strip(" \t"))
    if match is None:
        raise GrammarError("malformed Via")
    protocol, version, transport, rest = match.groups()
    if not (is_token(protocol) and is_token(version) and is_token(transport)):
        raise GrammarError("malformed Via protocol")
    sent_by, semicolon, params_text = rest.partition(";")
    host, port = split_host_port(sent_by.strip(" \t"))
    params: dict[str, str | None] = {}
    if semicolon:
        params = parse_params(params_text) if params_text.strip(" \t") else _stray()
    return Via(transport.upper(), host, port, params, protocol, version)


def _stray() -> dict[str, str | None]:
    raise GrammarError("stray semicolon")


def parse_media_type(text: str) -> str:
    """Return the media type of a Content-Type as ``type/subtype`` in lower case, empty when it is none.

    Blanks may stand round the slash (SLASH of RFC 3261 25.1); parameters are left out.
    """
    match = _MEDIA_TYPE.match(text.strip(" \t"))
    if match is None or not all(is_token(part) for part in match.groups()):
        return ""
    return "/".join(match.groups()).lower()


def parse_cseq(text: str) -> tuple[int, str]:
    """Parse CSeq into number (0 to 2**32-1) and method (RFC 3261 20.16)."""
    match = _CSEQ.match(text.strip(" \t"))
    if match is None or not is_token(match.group(2)):
        raise GrammarError("malformed CSeq")
    number = parse_digits(match.group(1), MAX_CSEQ)
    if number is None:
        raise GrammarError("CSeq number out of range")
    return number, match.group(2)


@dataclass(frozen=True, slots=True)
class RAck:
    """The RAck of a PRACK (RFC 3262 7.2): which reliable provisional response it acknowledges."""

    rseq: int
    cseq: int
    method: str

    def __str__(self) -> str:
        return f"{self.rseq} {self.cseq} {self.method}"


def parse_rack(text: str) -> RAck:
    """Parse RAck; numbers up to 2**32-1, method case-sensitive."""
    match = _RACK.match(text.strip(" \t"))
    if match is None or not is_token(match.group(3)):
        raise GrammarError("malformed RAck")
    rseq = parse_digits(match.group(1), MAX_CSEQ)
    cseq = parse_digits(match.group(2), MAX_CSEQ)
    if rseq is None or cseq is None:
        raise GrammarError("RAck number out of range")
    return RAck(rseq, cseq, match.group(3))
