"""From spans to the ladder of a call: who sent what to whom, which key decision fell where, what each media leg was.

Pure functions over the tracing convention of the nodes: SIP transactions are spans with one ``sip.message`` event a
message, key decisions are ``key.decision`` spans, media legs are ``media.association`` spans, service operations are
gRPC client and server spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lab.ladder_http import HTTP_POINTS, http_steps, is_beside_sip, is_http, mikey_steps
from lab.ladder_steps import MediaEnd, Step, at_ms, record_id
from lab.spans import Span, SpanEvent, as_number, as_text

MATCH_SLACK_NS = 5_000_000
"""How much earlier than its sending a message may seem to arrive (two clocks reads, one machine), nanoseconds."""
_HIDDEN_SERVICES = ("ims.ue_control", "ims.kms_control", "ims.capture", "grpc.health", "opentelemetry")
_REFERENCE_POINTS = {
    "ims.iq": "Iq",
    "ims.hss_ueau": "N70",
    "ims.hss_uecm": "N70",
    "ims.hss_sdm": "N70",
    "ims.hss_gba": "Zh",
    "ims.bsf_gba": "Zn",
    "ims.kms_resolve": "Zk",
    "ims.nrf_nfm": "Nnrf",
    "ims.nrf_disc": "Nnrf",
    "ims.nrf_oauth2": "Nnrf",
}
INTERFACES = ("Gm", "Mw", "SBI", *HTTP_POINTS.values(), *dict.fromkeys(_REFERENCE_POINTS.values()))
"""Names of interfaces that an arrow can have."""
_PLACE = {
    "UE": 0,
    "PCSCF": 1,
    "IMS_AGW": 2,
    "SCSCF": 3,
    "ICSCF": 3,
    "IMS_AS": 4,
    "KMS": 4,
    "BSF": 5,
    "HSS": 5,
    "NRF": 6,
}
_HOME_PLACES = range(3, 6)
"""Places of the nodes of a home network: those of the caller's stand before those of others."""


@dataclass(frozen=True)
class Message:
    """A SIP message as one node saw it leave or arrive; ``peer`` is the address at the other end.

    ``id`` is that of its record.
    """

    time_ns: int
    node: str
    sent: bool
    peer: str
    start_line: str
    cseq: str
    text: str
    retransmission: bool
    interface: str
    transport: str
    local: tuple[str, int]
    remote: tuple[str, int]
    id: str


@dataclass(frozen=True)
class Ladder:
    """A call as the page draws it: participants from left to right, steps from top to bottom."""

    call_id: str
    trace_id: str
    start_ns: int
    participants: tuple[str, ...]
    steps: tuple[Step, ...]
    traces: tuple[str, ...] = field(default=())


def messages_of(spans: Iterable[Span], names: Mapping[str, str]) -> list[Message]:
    """Return every SIP message of ``spans`` in time order; ``names`` gives the node behind an address."""
    found = [
        _message(span, number, event, names)
        for span in spans
        if span.name.startswith("SIP ")
        for number, event in enumerate(span.events)
        if event.name == "sip.message"
    ]
    return sorted(found, key=lambda message: (message.time_ns, not message.sent))


def _message(span: Span, number: int, event: SpanEvent, names: Mapping[str, str]) -> Message:
    remote = (span.text("network.peer.address"), span.number("network.peer.port"))
    return Message(
        time_ns=event.time_ns,
        node=span.node,
        sent=event.text("direction") == "sent",
        peer=names.get(remote[0]) or _at(remote),
        start_line=event.text("start_line"),
        cseq=span.text("sip.cseq"),
        text=event.text("text"),
        retransmission=event.attributes.get("retransmission") is True,
        interface=span.text("imslab.interface"),
        transport=span.text("sip.transport") or span.text("network.transport"),
        local=(span.text("network.local.address"), span.number("network.local.port")),
        remote=remote,
        id=record_id(span, f"sip {number}"),
    )


def _at(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}" if address[0] else "?"


