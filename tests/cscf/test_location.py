"""The location service under a fake clock: durable first, expiry, order."""

import asyncio

import pytest
from twisted.internet.task import Clock

from nodes.cscf.location import LocationService
from nodes.cscf.registrar import ContactEvent
from nodes.cscf.registration import Binding, Identity, Profile, Registration
from sba.testing import async_test


class Table:
    def __init__(self):
        self.records = {}
        self.broken = False

    async def put(self, key, value):
        if self.broken:
            raise OSError
        self.records[key] = value

    async def delete(self, key):
        self.records.pop(key, None)

    async def items(self):
        return list(self.records.items())


def binding(name, until):
    return Binding(f"sip:{name}@192.0.2.1", (), (), "c", 1, 0.0, until, name)


def registration(*bindings, impi="1@ims.test"):
    return Registration(
        Profile(impi, (Identity("sip:alice@ims.test"), Identity("tel:+1"))), f"orig-{impi}", "aka", bindings
    )


class Bench:
    def __init__(self, table=None):
        self.clock, self.table = Clock(), table or Table()
        self.ended, self.events, self.tasks = [], [], []
        self.location = LocationService(self.table, self.clock, self.clock.seconds, self.spawn, self.over)
        self.location.listen(lambda registration, events: self.events.extend(events))

    def spawn(self, work):
        self.tasks.append(asyncio.ensure_future(work))

    async def over(self, registration):
        self.ended.append(registration.impi)

    async def advance(self, seconds):
        self.clock.advance(seconds)
        while self.tasks:
            await self.tasks.pop()


@pytest.mark.clause("RFC 3261", "10.3-expiry")
@async_test
async def test_bindings_end_one_by_one_and_the_last_ends_the_registration():
    bench = Bench()
    await bench.location.save(registration(binding("a", 100.0), binding("b", 200.0)), ())
    await bench.advance(102)
    assert [b.contact_id for b in bench.location.by_impu("tel:+1").bindings] == ["b"]
    assert bench.events == [(binding("a", 100.0), ContactEvent.EXPIRED)]
    await bench.advance(100)
    assert bench.location.by_impi("1@ims.test") is None
    assert bench.location.by_token("orig-1@ims.test") is None
    assert (bench.ended, bench.table.records) == (["1@ims.test"], {})


@async_test
async def test_between_expiry_and_sweep_nothing_is_found():
    bench = Bench()
    await bench.location.save(registration(binding("a", 100.0)), ())
    bench.clock.advance(100.5)
    assert bench.location.by_impu("sip:alice@ims.test") is None


@pytest.mark.attack("T9")
@async_test
async def test_what_was_saved_is_found_again_and_rubbish_is_dropped():
    bench = Bench()
    await bench.location.save(registration(binding("a", 100.0)), ())
    bench.table.records["bad"] = {"profile": None}
    second = Bench(bench.table)
    assert await second.location.load() == 1
    assert second.location.by_token("orig-1@ims.test").bindings == (binding("a", 100.0),)
    assert "bad" not in bench.table.records
    await second.advance(102)
    assert second.ended == ["1@ims.test"]


@pytest.mark.clause("RFC 3261", "10.3-7")
@async_test
async def test_a_change_that_cannot_be_stored_is_not_visible():
    bench = Bench()
    bench.table.broken = True
    with pytest.raises(OSError):
        await bench.location.save(registration(binding("a", 100.0)), ())
    assert len(bench.location) == 0
    assert bench.events == []


@pytest.mark.clause("RFC 3261", "10.3-order")
@async_test
async def test_requests_of_one_user_are_handled_in_order_and_of_others_beside():
    bench = Bench()
    order = []
    gate = asyncio.Event()

    async def work(name, impi, wait):
        async with bench.location.lock(impi):
            if wait:
                await gate.wait()
            order.append(name)

    tasks = [asyncio.ensure_future(work(*one)) for one in (("1", "a", True), ("2", "a", False), ("3", "b", False))]
    await tasks[2]
    assert order == ["3"]
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["3", "1", "2"]
    assert bench.location._locks == {}
