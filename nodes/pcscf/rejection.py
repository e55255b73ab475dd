"""A SIP request this node answers itself, as an exception carrying the answer (TS 24.229 5.2, RFC 3261 21)."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.pcscf.media_plan import Refusal
from signalling.sip.reasons import REASONS

WARNING_CODE = 399


class RejectionError(Exception):
    """Refuse a request with `status`; an empty `reason` is the usual one, `headers` go into the response.

    Texts never hold keys, nor what this node says to its neighbours in the core.
    """

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.status = status
        self.reason = reason or REASONS.get(status, "Rejected")
        super().__init__(f"{status} {self.reason}")
        self.headers = tuple(headers)


def media_rejection(refusal: Refusal, node: str) -> RejectionError:
    """The answer to a refused offer: `Warning: 399 <node> "media-sec:<token>"` where security is why (SEC-1).

    The refusal's `text` stays here: it is for traces, and may name what happened inside.
    """
    told = f"media-sec:{refusal.token}" if refusal.token else refusal.warning
    headers = [warning(node, told)] if told else []
    if refusal.status == 503:
        headers.append(("Retry-After", "5"))
    return RejectionError(refusal.status, "", headers)


def warning(node: str, text: str) -> tuple[str, str]:
    """A Warning header with text for people (RFC 3261 20.43)."""
    return "Warning", f'{WARNING_CODE} {node} "{text}"'
