"""The media of one session: its offers and answers are decided, reserved at the IMS-AGW and rewritten (PS-12)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nodes.pcscf import alg_answers, alg_media, ims_alg, sdp_writer
from nodes.pcscf.decisions import DecisionRecorder
from nodes.pcscf.iq import AgwContext, IqClient, IqError, LocalMap
from nodes.pcscf.media_plan import (
    PLAIN_TO_SECURE,
    AlgDecision,
    AlgPolicy,
    AnswerDecision,
    LocalStream,
    MediaWork,
    Refusal,
    Side,
    StreamPlan,
    StreamState,
    Treatment,
    key_digest,
    without_keys,
)
from nodes.pcscf.rejection import RejectionError, media_rejection
from nodes.pcscf.sdp_writer import OriginKeeper
from signalling.sdp import SdpError, SessionDescription, parse_sdp

SDP_TYPE = "application/sdp"
_SETTLED = ("curr", "des", "conf")
"""Preconditions are met once a call is answered (RFC 3312)."""
_KEY_MGMT = "key-mgmt"
_TAG_LIMIT = 999_999_999
"""RFC 4568 9.1: nine digits."""


class AnswerFaultError(Exception):
    """An answer that cannot be passed on: the session is to be released (7.3.1-4, PS-6)."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text or refusal.token)
        self.refusal = refusal


@dataclass(slots=True)
class Answered:
    """One dialog's answer to the open offer."""

    digest: str
    body: bytes
    decision: AnswerDecision


@dataclass(slots=True)
class Exchange:
    """One offer and the answers to it; a forked INVITE has an answer per dialog (PS-10)."""

    decision: AlgDecision
    carrier: str
    """Which request or response brought the offer."""
    body: bytes = b""
    """The offer as it went on."""
    answers: dict[str, Answered] = field(default_factory=dict)
    gate_open: bool = False
    applied: str = ""
    """Dialog tag whose answer the IMS-AGW has."""
    own: bool = False
    """This node made the offer, and it alone gets the answer."""
    before: Exchange | None = None
    """The complete one that holds again if this one comes to nothing."""

    @property
    def open(self) -> bool:
        """No answer yet."""
        return not self.answers


def _any_number(streams: int) -> None:
    del streams


