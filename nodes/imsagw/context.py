"""Contexts, terminations and streams of the gateway (the H.248 model of TS 23.334)."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256

from opentelemetry.trace import Span

from keying.sdes import CryptoAttribute, KeyReuse
from media.relay import Address, Latching, LocalAddress, Mode, Protection, Side, SideConfig, SrtpIndex
from protos import iq_pb2


@dataclass(slots=True)
class StreamRecord:
    """One stream of one termination.

    `offered` are the gateway's lines last shown to the peer, `sending` the one it sends with, `receiving` the peer's.
    `latched`, `received` and `sent` are what the packet loop last told: they outlive it.
    """

    stream_id: int
    config: SideConfig
    transport: iq_pb2.Transport
    offered: tuple[CryptoAttribute, ...] = ()
    sending: CryptoAttribute | None = None
    receiving: CryptoAttribute | None = None
    local: LocalAddress | None = None
    span: Span | None = None
    opened: bool = False
    """Something may have been sent under its key, or checked under the peer's: see `opens`."""
    keyless: bool = False
    """Its keys went with a packet loop that died, and no others have come yet."""
    unsure: bool = False
    """A command to send with one of `offered` went out, and whether it was carried out is not known."""
    latched: Address | None = None
    received: dict[int, SrtpIndex] = field(default_factory=dict)
    sent: dict[int, SrtpIndex] = field(default_factory=dict)
    srtcp_sent: int = 0
    """SRTCP packets that packet loops which died had sent."""

    def opens(self, config: SideConfig) -> None:
        """Note what a configuration allows, before the packet loop has it.

        At a closed gate nothing is sent, RTCP neither; but where the peer's address is known from signalling, and not
        learnt at the open gate, what it sends is checked and counted, and its replay is then told apart.
        """
        self.opened = self.opened or config.mode is not Mode.INACTIVE or config.latching is Latching.OFF

    def lose_keys(self) -> None:
        """Give up keys that may have been used: ROC, SRTCP index and replay window went with the packet loop.

        Sending under the same key from index 0 would be a two-time pad; receiving would take replays (RFC 3711 3.3.2,
        9.1). So a key that stays is one that nothing was sent or checked under: of a stream whose gate was closed all
        the time, and lines that were not answered yet; not those that the packet loop was told to send with when it
        died.
        """
        if self.config.protection is not Protection.SRTP or not self.opened:
            return
        unsure, self.unsure = self.unsure, False
        if unsure or self.sending is not None or self.receiving is not None:
            self.keyless = True
            if unsure or self.sending in self.offered:
                self.offered = ()
            self.sending = self.receiving = None
            self.config = replace(self.config, send=None, receive=None)


@dataclass(slots=True)
class Termination:
    """One side of a context. `interface_id` names what may fail for many terminations at once (IQ-10)."""

    termination_id: str
    side: Side
    interface_id: str
    streams: dict[int, StreamRecord] = field(default_factory=dict)


@dataclass(slots=True)
class Context:
    """A call at the gateway. `owner` is the NF instance that made it, and the only one that may change it."""

    context_id: str
    owner: str
    correlation: str
    emergency: bool
    created: float
    terminations: dict[str, Termination] = field(default_factory=dict)
    keys: dict[bytes, tuple[int, bool]] = field(default_factory=dict, repr=False)
    """Digest of every key of the call -> its stream and whether it is the peer's."""
    packets_seen: int = 0
    active_at: float = 0.0

    def termination(self, side: Side) -> Termination | None:
        """Return the termination of one side."""
        return next((each for each in self.terminations.values() if each.side is side), None)

    def take_keys(self, stream_id: int, lines: Iterable[CryptoAttribute], *, of_peer: bool) -> None:
        """Note the keys of one end of a stream. Raises KeyReuse for one of another stream or of the other end.

        RFC 4568 6.1: a key is unique among all streams of a session. Keys used before on the same end are the relay's
        to judge.
        """
        for line in lines:
            for key in line.all_keys:
                digest = sha256(key.reveal()).digest()
                if self.keys.setdefault(digest, (stream_id, of_peer)) != (stream_id, of_peer):
                    raise KeyReuse("a master key is used in more than one place")

    def used_keys(self, stream_id: int) -> frozenset[bytes]:
        """Digests of the keys of the call, those that the stream has now left out."""
        present: set[bytes] = set()
        for termination in self.terminations.values():
            record = termination.streams.get(stream_id)
            for line in (*record.offered, record.sending, record.receiving) if record is not None else ():
                present |= {sha256(key.reveal()).digest() for key in line.all_keys} if line is not None else set()
        return frozenset(self.keys.keys() - present)

    @property
    def keyless(self) -> list[tuple[Termination, list[int]]]:
        """Terminations with streams that need new keys, and these."""
        found = [
            (each, sorted(number for number, record in each.streams.items() if record.keyless))
            for each in self.terminations.values()
        ]
        return [(termination, streams) for termination, streams in found if streams]

    def relay_id(self, stream_id: int) -> str:
        """Name of a stream at the relay."""
        return f"{self.context_id}/{stream_id}"

    @property
    def stream_ids(self) -> list[int]:
        """Streams of either side."""
        return sorted({stream for each in self.terminations.values() for stream in each.streams})
