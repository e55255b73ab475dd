"""Responses to a request as a UAS builds them (RFC 3261 8.2.6, 12.1.1)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from signalling.sip.fields import Headers
from signalling.sip.grammar import GrammarError
from signalling.sip.model import SipRequest, SipResponse

_TAG_KEY = secrets.token_bytes(16)
_DIALOG_METHODS = frozenset({"INVITE", "SUBSCRIBE", "REFER", "NOTIFY"})
_TRYING = 100
_FIRST_ERROR = 300


def new_tag() -> str:
    """Return a fresh tag with 64 random bits (RFC 3261 19.3)."""
    return secrets.token_hex(8)


def tag_for(request: SipRequest) -> str:
    """Return the To tag of this process for a request: the same for all responses to it (RFC 3261 8.2.7)."""
    try:
        via = f"{request.top_via.branch} {request.top_via.sent_by}"
    except GrammarError:
        via = ""
    text = f"{via}\n{request.call_id}\n{request.headers.get('from')}\n{request.headers.get('cseq')}"
    return hmac.new(_TAG_KEY, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]


def make_response(
    request: SipRequest,
    status: int,
    reason: str | None = None,
    *,
    to_tag: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    content_type: str | None = None,
) -> SipResponse:
    """Build a response: Via, From, To, Call-ID, CSeq copied, Record-Route where it forms a dialog.

    A To tag is added to all but 100: ``to_tag``, or one derived from the request, so that every response of this
    process to it has the same.
    """
    fields = Headers()
    for via in request.headers.get_all("via"):
        fields.add("Via", via)
    if _TRYING < status < _FIRST_ERROR and request.method in _DIALOG_METHODS:
        for route in request.headers.get_all("record-route"):
            fields.add("Record-Route", route)
    for name in ("From", "To", "Call-ID", "CSeq"):
        value = request.headers.get(name)
        if value is None:
            continue
        if name == "To" and status > _TRYING:
            value = _with_tag(request, value, to_tag)
        fields.add(name, value)
    if status == _TRYING and (stamp := request.headers.get("timestamp")) is not None:
        fields.add("Timestamp", stamp)
    if content_type is not None:
        fields.add("Content-Type", content_type)
    for name, value in headers:
        fields.add(name, value)
    return SipResponse(status, reason, fields, body)


def _with_tag(request: SipRequest, to: str, to_tag: str | None) -> str:
    try:
        if request.to_tag is not None:
            return to
    except GrammarError:
        return to
    return f"{to};tag={to_tag or tag_for(request)}"