def pair_messages(messages: Sequence[Message], nodes: frozenset[str]) -> list[tuple[Message | None, Message | None]]:
    """Pair each sent message with its arrival.

    A sending without arrival keeps ``None`` on the right (lost, or the peer is not of the lab); an arrival without
    sending keeps ``None`` on the left. ``nodes`` are those that report; between two of them both ends are expected.
    """
    arrivals: dict[tuple[str, str], list[Message]] = {}
    for message in messages:
        if not message.sent:
            arrivals.setdefault((message.start_line, message.cseq), []).append(message)
    pairs: list[tuple[Message | None, Message | None]] = []
    for sent in messages:
        if not sent.sent:
            continue
        waiting = arrivals.get((sent.start_line, sent.cseq), [])
        match = next((item for item in waiting if _fits(sent, item, nodes)), None)
        if match is not None:
            waiting.remove(match)
        pairs.append((sent, match))
    pairs += [(None, left) for rest in arrivals.values() for left in rest]
    return sorted(pairs, key=lambda pair: (pair[0] or pair[1] or messages[0]).time_ns)


def _fits(sent: Message, arrived: Message, nodes: frozenset[str]) -> bool:
    if arrived.node == sent.node or arrived.time_ns < sent.time_ns - MATCH_SLACK_NS:
        return False
    if sent.peer in nodes and sent.peer != arrived.node:
        return False
    return arrived.peer == sent.node or arrived.peer not in nodes


def of_call(
    spans: Sequence[Span],
    call_id: str,
    names: Mapping[str, str] | None = None,
    homes: Mapping[str, str] | None = None,
) -> Ladder:
    """Build the ladder of ``call_id`` from ``spans``; ``names`` gives the node behind an IP address.

    ``homes`` gives the home domain of a node: those of one domain stand side by side.

    Spans of other calls in the same trace (a registration before the call) are left out; what a UE asked its KMS before
    the first INVITE is in. An unknown call gives a ladder without steps.
    """
    names = names or {}
    own = _of_the_call(spans, call_id)
    messages = messages_of(own, names)
    nodes = frozenset(span.node for span in spans)
    first = [item.time_ns for item in messages] + [span.start_ns for span in own if is_http(span)]
    start_ns = min(first, default=min((span.start_ns for span in own), default=0))
    sip = list(_sip_steps(messages, nodes, start_ns))
    established = any(item.cseq.endswith(" INVITE") and item.start_line.startswith("SIP/2.0 2") for item in messages)
    answered = next((step.until_ms for step in sip if step.label == "ACK"), 0.0)
    steps = [
        *sip,
        *_rpc_steps(own, spans, start_ns),
        *http_steps(own, spans, names, start_ns),
        *mikey_steps(own, start_ns),
        *_decision_steps(own, start_ns),
        *(_media_steps(own, names, start_ns, answered) if established or _any_packet(own) else ()),
    ]
    steps.sort(key=lambda step: (step.at_ms, step.kind))
    traces = tuple(dict.fromkeys(span.trace_id for span in own if span.text("sip.call_id") == call_id))
    return Ladder(
        call_id=call_id,
        trace_id=traces[0] if traces else "",
        start_ns=start_ns,
        participants=_participants(steps, spans, messages, homes or {}),
        steps=tuple(steps),
        traces=traces,
    )


def _of_the_call(spans: Sequence[Span], call_id: str) -> list[Span]:
    by_id = {(span.trace_id, span.span_id): span for span in spans}
    belongs: dict[tuple[str, str], str] = {}

    def call_of(span: Span) -> str:
        path, found, here = [], "", span
        while True:
            key = (here.trace_id, here.span_id)
            if key in belongs or key in path:
                found = belongs.get(key, "")
                break
            path.append(key)
            found = here.text("sip.call_id")
            parent = by_id.get((here.trace_id, here.parent_id))
            if found or parent is None:
                break
            here = parent
        belongs.update(dict.fromkeys(path, found))
        if not found:
            beside = [index for index, key in enumerate(path) if is_beside_sip(by_id[key])]
            belongs.update(dict.fromkeys(path[: beside[-1] + 1] if beside else (), call_id))
        return belongs[span.trace_id, span.span_id]

    return [span for span in spans if call_of(span) == call_id]


