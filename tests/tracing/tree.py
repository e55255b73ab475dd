"""The trace of a call as a tree, read from the store of a lab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lab.spans import Span
from lab.state import StateFolder
from lab.tracestore import TraceStore
from tests.e2e.lab import Lab


@dataclass
class Tree:
    """Spans of one trace."""

    trace_id: str
    spans: list[Span]

    @classmethod
    def of(cls, lab: Lab, trace_id: str) -> Tree:
        """What the lab has of a trace once every span has arrived."""
        lab.run("flow", check=False)  # asks the lab to settle
        store = TraceStore(StateFolder.at(lab.state).traces, read_only=True)
        try:
            return cls(trace_id, store.spans_of_trace(trace_id))
        finally:
            store.close()

    def __post_init__(self) -> None:
        self._by_id = {span.span_id: span for span in self.spans}

    @property
    def roots(self) -> list[Span]:
        return [span for span in self.spans if not span.parent_id]

    @property
    def orphans(self) -> list[Span]:
        """Spans whose parent is nowhere."""
        return [span for span in self.spans if span.parent_id and span.parent_id not in self._by_id]

    def parent(self, span: Span) -> Span | None:
        return self._by_id.get(span.parent_id)

    def above(self, span: Span) -> Iterator[Span]:
        """The parents of a span, up to the root."""
        found = self.parent(span)
        while found is not None:
            yield found
            found = self.parent(found)

    def named(self, name: str, *, node: str = "", kind: str = "") -> list[Span]:
        return [
            span for span in self.spans if span.name == name and node in ("", span.node) and kind in ("", span.kind)
        ]

    def hops(self, name: str, cseq: str = "") -> list[tuple[str, str]]:
        """(node, kind) of the spans of one SIP request along its way, from the first to the last."""
        found = [span for span in self.named(name) if cseq in ("", span.text("sip.cseq"))]
        return [
            (span.node, span.kind)
            for span in sorted(found, key=lambda span: (len(list(self.above(span))), span.start_ns))
        ]

    def describe(self) -> str:
        """The tree in text, for whoever reads a failure."""
        return "\n".join(
            f"{'  ' * len(list(self.above(span)))}{span.node} {span.name} {span.kind} {dict(span.attributes)}"
            for span in sorted(self.spans, key=lambda span: span.start_ns)
        )
