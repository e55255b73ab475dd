"""New keys for a UE whose IMS-AGW lost them: a re-INVITE from here, of which the core hears nothing (TS 33.328 7.4).

The gateway says so with `rekey_needed` (its data plane died, and ROC and replay windows with it). Until it has new keys
of both ends the protected streams are dark; a call that cannot be given any is released with the reason.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from nodes.pcscf.dialogs import EdgeDialog
from nodes.pcscf.edge import Edge
from nodes.pcscf.media_plan import Side
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.release import KEYS_LOST, UE_LOST, Releaser
from nodes.pcscf.session import Session
from nodes.pcscf.session_media import AnswerFaultError
from sba import runtime
from sba.telemetry import within
from signalling.sip.flow import TransactionFailure
from signalling.sip.grammar import parse_digits
from signalling.sip.message import SipRequest, SipResponse

ATTEMPTS: Final = 6
"""Offers made before a call is given up."""
BUSY_TRIES: Final = 100
BUSY_PAUSE_S: Final = 0.1
"""Pause while another offer is under way in the session, or its UE is not connected, s."""
ANSWER_S: Final = 8.0
"""Longest wait for the UE's answer: nobody is asked there, a phone answers by itself (testbed choice), s."""
AT_ONCE: Final = 32
"""Calls for which a gateway is asked for keys at the same moment: it may want them for all that it has."""
REST_S: Final = 1.0
"""Least time between two rounds for one call, however often a gateway asks (testbed choice), s."""
_GONE: Final = frozenset({408, 430, 481})

Log = Callable[..., None]


class Outcome(Enum):
    """What came of one attempt."""

    DONE = auto()
    AGAIN = auto()
    """Another offer is under way at one of the ends."""
    OVER = auto()
    """The session ended meanwhile, or was released."""


@dataclass(slots=True)
class _Offer:
    """An INVITE of this node in a dialog, and its ACK once that was sent."""

    dialog: EdgeDialog
    invite: SipRequest
    ack: SipRequest | None = None