def _sip_steps(messages: Sequence[Message], nodes: frozenset[str], start_ns: int) -> Iterable[Step]:
    for sent, arrived in pair_messages(messages, nodes):
        seen = sent or arrived
        assert seen is not None
        source = sent.node if sent else seen.peer
        target = arrived.node if arrived else seen.peer
        last = arrived or seen
        yield Step(
            kind="sip",
            at_ms=at_ms(seen.time_ns, start_ns),
            until_ms=at_ms(max(seen.time_ns, last.time_ns), start_ns),
            source=source,
            target=target,
            label=_short(seen),
            detail=seen.start_line,
            interface=seen.interface,
            transport=seen.transport,
            outcome=_status(seen.start_line),
            retransmission=seen.retransmission,
            unseen=arrived is None and target in nodes,
            text=seen.text,
            ids=tuple(message.id for message in (sent, arrived) if message is not None),
        )


def _short(message: Message) -> str:
    words = message.start_line.split(" ", 2)
    mikey = " +MIKEY" if "\na=key-mgmt:" in message.text else ""
    if words[0].startswith("SIP/"):
        method = message.cseq.partition(" ")[2]
        return " ".join(words[1:]) + (f" ({method})" if method else "") + mikey
    extra = " +SDP" if "\napplication/sdp" in message.text.lower().replace("content-type: ", "\n") else ""
    return words[0] + extra + mikey


def _status(start_line: str) -> str:
    words = start_line.split(" ")
    return words[1] if words[0].startswith("SIP/") and len(words) > 1 else ""


def _rpc_steps(own: Sequence[Span], spans: Sequence[Span], start_ns: int) -> Iterable[Step]:
    servers = {(span.trace_id, span.parent_id): span for span in spans if span.kind == "SERVER"}
    for span in own:
        service, method = _operation(span)
        if not service or span.kind != "CLIENT" or service.startswith(_HIDDEN_SERVICES):
            continue
        server = servers.get((span.trace_id, span.span_id))
        target = server.node if server else span.text("imslab.peer") or span.text("server.address") or service
        yield Step(
            kind="rpc",
            at_ms=at_ms(span.start_ns, start_ns),
            until_ms=at_ms(span.end_ns, start_ns),
            source=span.node,
            target=target,
            label=f"{service.rpartition('.')[2]}.{method}",
            detail=span.message,
            interface=next((point for prefix, point in _REFERENCE_POINTS.items() if service.startswith(prefix)), "SBI"),
            transport="gRPC",
            outcome="ERROR" if span.status == "ERROR" else "OK",
            ids=(record_id(span, "rpc"),),
        )


def _operation(span: Span) -> tuple[str, str]:
    service, method = span.text("rpc.service"), span.text("rpc.method")
    if not service and "/" in method:
        service, _, method = method.strip("/").rpartition("/")
    if not service and "/" in span.name and not span.name.startswith("SIP "):
        service, _, method = span.name.strip("/").rpartition("/")
    return service, method


def _of(span: Span, *keys: str) -> str:
    for key in keys:
        for prefix in ("imslab.decision.", "imslab.media.", "imslab.", "media.", ""):
            value = as_text(span.attributes, prefix + key)
            if value:
                return value
    return ""


def _decision_steps(own: Sequence[Span], start_ns: int) -> Iterable[Step]:
    for span in own:
        if span.name != "key.decision":
            continue
        outcome, mode, suite = _of(span, "outcome"), _of(span, "mode"), _of(span, "suite")
        reason = ": ".join(filter(None, (_of(span, "reason"), _of(span, "detail"))))
        tag, cs_ids = _of(span, "tag"), _of(span, "cs_ids")
        key = f"CS {cs_ids}" if cs_ids else f"tag {tag}" if tag and tag != "0" else ""
        label = " ".join(filter(None, (mode, outcome, suite, key)))
        at, ids = at_ms(span.start_ns, start_ns), (record_id(span, "decision"),)
        yield Step("decision", at, at, span.node, "", label or "decision", detail=reason, outcome=outcome, ids=ids)


