"""Calls, samples and traces as the page gets them. Pure: records in, JSON out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keying.redaction import redact
from lab.callfold import CallRecord
from lab.callsamples import Sample
from lab.control import Json, Params
from lab.labfile import UserRow
from lab.spans import AttributeValue, Span

MOST_SPANS = 2000
"""Spans of a trace that are shown."""
LONGEST_VALUE = 2000
"""An attribute is cut here, characters."""
_LEFT_OUT = frozenset({"text"})
_SHORTEST_SECRET = 24
"""Values that could hold a key are redacted once more: the node that gave them out may be compromised, characters."""


class Names:
    """The user behind a public identity."""

    def __init__(self, users: Mapping[str, UserRow]) -> None:
        self._users = {
            identity.lower(): name for name, user in users.items() for identity in (user.impu, user.tel) if identity
        }

    def user(self, identity: str) -> str | None:
        """Return the name of a user, ``None`` for one of no lab."""
        return self._users.get(identity.lower())


def identities(users: Mapping[str, UserRow], name: str) -> tuple[str, ...]:
    """Return the public identities a name stands for: those of a user, else the name itself."""
    user = users.get(name)
    return (name,) if user is None else tuple(filter(None, (user.impu, user.tel)))


def ms(time_ns: int) -> float | None:
    """Return milliseconds since the epoch, ``None`` for a time that is not known."""
    return round(time_ns / 1e6, 3) if time_ns else None


def summary(call: CallRecord, names: Names) -> Params:
    """Return a call as a row of the list."""
    over = call.over_ns
    setup = call.final_ns - call.spoken_ns if call.final_ns and call.spoken_ns else 0
    return {
        "call_id": call.call_id,
        "trace_id": call.trace_id,
        "from": call.from_uri,
        "to": call.to_uri,
        "from_user": names.user(call.from_uri),
        "to_user": names.user(call.to_uri),
        "began": ms(call.began_ns),
        "setup_ms": round(setup / 1e6, 3) if setup > 0 else None,
        "ended": ms(over),
        "duration_ms": round(max(0, over - call.final_ns) / 1e6, 3) if over and call.established else None,
        "state": call.state,
        "result": call.result,
        "sip_status": call.sip_status,
        "reason": call.reason,
        "security": call.security,
        "suites": [*call.suites],
        "nodes": [*call.nodes],
        "spans": call.spans,
    }


def sample(each: Sample) -> Params:
    """Return a sample."""
    return {
        "at": each.at_ms,
        "node": each.node,
        "stream": each.stream,
        "side": each.side,
        "packets_in": each.packets_in,
        "packets_out": each.packets_out,
        "lost": each.lost,
        "jitter_ms": round(each.jitter_ms, 3),
        "drops": {**each.drops},
    }


def trace(trace_id: str, spans: Sequence[Span]) -> Params:
    """Return a trace as a waterfall: parents before their children, these by time; SIP texts are left out."""
    began = min((span.start_ns for span in spans), default=0)
    ended = max((span.end_ns for span in spans), default=0)
    rows: list[Json] = [_span(span, depth, began) for span, depth in _ordered(spans)[:MOST_SPANS]]
    return {
        "trace_id": trace_id,
        "began": ms(began),
        "duration_ms": _apart(ended, began),
        "spans": rows,
        "truncated": len(spans) > MOST_SPANS,
    }


def _apart(later: int, earlier: int) -> float:
    return round((later - earlier) / 1e6, 3)


def _ordered(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    known = {span.span_id for span in spans}
    below: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda each: (each.start_ns, each.span_id)):
        parent = span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""
        below.setdefault(parent, []).append(span)
    found: list[tuple[Span, int]] = []
    waiting = [(span, 0) for span in reversed(below.get("", []))]
    seen: set[str] = set()
    while waiting:
        span, depth = waiting.pop()
        found.append((span, depth))
        if span.span_id in seen:
            continue  # two nodes gave out one span id; its children are shown once
        seen.add(span.span_id)
        waiting += [(child, depth + 1) for child in reversed(below.get(span.span_id, []))]
    shown = {id(span) for span, _ in found}
    return found + [(span, 0) for span in spans if id(span) not in shown]  # spans that are each other's parents


def _span(span: Span, depth: int, began: int) -> Params:
    return {
        "span_id": span.span_id,
        "parent_id": span.parent_id or None,
        "depth": depth,
        "node": span.node,
        "nf_type": span.nf_type,
        "name": span.name,
        "kind": span.kind,
        "start_ms": _apart(span.start_ns, began),
        "duration_ms": _apart(span.end_ns, span.start_ns),
        "status": span.status,
        "message": span.message,
        "attributes": _attributes(span.attributes),
        "events": [
            {"at_ms": _apart(event.time_ns, began), "name": event.name, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        "links": [{"trace_id": trace_id, "span_id": span_id} for trace_id, span_id in span.links],
    }


def _attributes(attributes: Mapping[str, AttributeValue]) -> Params:
    return {key: _value(value) for key, value in attributes.items() if key not in _LEFT_OUT}


def _value(value: AttributeValue) -> Json:
    if isinstance(value, str):
        shown = value[:LONGEST_VALUE]
        return redact(shown) if len(shown) >= _SHORTEST_SECRET else shown
    return [_value(item) for item in value] if isinstance(value, list) else value
