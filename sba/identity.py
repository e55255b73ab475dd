"""Who a node is, and who its peer is: everything read from certificates."""

from __future__ import annotations

import ssl
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from sba.config import NodeEnvironment
from sba.errors import ConfigurationError, IdentityError
from sba.pki import NF_TYPES_OID, decode_nf_types

_URN = "urn:uuid:"
_CACHE_SIZE = 512


def access_name(network: str, domain: str) -> str:
    """Return the name that the certificate of a P-CSCF or IMS-AGW shows for the access network it serves."""
    return f"{network}.access.{domain}"


def cscf_name(home_domain: str) -> str:
    """Return the name that the certificate of an I- or S-CSCF shows for a home domain it serves."""
    return f"scscf.{home_domain}"


def hss_name(home_domain: str) -> str:
    """Return the name that the certificate of an HSS shows for a home domain whose subscribers it has."""
    return f"hss.{home_domain}"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a verified certificate says of its holder (TS 33.501 13.1, assumed certificate profile)."""

    instance_id: str
    nf_types: tuple[str, ...]
    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]
    serial_number: int

    @property
    def nf_type(self) -> str:
        """Return the first NF type, or an empty string when the certificate names none."""
        return self.nf_types[0] if self.nf_types else ""


def read_identity(certificate: x509.Certificate) -> PeerIdentity:
    """Read the NF identity out of a certificate whose chain was verified before.

    Raises :class:`IdentityError` when the URI SAN is missing, doubled or not a UUID.
    """
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise IdentityError("the certificate has no subject alternative name") from error
    urns = [uri for uri in san.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(_URN)]
    if len(urns) != 1:
        raise IdentityError("the certificate does not carry exactly one NF instance id")
    try:
        instance_id = str(uuid.UUID(urns[0].removeprefix(_URN)))
    except ValueError as error:
        raise IdentityError("the NF instance id of the certificate is not a UUID") from error
    try:
        extension = certificate.extensions.get_extension_for_oid(NF_TYPES_OID).value
        nf_types = decode_nf_types(extension.public_bytes())
    except x509.ExtensionNotFound:
        nf_types = ()
    return PeerIdentity(
        instance_id,
        nf_types,
        tuple(san.get_values_for_type(x509.DNSName)),
        tuple(str(address) for address in san.get_values_for_type(x509.IPAddress)),
        certificate.serial_number,
    )


class RevocationList:
    """Serial numbers revoked by the lab CA, read again when the file changes."""

    def __init__(self, path: Path, ca_certificate: x509.Certificate) -> None:
        self._path = path
        self._ca = ca_certificate
        self._stamp: tuple[int, int] | None = None
        self._serials: frozenset[int] = frozenset()
        self.refresh()

    def __contains__(self, serial_number: object) -> bool:
        return serial_number in self._serials

    @property
    def serial_numbers(self) -> frozenset[int]:
        """What is revoked, as last read."""
        return self._serials

    def refresh(self) -> bool:
        """Read the file if it changed and tell whether it did; a list not signed by the CA is not taken."""
        try:
            status = self._path.stat()
        except OSError:
            return False
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return False
        try:
            crl = x509.load_pem_x509_crl(self._path.read_bytes())
        except (OSError, ValueError):
            return False  # the last good list stays in force
        self._stamp = stamp
        key = self._ca.public_key()
        if not crl.is_signature_valid(key):  # type: ignore[arg-type]
            return False
        self._serials = frozenset(entry.serial_number for entry in crl)
        return True


class PeerIdentities:
    """Identities by PEM certificate, so that a certificate is parsed once and not once a call."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, PeerIdentity] = OrderedDict()

    def of(self, pem: bytes) -> PeerIdentity:
        """Return the identity in a PEM certificate.

        Raises :class:`IdentityError` when there is none.
        """
        identity = self._known.get(pem)
        if identity is None:
            try:
                certificate = x509.load_pem_x509_certificate(pem)
            except ValueError as error:
                raise IdentityError("the peer's certificate cannot be read") from error
            identity = read_identity(certificate)
            self._known[pem] = identity
            if len(self._known) > _CACHE_SIZE:
                self._known.popitem(last=False)
        return identity