class Rekeying:
    """Gives sessions new keys, each in a task of its own. `log` is told what came of it."""

    def __init__(self, edge: Edge, releaser: Releaser, log: Log) -> None:
        self._edge = edge
        self._releaser = releaser
        self._log = log
        self._wanted: set[str] = set()
        self._running: dict[str, asyncio.Future[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._random = random.SystemRandom()

    def begin(self, session: Session) -> None:
        """Give a session new keys; once more when this is asked while it is done."""
        self._wanted.add(session.id)
        if session.id in self._running:
            return
        self._running[session.id] = runtime.spawn(self._serve(session))

    def stop(self) -> None:
        """Let go."""
        for task in list(self._running.values()):
            task.cancel()

    async def _serve(self, session: Session) -> None:
        try:
            with within(self._edge.tracer.context_of_call(session.call_id)):
                while session.id in self._wanted:
                    self._wanted.discard(session.id)
                    await self._rekey(session)
                    if not session.ended:
                        await asyncio.sleep(REST_S)
        except Exception as fault:
            self._log("media.rekey-fault", level="error", call_id=session.call_id, fault=type(fault).__name__)
            async with session.lock:
                await self._fail(session, KEYS_LOST, "a fault")
            raise
        finally:
            self._running.pop(session.id, None)
            self._wanted.discard(session.id)

    async def _rekey(self, session: Session) -> None:
        began = time.monotonic()
        for attempt in range(ATTEMPTS):
            outcome, pause_s = await self._attempt(session)
            if outcome is Outcome.DONE:
                took = round(1000 * (time.monotonic() - began))
                self._log("media.rekeyed", call_id=session.call_id, attempts=attempt + 1, milliseconds=took)
            if outcome is not Outcome.AGAIN:
                return
            await asyncio.sleep(pause_s)
        async with session.lock:
            await self._fail(session, KEYS_LOST, "another offer was under way every time")

    async def _attempt(self, session: Session) -> tuple[Outcome, float]:
        """Make one offer; returns what came of it and when to try again, s."""
        made = await self._offer(session)
        if isinstance(made, Outcome):
            return made, 0.0
        answer = await self._ask(session, made)
        async with session.lock:
            if answer is None or answer.status >= 300:
                return await self._refused(session, made.dialog, answer)
            return await self._answered(session, made, answer), 0.0

    async def _offer(self, session: Session) -> _Offer | Outcome:
        """Make an offer once there is nothing in its way.

        A UE without connection has as long to come back: every UE is, when this node was just started again.
        """
        away = False
        for _ in range(BUSY_TRIES):
            async with session.lock:
                confirmed = [one for one in session.dialogs.values() if one.confirmed]
                dialog = next((one for one in confirmed if not one.ended), None)
                if session.ended or (confirmed and dialog is None):
                    return Outcome.OVER
                if dialog is None:  # a new call is sooner made than this one is mended
                    return await self._fail(session, KEYS_LOST, "the call was not answered yet")
                if not session.media.protected:
                    return Outcome.OVER
                away = not self._connected(session)
                if not away and not session.offering and not session.media.offer_open:
                    return await self._make(session, dialog)
            await asyncio.sleep(BUSY_PAUSE_S)
        async with session.lock:
            if away:
                return await self._fail(session, UE_LOST, "the UE has no connection")
            return await self._fail(session, KEYS_LOST, "another offer never came to its end")

    def _connected(self, session: Session) -> bool:
        try:
            self._releaser.way_to_ue(session)
        except RejectionError:
            return False
        return True

    async def _make(self, session: Session, dialog: EdgeDialog) -> _Offer | Outcome:
        number = dialog.shifted(dialog.cseqs[Side.CORE], Side.ACCESS)
        try:
            async with self._room:
                body = await session.media.rekey_offer(f"rekey {number}")
        except AnswerFaultError as fault:
            return await self._fail(session, KEYS_LOST, fault.refusal.text)
        invite = dialog.reinvite(Side.ACCESS, body, self._edge.now())
        await self._edge.sessions.save(session)
        return _Offer(dialog, invite)

    async def _ask(self, session: Session, offer: _Offer) -> SipResponse | None:
        """Send the INVITE; returns the final response, None when there is nobody.

        A 2xx that comes again is acknowledged again for 64*T1 (RFC 3261 13.2.2.4), but not before the first is: the
        ACK tells the UE that its key is known.
        """
        final: asyncio.Future[SipResponse | None] = asyncio.get_running_loop().create_future()

        def responded(response: SipResponse) -> None:
            if response.status < 200:
                return
            if not final.done():
                final.set_result(response)
            elif response.status < 300 and (offer.ack is not None or final.result() is None):
                self._acknowledge(session, offer)  # it was lost, or the 2xx came too late to matter: owed either way

        def failed(failure: TransactionFailure) -> None:
            del failure
            if not final.done():
                final.set_result(None)

        try:
            hop, role = self._releaser.way(session, offer.invite, Side.ACCESS)
        except RejectionError:
            return None
        txn = self._edge.stack.send(offer.invite, hop, role=role, on_response=responded, on_failure=failed)
        try:
            return await asyncio.wait_for(asyncio.shield(final), ANSWER_S)
        except TimeoutError:
            txn.cancel()
            if not final.done():
                final.set_result(None)
            return None

    def _acknowledge(self, session: Session, offer: _Offer) -> None:
        offer.ack = offer.ack or offer.dialog.ack_of(offer.invite, Side.ACCESS)
        try:
            hop, role = self._releaser.way(session, offer.ack, Side.ACCESS)
        except RejectionError:
            return
        self._edge.stack.send_ack(offer.ack, hop, role)

    async def _answered(self, session: Session, offer: _Offer, answer: SipResponse) -> Outcome:
        """The UE agreed: its key goes to the gateway before the ACK, upon which it sends under that."""
        dialog = offer.dialog
        dialog.response_seen(answer, Side.ACCESS)
        fault = ""
        if not session.ended:
            try:
                await session.media.rekey_answer(answer.body, dialog.tags[dialog.caller.other], session.policy)
            except AnswerFaultError as error:
                fault = error.refusal.text or error.refusal.token
        self._acknowledge(session, offer)
        if session.ended:
            return Outcome.OVER
        if fault:
            return await self._fail(session, KEYS_LOST, fault)
        await self._edge.sessions.save(session)
        return Outcome.DONE

    async def _refused(self, session: Session, dialog: EdgeDialog, answer: SipResponse | None) -> tuple[Outcome, float]:
        """491 and 500 with Retry-After mean later (RFC 3261 14.1, 14.2), 422 the same with more time (RFC 4028 7.3).

        Anything else is an answer for good.
        """
        if session.ended:
            return Outcome.OVER, 0.0
        await session.media.withdraw()
        if answer is None or answer.status in _GONE:
            return await self._fail(session, UE_LOST, "the UE does not answer"), 0.0
        later = parse_digits(re.split("[;( \t]", answer.headers.get("Retry-After") or "", maxsplit=1)[0], 10)
        if answer.status == 491:
            low, high = (210, 400) if session.caller is Side.CORE else (0, 200)  # who made the Call-ID waits longer
            return Outcome.AGAIN, self._random.randint(low, high) / 100
        if dialog.timer.raised(answer):
            return Outcome.AGAIN, 0.0
        if answer.status == 500 and later is not None:
            return Outcome.AGAIN, max(float(later), BUSY_PAUSE_S)
        return await self._fail(session, KEYS_LOST, f"the UE answered {answer.status}"), 0.0

    async def _fail(self, session: Session, reason: str, why: str) -> Outcome:
        """Release the session; an emergency call stays, for what its other streams are worth (EM-11)."""
        if session.ended:
            return Outcome.OVER
        self._log("media.rekey-failed", level="warning", call_id=session.call_id, why=why)
        if not session.emergency:
            await self._releaser.release(session, reason)
        elif session.media.offer_open:
            await session.media.withdraw()
        return Outcome.OVER


__all__ = ["Outcome", "Rekeying"]
