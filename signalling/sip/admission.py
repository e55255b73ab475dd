"""How many requests one source may have in work, and how fast they may come (testbed limits)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from signalling.sip.connection import Clock
from signalling.sip.flow import Flow
from signalling.sip.limits import StackLimits
from signalling.sip.model import SipRequest

_MOST_SOURCES = 4096
_ANSWERS_PER_SECOND = 20.0


@dataclass(slots=True)
class _Bucket:
    """A token bucket: ``level`` tokens at ``filled`` seconds, at most one second's worth."""

    level: float
    filled: float

    def take(self, rate: float, now: float) -> bool:
        self.level = min(max(rate, 1.0), self.level + (now - self.filled) * rate)
        self.filled = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


@dataclass(slots=True)
class _Source:
    """What one address has in work."""

    pending: int = 0
    held: int = 0


class Admission:
    """Counts per source address; roles between trusted neighbours are not counted."""

    def __init__(self, clock: Clock, limits: StackLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._sources: dict[str, _Source] = {}
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def refusal(self, request: SipRequest, flow: Flow) -> str | None:
        """Say why a new request is not taken, None when it is."""
        if flow.role in self._limits.trusted_roles:
            return None
        source = self._sources.get(flow.remote[0])
        limits = self._limits
        if source is not None and source.pending >= limits.pending_transactions_per_source:
            return "too many pending transactions"
        if source is not None and source.held >= limits.transactions_per_source:
            return "too many transactions"
        if limits.requests_per_second is not None and not self._take("request", flow, limits.requests_per_second):
            return "request rate"
        unproven = request.method == "REGISTER" and "authorization" not in request.headers
        if unproven and not self._take("register", flow, limits.registers_per_second):
            return "REGISTER rate"
        return None

    def may_answer(self, flow: Flow) -> bool:
        """Bound the answers to refused and malformed requests, so that we are no amplifier."""
        return flow.role in self._limits.trusted_roles or self._take("answer", flow, _ANSWERS_PER_SECOND)

    def _take(self, kind: str, flow: Flow, rate: float) -> bool:
        key = (kind, flow.remote[0])
        now = self._clock.seconds()
        bucket = self._buckets.get(key)
        if bucket is None:
            while len(self._buckets) >= _MOST_SOURCES:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(max(rate, 1.0), now)
        self._buckets.move_to_end(key)
        return bucket.take(rate, now)

    def opened(self, flow: Flow) -> None:
        """Count a new server transaction."""
        if flow.role in self._limits.trusted_roles:
            return
        source = self._sources.setdefault(flow.remote[0], _Source())
        source.pending += 1
        source.held += 1

    def answered(self, flow: Flow) -> None:
        """Count its first final response."""
        source = self._counted(flow)
        if source is not None:
            source.pending -= 1

    def closed(self, flow: Flow, *, pending: bool) -> None:
        """Count its end."""
        source = self._counted(flow)
        if source is None:
            return
        source.held -= 1
        if pending:
            source.pending -= 1
        if source.held <= 0:
            del self._sources[flow.remote[0]]

    def _counted(self, flow: Flow) -> _Source | None:
        return None if flow.role in self._limits.trusted_roles else self._sources.get(flow.remote[0])
