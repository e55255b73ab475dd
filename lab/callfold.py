"""What a span says about its call, and the summary that grows from it. Pure.

Spans come in any order and late: a node exports them in batches, and the span of an INVITE is complete only when the
call was answered. A summary is therefore folded from one span after the other, and gives the same whatever the order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.spans import Span, SpanEvent, as_number

MOST_NODES = 32
"""Nodes named in a summary."""
MOST_SUITES = 8
"""Suites named in a summary."""
LONGEST_IDENTITY = 256
"""A public identity is cut here, characters."""
LONGEST_REASON = 400
"""A reason is cut here, characters."""
_METHODS = frozenset({"INVITE", "ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO", "REFER"})
_FIELD = re.compile(r"^(from|f|to|t|p-asserted-identity|warning)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_QUOTED = re.compile(r'^[ \t]*"(?:[^"\\]|\\.)*"')
_FOLD = re.compile(r"\r?\n[ \t]+")
_COMPACT = {"f": "from", "t": "to"}
_PLACED = "ue.call"
_AGREED = frozenset({"accepted", "applied"})
_SOME_E2E = "e2e"
"""What a P-CSCF says of a stream it passes on: end to end, it does not know by what."""
_UE = "UE"
"""NF type, as the certificate has it, of nodes that are not the network: they assert no identity."""
_NO_MODE = frozenset({"", "mediasec", "session", "relayed", "disabled", "refused"})


@dataclass
class CallRecord:
    """A call as its spans told so far; times are nanoseconds since the epoch, 0 where not known.

    ``modes`` holds by node how sure the mode is (2 agreed, 1 asked for, 0 guessed) and the mode; ``spoken_ns`` is the
    start of the INVITE span the final answer was taken from: the one nearest to the caller speaks.
    """

    call_id: str
    trace_id: str = ""
    from_uri: str = ""
    to_uri: str = ""
    asserted: bool = False
    began_ns: int = 0
    cseq: int = 0
    spoken_ns: int = 0
    final_ns: int = 0
    sip_status: int = 0
    reason: str = ""
    ended_ns: int = 0
    caller_node: str = ""
    modes: dict[str, tuple[int, str]] = field(default_factory=dict)
    suites: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    spans: int = 0
    lost_ns: int = 0
    """When no gateway had the call any more, although nobody was seen to end it."""

    @property
    def established(self) -> bool:
        """Whether somebody answered."""
        return 200 <= self.sip_status < 300

    @property
    def state(self) -> str:
        """``setup``, ``talking`` or ``ended``."""
        if self.ended_ns or self.lost_ns or self.sip_status >= 300:
            return "ended"
        return "talking" if self.established else "setup"

    @property
    def result(self) -> str:
        """``established``, ``refused``, ``cancelled``, ``failed``, or empty while nobody knows."""
        if self.established:
            return "established"
        if self.sip_status:
            return "cancelled" if self.sip_status == 487 else "refused"
        return "failed" if self.state == "ended" else ""

    @property
    def security(self) -> str:
        """The mode that the caller's end agreed, else that anybody did, else that was asked for."""
        best = max(self.modes.values(), default=(0, ""), key=lambda mode: (mode[0], mode[1] != "none", mode[1]))
        own = self.modes.get(self.caller_node, best)
        return own[1] if own[0] == best[0] else best[1]

    @property
    def over_ns(self) -> int:
        """When the call was over, 0 while it lives."""
        if self.state != "ended":
            return 0
        return self.ended_ns or self.lost_ns or self.final_ns

    def take(self, span: Span) -> None:
        """Take in one span of this call."""
        if not self.began_ns or span.start_ns < self.began_ns:
            self.began_ns = span.start_ns
        if span.node not in self.nodes and len(self.nodes) < MOST_NODES:
            self.nodes.append(span.node)
        method = method_of(span)
        if method == "INVITE":
            self._invite(span)
        elif method == "BYE":
            self.ended_ns = min(self.ended_ns or span.start_ns, span.start_ns)
        elif span.name == _PLACED:
            self._placed(span)
        elif span.name == "key.decision":
            self._decision(span)
        elif span.name == "media.association" and _of(span, "protection") == "SRTP":
            self._suite(_of(span, "suite"))
        self.trace_id = self.trace_id or span.trace_id

    def _invite(self, span: Span) -> None:
        request = next((event for event in span.events if event.text("start_line").startswith("INVITE ")), None)
        head = _head(request) if request is not None else {}
        if "to" in head and _tag(head["to"]):
            return  # inside the dialog
        number = _cseq(span)
        if head:
            self._parties(span, head)
        earlier = number == self.cseq and span.start_ns < (self.spoken_ns or span.start_ns + 1)
        if number < self.cseq or (number == self.cseq and not earlier):
            return
        self.cseq, self.spoken_ns = number, span.start_ns
        self.trace_id, self.caller_node = span.trace_id, span.node
        final = _final(span)
        self.sip_status = _final_status(span.number("sip.status_code") or (_status(final) if final is not None else 0))
        self.final_ns = (final.time_ns if final is not None else span.end_ns) if self.sip_status else 0
        self.reason = _said(final) if final is not None and self.sip_status >= 300 else ""

    def _parties(self, span: Span, head: dict[str, str]) -> None:
        of_network = span.text("imslab.interface") == "Mw" and span.nf_type != _UE
        asserted = identity(head.get("p-asserted-identity", "")) if of_network else ""
        if asserted:
            self.from_uri, self.asserted = asserted, True
        elif not self.asserted:
            self.from_uri = identity(head.get("from", "")) or self.from_uri
        self.to_uri = self.to_uri or identity(head.get("to", ""))

    def _placed(self, span: Span) -> None:
        """Take what the caller's UE says; of a call that it refused itself nobody else ever hears."""
        self.from_uri = self.from_uri or identity(span.text("imslab.call.from"))
        self.to_uri = self.to_uri or identity(span.text("imslab.call.target"))
        if self.spoken_ns or span.text("imslab.call.result") in ("", "established"):
            return
        self.caller_node, self.sip_status = span.node, _final_status(span.number("sip.status_code"))
        self.reason = span.text("imslab.call.reason")[:LONGEST_REASON]
        self.final_ns = span.end_ns
        if not self.sip_status:
            self.ended_ns = span.end_ns

    def _decision(self, span: Span) -> None:
        mode, outcome = _of(span, "mode"), _of(span, "outcome")
        node = span.node
        if outcome in _AGREED:
            for suite in _of(span, "suite").split(","):
                self._suite(suite)
        if mode in _NO_MODE or (node not in self.modes and len(self.modes) >= MOST_NODES):
            return
        shown = _as_asked(mode, _of(span, "suite"))[:64]
        rank = 0 if shown == _SOME_E2E else 2 if outcome in _AGREED else 1
        if rank >= self.modes.get(node, (0, ""))[0]:
            self.modes[node] = (rank, shown)

    def _suite(self, name: str) -> None:
        if name and name not in self.suites and len(self.suites) < MOST_SUITES:
            self.suites.append(name[:64])


