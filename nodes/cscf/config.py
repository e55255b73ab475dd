"""Settings of the CSCF."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from nodes.hepexport import HepSettings
from sba.nf import NodeSettings


class MwSettings(BaseModel):
    """Where the CSCF speaks SIP to P-CSCFs, other CSCFs and application servers."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(description="Address of the Mw socket")
    port: int = Field(default=0, ge=0, le=65535, description="Port of the Mw socket; 0 takes one from the kernel")


class CscfSettings(NodeSettings):
    """What a CSCF instance is told when it starts. Durations are seconds."""

    mw: MwSettings = Field(description="The Mw socket")
    mw_transport: Literal["tls", "tcp"] = Field(
        default="tls", description="Transport of Mw: tls (mutual, trust by certificate) or tcp (trust by address)"
    )
    trusted_peers: list[str] = Field(
        default_factory=list, description="Addresses that belong to the trust domain when mw_transport is tcp"
    )
    trusted_nf_types: list[str] = Field(
        default=["PCSCF", "SCSCF", "ICSCF", "IMS_AS"],
        description="NF types whose certificate opens the trust domain when mw_transport is tls (RFC 3325 2.3)",
    )
    untrusted_terminating: bool = Field(
        default=False,
        description="Let requests from outside the trust domain reach users, stripped of asserted headers",
    )
    min_expires: int = Field(default=60, ge=0, lt=3600, description="Shortest registration, s; below it 423 (SC-5)")
    default_expires: int = Field(default=3600, ge=60, description="Registration when none is asked for, s")
    max_expires: int = Field(default=600000, ge=60, description="Longest registration granted, s")
    reg_await_auth: float = Field(default=240.0, gt=0, description="Life of a challenge, s (timer reg-await-auth)")
    digest_nonce_lifetime: float = Field(default=3600.0, gt=0, description="Life of a SIP digest nonce, s (E-9)")
    digest_algorithms: list[Literal["SHA-256", "MD5"]] = Field(
        default=["MD5"],
        min_length=1,
        description="Algorithms offered to digest users, best first. MD5 alone is what TS 33.203 N.2 names; clients "
        "that do not know RFC 8760 give up when SHA-256 stands beside it",
    )
    aka_without_association: bool = Field(
        default=True,
        description="Let an AKA subscriber register with AKAv1-MD5 although no SA and no TLS protects it (flagged)",
    )
    accept_auth_done: bool = Field(
        default=False, description="Believe integrity-protected=auth-done of a trusted node without a challenge"
    )
    reauthenticate: bool = Field(
        default=False, description="Challenge a re-registration even when it came under the SA of the last success"
    )
    max_challenge_failures: int = Field(
        default=2, ge=0, description="Further challenges after a UE found one invalid; then 403 (E-4)"
    )
    max_contacts: int = Field(default=10, ge=1, description="Most bindings of one implicit registration set")
    max_path: int = Field(default=10, ge=1, description="Most Path entries accepted in a REGISTER")
    parallel_fork: bool = Field(default=True, description="Ring contacts of equal q at once; false: one after another")
    add_tel_identity: bool = Field(default=True, description="Add the tel twin to P-Asserted-Identity (RFC 3325 9.1)")
    as_timeout: float = Field(default=5.0, gt=0, description="Patience with a silent application server, s")
    subscription_expires: int = Field(default=3761, ge=60, description="Default reg event subscription, s (RFC 3680)")
    max_subscriptions: int = Field(default=1000, ge=1, description="Most reg event subscriptions kept")
    max_subscriptions_per_watcher: int = Field(
        default=10, ge=1, description="Most reg event subscriptions of one watcher to one registration"
    )
    hss_timeout: float = Field(default=2.0, gt=0, description="Patience with the HSS per query, s")
    hep: HepSettings | None = Field(default=None, description="Homer server that is told every SIP message")
    t1: float = Field(default=0.5, gt=0, description="SIP timer T1 on Mw, s (RFC 3261 17.1.1.1)")
