"""Counting TLS handshakes of a node, by interface and how they ended."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

from OpenSSL import SSL

from sba.telemetry import Telemetry

Watch = Callable[[SSL.Connection, int, int], None]
"""An information callback of OpenSSL: connection, where, what."""
_FATAL = 2


class Handshakes:
    """One counter, `tls.handshakes`; give `watch` to the TLS settings of :mod:`nodes.siptls`."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._count = telemetry.meter.create_counter("tls.handshakes", "{handshake}", "TLS handshakes that ended")

    def watch(self, interface: str) -> Watch:
        """Return the callback that counts handshakes on an interface, e.g. ``Gm``.

        A connection has one: session tickets of TLS 1.3 and alerts after it are none. The protocol of the connection
        is its application data.
        """
        ended: WeakSet[object] = WeakSet()

        def seen(connection: SSL.Connection, where: int, what: int) -> None:
            completed = bool(where & SSL.SSL_CB_HANDSHAKE_DONE)
            if not completed and not (where & SSL.SSL_CB_ALERT and what >> 8 == _FATAL):
                return
            protocol = connection.get_app_data()
            if protocol in ended:
                return
            ended.add(protocol)
            self._count.add(
                1,
                {
                    "imslab.interface": interface,
                    "imslab.result": "completed" if completed else "failed",
                    "tls.protocol.version": connection.get_protocol_version_name().removeprefix("TLSv"),
                },
            )

        return seen
