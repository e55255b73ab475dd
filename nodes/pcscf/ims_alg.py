"""Offers through the IMS-ALG: what becomes of every m-line (TS 33.328 7.2.1, 7.2.2, 7.3.1).

Pure functions on SDP. `offer_from_access` and `offer_from_core` turn an offer, the agreement and the history of the
session into an `AlgDecision`; answers are judged in `alg_answers`, the Iq work is derived in `alg_media`, the SDP is
written in `sdp_writer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import zip_longest

from keying.sdes import CryptoAttribute, NoAcceptableCrypto, SdesError, evaluate_offer, keys_in
from keying.secret import Secret
from nodes.pcscf.config import MediaPolicy, UnannouncedPolicy
from nodes.pcscf.media_plan import (
    DTLS_PROFILES,
    PLAIN_TO_SECURE,
    SECURE_TO_PLAIN,
    UDP_PROFILES,
    Address,
    AlgDecision,
    AlgPolicy,
    Refusal,
    Side,
    StreamPlan,
    StreamState,
    Treatment,
    key_digest,
)
from nodes.pcscf.protection import keys_in_clear, unprotected
from signalling.sdp import MediaDescription, SdpAttributeError, SdpError, SessionDescription

NOT_ANNOUNCED = "e2ae-not-announced"
DOWNGRADE = "downgrade-refused"
REQUIRED = "protection-required"
PROFILE = "profile-refused"
BAD_KEY = "bad-key"
NO_SUITE = "no-common-suite"
_NOWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, never bound
_CAPABILITY_LINES = ("tcap", "acap", "pcfg")


class _RefuseOfferError(Exception):
    """The whole request is refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.token)
        self.refusal = refusal


def _refuse(token: str, text: str = "", status: int = 488) -> _RefuseOfferError:
    return _RefuseOfferError(Refusal(status, token, text))


def media_address(sdp: SessionDescription, media: MediaDescription) -> Address | None:
    """Where the writer of `sdp` wants media of this m-line; None for a line without connection or with port 0."""
    connection = sdp.connection_of(media)
    if connection is None or media.port == 0:
        return None
    try:
        rtcp = media.rtcp
    except SdpAttributeError:
        rtcp = None
    if rtcp is None:
        return Address(connection.address, media.port)
    return Address(connection.address, media.port, rtcp.port, rtcp.address or "")


def ue_media_address(sdp: SessionDescription, media: MediaDescription, policy: AlgPolicy) -> Address | None:
    """Where the UE wants media; an address that is not its own is marked, for nobody else asked for media.

    This is the voice hammer of RFC 5245 18.5.1. An unspecified address (hold of RFC 3264 8.4) stays as it is.
    """
    address = media_address(sdp, media)
    if address is None or not policy.ue_ip:
        return address
    if address.rtcp_ip and not _same_host(address.rtcp_ip, policy.ue_ip):
        address = replace(address, rtcp_ip="")
    if _same_host(address.ip, policy.ue_ip) or address.ip in _NOWHERE:
        return address
    return replace(address, source_ip=policy.ue_ip)


def _same_host(one: str, other: str) -> bool:
    try:
        return ip_address(one) == ip_address(other)
    except ValueError:
        return False


def e2ae_marker(media: MediaDescription) -> str | None:
    """`requested`, `applied` or None (TS 24.229 7.5.2). Raises the 488 of GE-1 when the line says both."""
    try:
        return media.e2ae
    except SdpAttributeError:
        raise _refuse(BAD_KEY, "3ge2ae is contradictory") from None


