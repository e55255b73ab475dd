"""Which contexts nobody will ever release: their IMS-ALG is silent, and so are both ends of the call (H.248.36)."""

from collections.abc import Iterable, Mapping

from media.relay import RelayStatistics
from nodes.imsagw.context import Context


def hanging_contexts(
    contexts: Iterable[Context],
    counters: Iterable[RelayStatistics],
    heard: Mapping[str, float],
    now: float,
    after_s: float,
) -> list[Context]:
    """Return the contexts to free at `now` seconds; notes in each context when its media was last seen to move.

    `heard` tells when each IMS-ALG was last heard. Media alone keeps a context: a call survives its P-CSCF.
    """
    moved: dict[str, int] = {}
    for counter in counters:
        name = counter.stream_id.partition("/")[0]
        out = sum(side.packets_out + side.rtcp_out for side in counter.sides.values())
        moved[name] = moved.get(name, 0) + out
    found = []
    for context in contexts:
        packets = moved.get(context.context_id, 0)
        if packets != context.packets_seen:
            context.packets_seen, context.active_at = packets, now
        last = max(context.active_at, heard.get(context.owner, 0.0))
        if after_s and now - last >= after_s:
            found.append(context)
    return found
