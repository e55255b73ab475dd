"""What a ladder is made of: steps, and what each end of a media leg reported."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from lab.spans import Span

_ID_DIGITS = 24


@dataclass(frozen=True)
class MediaEnd:
    """What one node reported of its end of a media leg; counters are packets, ``drops`` (cause, count)."""

    node: str
    side: str
    protection: str
    keying: str
    suite: str
    stream: str
    local: str
    remote: str
    packets_in: int
    packets_out: int
    auth_failures: int
    replays: int
    drops: tuple[tuple[str, int], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether any packet came or went, taken or not."""
        dropped = (count for _, count in self.drops)
        return any((self.packets_in, self.packets_out, self.auth_failures, self.replays, *dropped))


@dataclass(frozen=True)
class Step:
    """One row of the ladder. ``at_ms`` counts from the first step; ``until_ms`` is the arrival or the end.

    ``kind``: ``sip``, ``rpc``, ``http``, ``decision``, ``mikey`` or ``media``. A decision and a note about a MIKEY
    message have ``source`` alone. ``ids`` are those of its records (:func:`record_id`), the sender's before the
    receiver's: one of them stays whatever more of the call comes to be known.
    """

    kind: str
    at_ms: float
    until_ms: float
    source: str
    target: str
    label: str
    detail: str = ""
    interface: str = ""
    transport: str = ""
    outcome: str = ""
    retransmission: bool = False
    unseen: bool = False
    text: str = ""
    protection: str = ""
    ends: tuple[MediaEnd, ...] = ()
    ids: tuple[str, ...] = field(kw_only=True)


def record_id(span: Span, what: str) -> str:
    """Return the id of one thing that a node reported; ``what`` tells it from others in the same span.

    Made of all that names a span, the node too: what one node reports never has the id of what another did.
    """
    named = "\0".join((span.trace_id, span.span_id, span.node, what))
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:_ID_DIGITS]


def arrow_label(step: Step) -> str:
    """Return what stands on the arrow: for a service call with its reference point, once.

    A service that is named after its reference point (``NnrfNfDiscovery``) is left out.
    """
    if step.kind != "rpc" or step.label.startswith(f"{step.interface}."):
        return step.label
    service, _, method = step.label.partition(".")
    return f"{step.interface} {method if method and service.startswith(step.interface) else step.label}"


def at_ms(time_ns: int, start_ns: int) -> float:
    """Return the milliseconds from the first step to a moment in nanoseconds since the epoch."""
    return round((time_ns - start_ns) / 1e6, 3)