class SessionMedia:
    """Media state of one session. Methods are called one at a time (the session's lock)."""

    def __init__(
        self, iq: IqClient, recorder: DecisionRecorder, *, call_id: str, node: str, fallback: Mapping[Side, str]
    ) -> None:
        self._iq = iq
        self._recorder = recorder
        self._call_id = call_id
        self._node = node
        self._fallback = dict(fallback)
        session_id = str(int(hashlib.sha256(call_id.encode("utf-8", "surrogateescape")).hexdigest()[:12], 16))
        self.origins = {side: OriginKeeper("ims-alg", session_id) for side in Side}
        self.context: AgwContext | None = None
        self.streams: dict[int, StreamState] = {}
        self.exchange: Exchange | None = None
        self.lines = 0
        """Streams that are reserved or about to be."""
        self.holder = ""
        """Tag of the dialog whose agreement the IMS-AGW has; not stored, it counts while the INVITE is under way."""
        self._locals: LocalMap = {}
        self._told = b""
        """What the UE was last told in a complete exchange, without keys of the IMS-AGW."""
        self._said: dict[int, frozenset[str]] = {}
        """Digests of what the UE said of the keys of streams that it protects with the far end, by stream."""

    # -- offers -------------------------------------------------------------------------------------------------------

    async def offer(
        self, body: bytes, side: Side, policy: AlgPolicy, carrier: str, admit: Callable[[int], None] = _any_number
    ) -> bytes:
        """Take an offer from `side`; returns it as it goes on. Raises RejectionError with the SIP answer.

        `admit` is asked before anything is reserved whether that many streams may be.
        """
        if self.exchange is not None and self.exchange.open:
            if self.exchange.decision.offered_by is side:
                raise RejectionError(500, "Server Internal Error", [("Retry-After", "2")])
            raise RejectionError(491, "Request Pending")
        sdp = _parsed(body)
        decision = self._decide(sdp, side, policy)
        wanted = sum(plan.active for plan in decision.plans)
        admit(wanted)
        self.lines = max(self.lines, wanted)
        try:
            await self._prepare(decision, policy)
        except IqError as error:
            if not (policy.emergency and _protects(decision)):
                self._recorder.refused(self._call_id, error.refusal, "iq")
                raise media_rejection(error.refusal, self._node) from error
            decision = self._decide(sdp, side, replace(policy, agreed=False, gm_encrypted=False))  # EM-8
            try:
                await self._prepare(decision, policy)
            except IqError as again:
                raise media_rejection(again.refusal, self._node) from again
        towards = side.other
        lines = alg_media.offer_lines(decision, self._locals)
        rewritten = sdp_writer.rewrite(sdp, lines, self.origins[towards], self._fallback[towards])
        self.exchange = Exchange(decision, carrier, rewritten, before=self.exchange)
        return rewritten

    def _decide(self, sdp: SessionDescription, side: Side, policy: AlgPolicy) -> AlgDecision:
        decide = ims_alg.offer_from_access if side is Side.ACCESS else ims_alg.offer_from_core
        decision = decide(sdp, policy, self.streams)
        self._recorder.offer(self._call_id, decision)
        if decision.refusal is not None:
            raise media_rejection(decision.refusal, self._node)
        return decision

    async def _prepare(self, decision: AlgDecision, policy: AlgPolicy) -> None:
        work = alg_media.offer_work(decision)
        if self.context is None:
            if work:
                self.context, given = await self._iq.reserve(work, call_id=self._call_id, emergency=policy.emergency)
                self._merge(given)
            return
        self._merge(await self._iq.configure(self.context, work))

    @property
    def offer_sent(self) -> bytes:
        """The present offer as it went on."""
        return self.exchange.body if self.exchange else b""

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer_known(self, body: bytes, tag: str) -> bytes | None:
        """What was sent for this dialog's answer, when it answered before.

        A later, different SDP of the same INVITE changes nothing (RFC 6337 3.1.1; keys are never replaced by it).
        """
        del body
        known = self.exchange.answers.get(tag) if self.exchange else None
        return known.body if known else None

    async def answer(self, body: bytes, side: Side, tag: str, policy: AlgPolicy, *, gate_open: bool) -> bytes:
        """Take the answer of the dialog `tag` from `side`; returns it as it goes back.

        Raises AnswerFaultError when the session has to be released instead.
        """
        exchange = self.exchange
        if exchange is None or exchange.decision.offered_by is side:
            raise AnswerFaultError(Refusal(500, text="an answer without offer"))
        try:
            sdp = parse_sdp(body)
        except SdpError as error:
            raise AnswerFaultError(Refusal(500, text="the answer is no SDP")) from error
        decision = self._judge(sdp, side, exchange.decision, policy)
        if decision.violation is not None:
            self._recorder.refused(self._call_id, decision.violation, f"answer from {side}")
            raise AnswerFaultError(decision.violation)
        await self._apply(exchange, decision, tag, gate_open=gate_open)
        towards = side.other
        lines = alg_media.answer_lines(exchange.decision, decision, self._locals)
        rewritten = sdp_writer.rewrite(sdp, lines, self.origins[towards], self._fallback[towards])
        exchange.answers[tag] = Answered(hashlib.sha256(body).hexdigest(), rewritten, decision)
        self._agreed(exchange, rewritten, policy)
        return rewritten

    def _agreed(self, exchange: Exchange, answer: bytes, policy: AlgPolicy) -> None:
        """Keep what the UE was told and what it said, by an offer and an answer as they went on."""
        sent, received = (
            (answer, exchange.body) if exchange.decision.offered_by is Side.ACCESS else (exchange.body, answer)
        )
        self._told = _told(sent, parse_sdp(answer), self.streams)
        self._said = _said(parse_sdp(received), self.streams, policy)

    def _judge(self, sdp: SessionDescription, side: Side, offer: AlgDecision, policy: AlgPolicy) -> AnswerDecision:
        if side is Side.CORE:
            return alg_answers.answer_from_core(sdp, offer.plans, policy)
        offered = {index: local.crypto for (at, index), local in self._locals.items() if at is Side.ACCESS}
        return alg_answers.answer_from_access(sdp, offer.plans, offered, policy)

    async def settle(self, tag: str, policy: AlgPolicy) -> None:
        """The dialog `tag` won (2xx): its answer holds and the gates open. Raises AnswerFaultError.

        While another offer is open that is the answer to the one before.
        """
        exchange = self.exchange.before if self.exchange is not None and self.exchange.open else self.exchange
        known = exchange.answers.get(tag) if exchange else None
        if exchange is None or known is None or (exchange.applied == tag and exchange.gate_open):
            return
        await self._apply(exchange, known.decision, tag, gate_open=True)
        if len(exchange.answers) > 1:
            self._agreed(exchange, known.body, policy)

    # -- new keys -----------------------------------------------------------------------------------------------------

    @property
    def protected(self) -> bool:
        """Some stream has keys of the IMS-AGW."""
        return any(state.treatment is Treatment.E2AE_SDES for state in self.streams.values())

    @property
    def offer_open(self) -> bool:
        """An offer waits for its answer."""
        return self.exchange is not None and self.exchange.open

    async def rekey_offer(self, carrier: str) -> bytes:
        """Make an offer to the UE that changes nothing but the keys of what is protected towards it (RFC 4568 7.1.4).

        The tags are new with the keys: who compares lines sees that it is to answer with a key of its own that is new,
        too. Raises AnswerFaultError when the IMS-AGW makes no keys or what the UE was told is not known any more.
        """
        if not self._told or self.context is None:
            raise AnswerFaultError(Refusal(500, text="what the UE was told is not known after a restart"))
        sdp = parse_sdp(self._told)
        decision = AlgDecision(
            Side.CORE,
            tuple(
                _rekeyed(self.streams[index], mux=media.rtcp_mux)
                for index, media in enumerate(sdp.media)
                if index in self.streams
            ),
        )
        if len(decision.plans) != len(sdp.media):
            raise AnswerFaultError(Refusal(500, text="what the UE was told is not the session"))
        self._recorder.offer(self._call_id, decision)
        try:
            self._merge(await self._iq.configure(self.context, alg_media.offer_work(decision)))
        except IqError as error:
            self._recorder.refused(self._call_id, error.refusal, "iq")
            raise AnswerFaultError(error.refusal) from error
        lines = alg_media.offer_lines(decision, self._locals)
        offer = sdp_writer.rewrite(sdp, lines, self.origins[Side.ACCESS], self._fallback[Side.ACCESS])
        self.exchange = Exchange(decision, carrier, offer, own=True, before=self.exchange)
        return offer

    async def rekey_answer(self, body: bytes, tag: str, policy: AlgPolicy) -> None:
        """Take the UE's answer to `rekey_offer`; the core hears nothing of it.

        Raises AnswerFaultError for an answer that changes anything that the far end would have to know, or brings the
        key of before: at the IMS-AGW its replay window is gone (RFC 3711 3.3.2). Streams that are protected end to end
        go on with the keys they have, of which the far end would have to hear.
        """
        exchange = self.exchange
        if exchange is None or not exchange.own:
            raise AnswerFaultError(Refusal(500, text="an answer without offer"))
        try:
            sdp = parse_sdp(body)
        except SdpError as error:
            raise AnswerFaultError(Refusal(500, text="the answer is no SDP")) from error
        decision = self._judge(sdp, Side.ACCESS, exchange.decision, policy)
        fault = decision.violation or _unfit(decision) or self._changed_end_to_end(sdp, policy)
        if fault is not None:
            self._recorder.refused(self._call_id, fault, "answer from access")
            raise AnswerFaultError(fault)
        decision = _confined(decision, parse_sdp(exchange.body))
        await self._apply(exchange, decision, tag, gate_open=True)
        exchange.answers[tag] = Answered(hashlib.sha256(body).hexdigest(), b"", decision)
        self.forget_keys()

    def _changed_end_to_end(self, sdp: SessionDescription, policy: AlgPolicy) -> Refusal | None:
        for index, said in _said(sdp, self.streams, policy).items():
            if not said <= self._said.get(index, frozenset()):
                return Refusal(488, ims_alg.BAD_KEY, "the UE changed keys that it shares with the far end")
        return None

    async def _apply(self, exchange: Exchange, decision: AnswerDecision, tag: str, *, gate_open: bool) -> None:
        work = alg_media.answer_work(exchange.decision, decision, gate_open=gate_open)
        if self.context is not None and work:
            try:
                self._merge(await self._iq.configure(self.context, work))
            except IqError as error:
                self._recorder.refused(self._call_id, error.refusal, "iq")
                raise AnswerFaultError(error.refusal) from error
        exchange.applied, exchange.gate_open, exchange.before = tag, gate_open, None
        self.holder = tag
        self.streams = self._counted(alg_media.streams_after(exchange.decision, decision, self._locals))
        for stream in decision.streams:
            state = self.streams[stream.plan.index]
            self._recorder.answer(self._call_id, stream, state.suite, state.tag)

    def _counted(self, streams: dict[int, StreamState]) -> dict[int, StreamState]:
        self.lines = sum(state.active for state in streams.values())
        return streams

    async def withdraw(self) -> None:
        """The open offer came to nothing: what it added goes, everything else stays as it was (7.4-2)."""
        exchange = self.exchange
        self.exchange = exchange.before if exchange is not None and exchange.open else None
        self._counted(self.streams)
        if exchange is None or not exchange.open or self.context is None or not self.streams:
            return
        work = alg_media.withdraw_work(exchange.decision)
        if work:
            try:
                await self._iq.configure(self.context, work, setup=False)
            except IqError:
                return

    def forget_keys(self) -> None:
        """Drop what a complete exchange no longer needs."""
        if self.exchange is not None and not self.exchange.open:
            plans = tuple(without_keys(plan) for plan in self.exchange.decision.plans)
            self.exchange.decision = replace(self.exchange.decision, plans=plans)

    async def release(self, *, normal: bool = True) -> None:
        """Give everything back."""
        context, self.context = self.context, None
        self.exchange = None
        self._locals = {}
        if context is not None:
            await self._iq.release(context, normal=normal)

    # -- small parts --------------------------------------------------------------------------------------------------

    def _merge(self, given: LocalMap) -> None:
        for place, local in given.items():
            known = self._locals.get(place)
            keeps = known is not None and not local.crypto
            address = known.address if known is not None and not local.address.port else local.address
            self._locals[place] = LocalStream(address, known.crypto if known is not None and keeps else local.crypto)

    def to_dict(self) -> dict[str, Any]:
        """A JSON form for the store: addresses, suites and digests; no key."""
        end_to_end = any(state.treatment is Treatment.E2E for state in self.streams.values())
        return {
            "context": self.context.to_dict() if self.context else None,
            "streams": [state.to_dict() for state in self.streams.values()],
            "origins": {str(side): origin.to_dict() for side, origin in self.origins.items()},
            "told": "" if end_to_end else self._told.decode("utf-8", "replace"),
        }

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Take back what `to_dict` gave."""
        self.context = AgwContext.from_dict(stored["context"]) if stored.get("context") else None
        states = [StreamState.from_dict(state) for state in stored["streams"]]
        self.streams = self._counted({state.index: state for state in states})
        self.origins = {Side(side): OriginKeeper(**origin) for side, origin in stored["origins"].items()}
        self._told = str(stored.get("told", "")).encode()
        for state in states:
            for side, address in ((Side.ACCESS, state.access_local), (Side.CORE, state.core_local)):
                if address is not None:
                    self._locals[side, state.index] = LocalStream(address)

    @property
    def modes(self) -> tuple[str, ...]:
        """Treatment of each stream, for status displays."""
        return tuple(str(state.treatment) for state in self.streams.values())


def _parsed(body: bytes) -> SessionDescription:
    try:
        return parse_sdp(body)
    except SdpError as error:
        raise RejectionError(400, "Bad Session Description") from error


def _told(body: bytes, answer: SessionDescription, streams: Mapping[int, StreamState]) -> bytes:
    """What the UE was told, as far as both ends agreed on it: payload types of the answer alone, no key of this side.

    Offered again it leaves no choice, so that the far end need not hear of it. A message of key management is not said
    twice, and would be none of an offer: without it the keys stay (TS 33.328 7.4).
    """
    try:
        told = parse_sdp(body)
    except SdpError:
        return b""
    shared = [state for state in streams.values() if state.treatment is Treatment.E2E]
    if shared and all(state.managed for state in shared):
        told.remove(_KEY_MGMT)
    for index, (media, answered) in enumerate(zip(told.media, answer.media, strict=False)):
        state = streams.get(index)
        if state is not None and state.managed:
            media.remove(_KEY_MGMT)
        for name in _SETTLED if state is not None and state.treatment is Treatment.E2E else ("crypto", *_SETTLED):
            media.remove(name)
        common = [name for name in media.formats if name in answered.formats]
        if common and answered.port:
            media.formats = common
    return told.to_bytes()


def _said(sdp: SessionDescription, streams: Mapping[int, StreamState], policy: AlgPolicy) -> dict[int, frozenset[str]]:
    """Digests of what a description of the UE says of end-to-end keys: tag, suite and key, messages, fingerprints."""
    found: dict[int, frozenset[str]] = {}
    for index, media in enumerate(sdp.media):
        state = streams.get(index)
        if state is None or state.treatment is not Treatment.E2E:
            continue
        lines = [" ".join(line.split()[:3]) for line in media.crypto]
        lines += [
            value for name in ("fingerprint", *policy.sealed) for value in (*media.get_all(name), *sdp.get_all(name))
        ]
        lines += sdp.key_mgmt_of(media)
        found[index] = frozenset(hashlib.sha256(line.encode("utf-8", "surrogateescape")).hexdigest() for line in lines)
    return found


def _rekeyed(state: StreamState, *, mux: bool) -> StreamPlan:
    """The plan for a stream of an offer that only brings new keys."""
    plan = StreamPlan(
        state.index,
        state.media,
        state.treatment,
        state.access_proto,
        state.core_proto,
        reason="as it is",
        offerer=state.far_address,
        previous=state,
        mux_offered=mux,
        managed=state.managed,
    )
    if state.treatment is not Treatment.E2AE_SDES:
        return plan
    tag = state.tag % _TAG_LIMIT + 1
    osrtp = state.access_proto in PLAIN_TO_SECURE
    return replace(plan, suites=(state.suite,), tag=tag, rekey=True, osrtp=osrtp, reason="e2ae, new keys needed")


def _unfit(decision: AnswerDecision) -> Refusal | None:
    """Why an answer to an offer of new keys cannot be taken, or None."""
    for stream in decision.streams:
        before = stream.plan.previous
        if before is not None and stream.active is not before.active:
            return Refusal(488, text="the UE ended a stream when it was asked for new keys")
        if stream.crypto is not None and before is not None and key_digest(stream.crypto) == before.ue_key:
            return Refusal(488, ims_alg.BAD_KEY, "the UE kept its key")
    return None


def _confined(decision: AnswerDecision, offer: SessionDescription) -> AnswerDecision:
    """The answer with no direction that was not offered (RFC 3264 6.1): what the far end holds, it goes on to hold."""
    return replace(
        decision,
        streams=tuple(
            replace(stream, ue_direction=_met(offer.direction_of(media), stream.ue_direction))
            for stream, media in zip(decision.streams, offer.media, strict=True)
        ),
    )


def _met(offered: str, answered: str) -> str:
    sends = offered in ("sendrecv", "recvonly") and answered in ("sendrecv", "sendonly")
    receives = offered in ("sendrecv", "sendonly") and answered in ("sendrecv", "recvonly")
    return {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}.get(
        (sends, receives), "inactive"
    )


def _protects(decision: AlgDecision) -> bool:
    return any(plan.treatment is Treatment.E2AE_SDES for plan in decision.plans)


__all__ = ["SDP_TYPE", "AnswerFaultError", "MediaWork", "SessionMedia"]
