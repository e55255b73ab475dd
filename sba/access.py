"""Admission of a request: the interceptor chain of the service-based interfaces, in its fixed order.

TLS peer identity, limits, access token, client credentials assertion, operation scope; only then the handler.
A failure never reveals the outcome of a later step (TS 33.501 13.4.1; order assumed, P.1.3-8).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from opentelemetry.trace import Span

from sba.config import SbiPolicy
from sba.contracts import MethodContract
from sba.errors import IdentityError, ProblemError
from sba.identity import NodeIdentity, PeerIdentities, PeerIdentity
from sba.tokens import (
    TokenClaims,
    TokenRefused,
    TokenVerifier,
    insufficient_scope,
    invalid_token,
    missing_token,
)

if TYPE_CHECKING:
    from sba.assertions import AssertionVerifier
    from sba.telemetry import Telemetry

_TLS_ORDER: Mapping[str, int] = {"TLSv1": 0, "TLSv1.1": 1, "TLSv1.2": 2, "TLSv1.3": 3}
_CRL_CHECK_S = 1.0
_BEARER = "Bearer "
CCA_KEY = "3gpp-sbi-client-credentials"


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a handler knows of the call: who is calling, with which token, and until when.

    ``deadline`` is the time left when the request arrived, in seconds; None when the caller set none.
    """

    peer: PeerIdentity
    token: TokenClaims | None
    deadline: float | None
    metadata: Mapping[str, str | bytes]
    span: Span
    _rpc: grpc.aio.ServicerContext

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once the RPC has ended, also when the peer went away."""
        self._rpc.add_done_callback(lambda _: callback())


class RateLimit:
    """A token bucket per consumer (P.1.3-19, assumed).

    `clock` gives seconds that never run backwards. Beyond `consumers` buckets the one that was used longest ago starts
    anew, full.
    """

    def __init__(
        self,
        calls_per_second: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        consumers: int = 1024,
    ) -> None:
        self._rate = calls_per_second
        self._burst = float(burst)
        self._clock = clock
        self._consumers = consumers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, consumer: str) -> bool:
        """Count one call of a consumer; False when it has used up its share."""
        now = self._clock()
        level, then = self._buckets.pop(consumer, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        allowed = level >= 1.0
        self._buckets[consumer] = (level - 1.0 if allowed else level, now)
        if len(self._buckets) > self._consumers:
            self._buckets.popitem(last=False)
        return allowed

    def retry_after_s(self) -> int:
        """Whole seconds after which an empty bucket holds a token again."""
        return max(1, round(1.0 / self._rate))


class AccessControl:
    """The chain for one server."""

    def __init__(
        self,
        identity: NodeIdentity,
        telemetry: Telemetry,
        verifier: TokenVerifier,
        policy: SbiPolicy,
        *,
        assertions: AssertionVerifier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._telemetry = telemetry
        self._verifier = verifier
        self._floor = _TLS_ORDER[policy.tls_floor]
        self._limit = RateLimit(policy.calls_per_second, policy.burst, clock)
        self._assertions = assertions
        self._peers = PeerIdentities()
        self._clock = clock
        self._crl_checked = clock()

    def identify(self, context: grpc.aio.ServicerContext) -> PeerIdentity:
        """Return the TLS peer.

        Raises :class:`ProblemError` 401 without any detail when the certificate names no NF, was revoked, or
        the TLS version is below the floor.
        """
        tls = context.auth_context()
        versions = tls.get("ssl_tls_version") or tls.get("tls_version")
        certificates = tls.get("x509_pem_cert")
        if not certificates:
            raise self._unknown("no-certificate", context)
        if versions and _TLS_ORDER.get(versions[0].decode("ascii", "replace"), -1) < self._floor:
            raise self._unknown("tls-version", context)
        now = self._clock()
        if now - self._crl_checked >= _CRL_CHECK_S:
            self._crl_checked = now
            self._identity.revoked.refresh()
        try:
            peer = self._peers.of(certificates[0])
        except IdentityError as error:
            raise self._unknown(str(error), context) from error
        if peer.serial_number in self._identity.revoked:
            raise self._unknown("revoked", context)
        return peer

    async def admit(
        self,
        method: MethodContract,
        context: grpc.aio.ServicerContext,
        metadata: Mapping[str, str | bytes],
        span: Span,
    ) -> CallContext:
        """Run the whole chain; raises :class:`ProblemError` at the first check that fails."""
        peer = self.identify(context)
        if not self._limit.take(peer.instance_id):
            self._audit("rate-limit", peer, method)
            raise ProblemError(429, "NF_CONGESTION_RISK")
        remaining = context.time_remaining()
        claims: TokenClaims | None = None
        if method.needs_token:
            claims = await self._check_token(method, metadata, peer)
        elif CCA_KEY in metadata:
            self._check_assertion(metadata, peer, method)
        if not method.permits(peer.nf_types):
            self._audit("consumer-type", peer, method)
            raise ProblemError(403, "MODIFICATION_NOT_ALLOWED")
        if claims is not None:
            try:
                self._verifier.check_scope(claims, method)
            except TokenRefused as refused:
                self._audit(refused.reason, peer, method)
                raise insufficient_scope(method.operation_scope or method.scope) from refused
        if span.is_recording():
            span.set_attribute("imslab.consumer", peer.instance_id)
        return CallContext(peer, claims, remaining, metadata, span, context)

    async def _check_token(
        self, method: MethodContract, metadata: Mapping[str, str | bytes], peer: PeerIdentity
    ) -> TokenClaims:
        header = metadata.get("authorization")
        if not isinstance(header, str) or not header.startswith(_BEARER):
            self._audit("no-token", peer, method)
            raise missing_token()
        token = header[len(_BEARER) :]
        claims = self._verifier.cached(token, peer)
        if claims is None:
            try:
                claims = await self._verifier.verify(token, peer)
            except TokenRefused as refused:
                self._audit(refused.reason, peer, method)
                raise invalid_token() from refused
        if CCA_KEY in metadata:
            subject = self._check_assertion(metadata, peer, method)
            if subject != claims.subject:
                self._audit("cca-subject", peer, method)
                raise ProblemError(403, "TOKEN_CCA_MISMATCH")
        return claims

    def _check_assertion(self, metadata: Mapping[str, str | bytes], peer: PeerIdentity, method: MethodContract) -> str:
        value = metadata[CCA_KEY]
        try:
            return self._assertions.verify(value if isinstance(value, str) else "")
        except TokenRefused as refused:
            self._audit(refused.reason, peer, method)
            raise ProblemError(403, "CCA_VERIFICATION_FAILURE") from refused

    def _unknown(self, reason: str, context: grpc.aio.ServicerContext) -> ProblemError:
        self._telemetry.log("peer-unknown", level="warning", reason=reason, peer=context.peer())
        return ProblemError(401)

    def _audit(self, reason: str, peer: PeerIdentity, method: MethodContract) -> None:
        self._telemetry.log(
            "request-refused",
            level="warning",
            consumer=peer.instance_id,
            nf_types=peer.nf_types,
            service=method.service_name,
            operation=method.name,
            cause=reason,
        )
