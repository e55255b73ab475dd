"""Settings of an IMS-AGW."""

from typing import Literal

from pydantic import AliasChoices, Field

from keying.suites import DEFAULT_SUITES
from media.relay import MOST_WORKERS
from sba.nf import NodeSettings


class ImsAgwSettings(NodeSettings):
    """What an IMS-AGW instance is told when it starts."""

    access_ip: str = Field(default="127.0.0.1", description="Address of the access side, IPv4 or IPv6")
    core_ip: str = Field(default="127.0.0.1", description="Address of the core side, IPv4 or IPv6")
    access_ip_other: str = Field(default="", description="Access address of the other IP version; empty = none")
    core_ip_other: str = Field(default="", description="Core address of the other IP version; empty = none")
    port_range: tuple[int, int] | None = Field(
        default=None, description="First and last UDP port given out; absent = the kernel's choice"
    )
    srtp: Literal["on", "off"] = Field(
        default="on", description="off = every SRTP termination is refused (TS 33.328 7.2.1-8)"
    )
    suites: tuple[str, ...] = Field(
        default=tuple(DEFAULT_SUITES), description="SRTP suites carried, in order of preference"
    )
    streams_max: int = Field(default=2000, ge=1, description="Streams carried at once; emergency calls may exceed it")
    streams_max_emergency: int = Field(
        default=200, ge=0, description="Streams by which emergency calls may exceed streams_max"
    )
    relay: Literal["process", "in-process"] = Field(
        default="process", description="Where the packet loop runs; in-process only for tests"
    )
    relay_patience_s: float = Field(
        default=15.0,
        ge=0,
        description="Seconds the packet loop carries on when this process was killed, until it is back; 0 = not at all",
    )
    relay_workers: int = Field(
        default=0, ge=0, le=MOST_WORKERS, description="Threads that carry packets; 0 = as many as there are processors"
    )
    relay_cpus: tuple[int, ...] = Field(
        default=(), description="Processors these threads are pinned to, in turn; empty = not pinned"
    )
    relay_priority: int = Field(
        default=0, ge=0, le=99, description="Their SCHED_FIFO priority (needs CAP_SYS_NICE); 0 = usual scheduling"
    )
    key_export: bool = Field(
        default=False,
        validation_alias=AliasChoices("key_export", "allow_key_export"),
        description="Captures may carry the media keys (lab use only)",
    )
    hanging_after_s: float = Field(
        default=120.0,
        ge=0,
        description="Seconds of silence of both the IMS-ALG and the media after which a context is freed; 0 = never",
    )
    unfiltered_plain_latching: bool = Field(
        default=False,
        description="Plain RTP may latch to any host, as behind some NATs; lets an off-path sender steal it",
    )
    tx_lifetime_s: float = Field(
        default=60.0, gt=0, description="Seconds an answer is kept for a repeated request (IQ-1)"
    )