def media_ends(spans: Iterable[Span]) -> list[MediaEnd]:
    """Return what ``media.association`` spans say, one entry a span."""
    return [
        MediaEnd(
            node=span.node,
            side=_of(span, "side").lower(),
            protection=_of(span, "protection"),
            keying=_of(span, "keying"),
            suite=_of(span, "suite"),
            stream=_of(span, "stream", "stream_id"),
            local=_of(span, "local"),
            remote=_of(span, "remote"),
            packets_in=_count(span, "packets_in"),
            packets_out=_count(span, "packets_out"),
            auth_failures=_count(span, "auth_failures"),
            replays=_count(span, "replays"),
            drops=_drops(span),
        )
        for span in spans
        if span.name == "media.association"
    ]


def _drops(span: Span) -> tuple[tuple[str, int], ...]:
    causes = sorted(key.partition("drops.")[2] for key in span.attributes if key.startswith(("media.drops.", "drops.")))
    return tuple((cause, _count(span, f"drops.{cause}")) for cause in causes)


def _count(span: Span, key: str) -> int:
    return int(as_number(_of(span, key)))


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]") or address


def _any_packet(own: Sequence[Span]) -> bool:
    """Tell whether media passed: of a call that was refused gateways report what they had reserved."""
    return any(end.passed for end in media_ends(own))


def _media_steps(own: Sequence[Span], names: Mapping[str, str], start_ns: int, answered_ms: float) -> Iterable[Step]:
    """One segment a leg, placed where the call was answered: the addresses are reserved earlier."""
    legs: dict[tuple[frozenset[str], str], list[tuple[Span, MediaEnd]]] = {}
    for span in own:
        for end in media_ends([span]):
            peer = names.get(_host(end.remote)) or end.remote or end.node
            legs.setdefault((frozenset((end.node, peer)), end.stream), []).append((span, end))
    for (parties, stream), members in legs.items():
        ends = tuple(end for _, end in members)
        first = ends[0]
        source, target = first.node, next((name for name in parties if name != first.node), first.node)
        protection = next((e.protection for e in ends if e.side == "end" and e.protection), first.protection)
        keying = next((e.keying for e in ends if e.keying), "")
        suite = next((e.suite for e in ends if e.suite), "")
        packets = max(max(e.packets_in, e.packets_out) for e in ends)
        begun = at_ms(min(span.start_ns for span, _ in members), start_ns)
        ended = at_ms(max(span.end_ns for span, _ in members), start_ns)
        yield Step(
            kind="media",
            at_ms=max(begun, answered_ms) if ended > answered_ms else begun,
            until_ms=ended,
            source=source,
            target=target,
            label=" ".join(filter(None, (protection or "media", keying, suite))),
            detail=f"stream {stream or 1}, {packets} packets",
            protection=protection,
            ends=ends,
            ids=tuple(record_id(span, "media") for span, _ in members),
        )


def _participants(
    steps: Sequence[Step], spans: Sequence[Span], messages: Sequence[Message], homes: Mapping[str, str]
) -> tuple[str, ...]:
    types = {span.node: span.nf_type.partition(",")[0] for span in spans if span.nf_type}
    seen = list(dict.fromkeys(name for step in steps for name in (step.source, step.target) if name))
    invites = [message for message in messages if message.start_line.startswith(("INVITE ", "REGISTER "))]
    caller = invites[0] if invites else None
    left = (caller.node if caller.sent else caller.peer) if caller else (seen[0] if seen else "")
    near = _near(left, steps)
    domains = list(dict.fromkeys(home for name in seen if (home := homes.get(name, ""))))

    def place(name: str) -> tuple[int, int, int, int]:
        rank, at, home = _PLACE.get(types.get(name, "UE"), 4), seen.index(name), homes.get(name, "")
        if rank <= 2 and name not in near:
            return 10 - rank, 0, 0, at
        if rank in _HOME_PLACES:
            return _HOME_PLACES[0], domains.index(home) if home else 0, rank, at
        return rank, 0, 0, at

    return tuple(sorted(seen, key=place))


def _near(left: str, steps: Sequence[Step]) -> set[str]:
    """The caller, its P-CSCF and the gateways this one commands."""
    near = {left}
    edge = next((step.target for step in steps if step.kind == "sip" and step.source == left), "")
    near.add(edge)
    near.update(step.target for step in steps if step.kind == "rpc" and step.source == edge and step.interface == "Iq")
    return near
