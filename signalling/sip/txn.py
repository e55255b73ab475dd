"""Transactions with a clock and a wire: the shells round the engines of :mod:`signalling.sip.transaction`."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import Protocol as TypingProtocol

from signalling.sip.connection import Clock, DelayedCall
from signalling.sip.flow import Flow, Hop, TransactionFailure
from signalling.sip.model import SipRequest, SipResponse
from signalling.sip.timers import Timer, TimerConfig
from signalling.sip.transaction import (
    Cause,
    Deliver,
    Effect,
    Event,
    Fail,
    InviteClient,
    InviteServer,
    NonInviteClient,
    NonInviteServer,
    Send,
    SetTimer,
    State,
    StopTimer,
    cancel_for,
    event_of,
)

ServerKey = tuple[str, ...]
MergeKey = tuple[str, str | None, tuple[int, str]]
"""Call-ID, tag of From and CSeq: equal in copies of one request that took different ways (RFC 3261 8.2.2.2)."""
OnResponse = Callable[[SipResponse], None]
OnFailure = Callable[[TransactionFailure], None]


class _Timers:
    """The running timers of one transaction."""

    def __init__(self, clock: Clock, fire: Callable[[Timer], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._calls: dict[Timer, DelayedCall] = {}

    def set(self, timer: Timer, delay: float) -> None:
        self.stop(timer)
        self._calls[timer] = self._clock.callLater(delay, self._expire, timer)

    def stop(self, timer: Timer) -> None:
        call = self._calls.pop(timer, None)
        if call is not None and call.active():
            call.cancel()

    def stop_all(self) -> None:
        for timer in list(self._calls):
            self.stop(timer)

    def _expire(self, timer: Timer) -> None:
        self._calls.pop(timer, None)
        self._fire(timer)


class ClientStack(TypingProtocol):
    """What a client transaction asks of its stack."""

    clock: Clock

    def write_request(self, txn: ClientTxn, request: SipRequest, *, again: bool) -> bool:
        """Put a request on the transaction's path; False when it is gone."""

    def forget_client(self, txn: ClientTxn) -> None:
        """Drop a terminated transaction."""

    def start_cancel(self, txn: ClientTxn, cancel: SipRequest) -> None:
        """Run the CANCEL's own transaction on the same path."""


