"""The UE's bootstrapping client: shared keys with NAFs out of the USIM (TS 33.220 4.5.2 and 4.5.3, TS 24.109 4)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from opentelemetry.trace import Span, Status, StatusCode

from keying.secret import Secret
from nodes.https import HttpError, HttpResponse, HttpsClient
from nodes.ue.card import Card
from nodes.ue.network import Network, NotFound, Server
from sba.telemetry import Telemetry
from signalling.aka.digest import (
    AuthenticationInfo,
    DigestChallenge,
    DigestCredentials,
    DigestError,
    aka_password,
    answer_challenge,
    canonical_algorithm,
    server_proved,
)
from signalling.aka.gba import CONTENT_TYPE, BootstrappingInfo, GbaFormatError, bootstrap_key, naf_id, naf_key
from signalling.aka.vectors import AkaError, AkaResult, SyncFailure, Usim, parse_nonce

ALGORITHM: Final = "AKAv1-MD5"
QOP: Final = "auth-int"
PATH: Final = "/"
USER_AGENT: Final = "imslab-ue"
ROUNDS: Final = 4
"""Challenges of one bootstrapping that are answered: one that is out of range and one that came too late among them."""
MARGIN_S: Final = 5.0
"""A key that ends within so many seconds is not used for anything new."""


class GbaError(Exception):
    """No key could be bootstrapped; `reason` is one word: unreachable, refused, network, card or protocol."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class GbaKey:
    """What the UE shares with one NAF: the B-TID that names it, Ks_NAF (32 octets), and its end (Unix seconds)."""

    btid: str
    key: Secret
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Bootstrap:
    """A bootstrapped security association: its name, RAND (16 octets), Ks (32 octets) and its end (Unix seconds)."""

    btid: str
    rand: bytes
    ks: Secret
    expires_at: float


