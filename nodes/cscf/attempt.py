"""A server transaction lent to one attempt at forwarding, so that another attempt may follow (RFC 3261 16.7 step 5)."""

from __future__ import annotations

from collections.abc import Callable

from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.txn import ServerTxn


class Attempt(ServerTxn):
    """Stands in for a server transaction: provisional answers, 2xx and 6xx pass, any other failure is kept back.

    ``failure`` is what was kept back, ``answered`` tells whether a final answer passed, ``under_way`` whether 101-199
    did, or the server that was tried gave the request back: then what fails is not the server (TS 23.218 6.4).
    """

    def __init__(self, txn: ServerTxn) -> None:
        self._lender = txn
        self.request: SipRequest = txn.request
        self.flow = txn.flow
        self.on_terminated: Callable[[], None] | None = None
        self.failure: SipResponse | None = None
        self.answered = False
        self.under_way = False
        self._abandoned = False

    def respond(self, response: SipResponse, *, forwarded: bool = False) -> bool:
        """Pass a response on or keep it back; after ``abandon`` nothing passes."""
        if self._abandoned:
            return True
        if 300 <= response.status < 600:
            self.failure = response
            return True
        self.under_way = self.under_way or 100 < response.status < 200
        self.answered = self.answered or response.status >= 200
        return self._lender.respond(response, forwarded=forwarded)

    def abandon(self) -> None:
        """Let nothing of this attempt through any more."""
        self._abandoned = True

    def release(self) -> None:
        """Pass on the failure that was kept back: there is no further attempt."""
        if self.failure is not None and not self.answered:
            self._lender.respond(self.failure, forwarded=True)

    def over(self) -> None:
        """Let the proxy forget the attempt."""
        if self.on_terminated is not None:
            self.on_terminated()
