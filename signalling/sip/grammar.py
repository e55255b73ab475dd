"""Lexical rules shared by URIs and headers: tokens, quoted strings, comma and parameter lists (RFC 3261 25.1)."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+\Z")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9\-_.]*[A-Za-z0-9_.])?\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}\Z")
_DELIMITERS = re.compile(r'["<>,;\\]')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


REMEMBERED = 2048
"""Parsed texts kept by each parser that remembers; a full memory is emptied."""
_LONGEST_REMEMBERED = 256

_T = TypeVar("_T")


class Memory(Generic[_T]):
    """What texts were parsed to, since the same URIs and addresses come again on every message of a call.

    The parser hands out copies, so that callers may change what they get.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, _T] = {}

    def find(self, text: str) -> _T | None:
        """Return what a text was parsed to, None when it is not remembered."""
        return self._known.get(text)

    def keep(self, text: str, parsed: _T) -> None:
        """Remember what a text was parsed to, unless it is long."""
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[text] = parsed


class GrammarError(ValueError):
    """Text that the grammar of RFC 3261 25 does not allow."""


def has_line_break(text: str) -> bool:
    """Tell whether there is a CR or LF in a text."""
    return "\n" in text or "\r" in text


def is_token(text: str) -> bool:
    """Say whether the text is a token (RFC 3261 25.1)."""
    return TOKEN.match(text) is not None


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a comma or semicolon that is not inside a quoted string or ``<...>``; the pieces are stripped.

    Never raises: after an unclosed quote or bracket the rest is one piece.
    """
    if separator not in text:
        return [text.strip(" \t")]
    if '"' not in text and "<" not in text:
        return [piece.strip(" \t") for piece in text.split(separator)]
    pieces: list[str] = []
    start = escaped_until = 0
    quoted = bracketed = False
    for match in _DELIMITERS.finditer(text):
        at = match.start()
        if at < escaped_until:
            continue
        mark = match.group()
        if quoted:
            if mark == '"':
                quoted = False
            elif mark == "\\":
                escaped_until = at + 2
        elif bracketed:
            bracketed = mark != ">"
        elif mark == '"':
            quoted = True
        elif mark == "<":
            bracketed = True
        elif mark == separator:
            pieces.append(text[start:at].strip(" \t"))
            start = at + 1
    pieces.append(text[start:].strip(" \t"))
    return pieces


def quoted_string_end(text: str, start: int) -> int:
    """Return the index just after the quoted string that opens at ``start``; GrammarError when it never closes."""
    position = start + 1
    while True:
        quote = text.find('"', position)
        if quote < 0:
            raise GrammarError("unterminated quoted string")
        backslash = text.find("\\", position, quote)
        if backslash < 0:
            return quote + 1
        position = backslash + 2


def unquote(text: str) -> str:
    """Return the content of a quoted string with its quoted-pairs resolved; other text comes back as it is."""
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        inner = text[1:-1]
        return _ESCAPE.sub(r"\1", inner) if "\\" in inner else inner
    return text


def quote(text: str) -> str:
    """Return the text as a quoted string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_params(text: str) -> dict[str, str | None]:
    """Parse ``;name=value;flag`` (leading semicolon optional) into lower-case names and values as written.

    Quoted values keep their quotes, so they are written back as they came; use :func:`unquote` to read them.
    Raises GrammarError for an empty or ill-formed parameter and for a name given twice.
    """
    text = text.strip(" \t")
    params: dict[str, str | None] = {}
    if not text:
        return params
    text = text.removeprefix(";")
    for piece in split_outside(text, ";"):
        name, equals, value = piece.partition("=")
        name = name.strip(" \t").lower()
        if TOKEN.match(name) is None:
            raise GrammarError(f"bad parameter name {name[:40]!r}")
        if name in params:
            raise GrammarError(f"parameter {name[:40]!r} given twice")
        if not equals:
            params[name] = None
            continue
        value = value.strip(" \t")
        _check_param_value(value)
        params[name] = value
    return params


def _check_param_value(value: str) -> None:
    if TOKEN.match(value) is not None:
        return
    if value.startswith('"'):
        if quoted_string_end(value, 0) != len(value):
            raise GrammarError("text after a quoted parameter value")
        return
    if not value or any(mark in value for mark in ' \t"<>,;'):
        raise GrammarError(f"bad parameter value {value[:40]!r}")


def format_params(params: dict[str, str | None]) -> str:
    """Write ``;name=value`` for each parameter, in order."""
    return "".join(f";{name}" if value is None else f";{name}={value}" for name, value in params.items())


def split_host_port(text: str) -> tuple[str, int | None]:
    """Parse ``host[:port]``; an IPv6 reference loses its brackets.

    The extra colon of RFC 5118 4.10 (``2001:db8:::192.0.2.1``) is taken out. Raises GrammarError.
    """
    if text.startswith("["):
        end = text.find("]")
        if end < 0:
            raise GrammarError("IPv6 reference without its closing bracket")
        host = check_ipv6(text[1:end])
        rest = text[end + 1 :].strip(" \t")
        if rest and not rest.startswith(":"):
            raise GrammarError("text after an IPv6 reference")
        port = rest[1:].strip(" \t") if rest else None
    else:
        host, colon, after = text.partition(":")
        host = host.rstrip(" \t")
        if _HOST.match(host) is None:
            raise GrammarError(f"bad host {host[:60]!r}")
        port = after.strip(" \t") if colon else None
    if port is None:
        return host, None
    return host, parse_port(port)


def check_ipv6(text: str) -> str:
    """Return an IPv6 literal without brackets, its triple colon repaired; GrammarError when it is none."""
    if ":::" in text:
        text = text.replace(":::", "::")
    if _IPV6.match(text) is None or ":" not in text:
        raise GrammarError("bad IPv6 literal")
    if not _is_ipv6(text):
        raise GrammarError("bad IPv6 literal")
    return text


def _is_ipv6(text: str) -> bool:
    """Check the group count and sizes of RFC 3986 3.2.2 IPv6address."""
    if text.count("::") > 1:
        return False
    head, compressed, tail = text.partition("::")
    groups = [group for side in (head, tail) if side for group in side.split(":")]
    width = len(groups)
    for index, group in enumerate(groups):
        if "." in group:
            octets = group.split(".")
            if index != len(groups) - 1 or len(octets) != 4:
                return False
            if not all(
                octet.isascii() and octet.isdigit() and len(octet) <= 3 and int(octet) <= 255 for octet in octets
            ):
                return False
            width += 1
        elif not 1 <= len(group) <= 4:
            return False
    return width <= 7 if compressed else width == 8


def parse_port(text: str) -> int:
    """Parse a port, 0-65535; GrammarError otherwise."""
    number = parse_digits(text, 65_535)
    if number is None:
        raise GrammarError(f"bad port {text[:20]!r}")
    return number


def parse_digits(text: str, most: int) -> int | None:
    """Parse 1*DIGIT not above ``most``; None for anything else (sign, other scripts' digits, too large)."""
    if not text or not text.isascii() or not text.isdigit():
        return None
    stripped = text.lstrip("0")
    if len(stripped) > len(str(most)):
        return None
    number = int(stripped or "0")
    return number if number <= most else None


def format_host(host: str) -> str:
    """Write a host for sent-by or a URI: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
