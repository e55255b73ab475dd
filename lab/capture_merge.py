"""What several nodes saw becomes one sequence: each message once, in the order of the nodes' clocks.

Pure: messages and a time in, messages out.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from protos import capture_pb2

FAR_AHEAD_NS = 1 << 62
"""A time later than any."""
SETTLE_NS = 400_000_000
"""How long a message waits for earlier ones of other nodes, nanoseconds."""
SAME_NS = 2_000_000_000
"""Both ends of one message are seen within this time, nanoseconds; so long one that is captured is waited for."""
TRANSIT_NS = 50_000_000
"""A message was sent this much before it was received, at most, so far as the order of a capture goes; nanoseconds."""
MOST_WAITING = 50_000
"""Messages that wait; more are left out and counted."""
MOST_OCTETS = 64 << 20
PATIENT_SHARE = 5
"""Other ends are waited for as long as not more than a fifth of what may wait does."""
MOST_TRACES = 10_000
"""Traces and Call-IDs of the chosen call that are remembered."""
MOST_SECONDS = 1e10
"""Times since the epoch that a packet can have, seconds."""
MEDIA = "media"

Address = tuple[str, int]


@dataclass(eq=False)
class Seen:
    """A message as one node saw it, later as both did; ``kind`` is a ``CaptureKind`` or ``MEDIA``."""

    node: str
    kind: int | str
    time_ns: int
    sent: bool
    source: Address
    destination: Address
    key: Hashable
    payload: bytes = b""
    transport: str = "UDP"
    comment: str = ""
    correlation: str = ""
    trace_id: str = ""
    sba: capture_pb2.SbaStep | None = None
    lost_before: int = 0
    both_ends: bool = False

    @property
    def size(self) -> int:
        """Octets it holds, about."""
        return len(self.payload) + (len(self.sba.body) if self.sba is not None else 0) + 500

    def absorb(self, other: Seen) -> None:
        """Take over what the other end knows better: the sender its time, whoever knows it an address."""
        self.both_ends = True
        source = self.source if self.source[1] else other.source
        destination = self.destination if self.destination[1] else other.destination
        if self.sba is not None and other.sba is not None and not self.sba.peer:
            self.sba.peer = other.sba.peer
        if other.sent and not self.sent:
            self.node, self.time_ns, self.sent, self.comment = other.node, other.time_ns, True, other.comment
        self.source, self.destination = source, destination


def of_message(node: str, message: capture_pb2.CapturedMessage, now_ns: int = FAR_AHEAD_NS) -> Seen:
    """Return what a node told of a message; what it says is yet to come happens ``now_ns``."""
    source = (message.source_ip, message.source_port)
    destination = (message.destination_ip, message.destination_port)
    kind = int(message.kind)
    if message.pair:
        key: Hashable = (kind, message.pair)
    elif message.HasField("sba"):
        key = (kind, node, message.sba.call, message.sba.phase, message.time_ns)
    else:
        key = (kind, source, destination, hashlib.sha256(message.payload).digest())
    return Seen(
        node=node,
        kind=kind,
        time_ns=min(message.time_ns, now_ns),
        sent=message.sent,
        source=source,
        destination=destination,
        key=key,
        payload=message.payload,
        transport=message.transport,
        comment=message.comment,
        correlation=message.correlation,
        trace_id=message.trace_id,
        sba=message.sba if message.HasField("sba") else None,
    )


def time_of(packet: capture_pb2.CapturedPacket) -> int:
    """Return when a packet passed, nanoseconds since the epoch; 0 where that cannot be."""
    return int(packet.timestamp * 1e9) if 0 <= packet.timestamp < MOST_SECONDS else 0  # nor is NaN


def of_packet(node: str, packet: capture_pb2.CapturedPacket, now_ns: int = FAR_AHEAD_NS) -> Seen:
    """Return what a gateway told of a media packet; what it says is yet to come happens ``now_ns``."""
    source = (packet.source_ip, packet.source_port)
    destination = (packet.destination_ip, packet.destination_port)
    return Seen(
        node=node,
        kind=MEDIA,
        time_ns=min(time_of(packet), now_ns),
        sent=False,
        source=source,
        destination=destination,
        key=(MEDIA, source, destination, packet.payload),
        payload=packet.payload,
        comment=packet.comment.removeprefix(f"{node} "),
        correlation=packet.correlation,
    )


@dataclass
class CallChoice:
    """Which messages belong to a call: ``wanted`` is a beginning of its Call-ID, or its trace id; empty for all."""

    wanted: str = ""
    _calls: set[str] = field(default_factory=set)
    _traces: set[str] = field(default_factory=set)

    def learn(self, seen: Seen) -> None:
        """Learn under which other names the call goes; to be told every message before it is judged."""
        if self.wanted and len(self._traces) + len(self._calls) < MOST_TRACES and self._is_named(seen):
            if seen.correlation:
                self._calls.add(seen.correlation)
            if seen.trace_id:
                self._traces.add(seen.trace_id)

    def _is_named(self, seen: Seen) -> bool:
        if seen.correlation and (seen.correlation.startswith(self.wanted) or seen.correlation in self._calls):
            return True
        return bool(seen.trace_id) and (seen.trace_id == self.wanted or seen.trace_id in self._traces)

    def takes(self, seen: Seen) -> bool:
        """Tell whether a message belongs to the call."""
        return not self.wanted or self._is_named(seen)


class Merger:
    """Collects what nodes tell and gives it back settled."""

    def __init__(self, choice: CallChoice | None = None) -> None:
        self.lost: dict[str, int] = {}
        self._choice = choice or CallChoice()
        self._waiting: list[Seen] = []
        self._octets = 0
        self._unpaired: dict[Hashable, deque[tuple[Seen, str]]] = {}
        self._gaps: dict[str, int] = {}
        self._nodes_at: dict[str, set[str]] = {}
        self._swept = 0

    def captures(self, node: str, hosts: Iterable[str]) -> None:
        """Note under which addresses and FQDN a node is met that tells its messages; none when it does no more."""
        others = {host: nodes - {node} for host, nodes in self._nodes_at.items()}
        self._nodes_at = {host: nodes for host, nodes in others.items() if nodes}
        for host in hosts:
            self._nodes_at.setdefault(host, set()).add(node)

    def add(self, seen: Seen) -> None:
        """Take what a node saw; the second sight of a message completes the first."""
        self._choice.learn(seen)
        others = self._unpaired.get(seen.key)
        if others is not None:
            for index, (known, node) in enumerate(others):
                if node != seen.node and abs(known.time_ns - seen.time_ns) < SAME_NS:
                    del others[index]
                    if not others:
                        del self._unpaired[seen.key]
                    known.absorb(seen)
                    return
        if len(self._waiting) >= MOST_WAITING or self._octets > MOST_OCTETS:
            self.missed(seen.node, 1)
            return
        self._waiting.append(seen)
        self._octets += seen.size
        self._unpaired.setdefault(seen.key, deque()).append((seen, seen.node))

    def missed(self, node: str, count: int) -> None:
        """Note that messages of a node were lost on their way here."""
        self.lost[node] = self.lost.get(node, 0) + count
        self._gaps[node] = self._gaps.get(node, 0) + count

    def settled(self, now_ns: int) -> list[Seen]:
        """Return what has waited long enough, in order; with a time far ahead everything."""
        horizon = min(now_ns - SETTLE_NS, self._awaited_since(now_ns - SAME_NS) - 1)
        ready = sorted((seen for seen in self._waiting if seen.time_ns <= horizon), key=lambda seen: seen.time_ns)
        if ready:
            self._waiting = [seen for seen in self._waiting if seen.time_ns > horizon]
            self._octets = sum(seen.size for seen in self._waiting)
        if now_ns - self._swept > SAME_NS:
            self._swept = now_ns
            self._sweep(now_ns)
        taken = [seen for seen in ready if self._choice.takes(seen)]
        for seen in taken:
            seen.lost_before = self._gaps.pop(seen.node, 0)
        return taken

    @property
    def awaits(self) -> bool:
        """Whether a message is here that another captured node has still to tell of."""
        return any(map(self._awaits, self._waiting))

    def _awaited_since(self, patient_ns: int) -> int:
        """The time before which no message waits for its other end, but for those that have waited long enough."""
        if len(self._waiting) * PATIENT_SHARE > MOST_WAITING or self._octets * PATIENT_SHARE > MOST_OCTETS:
            return FAR_AHEAD_NS
        since = (
            seen.time_ns - (0 if seen.sent else TRANSIT_NS)
            for seen in self._waiting
            if seen.time_ns > patient_ns and self._awaits(seen)
        )
        return min(since, default=FAR_AHEAD_NS)

    def _awaits(self, seen: Seen) -> bool:
        if seen.both_ends or seen.kind == MEDIA:  # of media nobody tells but gateways
            return False
        far = (seen.destination if seen.sent else seen.source)[0]
        names = (far, seen.sba.peer) if seen.sba is not None else (far,)
        return any(self._nodes_at.get(name, {seen.node}) - {seen.node} for name in names)

    def _sweep(self, now_ns: int) -> None:
        for key in list(self._unpaired):
            left = deque(item for item in self._unpaired[key] if now_ns - item[0].time_ns < SAME_NS)
            if left:
                self._unpaired[key] = left
            else:
                del self._unpaired[key]