def offer_from_access(
    sdp: SessionDescription, policy: AlgPolicy, previous: Mapping[int, StreamState] | None = None
) -> AlgDecision:
    """Decide an offer of the UE, m-line by m-line (FLOW-4, PS-1, PS-7, PS-8).

    `previous` holds the streams of the last complete exchange by index (from 0). A refused m-line leaves with port 0;
    the request is refused with 488 when nothing else is left, when an e2ae request has no agreement, or on a downgrade.
    """
    history = previous or {}
    seen: list[Secret] = []
    plans: list[StreamPlan] = []
    try:
        _check_lines(sdp, history, policy)
        for index, media in enumerate(sdp.media):
            plans.append(_from_access(sdp, media, index, policy, history.get(index), tuple(seen)))
            seen.extend(keys_in(media.crypto))
        _something_left(plans)
    except _RefuseOfferError as refused:
        return AlgDecision(Side.ACCESS, tuple(plans), refused.refusal)
    return AlgDecision(Side.ACCESS, tuple(plans))


def offer_from_core(
    sdp: SessionDescription, policy: AlgPolicy, previous: Mapping[int, StreamState] | None = None
) -> AlgDecision:
    """Decide an offer that goes to the UE (FLOW-6, GE-6, 7.3.1-1..3, PS-9, PS-11); a `3ge2ae` in it is not believed."""
    history = previous or {}
    plans: list[StreamPlan] = []
    try:
        _check_lines(sdp, history, policy)
        for index, media in enumerate(sdp.media):
            plans.append(_from_core(sdp, media, index, policy, history.get(index)))
        _something_left(plans)
    except _RefuseOfferError as refused:
        return AlgDecision(Side.CORE, tuple(plans), refused.refusal)
    return AlgDecision(Side.CORE, tuple(plans))


def _check_lines(sdp: SessionDescription, history: Mapping[int, StreamState], policy: AlgPolicy) -> None:
    if policy.max_lines and len(sdp.media) > policy.max_lines:
        text = f"more than {policy.max_lines} media lines"
        raise _RefuseOfferError(Refusal(488, text=text, warning=text))
    if len(sdp.media) < len(history):
        raise _RefuseOfferError(Refusal(400, text="an m-line of the session is missing (RFC 3264 8)"))


def _something_left(plans: Sequence[StreamPlan]) -> None:
    refused = [plan for plan in plans if plan.treatment is Treatment.REFUSED]
    if refused and not any(plan.active for plan in plans):
        raise _refuse(refused[0].token, refused[0].reason)


def _plan(
    sdp: SessionDescription,
    media: MediaDescription,
    index: int,
    previous: StreamState | None,
    treatment: Treatment,
    reason: str,
) -> StreamPlan:
    return StreamPlan(
        index=index,
        media=media.media,
        treatment=treatment,
        access_proto=media.proto,
        core_proto=media.proto,
        reason=reason,
        offerer=media_address(sdp, media),
        previous=previous,
        mux_offered=media.rtcp_mux,
    )


def _refused(plan: StreamPlan, token: str, reason: str) -> StreamPlan:
    return replace(plan, treatment=Treatment.REFUSED, token=token, reason=reason)


def _unprotected(previous: StreamState | None) -> str:
    """Return the word for an offer without the protection it needs: a downgrade only where a stream had more before."""
    protected = previous is not None and previous.treatment in {Treatment.E2AE_SDES, Treatment.E2E}
    return DOWNGRADE if protected else REQUIRED


def _other_media(plan: StreamPlan, sdp: SessionDescription, media: MediaDescription, policy: AlgPolicy) -> StreamPlan:
    """What is not RTP: UDP is relayed untouched, TCP is not built (profile refused)."""
    if media.proto.upper() in UDP_PROFILES:
        fault = unprotected(sdp, media, policy)
        if fault:
            return _refused(plan, _unprotected(plan.previous), fault)
        return replace(plan, treatment=Treatment.RELAYED, reason="forwarded untouched")
    return _refused(plan, PROFILE, f"no relay for {media.proto}")