def call_of(span: Span) -> str:
    """Return the Call-ID of the call a span tells of, empty for one that tells of none (a registration)."""
    call_id = span.text("sip.call_id")
    if not call_id:
        return ""
    method = method_of(span)
    if method:
        return call_id if method in _METHODS else ""
    return "" if span.name == "key.decision" and _of(span, "mode") == "mediasec" else call_id


def begins(span: Span) -> bool:
    """Tell whether a span may be the first of its call: a late ACK or BYE of a call nobody knows makes none."""
    return method_of(span) == "INVITE" or span.name in (_PLACED, "key.decision", "media.association", "mikey.transfer")


def method_of(span: Span) -> str:
    """Return the method of a SIP transaction, empty for another span."""
    kind, _, method = span.name.partition(" ")
    return (span.text("sip.method") or method) if kind == "SIP" else ""


def _as_asked(treatment: str, suite: str) -> str:
    """Return the mode, as ``--security`` names it, of what a P-CSCF does; end to end with a suite means keys in SDP."""
    if treatment == _SOME_E2E and suite:
        return "e2e-sdes"
    return "none" if treatment == "plain" else treatment


def identity(value: str) -> str:
    """Return the public identity in a From, To or P-Asserted-Identity: its URI without parameters."""
    left, angle, rest = _QUOTED.sub("", value).partition("<")
    uri = rest.partition(">")[0] if angle else left
    return uri.strip().partition(";")[0].partition("?")[0][:LONGEST_IDENTITY]


def _tag(value: str) -> bool:
    return re.search(r";[ \t]*tag[ \t]*=", value.rpartition(">")[2], re.IGNORECASE) is not None


def _head(event: SpanEvent) -> dict[str, str]:
    head = _FOLD.sub(" ", re.split(r"\r?\n\r?\n", event.text("text"), maxsplit=1)[0])
    found: dict[str, str] = {}
    for match in _FIELD.finditer(head):
        name = match[1].lower()
        found.setdefault(_COMPACT.get(name, name), match[2].strip())
    return found


def _responses(span: Span) -> Iterator[SpanEvent]:
    return (event for event in span.events if event.text("start_line").startswith("SIP/2.0 "))


def _final(span: Span) -> SpanEvent | None:
    finals = [event for event in _responses(span) if _status(event) >= 200]
    return min(finals, key=lambda event: event.time_ns, default=None)


def _final_status(status: int) -> int:
    """A final status (RFC 3261 7.2), 0 for what is none."""
    return status if 200 <= status < 700 else 0


def _cseq(span: Span) -> int:
    """The number of the CSeq (RFC 3261 8.1.1.5), 0 for what is none."""
    words = span.text("sip.cseq").split()
    number = int(as_number(words[0])) if words else 0
    return number if number < 1 << 31 else 0


def _status(event: SpanEvent) -> int:
    return int(as_number(event.text("start_line")[8:11]))


def _said(event: SpanEvent) -> str:
    phrase, warning = event.text("start_line")[12:], _head(event).get("warning", "")
    return (f"{phrase} ({warning})" if warning else phrase)[:LONGEST_REASON]


def _of(span: Span, key: str) -> str:
    return next(
        (text for prefix in ("imslab.decision.", "media.", "imslab.", "") if (text := span.text(prefix + key))),
        "",
    )
