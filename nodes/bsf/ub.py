"""Bootstrapping over Ub: HTTP digest with AKAv1-MD5 and auth-int (TS 33.220 4.5.2, TS 24.109 4, RFC 3310).

Where TS 24.109 was not at hand a step is assumed: a wrong RES and a forged AUTS are answered 403, an answer to a
challenge that is not open 401 with a new one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final, Protocol

from keying.secret import Secret
from nodes.bsf.bootstraps import Bootstrap, Bootstraps
from nodes.bsf.challenges import Challenge, ChallengeBook, GbaVector, NoVectorLeftError
from nodes.bsf.zh import HssRefusalError
from nodes.https import HttpRequest, HttpResponse
from signalling.aka.digest import (
    AuthenticationInfo,
    DigestChallenge,
    DigestCredentials,
    DigestError,
    aka_password,
    canonical_algorithm,
    compute_rspauth,
    verify,
)
from signalling.aka.gba import CONTENT_TYPE, Btid, bootstrap_key
from signalling.aka.vectors import MacFailure, parse_auts

ALGORITHM: Final = "AKAv1-MD5"
QOP: Final = "auth-int"
PATH: Final = "/"
RETRY_AFTER_S: Final = 5
"""Seconds that a UE is told to wait when it was refused for now (assumed)."""
_IMPI: Final = re.compile(r"[A-Za-z0-9._~!$&'*+=-]{1,128}@([A-Za-z0-9.-]{1,120})")


class VectorSource(Protocol):
    """Where vectors come from: the HSS."""

    async def vector(self, impi: str, resync: tuple[bytes, bytes] | None = None) -> GbaVector:
        """A vector; raises ``HssRefusalError``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: one word each for step and outcome, and the reason of a refusal."""

    step: str
    outcome: str
    reason: str = ""
    impi: str = ""


class RefusedError(Exception):
    """A request is answered with a status and nothing else."""

    def __init__(self, status: int, step: str, reason: str, impi: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.outcome = Outcome(step, "refused", reason, impi)


@dataclass(slots=True)
class _Turn:
    """Who waits to be challenged as one user."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Ub:
    """The procedure of the BSF. `record` is told the outcome of every request; `now` gives Unix seconds."""

    def __init__(
        self,
        *,
        fqdn: str,
        home_domains: tuple[str, ...],
        lifetime_s: float,
        challenges: ChallengeBook,
        bootstraps: Bootstraps,
        hss: VectorSource,
        admits: Callable[[str], bool],
        record: Callable[[Outcome], None],
        now: Callable[[], float],
    ) -> None:
        self._fqdn = fqdn
        self._home_domains = home_domains
        self._lifetime_s = lifetime_s
        self._challenges = challenges
        self._bootstraps = bootstraps
        self._hss = hss
        self._admits = admits
        self._record = record
        self._now = now
        self._turns: dict[str, _Turn] = {}

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer a request on Ub."""
        try:
            response, outcome = await self._step(request)
        except RefusedError as refused:
            self._record(refused.outcome)
            return HttpResponse(refused.status, _extra_headers(refused.status))
        self._record(outcome)
        return response

    async def _step(self, request: HttpRequest) -> tuple[HttpResponse, Outcome]:
        if not self._admits(request.remote[0]):
            raise RefusedError(429, "admission", "rate")
        if request.path != PATH:
            raise RefusedError(404, "admission", "path")
        if request.method != "GET":
            raise RefusedError(405, "admission", "method")
        credentials = self._credentials(request)
        impi = credentials.username
        match = _IMPI.fullmatch(impi)
        if match is None or match[1].lower() not in self._home_domains:
            raise RefusedError(403, "admission", "not-a-user-of-ours")
        answers = len(credentials.response) > 0 or credentials.auts is not None
        if not credentials.nonce or not answers:
            return await self._challenge(impi, "challenge", stale=False)
        challenge = self._challenges.find(credentials.nonce)
        if challenge is None:
            return await self._challenge(impi, "stale", stale=True)
        self._check_form(challenge, credentials, request)
        if credentials.auts is not None:
            return await self._resynchronise(challenge, credentials, request)
        return await self._finish(challenge, credentials, request)

    def _credentials(self, request: HttpRequest) -> DigestCredentials:
        values = request.headers_named("Authorization")
        if len(values) != 1:
            raise RefusedError(400, "admission", "no-credentials")
        try:
            return DigestCredentials.parse(values[0])
        except DigestError:
            raise RefusedError(400, "admission", "credentials-malformed") from None

    def _check_form(self, challenge: Challenge, credentials: DigestCredentials, request: HttpRequest) -> None:
        """The answer belongs to this challenge and to this request; whose it claims to be is part of that."""
        faults = {
            "user": credentials.username != challenge.impi,
            "realm": credentials.realm != self._fqdn,
            "opaque": credentials.opaque != challenge.opaque,
            "uri": credentials.uri != request.target,
            "algorithm": canonical_algorithm(credentials.algorithm) != ALGORITHM,
            "qop": credentials.qop != QOP,
            "nonce-count": credentials.nonce_count != 1 or not credentials.cnonce,
        }
        for reason, is_fault in faults.items():
            if is_fault:
                raise RefusedError(403 if reason == "user" else 400, "answer", reason, challenge.impi)

    async def _challenge(self, impi: str, step: str, *, stale: bool) -> tuple[HttpResponse, Outcome]:
        """Challenge a user, with a fresh vector while there is one for him; one after the other for each user."""
        turn = self._turns.setdefault(impi, _Turn())
        turn.waiting += 1
        try:
            async with turn.lock:
                return await self._challenge_now(impi, step, stale=stale)
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._turns.pop(impi, None)

    async def _challenge_now(self, impi: str, step: str, *, stale: bool) -> tuple[HttpResponse, Outcome]:
        try:
            challenge = self._challenges.spend(impi)
        except NoVectorLeftError:
            raise RefusedError(503, step, "vectors-spent", impi) from None
        if challenge is not None:
            return self._challenged(challenge, stale=stale), Outcome(step, "challenged-again", impi=impi)
        try:
            vector = await self._hss.vector(impi)
        except HssRefusalError as refusal:
            self._challenges.unspend(impi)
            raise RefusedError(refusal.status, step, refusal.reason, impi) from None
        challenge = self._challenges.open(impi, vector)
        return self._challenged(challenge, stale=stale), Outcome(step, "challenged", impi=impi)

    def _challenged(self, challenge: Challenge, *, stale: bool) -> HttpResponse:
        header = DigestChallenge(self._fqdn, challenge.nonce, ALGORITHM, (QOP,), stale, challenge.opaque)
        return HttpResponse(401, (("WWW-Authenticate", header.format()),))

    async def _resynchronise(
        self, challenge: Challenge, credentials: DigestCredentials, request: HttpRequest
    ) -> tuple[HttpResponse, Outcome]:
        """Let the HSS follow the USIM and challenge again (TS 24.109 4.5, RFC 3310 3.4).

        A forged AUTS leaves the challenge open for whoever has the USIM.
        """
        impi = challenge.impi
        assert credentials.auts is not None
        if not self._proves(credentials, Secret(b""), request):
            raise RefusedError(403, "resync", "response", impi)
        try:
            auts = parse_auts(credentials.auts.reveal().decode("ascii", "replace"))
            vector = await self._hss.vector(impi, (challenge.vector.rand, auts))
        except MacFailure:
            raise RefusedError(403, "resync", "auts", impi) from None
        except HssRefusalError as refusal:
            raise RefusedError(refusal.status, "resync", refusal.reason, impi) from None
        self._challenges.close(challenge)
        again = self._challenges.open(impi, vector)
        return self._challenged(again, stale=False), Outcome("resync", "challenged", impi=impi)

    async def _finish(
        self, challenge: Challenge, credentials: DigestCredentials, request: HttpRequest
    ) -> tuple[HttpResponse, Outcome]:
        """Check RES, keep Ks and tell the UE its name and its end (TS 33.220 4.5.2)."""
        impi, vector = challenge.impi, challenge.vector
        password = aka_password(ALGORITHM, vector.xres, vector.ik, vector.ck)
        if not self._proves(credentials, password, request):
            raise RefusedError(403, "answer", "response", impi)
        if not self._challenges.close(challenge):
            raise RefusedError(403, "answer", "answered-before", impi)
        at = float(int(self._now()))
        bootstrap = Bootstrap(
            Btid(vector.rand, self._fqdn),
            bootstrap_key(vector.ck, vector.ik),
            impi,
            vector.public_identities,
            at,
            at + self._lifetime_s,
        )
        await self._bootstraps.add(bootstrap)
        body = bootstrap.info().format()
        proof = compute_rspauth(credentials, algorithm=ALGORITHM, password=password, body=body)
        info = AuthenticationInfo(rspauth=Secret(proof.encode()), qop=QOP, cnonce=credentials.cnonce, nc=credentials.nc)
        headers = (
            ("Content-Type", CONTENT_TYPE),
            ("Authentication-Info", info.format()),
            ("Expires", format_datetime(datetime.fromtimestamp(bootstrap.expires_at, UTC), usegmt=True)),
        )
        return HttpResponse(200, headers, body), Outcome("answer", "bootstrapped", impi=impi)

    @staticmethod
    def _proves(credentials: DigestCredentials, password: Secret, request: HttpRequest) -> bool:
        return verify(credentials, algorithm=ALGORITHM, method=request.method, password=password, body=request.body)


def _extra_headers(status: int) -> tuple[tuple[str, str], ...]:
    if status in {429, 503}:
        return (("Retry-After", str(RETRY_AFTER_S)),)
    return (("Allow", "GET"),) if status == 405 else ()
