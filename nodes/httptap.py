"""HTTP/1.1 for a capture: requests and responses as they stood inside TLS, without bodies unless keys are allowed."""

from __future__ import annotations

import base64
import time
from http import HTTPStatus
from typing import Final

from keying.mikey.sealed import is_encrypted
from keying.redaction import MASK, redact
from nodes.httpmessage import Fields
from protos import capture_pb2
from sba.tap import Tap

HTTPS: Final = capture_pb2.CAPTURE_HTTPS
MOST_BODY: Final = 48 << 10
"""Longest body that is shown, octets."""
_LENGTH: Final = "content-length"
_NEVER: Final = ("cookie", "token", "secret", "password")
"""Fields with one of these words in the name show without a value."""
_DIGEST: Final = "digest "
_MIKEY: Final = "application/mikey"

Address = tuple[str, int]


class HttpTap:
    """One connection's requests and responses, at one of its ends; ``outgoing`` at the client's."""

    def __init__(self, tap: Tap, client: Address, server: Address, *, outgoing: bool) -> None:
        self._tap = tap
        self._client = client
        self._server = server
        self._outgoing = outgoing

    def request(self, method: str, target: str, fields: Fields, body: bytes) -> None:
        """Note a request."""
        self._put(
            f"{method} {target} HTTP/1.1", f"{method} {target.partition('?')[0]} HTTP/1.1", fields, body, "request"
        )

    def response(self, status: int, fields: Fields, body: bytes) -> None:
        """Note a response."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = f"HTTP/1.1 {status} {phrase}"
        self._put(line, line, fields, body, "response")

    def _put(self, whole_line: str, bare_line: str, fields: Fields, body: bytes, what: str) -> None:
        if not self._tap.wants(HTTPS):
            return
        at_ns = time.time_ns()
        asking = what == "request"

        def render(with_keys: bool) -> capture_pb2.CapturedMessage:
            source, destination = (self._client, self._server) if asking else (self._server, self._client)
            payload, comment = message_text(whole_line if with_keys else bare_line, fields, body, with_body=with_keys)
            traceparent = next((value for name, value in fields if name.lower() == "traceparent"), "")
            return capture_pb2.CapturedMessage(
                kind=HTTPS,
                time_ns=at_ns,
                sent=asking is self._outgoing,
                transport="TLS",
                source_ip=source[0],
                source_port=source[1],
                destination_ip=destination[0],
                destination_port=destination[1],
                payload=payload,
                comment=comment,
                trace_id=traceparent[3:35],
                pair=f"{what} {self._client} {self._server}",
            )

        self._tap.put(HTTPS, render)


def message_text(start_line: str, fields: Fields, body: bytes, *, with_body: bool) -> tuple[bytes, str]:
    """Return a message as a capture shows it, and what a reader has to know of what is missing.

    Credentials are masked always. ``Content-Length`` says what is there, so that dissectors find the next message.
    """
    comment = ""
    if not with_body and body:
        body, comment = b"", f"body of {len(body)} octets, encrypted"
    elif len(body) > MOST_BODY:
        body, comment = b"", f"body of {len(body)} octets left out: too long"
    lines = [start_line]
    for name, value in fields:
        if name.lower() == _LENGTH:
            continue
        lines.append(f"{name}: {_shown(name.lower(), value)}")
    head = redact("\r\n".join(lines).encode("latin-1", "replace"))
    shown = _shown_body(fields, body)
    if shown != body:
        comment = "keys in the body masked"
    return b"%s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(shown), shown), comment


def _shown_body(fields: Fields, body: bytes) -> bytes:
    """Return a body for a capture with keys: MIKEY as it is where all keys in it are encrypted, else no MIKEY."""
    kind = next((value for name, value in fields if name.lower() == "content-type"), "")
    if not kind.strip().lower().startswith(_MIKEY):
        return redact(body)
    try:
        octets = base64.b64decode(body, validate=True)
    except ValueError:
        octets = body
    return body if not body or is_encrypted(octets) else MASK.encode()


def _shown(name: str, value: str) -> str:
    if any(word in name for word in _NEVER):
        return MASK
    if name in ("authorization", "proxy-authorization") and not value.lower().startswith(_DIGEST):
        return MASK
    return value
