"""Answers through the IMS-ALG: do they fit what was offered on that side (7.2.1-4, 7.2.1-7, 7.3.1-3, 7.3.1-4, PS-6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keying.sdes import CryptoAttribute, SdesError, keys_in, verify_answer
from keying.secret import Secret
from nodes.pcscf.ims_alg import BAD_KEY, DOWNGRADE, PROFILE, media_address, ue_media_address
from nodes.pcscf.media_plan import (
    AlgPolicy,
    AnswerDecision,
    Refusal,
    StreamAnswer,
    StreamPlan,
    Treatment,
)
from nodes.pcscf.protection import unprotected
from signalling.sdp import MediaDescription, SessionDescription

_MIRROR = {"sendonly": "recvonly", "recvonly": "sendonly"}


class _ViolationError(Exception):
    def __init__(self, status: int, token: str, text: str) -> None:
        super().__init__(text)
        self.refusal = Refusal(status, token, text)


def answer_from_core(sdp: SessionDescription, plans: Sequence[StreamPlan], policy: AlgPolicy) -> AnswerDecision:
    """Judge the core's answer to an offer this node sent there. A violation ends the session, 500 to the UE (PS-6)."""
    try:
        _check_lines(sdp, plans)
        return AnswerDecision(
            tuple(_core_stream(sdp, media, plan, policy) for media, plan in zip(sdp.media, plans, strict=True))
        )
    except _ViolationError as fault:
        return AnswerDecision(violation=fault.refusal)


def answer_from_access(
    sdp: SessionDescription,
    plans: Sequence[StreamPlan],
    offered: Mapping[int, tuple[CryptoAttribute, ...]],
    policy: AlgPolicy,
) -> AnswerDecision:
    """Judge the UE's answer; `offered` are the lines the IMS-AGW's keys were offered in, by stream index.

    A violation ends the session: profile changed, key missing, tag or suite not offered, own key sent back, one key on
    two streams (7.3.1-4, RFC 4568 6.1).
    """
    try:
        _check_lines(sdp, plans)
        seen = [key for lines in offered.values() for line in lines for key in line.all_keys]
        streams: list[StreamAnswer] = []
        for media, plan in zip(sdp.media, plans, strict=True):
            streams.append(_access_stream(sdp, media, plan, offered.get(plan.index, ()), tuple(seen), policy))
            seen.extend(keys_in(media.crypto))
        return AnswerDecision(tuple(streams))
    except _ViolationError as fault:
        return AnswerDecision(violation=fault.refusal)


def _check_lines(sdp: SessionDescription, plans: Sequence[StreamPlan]) -> None:
    if len(sdp.media) != len(plans):
        raise _ViolationError(500, "", "the answer does not have the offer's m-lines (RFC 3264 6)")
    for media, plan in zip(sdp.media, plans, strict=True):
        if media.media != plan.media:
            raise _ViolationError(500, "", "the answer changes a media type (RFC 3264 6)")
        if media.port and not plan.active:
            raise _ViolationError(500, "", "the answer accepts a line offered with port 0")


def _core_stream(sdp: SessionDescription, media: MediaDescription, plan: StreamPlan, policy: AlgPolicy) -> StreamAnswer:
    if media.port == 0 or not plan.active:
        return StreamAnswer(plan, active=False)
    if media.proto.upper() != plan.core_proto.upper():
        raise _ViolationError(500, PROFILE, f"the core answered {media.proto} to {plan.core_proto}")
    _check_unchanged(sdp, media, plan, policy)
    address = media_address(sdp, media)
    if address is None:
        raise _ViolationError(500, "", "the answer has no connection address")
    direction = sdp.direction_of(media)
    return StreamAnswer(
        plan,
        active=True,
        answerer=address,
        mux=plan.mux_offered and media.rtcp_mux,
        ue_direction=_MIRROR.get(direction, direction),
    )


def _access_stream(
    sdp: SessionDescription,
    media: MediaDescription,
    plan: StreamPlan,
    offered: tuple[CryptoAttribute, ...],
    other_keys: Sequence[Secret],
    policy: AlgPolicy,
) -> StreamAnswer:
    if media.port == 0 or not plan.active:
        return StreamAnswer(plan, active=False)
    if media.proto.upper() != plan.access_proto.upper():
        raise _ViolationError(488, DOWNGRADE, f"the UE answered {media.proto} to {plan.access_proto}")
    _check_unchanged(sdp, media, plan, policy)
    address = ue_media_address(sdp, media, policy)
    if address is None:
        raise _ViolationError(500, "", "the answer has no connection address")
    crypto = _access_key(media, plan, offered, other_keys, policy)
    return StreamAnswer(
        plan,
        active=True,
        answerer=address,
        crypto=crypto,
        mux=plan.mux_offered and media.rtcp_mux,
        ue_direction=sdp.direction_of(media),
    )


def _check_unchanged(sdp: SessionDescription, media: MediaDescription, plan: StreamPlan, policy: AlgPolicy) -> None:
    """What this node passes unchanged must be protected by the answerer too, not by the offerer alone (7.2.1-6)."""
    if plan.treatment not in (Treatment.E2E, Treatment.RELAYED):
        return
    silent = not media.crypto and not sdp.key_mgmt_of(media)
    if silent and plan.managed and plan.previous is not None and plan.previous.managed:
        return  # its keys go on
    fault = unprotected(sdp, media, policy)
    if fault:
        raise _ViolationError(488, DOWNGRADE, f"answered {fault}")


def _access_key(
    media: MediaDescription,
    plan: StreamPlan,
    offered: tuple[CryptoAttribute, ...],
    other_keys: Sequence[Secret],
    policy: AlgPolicy,
) -> CryptoAttribute | None:
    if plan.treatment is not Treatment.E2AE_SDES:
        return None
    try:
        return verify_answer(offered, media.crypto, policy.sdes, other_keys=other_keys)
    except SdesError as error:
        raise _ViolationError(488, error.media_sec_token or BAD_KEY, str(error)) from error
