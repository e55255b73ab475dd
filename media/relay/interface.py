"""What every relay can do, whichever loop carries the packets (TS 23.334 5.2, TS 33.328 7.2.1).

A stream joins two sides of a call at the media gateway. Each side is RTP, SRTP or opaque UDP; the relay forwards
between them, changes the protection on the way, and counts every packet it does not forward under the cause.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from keying.secret import Secret
from keying.suites import CryptoSuite

Address = tuple[str, int]
"""IP address in text form and UDP port."""

SrtpIndex = tuple[int, int]
"""Rollover counter and sequence number of the last packet of an SSRC (RFC 3711 3.3.1)."""

REPLAY_WINDOW = 128
"""Packets; RFC 3711 3.3.2 asks for at least 64."""
OLD_KEY_GRACE_S = 5.0
"""Seconds an old receive key still works after a re-key (RFC 4568 7.1.4; the length is assumed)."""
MAX_SSRCS = 16
"""SSRCs one side may bring under one key; none is ever forgotten, for its ROC would start again at 0 under the same
key (assumed)."""
MAX_DATAGRAM = 9216
"""Octets of the largest UDP payload forwarded (assumed: a jumbo frame)."""
MOST_WORKERS = 16
"""Threads that carry packets, at most."""


class RelayError(Exception):
    """A command could not be carried out; the text names the reason and holds no key."""


class UnknownStreamError(RelayError):
    """No stream, or no such side of it, under that name."""


class DuplicateStreamError(RelayError):
    """A stream of that name exists."""


class PortsExhaustedError(RelayError):
    """The kernel gave no port, no pair of an even and the next odd one, or not the one that was asked for."""


class BadStreamConfigError(RelayError):
    """The configuration contradicts itself, e.g. SRTP with a key of the wrong length."""


class KeyReusedError(RelayError):
    """A key was given again where RFC 4568 6.1, 7.1.2 or 7.1.4 wants a fresh one."""


class RelayUnavailableError(RelayError):
    """The packet loop is gone, draining, or failed its self-test."""


class Side(StrEnum):
    """The two sides of a stream, as TS 23.334 calls the gateway's terminations."""

    ACCESS = "access"
    CORE = "core"

    @property
    def other(self) -> "Side":
        """The side packets of this one leave from."""
        return Side.CORE if self is Side.ACCESS else Side.ACCESS


class Protection(StrEnum):
    """What travels on one side. OPAQUE is forwarded untouched (TS 33.328 7.2.2: end to end)."""

    RTP = "RTP"
    SRTP = "SRTP"
    OPAQUE = "opaque"


class Mode(StrEnum):
    """Gate of one side, seen from the gateway towards its peer (H.248 stream mode)."""

    INACTIVE = "inactive"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    SENDRECV = "sendrecv"

    @property
    def sends(self) -> bool:
        """May send RTP to the peer."""
        return self in (Mode.SENDONLY, Mode.SENDRECV)

    @property
    def receives(self) -> bool:
        """May take RTP from the peer."""
        return self in (Mode.RECVONLY, Mode.SENDRECV)


class Latching(StrEnum):
    """Learning of the peer's address from its packets (H.248.37)."""

    OFF = "off"
    LATCH = "latch"
    RELATCH = "relatch"


