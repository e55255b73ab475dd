"""What the console answers: JSON documents, problems, and the header fields that tell a browser what it may do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from nodes.httpmessage import Fields, HttpResponse

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A page may load what the console serves and talk to the console, nothing else; no script or style stands in it."""
SECURITY_FIELDS: Fields = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
"""On every answer."""


@dataclass
class Problem(Exception):  # noqa: N818 - the name RFC 9457 gives it
    """An answer that is no success (RFC 9457): ``cause`` is for programs, ``detail`` for people."""

    status: int
    cause: str
    detail: str = ""
    fields: Fields = field(default=())

    def response(self) -> HttpResponse:
        """Return the answer as ``application/problem+json``."""
        document = {
            "status": self.status,
            "title": HTTPStatus(self.status).phrase,
            "cause": self.cause,
            "detail": self.detail,
        }
        return HttpResponse(
            self.status,
            (("Content-Type", "application/problem+json"), *self.fields),
            encode(document),
        )


def encode(document: object) -> bytes:
    """Return a document as JSON in UTF-8.

    Half a surrogate pair, which a peer may have written into a message, becomes ``?``; numbers that JSON does not know
    become null.
    """
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(document), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def answer(document: object, status: int = 200, fields: Fields = ()) -> HttpResponse:
    """Return a JSON answer."""
    return HttpResponse(status, (("Content-Type", "application/json"), *fields), encode(document))
