"""The trust domain of the CSCF: who may assert identities, what is taken from those who may not (RFC 3325 3, T7)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from signalling.sip.message import SipRequest

ASSERTED_HEADERS = (
    "P-Asserted-Identity",
    "P-Preferred-Identity",
    "P-Asserted-Service",
    "P-Served-User",
    "P-Called-Party-ID",
    "P-Charging-Vector",
    "P-Charging-Function-Addresses",
    "P-Visited-Network-ID",
    "P-Access-Network-Info",
    "P-Associated-URI",
    "Feature-Caps",
    "History-Info",
    "Resource-Priority",
)
"""Headers that mean something only inside the trust domain (RFC 3325 5, 7315 4, 5502 8, 6050 4, 6809 4.2)."""

REGISTRATION_TYPES = frozenset({"PCSCF", "ICSCF"})
"""NF types on the way of a REGISTER (TS 24.229 5.2.2, 5.3.1); no application server sends one for a user."""


@dataclass(frozen=True)
class Peer:
    """The neighbour a request came from; ``nf_types`` and ``instance_id`` are from its certificate, if it has one."""

    trusted: bool
    nf_types: tuple[str, ...] = ()
    instance_id: str = ""


UNTRUSTED = Peer(trusted=False)


def peer_of_certificate(nf_types: Collection[str], instance_id: str, trusted_types: Collection[str]) -> Peer:
    """Judge a neighbour by the NF types its certificate of the lab CA states (testbed rule)."""
    return Peer(any(nf_type in trusted_types for nf_type in nf_types), tuple(nf_types), instance_id)


def peer_of_address(host: str, trusted_peers: Collection[str]) -> Peer:
    """Judge a neighbour by its source address, where Mw is TCP without certificates (testbed rule)."""
    return Peer(host in trusted_peers)


def may_bring_register(peer: Peer) -> bool:
    """Say whether a REGISTER of this neighbour counts: ``integrity-protected`` in it may stand for a challenge.

    Where Mw has no certificates every trusted address counts (testbed rule).
    """
    return peer.trusted and (not peer.nf_types or not REGISTRATION_TYPES.isdisjoint(peer.nf_types))


def strip_asserted(request: SipRequest) -> list[str]:
    """Take out what only the trust domain may say; returns the names of the headers removed (RFC 3325 5, T7)."""
    found = [name for name in ASSERTED_HEADERS if name in request.headers]
    for name in found:
        request.headers.remove(name)
    return found
