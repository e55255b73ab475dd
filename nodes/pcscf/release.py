"""Ending sessions from here: BYE both ways, CANCEL, and the media given back (HOP-7, PS-12, SEC-2, DR-6)."""

from __future__ import annotations

from nodes.pcscf.dialogs import EdgeDialog
from nodes.pcscf.edge import MW, Edge
from nodes.pcscf.media_plan import Side
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.session import Session
from signalling.sip.flow import Hop, TransactionFailure
from signalling.sip.grammar import GrammarError
from signalling.sip.message import SipRequest, SipResponse

MEDIA_SECURITY = 'SIP;cause=488;text="media security"'
MEDIA_LOST = 'SIP;cause=503;text="media gateway lost the session"'
MEDIA_SILENT = 'SIP;cause=480;text="no media"'
DEREGISTERED = 'SIP;cause=480;text="deregistered"'
KEYS_LOST = 'SIP;cause=488;text="media keys lost"'
UE_LOST = 'SIP;cause=480;text="user not reachable"'


class Releaser:
    """Releases sessions of one edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def finish(self, session: Session, *, normal: bool = True) -> None:
        """The session is over on the SIP side: give the media back and forget it."""
        if session.ended:
            return
        session.ended = True
        await session.media.release(normal=normal)
        await self._edge.sessions.remove(session)

    async def release(self, session: Session, reason: str, *, spare: Side | None = None) -> None:
        """End a session that goes on elsewhere: BYE to both sides but `spare`, CANCEL what is not answered yet."""
        if session.ended:
            return
        if session.invite is not None and not session.invite.done.done():
            session.invite.cancel(reason)
            session.invite.refuse(RejectionError(503, "Service Unavailable", [("Retry-After", "5")]))
        for dialog in session.dialogs.values():
            if dialog.confirmed and not dialog.ended:
                dialog.ended = True
                for side in Side:
                    if side is not spare:
                        self.send_bye(session, dialog, side, reason)
        await self.finish(session, normal=False)

    def refuse_answered(self, session: Session, dialog: EdgeDialog, reason: str) -> None:
        """The callee answered 2xx with something that cannot be passed on: acknowledge it and hang up on it alone."""
        callee = dialog.caller.other
        dialog.ended = True
        self._send(session, dialog.ack(callee), callee, acknowledge=True)
        self.send_bye(session, dialog, callee, reason)

    def send_bye(self, session: Session, dialog: EdgeDialog, towards: Side, reason: str) -> None:
        """BYE to one side, in the other's name."""
        self._send(session, dialog.bye(towards, reason), towards)

    def _send(self, session: Session, request: SipRequest, towards: Side, *, acknowledge: bool = False) -> None:
        try:
            hop, role = self.way(session, request, towards)
            if acknowledge:
                self._edge.stack.send_ack(request, hop, role)
            else:
                self._edge.stack.send(request, hop, role=role, on_response=_ignore_response, on_failure=_ignore_failure)
        except (RejectionError, GrammarError):
            return  # nobody there any more, or what the other side said of itself makes no request

    def way(self, session: Session, request: SipRequest, towards: Side) -> tuple[Hop, str]:
        """Hop and role for a request of a session that carries the route set of its dialog.

        Raises RejectionError: 430 when the UE's connection is gone, 403 when the way leads to no neighbour on Mw.
        """
        if towards is Side.ACCESS:
            return self.way_to_ue(session)
        registration = self._edge.bindings.get(session.registration)
        return self._edge.towards_core(request, registration, stored_route=True), MW

    def way_to_ue(self, session: Session) -> tuple[Hop, str]:
        """Hop and role for a request to the UE of a session. Raises RejectionError 430 when its connection is gone."""
        registration = self._edge.bindings.get(session.registration)
        if registration is not None and self._edge.bindings.alive(registration):
            try:
                return self._edge.towards_ue(registration)
            except RejectionError:
                if session.flow == registration.flow:
                    raise
        return self._edge.flows.hop(session.flow), session.role


def _ignore_response(response: SipResponse) -> None:
    del response


def _ignore_failure(failure: TransactionFailure) -> None:
    del failure