def _e2e(
    plan: StreamPlan, sdp: SessionDescription, media: MediaDescription, policy: AlgPolicy, *, readable: bool
) -> StreamPlan:
    """End-to-end protection passes unchanged (7.2.2, 7.2.3, GE-7), if each signalling hop may carry its keys (SDES-22).

    `readable`: SDP has the keys themselves. A protected profile that brings neither keys nor a fingerprint is a
    downgrade in disguise; but keys of a KMS go on where a later offer says nothing of them (RFC 4567 4.1.2).
    """
    if policy.emergency:
        return _refused(plan, PROFILE, "no end-to-end security on emergency calls (7.5-1)")
    managed = bool(sdp.key_mgmt_of(media)) and not media.crypto
    silent = not managed and not media.crypto and media.proto in SECURE_TO_PLAIN
    if silent and plan.previous is not None and plan.previous.managed:
        return replace(plan, treatment=Treatment.E2E, managed=True, reason="end to end, keys as before")
    plan = replace(plan, managed=managed)
    fault = unprotected(sdp, media, policy)
    if fault:
        return _refused(plan, _unprotected(plan.previous), fault)
    if not policy.e2e_sdes and readable:
        return _refused(plan, PROFILE, "end-to-end SDES is switched off here")
    if readable and not (policy.gm_encrypted and policy.mw_encrypted) and not policy.e2e_on_clear_hop:
        return _refused(plan, BAD_KEY, "keys on a signalling hop that is not encrypted")
    return replace(plan, treatment=Treatment.E2E, reason="end to end, passed unchanged")


# -- from the UE ------------------------------------------------------------------------------------------------------


def _from_access(
    sdp: SessionDescription,
    media: MediaDescription,
    index: int,
    policy: AlgPolicy,
    previous: StreamState | None,
    seen: Sequence[Secret],
) -> StreamPlan:
    plan = _plan(sdp, media, index, previous, Treatment.PLAIN, "plain call")
    if media.port == 0:
        return replace(plan, treatment=Treatment.DISABLED, reason="port 0")
    plan = replace(plan, offerer=ue_media_address(sdp, media, policy))
    if plan.offerer is None:
        return _refused(plan, PROFILE, "no connection address")
    secure = media.proto in SECURE_TO_PLAIN
    if not secure and media.proto not in PLAIN_TO_SECURE:
        return _not_sdes_from_access(plan, sdp, media, policy)
    marker = e2ae_marker(media)
    protected = previous is not None and previous.treatment is Treatment.E2AE_SDES
    if protected and previous is not None:
        return _protected_again(plan, sdp, media, marker, policy, previous, seen)
    if marker == "requested":
        return _requested(plan, sdp, media, policy, seen)
    if secure:
        return _e2e_from_access(plan, sdp, media, policy)
    return _plain_from_access(plan, policy)


def _not_sdes_from_access(
    plan: StreamPlan, sdp: SessionDescription, media: MediaDescription, policy: AlgPolicy
) -> StreamPlan:
    if e2ae_marker(media) == "requested":  # mechanisms of DTLS and TLS e2ae are not announced here
        if policy.emergency:
            return _refused(plan, NOT_ANNOUNCED, "mechanism not available on this emergency call")
        raise _refuse(NOT_ANNOUNCED, f"e2ae for {media.proto} was not announced")
    if media.proto in DTLS_PROFILES:
        return _e2e(plan, sdp, media, policy, readable=False)
    return _other_media(plan, sdp, media, policy)


def _e2e_from_access(
    plan: StreamPlan, sdp: SessionDescription, media: MediaDescription, policy: AlgPolicy
) -> StreamPlan:
    if policy.emergency and media.crypto:
        return _emergency_fallback(plan, media, policy, ())
    return _e2e(plan, sdp, media, policy, readable=keys_in_clear(sdp, media))


def _plain_from_access(plan: StreamPlan, policy: AlgPolicy) -> StreamPlan:
    if policy.effective is MediaPolicy.REQUIRED:
        raise _refuse(_unprotected(plan.previous), "this access requires protected media")
    return plan


