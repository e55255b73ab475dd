"""The node: wiring. What is decided stands in `procedure`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nodes.application_server import ApplicationServer
from sba import CallContext
from signalling import Refusal, ServedUser, SipRequest, SipResponse, asserted_identities, dialled, served_user

from call_screening import call_screening_pb2
from call_screening.config import CallScreeningSettings
from call_screening.procedure import screen


class CallScreeningFunction(ApplicationServer):
    """Sees the calls that a service profile sends here."""

    settings_class = CallScreeningSettings
    settings: CallScreeningSettings

    async def open_node(self) -> None:
        """Prepare before anything is reachable."""
        self.counts: Counter[tuple[str, str]] = Counter()
        self._calls = self.telemetry.meter.create_counter("call_screening.calls", "1", "Calls by outcome")
        self._service = CallScreeningService(self)

    def servicers(self) -> Sequence[object]:
        """Return the services offered; asked for more than once."""
        return [self._service]

    async def on_request(self, request: SipRequest, served: ServedUser) -> Refusal | None:
        """Let a call go on, or refuse it."""
        if request.method != "INVITE":
            return None
        callers, target = asserted_identities(request), dialled(request)
        settings = self.settings
        refusal = screen(served.case, callers, target, settings.refused_callers, settings.barred_targets)
        if refusal is not None:
            self._count(served.uri, "refused")
            self.telemetry.log("call.refused", served_user=served.uri, callers=callers, target=target)
        return refusal

    async def on_answer(self, request: SipRequest, response: SipResponse) -> None:
        """Count how a call that went on was answered."""
        served = served_user(request)
        if request.method == "INVITE" and served is not None and response.status >= 200:
            self._count(served.uri, "answered" if response.status < 300 else "failed")

    def _count(self, served_user: str, outcome: str) -> None:
        self.counts[served_user, outcome] += 1
        self._calls.add(1, {"outcome": outcome})


class CallScreeningService:
    """The service: one coroutine a method, named as in the contract."""

    service = call_screening_pb2.DESCRIPTOR.services_by_name["CallScreening"]

    def __init__(self, node: CallScreeningFunction) -> None:
        self._node = node

    async def Counts(  # noqa: N802 - named by the contract
        self, request: call_screening_pb2.CountsRequest, context: CallContext
    ) -> call_screening_pb2.CountsResponse:
        """Return how often what happened to whose calls."""
        del context
        answer = call_screening_pb2.CountsResponse()
        for (user, outcome), calls in sorted(self._node.counts.items()):
            if request.served_user in {"", user}:
                answer.counts.add(served_user=user, outcome=outcome, calls=calls)
        return answer