class InactivityDirection(StrEnum):
    """Which silence is reported: nothing in from the peer, nothing out to it, or neither."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


class DropCause(StrEnum):
    """Why a received packet was not forwarded. Counted on the side it came in."""

    GATE_CLOSED = "gate_closed"
    NOT_LATCHED = "not_latched"
    WRONG_SOURCE = "wrong_source"
    AUTH_FAILED = "auth_failed"
    REPLAYED = "replayed"
    TOO_SHORT = "too_short"
    OVERSIZE = "oversize"
    NOT_RTP = "not_rtp"
    STUN = "stun"
    DTLS = "dtls"
    SSRC_LIMIT = "unknown_ssrc_limit"
    KEY_EXPIRED = "key_expired"
    MKI = "mki"
    NO_KEY = "no_key"
    RTCP_OFF = "rtcp_off"
    SEND_BLOCKED = "send_blocked"
    UNREACHABLE = "unreachable"
    RATE_LIMITED = "rate_limited"
    """More packets of one peer needed a closer look than are given one in a second."""
    QUEUE_FULL = "queue_full"
    """The kernel had no room left at the socket; it does not tell what the packets were."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One SDES key: master key and master salt joined, lifetime in packets (None = the suite's), MKI (RFC 4568 6.1)."""

    key_salt: Secret
    lifetime: int | None = None
    mki: int = 0
    mki_length: int = 0


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys of one direction. More than one only with an MKI on each; the first is the one sent with."""

    suite: CryptoSuite
    keys: tuple[MasterKey, ...]


@dataclass(frozen=True, slots=True)
class SideConfig:
    """One side of a stream.

    `remote` is the signalled peer; `remote_rtcp` None means the next port up. `source_address` and `source_port`
    filter what may come in. Plain and opaque sides always take packets from the signalled host alone unless
    `any_source` says otherwise (assumed). With `await_media` nothing is sent to `remote`, only to where accepted
    packets came from: nobody is sent media who never spoke. `inactivity_s` 0 = no detection. `send` protects towards
    the peer, `receive` is what the peer sends with.
    """

    local_ip: str
    protection: Protection
    remote: Address | None = None
    remote_rtcp: Address | None = None
    mode: Mode = Mode.INACTIVE
    rtcp: bool = True
    rtcp_mux: bool = False
    latching: Latching = Latching.OFF
    source_address: bool = False
    source_port: bool = False
    any_source: bool = False
    await_media: bool = False
    dscp: int = 0
    inactivity_s: float = 0.0
    inactivity_direction: InactivityDirection = InactivityDirection.IN
    send: KeySet | None = None
    receive: KeySet | None = None
    clock_rate: int = 8000


@dataclass(frozen=True, slots=True)
class Resume:
    """What one side had in a packet loop that died, so that a peer finds it as it was.

    `port` is the local RTP port, and no other will do; RTCP is on the next one up unless muxed. `latched` is where the
    peer was heard: nobody else gets a chance to be first. `received` and `sent` are the last known positions by SSRC,
    where the first keys that the side is given begin: the peer changes its key and keeps its ROC (RFC 4568 7.1.4).

    `srtcp_sent` is how many SRTCP packets went to the peer, at least: after them the SRTCP index goes on, which a new
    key does not reset (RFC 3711 3.4); the peer would take smaller ones for replays.

    A used key is not taken again: the replay windows are gone, and what was sent last may not be known (RFC 3711 9.1).
    A side that has positions in a direction had a key there that was used: it comes without one. A key that a side
    comes with was not used, and begins like any other.
    """

    port: int
    latched: Address | None = None
    received: Mapping[int, SrtpIndex] = field(default_factory=dict)
    sent: Mapping[int, SrtpIndex] = field(default_factory=dict)
    srtcp_sent: int = 0


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """A stream with one or both of its sides; a missing side may be given later with :meth:`Relay.modify`.

    A stream that was in another packet loop before has a `resume` per side, and in `used_keys` the SHA-256 of every
    key and salt that was used there: none of them is taken again, for ROC, SRTCP index and replay window are gone.
    """

    stream_id: str
    sides: Mapping[Side, SideConfig]
    resume: Mapping[Side, Resume] = field(default_factory=dict)
    used_keys: frozenset[bytes] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """Where a side receives. `rtcp_port` equals `port` when muxed, 0 when RTCP is off."""

    ip: str
    port: int
    rtcp_port: int


@dataclass(frozen=True, slots=True)
class SideCounts:
    """What :class:`SideStatistics` counts, as it stands in memory: see :meth:`Relay.counts`."""

    packets_in: int
    packets_out: int
    octets_in: int
    octets_out: int
    rtcp_in: int
    rtcp_out: int
    drops: Mapping[DropCause, int]


@dataclass(frozen=True, slots=True)
class SideStatistics:
    """Counters of one side. RTCP is counted apart from RTP; per direction, in = out of the other side + drops of this
    one."""

    protection: Protection
    suite: str
    packets_in: int
    packets_out: int
    octets_in: int
    octets_out: int
    rtcp_in: int
    rtcp_out: int
    drops: Mapping[DropCause, int]
    latch_changes: int
    latched: Address | None
    lost: int
    jitter_ms: float
    duration_s: float
    received: Mapping[int, SrtpIndex] = field(default_factory=dict)
    """Position of each SSRC under the keys received with; SRTP only."""
    sent: Mapping[int, SrtpIndex] = field(default_factory=dict)
    """Position of each SSRC under the keys sent with; SRTP only."""

    @property
    def dropped(self) -> int:
        """Packets of any kind received and not forwarded."""
        return sum(self.drops.values())

    @property
    def auth_failures(self) -> int:
        """Packets that no key of this side authenticated."""
        return self.drops.get(DropCause.AUTH_FAILED, 0) + self.drops.get(DropCause.MKI, 0)

    @property
    def replays(self) -> int:
        """Packets seen before or older than the replay window."""
        return self.drops.get(DropCause.REPLAYED, 0)


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """Counters of one stream by side."""

    stream_id: str
    sides: Mapping[Side, SideStatistics]


@dataclass(frozen=True, slots=True)
class Latched:
    """A side has learnt, or changed, where its peer really is."""

    stream_id: str
    side: Side
    address: Address


@dataclass(frozen=True, slots=True)
class MediaInactive:
    """Nothing was accepted or sent for `seconds`; reported once per silence (IQ-19)."""

    stream_id: str
    side: Side
    direction: InactivityDirection
    seconds: float


@dataclass(frozen=True, slots=True)
class SrtpFailures:
    """Failed packets have passed the next threshold (50, 500, 5000 ...: assumed)."""

    stream_id: str
    side: Side
    auth_failures: int
    replays: int


@dataclass(frozen=True, slots=True)
class KeyExpired:
    """A key's lifetime is over (`near` False) or nine tenths used (`near` True); RFC 3711 9.2."""

    stream_id: str
    side: Side
    near: bool


