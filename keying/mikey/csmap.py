"""Negotiation of crypto sessions: what an initiator offers, what a responder makes of it (RFC 6043 4.2.2.3, 6.1.1).

A number of an SP payload means one policy in the whole bundle: a peer that uses the other's number for another policy
is refused (RFC 3830 6.10 leaves it open).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from keying.mikey.errors import InvalidPolicy, InvalidPolicyParameter, MalformedMessage, MikeyError, Unspecified
from keying.mikey.payloads import CryptoSession, Header, KeyData, Message, SecurityPolicy
from keying.mikey.registry import CsIdMapType, ProtType
from keying.mikey.sessions import ssrc_of, suite_of

MAX_SESSIONS = 32
"""Crypto sessions of a bundle that are taken."""

Policies = Mapping[int, SecurityPolicy]


@dataclass(frozen=True, slots=True)
class Acceptable:
    """What a side takes: SRTP suites, best first, and other protocols by Prot type."""

    suites: Sequence[str]
    prot_types: Sequence[int] = ()

    def rank(self, policy: SecurityPolicy) -> int | None:
        """Return how good a policy is, 0 the best, or None where it is not taken."""
        if policy.prot_type != ProtType.SRTP:
            return 0 if policy.prot_type in self.prot_types else None
        try:
            name = suite_of(policy)
        except MikeyError:
            return None
        return list(self.suites).index(name) if name in self.suites else None


def sessions_of(header: Header) -> tuple[CryptoSession, ...]:
    """Return the crypto sessions of a Transfer message. Raises MalformedMessage for SRTP-ID or a repeated CS ID."""
    if header.map_type is CsIdMapType.SRTP_ID:
        raise MalformedMessage("CS ID map", "SRTP-ID is not for MIKEY-TICKET")
    found = tuple(each for each in header.sessions if isinstance(each, CryptoSession))
    if len(found) > MAX_SESSIONS:
        raise MalformedMessage("CS ID map", f"more than {MAX_SESSIONS} crypto sessions")
    if len({each.cs_id for each in found}) != len(found):
        raise MalformedMessage("CS ID map", "a CS ID stands there twice")
    for each in found:
        ssrc_of(each)
    return found


def policies_of(payloads: Iterable[object], known: Policies | None = None) -> dict[int, SecurityPolicy]:
    """Return the SP payloads by number, with those `known` already. Raises MalformedMessage for a number of another."""
    found = dict(known or {})
    for payload in payloads:
        if not isinstance(payload, SecurityPolicy):
            continue
        if found.get(payload.policy_no, payload) != payload:
            raise MalformedMessage("SP", f"policy {payload.policy_no} is already another one")
        found[payload.policy_no] = payload
    return found


def policies_in(message: Message, known: Policies | None = None) -> dict[int, SecurityPolicy]:
    """Return the policies of a message, with those `known` already.

    Raises MalformedMessage for a repeated number, or policies beside the empty map (RFC 4563 5).
    """
    listed = [each for each in message.payloads if isinstance(each, SecurityPolicy)]
    if len({each.policy_no for each in listed}) != len(listed):
        raise MalformedMessage("SP", "a policy number stands there twice")
    if listed and message.header.map_type is CsIdMapType.EMPTY:
        raise MalformedMessage("SP", "no policy goes with the empty map")
    return policies_of(listed, known)


def check_offer(sessions: Sequence[CryptoSession], policies: Policies, acceptable: Acceptable) -> None:
    """Check that every session can be answered (RFC 6043 4.2.2.2). Raises InvalidPolicy, InvalidPolicyParameter."""
    for session in sessions:
        if session.policies:
            best_policy(session, policies, acceptable)
        elif session.prot_type != ProtType.SRTP and session.prot_type not in acceptable.prot_types:
            raise InvalidPolicy("CS ID map", f"protocol {session.prot_type} is not done")


def best_policy(session: CryptoSession, policies: Policies, acceptable: Acceptable) -> int:
    """Return the number of the best policy that a session offers. Raises InvalidPolicy, InvalidPolicyParameter."""
    ranked: list[tuple[int, int, int]] = []
    for place, number in enumerate(session.policies):
        policy = policies.get(number)
        if policy is None or policy.prot_type != session.prot_type:
            raise InvalidPolicy("CS ID map", f"crypto session {session.cs_id} names no policy of its protocol")
        rank = acceptable.rank(policy)
        if rank is not None:
            ranked.append((rank, place, number))
    if not ranked:
        raise InvalidPolicyParameter("SP", f"crypto session {session.cs_id} offers no acceptable policy")
    return min(ranked)[2]


def answer(
    offered: Sequence[CryptoSession],
    policies: Policies,
    acceptable: Acceptable,
    keys: Sequence[KeyData],
    *,
    ssrcs: Mapping[int, int] | None = None,
    chosen: Mapping[int, int] | None = None,
) -> tuple[CryptoSession, ...]:
    """Return the map of a response: one policy, Session Data and SPI for each session (RFC 6043 4.2.2.3).

    `ssrcs` are those of own streams by CS ID, `chosen` policy numbers by CS ID; else the best one offered, and for a
    session without any the first acceptable of `policies`. Raises Unspecified where an SSRC or a key is missing.
    """
    answered: list[CryptoSession] = []
    for session in offered:
        number = (chosen or {}).get(session.cs_id)
        if number is None and session.policies:
            number = best_policy(session, policies, acceptable)
        if number is None:
            number = _supplied(session, policies, acceptable)
        data, rollover = session.session_data, session.rollover
        own = (ssrcs or {}).get(session.cs_id)
        if session.prot_type == ProtType.SRTP and own is not None and own != ssrc_of(session):
            data, rollover = own.to_bytes(4, "big"), False
        if session.prot_type == ProtType.SRTP and not data:
            raise Unspecified("Session Data", f"no SSRC for crypto session {session.cs_id}")
        spi = session.spi or next((key.spi for key in keys if key.spi), None)
        if not spi:
            raise Unspecified("SPI", f"no key for crypto session {session.cs_id}")
        taken = () if number is None else (number,)
        answered.append(replace(session, policies=taken, session_data=data, rollover=rollover, spi=spi))
    return tuple(answered)


def _supplied(session: CryptoSession, policies: Policies, acceptable: Acceptable) -> int | None:
    fitting = [
        (acceptable.rank(policy), number)
        for number, policy in policies.items()
        if policy.prot_type == session.prot_type and acceptable.rank(policy) is not None
    ]
    if fitting:
        return min((rank or 0, number) for rank, number in fitting)[1]
    if session.prot_type == ProtType.SRTP:
        raise InvalidPolicy("CS ID map", f"crypto session {session.cs_id} came without policy and none is supplied")
    return None


def check_answer(
    offered: Sequence[CryptoSession],
    answered: Sequence[CryptoSession],
    policies: Policies,
    acceptable: Acceptable,
) -> None:
    """Check a response's map against what was offered (RFC 6043 4.2.2.4).

    Every session is still there with its protocol; its policy is one that was offered for it, or acceptable.
    Raises MalformedMessage, InvalidPolicy, InvalidPolicyParameter; one policy a session is checked with its keys.
    """
    by_id = {each.cs_id: each for each in answered}
    for session in offered:
        match = by_id.get(session.cs_id)
        if match is None or match.prot_type != session.prot_type:
            raise MalformedMessage("CS ID map", f"crypto session {session.cs_id} is gone")
    before = {each.cs_id: each for each in offered}
    ours = {number for each in offered for number in each.policies}
    for session in answered:
        known = before.get(session.cs_id)
        for number in session.policies:
            policy = policies.get(number)
            if policy is None:
                raise InvalidPolicy("CS ID map", f"crypto session {session.cs_id} names no policy of the bundle")
            suggested = ours if known is None else known.policies
            if number not in suggested and acceptable.rank(policy) is None:
                raise InvalidPolicyParameter("SP", f"the policy of crypto session {session.cs_id} was not offered")
        if session.prot_type != ProtType.SRTP and known is None and session.prot_type not in acceptable.prot_types:
            raise InvalidPolicy("CS ID map", f"protocol {session.prot_type} is not done")


def check_one_way(sessions: Sequence[CryptoSession]) -> None:
    """Check that sessions are complete already, as without a response nobody completes them. Raises Unspecified."""
    for session in sessions:
        if session.prot_type == ProtType.SRTP and (len(session.policies) != 1 or not session.session_data):
            raise Unspecified("CS ID map", f"crypto session {session.cs_id} is not complete and gets no response")
        if not session.spi:
            raise Unspecified("SPI", f"crypto session {session.cs_id} names no key and gets no response")
