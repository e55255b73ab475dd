"""What the supervisor itself counts: nodes by state, restarts, and what became of forwarded telemetry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from lab.fleet import NodeProcess, State
from lab.otlp_forward import SIGNALS, OtlpForward


class Nodes(Protocol):
    """Whoever knows the nodes of the lab and their states."""

    @property
    def nodes(self) -> Mapping[str, NodeProcess]:
        """The nodes by instance."""


def count_lab(meter: Meter, fleet: Nodes, forward: OtlpForward | None) -> None:
    """Make the instruments of a supervisor."""

    def states(_options: CallbackOptions) -> Iterable[Observation]:
        found = Counter(node.state.value for node in fleet.nodes.values())
        return [Observation(found[state.value], {"imslab.node.state": state.value}) for state in State]

    def restarts(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(node.restarts, {"imslab.node": name}) for name, node in fleet.nodes.items()]

    meter.create_observable_gauge("imslab.nodes", [states], "{node}", "Nodes of the lab by state")
    meter.create_observable_counter("imslab.node.restarts", [restarts], "{restart}", "Nodes started again after a fall")
    if forward is None:
        return

    def requests(_options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(forward.figures(signal)[outcome], {"imslab.signal": signal, "imslab.result": outcome})
            for signal in SIGNALS
            for outcome in ("sent", "lost")
        ]

    def waiting(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(forward.figures(signal)["waiting"], {"imslab.signal": signal}) for signal in SIGNALS]

    meter.create_observable_counter(
        "imslab.otlp.forward.requests", [requests], "{request}", "Export requests forwarded to the collector, or lost"
    )
    meter.create_observable_gauge("imslab.otlp.forward.queue", [waiting], "By", "Octets that wait for the collector")
