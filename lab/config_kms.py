"""The part of the lab description about key management services and the tickets they issue."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lab.config_types import Entry

MAX_VALIDITY_S = 365 * 86_400
"""Longest validity of a ticket, seconds."""
ValiditySeconds = Annotated[int, Field(ge=1, le=MAX_VALIDITY_S)]
KmsLevel = Literal["off", "allowed", "preferred", "required"]
_PARTY = r"^(@lab|@home|\*(@[a-z0-9.-]+)?|[a-z][a-z0-9-]{0,30}|(sip|tel):[^\s<>]+)$"
Party = Annotated[str, StringConstraints(pattern=_PARTY, max_length=200)]
"""A user's name, the SIP or tel URI of a user or a group, ``*@partner.test`` for a domain, ``@lab`` or ``@home``."""
GroupUri = Annotated[str, StringConstraints(pattern=r"^sip:[^\s<>@]+@[a-z0-9.-]+$", max_length=200)]


class KmsPolicy(Entry):
    """What a user's own UE does about end-to-end keys of the KMS (TS 33.328 6.2.3.3, assumed)."""

    level: KmsLevel = "allowed"
    """off: never; allowed: where the call asks for it; preferred: offered first; required: no call without."""
    peers: dict[Party, KmsLevel] = Field(default_factory=dict)
    """The level towards single users, or towards a domain (``*@partner.test``)."""
    reusable: bool = False
    """Ask for tickets that serve several calls."""
    forking: bool = True
    """Ask for keys that differ with everyone who answers."""
    validity_s: ValiditySeconds = 3600
    """How long a ticket is to be valid, seconds."""
    also: list[Party] = Field(default_factory=list)
    """Who may answer besides who was called: a deputy, a group."""
    allow_diverted: bool = False
    """Go on with a call that somebody else of these answered."""
    fallback: bool = False
    """Call without KMS keys where they cannot be had."""


class KmsRights(Entry):
    """What a KMS lets a user do; an empty list lets him do nothing."""

    request_for: list[Party] = Field(default_factory=lambda: ["@lab"])
    """Who may stand as responder in a ticket the user asks for."""
    resolve_from: list[Party] = Field(default_factory=lambda: ["@lab"])
    """Whose tickets the user may have resolved."""
    max_validity_s: ValiditySeconds | None = None
    """Longest ticket, seconds; absent: as the KMS allows everybody."""
    reusable: bool = True
    """Tickets for more than one call may be asked for."""


class KmsGroup(Entry):
    """A group that tickets may name as responder; kept by the KMS of the domain in its URI."""

    uri: GroupUri
    members: list[Party] = Field(default_factory=list)
    requesters: list[Party] = Field(default_factory=list)
    """Who may name the group in a ticket; empty: its members."""


class KmsSection(Entry):
    """What the key management services of the lab share."""

    max_validity_s: ValiditySeconds = 86_400
    """Longest ticket they issue, seconds."""
    foreign_kms: Literal["any", "none"] = "any"
    """Whether tickets are resolved for KMSs of other domains of the lab, and asked to be."""
    groups: list[KmsGroup] = Field(default_factory=list)
    static_psk: bool = False
    """Users share keys with their KMS that the lab made instead of bootstrapping them (GBA): for labs without a BSF."""
    user_made_tickets: bool = False
    """Whether they resolve tickets that a user made without asking them (mode 3, RFC 6043 4.1.1)."""
    profile: dict[str, object] = Field(default_factory=dict)
    """Values of ``keying.mikey.profile.Profile`` that differ from the default, for every KMS and UE alike."""
