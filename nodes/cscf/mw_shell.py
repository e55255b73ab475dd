"""The SIP side of the CSCF: takes requests from the stack, asks the procedures, carries out what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nodes.cscf.attempt import Attempt
from nodes.cscf.call_procedure import CallProcedure, Forwarding, Local, RegEvent, dress_response
from nodes.cscf.call_procedure import Target as RoutedTarget
from nodes.cscf.config import CscfSettings
from nodes.cscf.filter_criteria import continues_after_failure
from nodes.cscf.neighbours import MW
from nodes.cscf.reg_event_server import RegEventServer
from nodes.cscf.register_procedure import Journal, RegisterProcedure
from nodes.cscf.register_request import SUPPORTED_OPTIONS, read_register
from nodes.cscf.rejection import RejectionError
from nodes.cscf.trust import Peer, may_bring_register
from nodes.siptrace import SipTracer
from sba.telemetry import within
from signalling.sip.flow import Flow
from signalling.sip.grammar import GrammarError, parse_digits
from signalling.sip.headers import parse_via
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.proxy import DEFAULT_MAX_FORWARDS, Branch, ProxyContext, ProxyCore, Target
from signalling.sip.stack import ServerTxn, SipStack, make_response
from signalling.sip.validation import check_request

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, MESSAGE, SUBSCRIBE, NOTIFY, REFER, INFO, PUBLISH"
SIP_SCHEMES = ("sip", "sips")
FLOW_FAILED = 430
MAX_OWN_VIAS = 6
"""A request that passed this node so often has looped (482; testbed rule beside Max-Forwards)."""


@dataclass(frozen=True)
class Procedures:
    """What the shell asks."""

    register: RegisterProcedure
    calls: CallProcedure
    reg_event: RegEventServer
    judge: Callable[[Flow], Peer]
    """Asked for every request: what a neighbour was allowed a moment ago may be revoked."""
    gone: Callable[[Flow], None]
    home_domains: tuple[str, ...]


class MwShell:
    """The transaction user above the stack of Mw."""

    def __init__(
        self,
        stack: SipStack,
        settings: CscfSettings,
        procedures: Procedures,
        tracer: SipTracer,
        spawn: Callable[[Awaitable[None]], asyncio.Future[None]],
        journal: Journal,
        registering: Callable[[str], None],
    ) -> None:
        self._registering = registering
        self._stack = stack
        self._settings = settings
        self._procedures = procedures
        self._tracer = tracer
        self._spawn = spawn
        self._journal = journal
        self._proxy = ProxyCore(stack, is_loop=self._has_looped)
        self._running: dict[ServerTxn, asyncio.Future[None]] = {}
        self._attempts: dict[ServerTxn, Attempt] = {}
        self._cancelled: set[ServerTxn] = set()

    # RequestHandler

    def request_received(self, txn: ServerTxn) -> None:
        """Serve a request in a task of its own."""
        task = self._spawn(self._serve(txn))
        self._running[txn] = task
        with within(self._tracer.context_of(txn.request)):
            task.add_done_callback(lambda done: self._served(txn, done))

    def cancel_received(self, txn: ServerTxn, cancel: SipRequest) -> None:
        """Pass a CANCEL on; while no branch stands the INVITE ends here with 487 (RFC 3261 9.2, 16.10)."""
        if txn in self._running:
            self._cancelled.add(txn)
        if not self._proxy.cancel(self._attempts.get(txn, txn), cancel):
            txn.respond(make_response(txn.request, 487))

    def ack_received(self, request: SipRequest, flow: Flow, txn: ServerTxn | None) -> None:
        """Pass the ACK of a 2xx on along the route set; one that does not fit is dropped."""
        del txn
        with self._tracer.serving(request):
            try:
                forwarding = self._procedures.calls.in_dialog(request, self._procedures.judge(flow))
            except RejectionError as refusal:
                self._journal("ack.dropped", level="warning", call_id=request.call_id, reason=refusal.reason)
                return
            target = forwarding.groups[0][0]
            self._proxy.forward_ack(target.request, target.hop, role=MW)

    def flow_closed(self, flow: Flow) -> None:
        """Forget who was at the other end."""
        self._procedures.gone(flow)

    async def drain(self, seconds: float) -> None:
        """Wait for the requests being served, at most so long."""
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=seconds)

    # serving

    async def _serve(self, txn: ServerTxn) -> None:
        request = txn.request
        with self._tracer.serving(request):
            fault = self._form_fault(request)
            if fault is not None:
                txn.respond(fault)
                return
            try:
                peer = self._procedures.judge(txn.flow)
                if request.method == "REGISTER":
                    await self._register(txn, peer)
                    return
                decision = await self._procedures.calls.route(request, peer)
                if isinstance(decision, RegEvent):
                    await self._procedures.reg_event.subscribe(txn, decision)
                elif isinstance(decision, Local):
                    await self._local(txn)
                elif txn not in self._cancelled:
                    if decision.handed_back:
                        self._given_back(request.call_id)
                    await self._forward(txn, decision)
            except RejectionError as refusal:
                self._refuse(txn, refusal)
            except GrammarError as error:
                self._refuse(txn, RejectionError(400, f"Bad Request: {error}"[:100]))

    def _form_fault(self, request: SipRequest) -> SipResponse | None:
        """What every receiver checks first: form, scheme, options, domain of a REGISTER (RFC 3261 8.2, 10.3, 16.3)."""
        if request.method == "REGISTER":
            return check_request(
                request,
                role="registrar",
                methods=("REGISTER",),
                extensions=SUPPORTED_OPTIONS,
                schemes=SIP_SCHEMES,
                domains=self._procedures.home_domains,
            )
        return check_request(request, role="proxy", methods=(), extensions=(), schemes=(*SIP_SCHEMES, "tel", "urn"))

    def _served(self, txn: ServerTxn, done: asyncio.Future[None]) -> None:
        """Clean up; a fault of this node is answered 500 and told, never swallowed."""
        self._running.pop(txn, None)
        self._attempts.pop(txn, None)
        self._cancelled.discard(txn)
        if done.cancelled():
            return
        fault = done.exception()
        if fault is not None:
            self._journal(
                "request.failed",
                level="error",
                method=txn.request.method,
                call_id=txn.request.call_id,
                fault=type(fault).__name__,
            )
            txn.respond(make_response(txn.request, 500))

    def _refuse(self, txn: ServerTxn, refusal: RejectionError) -> None:
        self._journal(
            "request.refused",
            method=txn.request.method,
            call_id=txn.request.call_id,
            status=refusal.status,
            reason=refusal.reason,
        )
        txn.respond(make_response(txn.request, refusal.status, refusal.reason, headers=refusal.headers))

    async def _register(self, txn: ServerTxn, peer: Peer) -> None:
        if not may_bring_register(peer):
            self._registering("refused")
            raise RejectionError(403, "Not Through A P-CSCF")
        result = "failed"
        try:
            register = read_register(txn.request, self._procedures.home_domains, self._settings, peer.instance_id)
            answer = await self._procedures.register.handle(txn.request, register)
            result = "challenged" if answer.status == 401 else "accepted"
        except (RejectionError, GrammarError):
            result = "refused"
            raise
        finally:
            self._registering(result)
        txn.respond(make_response(txn.request, answer.status, headers=answer.headers))

    async def _local(self, txn: ServerTxn) -> None:
        request = txn.request
        if request.to_tag is not None:
            if request.method == "SUBSCRIBE":
                await self._procedures.reg_event.refresh(txn)
                return
            raise RejectionError(481, "No Such Dialog")
        if request.method == "OPTIONS":
            headers = [("Allow", ALLOW), ("Accept", "*/*"), ("Supported", "path, outbound")]
            txn.respond(make_response(request, 200, headers=headers))
            return
        raise RejectionError(404, "Nobody Here")

    # forwarding

    async def _forward(self, txn: ServerTxn, forwarding: Forwarding) -> None:
        """Try the groups one after another, then what follows a failed server (RFC 3261 16.6; default handling)."""
        for index, group in enumerate(forwarding.groups):
            if index == len(forwarding.groups) - 1 and forwarding.onward is None:
                self._attempts.pop(txn, None)
                self._start(txn, forwarding, group)
                return
            attempt = Attempt(txn)
            self._attempts[txn] = attempt
            await self._try(attempt, forwarding, group)
            if attempt.answered or txn in self._cancelled or not _may_go_on(forwarding, attempt):
                attempt.release()
                return
        if forwarding.onward is not None:
            self._journal("as.passed-over", level="warning", call_id=txn.request.call_id)
            await self._forward(txn, await forwarding.onward())

    def _given_back(self, call_id: str) -> None:
        """A server handed the request of a call back; it waits for the far end from now on as everybody does."""
        for attempt in self._attempts.values():
            if attempt.request.call_id == call_id:
                attempt.under_way = True

    async def _try(self, attempt: Attempt, forwarding: Forwarding, group: Sequence[RoutedTarget]) -> None:
        """Forward to one group and wait for the outcome; a server that stays silent is given up."""
        context = self._start(attempt, forwarding, group)
        try:
            async with asyncio.timeout(self._settings.as_timeout if forwarding.server else None):
                await context.wait()
        except TimeoutError:
            if attempt.under_way:
                await context.wait()
            else:
                attempt.abandon()
                context.cancel()
        attempt.over()

    def _start(self, txn: ServerTxn, forwarding: Forwarding, group: Sequence[RoutedTarget]) -> ProxyContext:
        targets = [Target(one.hop, request=_counted(one.request, one.record_route)) for one in group]
        dressed = forwarding.callee is not None or bool(forwarding.term_ioi)

        async def on_response(_branch: Branch, response: SipResponse) -> SipResponse:
            answer = response.copy()
            if answer.status == FLOW_FAILED:
                answer = make_response(txn.request, 480, "Not Reachable")
            dress_response(answer, forwarding, add_tel_identity=self._settings.add_tel_identity)
            return answer

        return self._proxy.forward(
            txn, group[0].request, targets, role=MW, on_response=on_response if dressed else None
        )

    def _has_looped(self, request: SipRequest) -> bool:
        """A request that carries this node's Via too often goes round in circles (RFC 3261 16.3 step 4, testbed)."""
        own = self._stack.local_address(MW, self._settings.mw_transport.upper())
        seen = 0
        for value in request.headers.values("Via"):
            via = parse_via(value)
            seen += own is not None and (via.host.strip("[]"), via.port) == own
        return seen >= MAX_OWN_VIAS


def _may_go_on(forwarding: Forwarding, attempt: Attempt) -> bool:
    """Say whether a failed attempt leads to another: to the next contacts always, past a server by default handling."""
    if forwarding.server is None:
        return True
    status = None if attempt.failure is None else attempt.failure.status
    return continues_after_failure(status, forwarding.server, provisional_seen=attempt.under_way)


def _counted(request: SipRequest, record_route: str) -> SipRequest:
    """The request of one branch with Max-Forwards counted down and the own Record-Route on top (RFC 3261 16.6)."""
    branch = request.copy()
    left = parse_digits(branch.headers.get("Max-Forwards") or str(DEFAULT_MAX_FORWARDS + 1), 255)
    branch.headers.set("Max-Forwards", str((DEFAULT_MAX_FORWARDS if left is None else left) - 1))
    if record_route:
        branch.headers.prepend("Record-Route", f"<{record_route}>")
    return branch
