"""OAuth 2.0 access tokens of the service-based architecture (TS 33.501 13.4.1, TS 29.510, RFC 7519, RFC 8725)."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from sba.contracts import MethodContract
from sba.errors import ProblemError, SbaError
from sba.identity import PeerIdentity

ALGORITHMS = ("ES256",)
"""The only signature algorithm that is ever accepted; a token cannot choose another."""
_FORBIDDEN_HEADERS = frozenset({"crit", "jwk", "jku", "x5u", "x5c", "b64"})
_TYPES = frozenset({"JWT", "AT+JWT"})
_MAX_TOKEN = 4096
_CACHE_SIZE = 2048
_KEY_SET_AGE_S = 300.0
"""A key set older than this is fetched again, so that a withdrawn key goes out of use."""
Clock = Callable[[], float]


class TokenRefused(SbaError):  # noqa: N818 - an outcome of a check, not a fault
    """A token failed a check; ``reason`` is for the audit log and never goes to the peer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """Claims of a verified access token (TS 29.510 AccessTokenClaims)."""

    issuer: str
    subject: str
    audience: str | tuple[str, ...]
    scopes: frozenset[str]
    expires: float
    key_id: str
    producer_nf_set: str = ""
    producer_plmn: tuple[str, str] | None = None


class KeyRing:
    """The NRF's public keys by ``kid``, fetched when an unknown one turns up.

    ``fetch`` returns the JWKS document as JSON. An unknown ``kid`` leads to at most one fetch per ``interval_s``.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[str]], *, interval_s: float = 2.0, clock: Clock = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._interval = interval_s
        self._clock = clock
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._fetched_at = float("-inf")
        self._fetching: asyncio.Future[None] | None = None
        self.fetches = 0

    def known(self, key_id: str) -> ec.EllipticCurvePublicKey | None:
        """Return a key without asking anybody."""
        return self._keys.get(key_id)

    async def find(self, key_id: str) -> ec.EllipticCurvePublicKey | None:
        """Return a key, asking the NRF when it is unknown and the last question is long enough ago."""
        age = self._clock() - self._fetched_at
        if age >= (self._interval if key_id not in self._keys else _KEY_SET_AGE_S):
            await self.refresh()
        elif key_id not in self._keys and self._fetching is not None:
            await asyncio.shield(self._fetching)
        return self._keys.get(key_id)

    async def refresh(self) -> None:
        """Fetch the key set; keys that are no longer in it are forgotten."""
        if self._fetching is None:
            self._fetched_at = self._clock()
            self._fetching = asyncio.ensure_future(self._load())
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    def _fetched(self, _: asyncio.Future[None]) -> None:
        self._fetching = None

    async def _load(self) -> None:
        self.fetches += 1
        try:
            document = await self._fetch()
        except SbaError:
            return  # the NRF is away: known keys stay good, the unknown one stays unknown
        self.replace(document)

    def replace(self, document: str) -> None:
        """Take over a JWKS document; entries that are not P-256 verification keys are skipped."""
        keys: dict[str, ec.EllipticCurvePublicKey] = {}
        for entry in json.loads(document).get("keys", []):
            key_id = entry.get("kid")
            if entry.get("kty") != "EC" or entry.get("crv") != "P-256" or not isinstance(key_id, str) or "d" in entry:
                continue
            key = ECAlgorithm.from_jwk(entry)
            if isinstance(key, ec.EllipticCurvePublicKey):
                keys[key_id] = key
        self._keys = keys


class TokenVerifier:
    """Checks of a producer on an access token, in the order of TS 33.501 13.4.1 (P.1.3-8).

    A token that passed is remembered together with the peer it came from, until it expires or its key is withdrawn.
    """

    def __init__(
        self,
        *,
        nf_types: Iterable[str],
        instance_id: str,
        issuers: Iterable[str],
        keys: KeyRing,
        nf_set_id: str = "",
        leeway_s: float = 5.0,
        clock: Clock = time.time,
    ) -> None:
        self._nf_types = frozenset(nf_types)
        self._instance_id = instance_id
        self._issuers = frozenset(issuers)
        self._nf_set_id = nf_set_id
        self._leeway = leeway_s
        self._clock = clock
        self.keys = keys
        self._verified: OrderedDict[tuple[str, str], TokenClaims] = OrderedDict()

    def cached(self, token: str, peer: PeerIdentity) -> TokenClaims | None:
        """Return the claims of a token that this very peer presented before and that is still good."""
        claims = self._verified.get((token, peer.instance_id))
        if claims is None:
            return None
        if claims.expires <= self._clock() - self._leeway or self.keys.known(claims.key_id) is None:
            del self._verified[(token, peer.instance_id)]
            return None
        return claims

    async def verify(self, token: str, peer: PeerIdentity, subject: str | None = None) -> TokenClaims:
        """Verify a token, all but its scopes; ``subject`` replaces the peer when a CCA speaks for somebody else.

        Raises :class:`TokenRefused` with the check that failed.
        """
        header, payload = self._unverified(token)
        key_id = self._check_header(header)
        issuer = payload.get("iss")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise TokenRefused("issuer")
        key = await self.keys.find(key_id)
        if key is None:
            raise TokenRefused("unknown-kid")
        claims = self._claims(self._signed(token, key), key_id)
        if claims.subject != (subject or peer.instance_id):
            raise TokenRefused("subject")
        if not self._is_for_me(claims.audience):
            raise TokenRefused("audience")
        if claims.producer_nf_set and claims.producer_nf_set != self._nf_set_id:
            raise TokenRefused("nf-set")
        if claims.expires <= self._clock() - self._leeway:
            raise TokenRefused("expired")
        if subject is None:
            self._remember(token, peer, claims)
        return claims

    def check_scope(self, claims: TokenClaims, method: MethodContract) -> None:
        """Check base and operation scope (5.3): the base alone, or the base with this operation.

        Raises :class:`TokenRefused` with reason ``scope`` or ``operation-scope``.
        """
        if method.scope not in claims.scopes:
            raise TokenRefused("scope")
        prefix = f"{method.scope}:"
        if any(scope.startswith(prefix) for scope in claims.scopes) and (
            not method.operation_scope or method.operation_scope not in claims.scopes
        ):
            raise TokenRefused("operation-scope")

    def _remember(self, token: str, peer: PeerIdentity, claims: TokenClaims) -> None:
        self._verified[(token, peer.instance_id)] = claims
        if len(self._verified) > _CACHE_SIZE:
            self._verified.popitem(last=False)

    @staticmethod
    def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if len(token) > _MAX_TOKEN:
            raise TokenRefused("too-long")
        try:
            parts = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenRefused("malformed") from error
        return parts["header"], parts["payload"]

    @staticmethod
    def _check_header(header: Mapping[str, Any]) -> str:
        if header.get("alg") not in ALGORITHMS:
            raise TokenRefused("algorithm")
        if _FORBIDDEN_HEADERS.intersection(header):
            raise TokenRefused("header")
        if str(header.get("typ", "JWT")).upper() not in _TYPES:
            raise TokenRefused("type")
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise TokenRefused("no-kid")
        return key_id

    def _signed(self, token: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
        # Times and audience are checked below, in the order of the specification and with our own clock.
        options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
        try:
            return dict(jwt.decode(token, key, algorithms=list(ALGORITHMS), options=options))  # type: ignore[arg-type]
        except (jwt.InvalidTokenError, ValueError) as error:
            raise TokenRefused("signature") from error

    def _claims(self, payload: Mapping[str, Any], key_id: str) -> TokenClaims:
        now = self._clock()
        audience = payload.get("aud")
        if isinstance(audience, list) and audience and all(isinstance(item, str) for item in audience):
            audience = tuple(audience)
        texts = (payload.get("iss"), payload.get("sub"), payload.get("scope"))
        expires = payload.get("exp")
        if not isinstance(audience, (str, tuple)) or not all(isinstance(text, str) for text in texts):
            raise TokenRefused("claims")
        if isinstance(expires, bool) or not isinstance(expires, (int, float)):
            raise TokenRefused("claims")
        for name in ("nbf", "iat"):
            starts = payload.get(name, 0)
            if isinstance(starts, bool) or not isinstance(starts, (int, float)):
                raise TokenRefused("claims")
            if starts > now + self._leeway:
                raise TokenRefused("not-yet-valid")
        return TokenClaims(
            issuer=str(texts[0]),
            subject=str(texts[1]),
            audience=audience,
            scopes=frozenset(str(texts[2]).split()),
            expires=float(expires),
            key_id=key_id,
            producer_nf_set=str(payload.get("producerNfSetId", "")),
        )

    def _is_for_me(self, audience: str | tuple[str, ...]) -> bool:
        if isinstance(audience, str):
            return audience in self._nf_types
        return self._instance_id in audience


def _bearer_error(status: int, error: str, scope: str = "") -> ProblemError:
    challenge = f'Bearer error="{error}"' + (f', scope="{scope}"' if scope else "")
    return ProblemError(status, access_token_error=error, challenge=challenge)


def missing_token() -> ProblemError:
    """Return the refusal of a request without a token (RFC 6750 3.1: a challenge without an error code)."""
    return ProblemError(401, detail="an access token is required", challenge="Bearer")


def invalid_token() -> ProblemError:
    """Return the refusal of a token that failed a check; says no more than that (RFC 6750 3.1)."""
    return _bearer_error(401, "invalid_token")


def insufficient_scope(scope: str) -> ProblemError:
    """Return the refusal of a token whose scopes do not cover the operation (RFC 6750 3.1)."""
    return _bearer_error(403, "insufficient_scope", scope)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token a consumer holds; ``expires`` in seconds of the clock given to :class:`TokenCache`."""

    header: str
    expires: float

    def __repr__(self) -> str:
        return f"AccessToken(expires={self.expires:.0f})"


