"""The SIP user agent: takes what arrives on Gm, keeps the calls, sends for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan

from keying.modes import BUILT_IN, SecurityMode
from media.session import AudioSource, MediaReactor, spoken_by
from nodes.ue.call import SDP_TYPE, Call
from nodes.ue.callee import Callee
from nodes.ue.config import Behaviour, UeSettings
from nodes.ue.gm import Gm
from nodes.ue.key_management import KeyManagement
from nodes.ue.kms_policy import level_towards
from nodes.ue.media_security import SDES, SecurityContext
from nodes.ue.meter import UeMeter
from nodes.ue.registrar import Registrar
from nodes.ue.registration import Registration
from nodes.ue.report import voice_of
from nodes.ue.requests import ACCEPT, ALLOW, MMTEL_FEATURE, Identity
from nodes.ue.sealed_keys import SealedKeys
from nodes.ue.session_media import OfferRefused
from sba import runtime
from sba.telemetry import Telemetry
from signalling.sip.dialog import DialogError
from signalling.sip.grammar import GrammarError
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import Flow, ServerTxn, make_response
from signalling.sip.validation import check_request

METHODS = tuple(ALLOW.split(", "))
EXTENSIONS = ("100rel", "sec-agree", "path", "gruu")
CALLS_REMEMBERED = 64
"""Ended calls whose report can still be asked for."""


class UserAgent:
    """Everything above the stack but registration. `reactor` gives time and UDP ports; `keys` come of a KMS or not."""

    def __init__(
        self,
        name: str,
        settings: UeSettings,
        gm: Gm,
        registrar: Registrar,
        telemetry: Telemetry,
        reactor: MediaReactor,
        keys: KeyManagement | None = None,
        modes: Mapping[str, SecurityMode] | None = None,
        known_modes: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.settings = settings
        self.gm = gm
        self.registrar = registrar
        self.telemetry = telemetry
        self.reactor = reactor
        self.clock = reactor
        self.keys = keys
        self.meter = UeMeter(telemetry)
        self.modes = dict(modes or {})
        """Modes of packages that this user has."""
        self.sealed = SealedKeys(self.modes)
        self.facts = {**BUILT_IN, **{name: mode.facts for name, mode in self.modes.items()}}
        """What the modes of this user are called."""
        self.known_modes = frozenset((*BUILT_IN, *known_modes))
        """Every mode of the lab by name."""
        self.behaviour = Behaviour()
        self.calls: dict[str, Call] = {}
        self.finished: OrderedDict[str, Call] = OrderedDict()
        self._tasks: set[asyncio.Future[object]] = set()
        registrar.busy = lambda: bool(self.calls)

    # what calls ask of their agent

    @property
    def registration(self) -> Registration:
        """The registration as it stands."""
        return self.registrar.registration

    @property
    def identity(self) -> Identity:
        """Who the UE is on the wire."""
        return self.registrar.identity

    @property
    def default_identity(self) -> str:
        """The public identity that the network shows when this UE asks for no other (TS 24.229 5.1.2A.1.1)."""
        associated = self.registration.associated
        return associated[0] if associated else self.settings.impu

    @property
    def voice(self) -> AudioSource:
        """What this UE says when nobody gave it a recording."""
        return spoken_by(voice_of(self.settings.impu))

    def security(
        self, level: str = "", suites: tuple[str, ...] = (), *, peer: str = "", kms: str = ""
    ) -> SecurityContext:
        """Return what media security with `peer` rests on at present; `kms` overrides the level of KMS keys."""
        policy = self.settings.kms_policy
        registration = self.registration
        announced = any(entry.name.lower() == SDES for entry in registration.client_list)
        return SecurityContext(
            level=level or self.settings.security_level,
            announced=announced,
            agreed=SDES in registration.agreed,
            confidential=self.gm.confidential or self.settings.allow_keys_on_clear_gm,
            suites=suites or self.settings.suites,
            kms=level_towards(policy, peer, kms) if self.keys is not None else "off",
            beside_sdes=policy.beside_sdes,
            modes=frozenset(self.modes),
        )

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Run something beside; a failure is logged."""
        task = runtime.spawn(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[object, object, object]) -> object:
        try:
            return await work
        except (OSError, DialogError, OfferRefused) as error:
            self.telemetry.log("ue.task-failed", level="warning", error=str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.telemetry.log("ue.task-failed", level="error", error=f"{type(error).__name__}: {error}")
            raise
        return None

    async def exchange(
        self, request: SipRequest, call: Call, *, on_repeat: Callable[[SipResponse], None] | None = None
    ) -> SipResponse:
        """Send a request of a call and return its final response. Raises TransactionFailure."""
        await self.registrar.flow_again()
        hop = self.gm.hop(self.registrar.flow)
        return (await self.gm.exchange(request, hop, parent=call.trace_context, on_repeat=on_repeat)).response

    def send_ack(self, ack: SipRequest) -> None:
        """Send an ACK."""
        self.gm.send_ack(ack, self.gm.hop(self.registrar.flow))

    def response(self, request: SipRequest, status: int, body: bytes = b"", **more: str) -> SipResponse:
        """Build a response with what a UA says of itself; `more` are further headers, - written _."""
        headers = [
            ("Contact", f"<{self.identity.contact_uri}>;{MMTEL_FEATURE}"),
            ("Allow", ALLOW),
            ("Supported", "100rel"),
            ("Accept", ACCEPT),
            ("Server", self.settings.user_agent),
            *((name.replace("_", "-"), value) for name, value in more.items()),
        ]
        return make_response(request, status, headers=headers, body=body, content_type=SDP_TYPE if body else None)

    def refusal(self, request: SipRequest, refused: OfferRefused) -> SipResponse:
        """Build the response to an offer that cannot be accepted, with its warnings (SEC-1, RFC 4567 4.1.2)."""
        text = refused.warning or refused.reason
        clean = "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in text)[:120]
        warnings = [("Warning", f'399 {self.settings.ip} "{clean}"')]
        if refused.attribute:
            warnings.append(("Warning", f'306 {self.settings.ip} "Attribute not understood: key-mgmt"'))
        return make_response(request, refused.status, headers=warnings)

    def call_ended(self, call: Call) -> None:
        """Move a call among the finished ones."""
        if self.calls.get(call.call_id) is call:
            del self.calls[call.call_id]
        self.finished[call.call_id] = call
        while len(self.finished) > CALLS_REMEMBERED:
            self.finished.popitem(last=False)

    def find(self, call_id: str) -> Call | None:
        """Return a call, ended or not."""
        return self.calls.get(call_id) or self.finished.get(call_id)

    # RequestHandler

    def request_received(self, txn: ServerTxn) -> None:
        """Take a new request."""
        with self.gm.tracer.serving(txn.request):
            self._dispatch(txn)

    def _dispatch(self, txn: ServerTxn) -> None:
        request = txn.request
        if not self.gm.is_from_pcscf(txn.flow):
            txn.respond(make_response(request, 403))
            return
        refusal = check_request(
            request,
            role="uas",
            methods=METHODS,
            extensions=EXTENSIONS,
            schemes=("sip", "sips", "tel"),
            bodies=(SDP_TYPE,),
        )
        if refusal is not None:
            txn.respond(refusal)
            return
        try:
            within = request.to_tag is not None
        except GrammarError:
            txn.respond(make_response(request, 400))
            return
        if within:
            self._within_dialog(txn)
        elif request.method == "INVITE":
            self._new_call(txn)
        elif request.method == "OPTIONS":
            txn.respond(self.response(request, 200))
        else:
            txn.respond(make_response(request, 481))

    def _new_call(self, txn: ServerTxn) -> None:
        request = txn.request
        if self.gm.stack.is_merged(txn):
            txn.respond(make_response(request, 482))
        elif not self.registration.is_registered:
            txn.respond(make_response(request, 480))
        elif request.call_id in self.calls:
            txn.respond(make_response(request, 500))
        elif len(self.calls) >= self.settings.max_calls:
            txn.respond(make_response(request, 486))
        else:
            callee = Callee(self, txn, self.behaviour)
            self.calls[request.call_id] = callee.call
            callee.call.trace_context = trace.set_span_in_context(
                NonRecordingSpan(trace.get_current_span().get_span_context())
            )
            callee.begin()

    def _within_dialog(self, txn: ServerTxn) -> None:
        request = txn.request
        call = self.calls.get(request.call_id)
        dialog = call.dialog if call is not None else None
        if call is None or dialog is None:
            txn.respond(make_response(request, 481))
            return
        try:
            dialog.check_incoming(request)
        except DialogError as error:
            txn.respond(make_response(request, error.status))
            return
        match request.method:
            case "BYE":
                call.bye_received(txn)
            case "PRACK" if isinstance(call.setup, Callee):
                call.setup.prack_received(txn)
            case "UPDATE":
                call.later.update_received(txn)
            case "INVITE":
                call.later.reinvite_received(txn)
            case "OPTIONS":
                txn.respond(self.response(request, 200))
            case _:
                txn.respond(make_response(request, 481))

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        """Take the CANCEL of a call that was not answered yet."""
        call = self.calls.get(txn.request.call_id)
        if call is not None and isinstance(call.setup, Callee) and call.setup.txn is txn:
            call.setup.cancelled(cancel)
        else:
            txn.respond(make_response(txn.request, 487))

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        """Take the ACK of a 2xx."""
        del flow, txn
        call = self.calls.get(request.call_id)
        if call is None or call.dialog is None:
            return
        try:
            call.dialog.check_incoming(request)
        except (DialogError, GrammarError):
            return
        if isinstance(call.setup, Callee):
            call.setup.acknowledged()
        call.later.ack_received(request)

    def flow_closed(self, flow: Flow) -> None:
        """Take note that a connection is gone; calls and their media go on."""
        self.registrar.flow_closed(flow)

    async def close(self, reason: str = "the UE stops") -> None:
        """Hang up every call; without waiting for a flow that is gone."""
        self.registrar.close()
        await asyncio.gather(
            *(call.hang_up(reason=reason) for call in list(self.calls.values())), return_exceptions=True
        )
        for task in list(self._tasks):
            if not task.done():
                task.cancel()
