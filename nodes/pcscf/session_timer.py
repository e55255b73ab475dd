"""The session timer that the ends of a dialog agreed on, for offers that this node makes in it (RFC 4028)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from nodes.pcscf.media_plan import Side
from nodes.pcscf.mediasec import has_tag
from signalling.sip.grammar import GrammarError, parse_digits, parse_params
from signalling.sip.message import SipMessage, SipRequest, SipResponse

SHORTEST_S: Final = 90
"""Least value of Session-Expires, and Min-SE where nobody named one (RFC 4028 4, 5), s."""
_LONGEST_S: Final = 2**32 - 1
_EARLY_S: Final = 32
"""So long before the end, or a third of the interval, an end that was not refreshed hangs up (RFC 4028 10), s."""
_REFRESHES: Final = ("INVITE", "UPDATE")


@dataclass(slots=True)
class SessionTimer:
    """What the requests and responses that passed through here say of the timer; nothing is asked for from here."""

    interval_s: int = 0
    """0: the session does not expire."""
    refresher: Side | None = None
    """None: not said."""
    least_s: int = 0
    """Largest Min-SE that was heard; 0: none."""
    expires_at: float = 0.0
    """When the session ends for both ends unless it is refreshed, Unix time, s."""
    speakers: set[Side] = field(default_factory=set)
    """Sides that said that they know session timers."""
    answered: dict[tuple[Side, str], int] = field(default_factory=dict)
    """CSeq of the last refresh that each side answered, by method: an answer may be repeated, also after others."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON form for the store."""
        return {
            "interval_s": self.interval_s,
            "refresher": str(self.refresher) if self.refresher else "",
            "least_s": self.least_s,
            "expires_at": self.expires_at,
            "speakers": sorted(map(str, self.speakers)),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> SessionTimer:
        """The inverse of `to_dict`; the timer of a dialog stored without one is none."""
        return cls(
            int(stored.get("interval_s", 0)),
            Side(stored["refresher"]) if stored.get("refresher") else None,
            int(stored.get("least_s", 0)),
            float(stored.get("expires_at", 0.0)),
            {Side(side) for side in stored.get("speakers", ())},
        )

    def request_seen(self, request: SipRequest, sender: Side) -> None:
        """Follow a request of `sender`: whether it knows session timers, and Min-SE (RFC 4028 7.1, 7.4)."""
        if request.method in _REFRESHES:
            self._heard(request, sender)
            self.raised(request)

    def response_seen(self, request: SipRequest, response: SipResponse, sender: Side, now: float) -> None:
        """Follow the first final response of `sender` to a request of the other side (RFC 4028 7.2, 9).

        A 2xx without Session-Expires ends the timer, but for one who asked for it and refreshes for itself alone.
        """
        if request.method not in _REFRESHES or response.status < 200:
            return
        number, method = request.cseq
        if number <= self.answered.get((sender, method), -1):
            return
        self.answered[sender, method] = number
        if response.status >= 300:
            self.raised(response)
            return
        self._heard(response, sender)
        self.interval_s, role = _session_expires(response)
        self.refresher = {"uac": sender.other, "uas": sender}.get(role)
        if not self.interval_s and has_tag(request, "Supported", "timer"):
            self.interval_s, self.refresher = _session_expires(request)[0], sender.other
        self.expires_at = now + self.interval_s

    def raised(self, message: SipMessage) -> bool:
        """Take the Min-SE of a request of the dialog, or of a 422; whether it is more than was asked for before."""
        if isinstance(message, SipResponse) and message.status != 422:
            return False
        value = (message.headers.get("Min-SE") or "").partition(";")[0].strip(" \t")
        least_s = parse_digits(value, _LONGEST_S) or 0
        more = least_s > max(self.least_s, SHORTEST_S)
        self.least_s = max(self.least_s, least_s)
        return more

    def headers(self, sender: Side, now: float) -> list[tuple[str, str]]:
        """What an INVITE of this node in the name of `sender` says, so that the timer stays as it is (RFC 4028 7.4).

        Who refreshes is named as seen from this INVITE, in which `sender` is the UAC. It is left out where the request
        may not name it, `sender` knowing no session timers: then the UAS refreshes (RFC 4028 9, table 2).

        A UAS that refreshes counts from this INVITE on, of which the far end hears nothing. Where its next refresh,
        after half of the interval, would come too late for the far end, the interval is shorter.
        """
        if not self.interval_s:
            return []
        floor = max(SHORTEST_S, self.least_s)
        interval_s = max(floor, self.interval_s)
        if sender is not self.refresher:
            left_s = self.expires_at - now - min(_EARLY_S, self.interval_s / 3)
            interval_s = max(floor, min(interval_s, int(2 * left_s)))
        found = [("Session-Expires", str(interval_s))]
        if self.refresher is not None and sender in (self.refresher, *self.speakers):
            role = "uac" if self.refresher is sender else "uas"
            found = [("Supported", "timer"), ("Session-Expires", f"{interval_s};refresher={role}")]
        if self.least_s:
            found.append(("Min-SE", str(floor)))
        return found

    def _heard(self, message: SipMessage, sender: Side) -> None:
        if has_tag(message, "Supported", "timer"):
            self.speakers.add(sender)


def _session_expires(message: SipMessage) -> tuple[int, str]:
    """Interval, s, and refresher as it is written; 0 and empty where there is none, or none that can be read."""
    value, _, rest = (message.headers.get("Session-Expires") or "").partition(";")
    try:
        role = parse_params(rest).get("refresher") or ""
    except GrammarError:
        role = ""
    return parse_digits(value.strip(" \t"), _LONGEST_S) or 0, role.lower()
