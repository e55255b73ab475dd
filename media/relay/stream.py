"""A stream: two sides, each with its ports, keys, sources and counters."""

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address

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
from media.relay.port import Port, usable

_FIRST_FAILURE_THRESHOLD = 50


class StreamSide:
    """One side of a stream. Counters are plain integers the packet loop adds to."""

    __slots__ = (
        "config",
        "drops",
        "failure_threshold",
        "last_in",
        "last_out",
        "name",
        "octets_in",
        "octets_out",
        "packets_in",
        "packets_out",
        "receiver",
        "resume",
        "rtcp",
        "rtcp_in",
        "rtcp_out",
        "rtp",
        "sender",
        "silence_told",
        "sources",
        "started",
        "stream",
        "tally",
    )

    def __init__(
        self,
        stream: "Stream",
        name: Side,
        config: SideConfig,
        ports: tuple[Port, Port | None],
        tally: Tally,
        now: float,
    ) -> None:
        self.stream = stream
        self.tally = tally
        self.name = name
        self.config = config
        self.rtp, self.rtcp = ports
        self.receiver: Receiver | None = None
        self.sender: Sender | None = None
        self.sources: dict[int, Source] = {}
        self.drops: Counter[DropCause] = Counter()
        self.packets_in = self.packets_out = self.octets_in = self.octets_out = self.rtcp_in = self.rtcp_out = 0
        self.started = self.last_in = self.last_out = now
        self.silence_told = False
        self.failure_threshold = _FIRST_FAILURE_THRESHOLD
        self.resume: Resume | None = None

    @property
    def far(self) -> "StreamSide | None":
        """The side packets of this one leave from."""
        return self.stream.sides.get(self.name.other)

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

    def take_keys(self, config: SideConfig, now: float, *, reset_receive: bool) -> None:
        """Bring the contexts to the keys of `config`. Unchanged keys keep their context.

        Raises BadStreamConfigError, KeyReusedError; the side is then as it was.
        """
        if config.protection is not Protection.SRTP:
            self.receiver = self.sender = None
            return
        receive, send = config.receive, config.send
        new_receive = receive is not None and (self.receiver is None or self.receiver.keys != receive)
        new_send = send is not None and (self.sender is None or self.sender.keys != send)
        for keys in (receive, send):
            if keys is not None:
                check_keys(keys)
        if receive is not None and reset_receive and not new_receive and self.receiver is not None:
            raise KeyReusedError("a new remote address needs a new key")
        used = self.stream.used_keys
        trial = UsedKeys(set(used.digests))
        for fresh, keys in ((new_receive, receive), (new_send, send)):
            if fresh and keys is not None:
                trial.take(keys)
        used.digests = trial.digests
        if new_receive and receive is not None:
            self.rekey_receive(receive, now, reset_roc=reset_receive)
        if new_send and send is not None:
            self.rekey_send(send, reset_roc=False)

    def change_keys(self, send: KeySet | None, receive: KeySet | None, now: float, *, reset_roc: bool) -> None:
        """Change one or both keys at once. Raises BadStreamConfigError, KeyReusedError; the side is then as it was."""
        trial = UsedKeys(set(self.stream.used_keys.digests))
        for keys in (send, receive):
            if keys is not None:
                check_keys(keys)
                trial.take(keys)
        self.stream.used_keys.digests = trial.digests
        if receive is not None:
            self.rekey_receive(receive, now, reset_roc=reset_roc)
        if send is not None:
            self.rekey_send(send, reset_roc=reset_roc)

    def rekey_receive(self, keys: KeySet, now: float, *, reset_roc: bool) -> None:
        """Receive with `keys` from now on, and with the old ones for a while."""
        if self.receiver is None:
            self.receiver = Receiver(keys, self.stream.buffer)
            if self.resume is not None and not reset_roc:
                self.receiver.resume(self.resume.received)
                for ssrc, (_, sequence) in self.resume.received.items():
                    self.sources[ssrc] = Source(ssrc, 0)
                    self.sources[ssrc].note(sequence)
        else:
            self.receiver.rekey(keys, self.sources, now, reset_roc=reset_roc)
        if reset_roc:
            self.sources.clear()

    def rekey_send(self, keys: KeySet, *, reset_roc: bool) -> None:
        """Send with `keys` from now on."""
        if self.sender is None:
            self.sender = Sender(keys, self.stream.buffer)
            if self.resume is not None and not reset_roc:
                self.sender.resume(self.resume.sent)
        else:
            self.sender.rekey(keys, reset_roc=reset_roc)

    def remote_moved(self, config: SideConfig) -> bool:
        """Whether `config` signals another remote address than before; a hold to nowhere is no move."""
        before, after = usable(self.config.remote), usable(config.remote)
        return before is not None and after is not None and before != after

    def known(self, ssrc: int) -> bool:
        """Whether an SSRC is bound here or may still be."""
        return ssrc in self.sources or len(self.sources) < MAX_SSRCS

    def source(self, ssrc: int) -> Source:
        """Return the state of an accepted SSRC, made at its first packet."""
        source = self.sources.get(ssrc)
        if source is None:
            source = self.sources[ssrc] = Source(ssrc, 0)
        return source

    @property
    def counters(self) -> tuple[int, int, int, int, int, int]:
        """Counters in the order of :class:`SideCounts`."""
        return self.packets_in, self.packets_out, self.octets_in, self.octets_out, self.rtcp_in, self.rtcp_out

    def statistics(self, now: float) -> SideStatistics:
        """Copy the counters."""
        suite = ""
        keys = self.config.receive or self.config.send
        if self.config.protection is Protection.SRTP and keys is not None:
            suite = keys.suite.name
        sources = self.sources.values()
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
            lost=sum(source.lost for source in sources),
            jitter_ms=max((source.jitter for source in sources), default=0.0) * 1000.0 / rate,
            duration_s=now - self.started,
            received=self._received(),
            sent=self._sent(),
        )

    def _received(self) -> dict[int, SrtpIndex]:
        """Positions under the keys of this side's peer; those of the packet loop before, until there are keys."""
        if self.receiver is None:
            return {} if self.resume is None else dict(self.resume.received)
        rocs = {ssrc: self.receiver.session.roc(ssrc) for ssrc in self.sources}
        return {
            ssrc: (roc, self.sources[ssrc].highest)
            for ssrc, roc in rocs.items()
            if roc is not None and self.sources[ssrc].received
        }

    def _sent(self) -> dict[int, SrtpIndex]:
        """Positions under this side's own keys, of what the far side brings."""
        positions = {} if self.resume is None else dict(self.resume.sent)
        if self.sender is not None and self.far is not None:
            for ssrc, source in self.far.sources.items():
                roc = self.sender.session.roc(ssrc)
                if roc is not None and source.received:
                    positions[ssrc] = roc, source.highest
        return positions


class Stream:
    """Both sides of a stream and what they share: the buffer of the loop and the keys ever used."""

    __slots__ = ("buffer", "guard", "sides", "stream_id", "tapped", "used_keys")

    def __init__(
        self, stream_id: str, buffer: PacketBuffer, guard: AbstractContextManager[object] | None = None
    ) -> None:
        self.stream_id = stream_id
        self.buffer = buffer
        self.guard = guard or nullcontext()
        """Held while anything is done that a thread carrying packets of this stream must not see half done."""
        self.sides: dict[Side, StreamSide] = {}
        self.used_keys = UsedKeys()
        self.tapped = False

    def statistics(self, now: float) -> RelayStatistics:
        """Copy the counters of both sides."""
        return RelayStatistics(self.stream_id, {name: side.statistics(now) for name, side in self.sides.items()})


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
