"""Who may capture a node: the lab's operator with a token, and with keys only where the lab exports any (T6, T8)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import capture_pb2
from sba.client import SbiClient
from sba.errors import RemoteProblem
from sba.tap import MOST_READERS
from sba.testing import LabFixture, async_test
from tests.sba.gateway import HEARTBEAT, beat, channel_to, forge, lab_with_gateway, until

CAPTURE = capture_pb2.DESCRIPTOR.services_by_name["NodeCapture"].methods_by_name["Capture"]
PATH = "/ims.capture.v1.NodeCapture/Capture"
SCOPE = "nnf-capture"


@contextlib.asynccontextmanager
async def capturing(
    lab: LabFixture, client: SbiClient, instance: str = "agw-1", nf_type: str = "IMS_AGW", *, with_keys: bool = False
) -> AsyncIterator[AsyncIterator[Any]]:
    """A capture that has begun."""
    stream = client.stream(
        CAPTURE,
        capture_pb2.NodeCaptureRequest(with_keys=with_keys),
        instance=lab.instance_id(instance),
        nf_type=nf_type,
    )
    async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
        assert (await anext(items)).started
        yield items


async def next_message(items: AsyncIterator[Any], path: str) -> capture_pb2.CapturedMessage:
    async with asyncio.timeout(5):
        while True:
            message: capture_pb2.CapturedMessage = (await anext(items)).message
            if message.sba.path.endswith(path):
                return message


async def refusal(lab: LabFixture, nf_type: str, token: str | None) -> RemoteProblem:
    """Ask agw-1 for a capture past the framework's client, with a token of one's own making."""
    environment = lab.add("client", f"client-{nf_type.lower()}", nf_types=(nf_type,))
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with channel_to(lab, "agw-1", environment) as channel:
        call = channel.unary_stream(
            PATH, request_serializer=bytes, response_deserializer=capture_pb2.NodeCaptureItem.FromString
        )(b"", metadata=metadata, timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        return RemoteProblem.from_rpc_error(caught.value)


@async_test
async def test_the_operator_captures_any_node_that_is_built_on_sba(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, _gateway):
        operator, consumer = await lab.client("LAB"), await lab.client("PCSCF")
        async with capturing(lab, operator) as items, capturing(lab, operator, "nrf", "NRF") as of_nrf:
            await consumer.call(HEARTBEAT, beat("one"))
            asked = await next_message(items, "/Heartbeat")
            token = await next_message(of_nrf, "/Get")
        assert asked.sba.peer == "client-pcscf.ims.test"
        assert asked.sba.authority == "agw-1.ims.test"
        assert asked.destination_port == lab.nodes["agw-1"].server.port
        assert token.sba.size > 0
        await until(lambda: not lab.nodes["agw-1"].tap.wants(capture_pb2.CAPTURE_SBA))


@async_test
async def test_refusals_show_with_their_status(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, _gateway):
        operator, consumer = await lab.client("LAB"), await lab.client("PCSCF")
        async with capturing(lab, operator) as items:
            with pytest.raises(RemoteProblem):
                await consumer.call(HEARTBEAT, beat("refuse"))
            while (ended := await next_message(items, "/Heartbeat")).sba.phase != capture_pb2.SbaStep.END:
                pass
        assert ended.sba.status == grpc.StatusCode.ABORTED.value[0]
        assert ended.sent


@pytest.mark.attack("T6")
@async_test
async def test_no_other_nf_type_gets_a_token_for_captures(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, _gateway):
        consumer = await lab.client("PCSCF")
        with pytest.raises(RemoteProblem) as caught:
            async with capturing(lab, consumer):
                pass
        assert caught.value.problem is not None
        assert caught.value.problem.access_token_error == "unauthorized_client"


@pytest.mark.attack("T6")
@async_test
async def test_neither_a_token_nor_the_certificate_alone_is_enough(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, _gateway):
        no_token = await refusal(lab, "LAB", None)
        assert no_token.code is grpc.StatusCode.UNAUTHENTICATED
        client = lab.instance_id("client-lab")
        wrong_scope = await refusal(lab, "LAB", forge(lab, sub=client))
        assert wrong_scope.code is grpc.StatusCode.PERMISSION_DENIED
        other = lab.instance_id("client-pcscf")
        other_type = await refusal(lab, "PCSCF", forge(lab, sub=other, scope=SCOPE))
        assert other_type.code is grpc.StatusCode.PERMISSION_DENIED
        stolen = await refusal(lab, "PCSCF", forge(lab, sub=client, scope=SCOPE))
        assert stolen.code is grpc.StatusCode.UNAUTHENTICATED
        other_audience = await refusal(lab, "LAB", forge(lab, sub=client, scope=SCOPE, aud="HSS"))
        assert other_audience.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.attack("T8")
@async_test
async def test_a_node_gives_no_keys_unless_the_lab_exports_them(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, _gateway):
        operator = await lab.client("LAB")
        with pytest.raises(RemoteProblem) as caught:
            async with capturing(lab, operator, with_keys=True):
                pass
        assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.problem is not None
        assert "key export is switched off" in caught.value.problem.detail


@async_test
async def test_one_capture_too_many_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, _gateway):
        operator, consumer = await lab.client("LAB"), await lab.client("PCSCF")
        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(capturing(lab, operator)) for _ in range(MOST_READERS)]
            with pytest.raises(RemoteProblem) as caught:
                async with capturing(lab, operator):
                    pass
            assert caught.value.problem is not None
            assert caught.value.problem.status == 429
            await consumer.call(HEARTBEAT, beat("still"))
            for items in opened:
                await next_message(items, "/Heartbeat")


@async_test
async def test_a_reader_that_does_not_read_slows_no_node(tmp_path: Path) -> None:
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        operator, consumer = await lab.client("LAB"), await lab.client("PCSCF")
        async with capturing(lab, operator) as items:
            for number in range(300):
                await consumer.call(HEARTBEAT, beat(str(number)))
            assert len(gateway.handled) == 300
            assert (await next_message(items, "/Heartbeat")).sba.path.endswith("/Heartbeat")
