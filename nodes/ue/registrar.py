"""Registration procedures of the UE: challenge, agreement, refresh, deregistration, recovery (TS 24.229 5.1.1)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode, get_current_span, set_span_in_context, use_span

from nodes.ue.card import Card, ChallengeAnswer, ChallengeFault
from nodes.ue.config import RegisterOptions, UeSettings
from nodes.ue.gm import Answered, Gm, advised_interval
from nodes.ue.network import Network, NotFound, Pcscf, PinnedNetwork
from nodes.ue.registration import INVALID_CHALLENGES, Event, Registration, State, refresh_delay
from nodes.ue.requests import Identity, RegisterDialog, register_request, told_reason, uris_in
from sba import runtime
from sba.telemetry import Telemetry, trace_id_of, within
from signalling.aka.digest import AuthenticationInfo, DigestCredentials, DigestError, server_proved
from signalling.secagree import (
    MechanismEntry,
    SecurityHeaderError,
    announce,
    choose_signalling,
    parse_security_header,
)
from signalling.sip.connection import Clock, DelayedCall
from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import SipResponse
from signalling.sip.stack import Flow, Keepalive, TransactionFailure

MAX_EXCHANGES = 8
"""REGISTER requests in one procedure; a network that wants more is refused."""
LATER = frozenset({305, 408, 430, 480, 500, 503, 504})
"""Answers after which the UE may try again later (E-21, assumed)."""
ELSEWHERE = frozenset({305, 503})
"""Of these, those that speak of the P-CSCF alone where they name no time to come back (TS 24.229 5.1.1.2.1)."""
ENCRYPTIONS = ("aes-cbc", "null")
"""Values of ealg that the UE offers, best first."""
LEAST_SPI = 1_000_000_000


@dataclass(frozen=True)
class Wish:
    """What a registration was asked for; repeated by refresh and recovery."""

    mechanisms: tuple[str, ...]
    expires: int
    options: RegisterOptions


class RegistrationStopped(Exception):  # noqa: N818 - an outcome
    """The procedure is over without registration; `event` says how.

    `elsewhere`: it is this P-CSCF that cannot, another one may (TS 24.229 5.1.1.2.1).
    """

    def __init__(self, event: Event, status: int, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.event = event
        self.status = status
        self.reason = reason
        self.elsewhere = elsewhere


class Registrar:
    """One registration procedure at a time (REG-1). `remember` stores card and registration after each change.

    Each registration is with one P-CSCF. When that is gone the UE registers with another that `network` names; with
    calls in progress it first waits for the one that holds them.
    """

    def __init__(
        self,
        gm: Gm,
        card: Card,
        settings: UeSettings,
        telemetry: Telemetry,
        clock: Clock,
        instance_urn: str,
        remember: Callable[[], Awaitable[None]],
        network: Network | None = None,
    ) -> None:
        self.registration = Registration()
        self.busy: Callable[[], bool] = lambda: False
        """Tells whether calls are in progress."""
        self.flow: Flow | None = None
        self.wish: Wish | None = None
        self._gm = gm
        self._card = card
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._urn = instance_urn
        self._remember = remember
        self._network = network or PinnedNetwork.of(settings)
        self._candidates: list[Pcscf] = []
        """P-CSCFs not tried yet in this procedure."""
        self._lost_at: float | None = None
        self._waiting_for_anchor = False
        self._lock = asyncio.Lock()
        self._dialog = RegisterDialog.fresh(settings.ip)
        self._refresh: DelayedCall | None = None
        self._keepalive: Keepalive | None = None
        self._recovery: asyncio.Future[None] | None = None
        self._ports = (0, 0)
        self._not_before = 0.0
        self._trace: Context | None = None
        """The trace of the last procedure."""
        self._closing = False
        self._reachable = asyncio.Event()
        self._reachable.set()

    @property
    def identity(self) -> Identity:
        """Who the UE is on the wire at present."""
        settings = self._settings
        port = self._ports[1] or self._gm.contact_port
        return Identity(
            settings.impu, settings.domain, settings.ip, port, settings.transport, settings.user_agent, self._urn
        )

    @property
    def expires_in_s(self) -> float:
        """Seconds until the registration ends; 0 when there is none."""
        left = self.registration.expires_at - self._clock.seconds()
        return max(0.0, left) if self.registration.is_registered else 0.0

    # procedures

    async def register(self, wish: Wish) -> Registration:
        """Register or register again; the outcome is in the registration returned."""
        self._stop_recovery()
        async with self._lock:
            self.wish = wish
            await self._procedure(wish, Event.START, wish.expires)
        return self.registration

    async def resume(self, wish: Wish) -> None:
        """Register as nobody asks for just now, when the UE starts: what the network cannot do yet is tried again."""
        await self.register(wish)
        if self.registration.state is State.IDLE and self.wish is wish:
            self._recover()

    async def deregister(self) -> Registration:
        """End the registration (DR-1); without one nothing is sent."""
        self._stop_recovery()
        async with self._lock:
            if self.registration.state is State.REG and self.wish is not None:
                await self._procedure(self.wish, Event.DEREGISTER, 0)
            self._end()
            self.wish = None
            await self._remember()
        return self.registration

    async def _procedure(self, wish: Wish, event: Event, expires: int) -> None:
        registration = self.registration
        initial = registration.state is not State.REG
        registration.apply(event)
        registration.invalid_challenges = 0
        registration.verify_tampering = wish.options.tamper_verify
        if self._refresh is not None and self._refresh.active():
            self._refresh.cancel()
        try:
            await self._somewhere(wish, event, expires, initial=initial)
        except RegistrationStopped as stopped:
            registration.status, registration.reason = stopped.status, stopped.reason
            registration.apply(stopped.event)
            if stopped.event is Event.REFUSED:
                registration.clear()
                self._card.forget()
                self._reachable.set()
        except BaseException:
            registration.apply(Event.LOST)
            raise
        with within(self._trace):
            self._telemetry.log(
                "ue.registration",
                state=registration.state.value,
                sip_status=registration.status,
                reason=registration.reason,
                agreed=list(registration.agreed),
                expires_s=registration.granted_s,
                pcscf=self._pcscf_name,
            )
        await self._remember()

    async def _somewhere(self, wish: Wish, event: Event, expires: int, *, initial: bool) -> None:
        """Go through a procedure with one P-CSCF after the other, until one takes it or gives a final no."""
        if initial:
            await self._find()
        while True:
            try:
                await self._exchanges(wish, expires, initial=initial)
            except RegistrationStopped as stopped:
                if not stopped.elsewhere or event is Event.DEREGISTER or not await self._turn_away(initial=initial):
                    raise
                self._telemetry.log("ue.next-pcscf", level="warning", reason=stopped.reason, pcscf=self._pcscf_name)
            else:
                return
            initial = True
            self.registration.apply(Event.UNREACHABLE)
            self.registration.apply(Event.START)

    async def _turn_away(self, *, initial: bool) -> bool:
        """Turn to the next P-CSCF; False where there is none."""
        left = self._gm.pcscf
        if left is not None:
            self._network.failed(left.instance_id)
        if not initial:  # what a refresh began at may have company by now
            try:
                await self._find()
            except RegistrationStopped:
                return False
            if self._gm.pcscf != left:
                return True
        if not self._candidates:
            return False
        self._gm.use(self._candidates.pop(0))
        return True

    async def _find(self) -> None:
        """Find the P-CSCFs to try, and take the first. Raises RegistrationStopped where there is none."""
        anchor = self._anchor()
        try:
            found = [anchor] if anchor is not None else await self._network.pcscfs()
        except NotFound as error:
            raise RegistrationStopped(Event.UNREACHABLE, 503, str(error)) from None
        self._waiting_for_anchor = anchor is not None
        first, *self._candidates = found
        self._gm.use(first)

    @property
    def _pcscf_name(self) -> str:
        return self._gm.pcscf.name if self._gm.pcscf is not None else ""

    def _anchor(self) -> Pcscf | None:
        """The P-CSCF that holds the calls in progress, for as long as it may take to come back."""
        lost = self._lost_at
        if lost is None or not self.busy() or self._clock.seconds() - lost > self._settings.anchor_s:
            return None
        return self._gm.pcscf

    async def locate(self) -> None:
        """Find a P-CSCF for a request without registration. Raises TransactionFailure."""
        if self._gm.pcscf is not None:
            return
        async with self._lock:
            try:
                await self._find()
            except RegistrationStopped as stopped:
                raise TransactionFailure("transport", stopped.reason) from None

    async def _exchanges(self, wish: Wish, expires: int, *, initial: bool) -> None:
        if initial:
            self._card.forget()
            self._gm.unprotect()
            self._dialog = RegisterDialog.fresh(self._settings.ip)
        registration = self.registration
        span = self._gm.tracer.begin("ue.register", self._dialog.call_id, get_current_span().get_span_context())
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            registration.trace_id = trace_id_of()
            self._trace = set_span_in_context(span, Context())
            span.set_attribute("imslab.register.expires_s", expires)
            try:
                await self._rounds(wish, expires, initial=initial)
            except RegistrationStopped as stopped:
                span.set_attribute("error.type", stopped.event.value)
                span.set_status(Status(StatusCode.ERROR, stopped.event.value))
                raise
            finally:
                if registration.status:
                    span.set_attribute("sip.status_code", registration.status)

    async def _rounds(self, wish: Wish, expires: int, *, initial: bool) -> None:
        registration, uri = self.registration, f"sip:{self._settings.domain}"
        credentials = self._card.initial(uri) if initial else self._card.refreshed("REGISTER", uri)
        client = await self._client_list(wish)
        verify = () if initial else registration.verify_entries()
        server: tuple[MechanismEntry, ...] | None = None
        supported: tuple[str, ...] = ("path",)
        for _ in range(MAX_EXCHANGES):
            answered = await self._send(credentials, expires, client, verify, supported, protected=not initial)
            response = answered.response
            registration.status, registration.reason = response.status, response.reason
            if 200 <= response.status < 300:
                await self._accepted(answered, expires, client, server, credentials)
                return
            if response.status == 401:
                answer = self._answer(response, wish, uri)
                assert answer.credentials is not None
                credentials = answer.credentials
                await self._remember()
                if answer.fault is ChallengeFault.NONE:
                    server = self._server_list(response) or server
                    registration.server_list = server or ()
                    verify = registration.verify_entries()
                    self._enter_association(client, server or ())
                    registration.apply(Event.CHALLENGE)
                elif self._settings.profile == "aka-udp":
                    client = await self._client_list(wish)
            elif response.status == 423 and expires > 0:
                expires = self._longer(response, expires)
                registration.apply(Event.TOO_BRIEF)
            elif response.status == 420 and supported:
                supported = self._without_unsupported(response, supported)
            else:
                raise self._stopped(response)
        raise RegistrationStopped(Event.REFUSED, registration.status, "the network does not come to an end")

    async def _send(
        self,
        credentials: DigestCredentials,
        expires: int,
        client: tuple[MechanismEntry, ...],
        verify: tuple[MechanismEntry, ...],
        supported: tuple[str, ...],
        *,
        protected: bool,
    ) -> Answered:
        request = register_request(
            self.identity,
            self._dialog,
            credentials,
            expires=expires,
            client=client,
            verify=verify,
            supported=supported,
            protected=protected,
        )
        patience = self._settings.next_pcscf_s if self._candidates or self._waiting_for_anchor else None
        try:
            async with asyncio.timeout(patience):
                return await self._gm.exchange(request, self._gm.first_hop())
        except TransactionFailure as failure:
            raise RegistrationStopped(Event.UNREACHABLE, failure.status, str(failure), elsewhere=True) from None
        except TimeoutError:
            reason = f"no answer in {patience:g} s"
            raise RegistrationStopped(Event.UNREACHABLE, 408, reason, elsewhere=True) from None

    # challenges

    def _answer(self, response: SipResponse, wish: Wish, uri: str) -> ChallengeAnswer:
        """Answer a 401; at most two invalid challenges in a row are answered (UE-1, E-3, E-5, E-6)."""
        registration, options = self.registration, wish.options
        values = response.headers.get_all("WWW-Authenticate")
        if options.fail_mac:
            answer = self._card.refuse_mac(uri)
        elif options.fail_sync and registration.invalid_challenges == 0:
            answer = self._card.refuse_sync(values, "REGISTER", uri)
        else:
            answer = self._card.answer(values, "REGISTER", uri, spoil=options.bad_response)
        if answer.fault is ChallengeFault.UNSUPPORTED:
            raise RegistrationStopped(Event.REFUSED, response.status, "no challenge this UE can answer")
        if answer.fault is ChallengeFault.NONE:
            registration.invalid_challenges = 0
            return answer
        registration.invalid_challenges += 1
        self._telemetry.log("ue.invalid-challenge", level="warning", fault=answer.fault.value)
        if registration.invalid_challenges > INVALID_CHALLENGES:
            raise RegistrationStopped(Event.REFUSED, response.status, f"invalid challenges: {answer.fault.value}")
        registration.apply(Event.BAD_CHALLENGE)
        return answer

    # agreement

    async def _client_list(self, wish: Wish) -> tuple[MechanismEntry, ...]:
        media = () if wish.options.strip_mediasec else announce(wish.mechanisms)
        if self._settings.profile != "aka-udp":
            return media
        port_c, port_s = self._ports = await self._gm.protected_ports()
        spi_c = LEAST_SPI + secrets.randbelow(2 * LEAST_SPI)
        common = (("spi-c", str(spi_c)), ("spi-s", str(spi_c + 1)), ("port-c", str(port_c)), ("port-s", str(port_s)))
        proposals = tuple(
            MechanismEntry("ipsec-3gpp", (("alg", "hmac-sha-1-96"), ("ealg", cipher), *common))
            for cipher in ENCRYPTIONS
        )
        return (*proposals, *media)

    def _server_list(self, response: SipResponse) -> tuple[MechanismEntry, ...]:
        values = response.headers.get_all("Security-Server")
        if not values:
            return ()
        try:
            return parse_security_header(values)
        except SecurityHeaderError as error:
            raise RegistrationStopped(Event.REFUSED, response.status, f"Security-Server: {error}") from None

    def _enter_association(self, client: tuple[MechanismEntry, ...], server: tuple[MechanismEntry, ...]) -> None:
        """Take up the association the P-CSCF set up (UE-1 to UE-5); nothing to do without ipsec-3gpp."""
        if self._settings.profile != "aka-udp":
            return
        entry = choose_signalling(server, [one for one in client if not one.is_media])
        port = entry.get("port-s") if entry is not None else None
        if port is None or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise RegistrationStopped(Event.REFUSED, 401, "Security-Server is missing or not acceptable")
        self._gm.protect(self._ports[0], int(port))
        self._telemetry.log("ue.association", level="warning", protection="NON-SECURE: no ESP")

    # outcome

    async def _accepted(
        self,
        answered: Answered,
        expires: int,
        client: tuple[MechanismEntry, ...],
        server: tuple[MechanismEntry, ...] | None,
        credentials: DigestCredentials,
    ) -> None:
        registration, response = self.registration, answered.response
        self._check_proof(response, credentials)
        registration.apply(Event.ACCEPTED)
        if expires == 0:
            return
        self.flow = answered.flow
        self._lost_at = None
        if self._gm.pcscf is not None:
            self._network.answered(self._gm.pcscf.instance_id)
        self._reachable.set()
        self._keep_alive(response)
        registration.client_list = client
        registration.server_list = server or self._server_list(response) or registration.server_list
        registration.service_route = tuple(response.headers.values("Service-Route"))
        registration.associated = uris_in(response.headers.values("P-Associated-URI"))
        registration.granted_s = self._granted(response, expires)
        registration.expires_at = self._clock.seconds() + registration.granted_s
        registration.reason = ""
        delay = refresh_delay(registration.granted_s)
        self._refresh = self._clock.callLater(delay, lambda: runtime.spawn(self._refresh_now()))

    def _check_proof(self, response: SipResponse, credentials: DigestCredentials) -> None:
        """Check the server's proof when it gave one (RFC 3310 3.5, TS 33.203 N.2)."""
        last, text = self._card.last, response.headers.get("Authentication-Info")
        if text is None or last is None or last.password is None:
            return
        try:
            info = AuthenticationInfo.parse(text)
        except DigestError as error:
            raise RegistrationStopped(Event.REFUSED, response.status, f"Authentication-Info: {error}") from None
        if info.rspauth is None:
            return
        if not server_proved(info, credentials, algorithm=last.algorithm, password=last.password):
            raise RegistrationStopped(Event.REFUSED, response.status, "the server did not prove that it knows the key")

    def _granted(self, response: SipResponse, asked: int) -> int:
        own = self.identity.contact_uri
        for value in response.headers.values("Contact"):
            try:
                contact = parse_name_addr(value)
            except GrammarError:
                continue
            text = contact.params.get("expires")
            if str(contact.uri).startswith(own) and text is not None and text.isascii() and text.isdigit():
                return min(int(text), asked)
        text = response.headers.get("Expires")
        return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else asked

    @staticmethod
    def _longer(response: SipResponse, expires: int) -> int:
        text = response.headers.get("Min-Expires") or ""
        least = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if least <= expires:
            raise RegistrationStopped(Event.REFUSED, 423, "423 without a longer Min-Expires")
        return least

    @staticmethod
    def _without_unsupported(response: SipResponse, supported: tuple[str, ...]) -> tuple[str, ...]:
        refused = {tag.lower() for tag in response.headers.values("Unsupported")}
        kept = tuple(tag for tag in supported if tag not in refused)
        if kept == supported:
            raise RegistrationStopped(Event.REFUSED, 420, "the network refuses an extension the UE cannot do without")
        return kept

    def _stopped(self, response: SipResponse) -> RegistrationStopped:
        """Tell a refusal from a "later", whose Retry-After the recovery keeps, and from a "not here" (E-20, E-21)."""
        reason = told_reason(response)
        if response.status not in LATER:
            return RegistrationStopped(Event.REFUSED, response.status, reason)
        seconds = (response.headers.get("Retry-After") or "").partition(";")[0].partition("(")[0].strip()
        told = seconds.isascii() and seconds.isdigit() and len(seconds) < 6
        if told:
            self._not_before = self._clock.seconds() + int(seconds)
        elsewhere = response.status in ELSEWHERE and not told
        return RegistrationStopped(Event.UNREACHABLE, response.status, reason, elsewhere=elsewhere)

    # time and loss

    async def _refresh_now(self) -> None:
        wish = self.wish
        if wish is None or self._closing:
            return
        async with self._lock:
            if self.registration.state is State.REG:
                await self._procedure(wish, Event.REFRESH, wish.expires)
        if self.registration.state is State.IDLE:
            self._recover()

    def _keep_alive(self, response: SipResponse) -> None:
        """Send keep-alives on the registered flow when the P-CSCF wants them; each 200 settles it anew (RFC 6223)."""
        self._stop_keep_alive()
        seconds, flow = advised_interval(response), self.flow
        if seconds is not None and flow is not None:
            self._keepalive = self._gm.stack.keep_alive(flow, lambda: self.flow_closed(flow), advised=seconds or None)

    def _stop_keep_alive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.stop()
        self._keepalive = None

    def flow_closed(self, flow: Flow) -> None:
        """Take note that a connection is gone; register again when it was the registered one (DR-5)."""
        if self._closing or self.flow is None or flow.id != self.flow.id:
            return
        self.flow = None
        self._lost_at = self._clock.seconds()
        if self._gm.pcscf is not None and not self.busy():
            self._network.failed(self._gm.pcscf.instance_id)
        self._reachable.clear()
        self._stop_keep_alive()
        if self.registration.state is State.REG:
            self.registration.apply(Event.LOST)
            self._telemetry.log("ue.flow-lost", level="warning")
            self._recover()

    async def flow_again(self) -> None:
        """Wait for the registration that follows a lost flow: over a new one the P-CSCF takes nothing before it (DR-5).

        Returns at once while the flow stands, and after a time when the network does not come back.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.flow_wait_s):
                await self._reachable.wait()

    def _recover(self) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = runtime.spawn(self._keep_trying())

    async def _keep_trying(self) -> None:
        pause = self._settings.retry_first_s
        while not self._closing and self.wish is not None:
            wait = pause * (1 + secrets.randbelow(200) / 1000)
            await asyncio.sleep(max(wait, self._not_before - self._clock.seconds()))
            async with self._lock:
                if self.registration.state not in {State.IDLE, State.FAILED}:
                    return
                await self._procedure(self.wish, Event.START, self.wish.expires)
            if self.registration.state is not State.IDLE:
                return
            pause = min(2 * pause, self._settings.retry_most_s)

    def _stop_recovery(self) -> None:
        if self._recovery is not None and not self._recovery.done():
            self._recovery.cancel()
        self._recovery = None

    def _end(self) -> None:
        self._stop_keep_alive()
        if self._refresh is not None and self._refresh.active():
            self._refresh.cancel()
        self.registration.apply(Event.LOST)
        self.registration.clear()
        self._card.forget()
        self.flow = None
        self._reachable.set()

    def close(self) -> None:
        """Stop all clocks; the binding at the registrar stays."""
        self._closing = True
        self._reachable.set()
        self._stop_keep_alive()
        self._stop_recovery()
        if self._refresh is not None and self._refresh.active():
            self._refresh.cancel()
