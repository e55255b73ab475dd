"""One TCP or TLS connection: framing, keep-alive, deadlines, bounded buffers (RFC 3261 18.3, RFC 5626 4.4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as TypingProtocol
from typing import cast

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL.crypto import X509
from twisted.internet import interfaces
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from signalling.sip.flow import Address, Flow
from signalling.sip.limits import StackLimits
from signalling.sip.message import StreamEvent, StreamMessage, StreamParser, StreamPing, StreamPong
from signalling.sip.model import SipParseError, SipRequest, SipResponse

PONG_DEADLINE = 10.0
"""Seconds a peer has to answer a ping (RFC 5626 4.4.1)."""
_CONNECTION_DONE: Failure = connectionDone


class StreamTransport(TypingProtocol):
    """What a connection asks of its Twisted transport."""

    def getHost(self) -> object:  # noqa: N802 - Twisted's name
        """Return the local address."""

    def getPeer(self) -> object:  # noqa: N802 - Twisted's name
        """Return the remote address."""

    def registerProducer(self, producer: object, streaming: bool) -> None:  # noqa: N802 - Twisted's name
        """Ask to be told when the peer does not read."""

    def write(self, data: bytes) -> None:
        """Send octets."""

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Close after the octets are sent."""

    def abortConnection(self) -> None:  # noqa: N802 - Twisted's name
        """Cut."""


class DelayedCall(TypingProtocol):
    """A timer that runs."""

    def cancel(self) -> None:
        """Stop it."""

    def active(self) -> bool:
        """Say whether it still runs."""


class Clock(TypingProtocol):
    """Time as the reactor, or a fake clock, gives it."""

    def seconds(self) -> float:
        """Return the present in seconds."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object) -> DelayedCall:  # noqa: N802, A002 - Twisted's names
        """Run a callable after a delay in seconds."""


class Sink(TypingProtocol):
    """Takes what the transport layer receives."""

    def message_arrived(self, message: SipRequest | SipResponse, data: bytes, flow: Flow) -> None:
        """A well-formed message came."""

    def fault_arrived(self, fault: SipParseError, data: bytes, flow: Flow) -> None:
        """A malformed message came; when it is fatal the connection is closed once nothing more is owed to it."""

    def owes(self, flow: Flow) -> bool:
        """Say whether a request that came over a connection waits for its final response."""

    def octets_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Octets were discarded."""

    def connection_lost(self, flow: Flow) -> None:
        """A connection is gone."""


class ConnectionOwner(TypingProtocol):
    """Keeps the table of connections."""

    sink: Sink
    clock: Clock
    limits: StackLimits

    def opened(self, connection: StreamConnection) -> None:
        """The connection (with TLS: its handshake) is complete."""

    def spoke(self, connection: StreamConnection) -> None:
        """A complete message came over the connection."""

    def closed(self, connection: StreamConnection, reason: Failure) -> None:
        """The connection is gone, or never came to be."""


def _host_port(address: object) -> Address:
    return str(getattr(address, "host", "")), int(getattr(address, "port", 0))


