"""Settings of the KMS."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from sba.nf import NodeSettings


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpAddress(_Part):
    """Where UEs reach the KMS over HTTPS."""

    host: str = "127.0.0.1"
    """IP address."""
    port: int = Field(default=0, ge=0, le=65535)
    """TCP port; 0: the kernel chooses."""
    access_network: str = ""
    """Access network it is reached from; empty: any."""


class PartyPolicy(_Part):
    """What a user may do; every list holds patterns as ``nodes.kms.patterns`` reads them. Empty: nothing."""

    request_for: tuple[str, ...] = ()
    """Responders (users, groups, wildcards) that a ticket may name."""
    resolve_from: tuple[str, ...] = ()
    """Initiators whose tickets the user may resolve."""
    max_validity_s: float = Field(default=0.0, ge=0.0)
    """Longest ticket, s; 0: as the KMS allows at most."""
    reusable: bool = True
    """Tickets for more than one use (J) may be asked for; else the KMS makes them single use (K)."""
    forking_required: bool = False
    """The KMS makes every ticket one with forking (I, K): each responder gets keys of its own."""
    wildcards: bool = False
    """A ticket may name all users of a domain, e.g. ``sip:*@ims.test``, where ``request_for`` covers them."""


class Group(_Part):
    """A user group, known by its public identity (6.2.3.2; syntax assumed)."""

    members: tuple[str, ...] = ()
    """Its users: identities, all users of a domain (``sip:*@ims.test``), other groups."""
    requesters: tuple[str, ...] = ()
    """Patterns of the users who may name it in a ticket, if their own policy lets them; empty: its members."""
    policy: PartyPolicy | None = None
    """What its members may do, where no entry of their own says it; None: the group grants nothing more."""


class PeerKms(_Part):
    """A KMS of another domain, beyond what its certificate says by itself."""

    responders: tuple[str, ...] = ()
    """Patterns of the responders it speaks for; empty: the users of ``domain``."""
    domain: str = ""
    """Home domain under which the NRF knows it; empty: what follows ``kms.`` in its identity."""


class RateLimit(_Part):
    """A token bucket."""

    per_second: float = Field(gt=0)
    """Sustained rate, 1/s."""
    burst: int = Field(ge=1)
    """Requests at once before the rate counts."""


class KmsSettings(NodeSettings):
    """What a KMS is told when it starts."""

    identity: str = ""
    """IDRkms and NAF name, which its certificate has to show; empty: ``kms.`` and the home domain."""
    http: HttpAddress = HttpAddress()
    """Listener for UEs."""
    http_other: tuple[HttpAddress, ...] = ()
    """Listeners for UEs of further access networks."""
    lab_domains: tuple[str, ...] = ()
    """Home domains whose users are users of the lab (``@lab`` in patterns), beside the own ones (``@home``)."""
    default_policy: PartyPolicy = PartyPolicy(request_for=("@lab", "tel:*"), resolve_from=("@lab", "tel:*"))
    """What a user may do who has no entry of his own nor of a group."""
    users: dict[str, PartyPolicy] = Field(default_factory=dict)
    """Policy by public identity; it stands alone, nothing of a group or of the default is added."""
    groups: dict[str, Group] = Field(default_factory=dict)
    """Groups by public identity."""
    peers: dict[str, PeerKms] = Field(default_factory=dict)
    """KMSs of other domains by their identity."""
    foreign_kms: Literal["any", "listed", "none"] = "any"
    """Which KMSs of other domains may resolve here and are asked: those of ``lab_domains`` and in ``peers``, only those
    in ``peers``, none."""

    max_ticket_validity_s: float = Field(default=86_400.0, gt=0, le=31_536_000.0)
    """Longest ticket, s; one that asks for more or for no end is cut to it (K)."""
    max_start_ahead_s: float = Field(default=86_400.0, ge=0)
    """How far ahead a ticket may begin, s."""
    max_responders: int = Field(default=16, ge=1, le=255)
    """IDRr payloads in one ticket."""
    max_keys: int = Field(default=8, ge=1, le=64)
    """Keys in one ticket."""
    ticket_key_rotation_s: float = Field(default=86_400.0, gt=0)
    """Age at which the ticket protection key is replaced, s; a replaced key opens its tickets until the last ends."""
    enforce_single_use: bool = True
    """A ticket without the reuse flag resolves for one TRANSFER_INIT alone (RFC 6043 6.10 J; needs forking to tell)."""
    user_made_tickets: bool = False
    """Resolve tickets that a user made under a key from his bootstrapping (mode 3, RFC 6043 4.1.1; TS 23.333)."""
    mikey_profile: dict[str, JsonValue] = Field(default_factory=dict)
    """Values of :class:`keying.mikey.profile.Profile` that differ from the default, by name; lists for sets."""

    naf_credential_cache_s: float = Field(default=60.0, ge=0)
    """How long a key from the BSF is used without asking again, s."""
    static_psk_file: str = ""
    """NON-SECURE, for labs without GBA: file of pre-shared keys that the lab sealed for this instance; "": off."""
    bsf_timeout_s: float = Field(default=2.0, gt=0, le=30.0)
    """Deadline of a question to the BSF, s."""
    peer_timeout_s: float = Field(default=2.5, gt=0, le=30.0)
    """Deadline of a resolve at another KMS, s; a UE has to wait longer than this and ``bsf_timeout_s`` together."""

    user_rate: RateLimit = RateLimit(per_second=20.0, burst=100)
    """Requests of one private identity."""
    address_rate: RateLimit = RateLimit(per_second=200.0, burst=1000)
    """Requests from one IP address, before anybody is authenticated."""
    peer_rate: RateLimit = RateLimit(per_second=200.0, burst=1000)
    """Resolves asked by one KMS of another domain."""

    nominal_exchanges: int = Field(default=32, ge=1)
    """Requests of UEs in progress at which this node tells the NRF that it is fully loaded."""
    audit_retention_s: float = Field(default=7 * 86_400.0, gt=0)
    """How long audit records are kept after the ticket they tell of has ended, s."""
    audit_records: int = Field(default=1_000_000, ge=1000)
    """Audit records kept at most; beyond that the oldest go before their time."""
    audit_refusals: RateLimit = RateLimit(per_second=0.05, burst=100)
    """Refusals of one user, or of one KMS, that become audit records; beyond that they are logged and counted only."""
    prune_interval_s: float = Field(default=60.0, gt=0)
    """Pause between two removals of what has expired, s."""
