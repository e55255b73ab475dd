"""Initial filter criteria: which application server sees a request next (TS 23.218 6.4, TS 24.229 5.4.3.2; assumed).

The criteria are data from the HSS; ``next_server`` walks them in priority order from where the request stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from signalling.sip.message import SipRequest


class SessionCase(Enum):
    """Which leg of which kind of user a request is on."""

    ORIGINATING = "orig"
    TERMINATING = "term"
    ORIGINATING_UNREGISTERED = "orig-unreg"
    TERMINATING_UNREGISTERED = "term-unreg"

    @property
    def served_user_parameters(self) -> str:
        """Parameters of P-Served-User for this case (RFC 5502 6)."""
        case, _, unregistered = self.value.partition("-")
        return f"sescase={case};regstate={'unreg' if unregistered else 'reg'}"


@dataclass(frozen=True)
class TriggerPoint:
    """A service point trigger; an empty field matches anything."""

    method: str = ""
    session_case: str = ""
    header: str = ""
    header_pattern: str = ""


@dataclass(frozen=True)
class FilterCriterion:
    """Triggers of which any may match, and the server they lead to; lower ``priority`` first."""

    priority: int
    server_uri: str
    triggers: tuple[TriggerPoint, ...] = ()
    terminate_on_failure: bool = False


@dataclass(frozen=True)
class ServerHop:
    """The next application server: its URI, its place among the criteria, and what to do when it fails."""

    server_uri: str
    index: int
    terminate_on_failure: bool


MAX_PATTERN_INPUT = 2048
"""Octets of a header value that a trigger's pattern is tried on (assumed)."""


def matches(trigger: TriggerPoint, request: SipRequest, case: SessionCase) -> bool:
    """Say whether a request on the given leg meets a trigger."""
    if trigger.method and trigger.method != request.method:
        return False
    if trigger.session_case and trigger.session_case != case.value:
        return False
    if not trigger.header:
        return True
    values = request.headers.get_all(trigger.header)
    if not trigger.header_pattern:
        return bool(values)
    pattern = re.compile(trigger.header_pattern)
    return any(pattern.search(value[:MAX_PATTERN_INPUT]) for value in values)


def next_server(
    criteria: Sequence[FilterCriterion], request: SipRequest, case: SessionCase, start: int = 0
) -> ServerHop | None:
    """Find the first criterion from ``start`` on that the request meets, in ascending priority; None: go on routing.

    A criterion without triggers always matches.
    """
    for index, criterion in enumerate(ordered(criteria)):
        if index < start:
            continue
        if not criterion.triggers or any(matches(trigger, request, case) for trigger in criterion.triggers):
            return ServerHop(criterion.server_uri, index, criterion.terminate_on_failure)
    return None


def ordered(criteria: Iterable[FilterCriterion]) -> list[FilterCriterion]:
    """Criteria in the order they are walked."""
    return sorted(criteria, key=lambda criterion: criterion.priority)


def continues_after_failure(status: int | None, hop: ServerHop, *, provisional_seen: bool) -> bool:
    """Default handling: go on without a server that is silent (None) or answers 408 or 5xx before any provisional."""
    if hop.terminate_on_failure or provisional_seen:
        return False
    return status is None or status == 408 or 500 <= status < 600
