"""The media of a call as a path from UE to UE: what protects each leg, by what key, and who could listen.

Pure. What nodes saw of their ends (``End``) is joined by addresses: the far end of a leg is the one whose own address
is the remote address of the near end. Inside a gateway the two ends of a context meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lab.spans import Span, as_number
from protos import iq_pb2

SRTP, RTP, OPAQUE = "SRTP", "RTP", "opaque"
SDES, TICKET = "SDES", "MIKEY-TICKET"
_SIDES = {iq_pb2.ACCESS: "access", iq_pb2.CORE: "core"}
_KEYING = {"e2e-sdes": SDES, "e2e-kms": TICKET}
_MOST_LEGS = 16


@dataclass(frozen=True)
class End:
    """One end of a leg as its node saw it; counters are packets of the direction that arrived, but ``packets_out``."""

    node: str
    side: str
    stream: str
    protection: str
    keying: str = ""
    suite: str = ""
    scope: str = ""
    context: str = ""
    local: str = ""
    remote: str = ""
    packets_in: int = 0
    packets_out: int = 0
    auth_failures: int = 0
    replays: int = 0
    lost: int | None = None
    jitter_ms: float | None = None
    drops: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether any packet came or went, taken or not."""
        return any((self.packets_in, self.packets_out, self.auth_failures, self.replays, *self.drops.values()))


@dataclass(frozen=True)
class Surroundings:
    """What is known of a call besides its media.

    ``nodes`` are those its signalling passed, ``kinds`` and ``networks`` of nodes by instance; ``hosts`` gives the node
    behind an IP address; ``kms`` are those that granted or resolved a ticket of this call; ``clear_gm`` are UEs whose
    signalling to the P-CSCF is not encrypted. A call that is not ``answered`` has no media, only what was reserved.
    """

    caller: str
    callee: str
    security: str
    nodes: tuple[str, ...]
    kinds: Mapping[str, str]
    networks: Mapping[str, str]
    hosts: Mapping[str, str]
    kms: tuple[str, ...] = ()
    clear_gm: frozenset[str] = frozenset()
    answered: bool = True


@dataclass(frozen=True)
class Leg:
    """From one node to the next, caller first; ``near`` and ``far`` are what the two said, where they said anything."""

    source: str
    target: str
    side: str
    near: End | None
    far: End | None


def ends_of_spans(spans: Iterable[Span]) -> list[End]:
    """Return what ``media.association`` spans say."""
    return [_end_of_span(span) for span in spans if span.name == "media.association"]


def _end_of_span(span: Span) -> End:
    def said(key: str) -> str:
        return next((text for prefix in ("imslab.media.", "media.", "") if (text := span.text(prefix + key))), "")

    def count(key: str) -> int:
        return int(as_number(said(key)))

    drops = {
        key.rpartition("drops.")[2]: span.number(key)
        for key in span.attributes
        if key.startswith(("drops.", "imslab.media.drops.")) and span.number(key)
    }
    jitter, _, exponent = said("jitter_ms").partition("e-")
    return End(
        node=span.node,
        side=said("side").lower(),
        stream=said("stream") or "1",
        protection=said("protection"),
        keying=said("keying"),
        suite=said("suite"),
        scope=said("scope"),
        context=said("context"),
        local=said("local"),
        remote=said("remote"),
        packets_in=count("packets_in"),
        packets_out=count("packets_out"),
        auth_failures=count("auth_failures"),
        replays=count("replays"),
        lost=count("lost") if said("lost") else None,
        jitter_ms=as_number(jitter) / 10 ** min(as_number(exponent), 99) if jitter else None,
        drops=drops,
    )


def ends_of_audit(gateway: str, audit: iq_pb2.AuditResponse, call_id: str) -> list[End]:
    """Return what a gateway says of its ends of a call in progress."""
    return [
        End(
            node=gateway,
            side=_SIDES.get(row.side, ""),
            stream=str(row.stream_id or 1),
            protection=row.protection,
            keying=SDES if row.protection == SRTP else "",
            suite=row.suite,
            context=context.context_id,
            local=_own_address(context, row),
            remote=row.latched,
            packets_in=row.packets_in,
            packets_out=row.packets_out,
            auth_failures=row.auth_failures,
            replays=row.replays,
            lost=row.lost,
            jitter_ms=row.jitter_ms,
            drops={drop.cause: drop.packets for drop in row.drops if drop.packets},
        )
        for context in audit.contexts
        if context.correlation == call_id
        for row in context.statistics
    ]


def _own_address(context: iq_pb2.ContextAudit, row: iq_pb2.StreamStatistics) -> str:
    for termination in context.terminations:
        for stream in termination.streams if termination.termination_id == row.termination_id else ():
            if stream.stream_id == row.stream_id and stream.port:
                return f"[{stream.ip}]:{stream.port}" if ":" in stream.ip else f"{stream.ip}:{stream.port}"
    return ""


