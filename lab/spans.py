"""A span as the lab keeps it: plain data, independent of OTLP and of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST_NUMBER = 32
"""Characters of a number written as text."""
AttributeValue = str | int | float | bool | list["AttributeValue"]
"""What an OTLP attribute can hold here; octet strings arrive as hexadecimal text."""


@dataclass(frozen=True)
class SpanEvent:
    """A moment inside a span; ``time_ns`` since the epoch."""

    time_ns: int
    name: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    def text(self, key: str) -> str:
        """Return attribute ``key`` as text, empty when absent."""
        return as_text(self.attributes, key)


@dataclass(frozen=True)
class Span:
    """A finished span. Ids are lower-case hexadecimal; times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    node: str
    nf_type: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str = ""
    message: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def text(self, key: str) -> str:
        """Return attribute ``key`` as text, empty when absent."""
        return as_text(self.attributes, key)

    def number(self, key: str) -> int:
        """Return attribute ``key`` as an integer, 0 when absent or no number."""
        value = self.attributes.get(key, 0)
        try:
            return int(value) if isinstance(value, (int, float, str)) else 0
        except ValueError:
            return 0


def as_number(text: str) -> float:
    """Return a number that a node wrote as text in decimal digits, 0 for what is none or too long."""
    plain = len(text) <= LONGEST_NUMBER and text.isascii() and text.replace(".", "", 1).isdigit()
    return float(text) if plain else 0.0


def as_text(attributes: Mapping[str, AttributeValue], key: str) -> str:
    """Return ``attributes[key]`` as text, empty when absent; lists are joined with a comma."""
    value = attributes.get(key, "")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
