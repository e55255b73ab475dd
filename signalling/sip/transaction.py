"""The four transaction machines (RFC 3261 17 as changed by RFC 6026, and RFC 4320), without I/O.

An engine takes events (:meth:`Transaction.start`, ``receive``, ``fire``...) and returns what is to be done: send, set a
timer, tell the transaction user. Each machine is a table of (state, event); a pair that is not in it is an
:class:`UnexpectedEvent`, and the engine stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from signalling.sip.fields import Headers
from signalling.sip.model import SipMessage, SipRequest, SipResponse
from signalling.sip.timers import Timer, TimerConfig


class State(Enum):
    """States of all four machines (RFC 3261 figures 5-8, RFC 6026 figures 1-2)."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    ACCEPTED = "accepted"
    TERMINATED = "terminated"


class Event(Enum):
    """What can happen to a transaction."""

    START = "start"
    REQUEST = "request again"
    ACK = "ACK"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300-699"
    TRANSPORT_ERROR = "transport error"
    ABANDON = "abandon"
    TIMER_A = Timer.A
    TIMER_B = Timer.B
    TIMER_D = Timer.D
    TIMER_E = Timer.E
    TIMER_F = Timer.F
    TIMER_G = Timer.G
    TIMER_H = Timer.H
    TIMER_I = Timer.I
    TIMER_J = Timer.J
    TIMER_K = Timer.K
    TIMER_L = Timer.L
    TIMER_M = Timer.M
    TIMER_TRYING = Timer.TRYING
    TIMER_CANCELLED = Timer.CANCELLED


class Cause(Enum):
    """Why a transaction failed."""

    TIMEOUT = "timeout"
    TRANSPORT = "transport"
    NO_ACK = "no-ack"


class UnexpectedEvent(Exception):  # noqa: N818 - named after what happened
    """An event the machine has no rule for in its state; nothing was changed."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.name} in {state.name}")
        self.state = state
        self.event = event


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message on the wire; ``again`` for a retransmission."""

    message: SipRequest | SipResponse
    again: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a message to the transaction user."""

    message: SipRequest | SipResponse


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Start (or restart) a timer, seconds."""

    timer: Timer
    delay: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Stop a timer if it runs."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the transaction user that the transaction failed."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Terminated:
    """The transaction is over: forget it, stop its timers."""


