"""Client credentials assertions (CCA, TS 33.501 13.3.8): who the consumer is when it is not the TLS peer."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sba.errors import IdentityError
from sba.identity import NodeIdentity, read_identity
from sba.tokens import ALGORITHMS, TokenRefused

LIFETIME_S = 60
"""Lifetime of an assertion, s (assumed)."""
MAX_AGE_S = 300
"""An assertion issued longer ago is refused whatever it says, s (assumed)."""
_MAX_LENGTH = 8192
_FORBIDDEN_HEADERS = frozenset({"crit", "jwk", "jku", "x5u", "b64"})


def make_assertion(identity: NodeIdentity, audience: Iterable[str], *, clock: Callable[[], float] = time.time) -> str:
    """Return an assertion by this node for producers of the NF types in ``audience``."""
    key = serialization.load_pem_private_key(identity.key_path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the node's key is not an EC key")
    now = int(clock())
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    return jwt.encode(
        {"sub": identity.instance_id, "iat": now, "exp": now + LIFETIME_S, "aud": list(audience)},
        key,
        algorithm=ALGORITHMS[0],
        headers={"x5c": [base64.b64encode(der).decode("ascii")]},
    )


class AssertionVerifier:
    """Checks of a producer or the NRF on an assertion: certificate, signature, times, audience, subject."""

    def __init__(
        self,
        identity: NodeIdentity,
        *,
        nf_types: Iterable[str],
        leeway_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._nf_types = frozenset(nf_types)
        self._leeway = leeway_s
        self._clock = clock

    def verify(self, assertion: str) -> str:
        """Return the NF instance id the assertion proves.

        Raises :class:`TokenRefused` naming the check that failed.
        """
        if len(assertion) > _MAX_LENGTH:
            raise TokenRefused("cca-too-long")
        try:
            header = jwt.get_unverified_header(assertion)
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenRefused("cca-malformed") from error
        if header.get("alg") not in ALGORITHMS or _FORBIDDEN_HEADERS.intersection(header):
            raise TokenRefused("cca-header")
        certificate = self._certificate(header)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TokenRefused("cca-key")
        options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
        try:
            claims: dict[str, Any] = jwt.decode(assertion, key, algorithms=list(ALGORITHMS), options=options)  # type: ignore[arg-type]
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenRefused("cca-signature") from error
        self._check_times(claims)
        audience = claims.get("aud")
        named = {audience} if isinstance(audience, str) else set(audience if isinstance(audience, list) else ())
        if self._nf_types.isdisjoint(named):
            raise TokenRefused("cca-audience")
        try:
            subject = read_identity(certificate).instance_id
        except IdentityError as error:
            raise TokenRefused("cca-certificate") from error
        if claims.get("sub") != subject:
            raise TokenRefused("cca-subject")
        return subject

    def _check_times(self, claims: dict[str, Any]) -> None:
        issued, expires = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int) or not isinstance(expires, int):
            raise TokenRefused("cca-times")
        now = self._clock()
        if expires <= now - self._leeway or issued > now + self._leeway or issued < now - MAX_AGE_S:
            raise TokenRefused("cca-times")

    def _certificate(self, header: dict[str, Any]) -> x509.Certificate:
        chain = header.get("x5c")
        if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
            raise TokenRefused("cca-certificate")
        try:
            certificate = x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
            certificate.verify_directly_issued_by(self._identity.ca_certificate)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise TokenRefused("cca-certificate") from error
        now = datetime.fromtimestamp(self._clock(), UTC)
        valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
        if not valid or certificate.serial_number in self._identity.revoked:
            raise TokenRefused("cca-certificate")
        return certificate
