"""Ticket Request and Ticket Resolve over HTTP, as TS 33.328 Annex A has them (A.1 to A.3, assumed; values: Profile).

POST, ``application/mikey``, the operation in a query parameter, the message in base64 or as it is; the answer comes in
the form of the request. Whoever cannot be authenticated is told to bootstrap (TS 24.109 5.2, assumed).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum
from typing import Final

from keying.mikey.profile import Profile
from nodes.httpmessage import Fields, HttpRequest, HttpResponse

MAX_MESSAGE: Final = 32 * 1024
"""Largest MIKEY message taken, octets."""
MAX_BODY: Final = 48 * 1024
"""Largest body, octets: a message of the largest size in base64, with line breaks."""
MIKEY_VERSION: Final = 0x01
"""First octet of every binary MIKEY message; no character of base64 (RFC 3830 6.1)."""
_WHITE: Final = bytes.maketrans(b"\r\n\t ", b"    ")
BOOTSTRAP_REALM: Final = "3GPP-bootstrapping@"
"""Prefix of the realm in front of the NAF's name (TS 24.109 5.2.4, assumed)."""


class Operation(Enum):
    """What a UE asks for."""

    REQUEST = "request"
    RESOLVE = "resolve"


class BodyForm(Enum):
    """How a message stands in a body."""

    BINARY = "binary"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class MikeyPost:
    """A request of the right form."""

    operation: Operation
    form: BodyForm
    octets: bytes


class NotAnnexA(Exception):  # noqa: N818 - it says what the request is
    """A request of another form; the response says what is wrong."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__(response.status)
        self.response = response


def read_post(request: HttpRequest, profile: Profile) -> MikeyPost:
    """Read a request (A.1, A.2; assumed).

    Raises :class:`NotAnnexA`: 404 another resource, 405 another method, 415 another media type or a content coding, 413
    too large, 400 for the parameter or the body.
    """
    if request.path != profile.http_path:
        raise NotAnnexA(plain(404, "no such resource"))
    if request.method != "POST":
        raise NotAnnexA(plain(405, "POST is the method", (("Allow", "POST"),)))
    if request.content_type != profile.http_content_type or len(request.headers_named("Content-Type")) > 1:
        raise NotAnnexA(plain(415, f"the media type is {profile.http_content_type}"))
    if (request.header("Content-Encoding") or "identity").strip().lower() != "identity":
        raise NotAnnexA(plain(415, "no content coding is taken", (("Accept-Encoding", "identity"),)))
    if len(request.body) > MAX_BODY:
        raise NotAnnexA(plain(413, f"a body has at most {MAX_BODY} octets"))
    words = {profile.http_request_word: Operation.REQUEST, profile.http_resolve_word: Operation.RESOLVE}
    name = profile.http_operation_parameter
    operation = words.get(request.query.get(name, ""))
    if operation is None:
        raise NotAnnexA(plain(400, f"the parameter {name} is there once and is one of {', '.join(words)}"))
    form, octets = read_body(request.body)
    return MikeyPost(operation, form, octets)


def read_body(body: bytes) -> tuple[BodyForm, bytes]:
    """Tell the two forms apart and return the message (A.1, assumed): binary begins with 0x01, which base64 cannot.

    White space at the ends and line breaks in base64 are taken, nothing else outside its alphabet. Raises
    :class:`NotAnnexA`, 400 or 413.
    """
    if body[:1] == bytes([MIKEY_VERSION]):
        form, octets = BodyForm.BINARY, body
    else:
        form = BodyForm.BASE64
        try:
            octets = base64.b64decode(body.translate(_WHITE).replace(b" ", b""), validate=True)
        except (binascii.Error, ValueError):
            raise NotAnnexA(plain(400, "the body is neither a MIKEY message nor one in base64")) from None
    if not octets:
        raise NotAnnexA(plain(400, "the body is empty"))
    if len(octets) > MAX_MESSAGE:
        raise NotAnnexA(plain(413, f"a message has at most {MAX_MESSAGE} octets"))
    return form, octets


def mikey_response(status: int, form: BodyForm, octets: bytes, profile: Profile, more: Fields = ()) -> HttpResponse:
    """A MIKEY message in the form of the request: 200 an answer, otherwise an Error message (A.3, assumed)."""
    body = octets if form is BodyForm.BINARY else base64.b64encode(octets)
    return HttpResponse(status, (("Content-Type", profile.http_content_type), *more), body)


def bootstrap_response(kms: str) -> HttpResponse:
    """401: bootstrap, then come again under the new B-TID (TS 24.109 5.2.4, TS 33.222 5.3; assumed)."""
    challenge = f'Digest realm="{BOOTSTRAP_REALM}{kms}"'
    return plain(401, "bootstrapping is required", (("WWW-Authenticate", challenge),))


def plain(status: int, text: str, more: Fields = ()) -> HttpResponse:
    """An HTTP failure without a MIKEY message."""
    return HttpResponse(status, (("Content-Type", "text/plain; charset=utf-8"), *more), f"{text}\n".encode())