Effect = Send | Deliver | SetTimer | StopTimer | Fail | Terminated


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a machine: the steps to take and the state after."""

    next: State
    steps: tuple[str, ...] = ()


Table = Mapping[tuple[State, Event], Rule]


def event_of(response: SipResponse) -> Event:
    """Return the event a response is to a transaction."""
    if response.status < 200:
        return Event.PROVISIONAL
    return Event.SUCCESS if response.status < 300 else Event.FAILURE


class Transaction:
    """One machine: ``state``, the ``request``, and a table of rules whose steps are methods of the subclass."""

    table: ClassVar[Table]
    initial: ClassVar[State]

    def __init__(self, request: SipRequest, timers: TimerConfig, *, reliable: bool) -> None:
        self.request = request
        self.timers = timers
        self.reliable = reliable
        self.state = self.initial
        self._effects: list[Effect] = []
        self._message: SipRequest | SipResponse | None = None

    def handle(self, event: Event, message: SipRequest | SipResponse | None = None) -> list[Effect]:
        """Apply an event; return the effects in order. Raises UnexpectedEvent when the table has no row."""
        rule = self.table.get((self.state, event))
        if rule is None:
            raise UnexpectedEvent(self.state, event)
        self._message = message
        before = self.state
        self.state = rule.next
        for step in rule.steps:
            steps: Callable[[], None] = getattr(self, step)
            steps()
        if self.state is State.TERMINATED and before is not State.TERMINATED:
            self._effects.append(Terminated())
        self._message = None
        effects, self._effects = self._effects, []
        return effects

    def start(self) -> list[Effect]:
        """Begin: a client sends its request, a server starts to wait for its transaction user."""
        return self.handle(Event.START)

    def fire(self, timer: Timer) -> list[Effect]:
        """Tell that a timer ran out."""
        return self.handle(Event(timer))

    def handles(self, event: Event) -> bool:
        """Say whether the table has a row for the event in the present state."""
        return (self.state, event) in self.table

    # steps shared by the machines

    def _send_message(self) -> None:
        if self._message is not None:
            self._effects.append(Send(self._message))

    def deliver(self) -> None:
        """Pass the message to the transaction user."""
        if self._message is not None:
            self._effects.append(Deliver(self._message))

    def fail_timeout(self) -> None:
        """Report a timeout."""
        self._effects.append(Fail(Cause.TIMEOUT))

    def fail_transport(self) -> None:
        """Report a transport error."""
        self._effects.append(Fail(Cause.TRANSPORT))

    def _set(self, timer: Timer, delay: float) -> None:
        self._effects.append(SetTimer(timer, delay))

    def _stop(self, *timers: Timer) -> None:
        self._effects.extend(StopTimer(timer) for timer in timers)

    def _wait_or_end(self, timer: Timer, delay: float) -> None:
        """Start a waiting timer that is zero on reliable transports, where the transaction ends at once."""
        if self.reliable:
            self.state = State.TERMINATED
        else:
            self._set(timer, delay)


_S, _E = State, Event


class ClientTransaction(Transaction):
    """A client machine: built by :func:`client_transaction`."""

    def receive(self, response: SipResponse) -> list[Effect]:
        """Take a response that matched; one without a rule (late 1xx) is dropped."""
        event = event_of(response)
        return self.handle(event, response) if self.handles(event) else []

    def transport_error(self) -> list[Effect]:
        """Tell that the transport could not send, or lost the connection."""
        return self.handle(Event.TRANSPORT_ERROR) if self.handles(Event.TRANSPORT_ERROR) else []

    def send_request(self) -> None:
        """Send the request for the first time."""
        self._effects.append(Send(self.request))

    def resend_request(self) -> None:
        """Send the request again."""
        self._effects.append(Send(self.request, again=True))


class InviteClient(ClientTransaction):
    """INVITE client transaction (RFC 3261 17.1.1, RFC 6026 7.2)."""

    initial = State.CALLING
    table: ClassVar[Table] = {
        (_S.CALLING, _E.START): Rule(_S.CALLING, ("send_request", "start_a_b")),
        (_S.CALLING, _E.TIMER_A): Rule(_S.CALLING, ("resend_request", "double_a")),
        (_S.CALLING, _E.TIMER_B): Rule(_S.TERMINATED, ("fail_timeout",)),
        (_S.CALLING, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.CALLING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("stop_a_b", "deliver")),
        (_S.CALLING, _E.SUCCESS): Rule(_S.ACCEPTED, ("stop_a_b", "deliver", "start_m")),
        (_S.CALLING, _E.FAILURE): Rule(_S.COMPLETED, ("stop_a_b", "send_ack", "deliver", "start_d")),
        (_S.CALLING, _E.ABANDON): Rule(_S.CALLING, ("start_cancelled",)),
        (_S.CALLING, _E.TIMER_CANCELLED): Rule(_S.TERMINATED, ("fail_timeout",)),
        (_S.PROCEEDING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("deliver",)),
        (_S.PROCEEDING, _E.SUCCESS): Rule(_S.ACCEPTED, ("deliver", "start_m")),
        (_S.PROCEEDING, _E.FAILURE): Rule(_S.COMPLETED, ("send_ack", "deliver", "start_d")),
        (_S.PROCEEDING, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.PROCEEDING, _E.ABANDON): Rule(_S.PROCEEDING, ("start_cancelled",)),
        (_S.PROCEEDING, _E.TIMER_CANCELLED): Rule(_S.TERMINATED, ("fail_timeout",)),
        (_S.COMPLETED, _E.FAILURE): Rule(_S.COMPLETED, ("resend_ack",)),
        (_S.COMPLETED, _E.TIMER_D): Rule(_S.TERMINATED),
        (_S.COMPLETED, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.ACCEPTED, _E.SUCCESS): Rule(_S.ACCEPTED, ("deliver",)),
        (_S.ACCEPTED, _E.TIMER_M): Rule(_S.TERMINATED),
    }

    def __init__(self, request: SipRequest, timers: TimerConfig, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self._interval = timers.a
        self._ack: SipRequest | None = None

    def abandon(self) -> list[Effect]:
        """Tell that the INVITE was cancelled: without a final response it ends 64*T1 from now (RFC 3261 9.1)."""
        return self.handle(Event.ABANDON) if self.handles(Event.ABANDON) else []

    def start_a_b(self) -> None:
        """Start the retransmission and the timeout timers."""
        if not self.reliable:
            self._set(Timer.A, self._interval)
        self._set(Timer.B, self.timers.b)

    def double_a(self) -> None:
        """Double Timer A; it has no cap."""
        self._interval *= 2
        self._set(Timer.A, self._interval)

    def stop_a_b(self) -> None:
        """Stop waiting for a first response."""
        self._stop(Timer.A, Timer.B)

    def start_d(self) -> None:
        """Wait for retransmissions of the final response."""
        self._stop(Timer.CANCELLED)
        self._wait_or_end(Timer.D, self.timers.d)

    def start_m(self) -> None:
        """Wait for further 2xx."""
        self._stop(Timer.CANCELLED)
        self._set(Timer.M, self.timers.m)

    def start_cancelled(self) -> None:
        """Bound the time the INVITE lives after its CANCEL."""
        self._set(Timer.CANCELLED, 64 * self.timers.t1)

    def send_ack(self) -> None:
        """Acknowledge a 300-699."""
        if isinstance(self._message, SipResponse):
            self._ack = ack_for_failure(self.request, self._message)
            self._effects.append(Send(self._ack))

    def resend_ack(self) -> None:
        """Acknowledge a retransmitted 300-699 with the same ACK."""
        if self._ack is not None:
            self._effects.append(Send(self._ack, again=True))


class NonInviteClient(ClientTransaction):
    """Non-INVITE client transaction (RFC 3261 17.1.2)."""

    initial = State.TRYING
    table: ClassVar[Table] = {
        (_S.TRYING, _E.START): Rule(_S.TRYING, ("send_request", "start_e_f")),
        (_S.TRYING, _E.TIMER_E): Rule(_S.TRYING, ("resend_request", "double_e")),
        (_S.TRYING, _E.TIMER_F): Rule(_S.TERMINATED, ("fail_timeout",)),
        (_S.TRYING, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.TRYING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("deliver",)),
        (_S.TRYING, _E.SUCCESS): Rule(_S.COMPLETED, ("stop_e_f", "deliver", "start_k")),
        (_S.TRYING, _E.FAILURE): Rule(_S.COMPLETED, ("stop_e_f", "deliver", "start_k")),
        (_S.PROCEEDING, _E.TIMER_E): Rule(_S.PROCEEDING, ("resend_request", "e_at_t2")),
        (_S.PROCEEDING, _E.TIMER_F): Rule(_S.TERMINATED, ("fail_timeout",)),
        (_S.PROCEEDING, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.PROCEEDING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("deliver",)),
        (_S.PROCEEDING, _E.SUCCESS): Rule(_S.COMPLETED, ("stop_e_f", "deliver", "start_k")),
        (_S.PROCEEDING, _E.FAILURE): Rule(_S.COMPLETED, ("stop_e_f", "deliver", "start_k")),
        (_S.COMPLETED, _E.SUCCESS): Rule(_S.COMPLETED),
        (_S.COMPLETED, _E.FAILURE): Rule(_S.COMPLETED),
        (_S.COMPLETED, _E.TIMER_K): Rule(_S.TERMINATED),
    }

    def __init__(self, request: SipRequest, timers: TimerConfig, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self._interval = timers.e

    def start_e_f(self) -> None:
        """Start the retransmission and the timeout timers."""
        if not self.reliable:
            self._set(Timer.E, self._interval)
        self._set(Timer.F, self.timers.f)

    def double_e(self) -> None:
        """Double Timer E up to T2."""
        self._interval = min(2 * self._interval, self.timers.t2)
        self._set(Timer.E, self._interval)

    def e_at_t2(self) -> None:
        """In Proceeding every interval is T2."""
        self._set(Timer.E, self.timers.t2)

    def stop_e_f(self) -> None:
        """Stop retransmitting."""
        self._stop(Timer.E, Timer.F)

    def start_k(self) -> None:
        """Wait for response retransmissions."""
        self._wait_or_end(Timer.K, self.timers.k)


class ServerTransaction(Transaction):
    """A server machine: built by :func:`server_transaction`."""

    def __init__(self, request: SipRequest, timers: TimerConfig, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self.last_response: SipResponse | None = None

    def respond(self, response: SipResponse) -> list[Effect]:
        """Send a response of the transaction user; UnexpectedEvent when the machine no longer takes it."""
        return self.handle(event_of(response), response)

    def request_again(self) -> list[Effect]:
        """Take a retransmission of the request."""
        return self.handle(Event.REQUEST)

    def transport_error(self) -> list[Effect]:
        """Tell that a response could not be sent: reported, the state stays (RFC 6026 7.1)."""
        return self.handle(Event.TRANSPORT_ERROR) if self.handles(Event.TRANSPORT_ERROR) else []

    def send_response(self) -> None:
        """Send the response and keep it for retransmission."""
        if isinstance(self._message, SipResponse):
            self.last_response = self._message
            self._effects.append(Send(self._message))

    def resend_response(self) -> None:
        """Send the last response again, if there is one."""
        if self.last_response is not None:
            self._effects.append(Send(self.last_response, again=True))

    def stop_trying(self) -> None:
        """The transaction user answered: no automatic 100."""
        self._stop(Timer.TRYING)

    def send_trying(self) -> None:
        """Send 100 because the transaction user takes its time."""
        if self.last_response is None:
            self.last_response = trying_for(self.request)
            self._effects.append(Send(self.last_response))


class InviteServer(ServerTransaction):
    """INVITE server transaction (RFC 3261 17.2.1, RFC 6026 7.1)."""

    initial = State.PROCEEDING
    table: ClassVar[Table] = {
        (_S.PROCEEDING, _E.START): Rule(_S.PROCEEDING, ("start_trying",)),
        (_S.PROCEEDING, _E.TIMER_TRYING): Rule(_S.PROCEEDING, ("send_trying",)),
        (_S.PROCEEDING, _E.REQUEST): Rule(_S.PROCEEDING, ("resend_response",)),
        (_S.PROCEEDING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("stop_trying", "send_response")),
        (_S.PROCEEDING, _E.SUCCESS): Rule(_S.ACCEPTED, ("stop_trying", "send_response", "start_l")),
        (_S.PROCEEDING, _E.FAILURE): Rule(_S.COMPLETED, ("stop_trying", "send_response", "start_g_h")),
        (_S.PROCEEDING, _E.TRANSPORT_ERROR): Rule(_S.PROCEEDING, ("fail_transport",)),
        (_S.COMPLETED, _E.REQUEST): Rule(_S.COMPLETED, ("resend_response",)),
        (_S.COMPLETED, _E.TIMER_G): Rule(_S.COMPLETED, ("resend_response", "double_g")),
        (_S.COMPLETED, _E.TIMER_H): Rule(_S.TERMINATED, ("fail_no_ack",)),
        (_S.COMPLETED, _E.ACK): Rule(_S.CONFIRMED, ("stop_g_h", "start_i")),
        (_S.COMPLETED, _E.TRANSPORT_ERROR): Rule(_S.COMPLETED, ("fail_transport",)),
        (_S.CONFIRMED, _E.ACK): Rule(_S.CONFIRMED),
        (_S.CONFIRMED, _E.REQUEST): Rule(_S.CONFIRMED),
        (_S.CONFIRMED, _E.TIMER_I): Rule(_S.TERMINATED),
        (_S.ACCEPTED, _E.REQUEST): Rule(_S.ACCEPTED),
        (_S.ACCEPTED, _E.ACK): Rule(_S.ACCEPTED, ("deliver",)),
        (_S.ACCEPTED, _E.SUCCESS): Rule(_S.ACCEPTED, ("send_response",)),
        (_S.ACCEPTED, _E.TRANSPORT_ERROR): Rule(_S.ACCEPTED, ("fail_transport",)),
        (_S.ACCEPTED, _E.TIMER_L): Rule(_S.TERMINATED),
    }

    def __init__(self, request: SipRequest, timers: TimerConfig, *, reliable: bool) -> None:
        super().__init__(request, timers, reliable=reliable)
        self._interval = timers.g

    def acknowledge(self, ack: SipRequest) -> list[Effect]:
        """Take an ACK that matched; in Proceeding it means nothing and is dropped."""
        return self.handle(Event.ACK, ack) if self.handles(Event.ACK) else []

    def start_trying(self) -> None:
        """Give the transaction user 200 ms before a 100 is sent for it."""
        self._set(Timer.TRYING, self.timers.trying_after)

    def start_g_h(self) -> None:
        """Retransmit the final response (UDP) and wait for the ACK."""
        if not self.reliable:
            self._set(Timer.G, self._interval)
        self._set(Timer.H, self.timers.h)

    def double_g(self) -> None:
        """Double Timer G up to T2."""
        self._interval = min(2 * self._interval, self.timers.t2)
        self._set(Timer.G, self._interval)

    def stop_g_h(self) -> None:
        """The ACK came."""
        self._stop(Timer.G, Timer.H)

    def start_i(self) -> None:
        """Absorb further ACKs."""
        self._wait_or_end(Timer.I, self.timers.i)

    def start_l(self) -> None:
        """Absorb INVITE retransmissions and pass ACKs and 2xx."""
        self._set(Timer.L, self.timers.l)

    def fail_no_ack(self) -> None:
        """Report that no ACK came."""
        self._effects.append(Fail(Cause.NO_ACK))


class NonInviteServer(ServerTransaction):
    """Non-INVITE server transaction (RFC 3261 17.2.2, RFC 4320 4)."""

    initial = State.TRYING
    table: ClassVar[Table] = {
        (_S.TRYING, _E.START): Rule(_S.TRYING, ("start_trying",)),
        (_S.TRYING, _E.TIMER_TRYING): Rule(_S.PROCEEDING, ("send_trying",)),
        (_S.TRYING, _E.REQUEST): Rule(_S.TRYING),
        (_S.TRYING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("stop_trying", "send_response")),
        (_S.TRYING, _E.SUCCESS): Rule(_S.COMPLETED, ("stop_trying", "send_response", "start_j")),
        (_S.TRYING, _E.FAILURE): Rule(_S.COMPLETED, ("stop_trying", "send_response", "start_j")),
        (_S.PROCEEDING, _E.REQUEST): Rule(_S.PROCEEDING, ("resend_response",)),
        (_S.PROCEEDING, _E.PROVISIONAL): Rule(_S.PROCEEDING, ("send_response",)),
        (_S.PROCEEDING, _E.SUCCESS): Rule(_S.COMPLETED, ("send_response", "start_j")),
        (_S.PROCEEDING, _E.FAILURE): Rule(_S.COMPLETED, ("send_response", "start_j")),
        (_S.PROCEEDING, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.COMPLETED, _E.REQUEST): Rule(_S.COMPLETED, ("resend_response",)),
        (_S.COMPLETED, _E.TRANSPORT_ERROR): Rule(_S.TERMINATED, ("fail_transport",)),
        (_S.COMPLETED, _E.TIMER_J): Rule(_S.TERMINATED),
    }

    def start_trying(self) -> None:
        """A 100 is due once the client's Timer E has reached T2."""
        self._set(Timer.TRYING, self.timers.non_invite_trying)

    def start_j(self) -> None:
        """Absorb request retransmissions."""
        self._wait_or_end(Timer.J, self.timers.j)


