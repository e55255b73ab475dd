"""TLS of the edge: server side alone on Gm (TLS-1), mutual on Mw, and who the peer on Mw is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from sba.errors import IdentityError
from sba.identity import NodeIdentity, is_ip_literal, read_identity
from signalling.sip.transport import ContextFactory

CORE_TYPES: Final = frozenset({"SCSCF", "ICSCF", "PCSCF", "IMS_AS", "ECSCF"})
"""NF types believed on Mw: they make up the trust domain (RFC 3325 3)."""
CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2 suites with forward secrecy and AEAD (TS 33.210 6.2, assumed)."""
_NO_RENEGOTIATION: Final = 0x40000000


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
    """The client end of connections to one name or address, which the peer's certificate has to show (RFC 6125)."""

    def __init__(self, context: SSL.Context, name: str) -> None:
        context.set_info_callback(self._progress)
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802 - Twisted's name
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(protocol)
        if not is_ip_literal(self._name):
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        return connection

    def _progress(self, connection: SSL.Connection, where: int, _code: int) -> None:
        if not where & SSL.SSL_CB_HANDSHAKE_DONE:
            return
        certificate = connection.get_peer_certificate()
        if certificate is None or not _shows(certificate.to_cryptography(), self._name):
            connection.get_app_data().failVerification(Failure(IdentityError(f"the peer is not {self._name}")))


def _shows(certificate: x509.Certificate, name: str) -> bool:
    """A subject alternative name of the certificate is `name`; no wildcards, no common name (RFC 6125 6.4)."""
    try:
        peer = read_identity(certificate)
    except IdentityError:
        return False
    if is_ip_literal(name):
        return name in peer.addresses
    return name.lower() in (shown.lower() for shown in peer.dns_names)


def _context(ca_path: Path, identity: NodeIdentity | None, *, verify: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    if identity is not None:
        context.use_privatekey_file(str(identity.key_path))
        context.use_certificate_chain_file(str(identity.certificate_path))
    if verify:
        context.load_verify_locations(str(ca_path))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _as_verified)
    return context


def _as_verified(_connection: SSL.Connection, _certificate: object, _error: int, _depth: int, verified: int) -> bool:
    return bool(verified)


def gm_server(identity: NodeIdentity) -> ContextFactory:
    """The Gm listener: shows the node's certificate, never asks the UE for one (TLS-1)."""
    return cast("ContextFactory", _Server(_context(identity.ca_path, identity, verify=False)))


def mw_server(identity: NodeIdentity) -> ContextFactory:
    """The Mw listener: nobody without a certificate of the lab CA gets through the handshake."""
    return cast("ContextFactory", _Server(_context(identity.ca_path, identity, verify=True)))


def client(ca_path: Path, identity: NodeIdentity | None = None) -> Callable[[str], ContextFactory]:
    """Outgoing connections: the peer is checked against the name or address dialled."""
    made: dict[str, _Client] = {}

    def for_name(name: str) -> ContextFactory:
        if name not in made:
            made[name] = _Client(_context(ca_path, identity, verify=True), name)
        return cast("ContextFactory", made[name])

    return for_name


def is_core_peer(certificate: bytes, identity: NodeIdentity, types: Collection[str] = CORE_TYPES) -> bool:
    """The holder of a verified certificate (DER) belongs to the trust domain and is not revoked."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        peer = read_identity(parsed)
    except (ValueError, IdentityError):
        return False
    identity.revoked.refresh()
    return parsed.serial_number not in identity.revoked and bool(set(peer.nf_types) & set(types))
