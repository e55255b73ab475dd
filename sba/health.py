"""``grpc.health.v1`` of a node, answered to any peer with a certificate of the lab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from sba.access import CallContext
from sba.contracts import ANY_CONSUMER, MethodContract
from sba.errors import ProblemError

if TYPE_CHECKING:
    from sba.server import SbiServer

HEALTH_SERVICE = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_contract(name: str) -> MethodContract:
    """Return the contract of ``Check`` or ``Watch``: any node of the lab, no token (mutual TLS identity alone)."""
    method: MethodDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name[name]
    return MethodContract(
        path=f"/{HEALTH_SERVICE}/{name}",
        name=name,
        service=HEALTH_SERVICE,
        nf_type="",
        service_name="",
        scope="",
        operation_scope="",
        consumers=frozenset((ANY_CONSUMER,)),
        needs_token=False,
        idempotent=True,
        client_streaming=False,
        server_streaming=method.server_streaming,
        parse_request=message_factory.GetMessageClass(method.input_type).FromString,
        parse_response=message_factory.GetMessageClass(method.output_type).FromString,
        descriptor=method,
    )


class Health:
    """The serving state of a node; all its services share it."""

    def __init__(self) -> None:
        self.serving = False
        self._changed = asyncio.Event()
        self._services: frozenset[str] = frozenset()

    def add_to(self, server: SbiServer) -> None:
        """Offer the service on a server, also while it drains."""
        self._services = frozenset(("", *server.services))
        server.mount(health_contract("Check"), self.check, always=True)
        server.mount(health_contract("Watch"), self.watch, always=True)

    def set_serving(self, *, serving: bool) -> None:
        """Change the state and tell the watchers."""
        self.serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def check(self, request: Message, _context: CallContext) -> Message:
        """Answer ``Check``; NOT_FOUND for a service this node does not offer."""
        self._known(request)
        return self._response()

    async def watch(self, request: Message, _context: CallContext) -> AsyncIterator[Message]:
        """Answer ``Watch``: the present state and every change."""
        self._known(request)
        while True:
            changed = self._changed
            yield self._response()
            await changed.wait()

    def _known(self, request: Message) -> None:
        assert isinstance(request, health_pb2.HealthCheckRequest)
        if request.service not in self._services:
            raise ProblemError(404, "RESOURCE_CONTEXT_NOT_FOUND")

    def _response(self) -> Message:
        response: Message = health_pb2.HealthCheckResponse(status=SERVING if self.serving else NOT_SERVING)
        return response