def _requested(
    plan: StreamPlan,
    sdp: SessionDescription,
    media: MediaDescription,
    policy: AlgPolicy,
    seen: Sequence[Secret],
) -> StreamPlan:
    """`a=3ge2ae:requested` on an RTP line that is not protected yet (FLOW-4 rows 1, 2, 4)."""
    secure = media.proto in SECURE_TO_PLAIN
    agreed = policy.agreed and policy.e2ae is not MediaPolicy.OFF
    if not agreed:
        if policy.emergency:
            return _emergency_fallback(plan, media, policy, seen)
        if secure and policy.unannounced is UnannouncedPolicy.AS_E2E:
            return _e2e(plan, sdp, media, policy, readable=bool(media.crypto))
        raise _refuse(NOT_ANNOUNCED, "e2ae was requested without agreement at registration")
    if secure:
        return _take_key(plan, media, policy, seen)
    if not media.crypto:
        if any(media.has(name) for name in _CAPABILITY_LINES):
            return replace(_plain_from_access(plan, policy), reason="optional security is not taken up (ID-3)")
        raise _refuse(BAD_KEY, "e2ae was requested without a key")
    if policy.accept_osrtp_shape:
        return replace(_take_key(plan, media, policy, seen), osrtp=True)
    return replace(_plain_from_access(plan, policy), reason="RTP/AVP with a key is not taken up (strict)")


def _emergency_fallback(
    plan: StreamPlan, media: MediaDescription, policy: AlgPolicy, seen: Sequence[Secret]
) -> StreamPlan:
    """Protect with what the UE brought if that can be done at all, else go on in the clear (EM-8, EM-9, 7.5-3)."""
    core_proto = SECURE_TO_PLAIN.get(media.proto, media.proto)
    if policy.gm_encrypted:
        taken = _take_key(plan, media, policy, seen)
        if taken.chosen is not None:
            return replace(taken, reason="emergency: protected without agreement", osrtp=media.proto == core_proto)
    return replace(plan, core_proto=core_proto, access_proto=core_proto, reason="emergency: security failed, plain")


def _take_key(
    plan: StreamPlan, media: MediaDescription, policy: AlgPolicy, seen: Sequence[Secret], prefer: str = ""
) -> StreamPlan:
    """Choose one of the UE's lines (RFC 4568 5.1.2): the one in use if offered again, else the first valid one."""
    evaluation = evaluate_offer(media.crypto, policy.sdes, other_keys=seen)
    core_proto = SECURE_TO_PLAIN.get(media.proto, media.proto)
    if not evaluation.acceptable:
        error: SdesError = evaluation.refused[0].error if evaluation.refused else NoAcceptableCrypto("no crypto line")
        if policy.emergency:
            return replace(plan, core_proto=core_proto, access_proto=core_proto, reason="emergency: bad keys, plain")
        return _refused(plan, error.media_sec_token, str(error))
    chosen = next((line for line in evaluation.acceptable if key_digest(line) == prefer), evaluation.acceptable[0])
    return replace(
        plan,
        treatment=Treatment.E2AE_SDES,
        access_proto=media.proto,
        core_proto=core_proto,
        chosen=chosen,
        suites=(chosen.suite.name,),
        tag=chosen.tag,
        reason="e2ae",
        osrtp=media.proto in PLAIN_TO_SECURE,
    )


