"""What a node's refusal means to the person at the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

import grpc

from lab.control import ControlError
from lab.ticket_words import error_meaning
from sba.errors import RemoteProblem

_SILENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_NOT_FOUND = "TARGET_NF_NOT_REACHABLE"
"""Cause of our own client where the NRF names nobody to ask: it has not heard of the node for a while, or never."""
_MISUSED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})


MEANINGS = {
    "kms-refused": "a KMS refused: it lets this user ask for no such ticket, or the one who was called resolve none"
    " (imslab kms audit)",
    "kms-unreachable": "a KMS or the BSF behind it did not answer, or could not reach the KMS that issued the ticket",
    "mikey-invalid": "a MIKEY message failed its checks: altered on the way, replayed, too old, or not for this user",
    "responder-not-allowed": "somebody answered whom the ticket does not name or the caller's policy does not take",
    "mode-unknown": "the security mode asked for is none that this user has (extensions.security_modes of the lab"
    " description)",
    "suite-too-strong": "the suite asked for needs longer keys than the MIKEY profile protects (RFC 6043 12.1)",
    "e2ae-not-announced": "media security to the access edge was asked for and not agreed at registration",
    "profile-refused": "the media offered has no protection that the called user's policy takes",
    "protection-required": "media without protection, or without a key for it, was asked for or offered where policy,"
    " or the profile offered, needs it",
    "downgrade-refused": "media would be less protected than it was offered or has been so far, or than policy takes",
}
"""What the words of a media-sec Warning mean (testbed: the UEs of this lab set them)."""
_TOKEN = re.compile(r"\b(" + "|".join(MEANINGS) + r")\b")


_WORD = re.compile(r"\bmedia-sec:([a-z][a-z0-9-]*)")


def meaning(reason: str, more: Mapping[str, str] | None = None) -> str:
    """Return what the first word of ``reason`` that this lab knows means, empty without one.

    ``more`` are words of security modes that packages brought, with their meanings; they replace none of the lab's own.
    """
    said = _WORD.search(reason)
    if said and said[1] not in MEANINGS and more and said[1] in more:
        return more[said[1]]
    found = _TOKEN.search(reason)
    return MEANINGS[found[1]] if found else ""


_IN_VAIN = "KMS_UNREACHABLE"
"""Cause of a UE that did answer: it asked its KMS, or the BSF for a key to ask with, and had no answer."""
_NAMED_TWICE = re.compile(r"^(\S+): (?:[a-z]+: )?(\1\b.*)$")
"""What a UE says of an HTTPS server: its name, the kind of fault, and a sentence that begins with the name again."""
_WAITS = re.compile(r"^the KMS answered 50[234]$")


def explain(user: str, problem: RemoteProblem, names: Mapping[str, str] | None = None) -> str:
    """Say why the UE of ``user`` did not do it; ``names`` says what the caller calls a parameter."""
    details = problem.problem
    if _is_silent(problem):
        return f"{_silent(problem) or f'the UE {user}'} does not answer"
    if details is None:
        return f"the UE {user} refused: {problem}"
    if details.cause == _IN_VAIN:
        return f"the UE {user} asked in vain: {_in_vain(details.detail)}"
    faults = [f"{(names or {}).get(fault.param, fault.param)}: {fault.reason}" for fault in details.invalid_params]
    said = "; ".join(faults) or details.detail or details.cause or str(problem)
    return said if problem.code in _MISUSED else f"the UE {user} refused: {said}"


def _is_silent(problem: RemoteProblem) -> bool:
    """Tell whether nobody answered, or nobody was there to be asked."""
    if problem.problem is None:
        return problem.code in _SILENT
    return problem.cause == _NOT_FOUND and not problem.instance


def _silent(problem: RemoteProblem) -> str:
    """Name who was silent where that is not the one who was asked in the end: the NRF, asked for it or for a token."""
    return "the NRF" if "nrf_" in problem.method else ""


def _in_vain(detail: str) -> str:
    if _WAITS.match(detail):
        return f"{detail}: it waits for its BSF, or for the KMS of another domain, which does not answer"
    if detail == "no answer in time":
        return "KMS and BSF together gave no answer in time"
    return _NAMED_TWICE.sub(r"\2", detail)


def silent_node(instance: str, problem: RemoteProblem) -> str:
    """Say why a node other than a UE gave no answer, without the words of gRPC."""
    details = problem.problem
    if _is_silent(problem):
        return f"{_silent(problem) or instance} does not answer"
    if details is None:
        return f"{instance} cannot be asked ({problem.code.name.lower().replace('_', ' ')})"
    if details.cause == "NF_DISCOVERY_FAILURE":
        return f"{instance} is not there: the NRF knows no such node (imslab status)"
    return f"{instance} refused: {details.detail or details.cause}"


def refusal(user: str, problem: RemoteProblem, names: Mapping[str, str] | None = None) -> ControlError:
    """Return the error to raise for ``problem``: wrong usage where the UE could make nothing of what was asked."""
    return ControlError(explain(user, problem, names), "usage" if problem.code in _MISUSED else "failed")


def ticket_refusal(
    user: str, problem: RemoteProblem, trace_id: str, names: Mapping[str, str] | None = None
) -> ControlError:
    """Return the error for a ticket that was not had, with cause, meaning and trace for whoever wants to know more."""
    error = refusal(user, problem, names)
    meaning = error_meaning(problem.cause)
    reason = f"{error}: {meaning}" if meaning else str(error)
    answered = problem.problem is not None and problem.cause != _IN_VAIN
    return ControlError(
        reason,
        error.kind,
        {
            "result": "refused" if answered else "failed",
            "cause": problem.cause,
            "reason": reason,
            "trace_id": trace_id,
        },
    )
