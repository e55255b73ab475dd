"""TLS of the UE towards its P-CSCF: the lab CA and the server's name are checked, no own certificate (TS 33.203 O)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import cast

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""Cipher suites of TLS 1.2 (TS 33.210 6.2, assumed); those of TLS 1.3 are all acceptable."""
_NO_RENEGOTIATION = 0x40000000
"""SSL_OP_NO_RENEGOTIATION of OpenSSL, which not every binding names."""


def shows_name(certificate: x509.Certificate, name: str) -> bool:
    """Tell whether a subject alternative name is `name`; no wildcards, no common name (RFC 6125 6.4)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.lower() in (shown.lower() for shown in names.get_values_for_type(x509.DNSName))
    return address in names.get_values_for_type(x509.IPAddress)


@implementer(IOpenSSLClientConnectionCreator)
class _Client:
    """Makes connections to one name. The check is part of the handshake: nothing is sent to another server."""

    def __init__(self, ca_path: Path, name: str) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(CIPHERS)
        context.set_options(_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        context.load_verify_locations(str(ca_path))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verified)
        self._context = context
        self._name = name

    def _verified(self, _connection: SSL.Connection, certificate: X509, _error: int, depth: int, verified: int) -> bool:
        return bool(verified) and (depth > 0 or shows_name(certificate.to_cryptography(), self._name))

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        """Give a connection that asks for the name, where it is one (RFC 6066 3)."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        try:
            ipaddress.ip_address(self._name)
        except ValueError:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection


def client_tls(ca_path: Path) -> Callable[[str], IOpenSSLClientConnectionCreator]:
    """Return what makes TLS settings for a server name (TLS-1)."""
    made: dict[str, _Client] = {}

    def for_name(name: str) -> IOpenSSLClientConnectionCreator:
        if name not in made:
            made[name] = _Client(ca_path, name)
        return cast("IOpenSSLClientConnectionCreator", made[name])

    return for_name
