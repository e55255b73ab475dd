"""What an RTP session takes, tells and counts: settings, directions, events, figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from media.g711 import PCMA, SAMPLE_RATE, Codec
from media.jitter import DEFAULT_DELAY

Address = tuple[str, int]
"""IP address and port."""


class Direction(Enum):
    """The media direction as SDP names it (RFC 8866 6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        """Whether this side sends media."""
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        """Whether this side takes media."""
        return self in (Direction.SENDRECV, Direction.RECVONLY)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How an RTP session behaves; times in seconds unless named otherwise."""

    codec: Codec = PCMA
    payload_type: int | None = None
    """Number the codec is sent with; None: its static one (RFC 3551 6)."""
    dtmf_payload_type: int | None = 101
    """None: no telephone events."""
    packet_ms: int = 20
    cname: str = ""
    """SDES CNAME; empty: a random one (RFC 7022)."""
    rtcp_mux: bool = False
    symmetric: bool = False
    """Follow the source of valid media with what is sent (RFC 4961); off: send where SDP says."""
    rtcp_interval: float = 5.0
    first_rtcp: float = 1.0
    jitter_delay: float = DEFAULT_DELAY
    record: bool = True

    @property
    def samples_per_packet(self) -> int:
        """Samples, and timestamp units, of one packet."""
        return SAMPLE_RATE * self.packet_ms // 1000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A datagram to send."""

    octets: bytes
    rtcp: bool
    destination: Address


@dataclass(frozen=True, slots=True)
class MediaStarted:
    """The first accepted packet of a source."""

    ssrc: int
    source: Address
    protected: bool


@dataclass(frozen=True, slots=True)
class DtmfReceived:
    """A digit was received; `duration_ms` as last reported."""

    digit: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class ByeReceived:
    """A source said goodbye in RTCP."""

    ssrc: int
    reason: str


@dataclass(frozen=True, slots=True)
class PacketRefused:
    """The first packet that was dropped for this cause; further ones are counted (RFC 3711 4.2)."""

    cause: str
    source: Address


@dataclass(frozen=True, slots=True)
class RekeyNeeded:
    """The sending key has used nine tenths of its lifetime (RFC 3711 9.2)."""

    suite: str


SessionEvent = MediaStarted | DtmfReceived | ByeReceived | PacketRefused | RekeyNeeded


@dataclass(frozen=True, slots=True)
class RtpStatistics:
    """Figures of one session since it began. Loss and jitter are of the present remote source."""

    packets_in: int
    packets_out: int
    octets_in: int
    """Payload octets accepted."""
    octets_out: int
    rtcp_in: int
    rtcp_out: int
    lost: int
    expected: int
    jitter_ms: float
    auth_failures: int
    replays: int
    drops: Mapping[str, int] = field(default_factory=dict)
    """Packets refused, by cause; the sums above are in it too."""
    late: int = 0
    duplicates: int = 0
    reordered: int = 0
    round_trip_ms: float | None = None
    remote_lost: int | None = None
    """Packets of ours the far end reports lost."""
    remote_jitter_ms: float | None = None
    ssrc: int = 0
    remote_ssrc: int | None = None
    suite_in: str | None = None
    suite_out: str | None = None

    @property
    def loss(self) -> float:
        """Part of the expected packets that did not come, 0 to 1."""
        return max(0, self.lost) / self.expected if self.expected else 0.0
