"""Where messages come from and go to: flows, hops, listeners, and what a stack tells its user."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from signalling.sip.model import SipMessage, SipRequest, SipResponse
from signalling.sip.timers import TimerConfig

if TYPE_CHECKING:
    from signalling.sip.txn import ServerTxn

Address = tuple[str, int]
"""IP address without brackets, and port."""

_FAILURE_STATUS = {"timeout": 408, "transport": 503, "flow-gone": 430}
STREAM_TRANSPORTS = frozenset({"TCP", "TLS"})


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection, or one pair of UDP addresses (RFC 5626 3.1); ``role`` is that of the listener or sender."""

    transport: str
    local: Address
    remote: Address
    id: str
    role: str = ""

    @property
    def reliable(self) -> bool:
        """True for TCP and TLS."""
        return self.transport in STREAM_TRANSPORTS

    def is_answered_by(self, back: Flow, *, exact: bool) -> bool:
        """Say whether the answer to a request sent over this flow may come over ``back``.

        A connection answers for itself alone: when it is lost, its client transactions end with it. A datagram may
        come from another port than the request went to, but not from another host and not to another port or role of
        ours: RFC 3261 18.1.2 asks for less, yet whoever is downstream has read the branch and could answer in the
        next hop's place. ``exact``: from the very address the request went to.
        """
        if self.reliable or back.reliable:
            return self.id == back.id
        if (self.role, self.local) != (back.role, back.local):
            return False
        return self.remote == back.remote if exact else same_host(self.remote[0], back.remote[0])


@dataclass(frozen=True, slots=True)
class Hop:
    """The next hop of a request: transport, IP address or name, port; ``flow``: this very connection or nothing.

    ``tls_name`` is the name the peer's certificate must show, the host when None.
    """

    transport: str
    host: str
    port: int
    flow: Flow | None = None
    tls_name: str | None = None

    @classmethod
    def over(cls, flow: Flow) -> Hop:
        """Return the hop that sends over an existing flow and fails when it is gone."""
        return cls(flow.transport, flow.remote[0], flow.remote[1], flow)


@dataclass(frozen=True, slots=True)
class Listener:
    """An open port: ``address`` as bound by the kernel."""

    transport: str
    address: Address
    role: str
    timers: TimerConfig


class TransactionFailure(Exception):  # noqa: N818 - the field calls it a failure
    """A client transaction without a final response.

    ``cause``: "timeout", "transport" or "flow-gone"; ``status``: the code the TU acts as if it had received
    (408, 503, 430; RFC 3261 8.1.3.1, RFC 5626 5.3.1).
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.detail = detail
        self.status = _FAILURE_STATUS[cause]


class RequestHandler(Protocol):
    """The transaction user above a stack."""

    def request_received(self, txn: ServerTxn) -> None:
        """Take a new request; never ACK or CANCEL."""

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        """Take the CANCEL of a pending INVITE ``txn``; the CANCEL itself is answered already."""

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        """Take an ACK to a 2xx; ``txn`` is the INVITE's transaction if it still stands."""

    def flow_closed(self, flow: Flow) -> None:
        """Take note that a connection is gone."""


class MessageObserver(Protocol):
    """Sees every message a stack sends, receives and drops; for tracing and capture. ``data`` is the wire form."""

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message left for the first time."""

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message came that is no known retransmission."""

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Octets were discarded."""

    def retransmission(self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message was "sent" or "received" again."""


class SilentObserver:
    """An observer that looks away."""

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """Do nothing."""

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """Do nothing."""

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Do nothing."""

    def retransmission(self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """Do nothing."""


def same_host(one: str, other: str) -> bool:
    """Say whether two IP addresses are the same, however they are written."""
    if one == other:
        return True
    try:
        return ip_address(one) == ip_address(other)
    except ValueError:
        return False


def response_destination(response: SipResponse, transport: str) -> Address:
    """Say where a response goes when its connection is gone, or on UDP (RFC 3261 18.2.2, RFC 3581 4).

    ``maddr`` is not followed: it is for multicast, which IMS does not use, and would let any sender aim responses at a
    host of its choice.
    """
    via = response.top_via
    host, port = via.sent_by
    if transport not in STREAM_TRANSPORTS and via.received and via.rport is not None:
        return via.received, via.rport
    return via.received or host, port
