"""The one-pass message parser (RFC 3261 7, 18.3, 25).

It checks what every element needs before it can act: start line, framing, the headers of RFC 3261 8.1.1 and their
duplicates. All other headers stay as text until somebody asks.
"""

from __future__ import annotations

import re

from signalling.sip.fields import HeaderField, Headers, canonical_name
from signalling.sip.grammar import GrammarError, has_line_break, is_token, parse_digits
from signalling.sip.limits import (
    MAX_BODY,
    MAX_DATAGRAM,
    MAX_HEADER_BLOCK,
    MAX_HEADER_COUNT,
    MAX_HEADER_LINE,
    MAX_ROUTE_ENTRIES,
    MAX_TAG,
    MAX_URI,
)
from signalling.sip.model import VERSION, SipParseError, SipRequest, SipResponse
from signalling.sip.uri import SipUri, UriError, parse_uri

_REQUEST_LINE = re.compile(r"(\S+) (\S+) (\S+)\Z")
_STATUS_LINE = re.compile(r"SIP/(\S+) ([0-9]+)(?: (.*))?\Z", re.IGNORECASE | re.DOTALL)
_HIGHEST_STATUS = 699
_LOWEST_STATUS = 100
_ONCE = frozenset({"call-id", "cseq", "from", "to", "max-forwards"})
_CORE_METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "PRACK", "UPDATE")
_KNOWN_METHODS = frozenset((*_CORE_METHODS, "MESSAGE", "SUBSCRIBE", "NOTIFY", "PUBLISH", "REFER", "INFO"))


def parse_message(data: bytes) -> SipRequest | SipResponse:
    """Parse one datagram (RFC 3261 18.3): octets after Content-Length are dropped.

    Raises SipParseError and nothing else, whatever the octets.
    """
    if len(data) > MAX_DATAGRAM + MAX_BODY:
        raise SipParseError(513, "message too large")
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        raise SipParseError(400, "no end of headers", _salvage(data[start : start + MAX_HEADER_BLOCK]))
    message = parse_head(data[start:end])
    length = content_length(message)
    rest = data[end + 4 :]
    if length is None:
        message.body = rest
    elif length > len(rest):
        raise SipParseError(400, "body shorter than Content-Length", message)
    else:
        message.body = rest[:length]
    if len(message.body) > MAX_BODY:
        raise SipParseError(413, "body too large", message)
    return message


def content_length(message: SipRequest | SipResponse) -> int | None:
    """Return the body length a message announces, None when it does not.

    Raises SipParseError (fatal) for a value that is no number, too large, or given twice differently.
    """
    found: int | None = None
    for text in message.headers.get_all("content-length"):
        length = parse_digits(text.strip(" \t"), 2**31)
        if length is None or (found is not None and found != length):
            raise SipParseError(400, "bad Content-Length", message, fatal=True)
        found = length
    if found is not None and len(message.headers.get_all("content-length")) > 1:
        raise SipParseError(400, "Content-Length given twice", message, fatal=True)
    if found is not None and found > MAX_BODY:
        raise SipParseError(413, "body too large", message, fatal=True)
    return found


def parse_head(data: bytes) -> SipRequest | SipResponse:
    """Parse start line and headers (without the blank line), and check what every element relies on."""
    if len(data) > MAX_HEADER_BLOCK:
        raise SipParseError(513, "header block too large", _salvage(data[:MAX_HEADER_BLOCK]), fatal=True)
    lines = data.decode("utf-8", "surrogateescape").split("\r\n")
    fields, fault = _parse_fields(lines)
    message = _parse_start_line(lines[0], Headers.of_fields(fields))
    if fault is not None:
        raise SipParseError(400, fault, message)
    _check_common(message)
    if isinstance(message, SipRequest):
        _check_request(message)
    return message


def _salvage(data: bytes) -> SipRequest | SipResponse | None:
    """Read what there is of a broken message, to answer it."""
    lines = data.decode("utf-8", "surrogateescape").split("\r\n")
    fields, _ = _parse_fields(lines[: MAX_HEADER_COUNT + 1])
    try:
        return _parse_start_line(lines[0], Headers.of_fields(fields))
    except SipParseError as error:
        return error.partial


