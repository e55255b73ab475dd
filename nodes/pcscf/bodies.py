"""Bodies of messages: which of them is a session description this node can inspect (HOP-6)."""

from __future__ import annotations

from typing import Final

from nodes.pcscf.rejection import RejectionError
from signalling.sip.message import SipMessage

SDP: Final = "application/sdp"
ENCRYPTED: Final = frozenset({"application/pkcs7-mime", "multipart/encrypted"})
OFFER_METHODS: Final = frozenset({"INVITE", "UPDATE", "PRACK", "ACK"})


def has_sdp(message: SipMessage) -> bool:
    """The body is a session description."""
    return bool(message.body) and message.content_type == SDP


def check_body(message: SipMessage) -> None:
    """Refuse a body that could hide a session description: 493 when encrypted, 415 when wrapped or coded (HOP-6)."""
    if not message.body:
        return
    kind = message.content_type or ""
    if kind in ENCRYPTED:
        raise RejectionError(493, "Undecipherable")
    if kind.startswith("multipart/") or (kind == SDP and message.headers.get("Content-Encoding")):
        raise RejectionError(415, "Unsupported Media Type", [("Accept", SDP)])
