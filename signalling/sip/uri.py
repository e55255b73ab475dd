"""SIP, SIPS, tel and urn URIs: parsing, writing and comparison (RFC 3261 19.1, RFC 3966, RFC 8141)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from signalling.sip.grammar import GrammarError, Memory, format_host, split_host_port
from signalling.sip.limits import MAX_URI

_USER = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/]|%[0-9A-Fa-f]{2})+\Z")
_PASSWORD = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,]|%[0-9A-Fa-f]{2})*\Z")
_PARAM = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]|%[0-9A-Fa-f]{2})+\Z")
_HEADER = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$]|%[0-9A-Fa-f]{2})*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*\Z")
_OPAQUE = re.compile(r"[!#-;=?-\[\]_a-z~]+\Z")
_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_RESERVED = ";/?:@&=+$,"
_NEVER_DEFAULTED = ("user", "ttl", "method", "maddr")
_URN = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]{0,31}):(.+)\Z")
_TEL_NUMBER = re.compile(r"(?:\+[0-9\-.()]+|[0-9A-Fa-f*#\-.()]+)\Z")
_VISUAL = str.maketrans("", "", "-.()")


class UriError(ValueError):
    """Text that is no URI of its scheme."""


def unescape(text: str) -> str:
    """Resolve %HH escapes once (RFC 3261 19.1.2); the octets are read as UTF-8, bad ones kept as surrogates."""
    if "%" not in text:
        return text
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m.group(1), 16)]), text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def _normal(text: str) -> str:
    """Escape form in which equal texts are equal: only reserved and unprintable characters stay escaped."""

    def one(match: re.Match[str]) -> str:
        character = chr(int(match.group(1), 16))
        if character in _RESERVED or not "!" <= character <= "~" or character == "%":
            return match.group().upper()
        return character

    return _ESCAPED.sub(one, text) if "%" in text else text


def normal_host(host: str) -> str:
    """Lower-case host name, or the one spelling of an IPv6 address, for comparison."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host))
    return host.lower()


