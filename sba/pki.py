"""The certificate authority of a lab.

Certificates follow the SBA profile of TS 33.310 6.1.3c as far as it is known here (assumed):
ECDSA P-256, both key usages of TLS, at most 13 months, the NF instance id as a URI SAN, the FQDN as a
DNS SAN, and the NF types in the RFC 9310 extension.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sba.errors import ConfigurationError, IdentityError

NF_TYPES_OID = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.34")
"""id-pe-nftype (RFC 9310 3)."""
MAX_LIFETIME = timedelta(days=396)
"""13 months."""
_NF_TYPE = re.compile(r"^[\x21-\x7e]{1,32}$")
_INSTANCE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
_SEQUENCE, _IA5_STRING = 0x30, 0x16
_BACKDATE = timedelta(minutes=5)


def encode_nf_types(nf_types: Iterable[str]) -> bytes:
    """Return the DER of NFTypes: SEQUENCE OF IA5String, unique and in ascending order (RFC 9310 3).

    Raises :class:`IdentityError` for an empty list, a repeated or an impossible NF type.
    """
    names = list(nf_types)
    if not names or len(set(names)) != len(names) or any(_NF_TYPE.match(name) is None for name in names):
        raise IdentityError("NF types must be unique and of 1 to 32 visible ASCII characters")
    items = [bytes((_IA5_STRING, len(name))) + name.encode("ascii") for name in sorted(names)]
    body = b"".join(items)
    if len(body) > 127:
        length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
        return bytes((_SEQUENCE, 0x80 | len(length))) + length + body
    return bytes((_SEQUENCE, len(body))) + body


def decode_nf_types(der: bytes) -> tuple[str, ...]:
    """Read an NFTypes extension value (RFC 9310 3).

    Raises :class:`IdentityError` when it is not well formed.
    """
    names: list[str] = []
    try:
        if der[0] != _SEQUENCE:
            raise IdentityError("NFTypes is not a SEQUENCE")
        length, at = der[1], 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(der[2 : 2 + count], "big"), 2 + count
        if at + length != len(der):
            raise IdentityError("NFTypes has a wrong length")
        while at < len(der):
            size = der[at + 1]
            name = der[at + 2 : at + 2 + size]
            if der[at] != _IA5_STRING or not 1 <= size <= 32 or len(name) != size:
                raise IdentityError("NFTypes holds a malformed NFType")
            names.append(name.decode("ascii"))
            at += 2 + size
    except (IndexError, UnicodeDecodeError) as error:
        raise IdentityError("NFTypes is not well formed") from error
    if not names or len(set(names)) != len(names):
        raise IdentityError("NFTypes is empty or repeats itself")
    return tuple(names)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, replacing any older one in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


def _write_public(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.chmod(0o644)
    fresh.replace(path)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class LabCa:
    """A lab's certificate authority, kept in one folder: ``ca.crt``, ``ca.key``, ``ca.crl`` and what it issued."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: str | Path, *, name: str = "imslab CA", now: datetime | None = None) -> LabCa:
        """Make a new authority in ``folder`` with an empty revocation list, replacing none that exists.

        Raises :class:`ConfigurationError` when one is there already.
        """
        folder = Path(folder)
        if (folder / "ca.key").exists():
            raise ConfigurationError(f"{folder} already holds a certificate authority")
        folder.mkdir(parents=True, exist_ok=True)
        start = (now or datetime.now(UTC)) - _BACKDATE
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_ca_key_usage(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(folder / "ca.key", _private_pem(key))
        _write_public(folder / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
        authority = cls(folder, certificate, key)
        authority._publish([])
        return authority

    @classmethod
    def open(cls, folder: str | Path) -> LabCa:
        """Open the authority kept in ``folder``.

        Raises :class:`ConfigurationError` when there is none or its files are damaged.
        """
        folder = Path(folder)
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{folder} holds no usable certificate authority: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"the authority in {folder} has no EC key")
        return cls(folder, certificate, key)

    def issue(
        self,
        instance: str,
        nf_types: Sequence[str],
        nf_instance_id: str,
        *,
        dns: Sequence[str],
        ips: Sequence[str] = (),
        lifetime: timedelta = timedelta(days=90),
        now: datetime | None = None,
    ) -> x509.Certificate:
        """Issue a certificate and write ``<instance>.crt`` and ``<instance>.key`` (mode 0600).

        ``dns`` are the names for the DNS SANs (the FQDN first), ``ips`` the addresses for IP SANs.
        Raises :class:`IdentityError` for an unusable name and for a lifetime above 13 months.
        """
        if _INSTANCE.match(instance) is None or instance == "ca":
            raise IdentityError(f"{instance!r} cannot name a certificate")
        if not dns:
            raise IdentityError("a certificate needs a DNS name")
        if lifetime > MAX_LIFETIME:
            raise IdentityError("a certificate may live for 13 months at most")
        start = (now or datetime.now(UTC)) - _BACKDATE
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"urn:uuid:{nf_instance_id}")]
        names += [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(ips)]
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns[0][:64])]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_leaf_key_usage(), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if nf_types:
            nf_type_extension = x509.UnrecognizedExtension(NF_TYPES_OID, encode_nf_types(nf_types))
            builder = builder.add_extension(nf_type_extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        write_private(self.folder / f"{instance}.key", _private_pem(key))
        _write_public(self.folder / f"{instance}.crt", certificate.public_bytes(serialization.Encoding.PEM))
        return certificate

    def reissue(self, instance: str, *, lifetime: timedelta = timedelta(days=90)) -> x509.Certificate:
        """Issue a new certificate and key with the names of the present one, which stays valid until revoked.

        Raises :class:`ConfigurationError` when the instance has no certificate.
        """
        present = self.present(instance)
        san = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = [u for u in san.get_values_for_type(x509.UniformResourceIdentifier) if u.startswith("urn:uuid:")]
        try:
            extension = present.extensions.get_extension_for_oid(NF_TYPES_OID).value
            nf_types = decode_nf_types(extension.public_bytes())
        except x509.ExtensionNotFound:
            nf_types = ()
        return self.issue(
            instance,
            nf_types,
            uris[0].removeprefix("urn:uuid:"),
            dns=san.get_values_for_type(x509.DNSName),
            ips=[str(address) for address in san.get_values_for_type(x509.IPAddress)],
            lifetime=lifetime,
        )

    def present(self, instance: str) -> x509.Certificate:
        """Return the certificate an instance has now.

        Raises :class:`ConfigurationError` when it has none.
        """
        try:
            return x509.load_pem_x509_certificate((self.folder / f"{instance}.crt").read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{instance} has no certificate") from error

    def revoke(self, instance: str | x509.Certificate) -> None:
        """Put an instance's present certificate, or a given one, on the revocation list."""
        certificate = self.present(instance) if isinstance(instance, str) else instance
        entries = {entry.serial_number: entry for entry in self.revocation_list()}
        entries[certificate.serial_number] = (
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(datetime.now(UTC))
            .build()
        )
        self._publish(list(entries.values()))

    def revocation_list(self) -> list[x509.RevokedCertificate]:
        """Return what has been revoked so far."""
        path = self.folder / "ca.crl"
        return list(x509.load_pem_x509_crl(path.read_bytes())) if path.exists() else []

    def _publish(self, entries: list[x509.RevokedCertificate]) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _BACKDATE)
            .next_update(now + timedelta(days=3650))
        )
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self._key, hashes.SHA256())
        _write_public(self.folder / "ca.crl", crl.public_bytes(serialization.Encoding.PEM))


def _ca_key_usage() -> x509.KeyUsage:
    return _key_usage(sign_certificates=True)


def _leaf_key_usage() -> x509.KeyUsage:
    return _key_usage(sign_certificates=False)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