class ClientTxn:
    """A client transaction: ``request`` as sent (own Via on top), ``hop``, ``branch``, ``flow`` once there is one.

    Callbacks run in a copy of the context the request was sent in.
    """

    def __init__(
        self,
        stack: ClientStack,
        request: SipRequest,
        hop: Hop,
        role: str,
        on_response: OnResponse,
        on_failure: OnFailure,
    ) -> None:
        self.request = request
        self.hop = hop
        self.role = role
        self.flow: Flow | None = None
        self.branch = request.top_via.branch or ""
        self.last_status: int | None = None
        self._stack = stack
        self._engine: InviteClient | NonInviteClient | None = None
        self._timers = _Timers(stack.clock, self._fire)
        self._context = contextvars.copy_context()
        self._on_response = on_response
        self._on_failure = on_failure
        self._cancel_wanted = False
        self._cancel_headers: Sequence[tuple[str, str]] = ()
        self._cancelled = False
        self._over = False

    @property
    def state(self) -> State:
        """The state of the machine; CALLING or TRYING while the connection is being opened."""
        if self._engine is not None:
            return self._engine.state
        if self._over:
            return State.TERMINATED
        return State.CALLING if self.request.method == "INVITE" else State.TRYING

    @property
    def is_over(self) -> bool:
        """True when the transaction has ended."""
        return self._over

    @property
    def key(self) -> str:
        """The name of the transaction for observers."""
        return f"client|{self.branch}|{self.request.method}"

    def begin(self, engine: InviteClient | NonInviteClient) -> None:
        """Run the machine: the path is there."""
        self._engine = engine
        self._apply(engine.start())

    def receive(self, response: SipResponse) -> bool:
        """Take a matching response; False when it was a repetition the machine swallowed."""
        engine = self._engine
        if engine is None:
            return False
        effects = engine.receive(response)
        self._apply(effects)
        return any(isinstance(effect, Deliver) for effect in effects)

    def transport_lost(self) -> None:
        """Tell that the connection is gone."""
        if self._engine is not None:
            self._apply(self._engine.transport_error())

    def fail(self, cause: str, detail: str) -> None:
        """End without the machine: there never was a path."""
        if self._over:
            return
        self._finish()
        self._context.copy().run(self._on_failure, TransactionFailure(cause, detail))

    def cancel(self, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Cancel an INVITE: at once after a provisional, else when one comes (RFC 3261 9.1).

        ``headers``: further headers of the CANCEL, e.g. Reason (RFC 3326).
        """
        if self.request.method != "INVITE" or self._over:
            return
        self._cancel_wanted = True
        self._cancel_headers = headers
        if self.state is State.PROCEEDING:
            self._send_cancel()

    def _send_cancel(self) -> None:
        if self._cancelled or not isinstance(self._engine, InviteClient):
            return
        self._cancelled = True
        cancel = cancel_for(self.request)
        for name, value in self._cancel_headers:
            cancel.headers.add(name, value)
        self._apply(self._engine.abandon())
        self._stack.start_cancel(self, cancel)

    def _fire(self, timer: Timer) -> None:
        if self._engine is not None and self._engine.handles(Event(timer)):
            self._apply(self._engine.fire(timer))

    def _finish(self) -> None:
        self._over = True
        self._timers.stop_all()
        self._stack.forget_client(self)

    def _apply(self, effects: list[Effect]) -> None:
        lost = False
        for effect in effects:
            if isinstance(effect, Send):
                if isinstance(effect.message, SipRequest):
                    lost = not self._stack.write_request(self, effect.message, again=effect.again) or lost
            elif isinstance(effect, SetTimer):
                self._timers.set(effect.timer, effect.delay)
            elif isinstance(effect, StopTimer):
                self._timers.stop(effect.timer)
            elif isinstance(effect, Deliver):
                self._deliver(effect.message)
            elif isinstance(effect, Fail):
                cause = "timeout" if effect.cause is Cause.TIMEOUT else "transport"
                if cause == "transport" and self.hop.flow is not None:
                    cause = "flow-gone"
                self._context.copy().run(self._on_failure, TransactionFailure(cause))
            else:
                self._finish()
        if lost:
            self._stack.clock.callLater(0, self.transport_lost)

    def _deliver(self, message: SipRequest | SipResponse) -> None:
        if not isinstance(message, SipResponse):
            return
        self.last_status = message.status
        if self._cancel_wanted and not self._cancelled and self.state is State.PROCEEDING:
            self._send_cancel()
        self._context.copy().run(self._on_response, message)


class ServerStack(TypingProtocol):
    """What a server transaction asks of its stack."""

    clock: Clock

    def write_response(self, txn: ServerTxn, response: SipResponse, *, again: bool) -> bool:
        """Send a response to where the request came from; False when that failed at once."""

    def forget_server(self, txn: ServerTxn) -> None:
        """Drop a terminated transaction."""

    def answered(self, txn: ServerTxn, response: SipResponse, *, first: bool) -> None:
        """Take note of a final response, the first or (2xx only) a further one."""


class ServerTxn:
    """A server transaction: the ``request`` (top Via completed), its ``flow``, and :meth:`respond`.

    ``on_terminated`` is called when the machine ends, ``on_ack_timeout`` when the ACK of a final response to INVITE
    did not come in 64*T1, ``on_transport_error`` when a response could not be sent.
    """

    def __init__(
        self,
        stack: ServerStack,
        key: ServerKey,
        flow: Flow,
        engine: InviteServer | NonInviteServer,
    ) -> None:
        self.request = engine.request
        self.flow = flow
        self.server_key = key
        self.merge_key: MergeKey = (self.request.call_id, self.request.from_tag, self.request.cseq)
        self.timers: TimerConfig = engine.timers
        self.on_terminated: Callable[[], None] | None = None
        self.on_ack_timeout: Callable[[], None] | None = None
        self.on_transport_error: Callable[[], None] | None = None
        self.pending = True
        self.success_tags: set[str] = set()
        self._stack = stack
        self._engine = engine
        self._clocks = _Timers(stack.clock, self._fire)
        self._success: dict[str, _SuccessResender] = {}

    @property
    def state(self) -> State:
        """The state of the machine."""
        return self._engine.state

    @property
    def key(self) -> str:
        """The name of the transaction for observers."""
        return f"server|{self.request.top_via.branch or ''}|{self.request.method}"

    @property
    def last_response(self) -> SipResponse | None:
        """The last response sent."""
        return self._engine.last_response

    def begin(self) -> None:
        """Start the machine."""
        self._apply(self._engine.start())

    def respond(self, response: SipResponse, *, forwarded: bool = False) -> bool:
        """Send a response; False, and nothing sent, when the transaction no longer takes it.

        A 2xx to INVITE is retransmitted until its ACK (RFC 3261 13.3.1.4), unless ``forwarded``: the UAS does that.
        """
        event = event_of(response)
        if not self._engine.handles(event):
            return False
        first_final = self.pending and event is not Event.PROVISIONAL
        if first_final:
            self.pending = False
        if event is Event.SUCCESS and self.request.method == "INVITE":
            tag = response.to_tag or ""
            self.success_tags.add(tag)
            if not forwarded and tag not in self._success:
                self._success[tag] = _SuccessResender(self, response)
        effects = self._engine.respond(response)
        if event is not Event.PROVISIONAL:
            self._stack.answered(self, response, first=first_final)
        self._apply(effects)
        return True

    def request_again(self) -> None:
        """Take a retransmission of the request."""
        self._apply(self._engine.request_again())

    def acknowledge(self, ack: SipRequest) -> None:
        """Take an ACK with the INVITE's branch."""
        if isinstance(self._engine, InviteServer):
            self._apply(self._engine.acknowledge(ack))

    def success_acknowledged(self, to_tag: str) -> None:
        """Stop retransmitting the 2xx whose ACK came."""
        resender = self._success.get(to_tag)
        if resender is not None:
            resender.stop()

    def send_success_again(self, response: SipResponse) -> None:
        """Put a 2xx on the wire once more."""
        self._stack.write_response(self, response, again=True)

    @property
    def clock(self) -> Clock:
        """The clock of the stack."""
        return self._stack.clock

    def transport_lost(self) -> None:
        """Tell that a response could not be delivered."""
        self._apply(self._engine.transport_error())

    def close(self) -> None:
        """Stop all clocks: the stack ends."""
        self._clocks.stop_all()
        for resender in self._success.values():
            resender.stop()

    def _fire(self, timer: Timer) -> None:
        if self._engine.handles(Event(timer)):
            self._apply(self._engine.fire(timer))

    def _apply(self, effects: list[Effect]) -> None:
        lost = False
        for effect in effects:
            if isinstance(effect, Send):
                if isinstance(effect.message, SipResponse):
                    lost = not self._stack.write_response(self, effect.message, again=effect.again) or lost
            elif isinstance(effect, SetTimer):
                self._clocks.set(effect.timer, effect.delay)
            elif isinstance(effect, StopTimer):
                self._clocks.stop(effect.timer)
            elif isinstance(effect, Fail):
                self._failed(effect.cause)
            elif not isinstance(effect, Deliver):
                self._clocks.stop_all()
                self._stack.forget_server(self)
                if self.on_terminated is not None:
                    self.on_terminated()
        if lost:
            self._stack.clock.callLater(0, self.transport_lost)

    def _failed(self, cause: Cause) -> None:
        callback = self.on_ack_timeout if cause is Cause.NO_ACK else self.on_transport_error
        if callback is not None:
            callback()


class _SuccessResender:
    """Retransmits one 2xx: T1 doubling to T2, until ACK or 64*T1 (RFC 3261 13.3.1.4)."""

    def __init__(self, txn: ServerTxn, response: SipResponse) -> None:
        self._txn = txn
        self._response = response
        self._interval = txn.timers.t1
        self._resend: DelayedCall | None = txn.clock.callLater(self._interval, self._again)
        self._give_up: DelayedCall | None = txn.clock.callLater(64 * txn.timers.t1, self._expired)

    def _again(self) -> None:
        self._interval = min(2 * self._interval, self._txn.timers.t2)
        self._resend = self._txn.clock.callLater(self._interval, self._again)
        self._txn.send_success_again(self._response)

    def _expired(self) -> None:
        self._give_up = None
        self.stop()
        if self._txn.on_ack_timeout is not None:
            self._txn.on_ack_timeout()

    def stop(self) -> None:
        for call in (self._resend, self._give_up):
            if call is not None and call.active():
                call.cancel()
        self._resend = self._give_up = None