class GbaClient:
    """Bootstraps with the BSF called `bsf` when no valid Ks is at hand and derives the key of each NAF from it.

    `remember` stores the card's sequence numbers (``card.sequence()``); it is awaited whenever the card accepted a
    challenge, before anything made of it is used. Ks does not outlive the process: a UE that starts bootstraps anew.
    """

    def __init__(
        self,
        client: HttpsClient,
        card: Card,
        bsf: str,
        network: Network,
        telemetry: Telemetry,
        remember: Callable[[], Awaitable[None]],
        *,
        now: Callable[[], float] = time.time,
        timeout_s: float = 5.0,
    ) -> None:
        self._client = client
        self._card = card
        self._bsf = bsf
        self._network = network
        self._telemetry = telemetry
        self._remember = remember
        self._now = now
        self._timeout_s = timeout_s
        self._held: _Bootstrap | None = None
        self._bootstrapping = asyncio.Lock()

    async def credential(self, naf_fqdn: str) -> GbaKey:
        """Return the key shared with a NAF, bootstrapping first when there is none; raises :class:`GbaError`."""
        async with self._bootstrapping:
            held = self._held
            if held is None or held.expires_at - MARGIN_S <= self._now():
                held = await self._bootstrap()
        return self._key(held, naf_fqdn)

    def invalidate(self, btid: str) -> None:
        """Forget the bootstrap of this name, e.g. after a 401 of the NAF; another one stays."""
        if self._held is not None and btid == self._held.btid:
            self._held = None

    def _key(self, held: _Bootstrap, naf_fqdn: str) -> GbaKey:
        try:
            naf = naf_id(naf_fqdn)
        except GbaFormatError as error:
            raise GbaError("protocol", str(error)) from None
        return GbaKey(held.btid, naf_key(held.ks, held.rand, self._card.impi, naf), held.expires_at)

    async def _bootstrap(self) -> _Bootstrap:
        """Run the procedure and keep its result; one span tells how it went."""
        with self._telemetry.tracer.start_as_current_span("gba.bootstrap") as span:
            span.set_attribute("imslab.gba.bsf", self._bsf)
            span.set_attribute("imslab.gba.impi", self._card.impi)
            try:
                held = await self._run(span)
            except GbaError as error:
                span.set_attribute("imslab.gba.outcome", error.reason)
                span.set_status(Status(StatusCode.ERROR, error.reason))
                self._telemetry.log("ue.gba-failed", level="warning", reason=error.reason, text=str(error))
                raise
            span.set_attribute("imslab.gba.outcome", "bootstrapped")
            span.set_attribute("imslab.gba.btid", held.btid)
        self._held = held
        self._telemetry.log("ue.gba-bootstrapped", btid=held.btid, seconds=round(held.expires_at - self._now()))
        return held

    async def _run(self, span: Span) -> _Bootstrap:
        usim = self._card.usim
        if usim is None:
            raise GbaError("card", "bootstrapping needs a USIM")
        server, response = await self._first_answer()
        for _ in range(ROUNDS):
            challenge = self._challenge(response)
            try:
                rand, result = await self._authenticate(usim, challenge)
            except SyncFailure as failure:
                span.add_event("resynchronisation")
                response = await self._ask(server, self._answer(challenge, Secret(b""), failure.auts))
                continue
            except AkaError:
                raise GbaError("network", "the challenge does not come from the home network") from None
            password = aka_password(ALGORITHM, result.res, result.ik, result.ck)
            credentials = self._answer(challenge, password)
            response = await self._ask(server, credentials)
            if response.status == 200:
                return self._accept(response, credentials, password, rand, result)
        raise GbaError("network", "the BSF does not stop challenging")

    async def _first_answer(self) -> tuple[Server, HttpResponse]:
        """Begin with the first instance that answers; the procedure stays with it, which made the challenge."""
        try:
            servers = await self._network.bsf()
        except NotFound as error:
            raise GbaError("unreachable", str(error)) from None
        failure = GbaError("unreachable", "there is no instance of the BSF")
        for server in servers:
            try:
                return server, await self._ask(server, DigestCredentials(self._card.impi, self._bsf, PATH))
            except GbaError as error:
                if error.reason != "unreachable":
                    raise
                self._network.failed(server.instance_id)
                failure = error
        raise failure

    async def _ask(self, server: Server, credentials: DigestCredentials) -> HttpResponse:
        """Send a request of the procedure; its answer is a 200 or a challenge."""
        headers = (
            ("Authorization", credentials.format()),
            ("User-Agent", USER_AGENT),
            ("Accept", CONTENT_TYPE),
        )
        try:
            response = await self._client.request(
                "GET", server.address, PATH, headers=headers, timeout_s=self._timeout_s
            )
        except HttpError as error:
            reason = "network" if error.fault.value == "tls" else "unreachable"
            raise GbaError(reason, f"no answer of the BSF: {error}") from None
        if response.status in {429, 500, 502, 503, 504}:
            raise GbaError("unreachable", f"the BSF answered {response.status}")
        if response.status not in {200, 401}:
            raise GbaError("refused", f"the BSF answered {response.status}")
        return response

    def _challenge(self, response: HttpResponse) -> DigestChallenge:
        """The challenge of a 401, in the name of the BSF the UE talks to (TS 24.109 4.2).

        Nothing but AKAv1-MD5 with auth-int is answered, so that nobody talks the UE out of either.
        """
        values = [value for name, value in response.headers if name.lower() == "www-authenticate"]
        if response.status != 401 or not values:
            raise GbaError("network", f"a challenge was due, the BSF answered {response.status}")
        for value in values:
            try:
                challenge = DigestChallenge.parse(value)
            except DigestError:
                continue
            good = (
                challenge.realm.lower() == self._bsf.lower() and canonical_algorithm(challenge.algorithm) == ALGORITHM
            )
            if good and QOP in challenge.qop:
                return replace(challenge, qop=(QOP,))
        raise GbaError("network", "no challenge that this UE answers")

    async def _authenticate(self, usim: Usim, challenge: DigestChallenge) -> tuple[bytes, AkaResult]:
        """Let the card judge a challenge, and have it remembered before its answer leaves. Raises AkaError."""
        rand, autn = parse_nonce(challenge.nonce)
        result = usim.authenticate(rand, autn)
        await self._remember()
        return rand, result

    def _answer(self, challenge: DigestChallenge, password: Secret, auts: bytes | None = None) -> DigestCredentials:
        return answer_challenge(
            challenge,
            username=self._card.impi,
            password=password,
            method="GET",
            uri=PATH,
            cnonce=secrets.token_hex(16),
            auts=auts,
        )

    def _accept(
        self,
        response: HttpResponse,
        credentials: DigestCredentials,
        password: Secret,
        rand: bytes,
        result: AkaResult,
    ) -> _Bootstrap:
        """Believe a 200 whose sender proves RES over all of it, and which is about this very challenge."""
        try:
            info = AuthenticationInfo.parse(response.header("Authentication-Info") or "")
        except DigestError:
            raise GbaError("network", "the BSF's proof is malformed") from None
        same = info.qop == QOP and info.nc == credentials.nc and info.cnonce == credentials.cnonce
        if not same or not server_proved(info, credentials, algorithm=ALGORITHM, password=password, body=response.body):
            raise GbaError("network", "the BSF did not prove itself")
        try:
            told = BootstrappingInfo.parse(response.body)
        except GbaFormatError as error:
            raise GbaError("protocol", str(error)) from None
        if told.btid.rand != rand or told.btid.bsf != self._bsf.lower():
            raise GbaError("protocol", "the B-TID belongs to another bootstrapping")
        now = self._now()
        lasts = told.expires_at - (told.now if told.now is not None else now)
        if lasts <= 0:
            raise GbaError("protocol", "the key has expired already")
        return _Bootstrap(str(told.btid), rand, bootstrap_key(result.ck, result.ik), now + lasts)
