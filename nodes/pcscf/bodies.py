"""Bodies of messages: what the ALG reads is a session description, what could hide one goes no further (HOP-6)."""

from __future__ import annotations

import re
from typing import Final

from nodes.pcscf.media_plan import Refusal
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.session_media import AnswerFaultError
from signalling.sip.message import SipMessage, SipRequest, SipResponse

SDP: Final = "application/sdp"
ENCRYPTED: Final = frozenset({"application/pkcs7-mime", "multipart/encrypted"})
OFFER_METHODS: Final = frozenset({"INVITE", "UPDATE", "PRACK", "ACK"})
_SDP_PART: Final = re.compile(rb"application\s*/\s*sdp\b", re.IGNORECASE)
_BODY_HEADERS: Final = (
    "Content-Type", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-ID", "MIME-Version",
)  # fmt: skip


def has_sdp(message: SipMessage) -> bool:
    """The body is a session description that can be read."""
    return bool(message.body) and message.content_type == SDP and not _coded(message)


def check_body(request: SipRequest) -> None:
    """Refuse a request whose body could be a session description that the ALG does not see (HOP-6, T1).

    Where offers and answers travel only a session description passes; other methods carry what they like but none.
    Raises RejectionError: 400 for no type or several (RFC 3261 20.15), 493 for an encrypted body, else 415.
    """
    if not request.body:
        return
    kind = request.content_type
    if not kind:
        raise RejectionError(400, "Bad Content-Type")
    if kind in ENCRYPTED:
        raise RejectionError(493, "Undecipherable")
    if not has_sdp(request) if request.method in OFFER_METHODS else _may_hide_sdp(request, kind):
        raise RejectionError(415, "Unsupported Media Type", [("Accept", SDP), ("Accept-Encoding", "identity")])


def check_answer_body(response: SipResponse) -> None:
    """See to the body of a response before it passes (HOP-6, T1).

    Raises AnswerFaultError when one that sets up media has a body the ALG cannot read. Elsewhere a session description
    means nothing and is taken out.
    """
    if not response.body:
        return
    if response.cseq[1] in OFFER_METHODS and response.status < 300:
        if not has_sdp(response):
            raise AnswerFaultError(Refusal(488, text="a body that is no session description"))
        return
    kind = response.content_type
    if not kind or kind in ENCRYPTED or _may_hide_sdp(response, kind):
        drop_body(response)


def drop_body(message: SipMessage) -> None:
    """Take out the body and what describes it."""
    message.body = b""
    for name in _BODY_HEADERS:
        message.headers.remove(name)


def _may_hide_sdp(message: SipMessage, kind: str) -> bool:
    if kind == SDP:
        return True
    return kind.startswith(("multipart/", "message/")) and (
        _coded(message) or _SDP_PART.search(message.body) is not None
    )


def _coded(message: SipMessage) -> bool:
    return any(coding.lower() != "identity" for coding in message.headers.values("Content-Encoding"))
