"""The authorization server: signing keys, and which consumer gets which token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from protos import nrf_nfm_pb2, nrf_oauth2_pb2
from sba.contracts import ANY_PRODUCER, all_contracts
from sba.errors import ConfigurationError, ProblemError
from sba.identity import PeerIdentity
from sba.store import KeyValueTable, Store
from sba.tokens import ALGORITHMS

OPERATOR = "LAB"
"""NF type of the lab operator's certificate, which needs no registered profile."""
_SCOPE = re.compile(r"^[a-zA-Z0-9_:-]+( [a-zA-Z0-9_:-]+)*$")
_MAX_SCOPE = 2048
_UUID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_AAD = b"nrf-signing-key"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An ES256 key pair with its ``kid``; ``retired`` is when it stopped signing, in seconds since the epoch."""

    key_id: str
    private: ec.EllipticCurvePrivateKey
    created: float
    retired: float | None = None

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"


class SigningKeys:
    """The NRF's keys: one signs, older ones stay published until nothing they signed can be valid any more."""

    def __init__(self, store: Store, table: KeyValueTable, *, overlap_s: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._table = table
        self._overlap = overlap_s
        self._clock = clock
        self._keys: dict[str, SigningKey] = {}
        self._current: SigningKey | None = None

    @property
    def current(self) -> SigningKey:
        """The key that signs now."""
        assert self._current is not None, "load comes first"
        return self._current

    async def load(self) -> None:
        """Read the keys from the store; make the first one when there is none."""
        for key_id, value in await self._table.items():
            pem = self._store.unseal(bytes.fromhex(value["sealed"]), _AAD + key_id.encode())
            private = serialization.load_der_private_key(pem, password=None)
            if not isinstance(private, ec.EllipticCurvePrivateKey):
                raise ConfigurationError("a stored signing key is not an EC key")
            key = SigningKey(key_id, private, value["created"], value["retired"])
            self._keys[key_id] = key
            if key.retired is None and (self._current is None or key.created > self._current.created):
                self._current = key
        if self._current is None:
            await self.rotate()

    async def rotate(self) -> str:
        """Make a new signing key, retire the present one and return the new ``kid``."""
        now = self._clock()
        private = ec.generate_private_key(ec.SECP256R1())
        fresh = SigningKey(_thumbprint(private.public_key()), private, now)
        if self._current is not None:
            old = SigningKey(self._current.key_id, self._current.private, self._current.created, now)
            self._keys[old.key_id] = old
            await self._save(old)
        self._keys[fresh.key_id] = fresh
        self._current = fresh
        await self._save(fresh)
        await self.prune()
        return fresh.key_id

    async def prune(self) -> None:
        """Forget retired keys whose overlap is over."""
        limit = self._clock() - self._overlap
        for key in tuple(self._keys.values()):
            if key.retired is not None and key.retired <= limit:
                del self._keys[key.key_id]
                await self._table.delete(key.key_id)

    def jwks(self) -> str:
        """Return the public keys as a JWK Set (RFC 7517 5)."""
        keys = []
        for key in self._keys.values():
            entry: dict[str, Any] = ECAlgorithm.to_jwk(key.private.public_key(), as_dict=True)
            keys.append(entry | {"kid": key.key_id, "alg": ALGORITHMS[0], "use": "sig"})
        return json.dumps({"keys": keys})

    async def _save(self, key: SigningKey) -> None:
        der = key.private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        sealed = self._store.seal(der, _AAD + key.key_id.encode()).hex()
        await self._table.put(key.key_id, {"sealed": sealed, "created": key.created, "retired": key.retired})


def _thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()[:16]


def token_error(error: str, detail: str = "") -> ProblemError:
    """Return an RFC 6749 5.2 error of the token endpoint."""
    return ProblemError(400, access_token_error=error, detail=detail)


def check_consumer(
    request: nrf_oauth2_pb2.AccessTokenRequest, peer: PeerIdentity, profile: nrf_nfm_pb2.NfProfile | None
) -> None:
    """Check that the consumer is who it says (TS 33.501 13.4.1; P.1.3-2, P.1.3-5).

    The instance id must be the certificate's, the NF type must stand in the certificate and in the registered
    profile; only the lab operator needs no profile. Raises :class:`ProblemError` ``invalid_client`` or
    ``invalid_request``.
    """
    if request.grant_type != "client_credentials":
        raise token_error("unsupported_grant_type" if request.grant_type else "invalid_request")
    if not _UUID.match(request.nf_instance_id) or not request.nf_type:
        raise token_error("invalid_request", "nf_instance_id and nf_type are mandatory")
    if request.nf_instance_id != peer.instance_id:
        raise token_error("invalid_client")
    if request.nf_type not in peer.nf_types:
        raise token_error("invalid_client")
    if request.nf_type == OPERATOR:
        return
    if profile is None or request.nf_type not in profile.nf_types:
        raise token_error("invalid_client")
    if request.HasField("requester_plmn") and request.requester_plmn != profile.plmn:
        raise token_error("invalid_client")


def grant_scope(
    request: nrf_oauth2_pb2.AccessTokenRequest, producers: list[nrf_nfm_pb2.NfProfile] | None = None
) -> str:
    """Return the scope to grant, by the authorization matrix written in the contracts (P.1.3-6).

    ``producers`` are the registered instances the token is for, whose ``allowed_nf_types`` may restrict further.
    Raises :class:`ProblemError` ``invalid_scope`` for a scope that the target does not offer and
    ``unauthorized_client`` for one that this NF type may not use.
    """
    if len(request.scope) > _MAX_SCOPE or not _SCOPE.match(request.scope):
        raise token_error("invalid_scope")
    asked = tuple(dict.fromkeys(request.scope.split(" ")))
    offered: set[str] = set()
    allowed: set[str] = set()
    for contract in all_contracts():
        if contract.nf_type in (request.target_nf_type, ANY_PRODUCER):
            allowed.update(contract.scopes_for(request.nf_type))
            for method in contract.methods.values():
                offered.update(scope for scope in (method.scope, method.operation_scope) if scope)
    if not offered.issuperset(asked):
        raise token_error("invalid_scope")
    if not allowed.issuperset(asked):
        raise token_error("unauthorized_client")
    for profile in producers or ():
        if profile.allowed_nf_types and request.nf_type not in profile.allowed_nf_types:
            raise token_error("unauthorized_client")
    if not any(":" not in scope for scope in asked):
        raise token_error("invalid_scope", "an operation scope needs its base scope")
    return " ".join(asked)


def sign_token(
    key: SigningKey,
    *,
    issuer: str,
    request: nrf_oauth2_pb2.AccessTokenRequest,
    scope: str,
    lifetime_s: int,
    now: float,
) -> str:
    """Return a signed access token (TS 29.510 AccessTokenClaims)."""
    audience: str | list[str] = request.target_nf_type
    if request.target_nf_instance_id:
        audience = [request.target_nf_instance_id]
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": request.nf_instance_id,
        "aud": audience,
        "scope": scope,
        "iat": int(now),
        "exp": int(now) + lifetime_s,
    }
    return jwt.encode(claims, key.private, algorithm=ALGORITHMS[0], headers={"kid": key.key_id, "typ": "JWT"})
