"""TLS of Mw: mutual authentication under the lab CA (TS 33.210, TS 33.310), and who the peer is."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import cast

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from sba.errors import IdentityError
from sba.identity import NodeIdentity, PeerIdentity, is_ip_literal, read_identity

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 cipher suites (TS 33.210 6.2, assumed); those of TLS 1.3 are all acceptable."""


def _context(identity: NodeIdentity) -> SSL.Context:
    """Settings both sides share: own certificate, the lab CA as only authority, no handshake without a certificate."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION)
    context.use_privatekey_file(str(identity.key_path))
    context.use_certificate_chain_file(str(identity.certificate_path))
    context.load_verify_locations(str(identity.ca_path))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_verified)
    return context


def _accept_verified(
    _connection: SSL.Connection, _certificate: object, _error: int, _depth: int, verified: int
) -> bool:
    return bool(verified)


@implementer(IOpenSSLServerConnectionCreator)
class _Server:
    """Makes the server end of Mw connections."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Give a connection that demands a certificate of the lab CA."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        return connection


@implementer(IOpenSSLClientConnectionCreator)
class _Client:
    """Makes the client end of a connection to one name or address, which the server's certificate must show."""

    def __init__(self, context: SSL.Context, name: str) -> None:
        context.set_info_callback(self._handshake_progress)
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Give a connection that asks for the name, where it is one (RFC 6066 3)."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        if not is_ip_literal(self._name):
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection

    def _handshake_progress(self, connection: SSL.Connection, where: int, _code: int) -> None:
        if not where & SSL.SSL_CB_HANDSHAKE_DONE:
            return
        certificate = connection.get_peer_certificate()
        try:
            shown = read_identity(certificate.to_cryptography()) if certificate is not None else None
        except IdentityError:
            shown = None
        if shown is None or not names(shown, self._name):
            connection.get_app_data().failVerification(Failure(IdentityError(f"the peer is not {self._name}")))


def names(peer: PeerIdentity, name: str) -> bool:
    """Say whether a certificate stands for a host name or address; no wildcards, no common name (RFC 6125 6.4)."""
    if is_ip_literal(name):
        return name in peer.addresses
    return name.lower() in (dns_name.lower() for dns_name in peer.dns_names)


def server_tls(identity: NodeIdentity) -> IOpenSSLServerConnectionCreator:
    """Settings of the Mw listener: a client without a certificate of the lab CA does not get through the handshake."""
    return cast("IOpenSSLServerConnectionCreator", _Server(_context(identity)))


def client_tls(identity: NodeIdentity) -> Callable[[str], IOpenSSLClientConnectionCreator]:
    """Settings of outgoing Mw connections: own certificate shown, the server's name or address checked (RFC 6125)."""
    made: dict[str, _Client] = {}

    def for_name(name: str) -> IOpenSSLClientConnectionCreator:
        if name not in made:
            made[name] = _Client(_context(identity), name)
        return cast("IOpenSSLClientConnectionCreator", made[name])

    return for_name


def identity_of(certificate: bytes, identity: NodeIdentity) -> PeerIdentity | None:
    """The NF identity in a peer's certificate (DER) that the handshake verified; None when none or revoked."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        peer = read_identity(parsed)
    except (ValueError, IdentityError):
        return None
    identity.revoked.refresh()
    return None if parsed.serial_number in identity.revoked else peer
