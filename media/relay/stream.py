"""A stream: two sides, each with its ports, keys, sources and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address
from typing import TYPE_CHECKING

from media.relay.board import Tally
from media.relay.contexts import Receiver, Sender, Source, UsedKeys
from media.relay.interface import (
    MAX_SSRCS,
    Address,
    BadStreamConfigError,
    DropCause,
    KeyReusedError,
    KeySet,
    LocalAddress,
    Protection,
    RelayStatistics,
    Resume,
    Side,
    SideConfig,
    SideStatistics,
    SrtpIndex,
)
from media.relay.libsrtp import PacketBuffer, check_keys
from media.relay.port import Port, terms_of, usable

if TYPE_CHECKING:
    from media.relay.fast_path import Flow

_FIRST_FAILURE_THRESHOLD = 50
_NO_DROPS: Mapping[DropCause, int] = Counter()
"""What most sides have dropped, as long as there are streams."""


class StreamSide:
    """One side of a stream. Counters are plain integers the packet loop adds to.

    `config` is without addresses and keys, see :func:`media.relay.port.terms_of`; `remote` is the signalled peer.
    """

    __slots__ = (
        "_drops",
        "_first_source",
        "config",
        "failure_threshold",
        "far",
        "flow",
        "last_in",
        "last_out",
        "name",
        "octets_in",
        "octets_out",
        "packets_in",
        "packets_out",
        "receiver",
        "remote",
        "resume",
        "rtcp",
        "rtcp_in",
        "rtcp_out",
        "rtp",
        "sender",
        "silence_told",
        "started",
        "stream",
        "tally",
    )

    def __init__(
        self,
        stream: Stream,
        name: Side,
        config: SideConfig,
        ports: tuple[Port, Port | None],
        tally: Tally,
        now: float,
    ) -> None:
        self.stream = stream
        self.tally = tally
        self.name = name
        self.configure(config)
        self.rtp, self.rtcp = ports
        self.flow: Flow | None = None
        """Who carries what the peer sends to the RTP port, once the peer is known."""
        self.far: StreamSide | None = None
        """The side packets of this one leave from."""
        self.receiver: Receiver | None = None
        self.sender: Sender | None = None
        self._first_source: Source | None = None
        self._drops: Counter[DropCause] | None = None
        self.packets_in = self.packets_out = self.octets_in = self.octets_out = self.rtcp_in = self.rtcp_out = 0
        self.started = self.last_in = self.last_out = now
        self.silence_told = False
        self.failure_threshold = _FIRST_FAILURE_THRESHOLD
        self.resume: Resume | None = None

    @property
    def local(self) -> LocalAddress:
        """Where this side receives."""
        ip, port = self.rtp.local
        if self.config.rtcp_mux:
            return LocalAddress(ip, port, port)
        return LocalAddress(ip, port, self.rtcp.local[1] if self.rtcp is not None and self.config.rtcp else 0)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The open ports."""
        return (self.rtp,) if self.rtcp is None else (self.rtp, self.rtcp)

    @property
    def gate_open(self) -> bool:
        """Whether RTP may come in here and leave on the other side."""
        far = self.far
        return far is not None and self.config.mode.receives and far.config.mode.sends

    def rtcp_port(self) -> Port | None:
        """The port RTCP to the peer leaves from; None when the side has no RTCP."""
        if not self.config.rtcp:
            return None
        return self.rtp if self.config.rtcp_mux else self.rtcp

    def configure(self, config: SideConfig) -> None:
        """Keep a configuration, but for its keys."""
        self.config = terms_of(config)
        self.remote = config.remote

    def take_keys(self, config: SideConfig, now: float, *, reset_receive: bool) -> None:
        """Bring the contexts to the keys of `config`. Unchanged keys keep their context.

        Raises BadStreamConfigError, KeyReusedError; the side is then as it was.
        """
        if config.protection is not Protection.SRTP:
            self.receiver = self.sender = None
            return
        receive, send = config.receive, config.send
        for keys in (receive, send):
            if keys is not None:
                check_keys(keys)
        new_receive = receive is not None and (self.receiver is None or not self.receiver.has(receive))
        new_send = send is not None and (self.sender is None or not self.sender.has(send))
        if receive is not None and reset_receive and not new_receive and self.receiver is not None:
            raise KeyReusedError("a new remote address needs a new key")
        used = self.stream.used_keys
        for fresh, keys in ((new_receive, receive), (new_send, send)):
            if fresh and keys is not None:
                used = used.taking(keys)
        self.stream.used_keys = used
        if new_receive and receive is not None:
            self.rekey_receive(receive, now, reset_roc=reset_receive)
        if new_send and send is not None:
            self.rekey_send(send, reset_roc=False)

    def change_keys(self, send: KeySet | None, receive: KeySet | None, now: float, *, reset_roc: bool) -> None:
        """Change one or both keys at once. Raises BadStreamConfigError, KeyReusedError; the side is then as it was."""
        used = self.stream.used_keys
        for keys in (send, receive):
            if keys is not None:
                check_keys(keys)
                used = used.taking(keys)
        self.stream.used_keys = used
        if receive is not None:
            self.rekey_receive(receive, now, reset_roc=reset_roc)
        if send is not None:
            self.rekey_send(send, reset_roc=reset_roc)

    def rekey_receive(self, keys: KeySet, now: float, *, reset_roc: bool) -> None:
        """Receive with `keys` from now on, and with the old ones for a while."""
        if self.receiver is None:
            self.receiver = Receiver(keys, self.stream.buffer)
            if self.resume is not None and not reset_roc:
                self.receiver.resume(keys, self.resume.received)
                for ssrc, (_, sequence) in self.resume.received.items():
                    self.source(ssrc).note(sequence)
        else:
            self.receiver.rekey(keys, self.sources, now, reset_roc=reset_roc)
        if reset_roc:
            self._first_source = None

    def rekey_send(self, keys: KeySet, *, reset_roc: bool) -> None:
        """Send with `keys` from now on."""
        if self.sender is None:
            self.sender = Sender(keys, self.stream.buffer)
            if self.resume is not None and not reset_roc:
                self.sender.resume(keys, self.resume.sent)
                self.sender.go_on_after(self.resume.srtcp_sent)
        else:
            self.sender.rekey(keys, reset_roc=reset_roc)

    def remote_moved(self, config: SideConfig) -> bool:
        """Whether `config` signals another remote address than before; a hold to nowhere is no move."""
        before, after = usable(self.remote), usable(config.remote)
        return before is not None and after is not None and before != after

    @property
    def sources(self) -> list[Source]:
        """The SSRCs that were accepted, in the order of their first packets."""
        found, source = [], self._first_source
        while source is not None:
            found.append(source)
            source = source.following
        return found

    def known(self, ssrc: int) -> bool:
        """Whether an SSRC is bound here or may still be."""
        return len(self.sources) < MAX_SSRCS or self.find(ssrc) is not None

    def find(self, ssrc: int) -> Source | None:
        """Return the state of an SSRC, None when it was not accepted before."""
        source = self._first_source
        while source is not None and source.ssrc != ssrc:
            source = source.following
        return source

    def source(self, ssrc: int) -> Source:
        """Return the state of an accepted SSRC, made at its first packet."""
        source = self.find(ssrc)
        if source is None:
            source, before = Source(ssrc, 0), self.sources
            if before:
                before[-1].following = source
            else:
                self._first_source = source
        return source

    @property
    def counters(self) -> tuple[int, int, int, int, int, int]:
        """Counters in the order of :class:`SideCounts`."""
        return self.packets_in, self.packets_out, self.octets_in, self.octets_out, self.rtcp_in, self.rtcp_out

    @property
    def drops(self) -> Mapping[DropCause, int]:
        """Packets that were dropped by cause; 0 for others."""
        return _NO_DROPS if self._drops is None else self._drops

    def count_drops(self, cause: DropCause, count: int) -> None:
        """Add to :attr:`drops`."""
        if self._drops is None:
            self._drops = Counter()
        self._drops[cause] += count

    def statistics(self, now: float) -> SideStatistics:
        """Copy the counters."""
        suite = ""
        context = self.receiver or self.sender
        if context is not None:
            suite = context.suite.name
        rate = self.config.clock_rate or 8000
        return SideStatistics(
            protection=self.config.protection,
            suite=suite,
            packets_in=self.packets_in,
            packets_out=self.packets_out,
            octets_in=self.octets_in,
            octets_out=self.octets_out,
            rtcp_in=self.rtcp_in,
            rtcp_out=self.rtcp_out,
            drops=dict(self.drops),
            latch_changes=self.rtp.latch_changes,
            latched=self.rtp.latched,
            lost=sum(source.lost for source in self.sources),
            jitter_ms=max((source.jitter for source in self.sources), default=0.0) * 1000.0 / rate,
            duration_s=now - self.started,
            received=self._received(),
            sent=self._sent(),
        )

    def _received(self) -> dict[int, SrtpIndex]:
        """Positions under the keys of this side's peer; those of the packet loop before, until there are keys."""
        if self.receiver is None:
            return {} if self.resume is None else dict(self.resume.received)
        rocs = [(source, self.receiver.session.roc(source.ssrc)) for source in self.sources]
        return {source.ssrc: (roc, source.highest) for source, roc in rocs if roc is not None and source.received}

    def _sent(self) -> dict[int, SrtpIndex]:
        """Positions under this side's own keys, of what the far side brings."""
        positions = {} if self.resume is None else dict(self.resume.sent)
        if self.sender is not None and self.far is not None:
            for source in self.far.sources:
                roc = self.sender.session.roc(source.ssrc)
                if roc is not None and source.received:
                    positions[source.ssrc] = roc, source.highest
        return positions