def client_transaction(request: SipRequest, timers: TimerConfig, *, reliable: bool) -> InviteClient | NonInviteClient:
    """Return the client machine for a request; ``reliable`` for TCP and TLS."""
    kind = InviteClient if request.method == "INVITE" else NonInviteClient
    return kind(request, timers, reliable=reliable)


def server_transaction(request: SipRequest, timers: TimerConfig, *, reliable: bool) -> InviteServer | NonInviteServer:
    """Return the server machine for a request; ``reliable`` for TCP and TLS."""
    kind = InviteServer if request.method == "INVITE" else NonInviteServer
    return kind(request, timers, reliable=reliable)


def ack_for_failure(invite: SipRequest, response: SipResponse) -> SipRequest:
    """Build the hop-by-hop ACK of a 300-699 (RFC 3261 17.1.1.3)."""
    headers = Headers()
    headers.add("Via", invite.headers.first_value("via") or "")
    for route in invite.headers.get_all("route"):
        headers.add("Route", route)
    headers.add("Max-Forwards", "70")
    headers.add("From", invite.headers.get("from") or "")
    headers.add("To", response.headers.get("to") or "")
    headers.add("Call-ID", invite.call_id)
    headers.add("CSeq", f"{invite.cseq[0]} ACK")
    return SipRequest("ACK", invite.uri, headers)