TokenKey = tuple[str, str, str, str]
"""NF type asked as, target NF type, target NF instance id (empty = any) and scopes."""


class TokenCache:
    """Tokens of a consumer, asked for once and used until shortly before they expire."""

    def __init__(
        self,
        request: Callable[[TokenKey], Awaitable[tuple[str, int]]],
        *,
        margin: float = 0.1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._request = request
        self._margin = margin
        self._clock = clock
        self._held: dict[TokenKey, AccessToken] = {}
        self._asking: dict[TokenKey, asyncio.Future[AccessToken]] = {}
        self.requests = 0

    def held(self, key: TokenKey) -> AccessToken | None:
        """Return a token that is still good, without asking."""
        token = self._held.get(key)
        return token if token is not None and token.expires > self._clock() else None

    async def get(self, key: TokenKey) -> AccessToken:
        """Return a token, asking the NRF when none is held; concurrent callers share one question."""
        token = self.held(key)
        if token is not None:
            return token
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._ask(key))
            asking.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(asking)

    def forget(self, key: TokenKey) -> None:
        """Drop a token that a producer refused."""
        self._held.pop(key, None)

    def _asked(self, key: TokenKey, done: asyncio.Future[AccessToken]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # every waiter has its own copy

    async def _ask(self, key: TokenKey) -> AccessToken:
        self.requests += 1
        token, lifetime = await self._request(key)
        margin = max(1.0, lifetime * self._margin) if lifetime > 2 else 0.0
        held = AccessToken(f"Bearer {token}", self._clock() + lifetime - margin)
        self._held[key] = held
        return held
