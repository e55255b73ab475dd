"""A node that is told to finish: nobody finds it any more, who knows it goes on with it, only the operator may tell it."""

import asyncio

import grpc
import pytest

from protos import iq_pb2, lifecycle_pb2
from sba.errors import RemoteProblem
from sba.load import ProcessorShare, share
from sba.testing import LabFixture, async_test
from tests.sba.gateway import HEARTBEAT, Gateway

RETIRE = lifecycle_pb2.DESCRIPTOR.services_by_name["NodeLifecycle"].methods_by_name["Retire"]


async def retire(client, lab, instance="agw-1", **fields):
    request = lifecycle_pb2.RetireRequest(**fields)
    return await client.call(RETIRE, request, instance=lab.instance_id(instance), nf_type="IMS_AGW")


@async_test
async def test_a_node_that_retires_is_found_no_more_but_by_who_knows_it(tmp_path):
    async with LabFixture(tmp_path, nrf_settings={"discovery_validity_s": 1}) as lab:
        node = await lab.start("imsagw", "agw-1", {}, cls=Gateway)
        operator, consumer = await lab.client("LAB"), await lab.client("PCSCF")
        assert len(await consumer.discover("IMS_AGW")) == 1
        node.work_left = lambda: (3, "calls")
        answer = await retire(operator, lab)
        assert (answer.retiring, answer.work_left, answer.work) == (True, 3, "calls")
        consumer.discovery.forget()
        assert await consumer.discover("IMS_AGW") == []
        beat = iq_pb2.HeartbeatRequest(alg_id="pcscf")
        answer = await consumer.call(HEARTBEAT, beat, instance=lab.instance_id("agw-1"))
        assert answer.epoch == "agw-1"
        assert (await retire(operator, lab)).retiring, "once more changes nothing"
        assert not (await retire(operator, lab, withdraw=True)).retiring
        consumer.discovery.forget()
        assert len(await consumer.discover("IMS_AGW")) == 1


@pytest.mark.attack("T6", "T9")
@pytest.mark.parametrize("nf_type", ["PCSCF", "UE", "IMS_AGW", "KMS"])
@async_test
async def test_nobody_but_the_operator_takes_a_node_out_of_service(tmp_path, nf_type):
    async with LabFixture(tmp_path) as lab:
        node = await lab.start("imsagw", "agw-1", {}, cls=Gateway)
        other = await lab.client(nf_type)
        with pytest.raises(RemoteProblem) as refused:
            await retire(other, lab)
        assert refused.value.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
        assert not node.retiring


@async_test
async def test_a_node_that_is_not_ready_cannot_be_retired(tmp_path):
    async with LabFixture(tmp_path) as lab:
        started = asyncio.Event()

        class Slow(Gateway):
            async def start_node(self):
                await started.wait()

        starting = asyncio.ensure_future(lab.start("imsagw", "agw-1", {}, cls=Slow))
        operator = await lab.client("LAB")
        async with asyncio.timeout(5):
            while "agw-1" not in lab.nodes or not lab.nodes["agw-1"].registered.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        with pytest.raises(RemoteProblem):
            await retire(operator, lab)
        started.set()
        assert not (await starting).retiring


def test_a_busy_process_is_loaded_and_an_idle_one_is_not():
    now, used = [0.0], [0.0]
    load = ProcessorShare(lambda: now[0], lambda: used[0])
    now[0], used[0] = 3.0, 3.0
    assert load.percent() == 0
    load.begin()
    now[0], used[0] = 13.0, 8.0
    assert load.percent() == 25, "half of 50"
    now[0], used[0] = 14.0, 9.0
    assert load.percent() == 25, "too soon to say"
    for second in range(20, 60, 5):
        now[0], used[0] = float(second), 1000.0 * second
        busy = load.percent()
    assert busy == 100
    for second in range(60, 120, 5):
        now[0] = float(second)
        idle = load.percent()
    assert idle == 0


@pytest.mark.parametrize(("part", "whole", "percent"), [(0, 10, 0), (1, 3, 33), (20, 10, 100), (5, 0, 0), (-1, 3, 0)])
def test_a_share_is_between_nothing_and_everything(part, whole, percent):
    assert share(part, whole) == percent
