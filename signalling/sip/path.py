"""The way of a request to its next hop: connections, the 1300-octet rule, the fall back to UDP (RFC 3261 18.1.1)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from signalling.sip.connection import StreamConnection
from signalling.sip.flow import STREAM_TRANSPORTS, Address, Flow, Hop, MessageObserver
from signalling.sip.headers import Via
from signalling.sip.limits import MTU_SAFE_REQUEST
from signalling.sip.model import SipRequest
from signalling.sip.timers import TimerConfig
from signalling.sip.transaction import client_transaction
from signalling.sip.transport import TransportLayer, UdpPort
from signalling.sip.txn import ClientTxn


class ClientPaths:
    """Finds the port or connection of each client transaction, and writes its requests there."""

    def __init__(self, transport: TransportLayer, observer: MessageObserver) -> None:
        self._transport = transport
        self._observer = observer
        self._paths: dict[ClientTxn, UdpPort | StreamConnection] = {}
        self._by_flow: dict[str, set[ClientTxn]] = {}

    def sent_by(self, hop: Hop, role: str) -> Address:
        """Return what the Via names: the role's listening address, else the local end of the connection."""
        listener = self._transport.listener_for(role, hop.transport, hop.host)
        if listener is not None:
            return listener.address
        if hop.flow is not None:
            return hop.flow.local
        any_listener = next((one for one in self._transport.listeners if one.role == role), None)
        return any_listener.address if any_listener is not None else ("invalid.invalid", 0)

    def open(self, txn: ClientTxn, timers: TimerConfig) -> None:
        """Find the path of a transaction and begin it there; a failure is reported later, never within this call."""
        hop = txn.hop
        if hop.flow is not None and hop.flow.reliable:
            connection = self._transport.connection(hop.flow)
            if connection is None:
                self._fail_later(txn, "flow-gone", "the connection is closed")
                return
            self._begin_on_connection(txn, timers, connection)
        elif hop.transport in STREAM_TRANSPORTS:
            self._transport.connect(hop, txn.role, partial(self._connected, txn, timers, None))
        else:
            self._open_udp(txn, timers)

    def _open_udp(self, txn: ClientTxn, timers: TimerConfig) -> None:
        hop = txn.hop
        port = self._port(hop, txn.role)
        if port is None:
            self._fail_later(txn, "transport", f"no UDP port of role {txn.role}")
        elif hop.flow is None and txn.request.method != "CANCEL" and len(txn.request.to_bytes()) > MTU_SAFE_REQUEST:
            tcp = replace(hop, transport="TCP")
            over_udp = txn.request.headers.first_value("via") or ""
            self._rewrite_via(txn.request, "TCP", self.sent_by(tcp, txn.role))
            self._transport.connect(tcp, txn.role, partial(self._connected, txn, timers, over_udp))
        else:
            self._begin_on_udp(txn, timers, port)

    def _port(self, hop: Hop, role: str) -> UdpPort | None:
        if hop.flow is not None:
            return self._transport.udp_port_at(hop.flow.local)
        return self._transport.udp_port(role, hop.host)

    def _begin_on_udp(self, txn: ClientTxn, timers: TimerConfig, port: UdpPort) -> None:
        self._paths[txn] = port
        txn.flow = port.flow_to((txn.hop.host, txn.hop.port))
        txn.begin(client_transaction(txn.request, timers, reliable=False))

    def _begin_on_connection(self, txn: ClientTxn, timers: TimerConfig, connection: StreamConnection) -> None:
        self._paths[txn] = connection
        txn.flow = connection.flow
        self._by_flow.setdefault(connection.flow.id, set()).add(txn)
        txn.begin(client_transaction(txn.request, timers, reliable=True))

    def _connected(
        self,
        txn: ClientTxn,
        timers: TimerConfig,
        over_udp: str | None,
        connection: StreamConnection | None,
        detail: str,
    ) -> None:
        """Begin on the new connection; TCP that was chosen for size alone falls back to UDP."""
        if txn.is_over:
            return
        if connection is not None:
            transport = connection.flow.transport
            if self._transport.listener_for(txn.role, transport, txn.hop.host) is None:
                self._rewrite_via(txn.request, transport, connection.flow.local)
            self._begin_on_connection(txn, timers, connection)
            return
        port = self._port(txn.hop, txn.role) if over_udp is not None else None
        if over_udp is None or port is None:
            self._fail_later(txn, "transport", detail)
            return
        txn.request.headers.replace_first_value("Via", over_udp)
        self._begin_on_udp(txn, timers, port)

    @staticmethod
    def _rewrite_via(request: SipRequest, transport: str, address: Address) -> None:
        via = request.top_via
        request.headers.replace_first_value("Via", str(Via(transport, address[0], address[1], via.params)))

    def _fail_later(self, txn: ClientTxn, cause: str, detail: str) -> None:
        self._transport.clock.callLater(0, txn.fail, cause, detail)

    def write(self, txn: ClientTxn, request: SipRequest, *, again: bool) -> bool:
        """Write a request of a transaction on its path; False when the path is gone."""
        path = self._paths.get(txn)
        data = request.to_bytes()
        if path is None or not self._put(path, data, (txn.hop.host, txn.hop.port)):
            return False
        flow = txn.flow
        if flow is not None:
            if again:
                self._observer.retransmission("sent", data, request, flow, txn.key)
            else:
                self._observer.message_sent(data, request, flow, txn.key)
        return True

    @staticmethod
    def _put(path: UdpPort | StreamConnection, data: bytes, remote: Address) -> bool:
        if isinstance(path, UdpPort):
            return path.send(data, remote)
        if path.is_closed:
            return False
        path.write(data)
        return True

    def written(self, connection: StreamConnection | None, data: bytes) -> Flow | None:
        """Write octets on a connection that was just opened; return its flow, None without one."""
        if connection is None:
            return None
        connection.write(data)
        return connection.flow

    def send_once(self, request: SipRequest, hop: Hop, role: str) -> None:
        """Send a request that has no transaction (the ACK of a 2xx); a failure is only observed."""

        def connected(connection: StreamConnection | None, detail: str) -> None:
            if connection is None and hop.transport == "UDP":
                self._rewrite_via(request, "UDP", self.sent_by(hop, role))
                over_udp()
            elif connection is None:
                self._observer.message_dropped(f"ACK undeliverable: {detail}", request.to_bytes(), None)
            else:
                if self._transport.listener_for(role, connection.flow.transport, hop.host) is None:
                    self._rewrite_via(request, connection.flow.transport, connection.flow.local)
                data = request.to_bytes()
                connection.write(data)
                self._observer.message_sent(data, request, connection.flow, "stateless")

        def over_udp() -> None:
            port = self._port(hop, role)
            data = request.to_bytes()
            if port is None or not port.send(data, (hop.host, hop.port)):
                self._observer.message_dropped("ACK undeliverable", data, None)
                return
            self._observer.message_sent(data, request, port.flow_to((hop.host, hop.port)), "stateless")

        if hop.flow is not None and hop.flow.reliable:
            connected(self._transport.connection(hop.flow), "flow gone")
        elif hop.transport in STREAM_TRANSPORTS:
            self._transport.connect(hop, role, connected)
        elif hop.flow is None and len(request.to_bytes()) > MTU_SAFE_REQUEST:
            tcp = replace(hop, transport="TCP")
            self._rewrite_via(request, "TCP", self.sent_by(tcp, role))
            self._transport.connect(tcp, role, connected)
        else:
            over_udp()

    def forget(self, txn: ClientTxn) -> None:
        """Drop the path of a terminated transaction."""
        self._paths.pop(txn, None)
        if txn.flow is not None:
            users = self._by_flow.get(txn.flow.id)
            if users is not None:
                users.discard(txn)
                if not users:
                    del self._by_flow[txn.flow.id]

    def lost(self, flow: Flow) -> None:
        """Tell the transactions of a connection that it is gone."""
        for txn in list(self._by_flow.get(flow.id, ())):
            txn.transport_lost()
