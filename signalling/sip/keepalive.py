"""Keep-alive of a flow by the side that opened it (RFC 5626 4.4, RFC 6223)."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable

from signalling.sip import stun
from signalling.sip.connection import DelayedCall, StreamConnection
from signalling.sip.flow import Flow
from signalling.sip.transport import TransportLayer, UdpPort

STREAM_INTERVAL = (95.0, 120.0)
"""Seconds between pings on TCP and TLS without an advised value (RFC 5626 4.4.1)."""
DATAGRAM_INTERVAL = (24.0, 29.0)
"""Seconds between STUN requests on UDP without an advised value (RFC 5626 4.4.2)."""
_STUN_SENDINGS = 7
_STUN_FIRST_WAIT = 0.5


class Keepalive:
    """Pings one flow until :meth:`stop`; ``failed`` is called once when the flow does not answer any more.

    ``advised``: seconds from the ``keep`` value or Flow-Timer; pings go out at a random 80-100 % of it.
    """

    def __init__(
        self,
        transport: TransportLayer,
        flow: Flow,
        failed: Callable[[], None],
        *,
        advised: float | None = None,
        random_source: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._failed = failed
        self._advised = advised
        self._random = random_source or random.SystemRandom()
        self._next: DelayedCall | None = None
        self._transaction = b""
        self._sendings = 0
        self._mapped: tuple[str, int] | None = None
        self._over = False
        self._schedule()

    def stop(self) -> None:
        """Stop pinging."""
        self._over = True
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _schedule(self) -> None:
        if self._advised:
            delay = self._advised * self._random.uniform(0.8, 1.0)
        else:
            delay = self._random.uniform(*(STREAM_INTERVAL if self._flow.reliable else DATAGRAM_INTERVAL))
        self._next = self._transport.clock.callLater(delay, self._ping)

    def _ping(self) -> None:
        if self._flow.reliable:
            connection: StreamConnection | None = self._transport.connection(self._flow)
            if connection is None:
                self._fail()
                return
            connection.ping(self._fail)
            self._schedule()
            return
        self._transaction = secrets.token_bytes(12)
        self._sendings = 0
        self._send_stun()

    def _send_stun(self) -> None:
        port: UdpPort | None = self._transport.udp_port_at(self._flow.local)
        if port is None or self._sendings == _STUN_SENDINGS:
            self._fail()
            return
        port.stun_waiting[self._transaction] = self._answered
        port.send(stun.binding_request(self._transaction), self._flow.remote)
        wait = _STUN_FIRST_WAIT * 2**self._sendings
        self._sendings += 1
        self._next = self._transport.clock.callLater(wait, self._send_stun)

    def _answered(self, mapped: tuple[str, int] | None) -> None:
        """Take a Binding response: an error or another mapped address means the flow failed (RFC 5626 4.4.2)."""
        if self._over:
            return
        if self._next is not None and self._next.active():
            self._next.cancel()
        if mapped is None or (self._mapped is not None and mapped != self._mapped):
            self._fail()
            return
        self._mapped = mapped
        self._schedule()

    def _fail(self) -> None:
        port = None if self._flow.reliable else self._transport.udp_port_at(self._flow.local)
        if port is not None:
            port.stun_waiting.pop(self._transaction, None)
        if not self._over:
            self.stop()
            self._failed()
