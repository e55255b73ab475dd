"""Which response a proxy passes on when all branches have ended (RFC 3261 16.7 step 6, RFC 4320 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from signalling.sip.model import SipRequest, SipResponse
from signalling.sip.responses import make_response

_PREFERRED = (401, 407, 415, 420, 484)
"""4xx that tell the caller how to try again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The end of one branch; ``local``: made up here because the branch failed, for the ``cause``."""

    response: SipResponse
    local: bool
    cause: str = ""
    swallowed: bool = False


def best_response(request: SipRequest, candidates: Sequence[Candidate], node: str) -> SipResponse | None:
    """Return what goes upstream: a 6xx if any, else from the lowest class; None: nothing goes.

    A timeout of a non-INVITE is never answered 408 (RFC 4320 4.2). A 503 becomes 500 (RFC 3261 16.7); with 401
    and 407 all challenges are joined.
    """
    usable = [one for one in candidates if not one.swallowed]
    if not usable:
        return None
    best = min(usable, key=_rank)
    response = best.response
    if best.local and response.status == 408 and request.method != "INVITE":
        return None
    if response.status == 503:
        detail = "next hop unreachable" if best.local else "next hop overloaded"
        response = make_response(request, 500, headers=[("Warning", f'399 {node} "{detail}"')])
    if response.status in (401, 407):
        response = _with_all_challenges(response, usable)
    return response


def _rank(candidate: Candidate) -> tuple[int, int, int]:
    status = candidate.response.status
    if status >= 600:
        return 0, 0, status
    preferred = 0 if status in _PREFERRED else 1
    if status == 503:
        preferred = 2
    return status // 100, preferred + (1 if candidate.local else 0), status


def _with_all_challenges(response: SipResponse, candidates: Sequence[Candidate]) -> SipResponse:
    joined = response.copy()
    for one in candidates:
        if one.response is response or one.response.status not in (401, 407):
            continue
        for name in ("WWW-Authenticate", "Proxy-Authenticate"):
            for value in one.response.headers.get_all(name):
                joined.headers.add(name, value)
    return joined
