"""The border of the trust domain: headers that mean something inside it alone (TS 24.229 4.4; RFC 3325 5, 7315 4)."""

from __future__ import annotations

from typing import Final

from signalling.sip.message import SipMessage

PRIVATE_PREFIX: Final = "p-imslab-"
"""Headers of this testbed, between its nodes only."""
NEVER_FROM_UE: Final = frozenset(
    {
        "p-asserted-identity", "p-asserted-service", "p-associated-uri", "p-called-party-id", "p-charging-vector",
        "p-charging-function-addresses", "p-private-network-indication", "p-profile-key", "p-served-user",
        "p-user-database", "p-visited-network-id", "attestation-info", "diversion", "feature-caps", "history-info",
        "origination-id", "path", "record-route", "relayed-charge", "remote-party-id", "resource-priority",
        "response-source", "restoration-info", "service-interact-info", "service-route",
    }
)  # fmt: skip
"""What a UE may not say on its way into the trust domain (HOP-5): assertions, charging, routing of the network."""
NEVER_TO_UE: Final = frozenset(
    {
        "p-charging-vector", "p-charging-function-addresses", "p-private-network-indication", "p-profile-key",
        "p-served-user", "p-user-database", "p-visited-network-id", "relayed-charge", "restoration-info",
        "service-interact-info",
    }
)  # fmt: skip


def take_from_ue(message: SipMessage) -> None:
    """Delete what only the trust domain may say from a message of a UE."""
    _remove(message, NEVER_FROM_UE)


def hide_from_ue(message: SipMessage) -> None:
    """Remove what stays inside the trust domain (RFC 7315 4.5, 4.6.2)."""
    _remove(message, NEVER_TO_UE)


def _remove(message: SipMessage, names: frozenset[str]) -> None:
    found = {one.key for one in message.headers if one.key in names or one.key.startswith(PRIVATE_PREFIX)}
    for name in found:
        message.headers.remove(name)
