"""NodeLifecycle: a node is told to take no new work and says what it still has, offered by every network function."""

from __future__ import annotations

from typing import Protocol

from protos import lifecycle_pb2
from sba.access import CallContext


class Retiring(Protocol):
    """What a network function does about its end."""

    @property
    def retiring(self) -> bool:
        """Whether it takes no new work."""

    async def retire(self, *, withdraw: bool = False) -> None:
        """Take no new work, or take it again."""

    def work_left(self) -> tuple[int, str]:
        """What would be broken off now: how much, and what it is."""


class NodeLifecycle:
    """Implements ``ims.lifecycle.v1.NodeLifecycle``."""

    service = lifecycle_pb2.DESCRIPTOR.services_by_name["NodeLifecycle"]

    def __init__(self, node: Retiring) -> None:
        self._node = node

    async def Retire(  # noqa: N802 - the contract's name
        self, request: lifecycle_pb2.RetireRequest, _context: CallContext
    ) -> lifecycle_pb2.RetireResponse:
        """Retire the node or take that back, and say what is left."""
        await self._node.retire(withdraw=request.withdraw)
        count, what = self._node.work_left()
        return lifecycle_pb2.RetireResponse(retiring=self._node.retiring, work_left=count, work=what)
