"""Public-key credentials of REQUEST_INIT_PK and RESOLVE_INIT_PK: envelope key, signature (RFC 3830 3.2, 4.2.7, 4.2.8).

RSA PKCS#1 v1.5 for both, as RFC 3830 demands, PSS is taken as well; the hash of signatures is SHA-256 (assumed: SHA-1,
the default of RFC 3830 4.2.1, is no longer fit for signatures).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from keying.mikey.errors import AuthenticationFailure, InvalidCertificate, InvalidHash, MalformedMessage
from keying.mikey.identity import Identity
from keying.mikey.payloads import Certificate, CertificateHash, EnvelopeKey, Payload, Signature
from keying.mikey.registry import CertType, HashFunc, SignType
from keying.secret import Secret

MAX_CHAIN = 4
"""Certificates of a chain that are looked at."""
MIN_RSA_BITS = 2048
_UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library says of a certificate that is none, or that does not certify."""


@dataclass(frozen=True, slots=True, repr=False)
class PkCredential:
    """What a user signs and encrypts with: its RSA key, its certificate chain (own first), the KMS's certificate."""

    key: RSAPrivateKey
    chain: tuple[x509.Certificate, ...]
    kms_certificate: x509.Certificate

    def certificates(self) -> tuple[Payload, ...]:
        """Return the CERT payloads, the own certificate first."""
        return tuple(Certificate(CertType.X509_V3, each.public_bytes(Encoding.DER)) for each in self.chain)

    def envelope(self, key: Secret) -> tuple[Payload, ...]:
        """Return CHASH and PKE: `key` under the public key of the KMS's certificate."""
        public = _rsa(self.kms_certificate)
        return (
            CertificateHash(HashFunc.SHA_256, certificate_hash(self.kms_certificate)),
            EnvelopeKey(0, public.encrypt(key.reveal(), padding.PKCS1v15())),
        )

    def sign(self, octets: bytes) -> bytes:
        """Return the signature over `octets` (S type 0)."""
        return self.key.sign(octets, padding.PKCS1v15(), SHA256())

    @property
    def signature_octets(self) -> int:
        """Octets of a signature."""
        return (self.key.key_size + 7) // 8


@dataclass(frozen=True, slots=True, repr=False)
class KmsKeyPair:
    """A KMS's RSA key and certificate, which envelope keys are encrypted to."""

    key: RSAPrivateKey
    certificate: x509.Certificate

    def open(self, envelope: EnvelopeKey, chosen: CertificateHash | None, lengths: tuple[int, ...]) -> Secret:
        """Return the envelope key, which has one of `lengths` octets; call it when the signature around it held.

        Whatever does not decrypt is a random key, so that no answer tells of the padding (Bleichenbacher).
        Raises InvalidCertificate where CHASH names another certificate, InvalidHash for another hash than SHA-256.
        """
        if chosen is not None:
            if chosen.hash_func is not HashFunc.SHA_256:
                raise InvalidHash("CHASH", "only SHA-256 is done")
            if not hmac.compare_digest(chosen.value, certificate_hash(self.certificate)):
                raise InvalidCertificate("CHASH", "not the certificate of this KMS")
        substitute = Secret.random(lengths[0])
        try:
            opened = self.key.decrypt(envelope.data, padding.PKCS1v15())
        except ValueError:
            return substitute
        return Secret(opened) if len(opened) in lengths else substitute


class Trust:
    """The certification authorities a KMS believes; identities are URIs of the subject alternative name."""

    def __init__(self, anchors: Sequence[x509.Certificate]) -> None:
        self._anchors = tuple(anchors)

    def verify(self, chain: Sequence[bytes], now: float) -> tuple[x509.Certificate, tuple[Identity, ...]]:
        """Return the first certificate of a chain of DER that ends at an anchor, and its identities.

        Each certificate must directly certify the one before (RFC 6043 4.2.1.3). Raises InvalidCertificate.
        """
        if not 0 < len(chain) <= MAX_CHAIN:
            raise InvalidCertificate("CERT", f"between one and {MAX_CHAIN} certificates are taken")
        try:
            certificates = [x509.load_der_x509_certificate(each) for each in chain]
            moment = dt.datetime.fromtimestamp(now, dt.UTC)
            self._walk(certificates, moment)
            names = certificates[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except _UNREADABLE as error:
            raise InvalidCertificate("CERT", f"does not hold ({type(error).__name__})") from None
        return certificates[0], tuple(Identity.uri(uri) for uri in uris)

    def _walk(self, certificates: list[x509.Certificate], moment: dt.datetime) -> None:
        for place, certificate in enumerate(certificates):
            if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
                raise InvalidCertificate("CERT", "outside its validity")
            if place and not _is_authority(certificate):
                raise InvalidCertificate("CERT", "certifies without being an authority")
            if place:
                certificates[place - 1].verify_directly_issued_by(certificate)
        last = certificates[-1]
        for anchor in self._anchors:
            if last == anchor and len(certificates) > 1:
                return
            if last.issuer == anchor.subject and anchor.not_valid_before_utc <= moment <= anchor.not_valid_after_utc:
                last.verify_directly_issued_by(anchor)
                return
        raise InvalidCertificate("CERT", "no authority that is believed here")


def verify_signature(certificate: x509.Certificate, signature: Signature, octets: bytes) -> None:
    """Check SIGN over `octets`. Raises AuthenticationFailure, InvalidCertificate for a key that is not RSA."""
    paddings: dict[SignType, padding.AsymmetricPadding] = {
        SignType.RSA_PKCS1_V1_5: padding.PKCS1v15(),
        SignType.RSA_PSS: padding.PSS(padding.MGF1(SHA256()), padding.PSS.AUTO),
    }
    scheme = paddings.get(signature.sign_type)
    if scheme is None:
        raise AuthenticationFailure("SIGN", f"type {signature.sign_type.name} is not done")
    try:
        _rsa(certificate).verify(signature.value, octets, scheme, SHA256())
    except InvalidSignature:
        raise AuthenticationFailure("SIGN", "the signature does not hold") from None


def certificate_hash(certificate: x509.Certificate) -> bytes:
    """Return SHA-256 of a certificate's DER, as CHASH carries it (RFC 6043 6.7)."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def der_chain(payloads: Sequence[Payload]) -> tuple[bytes, ...]:
    """Return the DER of the CERT payloads. Raises MalformedMessage for certificates by URL."""
    found = [each for each in payloads if isinstance(each, Certificate)]
    if any(each.cert_type is CertType.X509_V3_URL for each in found):
        raise MalformedMessage("CERT", "certificates by URL are not fetched")
    return tuple(each.data for each in found)


def _rsa(certificate: x509.Certificate) -> RSAPublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidCertificate("CERT", "its key cannot be read") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise InvalidCertificate("CERT", f"its key is not RSA of at least {MIN_RSA_BITS} bits")
    return key


def _is_authority(certificate: x509.Certificate) -> bool:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
