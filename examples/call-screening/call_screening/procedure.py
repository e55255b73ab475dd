"""What call-screening decides: pure functions, tested without a node."""

from collections.abc import Iterable

from signalling import Refusal, SessionCase


def is_listed(identity: str, listed: Iterable[str]) -> bool:
    """Tell whether an identity is one of those listed, or of a domain listed as `*@domain`."""
    _, at, domain = identity.rpartition("@")
    return any(entry == identity or (bool(at) and entry == f"*@{domain}") for entry in listed)


def screen(
    case: SessionCase,
    callers: Iterable[str],
    target: str,
    refused_callers: Iterable[str],
    barred_targets: Iterable[str],
) -> Refusal | None:
    """Decide about a call: 403 for a target that is barred, 603 to a caller that the served user does not want.

    `callers` are the asserted identities of the caller (RFC 3325).
    """
    if case is SessionCase.ORIGINATING:
        return Refusal(403, "Target Barred") if is_listed(target, barred_targets) else None
    refused = tuple(refused_callers)
    return Refusal(603, "Caller Refused") if any(is_listed(caller, refused) for caller in callers) else None