RelayEvent = Latched | MediaInactive | SrtpFailures | KeyExpired


@dataclass(frozen=True, slots=True)
class TappedPacket:
    """A datagram as it was on the wire of one side. `timestamp` is seconds since the epoch; `cause` is set when it was
    dropped."""

    stream_id: str
    side: Side
    timestamp: float
    source: Address
    destination: Address
    payload: bytes = field(repr=False)
    cause: DropCause | None = None


@dataclass(frozen=True, slots=True)
class Workers:
    """Threads that carry packets: how many (0: as many as this process may use processors, up to 16), the processors
    they are pinned to in turn (none: not pinned), and their priority (0: usual scheduling, 1 to 99: SCHED_FIFO)."""

    count: int = 0
    cpus: tuple[int, ...] = ()
    priority: int = 0

    @property
    def number(self) -> int:
        """How many threads that makes here."""
        return min(self.count or len(self.cpus) or len(os.sched_getaffinity(0)), MOST_WORKERS)


EventListener = Callable[[RelayEvent], None]
TapListener = Callable[[TappedPacket], None]


class Relay(ABC):
    """The packet loop of a media gateway. Commands are asynchronous: the loop may be another process."""

    @property
    def pending(self) -> int:
        """Commands that were given and not answered yet."""
        return 0

    @property
    def loop(self) -> str:
        """Which loop carries the packets: ``compiled``, or ``interpreted`` and why."""
        return "interpreted"

    @abstractmethod
    async def add(self, config: StreamConfig) -> Mapping[Side, LocalAddress]:
        """Open the ports of a stream. Raises DuplicateStreamError, BadStreamConfigError, PortsExhaustedError,
        RelayUnavailableError."""

    @abstractmethod
    async def modify(self, stream_id: str, side: Side, config: SideConfig) -> LocalAddress:
        """Give one side a new configuration, or add the missing side.

        A key that differs from the present one re-keys as :meth:`rekey` does; the ROC starts again at 0 when the
        signalled
        remote address changed with it (RFC 4568 7.1.4). Raises UnknownStreamError, BadStreamConfigError,
        KeyReusedError, PortsExhaustedError.
        """

    @abstractmethod
    async def rekey(
        self,
        stream_id: str,
        side: Side,
        *,
        send: KeySet | None = None,
        receive: KeySet | None = None,
        reset_roc: bool = False,
    ) -> None:
        """Change keys on an SRTP side. ROC and SRTCP index go on unless `reset_roc`; the old receive key works 5 s
        more.

        Raises UnknownStreamError, BadStreamConfigError, KeyReusedError.
        """

    @abstractmethod
    async def remove(self, stream_id: str, side: Side | None = None) -> RelayStatistics:
        """Close a stream, or one side of it, and return the final counters. Raises UnknownStreamError."""

    @abstractmethod
    async def tap(self, stream_id: str, *, enabled: bool) -> None:
        """Mirror the packets of both sides, as on the wire, to the tap listener. Raises UnknownStreamError."""

    @abstractmethod
    async def statistics(self, stream_ids: Sequence[str] | None = None) -> list[RelayStatistics]:
        """Counters of the named streams, or of all. Names that are unknown are left out."""

    @abstractmethod
    def counts(self) -> Mapping[str, Mapping[Side, SideCounts]]:
        """Counters of every stream, read from memory: no command is given and nothing waits.

        They are those of this very moment, but for what goes the quick way of an interpreted loop, which is counted in
        at each tick (a second ago at most, with up to 1000 streams). When the loop died they are its last.
        """

    async def remember(self, key: str, note: str | None) -> None:
        """Keep a text for who commands this loop when its present commander is gone; None: forget it.

        A loop that ends with its commander has nobody to keep it for.
        """
        del key, note

    async def remembered(self) -> Mapping[str, str]:
        """Return what was kept."""
        return {}

    @abstractmethod
    async def drain(self) -> int:
        """Take no new streams; return how many are left."""

    @abstractmethod
    async def close(self) -> None:
        """Remove every stream and stop the loop."""

    @abstractmethod
    def set_listeners(self, events: EventListener | None = None, taps: TapListener | None = None) -> None:
        """Set who hears events and mirrored packets; both are called on the commanding event loop."""
