"""What the IMS-ALG knows and plans about the media of one session: values only, no I/O (TS 23.334 terms)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from keying.sdes import CryptoAttribute, SdesPolicy
from nodes.pcscf.config import MediaPolicy, UnannouncedPolicy


class Side(StrEnum):
    """A side of the P-CSCF and of its IMS-AGW."""

    ACCESS = "access"
    CORE = "core"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.CORE if self is Side.ACCESS else Side.ACCESS


class Treatment(StrEnum):
    """What happens to a stream at this edge."""

    PLAIN = "plain"
    E2AE_SDES = "e2ae-sdes"
    E2E = "e2e"
    RELAYED = "relayed"
    """Media over UDP that is not RTP: forwarded untouched."""
    DISABLED = "disabled"
    """Port 0."""
    REFUSED = "refused"


SECURE_TO_PLAIN: Final[Mapping[str, str]] = {"RTP/SAVP": "RTP/AVP", "RTP/SAVPF": "RTP/AVPF"}
"""Profile on a protected access leg -> profile in the core; the feedback family stays (6.1.1-3)."""
PLAIN_TO_SECURE: Final[Mapping[str, str]] = {plain: secure for secure, plain in SECURE_TO_PLAIN.items()}
DTLS_PROFILES: Final = frozenset({"UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"})
UDP_PROFILES: Final = frozenset({"UDPTL", "UDP/TLS/UDPTL", "UDP/DTLS/SCTP", "UDP"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an offer or an answer cannot be taken: a SIP status and the `media-sec` token of its Warning (SEC-1)."""

    status: int
    token: str = ""
    text: str = ""
    """For traces only."""
    warning: str = ""
    """What the peer is told besides, when no token says it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where media goes: IP address and RTP port, RTCP apart when it is not on port + 1."""

    ip: str
    port: int
    rtcp_port: int = 0
    rtcp_ip: str = ""
    source_ip: str = field(default="", compare=False)
    """Where the UE's signalling comes from, when that is not `ip`: media goes there once media came from there."""

    def to_dict(self) -> dict[str, object]:
        """A JSON form for the store."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class LocalStream:
    """What the IMS-AGW gave for one stream of a termination; `crypto` is what it sends with."""

    address: Address
    crypto: tuple[CryptoAttribute, ...] = ()


@dataclass(frozen=True, slots=True)
class AlgPolicy:
    """Everything besides SDP and history that a decision depends on."""

    e2ae: MediaPolicy = MediaPolicy.PREFERRED
    agreed: bool = False
    """UE and P-CSCF both announced `sdes-srtp` at the last registration (GE-3)."""
    gm_encrypted: bool = True
    mw_encrypted: bool = True
    unannounced: UnannouncedPolicy = UnannouncedPolicy.REJECT
    accept_osrtp_shape: bool = True
    e2e_sdes: bool = True
    e2e_on_clear_hop: bool = False
    sdes: SdesPolicy = field(default_factory=SdesPolicy)
    offer_suites: tuple[str, ...] = ("AES_CM_128_HMAC_SHA1_80",)
    rekey_on_reoffer: bool = False
    emergency: bool = False
    max_lines: int = 8
    """m-lines an offer may have; 0: what the SDP parser takes."""
    sealed: frozenset[str] = frozenset()
    """SDP attributes of security modes of packages: keys under a seal, end to end."""
    ue_ip: str = ""
    """Where the UE's signalling comes from; empty: its media address is believed whatever it is."""

    @property
    def effective(self) -> MediaPolicy:
        """`required` is `preferred` for emergency calls (EM-8)."""
        return MediaPolicy.PREFERRED if self.emergency and self.e2ae is MediaPolicy.REQUIRED else self.e2ae


