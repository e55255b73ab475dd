"""A stateful proxy's response context: forking, best response, Timer C, CANCEL (RFC 3261 16, RFC 6026 8, RFC 4320)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from signalling.sip.best_response import Candidate, best_response
from signalling.sip.connection import DelayedCall
from signalling.sip.flow import Hop, TransactionFailure
from signalling.sip.grammar import parse_digits
from signalling.sip.model import SipRequest, SipResponse
from signalling.sip.responses import make_response
from signalling.sip.stack import SipStack
from signalling.sip.txn import ClientTxn, ServerTxn

OnBranchResponse = Callable[["Branch", SipResponse], Awaitable[SipResponse | None]]
"""Sees each response of a branch, own Via already taken off, in order; returns what to forward, None to swallow it.

A 2xx or reliable 1xx that is repeated is forwarded as the hook left it the first time, without asking again.

For a final response None means 500 is taken in its place, unless it was a 2xx, which is then silently swallowed.
"""
LoopHook = Callable[[SipRequest], bool]
"""Says whether a request has looped (482)."""
DEFAULT_MAX_FORWARDS = 70
MOST_BREADTH = 60
"""Branches at once over all forks of a request: put in when missing, and the most believed (RFC 5393 5.3.3)."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one branch goes: the hop, and the Request-URI and headers that branch gets (None: as in the request)."""

    hop: Hop
    uri: str | None = None
    request: SipRequest | None = None
    """The whole request for this branch instead of the common one."""


