"""What a node's refusal means to the person at the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

import grpc

from lab.control import ControlError
from sba.errors import RemoteProblem

_SILENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_MISUSED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})


MEANINGS = {
    "kms-refused": "a KMS refused: it lets this user ask for no such ticket, or the one who was called resolve none"
    " (imslab kms audit)",
    "kms-unreachable": "a KMS or the BSF behind it did not answer, or could not reach the KMS that issued the ticket",
    "mikey-invalid": "a MIKEY message failed its checks: altered on the way, replayed, too old, or not for this user",
    "responder-not-allowed": "somebody answered whom the ticket does not name or the caller's policy does not take",
    "suite-too-strong": "the suite asked for needs longer keys than the MIKEY profile protects (RFC 6043 12.1)",
    "e2ae-not-announced": "media security to the access edge was asked for and not agreed at registration",
    "profile-refused": "the media offered has no protection that the called user's policy takes",
    "downgrade-refused": "the answer was less protected than the offer",
}
"""What the words of a media-sec Warning mean (testbed: the UEs of this lab set them)."""
_TOKEN = re.compile(r"\b(" + "|".join(MEANINGS) + r")\b")


def meaning(reason: str) -> str:
    """Return what the first word of ``reason`` that this lab knows means, empty without one."""
    found = _TOKEN.search(reason)
    return MEANINGS[found[1]] if found else ""


def explain(user: str, problem: RemoteProblem, names: Mapping[str, str] | None = None) -> str:
    """Say why the UE of ``user`` did not do it; ``names`` says what the caller calls a parameter."""
    if problem.code in _SILENT:
        return f"the UE {user} does not answer"
    details = problem.problem
    if details is None:
        return f"the UE {user} refused: {problem}"
    faults = [f"{(names or {}).get(fault.param, fault.param)}: {fault.reason}" for fault in details.invalid_params]
    said = "; ".join(faults) or details.detail or details.cause or str(problem)
    return said if problem.code in _MISUSED else f"the UE {user} refused: {said}"


def refusal(user: str, problem: RemoteProblem, names: Mapping[str, str] | None = None) -> ControlError:
    """Return the error to raise for ``problem``: wrong usage where the UE could make nothing of what was asked."""
    return ControlError(explain(user, problem, names), "usage" if problem.code in _MISUSED else "failed")