class NodeIdentity:
    """A node's own certificate, and the TLS settings made from it."""

    def __init__(self, environment: NodeEnvironment) -> None:
        pki = environment.lab.pki_dir
        self.instance = environment.instance
        self.fqdn = environment.node.fqdn
        self.certificate_path = pki / f"{self.instance}.crt"
        self.key_path = pki / f"{self.instance}.key"
        self.ca_path = pki / "ca.crt"
        try:
            self.certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())
            self.ca_certificate = x509.load_pem_x509_certificate(self.ca_path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{self.instance} has no usable certificate: {error}") from error
        self.own = read_identity(self.certificate)
        if self.own.instance_id != str(uuid.UUID(environment.node.nf_instance_id)):
            raise ConfigurationError(f"the certificate of {self.instance} belongs to another NF instance")
        if self.fqdn not in self.own.dns_names:
            raise ConfigurationError(f"the certificate of {self.instance} does not name {self.fqdn}")
        self.revoked = RevocationList(pki / "ca.crl", self.ca_certificate)

    def check(self) -> None:
        """Raise :class:`ConfigurationError` when certificate and key are not what peers of the lab believe."""
        try:
            key = serialization.load_pem_private_key(self.key_path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{self.instance} has no usable key: {error}") from error
        if key.public_key() != self.certificate.public_key():
            raise ConfigurationError(f"{self.key_path} is not the key of {self.certificate_path}")
        try:
            self.certificate.verify_directly_issued_by(self.ca_certificate)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise ConfigurationError(f"{self.certificate_path} was not issued by {self.ca_path}") from error
        now, end = datetime.now(UTC), self.certificate.not_valid_after_utc
        if not self.certificate.not_valid_before_utc <= now <= end:
            raise ConfigurationError(f"{self.certificate_path} is valid until {end:%Y-%m-%d %H:%M} UTC, not now")

    @property
    def instance_id(self) -> str:
        """NF instance id, a UUID in lower case."""
        return self.own.instance_id

    @property
    def nf_types(self) -> tuple[str, ...]:
        """NF types the certificate vouches for."""
        return self.own.nf_types

    def stamp(self) -> tuple[int, int]:
        """Return a value that changes when the certificate file does."""
        status = self.certificate_path.stat()
        return (status.st_mtime_ns, status.st_ino)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return gRPC server credentials that demand a client certificate of the lab CA.

        A reissued certificate is taken for the next handshake (TS 33.310; P.1.2-10 assumed).
        """
        state = {"stamp": self.stamp()}

        def changed() -> grpc.ServerCertificateConfiguration | None:
            stamp = self.stamp()
            if stamp == state["stamp"]:
                return None
            state["stamp"] = stamp
            return self._server_certificate()

        return grpc.dynamic_ssl_server_credentials(
            self._server_certificate(), changed, require_client_authentication=True
        )

    def _server_certificate(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.key_path.read_bytes(), self.certificate_path.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self.ca_path.read_bytes())

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC client credentials with this node's certificate."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_path.read_bytes(),
            private_key=self.key_path.read_bytes(),
            certificate_chain=self.certificate_path.read_bytes(),
        )

    def server_context(self, *, require_client: bool) -> ssl.SSLContext:
        """Return a TLS server context with this certificate, for SIP and HTTP listeners."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._fill(context)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_NONE
        return context

    def client_context(self, *, present_certificate: bool = True) -> ssl.SSLContext:
        """Return a TLS client context that trusts the lab CA and checks the server's name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._fill(context, own=present_certificate)
        return context

    def _fill(self, context: ssl.SSLContext, *, own: bool = True) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cafile=str(self.ca_path))
        if own:
            context.load_cert_chain(str(self.certificate_path), str(self.key_path))
