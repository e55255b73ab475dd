"""What the supervisor answers for ``imslab ticket`` and ``imslab kms``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry.trace import NoOpTracer

from lab.control import ControlError, Params
from lab.kms_operations import TicketDesk
from protos import kms_control_pb2, ue_control_pb2
from sba.errors import RemoteProblem
from sba.testing import async_test


class Nodes:
    """The UE of alice and two KMSs; those in `down` answer nothing."""

    def __init__(self, down: tuple[str, ...] = (), *, user_made: bool = False) -> None:
        self.telemetry = SimpleNamespace(tracer=NoOpTracer())
        self.down = down
        self.orders: list[ue_control_pb2.TicketOrder] = []
        rows = {
            name: SimpleNamespace(user_made_tickets=user_made, nf=nf)
            for name, nf in (("kms", "kms"), ("kms-2", "kms"), ("kms-p", "kms-p"))
        }
        alice = SimpleNamespace(name="alice", impu="sip:alice@ims.test", kms="kms")
        names = {"kms.ims.test": "kms-2", "kms.partner.test": "kms-p"}
        self.lab: Any = SimpleNamespace(names=names, kms=tuple(rows), nodes=rows, users={"alice": alice})

    async def ask(self, op: str, **params: Any) -> Any:
        desk = TicketDesk(self, self.lab, lambda name: self.lab.users[name])  # type: ignore[arg-type]

        async def progress(item: Params) -> None:
            del item

        return await desk.operations()[op](params, progress)

    def _up(self, kms: str) -> None:
        if kms in self.down:
            raise RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="failed to connect to all addresses")

    async def kms_audit(self, kms: str, user: str, limit: int) -> kms_control_pb2.AuditResponse:
        self._up(kms)
        moments = (4.0, 2.0) if kms == "kms-p" else (5.0, 3.0, 1.0)
        return kms_control_pb2.AuditResponse(
            entries=[kms_control_pb2.AuditEntry(at=at, operation="request", user=user) for at in moments[:limit]]
        )

    async def rotate_ticket_key(self, kms: str) -> str:
        self._up(kms)
        return f"key of {kms}"

    async def request_ticket(self, user: str, order: ue_control_pb2.TicketOrder) -> ue_control_pb2.TicketInfo:
        self.orders.append(order)
        return ue_control_pb2.TicketInfo(ticket_id=user)


@pytest.mark.parametrize(("limit", "moments"), [(10, [5, 4, 3, 2, 1]), (2, [5, 4])])
@async_test
async def test_the_audit_is_newest_first_over_all_kmss(limit: int, moments: list[float]) -> None:
    answer = await Nodes().ask("kms-audit", limit=limit)
    assert [entry["at"] for entry in answer["entries"]] == moments
    assert answer["failed"] == {}


@async_test
async def test_a_kms_that_is_down_is_named_and_the_others_are_served() -> None:
    nodes = Nodes(down=("kms-p",))
    audit = await nodes.ask("kms-audit", limit=9)
    assert ([entry["kms"] for entry in audit["entries"]], audit["failed"]) == (
        ["kms"] * 3,
        {"kms-p": "kms-p does not answer"},
    )
    rotated = await nodes.ask("kms-rotate")
    assert rotated == {"tpk_id": {"kms": "key of kms"}, "failed": {"kms-p": "kms-p does not answer"}}


@async_test
async def test_of_several_instances_one_is_asked_and_the_next_where_it_is_silent() -> None:
    """Instances have one audit and one key: asked of each, records would come twice and keys be replaced twice."""
    for down in ((), ("kms",)):
        nodes = Nodes(down=down)
        answering = "kms-2" if down else "kms"
        audit = await nodes.ask("kms-audit", limit=9)
        assert [(entry["kms"], entry["at"]) for entry in audit["entries"]] == [
            ("kms", 5.0), ("kms-p", 4.0), ("kms", 3.0), ("kms-p", 2.0), ("kms", 1.0),
        ]  # fmt: skip
        assert audit["failed"] == {}
        assert (await nodes.ask("kms-rotate"))["tpk_id"] == {"kms": f"key of {answering}", "kms-p": "key of kms-p"}
        assert (await nodes.ask("kms-rotate", kms="kms.ims.test"))["tpk_id"] == {"kms": f"key of {answering}"}
        assert (await nodes.ask("kms-rotate", kms="kms-2"))["tpk_id"] == {"kms-2": "key of kms-2"}
    silent = await Nodes(down=("kms", "kms-2")).ask("kms-rotate")
    assert silent == {"tpk_id": {"kms-p": "key of kms-p"}, "failed": {"kms": "kms does not answer"}}


@pytest.mark.parametrize("name", ["kms-p", "kms.partner.test"])
@async_test
async def test_one_kms_is_chosen_by_instance_or_identity(name: str) -> None:
    assert (await Nodes().ask("kms-rotate", kms=name))["tpk_id"] == {"kms-p": "key of kms-p"}


@async_test
async def test_a_ticket_a_user_makes_is_refused_at_once_where_no_kms_would_resolve_it() -> None:
    nodes = Nodes()
    with pytest.raises(ControlError, match=r"set kms\.user_made_tickets: true in the lab description") as caught:
        await nodes.ask("ticket-request", user="alice", responders=["alice"], mode_3=True)
    assert (caught.value.kind, nodes.orders) == ("usage", [])
    nodes = Nodes(user_made=True)
    await nodes.ask("ticket-request", user="alice", responders=["alice"], mode_3=True)
    assert [order.mode_3 for order in nodes.orders] == [True]
