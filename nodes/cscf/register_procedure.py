"""Registration at the S-CSCF from REGISTER to answer (TS 24.229 5.4.1; SC-1 to SC-9, E-1 to E-19, RFC 3261 10.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from nodes.cscf.challenge import (
    Challenge,
    Issued,
    Scheme,
    Verdict,
    authentication_info,
    auts_of,
    challenge_aka,
    challenge_digest,
    judge_aka,
    judge_digest,
    same_family,
    scheme_proved,
    select_scheme,
)
from nodes.cscf.challenges import OpenChallenges
from nodes.cscf.config import CscfSettings
from nodes.cscf.hss import AkaVector, DigestVector, Flag, HssClient
from nodes.cscf.location import LocationService
from nodes.cscf.register_answer import registered_headers
from nodes.cscf.register_request import RegisterRequest
from nodes.cscf.registrar import apply_register
from nodes.cscf.registration import Profile, Registration
from nodes.cscf.rejection import RejectionError
from nodes.cscf.route_tokens import RouteTokens
from signalling.aka.nonces import NonceBook
from signalling.sip.message import SipRequest
from signalling.sip.uri import UriError, parse_uri


@dataclass(frozen=True)
class Answer:
    """A final response in the making: status, and headers in order."""

    status: int
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Journal(Protocol):
    """Structured log."""

    def __call__(self, event: str, *, level: str = "info", **fields: object) -> None:
        """Write one event."""


@dataclass(frozen=True)
class Authenticated:
    """A user who proved who he is: how, and what the answer says about it."""

    scheme: Scheme
    headers: tuple[tuple[str, str], ...] = ()


class RegisterProcedure:
    """The registrar of one S-CSCF.

    ``service_route`` makes the URI of a registration token; ``monotonic`` gives the seconds that deadlines use.
    """

    def __init__(
        self,
        settings: CscfSettings,
        hss: HssClient,
        location: LocationService,
        challenges: OpenChallenges,
        nonces: NonceBook,
        service_route: Callable[[str], str],
        monotonic: Callable[[], float],
        journal: Journal,
    ) -> None:
        self._settings = settings
        self._hss = hss
        self._location = location
        self._challenges = challenges
        self._nonces = nonces
        self._service_route = service_route
        self._monotonic = monotonic
        self._journal = journal

    async def handle(self, request: SipRequest, register: RegisterRequest) -> Answer:
        """Answer a REGISTER whose form was checked. Raises ``RejectionError`` for all but 200 and 401."""
        async with self._location.lock(register.impi):
            await self._hss.authorize(register.domain, register.impi, register.impu, register.visited_network)
            outcome = await self._authenticate(request, register)
            if isinstance(outcome, Issued):
                return Answer(401, tuple(("WWW-Authenticate", value) for value in outcome.values))
            return await self._register(register, outcome)

    async def give_up(self, challenge: Challenge) -> None:
        """Act on a challenge nobody answered in time (E-7): an earlier registration stays, a pending flag goes."""
        self._journal("reg-await-auth.expired", level="warning", impi=challenge.impi)
        async with self._location.lock(challenge.impi):
            await self._clear_flag(challenge.impi, challenge.impu, challenge.realm)

    # authentication

    async def _authenticate(self, request: SipRequest, register: RegisterRequest) -> Authenticated | Issued:
        credentials = register.credentials
        flag = register.flag
        pending = self._challenges.get(register.impi, register.call_id)
        if credentials is not None:
            _check_uri(credentials.uri, register)
            verdict = judge_aka(pending, credentials, register.call_id, request.method, self._monotonic())
            if pending is not None and verdict is not Verdict.NO_MATCH:
                outcome = await self._answered(register, pending, verdict)
                if outcome is not None:
                    return outcome
        trusted = self._without_challenge(register, flag)
        if trusted is not None:
            return trusted
        self._challenges.drop(register.impi, register.call_id)
        vector = self._challenges.to_offer_again(register.impi) or await self._fetch(register)
        scheme = select_scheme(flag, register.algorithm, vector, allow_open=self._settings.aka_without_association)
        self._check_scheme(register, scheme)
        if isinstance(vector, DigestVector):
            return await self._digest(request, register, vector)
        return await self._issue(register, scheme, vector)

    async def _answered(
        self, register: RegisterRequest, pending: Challenge, verdict: Verdict
    ) -> Authenticated | Issued | None:
        """Act on an answer to the open challenge; None when it came without the protection its scheme asks for."""
        self._challenges.drop(register.impi, register.call_id)
        if verdict is Verdict.GOOD:
            self._challenges.proved(pending)
            proved = scheme_proved(pending.scheme, register.flag, allow_open=self._settings.aka_without_association)
            if proved is Scheme.AKA_OPEN:
                self._journal("aka.without-association", level="warning", impi=register.impi, call_id=register.call_id)
            return None if proved is None else Authenticated(proved)
        if verdict is Verdict.SYNCHRONISATION:
            assert register.credentials is not None
            try:
                auts = auts_of(register.credentials)
                vector = await self._fetch(register, (pending.rand, auts))
            except RejectionError:
                await self._failed(register, "resynchronisation refused")
                raise
            if not isinstance(vector, AkaVector):
                raise RejectionError(403, "Authentication Scheme Not Allowed")
            self._journal("aka.resynchronised", impi=register.impi, call_id=register.call_id)
            return await self._issue(register, pending.scheme, vector, pending.refused)
        refusable = pending.refused < self._settings.max_challenge_failures
        if verdict is Verdict.CHALLENGE_REFUSED and refusable and not self._challenges.to_offer_again(register.impi):
            vector = await self._fetch(register)
            if isinstance(vector, AkaVector):
                return await self._issue(register, pending.scheme, vector, pending.refused + 1)
        await self._failed(register, verdict.value)
        raise RejectionError(403, "Authentication Failed")

    async def _fetch(
        self, register: RegisterRequest, resynchronisation: tuple[bytes, bytes] | None = None
    ) -> AkaVector | DigestVector:
        """Get a vector from the HSS. ``resynchronisation``: RAND and AUTS. Raises ``RejectionError``."""
        vector = await self._hss.vectors(register.domain, register.impi, register.impu, resynchronisation)
        if isinstance(vector, AkaVector):
            self._challenges.spend(register.impi, vector)
        return vector

    def _without_challenge(self, register: RegisterRequest, flag: str) -> Authenticated | None:
        """Believe the P-CSCF where the specifications let the S-CSCF do so (RR-3, E-19, SC-1).

        An SA is one with the P-CSCF that brought the registration: what another one says of it is challenged (T7).
        """
        if flag == "auth-done":
            if not self._settings.accept_auth_done:
                raise RejectionError(403, "Authentication Needed")
            return Authenticated(Scheme.TRUSTED)
        if flag != "yes":
            return None
        current = self._location.by_impi(register.impi)
        if current is None:
            raise RejectionError(500, "No Registration To Refresh")
        if self._settings.reauthenticate or current.scheme != Scheme.AKA.value:
            return None
        if all(binding.brought_by != register.brought_by for binding in current.bindings):
            return None
        return Authenticated(Scheme.AKA)

    async def _issue(self, register: RegisterRequest, scheme: Scheme, vector: AkaVector, refused: int = 0) -> Issued:
        deadline = self._monotonic() + self._settings.reg_await_auth
        issued = challenge_aka(
            scheme, vector, register.impi, register.impu, register.domain, register.call_id, deadline, refused
        )
        assert issued.challenge is not None
        await self._hss.assign(register.domain, register.impi, register.impu, Flag.AUTHENTICATION_PENDING)
        self._challenges.open(issued.challenge)
        return issued

    async def _digest(
        self, request: SipRequest, register: RegisterRequest, vector: DigestVector
    ) -> Authenticated | Issued:
        algorithms = self._settings.digest_algorithms
        verdict = judge_digest(vector.ha1, algorithms, register.credentials, request.method, self._nonces)
        if verdict is Verdict.GOOD:
            assert register.credentials is not None
            info = authentication_info(vector.ha1, register.credentials)
            return Authenticated(Scheme.DIGEST, (("Authentication-Info", info),))
        if verdict is Verdict.WRONG:
            await self._failed(register, verdict.value)
            raise RejectionError(403, "Authentication Failed")
        await self._hss.assign(register.domain, register.impi, register.impu, Flag.AUTHENTICATION_PENDING)
        return challenge_digest(vector.realm, algorithms, self._nonces, stale=verdict is Verdict.STALE)

    def _check_scheme(self, register: RegisterRequest, scheme: Scheme) -> None:
        """Refuse another scheme within one registration, recognised by its Call-ID (SC-1)."""
        current = self._location.by_impi(register.impi)
        if current is None or same_family(current.scheme, scheme.value):
            return
        if any(binding.call_id == register.call_id for binding in current.bindings):
            raise RejectionError(403, "Authentication Scheme Changed")

    async def _failed(self, register: RegisterRequest, why: str) -> None:
        """A failed authentication: clear the flag unless the user is registered, who stays so (E-1)."""
        self._journal(
            "registration.refused",
            level="warning",
            impi=register.impi,
            impu=register.impu,
            reason=why,
            call_id=register.call_id,
        )
        await self._clear_flag(register.impi, register.impu, register.domain)

    async def _clear_flag(self, impi: str, impu: str, domain: str) -> None:
        if self._location.by_impi(impi) is not None:
            return
        try:
            await self._hss.assign(domain, impi, impu, Flag.NOT_REGISTERED)
        except RejectionError as refusal:
            self._journal("hss.assignment-failed", level="warning", impi=impi, status=refusal.status)

    # registration

    async def _register(self, register: RegisterRequest, user: Authenticated) -> Answer:
        profile = await self._hss.profile(register.domain, register.impu, register.impi)
        if profile.impi != register.impi or not profile.holds(register.impu):
            raise RejectionError(403, "Identity Not Allowed")
        current = self._location.by_impi(register.impi)
        now = self._location.now
        change = apply_register(current.bindings if current else (), register, now, self._settings.max_contacts)
        registration = self._registration(current, register, profile, user)
        if register.wildcard or register.contacts:
            registration = registration.with_bindings(change.bindings)
            flag = Flag.REGISTERED if change.bindings else Flag.NOT_REGISTERED
            await self._hss.assign(register.domain, register.impi, register.impu, flag)
            await self._location.save(registration, change.events)
            self._journal(
                "registered" if change.bindings else "deregistered",
                impi=register.impi,
                impu=register.impu,
                scheme=user.scheme.value,
                contacts=len(change.bindings),
                call_id=register.call_id,
                signalling_protected=user.scheme in (Scheme.AKA, Scheme.AKA_TLS),
            )
        headers = registered_headers(register, registration, self._service_route(registration.token), now)
        return Answer(200, (*headers, *user.headers))

    def _registration(
        self, current: Registration | None, register: RegisterRequest, profile: Profile, user: Authenticated
    ) -> Registration:
        if current is None:
            return Registration(
                profile, RouteTokens.originating(), user.scheme.value, (), register.icid, register.orig_ioi
            )
        return replace(
            current,
            profile=profile,
            scheme=user.scheme.value,
            icid=register.icid or current.icid,
            orig_ioi=register.orig_ioi or current.orig_ioi,
        )


def _check_uri(digest_uri: str, register: RegisterRequest) -> None:
    """The digest must be over this Request-URI (RFC 7616 3.4.6: 400 when it is not)."""
    try:
        same = parse_uri(digest_uri).equivalent(parse_uri(register.request_uri))
    except UriError:
        same = False
    if not same:
        raise RejectionError(400, "Digest URI Is Not The Request-URI")
