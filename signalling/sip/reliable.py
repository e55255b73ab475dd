"""Reliable provisional responses: RSeq, PRACK, retransmission (RFC 3262), without I/O."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum

from signalling.sip.grammar import GrammarError, parse_digits
from signalling.sip.headers import MAX_CSEQ, RAck, parse_rack
from signalling.sip.model import SipRequest, SipResponse
from signalling.sip.timers import TimerConfig

OPTION = "100rel"
_FIRST_RSEQ_MOST = 2**31 - 1


class ReliableError(Exception):
    """A step RFC 3262 forbids; ``status`` is what to answer where it was a request."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class Reliability(Enum):
    """What an INVITE says about reliable provisional responses."""

    FORBIDDEN = "not supported by the caller"
    ALLOWED = "supported"
    REQUIRED = "required"


def reliability_of(invite: SipRequest) -> Reliability:
    """Read 100rel out of Require and Supported (RFC 3262 3)."""
    if any(tag.lower() == OPTION for tag in invite.headers.values("require")):
        return Reliability.REQUIRED
    return Reliability.ALLOWED if invite.supports(OPTION) else Reliability.FORBIDDEN


def is_reliable(response: SipResponse) -> bool:
    """Say whether a response must be answered by PRACK: 101-199 with Require: 100rel and RSeq."""
    return (
        100 < response.status < 200
        and any(tag.lower() == OPTION for tag in response.headers.values("require"))
        and response.headers.get("rseq") is not None
    )


@dataclass(slots=True)
class _Outstanding:
    response: SipResponse
    rseq: int
    interval: float
    next_at: float
    give_up_at: float
    has_offer_or_answer: bool


class ReliableSender:
    """The UAS side for one INVITE: numbers, keeps and repeats the one provisional response that waits for its PRACK.

    The owner calls :meth:`due` at :attr:`next_time`. Times are seconds of the owner's clock.
    """

    def __init__(self, invite: SipRequest, timers: TimerConfig, first_rseq: int | None = None) -> None:
        self.invite = invite
        self.timers = timers
        self._rseq = secrets.randbelow(_FIRST_RSEQ_MOST) if first_rseq is None else first_rseq - 1
        self._outstanding: _Outstanding | None = None
        self._final = False
        self._overtaken: int | None = None

    @property
    def waiting(self) -> bool:
        """True while a PRACK is awaited."""
        return self._outstanding is not None

    @property
    def next_time(self) -> float | None:
        """When :meth:`due` is to be called, None when nothing waits."""
        one = self._outstanding
        return None if one is None else min(one.next_at, one.give_up_at)

    @property
    def may_send_success(self) -> bool:
        """False while an unacknowledged response carries SDP (RFC 3262 5)."""
        return self._outstanding is None or not self._outstanding.has_offer_or_answer

    def send(self, response: SipResponse, now: float) -> SipResponse:
        """Number a 101-199 and keep it; returns it with Require and RSeq.

        ReliableError when the caller does not support it, a PRACK is awaited, or a final response was sent.
        """
        if not 100 < response.status < 200:
            raise ReliableError(500, "only 101-199 can be reliable")
        if reliability_of(self.invite) is Reliability.FORBIDDEN:
            raise ReliableError(500, "the caller does not support 100rel")
        if self._final:
            raise ReliableError(500, "a final response was sent")
        if self._outstanding is not None:
            raise ReliableError(500, "the last reliable response waits for its PRACK")
        if self._rseq >= MAX_CSEQ:
            raise ReliableError(500, "RSeq exhausted")
        self._rseq += 1
        reliable = response.copy()
        if not any(tag.lower() == OPTION for tag in reliable.headers.values("require")):
            reliable.headers.add("Require", OPTION)
        reliable.headers.set("RSeq", str(self._rseq))
        t1 = self.timers.t1
        self._outstanding = _Outstanding(reliable, self._rseq, t1, now + t1, now + 64 * t1, bool(reliable.body))
        return reliable

    def due(self, now: float) -> SipResponse | None:
        """Return the response to send again now, None when it is not time; no T2 cap (RFC 3262 3).

        ReliableError 504 after 64*T1 without PRACK: the INVITE is to be refused with a 5xx.
        """
        one = self._outstanding
        if one is None:
            return None
        if now >= one.give_up_at:
            self._outstanding = None
            raise ReliableError(504, "no PRACK")
        if now < one.next_at:
            return None
        one.interval *= 2
        one.next_at += one.interval
        return one.response

    def acknowledge(self, prack: SipRequest) -> None:
        """Take a PRACK; ReliableError 481 when it matches nothing, 400 when its RAck is malformed."""
        text = prack.headers.get("rack")
        if text is None:
            raise ReliableError(400, "PRACK without RAck")
        try:
            rack = parse_rack(text)
        except GrammarError as error:
            raise ReliableError(400, str(error)) from error
        number, method = self.invite.cseq
        if self._overtaken is not None and rack == RAck(self._overtaken, number, method):
            self._overtaken = None
            return
        if self._outstanding is None or rack != RAck(self._outstanding.rseq, number, method):
            raise ReliableError(481, "PRACK matches no response")
        self._outstanding = None

    def final_sent(self) -> None:
        """Take note of the final response: nothing is retransmitted and nothing new is reliable.

        The PRACK of a response that the final one overtook is still taken (RFC 3262 3).
        """
        self._final = True
        if self._outstanding is None or self._outstanding.has_offer_or_answer:
            return
        self._overtaken = self._outstanding.rseq
        self._outstanding = None


class ReliableReceiver:
    """The UAC side for one early dialog of one INVITE: says which responses to PRACK."""

    def __init__(self) -> None:
        self._last: int | None = None

    def receive(self, response: SipResponse) -> RAck | None:
        """Return the RAck for a response to acknowledge and process; None: drop it (a repetition or out of order).

        Not for unreliable responses: ask :func:`is_reliable` first. ReliableError for a malformed RSeq.
        """
        rseq = parse_digits(response.headers.get("rseq") or "", MAX_CSEQ)
        if rseq is None or rseq == 0:
            raise ReliableError(500, "malformed RSeq")
        if self._last is not None and rseq != self._last + 1:
            return None
        self._last = rseq
        number, method = response.cseq
        return RAck(rseq, number, method)
