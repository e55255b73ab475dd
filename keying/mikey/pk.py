"""Public-key credentials of REQUEST_INIT_PK and RESOLVE_INIT_PK: envelope key and signature (RFC 3830 4.2.2, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from keying.mikey.identity import Identity


@dataclass(frozen=True, slots=True)
class PkCredential:
    """What a user signs and encrypts with: its RSA key, its certificate chain (own first), the KMS's certificate."""

    key: RSAPrivateKey
    chain: tuple[x509.Certificate, ...]
    kms_certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class KmsKeyPair:
    """A KMS's RSA key and certificate, which envelope keys are encrypted to."""

    key: RSAPrivateKey
    certificate: x509.Certificate


class Trust:
    """The certification authorities a KMS believes for its users; identities are URIs of the subject alternative name."""

    def __init__(self, anchors: Sequence[x509.Certificate]) -> None:
        self._anchors = tuple(anchors)

    def verify(self, chain: Sequence[bytes], now: float) -> tuple[x509.Certificate, tuple[Identity, ...]]:
        """Return the first certificate of a chain of DER that ends at an anchor, and its identities.

        Raises InvalidCertificate.
        """
        raise NotImplementedError
