"""Which trace a SIP message belongs to, and which transaction.

Every node that sees a call computes the same trace id from its Call-ID, so a call is one trace although no UE has to
know of tracing, although a node may be started again in the middle of it, and although nobody at the edge is believed.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext

from signalling.sip.grammar import GrammarError
from signalling.sip.message import SipMessage, SipRequest

_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)
KNOWN_METHODS: Final = frozenset(
    {"INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "PRACK", "UPDATE", "INFO", "SUBSCRIBE", "NOTIFY", "REFER"}
    | {"MESSAGE", "PUBLISH"}
)
"""Methods that name spans and label metrics (RFC 3261 and extensions); others come from whoever may write anything."""
OTHER_METHOD: Final = "_OTHER"

TransactionKey = tuple[str, str, str]
"""(role of this node: client|server, what tells it from others, method) of a transaction."""


def call_trace(call_id: str) -> int:
    """The trace id of a call: octets 0-15 of SHA-256(Call-ID) (testbed decision)."""
    digest = hashlib.sha256(call_id.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:16], "big") or 1


def trace_id_of_call(call_id: str) -> str:
    """The trace id of a call as 32 hex digits."""
    return f"{call_trace(call_id):032x}"


def context_with(parent: SpanContext) -> Context:
    """A context whose current span is this one."""
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


def branch_of(message: SipMessage) -> str:
    """The branch of the top Via, without parsing it; the whole Via when there is none (RFC 2543)."""
    via = message.headers.get("Via") or ""
    match = _BRANCH.search(via)
    return match[1] if match else via


def mark_of(message: SipMessage, role: str) -> str:
    """What tells a transaction from others: the branch; of one that came in also the sent-by (RFC 3261 17.1.3, 17.2.3).

    Branches that others chose can be chosen again: a callee has seen those of his caller.
    """
    branch = branch_of(message)
    if role == "client":
        return branch
    try:
        host, port = message.top_via.sent_by
    except GrammarError:
        return branch
    return f"{branch} {host}:{port}"


def method_of(message: SipMessage) -> str:
    """The method of a request or of the request a response answers; empty when that cannot be read."""
    if isinstance(message, SipRequest):
        return message.method
    try:
        return message.cseq[1]
    except GrammarError:  # an answer to a malformed request repeats its CSeq
        return ""


def named_method(method: str) -> str:
    """The method as it may name a span."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


def transaction_key(message: SipMessage, role: str) -> TransactionKey:
    """The transaction of a message at this node; an ACK belongs to its INVITE."""
    method = method_of(message)
    return role, mark_of(message, role), "INVITE" if method == "ACK" else method


def cseq_of(message: SipMessage) -> str:
    """The CSeq as written."""
    return message.headers.get("CSeq") or ""


def dialog_step(message: SipMessage) -> tuple[str, str]:
    """What an INVITE and the ACK of its 2xx have in common: Call-ID and CSeq number."""
    return message.call_id, cseq_of(message).strip().partition(" ")[0]


def is_within_dialog(message: SipMessage) -> bool:
    """Whether a request belongs to a call that stands and is none of its set-up: re-INVITE, UPDATE, BYE, INFO."""
    if not isinstance(message, SipRequest) or message.method in {"ACK", "PRACK", "CANCEL", "REGISTER"}:
        return False
    try:
        return message.to_tag is not None
    except GrammarError:
        return False
