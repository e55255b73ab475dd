"""Sizes and counts that bound what a peer can make this stack hold (testbed decisions, all assumed).

Octets unless a name says otherwise. Over a limit a request is answered 400, 413 (body) or 513 (whole message),
503 for rate; a response is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEADER_BLOCK = 64 * 1024
MAX_HEADER_LINE = 8 * 1024
MAX_HEADER_COUNT = 200
MAX_ROUTE_ENTRIES = 70
"""Via, Route and Record-Route values each."""
MAX_URI = 2 * 1024
MAX_BODY = 256 * 1024
MAX_TAG = 512
"""To and From tags and Call-ID."""
MAX_EARLY_DIALOGS = 16
MAX_DATAGRAM = 65_535
MTU_SAFE_REQUEST = 1300
"""A longer request never leaves on UDP while the path MTU is unknown (RFC 3261 18.1.1)."""


@dataclass(frozen=True)
class StackLimits:
    """What one source address and one connection may use up; times in seconds (assumed values).

    A source is one IP address. The per-source bounds do not hold for ``trusted_roles``, where one neighbour
    stands for thousands of users.
    """

    pending_transactions_per_source: int = 1000
    """Server transactions without a final response."""
    transactions_per_source: int = 20_000
    """Server transactions of any state, so also those that only absorb retransmissions."""
    requests_per_second: float | None = None
    """New requests per source; None: unlimited."""
    registers_per_second: float = 10.0
    """REGISTER requests without credentials per source."""
    connections_per_source: int = 256
    connections: int = 10_000
    """Accepted connections of one role, of all sources together."""
    silent_connections: int = 512
    """Accepted connections of one role that have not sent a complete message yet, TLS handshakes included."""
    silent_patience: float = 1.0
    """After this long such a connection gives way to a new one when there are too many of them."""
    handshake_deadline: float = 5.0
    """From an accepted connection to the end of its TLS handshake."""
    message_deadline: float = 20.0
    """From the first octet of a message on a stream to its last."""
    first_message_deadline: float = 32.0
    """From an accepted connection to its first complete message or keep-alive."""
    idle_deadline: float = 3600.0
    """A connection without a single octet received for this long is closed."""
    answer_deadline: float = 4.0
    """From the fault that ends a stream to its close, for the answers to what came before the fault."""
    connect_deadline: float = 8.0
    """From the attempt to an open connection, TLS handshake included."""
    unsent_octets: int = 1024 * 1024
    """Octets waiting for a peer that does not read; above it the connection is cut."""
    trusted_roles: frozenset[str] = frozenset({"mw", "isc"})
