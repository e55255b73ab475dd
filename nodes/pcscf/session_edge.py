"""Session set-up and what goes on inside dialogs, from and to UEs (HOP-1..HOP-7, 5.2, 5.3; FLOW-5, FLOW-6, 7.4)."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from nodes.pcscf import mediasec
from nodes.pcscf.bindings import Registration
from nodes.pcscf.bodies import OFFER_METHODS, check_answer_body, check_body, drop_body, has_sdp
from nodes.pcscf.descriptions import carrier_of, is_described, is_of_no_exchange, is_superseded
from nodes.pcscf.dialogs import CSEQ_MOST, EdgeDialog, dialog_of
from nodes.pcscf.edge import MW, Edge
from nodes.pcscf.flowtoken import FlowAddress
from nodes.pcscf.forwarding import Forwarding, take_hop
from nodes.pcscf.identity import ASSERTED, clean_from_ue, clean_towards_ue
from nodes.pcscf.media_plan import AlgPolicy, Refusal, Side
from nodes.pcscf.meter import EdgeMeter
from nodes.pcscf.register import charging_vector
from nodes.pcscf.rejection import RejectionError, media_rejection
from nodes.pcscf.release import MEDIA_SECURITY, UE_LOST, Releaser
from nodes.pcscf.routing import OwnUri, domain_of
from nodes.pcscf.session import Session, Sessions
from nodes.pcscf.session_media import AnswerFaultError, SessionMedia
from nodes.pcscf.ue_requests import UeRequests
from signalling.sip.flow import Flow, Hop
from signalling.sip.headers import GrammarError, parse_name_addr
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import ServerTxn, make_response

SESSION: Final = "s"
STANDALONE: Final = "r"
ROUTE_PURPOSE: Final = "route"
MAX_DIALOGS: Final = 16
"""Early and confirmed dialogs of one INVITE; responses that would begin another are dropped (T9)."""
_GONE: Final = frozenset({0, 430})
"""No answer at all, or the UE's connection is gone: the session ends."""
_ENDS_DIALOG: Final = frozenset({408, 481})
"""End the dialog when INVITE or UPDATE was answered so; not PRACK, which may cross the 2xx (RFC 3262 4)."""


