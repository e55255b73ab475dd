"""gRPC reflection behind a switch, for ``grpcurl`` and the like; peers still need a certificate of the lab."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from sba.health import health_contract

if TYPE_CHECKING:
    from sba.server import SbiServer

_METHOD = "ServerReflectionInfo"


def reflection_handlers(server: SbiServer, services: Iterable[str]) -> dict[str, grpc.RpcMethodHandler]:
    """Return the handlers to add to a server that describes these services."""
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
    path = f"/{reflection.SERVICE_NAME}/{_METHOD}"
    contract = replace(health_contract("Check"), path=path, name=_METHOD, service=reflection.SERVICE_NAME)
    admit = server.guard(contract)

    async def describe(
        requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        await admit(context)
        async for response in servicer.ServerReflectionInfo(requests, context):
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        describe,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {path: handler}