@implementer(interfaces.IHandshakeListener, interfaces.IPushProducer)
class StreamConnection(Protocol):
    """A connection in either direction; cuts the stream into messages and keeps time.

    ``tls`` connections count as open when their handshake is complete. A peer that stays inside one message, never
    sends a first one, or does not read what is written is cut off.
    """

    def __init__(self, owner: ConnectionOwner, role: str, serial: int, *, tls: bool, accepted: bool) -> None:
        self._owner = owner
        self._role = role
        self._serial = serial
        self._tls = tls
        self._accepted = accepted
        self._wire: StreamTransport | None = None
        self._parser = StreamParser()
        self._paused = False
        self._unsent = 0
        self._deadlines: dict[str, DelayedCall] = {}
        self._heard = 0.0
        self._pong_lost: Callable[[], None] | None = None
        self.is_open = False
        self.is_closed = False
        self.is_ending = False
        """True when only answers in work keep it open."""
        self.flow = Flow("TLS" if tls else "TCP", ("", 0), ("", 0), "", role)

    @property
    def accepted(self) -> bool:
        """True when the peer opened the connection."""
        return self._accepted

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Give the flow its addresses and start the deadlines."""
        assert self.transport is not None
        wire = self._wire = cast("StreamTransport", self.transport)
        local, remote = _host_port(wire.getHost()), _host_port(wire.getPeer())
        name = "TLS" if self._tls else "TCP"
        self.flow = Flow(name, local, remote, f"{name.lower()}-{self._serial}", self._role)
        self._heard = self._owner.clock.seconds()
        wire.registerProducer(self, streaming=True)
        limits = self._owner.limits
        if self._accepted:
            self._arm("first", limits.first_message_deadline, "no message in time")
        if self._tls:
            deadline = limits.handshake_deadline if self._accepted else limits.connect_deadline
            self._arm("handshake", deadline, "TLS handshake too slow")
        self._arm_idle(limits.idle_deadline)
        if not self._tls:
            self._open()

    def handshakeCompleted(self) -> None:  # noqa: N802 - Twisted's name
        """Count a TLS connection as open."""
        self._disarm("handshake")
        self._open()

    def _open(self) -> None:
        self.is_open = True
        self._owner.opened(self)

    def peer_certificate(self) -> bytes | None:
        """Return the peer's certificate (DER), None without one."""
        get = getattr(self.transport, "getPeerCertificate", None)
        certificate = get() if get is not None and self._tls else None
        if not isinstance(certificate, X509):
            return None
        return certificate.to_cryptography().public_bytes(Encoding.DER)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Cut the stream into messages."""
        self._heard = self._owner.clock.seconds()
        for event in self._parser.receive(data):
            self._take(event)
            if self.is_closed:
                return
        if self._parser.mid_message:
            if "message" not in self._deadlines:
                self._arm("message", self._owner.limits.message_deadline, "message too slow")
        else:
            self._disarm("message")

    def _take(self, event: StreamEvent) -> None:
        self._disarm("message")
        if isinstance(event, StreamPong):
            self._pong_lost = None
            self._disarm("pong")
        elif isinstance(event, StreamPing):
            self._disarm("first")
            self.write(b"\r\n")
        elif isinstance(event, StreamMessage):
            self._disarm("first")
            self._owner.spoke(self)
            self._owner.sink.message_arrived(event.message, event.data, self.flow)
        else:
            self._owner.sink.fault_arrived(event.error, event.data, self.flow)
            if event.error.fatal:
                self._end()

    def _end(self) -> None:
        """Close: what follows cannot be read. Requests that came before are answered first."""
        if self._owner.sink.owes(self.flow):
            self.is_ending = True
            self._arm("answers", self._owner.limits.answer_deadline, "no answer before the close")
        else:
            self.close()

    def write(self, data: bytes) -> None:
        """Write octets; a peer that leaves too many unread is cut off."""
        if self._wire is None or self.is_closed:
            return
        if self._paused:
            self._unsent += len(data)
            if self._unsent > self._owner.limits.unsent_octets:
                self.abort()
                return
        self._wire.write(data)

    def ping(self, lost: Callable[[], None]) -> None:
        """Send a double CRLF; ``lost`` is called, and the connection cut, when no pong comes in 10 s."""
        self._pong_lost = lost
        self._parser.awaits_pong = True
        self.write(b"\r\n\r\n")
        if "pong" not in self._deadlines:
            self._deadlines["pong"] = self._owner.clock.callLater(PONG_DEADLINE, self._no_pong)

    def _no_pong(self) -> None:
        self._deadlines.pop("pong", None)
        lost, self._pong_lost = self._pong_lost, None
        self.abort()
        if lost is not None:
            lost()

    def close(self) -> None:
        """Close after what was written is sent; TLS would wait for a producer that is still registered."""
        if self._wire is not None:
            if self.transport is not None:
                self.transport.unregisterProducer()
            self._wire.loseConnection()

    def abort(self) -> None:
        """Cut the connection at once."""
        if self._wire is not None:
            self._wire.abortConnection()

    def connectionLost(self, reason: Failure = _CONNECTION_DONE) -> None:  # noqa: N802 - Twisted's name
        """Stop the clocks and tell the owner."""
        if self.is_closed:
            return
        self.is_closed = True
        for name in list(self._deadlines):
            self._disarm(name)
        if self._parser.mid_message:
            self._owner.sink.octets_dropped("stream ended inside a message", b"", self.flow)
        self._owner.closed(self, reason)

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Note that the peer does not read."""
        self._paused = True
        self._unsent = 0

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Note that the peer reads again."""
        self._paused = False

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Nothing is produced on its own."""

    def _arm(self, name: str, delay: float, reason: str) -> None:
        self._deadlines[name] = self._owner.clock.callLater(delay, self._expire, name, reason)

    def _disarm(self, name: str) -> None:
        call = self._deadlines.pop(name, None)
        if call is not None and call.active():
            call.cancel()

    def _expire(self, name: str, reason: str) -> None:
        self._deadlines.pop(name, None)
        self._owner.sink.octets_dropped(reason, b"", self.flow)
        self.abort()

    def _arm_idle(self, delay: float) -> None:
        self._deadlines["idle"] = self._owner.clock.callLater(delay, self._check_idle)

    def _check_idle(self) -> None:
        self._deadlines.pop("idle", None)
        left = self._heard + self._owner.limits.idle_deadline - self._owner.clock.seconds()
        if left <= 0:
            self._expire("idle", "connection idle")
        else:
            self._arm_idle(left)
