"""The registry: what it knows survives, who falls silent disappears, the best producer comes first."""

import asyncio

import pytest

from nodes.nrf.registry import Kind, Registry
from protos import nrf_disc_pb2, nrf_nfm_pb2
from sba.store import Store
from sba.testing import LabFixture, async_test


def profile(name, nf_type="IMS_AGW", **fields):
    made = nrf_nfm_pb2.NfProfile(
        nf_instance_id=LabFixture.instance_id(name),
        nf_types=[nf_type],
        status=nrf_nfm_pb2.REGISTERED,
        instance_name=name,
        fqdn=f"{name}.ims.test",
        host="127.0.0.1",
        port=1,
        heartbeat_s=5,
        capacity=100,
        **fields,
    )
    made.services.add(service_name="nimsagw-iq", grpc_service="ims.iq.v1.Iq", versions=["v1"])
    return made


def ask(**fields):
    return nrf_disc_pb2.DiscoveryRequest(target_nf_type="IMS_AGW", requester_nf_type="PCSCF", **fields)


class Scene:
    def __init__(self, tmp_path):
        self.environment = LabFixture(tmp_path, nrf=False).add("nrf", "nrf")
        self.now = 0.0

    async def open(self):
        self.store = await Store.open(self.environment)
        self.registry = Registry(await self.store.key_value("profiles"), clock=lambda: self.now, forget_s=100.0)
        await self.registry.load()
        return self.registry


@async_test
async def test_profiles_survive_a_restart(tmp_path):
    scene = Scene(tmp_path)
    registry = await scene.open()
    await registry.put(profile("agw-1"))
    await registry.put(profile("agw-2"))
    await registry.remove(profile("agw-2").nf_instance_id)
    await scene.store.close()
    registry = await scene.open()
    assert registry.all() == [profile("agw-1")]
    assert registry.discover(ask()) == [profile("agw-1")]
    await scene.store.close()


@async_test
async def test_an_nf_that_falls_silent_is_not_discovered_until_it_is_heard_again(tmp_path):
    scene = Scene(tmp_path)
    registry = await scene.open()
    await registry.put(profile("agw-1"))
    instance = profile("agw-1").nf_instance_id
    scene.now = 15.0
    assert await registry.expire() == []
    scene.now = 15.1
    assert await registry.expire() == [instance]
    assert registry.discover(ask()) == []
    assert await registry.expire() == [], "reported once"
    await registry.beat(instance, nrf_nfm_pb2.REGISTERED, 7)
    assert [p.load for p in registry.discover(ask())] == [7]
    scene.now = 200.0
    await registry.expire()
    assert registry.get(instance) is None
    assert await registry.beat(instance, nrf_nfm_pb2.REGISTERED, 0) is None
    await scene.store.close()


@async_test
async def test_best_producer_first(tmp_path):
    scene = Scene(tmp_path)
    registry = await scene.open()
    await registry.put(profile("late", priority=20))
    await registry.put(profile("busy", priority=10, load=99))
    await registry.put(profile("free", priority=10, load=0))
    firsts = [registry.discover(ask())[0].instance_name for _ in range(200)]
    assert set(firsts) <= {"busy", "free"}
    assert firsts.count("free") > 180
    assert all(registry.discover(ask())[-1].instance_name == "late" for _ in range(20))
    await scene.store.close()


@async_test
async def test_consumers_that_ask_once_are_spread_over_the_producers(tmp_path):
    scene = Scene(tmp_path)
    registry = await scene.open()
    for name in ("a", "b", "c"):
        await registry.put(profile(name))
    firsts = [registry.discover(ask())[0].instance_name for _ in range(12)]
    assert {name: firsts.count(name) for name in "abc"} == {"a": 4, "b": 4, "c": 4}
    await registry.beat(profile("c").nf_instance_id, nrf_nfm_pb2.REGISTERED, 50)
    firsts = [registry.discover(ask())[0].instance_name for _ in range(50)]
    assert {name: firsts.count(name) for name in "abc"} == {"a": 20, "b": 20, "c": 10}
    await scene.store.close()


@pytest.mark.attack("T9")
@pytest.mark.parametrize("status", [nrf_nfm_pb2.SUSPENDED, nrf_nfm_pb2.UNDISCOVERABLE])
@async_test
async def test_who_takes_no_new_work_is_not_discovered(tmp_path, status):
    scene = Scene(tmp_path)
    registry = await scene.open()
    await registry.put(profile("stays"))
    await registry.put(profile("leaves"))
    leaves = profile("leaves").nf_instance_id
    await registry.beat(leaves, status, 0)
    assert {p.instance_name for p in registry.discover(ask())} == {"stays"}
    known = [p.instance_name for p in registry.discover(ask(target_nf_instance_id=leaves))]
    assert known == (["leaves"] if status == nrf_nfm_pb2.UNDISCOVERABLE else []), "what it has to finish, it finishes"
    await scene.store.close()


@pytest.mark.parametrize(
    ("request_fields", "found"),
    [
        ({}, {"a", "b"}),
        ({"access_network": "a"}, {"a"}),
        ({"access_network": "c"}, set()),
        ({"home_domain": "other.test"}, {"b"}),
        ({"service_names": ["nimsagw-iq"]}, {"a", "b"}),
        ({"service_names": ["nimsagw-iq", "nimsagw-capture"]}, set()),
        ({"target_nf_instance_id": LabFixture.instance_id("b")}, {"b"}),
    ],
)
@async_test
async def test_filters(tmp_path, request_fields, found):
    scene = Scene(tmp_path)
    registry = await scene.open()
    await registry.put(profile("a", access_network="a", home_domains=["ims.test"]))
    await registry.put(profile("b", access_network="b", home_domains=["other.test"]))
    await registry.put(profile("hidden", allowed_nf_types=["SCSCF"]))
    away = profile("away")
    away.status = nrf_nfm_pb2.SUSPENDED
    await registry.put(away)
    assert {p.instance_name for p in registry.discover(ask(**request_fields))} == found
    await scene.store.close()


@async_test
async def test_watchers_hear_of_every_change_that_concerns_them(tmp_path):
    scene = Scene(tmp_path)
    registry = await scene.open()
    events = registry.watch("IMS_AGW", "")
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await registry.put(profile("hss-1", "HSS"))
    await registry.put(profile("agw-1"))
    assert (await first).kind == Kind.NF_REGISTERED
    await registry.put(profile("agw-1"))
    await registry.put(profile("agw-1", priority=3))
    assert (await anext(events)).kind == Kind.NF_PROFILE_CHANGED
    scene.now = 50.0
    await registry.expire()
    event = await anext(events)
    assert (event.kind, event.profile.instance_name) == (Kind.NF_DEREGISTERED, "agw-1")
    await events.aclose()
    assert registry.watchers == 0
    await scene.store.close()