class Branch:
    """One forwarded copy of a request: its ``target``, client ``txn`` and the responses so far."""

    def __init__(self, context: ProxyContext, target: Target, index: int) -> None:
        self.context = context
        self.target = target
        self.index = index
        self.txn: ClientTxn | None = None
        self.final: Candidate | None = None
        self.provisional = False
        self._timer_c: DelayedCall | None = None
        self._queue: list[SipResponse] = []
        self._hooked: dict[tuple[str, str], SipResponse | None] = {}
        self._working = False

    @property
    def hop(self) -> Hop:
        """The next hop of the branch."""
        return self.target.hop

    @property
    def done(self) -> bool:
        """True when the branch has its final response or failed."""
        return self.final is not None

    @property
    def idle(self) -> bool:
        """True when no response waits for the hook."""
        return not self._working

    def start(self, request: SipRequest) -> None:
        """Send the request."""
        context = self.context
        self.txn = context.stack.send(
            request, self.target.hop, role=context.role, on_response=self._responded, on_failure=self._failed
        )
        if request.method == "INVITE":
            self._restart_timer_c()

    def cancel(self, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Cancel the branch if it is still open."""
        if not self.done and self.txn is not None:
            self.txn.cancel(headers)

    def _restart_timer_c(self) -> None:
        self._stop_timer_c()
        timers = self.context.stack.timers_of(self.context.role)
        self._timer_c = self.context.stack.clock.callLater(timers.c, self._timer_c_fired)

    def _stop_timer_c(self) -> None:
        if self._timer_c is not None and self._timer_c.active():
            self._timer_c.cancel()
        self._timer_c = None

    def _timer_c_fired(self) -> None:
        """RFC 3261 16.8: cancel after a provisional, else act as if 408 had come."""
        self._timer_c = None
        if self.provisional and self.txn is not None:
            self.txn.cancel()
        else:
            self._finish(Candidate(make_response(self.context.request, 408), local=True))

    def _failed(self, failure: TransactionFailure) -> None:
        self._stop_timer_c()
        if self.done:
            return
        self._finish(Candidate(make_response(self.context.request, failure.status), local=True, cause=failure.cause))

    def _responded(self, response: SipResponse) -> None:
        if response.status == 100:
            self.provisional = True
            return
        if response.status < 200:
            self.provisional = True
            if self.context.request.method == "INVITE":
                self._restart_timer_c()
        else:
            self._stop_timer_c()
            if response.status >= 600:
                self.context.cancel_others(self)
        stripped = response.without_top_via()
        if stripped.headers.get("via") is None:
            return
        hook = self.context.on_response
        if hook is None:
            self._take(response, stripped)
            return
        key = _repeat_key(response)
        if key is not None and key in self._hooked:
            answer = self._hooked[key]
            if answer is not None:
                self._take(response, answer)
            return
        if key is not None:
            self._hooked[key] = None
        self._queue.append(stripped)
        if not self._working:
            self._working = True
            loop = asyncio.get_running_loop()
            self.context.keep(loop.create_task(self._work(hook), context=contextvars.copy_context()))

    async def _work(self, hook: OnBranchResponse) -> None:
        """Pass the queued responses through the hook one after the other."""
        try:
            while self._queue:
                response = self._queue.pop(0)
                try:
                    answer = await hook(self, response)
                except Exception:
                    if response.status >= 200:
                        self._take(response, make_response(self.context.request, 500))
                    raise
                key = _repeat_key(response)
                if key is not None:
                    self._hooked[key] = answer
                self._take(response, answer)
        finally:
            self._working = False
            if self._queue:
                self._working = True
                self.context.keep(asyncio.get_running_loop().create_task(self._work(hook)))
            self.context.settle()

    def _take(self, original: SipResponse, answer: SipResponse | None) -> None:
        if original.status < 200:
            if answer is not None:
                self.context.forward_provisional(answer)
            return
        success = original.status < 300
        if answer is None:
            if success:
                self.final = self.final or Candidate(original, local=False, swallowed=True)
                self.context.settle()
                return
            answer = make_response(self.context.request, 500)
        if answer.status < 300:
            self.final = self.final or Candidate(answer, local=False)
            self.context.forward_success(self, answer)
        else:
            self._finish(Candidate(answer, local=False))

    def _finish(self, candidate: Candidate) -> None:
        if self.final is None:
            self.final = candidate
            self.context.settle()


def _repeat_key(response: SipResponse) -> tuple[str, str] | None:
    """Name a response that its sender repeats until it is acknowledged; the hook sees it once."""
    if 200 <= response.status < 300 and response.cseq[1] == "INVITE":
        return response.to_tag or "", "2xx"
    rseq = response.headers.get("rseq") if response.status < 200 else None
    return None if rseq is None else (response.to_tag or "", rseq)


class ProxyContext:
    """The response context of one forwarded request (RFC 3261 16.6-16.7)."""

    def __init__(
        self, stack: SipStack, txn: ServerTxn, request: SipRequest, role: str, on_response: OnBranchResponse | None
    ) -> None:
        self.stack = stack
        self.txn = txn
        self.request = request
        self.role = role
        self.on_response = on_response
        self.branches: list[Branch] = []
        self.final: SipResponse | None = None
        self._waiters: list[asyncio.Future[SipResponse | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled = False
        self._settled = False

    def start(self, targets: Sequence[Target], base: SipRequest) -> None:
        """Send one branch per target."""
        self.branches = [Branch(self, target, index) for index, target in enumerate(targets)]
        shares = split_breadth(breadth_of(base), len(targets))
        for branch, share in zip(self.branches, shares, strict=True):
            request = branch.target.request or base.copy()
            request.headers.set("Max-Breadth", str(share))
            if branch.target.uri is not None:
                request.uri = branch.target.uri
            branch.start(request)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a hook's task until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Cancel all open branches: the caller sent CANCEL (RFC 3261 16.10); their 487 goes back by itself."""
        self._cancelled = True
        for branch in self.branches:
            branch.cancel(headers)

    def cancel_others(self, but: Branch) -> None:
        """Cancel the branches other than one that decided the matter."""
        for branch in self.branches:
            if branch is not but:
                branch.cancel()

    async def wait(self) -> SipResponse | None:
        """Return the final response that went upstream; None when none does (RFC 4320, swallowed 2xx)."""
        if self._settled:
            return self.final
        waiter: asyncio.Future[SipResponse | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    def forward_provisional(self, response: SipResponse) -> None:
        """Pass a 101-199 upstream at once; nothing after a final response."""
        self.txn.respond(response, forwarded=True)

    def forward_success(self, branch: Branch, response: SipResponse) -> None:
        """Pass a 2xx upstream at once, also further ones to INVITE (RFC 6026 8.2)."""
        if self.request.method != "INVITE" and self.final is not None:
            return
        self.txn.respond(response, forwarded=True)
        self.cancel_others(branch)
        self._settle_with(response)

    def settle(self) -> None:
        """When all branches ended, pass the best response upstream (RFC 3261 16.7 steps 6-9)."""
        if self._settled or not all(branch.done and branch.idle for branch in self.branches):
            return
        candidates = [branch.final for branch in self.branches if branch.final is not None]
        response = best_response(self.request, candidates, self.stack.server_name)
        if response is not None:
            self.txn.respond(response, forwarded=True)
        self._settle_with(response)

    def refused(self, response: SipResponse) -> None:
        """Close the context: the request was answered here."""
        self._settle_with(response)

    def _settle_with(self, response: SipResponse | None) -> None:
        if self._settled:
            return
        self._settled = True
        self.final = response
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(response)
        self._waiters.clear()


def breadth_of(request: SipRequest) -> int:
    """Return how many branches at once a request still may have: its Max-Breadth, at most 60 (RFC 5393 5.3.3)."""
    text = request.headers.get("max-breadth")
    value = MOST_BREADTH if text is None else parse_digits(text, MOST_BREADTH)
    return MOST_BREADTH if value is None else value


def split_breadth(breadth: int, branches: int) -> list[int]:
    """Divide a breadth among branches as evenly as it goes; nothing is lost, nothing added."""
    share, over = divmod(breadth, branches)
    return [share + (index < over) for index in range(branches)]


class ProxyCore:
    """Forwards requests of server transactions to targets and brings the responses back."""

    def __init__(self, stack: SipStack, *, is_loop: LoopHook | None = None) -> None:
        self.stack = stack
        self._is_loop = is_loop
        self._contexts: dict[ServerTxn, ProxyContext] = {}

    def forward(
        self,
        txn: ServerTxn,
        request: SipRequest | None,
        targets: Sequence[Hop | Target],
        *,
        role: str,
        on_response: OnBranchResponse | None = None,
        record_route: Sequence[str] = (),
    ) -> ProxyContext:
        """Forward ``request`` (that of ``txn`` when None) to all targets at once.

        ``record_route`` values are put on top, the first given ends up topmost. Max-Forwards is counted down here; at
        0 the answer is 483, for a loop 482, without targets 480, with more targets than Max-Breadth allows 440
        (RFC 5393). An INVITE is answered 100 at once.
        """
        base = (request or txn.request).copy()
        context = ProxyContext(self.stack, txn, txn.request, role, on_response)
        refusal = self._refusal(base, targets)
        if refusal is not None:
            txn.respond(refusal)
            context.refused(refusal)
            return context
        if txn.request.method == "INVITE":
            txn.respond(make_response(txn.request, 100), forwarded=True)
        for value in reversed(record_route):
            base.headers.prepend("Record-Route", value)
        self._contexts[txn] = context
        ended = txn.on_terminated

        def terminated() -> None:
            self._contexts.pop(txn, None)
            if ended is not None:
                ended()

        txn.on_terminated = terminated
        context.start([one if isinstance(one, Target) else Target(one) for one in targets], base)
        return context

    def _refusal(self, request: SipRequest, targets: Sequence[Hop | Target]) -> SipResponse | None:
        """Count Max-Forwards down; return why the request goes no further."""
        text = request.headers.get("max-forwards")
        left = DEFAULT_MAX_FORWARDS + 1 if text is None else parse_digits(text, 255)
        if left is None:
            left = DEFAULT_MAX_FORWARDS
        if left == 0:
            return make_response(request, 483)
        if self._is_loop is not None and self._is_loop(request):
            return make_response(request, 482)
        if not targets:
            return make_response(request, 480)
        if len(targets) > breadth_of(request):
            return make_response(request, 440)
        request.headers.set("Max-Forwards", str(left - 1))
        return None

    def cancel(self, txn: ServerTxn, cancel: SipRequest | None = None) -> bool:
        """Pass the CANCEL of an INVITE on; False when nothing of it was forwarded here. Reason is copied (RFC 3326)."""
        context = self._contexts.get(txn)
        if context is None:
            return False
        reasons = () if cancel is None else tuple(("Reason", value) for value in cancel.headers.get_all("reason"))
        context.cancel(reasons)
        return True

    def context_of(self, txn: ServerTxn) -> ProxyContext | None:
        """Return the response context of a server transaction."""
        return self._contexts.get(txn)

    def forward_ack(self, request: SipRequest, hop: Hop, *, role: str) -> None:
        """Forward the ACK of a 2xx without state, Max-Forwards counted down; dropped at 0 (RFC 3261 16.11)."""
        ack = request.copy()
        if self._refusal(ack, [hop]) is None:
            ack.headers.set("Max-Breadth", str(breadth_of(ack)))
            self.stack.send_ack(ack, hop, role)
