"""A SIP request that this node answers with an error, as an exception carrying the answer."""

from __future__ import annotations

from collections.abc import Sequence


class RejectionError(Exception):
    """Refuse a request with ``status``; ``headers`` go into the response. The reason never holds key material."""

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)