def cancel_for(invite: SipRequest) -> SipRequest:
    """Build the CANCEL of a request as it was sent (RFC 3261 9.1): same hop, no Require or Proxy-Require."""
    headers = Headers()
    headers.add("Via", invite.headers.first_value("via") or "")
    for route in invite.headers.get_all("route"):
        headers.add("Route", route)
    headers.add("Max-Forwards", "70")
    for name in ("From", "To", "Call-ID"):
        headers.add(name, invite.headers.get(name) or "")
    headers.add("CSeq", f"{invite.cseq[0]} CANCEL")
    return SipRequest("CANCEL", invite.uri, headers)


def trying_for(request: SipRequest) -> SipResponse:
    """Build a 100: no To tag, Timestamp copied (RFC 3261 8.2.6.1)."""
    headers = Headers([("Via", via) for via in request.headers.get_all("via")])
    for name in ("From", "To", "Call-ID", "CSeq", "Timestamp"):
        value = request.headers.get(name)
        if value is not None:
            headers.add(name, value)
    return SipResponse(100, "Trying", headers)


def client_key(message: SipMessage) -> tuple[str, str]:
    """Return (top Via branch, CSeq method), which matches responses to clients (RFC 3261 17.1.3)."""
    return message.top_via.branch or "", message.cseq[1]
