"""Settings of the BSF."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sba.nf import NodeSettings


class UbSettings(BaseModel):
    """Where the BSF serves UEs over HTTPS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(description="Address of the Ub socket")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the Ub socket; 0 takes one from the kernel")
    access_network: str = Field(default="", description="Access network it is reached from; empty: any")


class BsfSettings(NodeSettings):
    """What a BSF instance is told when it starts."""

    ub: UbSettings = Field(description="The Ub socket")
    ub_other: tuple[UbSettings, ...] = Field(default=(), description="Ub sockets in further access networks")
    fqdn: str = Field(
        default="",
        description="Name of the BSF: realm of its challenges, host of its B-TIDs, and a DNS name of its certificate; "
        "empty: bsf. and the first home domain",
    )
    lifetime_s: int = Field(
        default=28_800,
        ge=1,
        le=30 * 86_400,
        description="Life of a bootstrapped key, s (local policy, TS 33.220 4.5.2)",
    )
    challenge_s: float = Field(default=30.0, gt=0, le=600, description="Life of a challenge without an answer, s")
    vectors_per_user: int = Field(
        default=8,
        ge=1,
        description="Vectors spent on one user within the life of a challenge until one is answered rightly; then "
        "the newest challenge is offered again",
    )
    kept_per_user: int = Field(
        default=3, ge=1, description="Bootstraps of one user that are kept until they expire; the oldest goes first"
    )
    requests_per_second: float = Field(default=20.0, gt=0, description="Sustained requests of one address; then 429")
    burst: float = Field(default=60.0, ge=1, description="Requests of one address before the rate counts")
    allowed_nafs: tuple[str, ...] = Field(
        default=(), description="FQDNs of NAFs that get keys; empty: those within the home domains"
    )
    ua_protocols: tuple[str, ...] = Field(
        default=("0100000006",),
        description="Ua security protocol identifiers, in hex, for which keys are given out (TS 33.220 H.3)",
    )
