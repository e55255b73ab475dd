"""What a KMS shows of its work: one span a decision, counters by outcome, a log line for what an operator acts on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from keying.mikey.errors import MikeyError
from nodes.kms.exchanges import GRANTED, REFUSED, Decision, Refusal
from sba.telemetry import Telemetry

_WORDS = 64
"""Longest word of a reason that becomes a label of a metric."""


class Watch:
    """Spans and metrics of a KMS. `keys` counts the ticket protection keys that are kept."""

    def __init__(self, telemetry: Telemetry, keys: Callable[[], int]) -> None:
        self._telemetry = telemetry
        meter = telemetry.meter
        self._exchanges = meter.create_counter(
            "imslab.kms.exchanges", "{request}", "Requests for tickets and their keys, by operation and outcome"
        )
        self._time = telemetry.latencies("imslab.kms.duration", "Time to decide a request", ("imslab.kms.operation",))
        self._pruned = meter.create_counter("imslab.kms.pruned", "{row}", "Expired rows removed from the store")
        self._pruned.add(0)

        def count(_options: CallbackOptions) -> list[Observation]:
            return [Observation(keys())]

        meter.create_observable_gauge("imslab.kms.ticket_keys", [count], "{key}", "Ticket protection keys kept")

    @contextmanager
    def deciding(self, operation: str) -> Iterator[Decision]:
        """Span and metrics of one decision; whatever ends it is a refusal unless the decision says granted."""
        decision = Decision(operation)
        started = time.perf_counter()
        word = "fault"
        with self._telemetry.tracer.start_as_current_span(
            "kms.decision", kind=SpanKind.INTERNAL, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield decision
                word = "ok"
            except Refusal as refusal:
                word = refusal.reason.partition(":")[0][:_WORDS]
                decision.reason = decision.reason or refusal.reason
                raise
            except MikeyError as error:
                word = error.number.name if error.number is not None else "silent"
                decision.reason = decision.reason or str(error)
                raise
            except Exception as fault:
                decision.outcome, decision.reason = REFUSED, f"fault: {type(fault).__name__}"
                raise
            finally:
                refused = decision.outcome != GRANTED
                told = span if span.is_recording() or not refused else self._telemetry.tracer.evidence("kms.decision")
                told.set_attributes(
                    {
                        "imslab.kms.operation": decision.operation,
                        "imslab.kms.outcome": decision.outcome,
                        "imslab.kms.reason": decision.reason,
                        "imslab.kms.user": decision.user,
                        "imslab.kms.responders": list(decision.responders),
                        "imslab.kms.ticket_id": decision.ticket_id,
                        "imslab.kms.tpk_id": decision.tpk_id,
                        "imslab.kms.peer": decision.peer_kms,
                    }
                )
                if refused:
                    told.set_status(Status(StatusCode.ERROR, decision.reason[:200]))
                if told is not span:
                    told.end()
                labels = {
                    "imslab.kms.operation": decision.operation,
                    "imslab.kms.outcome": decision.outcome,
                    "imslab.refusal.reason": word,
                }
                self._exchanges.add(1, labels)
                self._time.record((decision.operation,), time.perf_counter() - started)
                self._log(decision)

    def pruned(self, rows: int) -> None:
        """Count expired rows that were removed."""
        if rows:
            self._pruned.add(rows)

    def _log(self, decision: Decision) -> None:
        self._telemetry.log(
            f"kms-{decision.outcome}",
            level="info" if decision.outcome == GRANTED else "warning",
            operation=decision.operation,
            reason=decision.reason,
            user=decision.user,
            responders=decision.responders,
            ticket_id=decision.ticket_id,
            peer_kms=decision.peer_kms,
        )
