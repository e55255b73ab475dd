"""From decisions to work: what the IMS-AGW is asked for and how each m-line leaves (PS-2..PS-9, SDP-2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from nodes.pcscf.media_plan import (
    SECURE_TO_PLAIN,
    Address,
    AlgDecision,
    AnswerDecision,
    LineRewrite,
    LocalStream,
    MediaWork,
    Side,
    StreamAnswer,
    StreamPlan,
    StreamState,
    StreamWork,
    Treatment,
    key_digest,
)

Locals = Mapping[tuple[Side, int], LocalStream]
"""What the IMS-AGW gave, by side and stream index."""

_OPAQUE: Final = "OPAQUE_UDP"
_ACCESS_MODE: Final = {"sendrecv": "SENDRECV", "sendonly": "RECVONLY", "recvonly": "SENDONLY", "inactive": "INACTIVE"}
_CORE_MODE: Final = {"sendrecv": "SENDRECV", "sendonly": "SENDONLY", "recvonly": "RECVONLY", "inactive": "INACTIVE"}


def transport(proto: str, *, protected: bool) -> str:
    """The Iq transport of a profile; `protected` makes RTP/AVP(F) of the RFC 8643 shape SRTP."""
    name = proto.upper().replace("/", "_")
    return name.replace("RTP_AVP", "RTP_SAVP") if protected else name


def _transport(plan: StreamPlan, side: Side) -> str:
    if plan.treatment in (Treatment.E2E, Treatment.RELAYED):
        return _OPAQUE
    if side is Side.CORE:
        return transport(plan.core_proto, protected=False)
    return transport(plan.access_proto, protected=plan.treatment is Treatment.E2AE_SDES)


def offer_work(decision: AlgDecision) -> MediaWork:
    """What the offer needs before it is forwarded (PS-12): resources of added streams, keys for lines to the UE."""
    access: list[StreamWork] = []
    core: list[StreamWork] = []
    from_access = decision.offered_by is Side.ACCESS
    for plan in decision.plans:
        if plan.added:
            near = StreamWork(plan.index, plan.media, _transport(plan, Side.ACCESS), fresh=True)
            far = StreamWork(plan.index, plan.media, _transport(plan, Side.CORE), fresh=True)
            if plan.treatment is Treatment.E2AE_SDES:
                near = replace(
                    near,
                    local_suites=plan.suites,
                    local_tag=plan.tag,
                    remote_crypto=plan.chosen if from_access else None,
                )
            if from_access:
                near = replace(near, remote=plan.offerer)
            else:
                far = replace(far, remote=plan.offerer)
            access.append(near)
            core.append(far)
        elif plan.active and not from_access and plan.treatment is Treatment.E2AE_SDES:
            access.append(_lines_again(plan, rekey=plan.rekey or not plan.tag))
    return MediaWork(tuple(access), tuple(core))


def _lines_again(plan: StreamPlan, *, rekey: bool) -> StreamWork:
    return StreamWork(
        plan.index,
        plan.media,
        _transport(plan, Side.ACCESS),
        mode="",
        local_suites=plan.suites,
        local_tag=plan.tag,
        rekey=rekey,
    )


def answer_work(decision: AlgDecision, answer: AnswerDecision, *, gate_open: bool) -> MediaWork:
    """What is needed before the answer may be forwarded: the other ends, the UE's key if it is new, the gates."""
    access: list[StreamWork] = []
    core: list[StreamWork] = []
    for stream in answer.streams:
        plan = stream.plan
        if not stream.active:
            if plan.added or (plan.previous is not None and plan.previous.active):
                access.append(StreamWork(plan.index, plan.media, _transport(plan, Side.ACCESS), removed=True))
                core.append(StreamWork(plan.index, plan.media, _transport(plan, Side.CORE), removed=True))
            continue
        access.append(_near(decision, stream, gate_open=gate_open))
        core.append(_far(decision, stream, gate_open=gate_open))
    return MediaWork(tuple(access), tuple(core))


def _near(decision: AlgDecision, stream: StreamAnswer, *, gate_open: bool) -> StreamWork:
    plan = stream.plan
    from_access = decision.offered_by is Side.ACCESS
    work = StreamWork(
        plan.index,
        plan.media,
        _transport(plan, Side.ACCESS),
        mode=_ACCESS_MODE[stream.ue_direction] if gate_open else "INACTIVE",
        mux=stream.mux,
    )
    told = plan.offerer if from_access and plan.added else (plan.previous.ue_address if plan.previous else None)
    ue = plan.offerer if from_access else stream.answerer
    if ue != told:
        work = replace(work, remote=ue, moved=told is not None)
    if plan.treatment is not Treatment.E2AE_SDES:
        return work
    if from_access:
        if not plan.added:
            work = replace(work, local_suites=plan.suites, local_tag=plan.tag)
            if plan.chosen is not None and (plan.previous is None or key_digest(plan.chosen) != plan.previous.ue_key):
                work = replace(work, remote_crypto=plan.chosen)
        return work
    if stream.crypto is not None:
        work = replace(work, selected_tag=stream.crypto.tag)
        if plan.added or plan.previous is None or key_digest(stream.crypto) != plan.previous.ue_key:
            work = replace(work, remote_crypto=stream.crypto)
    return work