def _parse_fields(lines: list[str]) -> tuple[list[HeaderField], str | None]:
    """Return the header fields that can be read, and the first fault."""
    fields: list[HeaderField] = []
    fault: str | None = None
    if len(lines) > MAX_HEADER_COUNT + 1:
        fault = "too many header lines"
        del lines[MAX_HEADER_COUNT + 1 :]
    for line in lines[1:]:
        if has_line_break(line):  # who takes a lone LF for the end of a line would read another header here
            fault = fault or "CR or LF within a line"
            continue
        if len(line) > MAX_HEADER_LINE:
            fault = fault or "header line too long"
            continue
        if line[:1] in (" ", "\t"):
            if fields:
                last = fields[-1]
                value = _joined(last.value, line)
                if len(value) > MAX_HEADER_LINE:
                    fault = fault or "header line too long"
                    continue
                fields[-1] = HeaderField(last.key, last.name, value)
            else:
                fault = fault or "continuation before the first header"
            continue
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not is_token(name):
            fault = fault or "malformed header line"
            continue
        fields.append(HeaderField(canonical_name(name), name, value.strip(" \t"), line))
    return fields, fault


def _joined(value: str, continuation: str) -> str:
    """Unfold: the line break and the white space round it count as one space (RFC 3261 7.3.1)."""
    rest = continuation.strip(" \t")
    return f"{value} {rest}" if value and rest else value or rest


def _parse_start_line(line: str, headers: Headers) -> SipRequest | SipResponse:
    if line[:4].upper() == "SIP/":
        return _parse_status_line(line, headers)
    match = _REQUEST_LINE.match(line)
    if match is None:
        words = line.split()
        partial = SipRequest(words[0], words[1], headers) if len(words) > 1 and is_token(words[0]) else None
        raise SipParseError(400, "malformed Request-Line", partial)
    method, uri, version = match.groups()
    if not is_token(method):
        raise SipParseError(400, "malformed method", SipRequest("UNKNOWN", "sip:invalid.invalid", headers))
    request = SipRequest(method, uri, headers)
    if version.upper() != VERSION:
        status = 505 if re.match(r"SIP/[0-9]+\.[0-9]+\Z", version, re.IGNORECASE) else 400
        raise SipParseError(status, "SIP version not supported", request)
    if len(uri) > MAX_URI:
        raise SipParseError(414, "Request-URI too long", request)
    return request


def _parse_status_line(line: str, headers: Headers) -> SipResponse:
    match = _STATUS_LINE.match(line)
    if match is None or match.group(1) != "2.0" or has_line_break(line):
        raise SipParseError(400, "malformed Status-Line")
    status = parse_digits(match.group(2), 10_000)
    if status is None or not _LOWEST_STATUS <= status <= _HIGHEST_STATUS:
        raise SipParseError(400, "status code out of range")
    return SipResponse(status, match.group(3) or "", headers)


def _check_common(message: SipRequest | SipResponse) -> None:
    seen: set[str] = set()
    routes: dict[str, int] = {}
    for one in message.headers:
        key = one.key
        if key in _ONCE:
            if key in seen:
                raise SipParseError(400, f"{key} given twice", message)
            seen.add(key)
        elif key in ("via", "route", "record-route"):
            routes[key] = routes.get(key, 0) + 1 + one.value.count(",")
    if any(count > MAX_ROUTE_ENTRIES for count in routes.values()):
        raise SipParseError(400, "too many Via or Route values", message)
    if not message.call_id or len(message.call_id) > MAX_TAG:
        raise SipParseError(400, "missing or overlong Call-ID", message)
    try:
        message.top_via  # noqa: B018 - parsed and cached
        number_method = message.cseq
        for address in (message.from_, message.to):
            if len(address.tag or "") > MAX_TAG:
                raise SipParseError(400, "overlong tag", message)
    except GrammarError as error:
        raise SipParseError(400, str(error), message) from error
    if isinstance(message, SipRequest) and number_method[1] != message.method:
        status = 400 if message.method in _KNOWN_METHODS else 501
        raise SipParseError(status, "CSeq method differs from the request's", message)


def _check_request(request: SipRequest) -> None:
    try:
        uri = parse_uri(request.uri)
    except UriError as error:
        raise SipParseError(400, f"Request-URI: {error}", request) from error
    if isinstance(uri, SipUri) and uri.headers:
        raise SipParseError(400, "headers in the Request-URI", request)
    text = request.headers.get("max-forwards")
    if text is not None and parse_digits(text, 255) is None:
        request.headers.set("Max-Forwards", "70")
