"""Who may send an offer or an answer, and in which message, within one dialog (RFC 3264 4, 3311 5, 3262 5, 6337 2-3).

The engine looks at carriers (methods and status codes) only; what the SDP says is checked elsewhere.
"""

from __future__ import annotations

import random
from enum import Enum

RETRY_AFTER_MOST = 10
"""Largest Retry-After of a 500 to an early UPDATE, seconds (RFC 3311 5.2)."""


class Carrier(Enum):
    """The message a session description stands in; answers to a request name the request too."""

    INVITE = "INVITE"
    PROVISIONAL = "unreliable 1xx"
    RELIABLE_PROVISIONAL = "reliable 1xx"
    SUCCESS = "2xx to INVITE"
    ACK = "ACK"
    PRACK = "PRACK"
    PRACK_SUCCESS = "200 to PRACK"
    UPDATE = "UPDATE"
    UPDATE_SUCCESS = "200 to UPDATE"


class Exchange(Enum):
    """The state of the offer/answer exchange."""

    IDLE = "idle"
    OFFER_SENT = "offer sent"
    OFFER_RECEIVED = "offer received"
    ANSWER_PREVIEWED = "answer in an unreliable 1xx"


class OfferAnswerError(Exception):
    """An offer or answer out of place; ``status`` is what to answer, ``retry_after`` seconds for a 500."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


_OFFER_CARRIERS = frozenset(
    {Carrier.INVITE, Carrier.RELIABLE_PROVISIONAL, Carrier.SUCCESS, Carrier.PRACK, Carrier.UPDATE}
)
_ANSWERS: dict[Carrier, frozenset[Carrier]] = {
    Carrier.INVITE: frozenset({Carrier.PROVISIONAL, Carrier.RELIABLE_PROVISIONAL, Carrier.SUCCESS}),
    Carrier.RELIABLE_PROVISIONAL: frozenset({Carrier.PRACK}),
    Carrier.SUCCESS: frozenset({Carrier.ACK}),
    Carrier.PRACK: frozenset({Carrier.PRACK_SUCCESS}),
    Carrier.UPDATE: frozenset({Carrier.UPDATE_SUCCESS}),
}
"""The six patterns of RFC 6337 2.2 table 1: offer carrier -> answer carriers."""


class OfferAnswer:
    """The exchange of one dialog as one side sees it; also counts the INVITEs that make glare.

    Every method raises OfferAnswerError and changes nothing when the step is not allowed.
    """

    def __init__(self, random_source: random.Random | None = None) -> None:
        self.state = Exchange.IDLE
        self.offer_carrier: Carrier | None = None
        self.completed = 0
        """Exchanges completed so far."""
        self.rejected = 0
        self._random = random_source or random.SystemRandom()
        self._preview_sent = False
        self._own_invite = False
        self._peer_invite = False
        self._had_reliable_answer = False

    @property
    def established(self) -> bool:
        """True when at least one exchange is complete."""
        return self.completed > 0

    @property
    def pending(self) -> bool:
        """True while an offer waits for its answer."""
        return self.state is not Exchange.IDLE

    def sent_offer(self, carrier: Carrier) -> None:
        """Take note of an own offer; 491 while any offer is open (the caller must wait)."""
        self._check_offer(carrier)
        if self.pending:
            raise OfferAnswerError(491, "an offer is open")
        self.state, self.offer_carrier = Exchange.OFFER_SENT, carrier

    def received_offer(self, carrier: Carrier) -> None:
        """Take note of the peer's offer: 491 when an own one is open, 500 when the peer's last is unanswered."""
        self._check_offer(carrier)
        if self.state is Exchange.OFFER_SENT or (self.state is Exchange.ANSWER_PREVIEWED and not self._preview_sent):
            raise OfferAnswerError(491, "own offer is open")
        if self.pending:
            raise self._busy("offer unanswered")
        self.state, self.offer_carrier = Exchange.OFFER_RECEIVED, carrier

    def sent_answer(self, carrier: Carrier) -> None:
        """Take note of an own answer; in an unreliable 1xx it only previews the real one (RFC 6337 3.1.1)."""
        self._answer(Exchange.OFFER_RECEIVED, carrier, sent=True)

    def received_answer(self, carrier: Carrier) -> bool:
        """Take note of the peer's answer; False for an SDP that must be ignored.

        The first SDP of an INVITE's responses counts; repetitions in later ones are ignored (RFC 3261 13.2.1,
        RFC 6337 3.1.1), and a reliable response then completes the exchange.
        """
        repeats = {Carrier.PROVISIONAL, Carrier.RELIABLE_PROVISIONAL, Carrier.SUCCESS}
        if carrier in repeats and self.state is Exchange.IDLE and self._had_reliable_answer:
            return False
        first = self.state is not Exchange.ANSWER_PREVIEWED
        self._answer(Exchange.OFFER_SENT, carrier, sent=False)
        return first

    def _check_offer(self, carrier: Carrier) -> None:
        if carrier not in _OFFER_CARRIERS:
            raise OfferAnswerError(400, f"no offer in {carrier.value}")
        if carrier is Carrier.UPDATE and not self.established:
            raise OfferAnswerError(491 if self.state is Exchange.OFFER_SENT else 500, "first exchange not complete")

    def _answer(self, expected: Exchange, carrier: Carrier, *, sent: bool) -> None:
        previewed = self.state is Exchange.ANSWER_PREVIEWED and self._preview_sent is sent
        if self.state is not expected and not previewed:
            raise OfferAnswerError(400, "answer without offer")
        if self.offer_carrier is None or carrier not in _ANSWERS[self.offer_carrier]:
            raise OfferAnswerError(400, f"no answer in {carrier.value}")
        if carrier is Carrier.PROVISIONAL:
            self.state, self._preview_sent = Exchange.ANSWER_PREVIEWED, sent
            return
        self._had_reliable_answer = self.offer_carrier is Carrier.INVITE
        self.completed += 1
        self._close()

    def rejected_offer(self) -> None:
        """Take note that the open offer was refused (non-2xx): the session stays as before (RFC 3261 14.1)."""
        if self.pending:
            self.rejected += 1
        self._close()

    def _close(self) -> None:
        self.state, self.offer_carrier, self._preview_sent = Exchange.IDLE, None, False

    # glare between INVITEs and UPDATEs

    def start_invite(self) -> None:
        """Take note of an own re-INVITE; 491 while any INVITE is in progress on the dialog (RFC 3261 14.1)."""
        if self._own_invite or self._peer_invite:
            raise OfferAnswerError(491, "an INVITE is in progress")
        self._own_invite = True
        self._had_reliable_answer = False

    def received_invite(self) -> None:
        """Take the peer's re-INVITE: 491 against an own one, 500 while its last is unanswered (RFC 3261 14.2)."""
        if self._own_invite:
            raise OfferAnswerError(491, "own INVITE in progress")
        if self._peer_invite:
            raise self._busy("INVITE in progress")
        if self.state is Exchange.OFFER_SENT:
            raise OfferAnswerError(491, "own offer is open")
        self._peer_invite = True
        self._had_reliable_answer = False

    def end_own_invite(self) -> None:
        """Take note of the final response to an own INVITE."""
        self._own_invite = False

    def end_peer_invite(self) -> None:
        """Take note of the end of the peer's INVITE: the ACK, or an own failure response."""
        self._peer_invite = False

    def retry_delay(self, *, owns_call_id: bool) -> float:
        """Return how long to wait after 491, seconds in steps of 10 ms (RFC 3261 14.1)."""
        low, high = (210, 400) if owns_call_id else (0, 200)
        return self._random.randint(low, high) / 100

    def _busy(self, reason: str) -> OfferAnswerError:
        return OfferAnswerError(500, reason, self._random.randint(0, RETRY_AFTER_MOST))
