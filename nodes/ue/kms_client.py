"""The UE's side of Ticket Request and Ticket Resolve: MIKEY over HTTPS to its KMS (TS 33.328 Annex A, assumed).

Request-URI, body form and media type stand in :class:`keying.mikey.profile.Profile`. A 401 means that the KMS does not
know the key any more: the UE bootstraps anew and asks once more. Nothing else is repeated, and everything has an end.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from keying.mikey.codec import decode
from keying.mikey.errors import MikeyError, PeerError
from keying.mikey.identity import Identity
from keying.mikey.payloads import ErrorPayload, TicketPayload
from keying.mikey.policy import Wish
from keying.mikey.profile import Profile
from keying.mikey.registry import ErrorNumber
from keying.mikey.request import PskCredential, TicketRequest
from keying.mikey.resolve import Resolution, TicketResolve
from keying.mikey.ticket import Ticket
from keying.secret import Secret
from nodes.https import HttpError, HttpResponse, HttpsClient
from nodes.ue import mikey_tamper
from nodes.ue.config import KmsAddress
from nodes.ue.gba import GbaClient, GbaError
from nodes.ue.network import Network, NotFound, Server

OK, UNAUTHORIZED = 200, 401
AWAY = (502, 503, 504)
"""What a KMS answers that waits for somebody in vain: its BSF, or the KMS of another domain."""
BINARY_MARK = 0x01
"""First octet of every MIKEY message; no base64 text begins with it."""
PATIENCE = 4
"""Times the wait for one answer that a whole exchange may take: two bootstraps and two answers."""

_Result = TypeVar("_Result")
_Given_co = TypeVar("_Given_co", covariant=True)


class KmsError(Exception):
    """The KMS gave no ticket or keys. `numbers` are MIKEY error numbers, `status` the HTTP status or 0."""

    def __init__(self, reason: str, *, status: int = 0, numbers: tuple[int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.numbers = numbers


class KmsUnreachable(KmsError):  # noqa: N818 - says what the KMS is
    """No answer in time, or no key to ask with."""


class KmsRefused(KmsError):  # noqa: N818 - says what the KMS did
    """The KMS said no, or something that cannot be used."""


class Credentials(Protocol):
    """Where the key shared with the KMS comes from."""

    async def credential(self) -> PskCredential:
        """Return key and name. Raises KmsUnreachable."""

    def invalidate(self, credential: PskCredential) -> None:
        """Forget a key that the KMS does not know any more."""


class GbaCredentials:
    """Ks_NAF of the KMS under its B-TID (TS 33.220 4.5.3; TS 33.328 6.2.3, assumed)."""

    def __init__(self, gba: GbaClient, naf_fqdn: str) -> None:
        self._gba = gba
        self._naf_fqdn = naf_fqdn

    async def credential(self) -> PskCredential:
        """Return Ks_NAF, bootstrapping when there is none. Raises KmsUnreachable."""
        try:
            key = await self._gba.credential(self._naf_fqdn)
        except GbaError as error:
            raise KmsUnreachable(f"no key shared with the KMS, {error}") from None
        return PskCredential(key.btid.encode(), key.key)

    def invalidate(self, credential: PskCredential) -> None:
        """Bootstrap anew for the next request."""
        self._gba.invalidate(credential.identity.decode())


class StaticCredentials:
    """NON-SECURE, for labs without GBA: a key that the lab put on the card (``kms_psk``), named by the IMPI."""

    def __init__(self, credential: PskCredential) -> None:
        self._credential = credential

    async def credential(self) -> PskCredential:
        """Return the key."""
        return self._credential

    def invalidate(self, credential: PskCredential) -> None:
        """Keep it: there is no other."""


@dataclass(frozen=True)
class Asked:
    """The messages of one exchange, and the key that protected them."""

    request: bytes
    response: bytes
    psk: Secret = field(repr=False)


class _Exchange(Protocol[_Given_co]):
    message: bytes

    def receive(self, octets: bytes, now: float) -> _Given_co:
        """Take the answer."""


class _Elsewhere(Exception):  # noqa: N818 - says what to do
    """This instance did not answer, or cannot at present; another may."""

    def __init__(self, failure: KmsError) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class KmsClient:
    """Asks one KMS, any instance of it. `timeout_s` bounds each answer; `now` gives Unix seconds."""

    def __init__(
        self,
        https: HttpsClient,
        address: KmsAddress,
        credentials: Credentials,
        profile: Profile,
        network: Network,
        *,
        timeout_s: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.identity = Identity(profile.kms_identity_type, address.fqdn.encode())
        self.profile = profile
        self._https = https
        self._network = network
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._now = now
        self._former: dict[str, bytes] = {}
        """The last message of each kind, for the negative test ``replay``."""

    async def credential(self) -> PskCredential:
        """Return the key shared with the KMS, for tickets this UE makes itself (mode 3). Raises KmsUnreachable."""
        return await self._credentials.credential()

    async def request(self, initiator: Identity, wish: Wish, tamper: str = "") -> tuple[Ticket, Asked]:
        """Ask for a ticket (REQUEST_INIT). Raises KmsRefused, also for a ticket that is not acceptable; KmsUnreachable.

        `tamper` spoils the request for a negative test (TicketOptions).
        """

        def build(credential: PskCredential, now: float) -> TicketRequest:
            return TicketRequest(self.profile, credential, initiator=initiator, kms=self.identity, wish=wish, now=now)

        return await self._exchange(self.profile.http_request_word, build, tamper)

    async def resolve(self, ticket: TicketPayload, responder: Identity, tamper: str = "") -> tuple[Resolution, Asked]:
        """Have a ticket resolved (RESOLVE_INIT). Raises KmsRefused, KmsUnreachable."""

        def build(credential: PskCredential, now: float) -> TicketResolve:
            return TicketResolve(self.profile, credential, ticket, responder=responder, kms=self.identity, now=now)

        return await self._exchange(self.profile.http_resolve_word, build, tamper)

    async def _exchange(
        self, word: str, build: Callable[[PskCredential, float], _Exchange[_Result]], tamper: str
    ) -> tuple[_Result, Asked]:
        try:
            async with asyncio.timeout(PATIENCE * self._timeout_s):
                return await self._ask(word, build, tamper)
        except TimeoutError:
            raise KmsUnreachable("no answer in time") from None

    async def _ask(
        self, word: str, build: Callable[[PskCredential, float], _Exchange[_Result]], tamper: str
    ) -> tuple[_Result, Asked]:
        try:
            servers = await self._network.kms()
        except NotFound as error:
            raise KmsUnreachable(str(error)) from None
        failure: KmsError = KmsUnreachable("there is no instance of the KMS")
        for server in servers:
            try:
                return await self._ask_one(server, word, build, tamper)
            except _Elsewhere as away:
                self._network.failed(server.instance_id)
                failure = away.failure
        raise failure

    async def _ask_one(
        self, server: Server, word: str, build: Callable[[PskCredential, float], _Exchange[_Result]], tamper: str
    ) -> tuple[_Result, Asked]:
        """Ask one instance; each gets a message of its own, for all of them know what one has seen (RFC 3830 5.4)."""
        for last in (False, True):
            credential = await self._credentials.credential()
            used = PskCredential(credential.identity, Secret.random(32)) if tamper == "wrong-psk" else credential
            exchange = build(used, mikey_tamper.sending_time(self._now(), tamper))
            message = self._former.get(word, exchange.message) if tamper == "replay" else exchange.message
            self._former[word] = message
            message = mikey_tamper.spoil(message, tamper)
            response = await self._post(server, word, message)
            self._network.answered(server.instance_id)
            if response.status == UNAUTHORIZED and not last:
                self._credentials.invalidate(credential)
                continue
            octets = _read(response)
            return self._take(exchange, response, octets), Asked(message, octets, credential.key)
        raise KmsRefused("the KMS does not know this UE's key", status=UNAUTHORIZED)

    def _take(self, exchange: _Exchange[_Result], response: HttpResponse, octets: bytes) -> _Result:
        if response.status != OK:
            refused = _refusal(response.status, error_numbers(octets))
            raise _Elsewhere(refused) if isinstance(refused, KmsUnreachable) else refused
        try:
            return exchange.receive(octets, self._now())
        except PeerError as error:
            raise _refusal(response.status, error.numbers) from None
        except MikeyError as error:
            raise KmsRefused(f"the answer of the KMS is not usable: {error}", status=response.status) from None

    async def _post(self, server: Server, word: str, message: bytes) -> HttpResponse:
        profile = self.profile
        target = f"{profile.http_path}?{profile.http_operation_parameter}={word}"
        body = base64.b64encode(message) if profile.http_body_encoding == "base64" else message
        headers = (
            ("Content-Type", profile.http_content_type),
            ("Accept", profile.http_content_type),
            ("User-Agent", "imslab-ue 3gpp-gba"),
        )
        try:
            return await self._https.request(
                "POST", server.address, target, headers=headers, body=body, timeout_s=self._timeout_s
            )
        except HttpError as error:
            raise _Elsewhere(KmsUnreachable(f"{server.address.name}: {error}")) from None


def _read(response: HttpResponse) -> bytes:
    """Return the MIKEY message of a response in either form, empty when there is none."""
    body = response.body
    if not body or body[0] == BINARY_MARK:
        return body
    try:
        octets = base64.b64decode(body.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
    return octets if octets[:1] == bytes([BINARY_MARK]) else b""


def _refusal(status: int, numbers: tuple[int, ...]) -> KmsError:
    words = ", ".join(error_word(number) for number in numbers)
    reason = f"the KMS refused: {words}" if words else f"the KMS answered {status}"
    kind = KmsUnreachable if status in AWAY and not numbers else KmsRefused
    return kind(reason, status=status, numbers=numbers)


def error_numbers(octets: bytes) -> tuple[int, ...]:
    """Return the numbers of a MIKEY Error message, none for anything else.

    With a failure of HTTP it is advice, whether authenticated or not: there are no keys either way (RFC 3830 5.1.2).
    """
    try:
        message = decode(octets)
    except MikeyError:
        return ()
    return tuple(payload.number for payload in message.payloads if isinstance(payload, ErrorPayload))


def error_word(number: int) -> str:
    """Return the name of a MIKEY error number (RFC 3830 6.12, RFC 6043 6.9)."""
    try:
        return ErrorNumber(number).name
    except ValueError:
        return f"error {number}"


__all__ = [
    "Asked",
    "Credentials",
    "GbaCredentials",
    "KmsClient",
    "KmsError",
    "KmsRefused",
    "KmsUnreachable",
    "StaticCredentials",
    "error_word",
]
