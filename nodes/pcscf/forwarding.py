"""Forwarding one request to one next hop and its responses back, in order (RFC 3261 16, RFC 6026, RFC 4320)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from nodes.pcscf.rejection import RejectionError
from sba import runtime
from signalling.sip.flow import Hop, TransactionFailure
from signalling.sip.grammar import parse_digits
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.proxy import DEFAULT_MAX_FORWARDS, breadth_of
from signalling.sip.stack import ClientTxn, ServerTxn, SipStack, make_response

TIMER_C_S: Final = 185.0
"""Longest wait for a final response to INVITE after a provisional one, seconds (RFC 3261 16.6 step 11: above 180)."""

Transform = Callable[[SipResponse], Awaitable[SipResponse | None]]
"""Turns a response, own Via already off, into what goes back; None: nothing does."""


def take_hop(request: SipRequest) -> None:
    """Count this hop (RFC 3261 16.3, 16.6 step 3). Raises RejectionError 483 when none is left."""
    text = request.headers.get("Max-Forwards")
    counted = None if text is None else parse_digits(text, 255)
    left = DEFAULT_MAX_FORWARDS if counted is None else counted
    if left == 0:
        raise RejectionError(483, "Too Many Hops")
    request.headers.set("Max-Forwards", str(left - 1))
    request.headers.set("Max-Breadth", str(breadth_of(request)))


class Forwarding:
    """A stateful proxy's view of one request: the server transaction, the client transaction, and the queue between.

    `transform` may await (Iq); responses are handed to it one after another, so their order stays. A 2xx to an INVITE
    that comes again goes back as it did before, without it, as long as `lasts` says so: an exchange that began since
    is none of its business.
    """

    def __init__(
        self, stack: SipStack, txn: ServerTxn, *, transform: Transform, lasts: Callable[[], bool] = lambda: True
    ) -> None:
        self._stack = stack
        self._txn = txn
        self._transform = transform
        self._lasts = lasts
        self._client: ClientTxn | None = None
        self._queue: asyncio.Queue[SipResponse | TransactionFailure] = asyncio.Queue()
        self._invite = txn.request.method == "INVITE"
        self._passed: dict[str, SipResponse] = {}
        """Each 2xx to an INVITE as it went back, by To tag, while it may come again (RFC 3261 13.3.1.4)."""
        self._cancelled = False
        self._timer_c: asyncio.TimerHandle | None = None
        self._worker: asyncio.Future[None] | None = None
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The status of the final response sent back; 0 when none was."""

    def start(self, request: SipRequest, hop: Hop, role: str, *, hide_path: bool = False) -> None:
        """Send the request on; answer 487 instead when it was cancelled meanwhile.

        `hide_path`: the receiver does not learn which nodes the request came through (TS 24.229 5.2.6.4).
        """
        if self._cancelled:
            self.refuse(RejectionError(487, "Request Terminated"))
            return
        if hide_path:
            request = request.copy()
            request.headers.remove("Via")
        self._worker = runtime.spawn(self._work())
        self._txn.on_terminated = self._server_gone
        self._client = self._stack.send(
            request, hop, role=role, on_response=self._queue.put_nowait, on_failure=self._queue.put_nowait
        )
        self._restart_timer_c()

    def cancel(self, reason: str = "") -> None:
        """Cancel an INVITE on its way (RFC 3261 16.10)."""
        self._cancelled = True
        if self._client is not None:
            self._client.cancel([("Reason", reason)] if reason else [])

    def refuse(self, rejection: RejectionError) -> None:
        """Answer the request from here and drop what still comes back."""
        self._final(make_response(self._txn.request, rejection.status, rejection.reason, headers=rejection.headers))

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            if isinstance(item, TransactionFailure):
                self._failed(item)
                continue
            await self._responded(item)

    async def _responded(self, response: SipResponse) -> None:
        if response.status == 100:
            return
        if response.status < 200:
            self._restart_timer_c()
        again = self._passed.get(response.to_tag or "") if 200 <= response.status < 300 else None
        if again is not None and self._lasts():
            self._final(again.copy())
            return
        received = response.copy()
        for name in ("Via", "CSeq"):  # not what came back in it: the request may have been numbered anew
            received.headers.set_values(name, self._txn.request.headers.get_all(name))
        answer = await self._transform(received)
        if answer is None:
            if response.status >= 200:
                self._settle(0)
            return
        if not self._invite and answer.status == 408:
            self._settle(0)  # a 408 is never sent to a non-INVITE (RFC 4320 4.2)
            return
        if answer.status == 503:
            answer.status, answer.reason = 500, "Server Internal Error"  # RFC 3261 16.7 step 6
        if answer.status < 200:
            self._txn.respond(answer, forwarded=True)
            return
        if self._invite and answer.status < 300:
            self._passed[response.to_tag or ""] = answer.copy()
        self._final(answer)

    def _failed(self, failure: TransactionFailure) -> None:
        self._stop_timer_c()
        if not self._invite and failure.cause == "timeout":
            self._settle(0)
            return
        status = 500 if failure.status == 503 else failure.status
        self._final(make_response(self._txn.request, status))

    def _final(self, response: SipResponse) -> None:
        self._stop_timer_c()
        if not self.done.done():
            self.done.set_result(response.status)  # before the answer: over TLS it ends the server transaction at once
        self._txn.respond(response, forwarded=True)
        self._settle(response.status)

    def _settle(self, status: int) -> None:
        if not self.done.done():
            self.done.set_result(status)
        if not self._invite or status >= 300:
            self._server_gone()

    def _server_gone(self) -> None:
        """Late 2xx of other branches pass until the server transaction ends (RFC 6026 7.2)."""
        self._stop_timer_c()
        if not self.done.done():
            self.done.set_result(0)
        self._passed.clear()
        if self._worker is not None:
            self._worker.cancel()

    def _restart_timer_c(self) -> None:
        self._stop_timer_c()
        if self._invite and not self.done.done():
            self._timer_c = asyncio.get_running_loop().call_later(TIMER_C_S, self._timer_c_fired)

    def _stop_timer_c(self) -> None:
        if self._timer_c is not None:
            self._timer_c.cancel()
            self._timer_c = None

    def _timer_c_fired(self) -> None:
        self._timer_c = None
        self.cancel()
        self._final(make_response(self._txn.request, 408))
