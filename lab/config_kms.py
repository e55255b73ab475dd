"""The part of the lab description about key management services and the tickets they issue."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lab.config_types import Entry, MediaSecurityPolicy

MAX_VALIDITY_S = 365 * 86_400
"""Longest validity a user may want for a ticket, seconds."""


class KmsPolicy(Entry):
    """What a user's own UE does about end-to-end keys of the KMS (TS 33.328 6.2.3.3, assumed)."""

    level: MediaSecurityPolicy = "preferred"
    """off: never; preferred: where the call asks for it; required: no call without."""
    reusable: bool = False
    """Ask for tickets that serve several calls."""
    forking: bool = True
    """Ask for keys that differ with everyone who answers."""
    validity_s: Annotated[int, Field(ge=1, le=MAX_VALIDITY_S)] = 3600
    """How long a ticket is to be valid, seconds."""
    allow_diverted: bool = False
    """Accept that somebody else answers than who was called."""
    fallback: bool = False
    """Call without KMS keys where they cannot be had."""


class KmsSection(Entry):
    """What the key management services of the lab share."""

    static_psk: bool = False
    """Users share keys with their KMS that the lab made instead of bootstrapping them (GBA): for labs without a BSF."""
