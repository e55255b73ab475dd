"""The ports and connections of one stack: UDP, TCP and TLS over IPv4 and IPv6 (RFC 3261 18)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol as TypingProtocol
from typing import cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConnector,
    IOpenSSLClientConnectionCreator,
    IOpenSSLContextFactory,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
)
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Factory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from signalling.sip import stun
from signalling.sip.connection import Clock, DelayedCall, Sink, StreamConnection
from signalling.sip.flow import Address, Flow, Hop, Listener
from signalling.sip.limits import StackLimits
from signalling.sip.model import SipParseError
from signalling.sip.parser import parse_message
from signalling.sip.timers import TimerConfig

ContextFactory = IOpenSSLContextFactory | IOpenSSLClientConnectionCreator | IOpenSSLServerConnectionCreator
"""What Twisted takes as TLS settings: a CertificateOptions or a connection creator."""
ClientTls = Callable[[str], ContextFactory] | ContextFactory
"""Client TLS settings, or a callable that makes them for the name the peer must show."""
BeforeTls = Callable[[str, Callable[[], None]], None]
"""What happens before a TLS connection is dialled: given the name or address dialled, and what goes on with it."""


class Reactor(Clock, TypingProtocol):
    """What the transport layer asks of a reactor."""

    def listenUDP(  # noqa: N802 - Twisted's name
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = ...,
        maxPacketSize: int = ...,  # noqa: N803 - Twisted's name
    ) -> OpenPort:
        """Open a UDP port."""

    def listenTCP(  # noqa: N802 - Twisted's name
        self, port: int, factory: object, backlog: int = ..., interface: str = ...
    ) -> OpenPort:
        """Open a TCP port."""

    def connectTCP(  # noqa: N802 - Twisted's name
        self,
        host: str,
        port: int,
        factory: object,
        timeout: float = ...,
        bindAddress: Address | None = ...,  # noqa: N803 - Twisted's name
    ) -> object:
        """Open a TCP connection."""


class OpenPort(TypingProtocol):
    """A listening port."""

    def getHost(self) -> object:  # noqa: N802 - Twisted's name
        """Return the address it is bound to."""

    def stopListening(self) -> Deferred[None] | None:  # noqa: N802 - Twisted's name
        """Close it."""


class _Datagrams(TypingProtocol):
    """A UDP transport."""

    def write(self, packet: bytes, addr: Address) -> None:
        """Send a datagram."""


class _TlsFactory(TLSMemoryBIOFactory):
    """Lets the inner factory refuse a connection, as Twisted's own does for TCP but not for TLS.

    Messages are written whole, so nothing is gained by collecting small writes for a turn of the reactor.
    """

    protocol: type[TLSMemoryBIOProtocol] = TLSMemoryBIOProtocol

    def buildProtocol(self, addr: object) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]  # noqa: N802 - Twisted's name; it answers None to refuse
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)


def _tls_factory(settings: ContextFactory, inner: object, *, client: bool) -> TLSMemoryBIOFactory:
    factory = _TlsFactory(settings, client, cast("IProtocolFactory", inner))
    factory.noisy = False
    return factory


def _client_settings(settings: ClientTls, name: str) -> ContextFactory:
    """Return the settings for a peer that must show ``name``."""
    if hasattr(settings, "clientConnectionForTLS") or hasattr(settings, "getContext"):
        return cast("ContextFactory", settings)
    return settings(name)


class UdpPort(DatagramProtocol):
    """A UDP port: SIP and STUN Binding side by side (RFC 5626 8)."""

    noisy = False

    def __init__(self, sink: Sink, role: str) -> None:
        self._sink = sink
        self._role = role
        self.address: Address = ("", 0)
        self.stun_waiting: dict[bytes, Callable[[Address | None], None]] = {}
        """Who waits for which STUN transaction; called with the mapped address, None for an error response."""

    def flow_to(self, remote: Address) -> Flow:
        """Return the flow between this port and a remote address."""
        name = f"udp-{self.address[0]}-{self.address[1]}-{remote[0]}-{remote[1]}"
        return Flow("UDP", self.address, remote, name, self._role)

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:  # noqa: N802 - Twisted's name
        """Answer STUN, parse SIP, drop the rest."""
        remote = (addr[0], addr[1])
        if datagram and datagram[0] & 0xC0 == 0 and stun.is_stun(datagram):
            self._stun(datagram, remote)
            return
        if not datagram.strip(b"\r\n\x00"):
            return
        flow = self.flow_to(remote)
        try:
            message = parse_message(datagram)
        except SipParseError as fault:
            self._sink.fault_arrived(fault, datagram, flow)
            return
        self._sink.message_arrived(message, datagram, flow)

    def _stun(self, datagram: bytes, remote: Address) -> None:
        answer = stun.binding_answer(datagram, remote)
        if answer is not None:
            self.send(answer, remote)
            return
        response = stun.mapped_address(datagram)
        waiting = self.stun_waiting.pop(response[0], None) if response is not None else None
        if response is not None and waiting is not None:
            waiting(response[1])

    def send(self, data: bytes, remote: Address) -> bool:
        """Send a datagram; False when the kernel would not take it."""
        if self.transport is None:
            return False
        try:
            cast("_Datagrams", self.transport).write(data, remote)
        except OSError:
            return False
        return True


class _ServerFactory(Factory):
    noisy = False

    def __init__(self, layer: TransportLayer, role: str, *, tls: bool) -> None:
        self._layer = layer
        self._role = role
        self._tls = tls

    def buildProtocol(self, addr: IPv4Address | IPv6Address) -> StreamConnection | None:  # type: ignore[override]  # noqa: N802 - Twisted's name; it answers None to refuse
        return self._layer.accept(addr.host, self._role, tls=self._tls)


class _ClientFactory(ClientFactory):
    noisy = False

    def __init__(self, layer: TransportLayer, key: ConnectionKey) -> None:
        self._layer = layer
        self._key = key

    def buildProtocol(self, addr: object) -> StreamConnection:  # noqa: N802, ARG002 - Twisted's name
        return self._layer.dialled(self._key)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:  # noqa: N802, ARG002 - Twisted's
        self._layer.dial_failed(self._key, reason)


ConnectionKey = tuple[str, str, str, int, str]
"""Role, transport, host, port, TLS name: what makes an outgoing connection reusable."""
ConnectionReady = Callable[[StreamConnection | None, str], None]
"""Called with the open connection, or None and what went wrong."""


class TransportLayer:
    """Opens ports, accepts and dials connections, and finds them again by flow or by next hop."""

    def __init__(self, reactor: Reactor, sink: Sink, limits: StackLimits) -> None:
        self.reactor = reactor
        self.clock: Clock = reactor
        self.sink = sink
        self.limits = limits
        self.listeners: list[Listener] = []
        self._ports: list[OpenPort] = []
        self._udp: list[tuple[Listener, UdpPort]] = []
        self._client_tls: dict[str, ClientTls] = {}
        self._before_tls: dict[str, BeforeTls] = {}
        self._serials = itertools.count(1)
        self._by_flow: dict[str, StreamConnection] = {}
        self._by_key: dict[ConnectionKey, StreamConnection] = {}
        self._keys: dict[StreamConnection, ConnectionKey] = {}
        self._waiting: dict[ConnectionKey, list[ConnectionReady]] = {}
        self._deadlines: dict[ConnectionKey, DelayedCall] = {}
        self._sources: dict[StreamConnection, str] = {}
        self._per_source: Counter[str] = Counter()
        self._per_role: Counter[str] = Counter()
        self._silent: dict[str, dict[StreamConnection, float]] = {}
        """Accepted connections without a message so far, oldest first, and since when."""
        self._stopping = False

    def set_client_tls(self, role: str, settings: ClientTls, before: BeforeTls | None = None) -> None:
        """Give the TLS settings of outgoing connections of a role, and what they wait for before they are dialled."""
        self._client_tls[role] = settings
        if before is not None:
            self._before_tls[role] = before

    def listen(
        self, transport: str, host: str, port: int, role: str, tls: ContextFactory | None, timers: TimerConfig
    ) -> Listener:
        """Open a port; CannotListenError when it is taken."""
        if transport == "UDP":
            udp = UdpPort(self.sink, role)
            opened = self.reactor.listenUDP(port, udp, interface=host, maxPacketSize=65_535)
        else:
            factory: object = _ServerFactory(self, role, tls=transport == "TLS")
            if transport == "TLS":
                if tls is None:
                    raise ValueError("TLS needs a context factory")
                factory = _tls_factory(tls, factory, client=False)
            opened = self.reactor.listenTCP(port, factory, interface=host)
        bound = cast("IPv4Address | IPv6Address", opened.getHost())
        listener = Listener(transport, (bound.host, bound.port), role, timers)
        self._ports.append(opened)
        self.listeners.append(listener)
        if transport == "UDP":
            udp.address = listener.address
            self._udp.append((listener, udp))
        return listener

    def listener_for(self, role: str, transport: str, host: str) -> Listener | None:
        """Return the role's listener of a transport, in the address family of ``host`` where there is a choice."""
        found = [one for one in self.listeners if one.role == role and one.transport == transport]
        same = [one for one in found if (":" in one.address[0]) == (":" in host)]
        return next(iter(same or found), None)

    def udp_port(self, role: str, host: str) -> UdpPort | None:
        """Return the role's UDP port of the address family of ``host``."""
        for listener, port in self._udp:
            if listener.role == role and (":" in listener.address[0]) == (":" in host):
                return port
        return None

    def udp_port_at(self, local: Address) -> UdpPort | None:
        """Return the UDP port bound to an address."""
        return next((port for _, port in self._udp if port.address == local), None)

    def connection(self, flow: Flow) -> StreamConnection | None:
        """Return the open connection of a flow."""
        return self._by_flow.get(flow.id)

    def flows(self, role: str) -> list[Flow]:
        """Return the flows of a role's open connections."""
        return [one.flow for one in self._by_flow.values() if one.flow.role == role]

    def accept(self, host: str, role: str, *, tls: bool) -> StreamConnection | None:
        """Make the connection of an incoming attempt, None over a limit."""
        refusal = "stopping" if self._stopping else self._refusal(host, role)
        if refusal:
            self.sink.octets_dropped(refusal, b"", None)
            return None
        connection = StreamConnection(self, role, next(self._serials), tls=tls, accepted=True)
        self._sources[connection] = host
        self._per_source[host] += 1
        self._per_role[role] += 1
        self._silent.setdefault(role, {})[connection] = self.clock.seconds()
        return connection

    def _refusal(self, host: str, role: str) -> str:
        """Say why no more connections are accepted, "" when they are; the longest silent one gives way."""
        limits, silent = self.limits, self._silent.get(role, {})
        if role not in limits.trusted_roles and self._per_source[host] >= limits.connections_per_source:
            return "too many connections of one source"
        if self._per_role[role] >= limits.connections:
            return "too many connections"
        if len(silent) >= limits.silent_connections:
            oldest, since = next(iter(silent.items()))
            if self.clock.seconds() - since < limits.silent_patience:
                return "too many silent connections"
            del silent[oldest]
            self.sink.octets_dropped("silent too long", b"", oldest.flow)
            oldest.abort()
        return ""

    def spoke(self, connection: StreamConnection) -> None:
        """Count a connection among those that said something."""
        self._silent.get(connection.flow.role, {}).pop(connection, None)

    def connect(self, hop: Hop, role: str, ready: ConnectionReady) -> None:
        """Find or open the connection to a hop; ``ready`` is called at once when it stands already."""
        key: ConnectionKey = (role, hop.transport, hop.host, hop.port, hop.tls_name or "")
        standing = self._by_key.get(key)
        if standing is not None and standing.is_open:
            ready(standing, "")
            return
        waiting = self._waiting.setdefault(key, [])
        waiting.append(ready)
        if len(waiting) > 1:
            return
        self._deadlines[key] = self.clock.callLater(self.limits.connect_deadline, self._too_slow, key)
        before = self._before_tls.get(role) if hop.transport == "TLS" else None
        if before is None:
            self._dial(hop, key)
        else:
            before(hop.tls_name or hop.host, partial(self._dial, hop, key))

    def _dial(self, hop: Hop, key: ConnectionKey) -> None:
        if key not in self._waiting:  # it took too long, or the stack stopped
            return
        role = key[0]
        factory: object = _ClientFactory(self, key)
        if hop.transport == "TLS":
            settings = self._client_tls.get(role)
            if settings is None:
                self._answer_waiting(key, None, f"no client TLS settings for role {role}")
                return
            factory = _tls_factory(_client_settings(settings, hop.tls_name or hop.host), factory, client=True)
        source = self._source_address(role, hop.host)
        self.reactor.connectTCP(hop.host, hop.port, factory, timeout=self.limits.connect_deadline, bindAddress=source)

    def _source_address(self, role: str, host: str) -> Address | None:
        """Dial from the role's own address, so that the peer sees the node it knows."""
        for one in self.listeners:
            if (
                one.role == role
                and (":" in one.address[0]) == (":" in host)
                and one.address[0] not in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
            ):
                return one.address[0], 0
        return None

    def dialled(self, key: ConnectionKey) -> StreamConnection:
        """Make the protocol of an outgoing connection."""
        connection = StreamConnection(self, key[0], next(self._serials), tls=key[1] == "TLS", accepted=False)
        self._keys[connection] = key
        return connection

    def dial_failed(self, key: ConnectionKey, reason: Failure) -> None:
        """Tell everybody waiting that the connection could not be opened."""
        self._answer_waiting(key, None, reason.getErrorMessage())

    def opened(self, connection: StreamConnection) -> None:
        """Enter a complete connection into the tables."""
        if self._stopping:
            connection.abort()
            return
        self._by_flow[connection.flow.id] = connection
        key = self._keys.get(connection)
        if key is not None:
            self._by_key[key] = connection
            self._answer_waiting(key, connection, "")

    def closed(self, connection: StreamConnection, reason: Failure) -> None:
        """Take a connection out of the tables and tell its users."""
        key = self._keys.pop(connection, None)
        known = self._by_flow.pop(connection.flow.id, None)
        if key is not None:
            if self._by_key.get(key) is connection:
                del self._by_key[key]
            if known is None:
                self._answer_waiting(key, None, reason.getErrorMessage())
        source = self._sources.pop(connection, None)
        if source is not None:
            self._per_source[source] -= 1
            if self._per_source[source] <= 0:
                del self._per_source[source]
            self._per_role[connection.flow.role] -= 1
            self.spoke(connection)
        if known is not None:
            self.sink.connection_lost(connection.flow)

    def _too_slow(self, key: ConnectionKey) -> None:
        del self._deadlines[key]
        self._answer_waiting(key, None, "connection too slow")

    def _answer_waiting(self, key: ConnectionKey, connection: StreamConnection | None, detail: str) -> None:
        deadline = self._deadlines.pop(key, None)
        if deadline is not None and deadline.active():
            deadline.cancel()
        for ready in self._waiting.pop(key, []):
            ready(connection, detail)

    def stop(self) -> list[Deferred[None]]:
        """Close all ports and connections; returns what to wait for."""
        self._stopping = True
        for key in list(self._waiting):
            self._answer_waiting(key, None, "the stack stopped")
        pending = [port.stopListening() for port in self._ports]
        for connection in [*self._sources, *self._keys]:
            connection.abort()
        self._ports.clear()
        self._udp.clear()
        self.listeners.clear()
        return [one for one in pending if one is not None]
