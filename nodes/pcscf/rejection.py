"""A SIP request this node answers itself, as an exception carrying the answer (24.229 codes, brief 5.4)."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.pcscf.media_plan import Refusal

WARNING_CODE = 399


class RejectionError(Exception):
    """Refuse a request with `status`; `headers` go into the response. Texts never hold keys."""

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)


def media_rejection(refusal: Refusal, node: str) -> RejectionError:
    """The answer to a refused offer: `Warning: 399 <node> "media-sec:<token>"` where security is why (SEC-1)."""
    headers = [("Warning", f'{WARNING_CODE} {node} "media-sec:{refusal.token}"')] if refusal.token else []
    if refusal.status == 503:
        headers.append(("Retry-After", "5"))
    reason = {488: "Not Acceptable Here", 500: "Server Internal Error", 503: "Service Unavailable"}
    return RejectionError(refusal.status, reason.get(refusal.status, refusal.text or "Rejected"), headers)