def host_of(address: str) -> str:
    """Return the host of ``host:port``."""
    return address.rpartition(":")[0].strip("[]")


# the path


def legs_of(ends: Sequence[End], around: Surroundings) -> list[Leg]:
    """Return the legs of one stream from the caller on; ``ends`` are those of this stream."""
    left = list(ends)
    legs: list[Leg] = []
    here = _first(left, around)
    if here is not None and here.side != "end":  # the caller said nothing: a foreign client, or a call in progress
        legs.append(_leg(None, here, around))
        left.remove(here)
        here = _through(left, here)
    while here is not None and len(legs) < _MOST_LEGS:
        left.remove(here)
        far = _opposite(left, here)
        legs.append(_leg(here, far, around))
        if far is None:
            break
        left.remove(far)
        here = _through(left, far)
    return legs


def _first(ends: Sequence[End], around: Surroundings) -> End | None:
    own = [end for end in ends if end.node == around.caller and end.side == "end"]
    if own:
        return own[0]
    access = [end for end in ends if end.side == "access"]
    near = [end for end in access if around.hosts.get(host_of(end.remote)) == around.caller]
    if near or len(access) == 1:
        return (near or access)[0]
    away = [end for end in access if around.hosts.get(host_of(end.remote)) != around.callee]
    by_signalling = sorted(away or access, key=lambda end: _place(end.node, around.nodes))
    return by_signalling[0] if by_signalling else next(iter(ends), None)


def _place(node: str, nodes: Sequence[str]) -> int:
    return nodes.index(node) if node in nodes else len(nodes)


def _opposite(ends: Sequence[End], here: End) -> End | None:
    """Return the end of the same leg: by address, and in the core, where nothing is latched, the only one left."""
    facing = [
        end for end in ends if (here.local and end.remote == here.local) or (here.remote and end.local == here.remote)
    ]
    if facing:
        return facing[0]
    core = [end for end in ends if here.side == end.side == "core" and not (here.remote and end.remote)]
    return core[0] if len(core) == 1 else None


def _through(ends: Sequence[End], here: End) -> End | None:
    """Return the other end inside a gateway."""
    if here.side == "end":
        return None
    return next(
        (end for end in ends if end.node == here.node and end.context == here.context and end.side != here.side), None
    )


def _leg(near: End | None, far: End | None, around: Surroundings) -> Leg:
    known = near or far
    assert known is not None
    beyond = around.hosts.get(host_of(known.remote), "")
    if known.side == "access" and not beyond:
        beyond = around.caller if near is None else around.callee
    source = near.node if near is not None else beyond or known.remote or "?"
    target = far.node if far is not None else beyond or known.remote or "?"
    sides = {end.side for end in (near, far) if end is not None}
    return Leg(source, target, "core" if sides == {"core"} else "access", near, far)


# what it means


@dataclass(frozen=True)
class Protection:
    """How a leg is protected; ``scope`` is ``e2ae``, ``e2e`` or empty."""

    protection: str
    keying: str = ""
    suite: str = ""
    scope: str = ""

    @property
    def clear(self) -> bool:
        """Whether whoever taps the wire hears the call."""
        return self.protection == RTP


def protections(legs: Sequence[Leg], security: str) -> list[Protection]:
    """Return the protection of each leg.

    A gateway that forwards untouched does not know what it forwards: the UEs at the ends say it, else what was agreed.
    """
    whole = next((_own(end) for end in _ues(legs) if end.scope == "e2e" or security.startswith("e2e-")), None)
    if whole is None and security.startswith("e2e-"):
        whole = Protection(SRTP, _KEYING.get(security, security.removeprefix("e2e-")), "", "e2e")
    return [_protection(leg, whole) for leg in legs]


def _ues(legs: Sequence[Leg]) -> Iterator[End]:
    return (end for leg in legs for end in (leg.near, leg.far) if end is not None and end.side == "end")


def _own(end: End) -> Protection:
    scope = end.scope or ("e2ae" if end.protection == SRTP else "")
    return Protection(end.protection, end.keying, end.suite, scope)


def _protection(leg: Leg, whole: Protection | None) -> Protection:
    ends = [end for end in (leg.near, leg.far) if end is not None]
    gateways = [end for end in ends if end.side != "end"]
    if gateways and all(end.protection == OPAQUE for end in gateways):
        own = next((_own(end) for end in ends if end.side == "end"), None)
        if whole is not None:
            return replace(whole, scope="e2e")
        return own if own is not None else Protection(OPAQUE)
    own = next((_own(end) for end in ends if end.side == "end" and end.protection), None)
    if own is not None:
        suite = own.suite or next((end.suite for end in gateways if end.suite), "")
        return replace(own, suite=suite)
    first = gateways[0] if gateways else ends[0]
    return Protection(first.protection, first.keying, first.suite, "e2ae" if first.protection == SRTP else "")