class Stream:
    """Both sides of a stream and what they share: the buffer of the loop and the keys ever used."""

    __slots__ = ("_access", "_core", "buffer", "guard", "stream_id", "tapped", "used_keys")

    def __init__(
        self, stream_id: str, buffer: PacketBuffer, guard: AbstractContextManager[object] | None = None
    ) -> None:
        self.stream_id = stream_id
        self.buffer = buffer
        self.guard = guard or nullcontext()
        """Held while anything is done that a thread carrying packets of this stream must not see half done."""
        self._access: StreamSide | None = None
        self._core: StreamSide | None = None
        self.used_keys = UsedKeys()
        self.tapped = False

    @property
    def sides(self) -> Mapping[Side, StreamSide]:
        """The sides there are."""
        return {side.name: side for side in (self._access, self._core) if side is not None}

    def join(self, side: StreamSide) -> None:
        """Take in a side."""
        self._put(side.name, side)

    def part(self, side: StreamSide) -> None:
        """Let go of a side."""
        side.far = None
        self._put(side.name, None)

    def _put(self, name: Side, side: StreamSide | None) -> None:
        if name is Side.ACCESS:
            self._access = side
        else:
            self._core = side
        for each in self.sides.values():
            each.far = self._core if each.name is Side.ACCESS else self._access

    def statistics(self, now: float) -> RelayStatistics:
        """Copy the counters of both sides."""
        return RelayStatistics(self.stream_id, {name: side.statistics(now) for name, side in self.sides.items()})