def _far(decision: AlgDecision, stream: StreamAnswer, *, gate_open: bool) -> StreamWork:
    plan = stream.plan
    from_core = decision.offered_by is Side.CORE
    work = StreamWork(
        plan.index,
        plan.media,
        _transport(plan, Side.CORE),
        mode=_CORE_MODE[stream.ue_direction] if gate_open else "INACTIVE",
        mux=stream.mux,
    )
    told = plan.offerer if from_core and plan.added else (plan.previous.far_address if plan.previous else None)
    far = plan.offerer if from_core else stream.answerer
    return replace(work, remote=far) if far != told else work


def gate_work(streams: Mapping[int, StreamState], directions: Mapping[int, str]) -> MediaWork:
    """Open the gates of streams that were kept closed until the session was answered."""
    active = [state for state in streams.values() if state.active]
    return MediaWork(
        tuple(_gate(state, _ACCESS_MODE[directions.get(state.index, "sendrecv")], Side.ACCESS) for state in active),
        tuple(_gate(state, _CORE_MODE[directions.get(state.index, "sendrecv")], Side.CORE) for state in active),
    )


def _gate(state: StreamState, mode: str, side: Side) -> StreamWork:
    opaque = state.treatment in (Treatment.E2E, Treatment.RELAYED)
    proto = state.access_proto if side is Side.ACCESS else state.core_proto
    protected = side is Side.ACCESS and state.treatment is Treatment.E2AE_SDES
    return StreamWork(state.index, state.media, _OPAQUE if opaque else transport(proto, protected=protected), mode=mode)


def withdraw_work(decision: AlgDecision) -> MediaWork:
    """What undoes `offer_work` when the offer came to nothing; streams that existed stay as they were (7.4-2)."""
    gone = [plan for plan in decision.plans if plan.added]
    return MediaWork(
        tuple(StreamWork(plan.index, plan.media, _transport(plan, Side.ACCESS), removed=True) for plan in gone),
        tuple(StreamWork(plan.index, plan.media, _transport(plan, Side.CORE), removed=True) for plan in gone),
    )


# -- SDP lines --------------------------------------------------------------------------------------------------------


def offer_lines(decision: AlgDecision, locals_: Locals) -> list[LineRewrite]:
    """How the offer's m-lines go on to the other side."""
    towards = decision.offered_by.other
    return [_offer_line(plan, towards, locals_.get((towards, plan.index))) for plan in decision.plans]


def _offer_line(plan: StreamPlan, towards: Side, local: LocalStream | None) -> LineRewrite:
    proto = plan.core_proto if towards is Side.CORE else plan.access_proto
    if not plan.active or local is None:
        return LineRewrite(SECURE_TO_PLAIN.get(proto, proto) if towards is Side.CORE else proto, None)
    if plan.treatment is Treatment.E2AE_SDES and towards is Side.ACCESS:
        return LineRewrite(proto, local, crypto=local.crypto, marker="applied")
    return LineRewrite(proto, local, keep_security=plan.treatment in (Treatment.E2E, Treatment.RELAYED))


def answer_lines(decision: AlgDecision, answer: AnswerDecision, locals_: Locals) -> list[LineRewrite]:
    """How the answer's m-lines go back to whoever offered."""
    towards = decision.offered_by
    return [_answer_line(stream, towards, locals_.get((towards, stream.plan.index))) for stream in answer.streams]


def _answer_line(stream: StreamAnswer, towards: Side, local: LocalStream | None) -> LineRewrite:
    plan = stream.plan
    proto = plan.core_proto if towards is Side.CORE else plan.access_proto
    if not stream.active or local is None:
        return LineRewrite(proto, None)
    if plan.treatment is Treatment.E2AE_SDES and towards is Side.ACCESS:
        return LineRewrite(proto, local, crypto=local.crypto[:1])
    return LineRewrite(proto, local, keep_security=plan.treatment in (Treatment.E2E, Treatment.RELAYED))


# -- after a complete exchange ----------------------------------------------------------------------------------------


def streams_after(decision: AlgDecision, answer: AnswerDecision, locals_: Locals) -> dict[int, StreamState]:
    """The streams of the session once offer and answer are complete; keys are kept as digests."""
    after: dict[int, StreamState] = {}
    for stream in answer.streams:
        plan = stream.plan
        from_access = decision.offered_by is Side.ACCESS
        if not stream.active:
            after[plan.index] = StreamState(
                plan.index, plan.media, Treatment.DISABLED, plan.access_proto, plan.core_proto
            )
            continue
        ue_line = plan.chosen if from_access else stream.crypto
        after[plan.index] = StreamState(
            plan.index,
            plan.media,
            plan.treatment,
            plan.access_proto,
            plan.core_proto,
            suite=ue_line.suite.name if ue_line else "",
            tag=ue_line.tag if ue_line else 0,
            ue_key=key_digest(ue_line) if ue_line else "",
            ue_address=plan.offerer if from_access else stream.answerer,
            far_address=stream.answerer if from_access else plan.offerer,
            access_local=_address(locals_, Side.ACCESS, plan.index),
            core_local=_address(locals_, Side.CORE, plan.index),
            managed=plan.managed,
        )
    return after


def _address(locals_: Locals, side: Side, index: int) -> Address | None:
    local = locals_.get((side, index))
    return local.address if local else None