def _protected_again(
    plan: StreamPlan,
    sdp: SessionDescription,
    media: MediaDescription,
    marker: str | None,
    policy: AlgPolicy,
    previous: StreamState,
    seen: Sequence[Secret],
) -> StreamPlan:
    """The UE offers a protected stream again (7.4-2, 7.4-3, PS-7, PS-8): never plain, never the old key elsewhere."""
    if not media.crypto and marker is None and media.proto in SECURE_TO_PLAIN and sdp.key_mgmt_of(media):
        return _e2e(plan, sdp, media, policy, readable=keys_in_clear(sdp, media))  # a change of mode (7.4-8)
    if not media.crypto:
        if policy.emergency:
            return replace(plan, core_proto=previous.core_proto, reason="emergency: key dropped, plain")
        raise _refuse(DOWNGRADE, "a protected stream was offered without key")
    taken = _take_key(plan, media, policy, seen, prefer=previous.ue_key)
    if taken.chosen is None:
        if policy.emergency:
            return taken
        raise _refuse(taken.token, taken.reason)
    same_key = any(key_digest(line) == previous.ue_key for line in _readable(media, policy))
    moved = plan.offerer is not None and previous.ue_address is not None and plan.offerer != previous.ue_address
    if same_key and moved and not policy.emergency:
        raise _refuse(BAD_KEY, "address or port changed and the key did not (RFC 4568 7.1.4)")
    if marker is None and not same_key and media.proto in SECURE_TO_PLAIN:
        return _e2e(plan, sdp, media, policy, readable=True)  # a change of mode, with a key nobody has seen (7.4-8)
    reason = "e2ae, unchanged" if same_key else ("e2ae, moved with a new key" if moved else "e2ae, re-keyed")
    return replace(taken, reason=reason)


def _readable(media: MediaDescription, policy: AlgPolicy) -> tuple[CryptoAttribute, ...]:
    return evaluate_offer(media.crypto, policy.sdes).acceptable


# -- from the core ----------------------------------------------------------------------------------------------------


def _from_core(
    sdp: SessionDescription,
    media: MediaDescription,
    index: int,
    policy: AlgPolicy,
    previous: StreamState | None,
) -> StreamPlan:
    plan = _plan(sdp, media, index, previous, Treatment.PLAIN, "plain leg")
    if media.port == 0:
        return replace(plan, treatment=Treatment.DISABLED, reason="port 0")
    if plan.offerer is None:
        return _refused(plan, PROFILE, "no connection address")
    if media.proto in SECURE_TO_PLAIN:
        return _e2e(plan, sdp, media, policy, readable=keys_in_clear(sdp, media))
    if media.proto in DTLS_PROFILES:
        return _e2e(plan, sdp, media, policy, readable=False)
    if media.proto not in PLAIN_TO_SECURE:
        return _other_media(plan, sdp, media, policy)
    return _plain_from_core(plan, policy, previous)


def _plain_from_core(plan: StreamPlan, policy: AlgPolicy, previous: StreamState | None) -> StreamPlan:
    if previous is not None and previous.treatment is Treatment.E2AE_SDES:
        suites = policy.offer_suites if policy.rekey_on_reoffer else (previous.suite,)
        return replace(
            plan,
            treatment=Treatment.E2AE_SDES,
            access_proto=previous.access_proto,
            osrtp=previous.access_proto in PLAIN_TO_SECURE,
            suites=suites,
            tag=0 if policy.rekey_on_reoffer else previous.tag,
            reason="e2ae, offered again",
        )
    wanted = policy.effective is not MediaPolicy.OFF
    if wanted and policy.agreed and (previous is None or not previous.active):
        return replace(
            plan,
            treatment=Treatment.E2AE_SDES,
            access_proto=PLAIN_TO_SECURE[plan.core_proto],
            suites=policy.offer_suites,
            reason="e2ae",
        )
    if policy.effective is MediaPolicy.REQUIRED:
        raise _refuse(NOT_ANNOUNCED, "this access requires protected media and the UE did not agree")
    return plan


def unchanged_line_count(offer: SessionDescription, answer: SessionDescription) -> bool:
    """The answer has the offer's m-lines: same number, same media, same order (RFC 3264 6)."""
    return all(
        one is not None and other is not None and one.media == other.media
        for one, other in zip_longest(offer.media, answer.media)
    )


__all__ = [
    "SdpError",
    "e2ae_marker",
    "media_address",
    "offer_from_access",
    "offer_from_core",
    "ue_media_address",
    "unchanged_line_count",
]
