"""Asking nodes for their health over ``grpc.health.v1``, on channels that are kept."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from lab.labfile import NodeRow
from sba.identity import NodeIdentity

PROBE_TIMEOUT_S: Final = 0.5
"""Patience with one probe, seconds."""
_MOST_WAITS: Final = 4
"""How far the pause between two attempts to connect grows, as a multiple of the first."""


class HealthChecks:
    """One channel a node, with the operator's certificate; ``retry_ms``: the first pause between two attempts."""

    def __init__(self, identity: NodeIdentity, *, retry_ms: int) -> None:
        self._identity = identity
        self._retry_ms = retry_ms
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}

    async def close(self) -> None:
        """Close every channel."""
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def serves(self, row: NodeRow) -> bool:
        """Ask whether the node serves at the address of its row; who shows another name in its certificate does not."""
        channel = await self._channel(row)
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _channel(self, row: NodeRow) -> grpc.aio.Channel:
        target = f"{row.host}:{row.port}"
        known = self._channels.get(row.instance)
        if known is not None:
            if known[0] == target:
                return known[1]
            await known[1].close()
        options = (
            ("grpc.ssl_target_name_override", row.fqdn),
            ("grpc.default_authority", row.fqdn),
            ("grpc.initial_reconnect_backoff_ms", self._retry_ms),
            ("grpc.min_reconnect_backoff_ms", int(PROBE_TIMEOUT_S * 1000)),  # the least time an attempt has
            ("grpc.max_reconnect_backoff_ms", self._retry_ms * _MOST_WAITS),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        )
        channel = grpc.aio.secure_channel(target, self._identity.channel_credentials(), options=options)
        self._channels[row.instance] = (target, channel)
        return channel