class SessionEdge:
    """Requests other than REGISTER, their responses, ACK and CANCEL."""

    def __init__(self, edge: Edge, releaser: Releaser, ue: UeRequests, meter: EdgeMeter) -> None:
        self._edge = edge
        self._meter = meter
        self._releaser = releaser
        self._ue = ue
        self._invites: dict[str, Forwarding] = {}

    # -- entry points -------------------------------------------------------------------------------------------------

    async def from_ue(self, txn: ServerTxn) -> None:
        """A request that came over Gm. Raises RejectionError."""
        request = txn.request.copy()
        take_hop(request)
        _check_number(request)
        arrived = await self._ue.accept(request, txn.flow)
        check_body(request)
        if request.to_tag is None:
            if request.method == "INVITE":
                await self._invite(txn, request, Side.ACCESS, arrived.registration, arrived.address, arrived.emergency)
            else:
                _check_standalone(request)
                await self._standalone_from_ue(txn, request, arrived.registration, arrived.emergency)
            return
        found = self._by_token(arrived.tokens, request.call_id)
        if isinstance(found, Registration):
            if arrived.registration is None or found.id != arrived.registration.id:
                raise RejectionError(403, "Forbidden")
            _check_standalone(request)
            await self._pass(txn, request, self._edge.towards_core(request, found), MW, found)
            return
        session = self._ue.owned_session(found, request, arrived)
        await self._in_dialog(txn, request, session, Side.ACCESS)

    async def from_core(self, txn: ServerTxn) -> None:
        """A request that came over Mw. Raises RejectionError."""
        request = txn.request.copy()
        take_hop(request)
        _check_number(request)
        check_body(request)
        taken = self._ue.take_routes(request)
        if request.to_tag is not None:
            found = self._by_token(taken, request.call_id)
            if isinstance(found, Session):
                await self._in_dialog(txn, request, found, Side.CORE)
                return
            if found is None:
                raise RejectionError(481, "Call/Transaction Does Not Exist")
            registration = found
        else:
            registration = self._ue.registration_of_path(taken)
        if request.method == "INVITE" and request.to_tag is None:
            await self._invite(txn, request, Side.CORE, registration, registration.flow, emergency=False)
            return
        _check_standalone(request)
        if request.to_tag is None:
            self._record_route(request, registration, STANDALONE, _named(registration, request.call_id), Side.CORE)
        clean_towards_ue(request)
        hop, role = self._edge.towards_ue(registration)
        await self._pass(txn, request, hop, role, registration)

    def cancelled(self, txn: ServerTxn, cancel: SipRequest) -> None:
        """The caller gave up (RFC 3261 16.10)."""
        forwarding = self._invites.get(txn.key)
        if forwarding is not None:
            forwarding.cancel(cancel.headers.get("Reason") or "")

    async def acknowledged(self, request: SipRequest, flow: Flow, *, from_core: bool) -> None:
        """The ACK of a 2xx: may carry the answer (PS-11). It is never answered, so what is wrong ends in a release."""
        ack = request.copy()
        sender = Side.CORE if from_core else Side.ACCESS
        try:
            take_hop(ack)
            _check_number(ack)
            tokens = self._ue.take_routes(ack)
            found = self._by_token(tokens, ack.call_id)
        except RejectionError:
            return
        if not isinstance(found, Session):
            return
        dialog = found.dialog_for(ack, sender)
        if dialog is None or (sender is Side.ACCESS and not self._ue.on_own_flow(found, flow)):
            return
        async with found.lock:
            try:
                await self._ack_media(found, ack, sender, dialog)
            except AnswerFaultError:
                await self._releaser.release(found, MEDIA_SECURITY)
                return
            found.media.forget_keys()
        try:
            if sender is Side.ACCESS:
                mediasec.strip(ack)
                clean_from_ue(ack)
                self._ue.steer(dialog, ack, found.registration)
            else:
                clean_towards_ue(ack)
                ack.headers.remove("Via")
            hop, role = self._releaser.way(found, ack, sender.other)
        except RejectionError:
            return
        self._edge.stack.send_ack(dialog.renumbered(ack, sender.other), hop, role)
        await self._edge.sessions.save(found)

    async def _ack_media(self, session: Session, ack: SipRequest, sender: Side, dialog: EdgeDialog) -> None:
        """The answer an ACK owes; a body that nobody waits for does not go on (RFC 3264 4, T1)."""
        exchange = session.media.exchange
        tag = dialog.tags[dialog.caller.other]
        if exchange is None or exchange.own or exchange.decision.offered_by is sender:
            drop_body(ack)
            return
        if exchange.carrier != f"{ack.cseq[0]} INVITE {ack.from_tag} {tag}":
            drop_body(ack)  # the answer is due elsewhere: this ACK crossed an offer, or came again
            return
        if not exchange.open:
            known = session.media.answer_known(ack.body, tag)
            if ack.body and known:
                ack.body = known  # the same again, as the 2xx came again (RFC 3261 13.2.2.4)
            else:
                drop_body(ack)
            return
        if ack.body and not has_sdp(ack):
            raise AnswerFaultError(Refusal(488, text="a body that is no session description"))
        ack.body = await self._answer(session, ack.body, sender, tag, opens=dialog.confirmed)

    # -- INVITE -------------------------------------------------------------------------------------------------------

    async def _invite(
        self,
        txn: ServerTxn,
        request: SipRequest,
        caller: Side,
        registration: Registration | None,
        address: FlowAddress,
        emergency: bool,
    ) -> None:
        session = self._new_session(request, caller, registration, address, txn.flow, emergency=emergency)
        self._edge.admission.enter(session, told=registration.core_sessions if registration else 0)
        forwarding = Forwarding(
            self._edge.stack,
            txn,
            transform=lambda response: self._invite_response(session, request, response),
            lasts=lambda: not session.ended,
        )
        session.invite = forwarding
        self._invites[txn.key] = forwarding
        status = 500
        try:
            async with session.lock:
                if caller is Side.ACCESS:
                    await self._ue.prepare_initial(request, registration, emergency=emergency)
                    request.headers.set("P-Charging-Vector", charging_vector(session.icid, self._edge.network))
                else:
                    clean_towards_ue(request)
                if has_sdp(request):
                    request.body = await self._offer(session, request.body, caller, carrier_of(request))
                self._edge.sessions.add(session)
                await self._edge.sessions.save(session)
            hop, role = await self._first_hop(request, caller, registration)
            forwarding.start(request, hop, role, hide_path=role != MW)
            status = await forwarding.done
        except RejectionError as rejection:
            status = rejection.status
            await self._releaser.finish(session, normal=False)
            raise
        finally:
            self._meter.call(session, status)
            self._invites.pop(txn.key, None)
            if self._edge.sessions.get(session.id) is None:
                self._edge.sessions.leave(session)
        if session.confirmed is None and not session.ended and not 200 <= status < 300:
            await self._releaser.finish(session)

    async def _first_hop(self, request: SipRequest, caller: Side, registration: Registration | None) -> tuple[Hop, str]:
        if caller is Side.CORE and registration is not None:
            return self._edge.towards_ue(registration)
        return await self._core_hop(request, registration), MW

    async def _core_hop(self, request: SipRequest, registration: Registration | None) -> Hop:
        """Where a request outside a dialog enters the core: the Service-Route, else the entry of the home domain."""
        if request.headers.values("Route"):
            return self._edge.towards_core(request, registration)
        home = domain_of(registration.impu) if registration is not None else ""
        return await self._edge.core_entry(home or self._edge.domain)

    def _new_session(
        self,
        request: SipRequest,
        caller: Side,
        registration: Registration | None,
        address: FlowAddress,
        flow: Flow,
        *,
        emergency: bool,
    ) -> Session:
        edge = self._edge
        identifier = Sessions.new_id()
        record_route = self._record_route(request, registration or address, SESSION, identifier, caller)
        encrypted = registration.encrypted if registration is not None else address.transport == "TLS"
        media = SessionMedia(
            edge.iq, edge.recorder, call_id=request.call_id, node=edge.node, fallback=edge.media_addresses
        )
        return Session(
            id=identifier,
            call_id=request.call_id,
            caller=caller,
            registration=registration.id if registration else "",
            flow=address,
            role=flow.role if caller is Side.ACCESS else edge.ue_role(registration),
            record_route=record_route,
            media=media,
            policy=edge.alg_policy(registration, encrypted=encrypted, emergency=emergency, flow=address),
            owner=_owner(registration, address, emergency=emergency),
            peer="" if caller is Side.ACCESS else _asserted_caller(request),
            icid=secrets.token_hex(12),
            emergency=emergency,
            traced=registration.traced if registration else False,
            trace=edge.tracer.first_span(request.call_id),
        )

    def _record_route(
        self, request: SipRequest, ue: Registration | FlowAddress, kind: str, identifier: str, caller: Side
    ) -> tuple[str, ...]:
        """Write the double Record-Route: receiving side first, sending side on top (DLG-3, RFC 5658)."""
        token = self._edge.tokens.seal(f"{kind}|{identifier}", ROUTE_PURPOSE)
        flow = ue.flow if isinstance(ue, Registration) else ue
        access = OwnUri(flow.transport, *flow.local).uri(token)
        core = self._edge.mw.uri(token)
        pair = (core, access) if caller is Side.ACCESS else (access, core)
        for uri in reversed(pair):
            request.headers.prepend("Record-Route", f"<{uri}>")
        return pair

    async def _invite_response(
        self, session: Session, request: SipRequest, response: SipResponse
    ) -> SipResponse | None:
        """A response to an initial INVITE on its way back."""
        callee = session.caller.other
        async with session.lock:
            if session.ended:
                return response if response.status >= 300 else None
            self._ue.clean_response(request, response, callee, self._edge.bindings.get(session.registration))
            tag = response.to_tag or ""
            if response.status >= 300:
                check_answer_body(response)
                return response
            if tag not in session.dialogs and len(session.dialogs) >= MAX_DIALOGS:
                return None  # nobody forks so wide: the callee makes it up
            dialog = self._learn_dialog(session, request, response, tag)
            carrier, final = carrier_of(request), response.status >= 200
            if session.confirmed not in (None, dialog):  # there is one media path, and it is that of the first 2xx
                if final and dialog is not None and not dialog.ended:
                    self._releaser.refuse_answered(session, dialog, MEDIA_SECURITY)
                return None
            if has_sdp(response) and is_superseded(session, request, tag):
                if is_described(dialog, request) or (has_sdp(request) and not final):
                    drop_body(response)
                elif has_sdp(request):
                    late = Refusal(500, text="answers an offer after which another dialog agreed anew")
                    return await self._give_up(session, dialog, request, late, final=final)
            if dialog is not None:
                dialog.described = carrier if has_sdp(response) else dialog.described
                dialog.timer.response_seen(request, response, callee, self._edge.now())
            try:
                await self._response_media(session, response, callee, tag, carrier, final=final, opens=final)
                if final:
                    await self._take(session, tag, f"{carrier} {tag}")
            except AnswerFaultError as fault:
                return await self._give_up(session, dialog, request, fault.refusal, final=final)
            except RejectionError as rejection:  # an offer in the response that cannot be taken
                refusal = Refusal(rejection.status)
                return await self._give_up(session, dialog, request, refusal, final=final, rejection=rejection)
            if dialog is not None and final:
                dialog.confirmed = True
            await self._edge.sessions.save(session)
            return response

    def _learn_dialog(
        self, session: Session, request: SipRequest, response: SipResponse, tag: str
    ) -> EdgeDialog | None:
        dialog = session.dialogs.get(tag)
        if dialog is None:
            dialog = dialog_of(request, response, session.caller, session.record_route)
            if dialog is not None:
                session.dialogs[tag] = dialog
        else:
            dialog.response_seen(response, session.caller.other)
        return dialog

    async def _take(self, session: Session, tag: str, offering: str) -> None:
        """The dialog `tag` is answered: the media are those that it agreed to, and no other dialog's. Raises
        AnswerFaultError.

        `offering` names the 2xx, which may have brought an offer; then the media are whose answer comes.
        """
        media = session.media
        if media.exchange is not None and media.exchange.open and media.exchange.carrier == offering:
            return
        await media.settle(tag, session.policy)
        if media.holder not in ("", tag):
            raise AnswerFaultError(Refusal(500, text="answered in one dialog after another agreed anew"))

    async def _response_media(
        self, session: Session, response: SipResponse, sender: Side, tag: str, carrier: str, *, final: bool, opens: bool
    ) -> None:
        """The session description of a provisional or successful response: an answer, a repetition, or an offer.

        `opens`: the call is answered, the gates open.
        """
        check_answer_body(response)
        media = session.media
        if not has_sdp(response):
            if final and media.exchange is not None and media.exchange.carrier == carrier:
                if tag not in media.exchange.answers:
                    raise AnswerFaultError(Refusal(500, text="accepted without answer"))
                if opens:
                    await media.settle(tag, session.policy)
            return
        offered_here = media.exchange is not None and media.exchange.decision.offered_by is not sender
        if offered_here and media.exchange is not None and media.exchange.carrier == carrier:
            known = media.answer_known(response.body, tag)
            if known is None:
                response.body = await self._answer(session, response.body, sender, tag, opens=opens)
            else:
                response.body = known
                if opens:
                    await media.settle(tag, session.policy)
            return
        response.body = await self._offer_in_response(session, response, sender, f"{carrier} {tag}")

    async def _offer_in_response(self, session: Session, response: SipResponse, sender: Side, carrier: str) -> bytes:
        media = session.media
        if media.exchange is not None and media.exchange.carrier == carrier:
            return media.offer_sent  # the same offer again, in the 2xx after a reliable 1xx
        return await self._offer(session, response.body, sender, carrier)

    async def _offer(self, session: Session, body: bytes, sender: Side, carrier: str) -> bytes:
        return await session.media.offer(
            body, sender, session.policy, carrier, lambda streams: self._edge.admission.streams(session, streams)
        )

    async def _answer(self, session: Session, body: bytes, sender: Side, tag: str, *, opens: bool) -> bytes:
        if not body:
            raise AnswerFaultError(Refusal(500, text="no answer where one was due"))
        gate_open = opens or self._edge.settings.early_media
        return await session.media.answer(body, sender, tag, session.policy, gate_open=gate_open)

    async def _give_up(
        self,
        session: Session,
        dialog: EdgeDialog | None,
        request: SipRequest,
        refusal: Refusal,
        *,
        final: bool,
        rejection: RejectionError | None = None,
    ) -> SipResponse:
        """The session cannot be: hang up on the callee, tell the caller (PS-6, PS-12, 7.3.1-4)."""
        if final and dialog is not None:
            self._releaser.refuse_answered(session, dialog, MEDIA_SECURITY)
        elif session.invite is not None:
            session.invite.cancel(MEDIA_SECURITY)
        answer = rejection or media_rejection(refusal, self._edge.node)
        await self._releaser.finish(session, normal=False)
        return make_response(request, answer.status, answer.reason, headers=answer.headers)

    # -- inside a dialog ----------------------------------------------------------------------------------------------

    async def _in_dialog(self, txn: ServerTxn, request: SipRequest, session: Session, sender: Side) -> None:
        dialog = session.dialog_for(request, sender)
        if dialog is None:
            raise RejectionError(481, "Call/Transaction Does Not Exist")
        carrier = carrier_of(request)
        async with session.lock:
            dialog.request_seen(request, sender)
            session.policy = self._policy_now(session)
            if request.method in OFFER_METHODS and has_sdp(request):
                await self._request_media(session, request, sender, dialog, carrier)
            if sender is Side.ACCESS:
                self._ue.steer(dialog, request, session.registration)
                request.headers.set("P-Charging-Vector", charging_vector(session.icid, self._edge.network))
            else:
                clean_towards_ue(request)
            if request.method == "BYE":
                dialog.ended = True
            await self._edge.sessions.save(session)
        try:
            hop, role = self._releaser.way(session, request, sender.other)
        except RejectionError:
            await self._after_failure(session, request, carrier, 430)
            raise
        forwarding = Forwarding(
            self._edge.stack,
            txn,
            transform=lambda response: self._dialog_response(session, dialog, request, response, sender),
            lasts=lambda: not session.ended,
        )
        if request.method == "INVITE":
            self._invites[txn.key] = forwarding
        offering = request.method in OFFER_METHODS
        session.offering += offering
        try:
            forwarding.start(dialog.renumbered(request, sender.other), hop, role, hide_path=role != MW)
            status = await forwarding.done
        finally:
            session.offering -= offering
            self._invites.pop(txn.key, None)
        if request.method == "BYE":
            if all(one.ended for one in session.dialogs.values() if one.confirmed):
                await self._releaser.finish(session)
        elif not 200 <= status < 300:
            await self._after_failure(session, request, carrier, status)

    def _policy_now(self, session: Session) -> AlgPolicy:
        """The policy at this moment; without registration (gone meanwhile) that of the session's start stays."""
        registration = self._edge.bindings.get(session.registration)
        if registration is None:
            return session.policy
        return self._edge.alg_policy(
            registration, encrypted=registration.encrypted, emergency=session.emergency, flow=session.flow
        )

    async def _request_media(
        self, session: Session, request: SipRequest, sender: Side, dialog: EdgeDialog, carrier: str
    ) -> None:
        exchange = session.media.exchange
        answers = (
            request.method == "PRACK"
            and exchange is not None
            and exchange.open
            and not exchange.own
            and exchange.decision.offered_by is not sender
        )
        if not answers:
            request.body = await self._offer(session, request.body, sender, carrier)
            return
        tag = dialog.tags[dialog.caller.other]
        try:
            request.body = await self._answer(session, request.body, sender, tag, opens=dialog.confirmed)
        except AnswerFaultError as fault:
            await self._releaser.release(session, MEDIA_SECURITY)
            raise media_rejection(fault.refusal, self._edge.node) from fault

    async def _dialog_response(
        self, session: Session, dialog: EdgeDialog, request: SipRequest, response: SipResponse, sender: Side
    ) -> SipResponse | None:
        async with session.lock:
            answerer = sender.other
            self._ue.clean_response(request, response, answerer, self._edge.bindings.get(session.registration))
            if session.ended and response.status < 300:
                drop_body(response)
                return response
            dialog.timer.response_seen(request, response, answerer, self._edge.now())
            if response.status >= 300:
                check_answer_body(response)
                return response
            dialog.response_seen(response, answerer)
            tag = dialog.tags[dialog.caller.other]
            carrier, final = carrier_of(request), response.status >= 200
            if has_sdp(response) and is_of_no_exchange(session, dialog, request, tag):
                drop_body(response)
            if request.method == "INVITE" and has_sdp(response):
                dialog.described = carrier
            try:
                await self._response_media(
                    session, response, answerer, tag, carrier, final=final, opens=final and dialog.confirmed
                )
            except AnswerFaultError as fault:
                await self._releaser.release(session, MEDIA_SECURITY)
                rejection = media_rejection(fault.refusal, self._edge.node)
                return make_response(request, rejection.status, rejection.reason, headers=rejection.headers)
            except RejectionError as rejection:
                await self._releaser.release(session, MEDIA_SECURITY)
                return make_response(request, rejection.status, rejection.reason, headers=rejection.headers)
            if response.status >= 200 and request.method != "INVITE":
                session.media.forget_keys()
            await self._edge.sessions.save(session)
            return response

    async def _after_failure(self, session: Session, request: SipRequest, carrier: str, status: int) -> None:
        """A refused offer leaves everything as it was; a peer that is gone ends the session (7.4-2, DLG-7)."""
        async with session.lock:
            exchange = session.media.exchange
            if exchange is not None and exchange.carrier == carrier and exchange.open:
                await session.media.withdraw()
            if session.ended:
                return
            if status in _GONE or (status in _ENDS_DIALOG and request.method in ("INVITE", "UPDATE")):
                await self._releaser.release(session, UE_LOST)
                return
            await self._edge.sessions.save(session)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def _standalone_from_ue(
        self, txn: ServerTxn, request: SipRequest, registration: Registration | None, emergency: bool
    ) -> None:
        if registration is None:
            raise RejectionError(403, "Forbidden")
        await self._ue.prepare_initial(request, registration, emergency=emergency)
        request.headers.set("P-Charging-Vector", charging_vector(secrets.token_hex(12), self._edge.network))
        if request.method in ("SUBSCRIBE", "REFER", "NOTIFY"):
            self._record_route(request, registration, STANDALONE, _named(registration, request.call_id), Side.ACCESS)
        await self._pass(txn, request, await self._core_hop(request, registration), MW, registration)

    async def _pass(self, txn: ServerTxn, request: SipRequest, hop: Hop, role: str, registration: Registration) -> None:
        answerer = Side.CORE if role == MW else Side.ACCESS

        async def transform(response: SipResponse) -> SipResponse:
            self._ue.clean_response(request, response, answerer, registration)
            check_answer_body(response)
            return response

        forwarding = Forwarding(self._edge.stack, txn, transform=transform)
        forwarding.start(request, hop, role, hide_path=role != MW)
        await forwarding.done

    def _by_token(self, tokens: tuple[str, ...], call_id: str) -> Session | Registration | None:
        for token in tokens:
            kind, identifier = self._ue.read_route_token(token)
            if kind == SESSION:
                return self._edge.sessions.get(identifier)
            if kind == STANDALONE:
                found = self._edge.bindings.get(identifier.partition("|")[0])
                return found if found is not None and identifier == _named(found, call_id) else None
        return None


def _named(registration: Registration, call_id: str) -> str:
    """What the token of a dialog without session names: the UE and the Call-ID."""
    return f"{registration.id}|{hashlib.sha256(call_id.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def _check_standalone(request: SipRequest) -> None:
    """Offers and answers travel inside sessions only, where the ALG sees them (RFC 3261 13, RFC 3311 5.1)."""
    if request.method in OFFER_METHODS:
        raise RejectionError(481, "Call/Transaction Does Not Exist")


def _check_number(request: SipRequest) -> None:
    """Leave room above each CSeq for the requests of this node, a BYE at least; new ones begin below 2**31 anyway."""
    if request.cseq[0] > CSEQ_MOST:
        raise RejectionError(400, "CSeq Too Large")


def _owner(registration: Registration | None, address: FlowAddress, *, emergency: bool) -> str:
    name = registration.impi if registration is not None else address.remote[0]
    return f"sos {name}" if emergency else name


def _asserted_caller(request: SipRequest) -> str:
    """Who calls: the first asserted identity, else From (RFC 3325 9.1)."""
    value = request.headers.first_value(ASSERTED) or request.headers.get("From") or ""
    try:
        return str(parse_name_addr(value).uri)
    except GrammarError:
        return value
