"""How much one user may hold at this edge: sessions, streams, emergency calls. Nobody takes the gateways alone (T7)."""

from __future__ import annotations

from nodes.pcscf.config import PcscfSettings
from nodes.pcscf.media_plan import Side
from nodes.pcscf.rejection import RejectionError, warning
from nodes.pcscf.session import Session, Sessions

RETRY_AFTER_S = "5"


class Admission:
    """Counts what the owners of sessions hold. `told` is the number of sessions the S-CSCF allows, 0 when it said none.

    What a user began and what others began with him count apart, so that nobody can keep a user from calling; and one
    caller lets a user's phone ring a few times at once only, so that nobody alone can keep others from calling him.
    A caller over its limit is answered 403, a callee 486, an emergency call 503 (assumed: TS 24.229 names the limit of
    the profile and no code).
    """

    def __init__(self, settings: PcscfSettings, sessions: Sessions, node: str) -> None:
        self._settings = settings
        self._sessions = sessions
        self._node = node

    def enter(self, session: Session, *, told: int = 0) -> None:
        """Take a new session in, before anything is reserved for it. Raises RejectionError."""
        begun = self._sessions.of_owner(session.owner, session.caller)
        held = len(begun)
        if session.emergency:
            if held >= self._settings.max_emergency_calls:
                raise self._refused(503, "too many emergency calls", ("Retry-After", RETRY_AFTER_S))
        else:
            limits = [limit for limit in (self._settings.max_sessions, told) if limit]
            if limits and held >= min(limits):
                raise self._refused(403 if session.caller is Side.ACCESS else 486, "too many sessions")
            ringing = sum(one.peer == session.peer and one.confirmed is None for one in begun) if session.peer else 0
            if limits and ringing >= self._settings.max_unanswered_per_caller:
                raise self._refused(486, "too many unanswered calls of one caller")
        self._sessions.enter(session)

    def streams(self, session: Session, wanted: int) -> None:
        """Let an offer with `wanted` active streams pass. Raises RejectionError 488."""
        limit = self._settings.max_streams
        begun = self._sessions.of_owner(session.owner, session.caller)
        others = sum(one.media.lines for one in begun if one is not session)
        if limit and wanted > session.media.lines and others + wanted > limit:
            raise self._refused(488, "too many streams")

    def _refused(self, status: int, text: str, *headers: tuple[str, str]) -> RejectionError:
        return RejectionError(status, "", [warning(self._node, text), *headers])