_STATE_ADDRESSES = ("ue_address", "far_address", "access_local", "core_local")


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream after a complete offer/answer exchange. Holds no key, only digests, so it may be stored."""

    index: int
    media: str
    treatment: Treatment
    access_proto: str
    core_proto: str
    suite: str = ""
    tag: int = 0
    ue_key: str = ""
    ue_address: Address | None = None
    far_address: Address | None = None
    access_local: Address | None = None
    core_local: Address | None = None
    managed: bool = False
    """Its keys came of ``a=key-mgmt``."""

    @property
    def active(self) -> bool:
        """The stream has media."""
        return self.treatment not in (Treatment.DISABLED, Treatment.REFUSED)

    def to_dict(self) -> dict[str, object]:
        """A JSON form for the store."""
        values: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        for name in _STATE_ADDRESSES:
            address = values[name]
            values[name] = address.to_dict() if isinstance(address, Address) else None
        return values

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> StreamState:
        """The inverse of `to_dict`. Raises TypeError, ValueError or KeyError for foreign data."""
        fields = dict(stored)
        for name in _STATE_ADDRESSES:
            value = fields.get(name)
            fields[name] = Address(**value) if isinstance(value, dict) else None
        fields["treatment"] = Treatment(str(fields["treatment"]))
        return cls(**fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What is planned for one m-line of an offer under way."""

    index: int
    media: str
    treatment: Treatment
    access_proto: str
    core_proto: str
    reason: str = ""
    offerer: Address | None = None
    """Media address of whoever offered."""
    chosen: CryptoAttribute | None = None
    """The UE's line taken (offer from access)."""
    suites: tuple[str, ...] = ()
    """Suites to be offered to the UE (offer from core), or the one to answer with."""
    tag: int = 0
    previous: StreamState | None = None
    osrtp: bool = False
    """Protected although the profile is RTP/AVP(F) (RFC 8643 shape)."""
    mux_offered: bool = False
    rtcp_separate: bool = True
    token: str = ""
    managed: bool = False
    """Its keys come, or came before, of ``a=key-mgmt``."""
    rekey: bool = False
    """The IMS-AGW makes new keys whatever it has."""

    @property
    def active(self) -> bool:
        """The stream is to have media."""
        return self.treatment not in (Treatment.DISABLED, Treatment.REFUSED)

    @property
    def added(self) -> bool:
        """No resources exist for it yet."""
        return self.active and (self.previous is None or not self.previous.active)

    @property
    def removed(self) -> bool:
        """Resources exist and are to go."""
        return not self.active and self.previous is not None and self.previous.active


@dataclass(frozen=True, slots=True)
class AlgDecision:
    """The outcome for an offer: plans per m-line, or a refusal of the whole request."""

    offered_by: Side
    plans: tuple[StreamPlan, ...] = ()
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """What an answer says about one planned stream."""

    plan: StreamPlan
    active: bool
    answerer: Address | None = None
    crypto: CryptoAttribute | None = None
    """The UE's line in an answer from access."""
    mux: bool = False
    ue_direction: str = "sendrecv"
    """Direction from the UE's point of view."""
    plain_fallback: bool = False
    """OSRTP shape answered without key: plain."""


@dataclass(frozen=True, slots=True)
class AnswerDecision:
    """The outcome for an answer: the streams, or a violation that ends the session."""

    streams: tuple[StreamAnswer, ...] = ()
    violation: Refusal | None = None


@dataclass(frozen=True, slots=True)
class StreamWork:
    """One stream of an Iq request."""

    index: int
    media: str
    transport: str
    """RTP_AVP, RTP_AVPF, RTP_SAVP, RTP_SAVPF or OPAQUE_UDP."""
    remote: Address | None = None
    mode: str = "INACTIVE"
    mux: bool = False
    remote_crypto: CryptoAttribute | None = None
    local_suites: tuple[str, ...] = ()
    local_tag: int = 0
    rekey: bool = False
    selected_tag: int = 0
    removed: bool = False
    fresh: bool = False
    """No resources exist yet: the first authenticated packet latches (IQ-14)."""
    moved: bool = False
    """The far end is somewhere else now: latch anew."""


@dataclass(frozen=True, slots=True)
class MediaWork:
    """What the IMS-AGW is asked for, per side."""

    access: tuple[StreamWork, ...] = ()
    core: tuple[StreamWork, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.access or self.core)


@dataclass(frozen=True, slots=True)
class LineRewrite:
    """How one m-line leaves this node."""

    proto: str
    local: LocalStream | None
    """None: port 0."""
    crypto: tuple[CryptoAttribute, ...] = ()
    marker: str = ""
    """Value of `a=3ge2ae` to write; empty: none."""
    keep_security: bool = False
    """Leave keys and fingerprints as they are (e2e)."""


def key_digest(attribute: CryptoAttribute) -> str:
    """A digest by which a later offer is recognised to repeat a key; the key is random and cannot be found from it."""
    sum_ = hashlib.sha256(b"imslab SDES key\0" + attribute.suite.name.encode())
    for key in attribute.keys:
        sum_.update(key.key_salt.reveal())
    return sum_.hexdigest()


def without_keys(plan: StreamPlan) -> StreamPlan:
    """The plan with its key dropped, once the IMS-AGW has it."""
    return replace(plan, chosen=None)
