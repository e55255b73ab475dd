"""What a node's refusal means to the person at the command line."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from lab.control import ControlError
from sba.errors import RemoteProblem

_SILENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_MISUSED = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})


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
