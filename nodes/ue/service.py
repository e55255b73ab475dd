"""``ims.ue_control.v1.UeControl``: the lab's hand on the UE."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable

from opentelemetry import trace

from keying.suites import SUITES
from media.session import AudioSource
from media.wav import WavError, mix_down, parse_wav, resample
from nodes.ue import ticket_service
from nodes.ue.agent import UserAgent
from nodes.ue.call import Call as UeCall
from nodes.ue.call import MediaWish
from nodes.ue.caller import Caller
from nodes.ue.config import CallOptions, RegisterOptions
from nodes.ue.registrar import Wish
from nodes.ue.requests import told_reason
from nodes.ue.session_media import OfferRefused
from protos import ue_control_pb2
from sba.access import CallContext
from sba.errors import ProblemError
from sba.telemetry import parse_traceparent, within
from signalling.sip.dialog import DialogError, new_call_id
from signalling.sip.stack import TransactionFailure
from signalling.sip.uri import UriError, parse_uri

DTMF_AFTER_S = 1.0
_NO_MECHANISM = "none"


class UeControl:
    """The servicer; one per UE."""

    service = ue_control_pb2.DESCRIPTOR.services_by_name["UeControl"]

    def __init__(self, agent: UserAgent) -> None:
        self._agent = agent

    # registration

    async def Register(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.RegisterRequest, context: CallContext
    ) -> ue_control_pb2.RegisterResponse:
        """Register, or register again with other mechanisms or switches."""
        del context
        settings = self._agent.settings
        text = request.media_security
        mechanisms = tuple(text.replace(",", " ").split()) if text else settings.media_security
        if mechanisms == (_NO_MECHANISM,):
            mechanisms = ()
        options = RegisterOptions.read(request.options)
        wish = Wish(mechanisms, request.expires or settings.expires_s, options)
        try:
            await self._agent.registrar.register(wish)
        except ValueError as error:
            raise ProblemError(400, "INVALID_PARAM", str(error)) from None
        return self._registered()

    async def Deregister(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.DeregisterRequest, context: CallContext
    ) -> ue_control_pb2.RegisterResponse:
        """End the registration."""
        del request, context
        await self._agent.registrar.deregister()
        return self._registered()

    def _registered(self) -> ue_control_pb2.RegisterResponse:
        registration = self._agent.registration
        return ue_control_pb2.RegisterResponse(
            registered=registration.is_registered,
            sip_status=registration.status,
            reason=registration.reason,
            associated_uris=registration.associated,
            media_mechanisms=registration.agreed,
            expires=registration.granted_s,
            trace_id=registration.trace_id,
        )

    async def Status(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.StatusRequest, context: CallContext
    ) -> ue_control_pb2.StatusResponse:
        """Return the registration and the calls in progress."""
        del request, context
        agent = self._agent
        return ue_control_pb2.StatusResponse(
            impu=agent.settings.impu,
            registered=agent.registration.is_registered,
            media_mechanisms=agent.registration.agreed,
            calls=[call.event() for call in agent.calls.values()],
            expires_in_s=agent.registrar.expires_in_s,
            associated_uris=agent.registration.associated,
            transport=agent.settings.transport,
            pcscf=agent.gm.pcscf.name if agent.gm.pcscf is not None else "",
        )

    async def SetBehaviour(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.BehaviourRequest, context: CallContext
    ) -> ue_control_pb2.BehaviourResponse:
        """Say how incoming calls are treated from now on; returns all switches."""
        del context
        self._agent.behaviour = self._agent.behaviour.changed(request.options)
        return ue_control_pb2.BehaviourResponse(options=self._agent.behaviour.as_options())

    # calls

    async def Call(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.CallRequest, context: CallContext
    ) -> AsyncIterator[ue_control_pb2.CallEvent]:
        """Place a call and report its life; when the listener goes away the call is hung up."""
        del context
        call, caller = self._prepare(request)
        feed = call.subscribe()
        self._agent.calls[call.call_id] = call
        with within(call.trace_context):
            self._agent.spawn(self._run(call, caller, request.seconds))
        try:
            while True:
                event = await feed.get()
                if event.state == "ended" and (request.record or request.with_keys):
                    event = call.event(with_wav=request.record, with_keys=request.with_keys)
                yield event
                if event.state == "ended":
                    return
        finally:
            if call.state != "ended":
                self._agent.spawn(call.hang_up(reason="nobody listens"))

    def _prepare(self, request: ue_control_pb2.CallRequest) -> tuple[UeCall, Caller]:
        agent = self._agent
        options = CallOptions.read(request.options)
        if request.security and request.security not in agent.known_modes:
            known = ", ".join(sorted(agent.known_modes))
            raise ProblemError(400, "INVALID_PARAM", invalid_params=[("security", f"no such mode; there are {known}")])
        for name in request.suites:
            if name not in SUITES:
                known = ", ".join(SUITES)
                raise ProblemError(400, "INVALID_PARAM", invalid_params=[("suites", f"{name}: there are {known}")])
        try:
            parse_uri(request.target)
        except UriError as error:
            raise ProblemError(400, "INVALID_PARAM", invalid_params=[("target", str(error))]) from None
        if not agent.registration.is_registered:
            raise ProblemError(409, "UE_NOT_REGISTERED", "the UE is not registered")
        if len(agent.calls) >= agent.settings.max_calls:
            raise ProblemError(429, "INSUFFICIENT_RESOURCES", "too many calls")
        source = _source(request.play_wav) if request.play_wav else agent.voice
        security = agent.security(options.level, tuple(request.suites), peer=request.target)
        wish = MediaWish(options.media == "on", source, options.media == "on", options.codec)
        call = UeCall(agent, new_call_id(agent.settings.ip), request.target, security, wish, outgoing=True)
        cause = parse_traceparent(request.traceparent) or trace.get_current_span().get_span_context()
        call.begin_trace(agent.gm.tracer.begin("ue.call", call.call_id, cause))
        return call, Caller(agent, call, request.target, request.security, options)

    async def _run(self, call: UeCall, caller: Caller, seconds: float) -> None:
        try:
            await caller.run()
        except Exception:
            call.finish("failed", 500, "internal error")
            raise
        if not caller.established.is_set():
            return
        if caller.options.dtmf:
            self._agent.spawn(self._digits_later(call, caller.options.dtmf))
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await call.ended.wait()
            except TimeoutError:
                await call.hang_up(reason="talk time over")

    async def _digits_later(self, call: UeCall, digits: str) -> None:
        await asyncio.sleep(DTMF_AFTER_S)
        _send_digits(call, digits)

    def _call(self, call_id: str) -> UeCall:
        call = self._agent.calls.get(call_id)
        if call is None:
            raise ProblemError(404, "RESOURCE_CONTEXT_NOT_FOUND", "no such call")
        return call

    async def HangUp(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.CallHandle, context: CallContext
    ) -> ue_control_pb2.HangUpResponse:
        """End a call from this side."""
        del context
        return ue_control_pb2.HangUpResponse(sip_status=await self._call(request.call_id).hang_up())

    async def SendDtmf(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.DtmfRequest, context: CallContext
    ) -> ue_control_pb2.DtmfResponse:
        """Send digits in the media."""
        del context
        _send_digits(self._call(request.call_id), request.digits)
        return ue_control_pb2.DtmfResponse()

    async def Report(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.ReportRequest, context: CallContext
    ) -> ue_control_pb2.CallEvent:
        """Return what this end of a call saw; an empty call_id means the latest call."""
        del context
        call = self._agent.find(request.call_id) if request.call_id else self._latest()
        if call is None:
            raise ProblemError(404, "RESOURCE_CONTEXT_NOT_FOUND", "no such call")
        if request.wait_s > 0 and not call.ended.is_set():
            try:
                async with asyncio.timeout(request.wait_s):
                    await call.ended.wait()
            except TimeoutError:
                pass
        return call.event(with_wav=request.with_wav, with_keys=request.with_keys)

    def _latest(self) -> UeCall | None:
        agent = self._agent
        return next(reversed(agent.calls.values()), None) or next(reversed(agent.finished.values()), None)

    async def Modify(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.ModifyRequest, context: CallContext
    ) -> ue_control_pb2.ModifyResponse:
        """Change a call: hold, resume, move-port, rekey, add-stream, drop-stream, cancel, vanish.

        Options: ``method`` INVITE or UPDATE, ``stream`` number from 1 on (default 1; for drop-stream the last one).
        """
        del context
        call = self._call(request.call_id)
        if request.action == "cancel":
            return ue_control_pb2.ModifyResponse(sip_status=await call.hang_up(reason="cancelled"))
        if request.action == "vanish":
            call.vanish()
            return ue_control_pb2.ModifyResponse(reason="vanished")
        build = _change(call, request)
        method = request.options.get("method", "INVITE")
        if method not in {"INVITE", "UPDATE"}:
            raise ProblemError(400, "INVALID_PARAM", invalid_params=[("method", "INVITE or UPDATE")])
        try:
            outcome = await call.later.reoffer(method, build, new_keys=request.action in {"rekey", "move-port"})
        except OfferRefused as refused:
            raise ProblemError(409, "CALL_CANNOT_CHANGE", refused.reason) from None
        except DialogError as error:
            raise ProblemError(409, "CALL_CANNOT_CHANGE", error.reason) from None
        except TransactionFailure as failure:
            return ue_control_pb2.ModifyResponse(sip_status=failure.status, reason=str(failure))
        reason = outcome.told if isinstance(outcome, OfferRefused) else told_reason(outcome)
        return ue_control_pb2.ModifyResponse(sip_status=outcome.status, reason=reason, legs=call.event().legs)

    # tickets

    async def RequestTicket(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.TicketOrder, context: CallContext
    ) -> ue_control_pb2.TicketInfo:
        """Ask the KMS for a ticket, or make one (mode 3), and keep it for calls."""
        del context
        return await ticket_service.request_ticket(self._agent, request)

    async def ListTickets(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.TicketListRequest, context: CallContext
    ) -> ue_control_pb2.TicketList:
        """Return the tickets at hand."""
        del request, context
        return ticket_service.list_tickets(self._agent)

    async def ResolveTicket(  # noqa: N802 - named by the contract
        self, request: ue_control_pb2.ResolveOrder, context: CallContext
    ) -> ue_control_pb2.ResolveInfo:
        """Have the KMS resolve a ticket."""
        del context
        return await ticket_service.resolve_ticket(self._agent, request)


def _change(call: UeCall, request: ue_control_pb2.ModifyRequest) -> Callable[[], bytes]:
    """Return what makes the offer of an action. Raises ProblemError 400 or 409."""
    if call.state != "established":
        raise ProblemError(409, "CALL_CANNOT_CHANGE", "the call is not established")
    text = request.options.get("stream", "")
    if text and not (text.isascii() and text.isdigit() and 0 < int(text[:4]) <= len(call.media.streams)):
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("stream", "no such stream")])
    index = int(text) - 1 if text else 0
    last = int(text) - 1 if text else len(call.media.streams) - 1
    media = call.media
    actions: dict[str, Callable[[], bytes]] = {
        "hold": lambda: media.next_offer(direction=request.options.get("direction", "sendonly")),
        "resume": lambda: media.next_offer(direction="sendrecv"),
        "move-port": lambda: media.next_offer(move=index),
        "rekey": lambda: media.next_offer(rekey=index),
        "add-stream": lambda: media.next_offer(add=True),
        "drop-stream": lambda: media.next_offer(drop=last),
    }
    if request.action not in actions:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("action", f"one of {', '.join(actions)}")])
    if request.options.get("direction", "sendonly") not in {"sendonly", "inactive", "recvonly"}:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("direction", "sendonly, recvonly or inactive")])
    return actions[request.action]


def _send_digits(call: UeCall, digits: str) -> None:
    stream = next((one for one in call.media.streams if one.endpoint is not None and one.agreed), None)
    if stream is None or stream.endpoint is None:
        raise ProblemError(409, "CALL_CANNOT_CHANGE", "the call has no media")
    try:
        stream.endpoint.send_digits(digits)
    except ValueError as error:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("digits", str(error))]) from None


def _source(wav: bytes) -> AudioSource:
    try:
        wav_format, samples = parse_wav(wav)
        sound: array[int] = resample(mix_down(samples, wav_format.channels), wav_format.rate)
        return AudioSource(sound)
    except (WavError, ValueError) as error:
        raise ProblemError(400, "INVALID_PARAM", invalid_params=[("play_wav", str(error))]) from None