def check_resume(side: SideConfig, resume: Resume | None) -> None:
    """Raise BadStreamConfigError for a side that brings a key it was sent or received with before (RFC 3711 9.1)."""
    if resume is not None and ((side.send and resume.sent) or (side.receive and resume.received)):
        raise BadStreamConfigError("a key that was used in another packet loop is not taken over")


def check_sides(sides: Mapping[Side, SideConfig]) -> None:
    """Raise BadStreamConfigError when the sides cannot be joined or a side contradicts itself."""
    protections = {config.protection for config in sides.values()}
    if Protection.OPAQUE in protections and len(protections) > 1:
        raise BadStreamConfigError("an opaque side needs an opaque side opposite")
    for config in sides.values():
        if config.protection is not Protection.SRTP and (config.send or config.receive):
            raise BadStreamConfigError("keys belong to an SRTP side")
        if not 0 <= config.dscp <= 63:
            raise BadStreamConfigError("a DiffServ code point has six bits")
        for address in (config.remote, config.remote_rtcp):
            _check_address(address, config.local_ip)


def _check_address(address: Address | None, local_ip: str) -> None:
    if address is None:
        return
    if not 0 <= address[1] <= 65535:
        raise BadStreamConfigError("a UDP port lies between 0 and 65535")
    try:
        parsed = ip_address(address[0])
    except ValueError:
        raise BadStreamConfigError("a peer is named by its IP address") from None  # a name would be looked up
    if "%" in str(parsed):
        raise BadStreamConfigError("the zone of an IPv6 address means nothing elsewhere")
    if (":" in address[0]) != (":" in local_ip):
        raise BadStreamConfigError("local and remote address are of different IP versions")