@dataclass(slots=True)
class SipUri:
    """A sip or sips URI (RFC 3261 19.1.1).

    ``user`` and ``password`` keep their escapes, ``host`` has no brackets, ``params`` maps lower-case names to the
    value as written (None: no value), ``headers`` keeps order and escapes.
    """

    scheme: str = "sip"
    user: str | None = None
    password: str | None = None
    host: str = ""
    port: int | None = None
    params: dict[str, str | None] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [self.scheme, ":"]
        if self.user is not None:
            parts.append(self.user)
            if self.password is not None:
                parts += (":", self.password)
            parts.append("@")
        parts.append(format_host(self.host))
        if self.port is not None:
            parts.append(f":{self.port}")
        for name, value in self.params.items():
            parts.append(f";{name}" if value is None else f";{name}={value}")
        if self.headers:
            parts += ("?", "&".join(f"{name}={value}" for name, value in self.headers))
        return "".join(parts)

    @property
    def loose(self) -> bool:
        """True for a loose router (``lr``, RFC 3261 19.1.1)."""
        return "lr" in self.params

    @property
    def transport(self) -> str | None:
        """The transport parameter in upper case, if any."""
        value = self.params.get("transport")
        return value.upper() if value else None

    @property
    def address_of_record(self) -> str:
        """Canonical text without port, parameters and headers (RFC 3261 10.3 step 5)."""
        user = "" if self.user is None else f"{_normal(self.user)}@"
        return f"{self.scheme}:{user}{format_host(normal_host(self.host))}"

    def copy(self) -> SipUri:
        """Return a copy whose parameters can be changed."""
        return SipUri(
            self.scheme, self.user, self.password, self.host, self.port, dict(self.params), list(self.headers)
        )

    def equivalent(self, other: object) -> bool:
        """Compare by RFC 3261 19.1.4; not transitive, so this is no ``__eq__``."""
        if not isinstance(other, SipUri):
            return False
        if (self.scheme, self.port) != (other.scheme, other.port):
            return False
        if _normal_or_none(self.user) != _normal_or_none(other.user):
            return False
        if _normal_or_none(self.password) != _normal_or_none(other.password):
            return False
        if normal_host(self.host) != normal_host(other.host):
            return False
        return self._same_params(other) and self._same_headers(other)

    def _same_params(self, other: SipUri) -> bool:
        for name in _NEVER_DEFAULTED:
            if (name in self.params) != (name in other.params):
                return False
        for name, value in self.params.items():
            if name in other.params and _lower(value) != _lower(other.params[name]):
                return False
        return True

    def _same_headers(self, other: SipUri) -> bool:
        def canonical(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
            return sorted((name.lower(), _normal(value)) for name, value in headers)

        return canonical(self.headers) == canonical(other.headers)


def _lower(value: str | None) -> str | None:
    return None if value is None else _normal(value).lower()


def _normal_or_none(value: str | None) -> str | None:
    return None if value is None else _normal(value)


@dataclass(slots=True)
class TelUri:
    """A tel URI (RFC 3966): ``number`` as written, ``params`` with lower-case names."""

    number: str
    params: dict[str, str | None] = field(default_factory=dict)

    scheme = "tel"

    def __str__(self) -> str:
        return f"tel:{self.number}" + "".join(
            f";{name}" if value is None else f";{name}={value}" for name, value in self.params.items()
        )

    @property
    def digits(self) -> str:
        """The number without visual separators, in lower case (RFC 3966 5.1.1)."""
        return self.number.translate(_VISUAL).lower()

    @property
    def is_global(self) -> bool:
        """True when the number is a global one (leading +)."""
        return self.number.startswith("+")

    def equivalent(self, other: object) -> bool:
        """Compare by RFC 3966 4: digits without separators, all parameters, case ignored."""
        if not isinstance(other, TelUri) or self.digits != other.digits or self.params.keys() != other.params.keys():
            return False
        return all(_lower(value) == _lower(other.params[name]) for name, value in self.params.items())


@dataclass(slots=True)
class UrnUri:
    """A URN (RFC 8141), e.g. ``urn:service:sos`` (RFC 5031)."""

    namespace: str
    specific: str

    scheme = "urn"

    def __str__(self) -> str:
        return f"urn:{self.namespace}:{self.specific}"

    def equivalent(self, other: object) -> bool:
        """Compare by RFC 8141 3.1; service URNs ignore case altogether (RFC 5031 4.2)."""
        if not isinstance(other, UrnUri) or self.namespace.lower() != other.namespace.lower():
            return False
        if self.namespace.lower() == "service":
            return self.specific.lower() == other.specific.lower()
        return _normal(self.specific) == _normal(other.specific)


@dataclass(slots=True)
class OtherUri:
    """An absoluteURI of a scheme this stack does not take apart."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"

    def equivalent(self, other: object) -> bool:
        """Compare the scheme without case and the rest as it is."""
        return isinstance(other, OtherUri) and self.scheme.lower() == other.scheme.lower() and self.rest == other.rest


Uri = SipUri | TelUri | UrnUri | OtherUri
_PARSED: Memory[SipUri] = Memory()
"""SIP URIs without a password."""


def parse_uri(text: str) -> Uri:
    """Parse a URI without brackets or spaces; UriError when it is none, or longer than 2 KiB."""
    known = _PARSED.find(text)
    if known is not None:
        return known.copy()
    if len(text) > MAX_URI:
        raise UriError("URI too long")
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise UriError("URI without scheme")
    name = scheme.lower()
    if name in ("sip", "sips"):
        uri = _parse_sip(name, rest)
        if uri.password is None:
            _PARSED.keep(text, uri.copy())
        return uri
    if name == "tel":
        return _parse_tel(rest)
    if name == "urn":
        match = _URN.match(rest)
        if match is None or _OPAQUE.match(match.group(2)) is None:
            raise UriError("bad URN")
        return UrnUri(match.group(1), match.group(2))
    if _SCHEME.match(scheme) is None:
        raise UriError("bad URI scheme")
    if _OPAQUE.match(rest) is None:
        raise UriError("bad character in URI")
    return OtherUri(scheme, rest)


def parse_sip_uri(text: str) -> SipUri:
    """Parse a sip or sips URI; UriError for anything else."""
    uri = parse_uri(text)
    if not isinstance(uri, SipUri):
        raise UriError(f"not a SIP URI: {uri.scheme[:20]}")
    return uri


def _parse_sip(scheme: str, rest: str) -> SipUri:
    user: str | None = None
    password: str | None = None
    if "@" in rest:
        userinfo, _, rest = rest.partition("@")
        user, colon, secret = userinfo.partition(":")
        if _USER.match(user) is None:
            raise UriError("bad user part")
        if colon:
            if _PASSWORD.match(secret) is None:
                raise UriError("bad password part")
            password = secret
    rest, question, header_text = rest.partition("?")
    host_text, *param_texts = rest.split(";")
    if host_text != host_text.strip(" \t"):
        raise UriError("space in URI")
    try:
        host, port = split_host_port(host_text)
    except GrammarError as error:
        raise UriError(str(error)) from error
    params = _parse_uri_params(param_texts) if param_texts else {}
    headers = _parse_uri_headers(header_text) if question else []
    return SipUri(scheme, user, password, host, port, params, headers)


def _parse_uri_params(texts: list[str]) -> dict[str, str | None]:
    params: dict[str, str | None] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.lower()
        if _PARAM.match(name) is None or (equals and _PARAM.match(value) is None):
            raise UriError(f"bad URI parameter {name[:40]!r}")
        if name in params:
            raise UriError(f"URI parameter {name[:40]!r} given twice")
        params[name] = value if equals else None
    return params


def _parse_uri_headers(text: str) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for piece in text.split("&"):
        name, equals, value = piece.partition("=")
        if not name or not equals or _HEADER.match(name) is None or _HEADER.match(value) is None:
            raise UriError("bad URI header")
        headers.append((name, value))
    return headers


def _parse_tel(rest: str) -> TelUri:
    number, *param_texts = rest.split(";")
    if _TEL_NUMBER.match(number) is None or not any(mark.isalnum() or mark in "*#" for mark in number):
        raise UriError("bad telephone number")
    return TelUri(number, _parse_uri_params(param_texts))
