"""One call as the page shows it: ladder, messages, media path, decisions, samples, and the traces it belongs to."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keying.redaction import redact
from lab import callsamples, callstore, ladder
from lab.callfold import CallRecord
from lab.console import documents, mediapath, mediawords
from lab.console.answers import Problem
from lab.console.labview import LabView
from lab.control import Json, Params
from lab.ladder_steps import Step
from lab.spans import Span
from lab.tracestore import TraceStore
from protos import iq_pb2

MOST_KEPT: Final = 4
"""Calls whose ladder is kept: who clicks through messages asks for the same one again and again."""
MOST_SPANS: Final = 10_000
"""Spans that are read for one call or trace."""
_MASK = re.compile(r"<redacted[^>]*>", re.IGNORECASE)
_MEDIA = re.compile(r"^m=(\w+) ", re.MULTILINE)


@dataclass(frozen=True)
class _Drawn:
    spans: tuple[Span, ...]
    ladder: ladder.Ladder


class CallPages:
    """Reads calls from the trace store."""

    def __init__(self, view: LabView, reader: TraceStore) -> None:
        self._view = view
        self._reader = reader
        self._drawn: OrderedDict[str, tuple[tuple[int, int], _Drawn]] = OrderedDict()

    def record(self, call_id: str) -> CallRecord:
        """Return a call. Raises ``Problem`` 404."""
        with self._reader.reading() as db:
            call = callstore.load(db, call_id)
        if call is None:
            raise Problem(404, "NOT_FOUND", "no call has this Call-ID")
        return call

    def _draw(self, call: CallRecord) -> _Drawn:
        """Return spans and ladder of a call; drawn anew when spans came."""
        with self._reader.reading() as db:
            (newest,) = db.execute(
                "SELECT coalesce(max(id), 0) FROM span WHERE trace_id IN"
                " (SELECT trace_id FROM call_trace WHERE call = (SELECT id FROM call WHERE call_id = ?))",
                (call.call_id,),
            ).fetchone()
        state = (call.spans, int(newest))
        known = self._drawn.get(call.call_id)
        if known is not None and known[0] == state:
            self._drawn.move_to_end(call.call_id)
            return known[1]
        spans = tuple(self._reader.spans_of_call(call.call_id, MOST_SPANS))
        lab = self._view.lab
        drawn = _Drawn(spans, ladder.of_call(spans, call.call_id, lab.names, lab.homes))
        self._drawn[call.call_id] = (state, drawn)
        while len(self._drawn) > MOST_KEPT:
            self._drawn.popitem(last=False)
        return drawn

    async def page(self, call_id: str, audits: Mapping[str, iq_pb2.AuditResponse]) -> Params:
        """Return everything about a call; ``audits`` are what gateways say of calls in progress."""
        return await asyncio.to_thread(self._page, call_id, dict(audits))

    def _page(self, call_id: str, audits: Mapping[str, iq_pb2.AuditResponse]) -> Params:
        call = self.record(call_id)
        drawn = self._draw(call)
        with self._reader.reading() as db:
            samples = callsamples.of_call(db, call_id)
        live = call.state != "ended"
        return {
            "summary": documents.summary(call, self._view.names),
            "ladder": self._ladder(drawn.ladder),
            "began_ladder": documents.ms(drawn.ladder.start_ns),
            "media": self._media(call, drawn, audits if live else {}),
            "samples": [documents.sample(each) for each in samples],
            "decisions": _decisions(drawn.spans, call_id),
            "links": _links(drawn.spans, call),
            "live": live,
        }

    def _ladder(self, drawn: ladder.Ladder) -> Params:
        places = self._view.places()
        participants: list[Json] = []
        for name in drawn.participants:
            place = places.get(name)
            participants.append(
                {
                    "name": name,
                    "kind": place.kind if place is not None else "peer",
                    "nf": place.nf if place is not None else name,
                    "known": place is not None,
                }
            )
        steps: list[Json] = [self._step(step) for step in drawn.steps]
        return {"participants": participants, "steps": steps}

    def _step(self, step: Step) -> Params:
        return {
            "ids": list(step.ids),
            "at_ms": step.at_ms,
            "until_ms": step.until_ms,
            "kind": step.kind,
            "from": step.source,
            "to": step.target,
            "label": step.label,
            "detail": step.detail,
            "interface": step.interface,
            "transport": step.transport,
            "secured": self._secured(step),
            "outcome": step.outcome,
            "retransmission": step.retransmission,
            "unseen": step.unseen,
            "protection": step.protection,
            "has_text": bool(step.text),
        }

    def _secured(self, step: Step) -> str:
        if step.kind == "rpc":
            return "mTLS"
        if step.kind == "http":
            return "TLS"
        if step.kind != "sip":
            return ""
        if step.transport.upper() == "TLS":
            return "mTLS" if step.interface == "Mw" else "TLS"
        users = self._view.lab.users
        user = users.get(step.source) or users.get(step.target)
        return "IPsec" if user is not None and user.profile == "aka-udp" and step.interface == "Gm" else "none"

    def _media(self, call: CallRecord, drawn: _Drawn, audits: Mapping[str, iq_pb2.AuditResponse]) -> Params:
        ends = mediapath.ends_of_spans(span for span in drawn.spans if span.text("sip.call_id") == call.call_id)
        known = {(end.node, end.side, end.local) for end in ends}
        for gateway, audit in audits.items():
            for end in mediapath.ends_of_audit(gateway, audit, call.call_id):
                if end.local and (end.node, end.side, end.local) not in known:
                    ends.append(end)
        streams: dict[str, list[mediapath.End]] = {}
        for end in ends:
            streams.setdefault(end.stream, []).append(end)
        return mediawords.document(streams, _kinds(drawn.spans), self._around(call, drawn))

    def _around(self, call: CallRecord, drawn: _Drawn) -> mediapath.Surroundings:
        places, names = self._view.places(), self._view.names
        callers = [span for span in drawn.spans if span.name == "kms.decision"]
        granted = [span.node for span in callers if span.text("imslab.kms.outcome") == "granted"]
        clear = {
            name
            for step in drawn.ladder.steps
            if step.kind == "sip" and step.interface == "Gm" and self._secured(step) == "none"
            for name in (step.source, step.target)
            if name not in places or places[name].kind == "ue"
        }
        return mediapath.Surroundings(
            caller=names.user(call.from_uri) or call.from_uri or "the caller",
            callee=names.user(call.to_uri) or call.to_uri or "the called user",
            security=call.security,
            nodes=drawn.ladder.participants,
            kinds={name: place.kind for name, place in places.items()},
            networks={name: place.access_network for name, place in places.items() if place.access_network},
            hosts=self._view.lab.names,
            kms=tuple(dict.fromkeys(granted)),
            clear_gm=frozenset(clear),
            answered=call.established,
        )

    async def message(self, call_id: str, step_id: str) -> Params:
        """Return the text of a message. Raises ``Problem`` 404 for a step that has none.

        Any of a step's ids will do: it gets more of them as spans of the call arrive, and loses none.
        """
        return await asyncio.to_thread(self._message, call_id, step_id)

    def _message(self, call_id: str, step_id: str) -> Params:
        drawn = self._draw(self.record(call_id))
        step = next((each for each in drawn.ladder.steps if step_id in each.ids), None)
        if step is None or not step.text:
            raise Problem(404, "NOT_FOUND", "this step of the call has no text")
        text = redact(step.text)
        return {
            "ids": list(step.ids),
            "at": documents.ms(drawn.ladder.start_ns + int(step.at_ms * 1e6)),
            "from": step.source,
            "to": step.target,
            "transport": step.transport,
            "interface": step.interface,
            "secured": self._secured(step),
            "start_line": step.detail,
            "text": text,
            "redactions": len(_MASK.findall(text)),
        }

    async def trace(self, call_id: str) -> Params:
        """Return the trace of a call. Raises ``Problem`` 404."""
        return await asyncio.to_thread(self._trace, call_id)

    def _trace(self, call_id: str) -> Params:
        call = self.record(call_id)
        return documents.trace(call.trace_id, self._draw(call).spans)


def _decisions(spans: Sequence[Span], call_id: str) -> list[Json]:
    found: list[Json] = []
    for span in spans:
        if span.name == "key.decision" and span.text("sip.call_id") == call_id:
            said = _Said(span, "imslab.decision.")
            reason = ": ".join(filter(None, (said("reason"), said("detail"))))
            what = " ".join(filter(None, (said("mode"), said("step"))))
        elif span.name == "kms.decision":
            said = _Said(span, "imslab.kms.")
            reason = ", ".join(filter(None, (said("reason"), said("user"))))
            what = f"ticket {said('operation')}"
        else:
            continue
        found.append(
            {
                "at": documents.ms(span.start_ns),
                "node": span.node,
                "what": what,
                "outcome": said("outcome"),
                "reason": reason,
                "suite": said("suite"),
            }
        )
    return found


class _Said:
    def __init__(self, span: Span, prefix: str) -> None:
        self._span, self._prefix = span, prefix

    def __call__(self, key: str) -> str:
        return self._span.text(self._prefix + key)


def _links(spans: Sequence[Span], call: CallRecord) -> list[Json]:
    """Return the other traces of a call: those its own spans are in, and those they point to."""
    found: dict[str, str] = {}
    for span in spans:
        if span.trace_id != call.trace_id:
            found.setdefault(span.trace_id, f"{span.name} of {span.node}")
        for trace_id, _ in span.links:
            if trace_id != call.trace_id:
                found.setdefault(trace_id, f"linked from {span.name} of {span.node}")
    return [{"trace_id": trace_id, "what": what} for trace_id, what in found.items()]


def _kinds(spans: Sequence[Span]) -> list[str]:
    """Return the media types of the first offer, in order."""
    for span in spans:
        if span.name == "SIP INVITE":
            for event in span.events:
                if kinds := _MEDIA.findall(event.text("text")):
                    return [str(kind) for kind in kinds]
    return []
