"""TLS of SIP connections: who is believed, and what a certificate has to show (TS 33.210, TS 33.310, TS 33.203 O).

One lab CA, TLS 1.2 with forward secrecy and AEAD or TLS 1.3, no renegotiation, no compression. A server is checked
against the name or address that was dialled (RFC 6125 6.4); the check is part of the handshake, so nothing is ever
sent to another one. Between nodes a revoked certificate does not get through the handshake, and one that is revoked
later loses its connections (TS 33.310).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from nodes.handshakes import Watch
from nodes.mwnames import Names, no_names
from sba.errors import IdentityError
from sba.identity import NodeIdentity, PeerIdentity, read_identity
from sba.networks import is_ip_literal
from signalling.sip.connection import DelayedCall
from signalling.sip.flow import Flow
from signalling.sip.stack import SipStack
from signalling.sip.transport import ContextFactory

CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 cipher suites (TS 33.210 6.2, assumed); those of TLS 1.3 are all acceptable."""
_NO_RENEGOTIATION: Final = 0x40000000
"""SSL_OP_NO_RENEGOTIATION of OpenSSL, which not every binding names."""

SWEEP_S: Final = 1.0
"""Seconds between two looks at the revocation list."""

_Check = Callable[[SSL.Connection, X509, int, int, int], bool]


def _context(
    ca_path: Path, identity: NodeIdentity | None, check: _Check | None, watch: Watch | None = None
) -> SSL.Context:
    """Settings both ends share. `identity`: the certificate shown; `check`: what the peer's has to pass."""
    context = SSL.Context(SSL.TLS_METHOD)
    if watch is not None:
        context.set_info_callback(watch)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    if identity is not None:
        context.use_privatekey_file(str(identity.key_path))
        context.use_certificate_chain_file(str(identity.certificate_path))
    if check is not None:
        context.load_verify_locations(str(ca_path))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
    return context


def _unrevoked(certificate: X509, depth: int, identity: NodeIdentity) -> bool:
    if depth > 0:
        return True
    identity.revoked.refresh()
    return certificate.get_serial_number() not in identity.revoked


def _by_the_ca(identity: NodeIdentity) -> _Check:
    def check(_connection: SSL.Connection, certificate: X509, _error: int, depth: int, verified: int) -> bool:
        return bool(verified) and _unrevoked(certificate, depth, identity)

    return check


def shows_name(certificate: x509.Certificate, name: str) -> bool:
    """A subject alternative name of the certificate is the host name or address `name` (RFC 6125 6.4).

    No wildcards, no common name. What the other entries say does not matter.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    if is_ip_literal(name):
        return name in {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return name.lower() in {shown.lower() for shown in names.get_values_for_type(x509.DNSName)}


@implementer(IOpenSSLServerConnectionCreator)
class _Server:
    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Client:
    """The client end of connections to one name or address."""

    def __init__(
        self,
        ca_path: Path,
        identity: NodeIdentity | None,
        name: str,
        instead: Names = no_names,
        watch: Watch | None = None,
    ) -> None:
        self._name = name
        self._instead = instead
        self._identity = identity
        self._context = _context(ca_path, identity, self._checked, watch)

    def _checked(self, _connection: SSL.Connection, certificate: X509, _error: int, depth: int, verified: int) -> bool:
        if self._identity is not None and not _unrevoked(certificate, depth, self._identity):
            return False
        return bool(verified) and (depth > 0 or self._shows(certificate.to_cryptography()))

    def _shows(self, certificate: x509.Certificate) -> bool:
        if shows_name(certificate, self._name):
            return True
        return is_ip_literal(self._name) and any(shows_name(certificate, name) for name in self._instead(self._name))

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        if not is_ip_literal(self._name):
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


def server(identity: NodeIdentity, *, mutual: bool, watch: Watch | None = None) -> ContextFactory:
    """A listener. `mutual`: nobody without a certificate of the lab CA gets through the handshake (Mw);
    otherwise the client is not asked for one (Gm, TLS-1). `watch` sees every handshake."""
    check = _by_the_ca(identity) if mutual else None
    return cast("ContextFactory", _Server(_context(identity.ca_path, identity, check, watch)))


def client(
    ca_path: Path,
    identity: NodeIdentity | None = None,
    instead: Names = no_names,
    *,
    watch: Watch | None = None,
) -> Callable[[str], ContextFactory]:
    """Outgoing connections by the name or address dialled; `identity` is shown when the server asks.

    `instead` gives names of which the certificate may show one where an address was dialled (:mod:`nodes.mwnames`).
    `watch` sees every handshake.
    """
    made: dict[str, _Client] = {}

    def for_name(name: str) -> ContextFactory:
        if name not in made:
            made[name] = _Client(ca_path, identity, name, instead, watch)
        return cast("ContextFactory", made[name])

    return for_name


class RevokedError(Exception):
    """The peer's certificate was revoked; its connection is being cut."""


class TlsPeers:
    """Who is at the other end of the TLS connections of one role, for as long as the lab CA stands by it."""

    def __init__(self, stack: SipStack, role: str, identity: NodeIdentity, journal: Callable[..., None]) -> None:
        self._stack = stack
        self._role = role
        self._identity = identity
        self._journal = journal
        self._known: dict[str, PeerIdentity | None] = {}
        self._swept = identity.revoked.serial_numbers
        self._next: DelayedCall | None = None

    def start(self) -> None:
        """Look at the revocation list every ``SWEEP_S`` seconds."""
        self._next = self._stack.clock.callLater(SWEEP_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    def of(self, flow: Flow) -> PeerIdentity | None:
        """The NF identity in the certificate of a flow's peer, which the handshake verified; None when it names none.

        Raises ``RevokedError``. What the certificate says is read once a connection, whether it still counts each time.
        """
        peer = self._read(flow)
        self._identity.revoked.refresh()
        if peer is not None and peer.serial_number in self._identity.revoked:
            self._stack.clock.callLater(0, self._cut, flow, peer)
            raise RevokedError
        return peer

    def closed(self, flow: Flow) -> None:
        """Forget a connection that is gone."""
        self._known.pop(flow.id, None)

    def sweep(self) -> None:
        """Cut every connection whose peer was revoked, in either direction, when the list is another than before."""
        self._identity.revoked.refresh()
        revoked = self._identity.revoked.serial_numbers
        if revoked == self._swept:
            return
        self._swept = revoked
        for flow in self._stack.flows(self._role):
            peer = self._read(flow)
            if peer is not None and peer.serial_number in revoked:
                self._cut(flow, peer)

    def _look(self) -> None:
        self._next = self._stack.clock.callLater(SWEEP_S, self._look)
        self.sweep()

    def _read(self, flow: Flow) -> PeerIdentity | None:
        if flow.id in self._known:
            return self._known[flow.id]
        certificate = self._stack.peer_certificate(flow)
        if certificate is None:
            return None
        try:
            peer = read_identity(x509.load_der_x509_certificate(certificate))
        except (ValueError, IdentityError):
            peer = None
        self._known[flow.id] = peer
        return peer

    def _cut(self, flow: Flow, peer: PeerIdentity) -> None:
        if not self._stack.is_open(flow):
            return
        self._journal(
            "peer.revoked", level="warning", peer=peer.instance_id, address=f"{flow.remote[0]}:{flow.remote[1]}"
        )
        self._stack.cut_flow(flow)
