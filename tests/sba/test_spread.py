"""How work is spread over the instances of a producer, and what happens to one that does not answer."""

import asyncio
from collections import Counter

import pytest

from protos import nrf_disc_pb2, nrf_nfm_pb2
from sba.discovery import Discovery, Query
from sba.spread import Turns, by_rank
from sba.testing import async_test

QUERY = Query("IMS_AGW", "nimsagw-iq")


def profile(name, *, capacity=100, load=0, priority=10):
    return nrf_nfm_pb2.NfProfile(nf_instance_id=name, capacity=capacity, load=load, priority=priority)


def firsts(turns, profiles, times):
    return Counter(by_rank(profiles, turns)[0].nf_instance_id for _ in range(times))


def test_equals_take_turns():
    assert firsts(Turns(), [profile("a"), profile("b"), profile("c")], 9) == {"a": 3, "b": 3, "c": 3}


def test_nobody_waits_long_for_a_turn():
    turns, profiles = Turns(), [profile("a"), profile("b"), profile("c")]
    seen = [by_rank(profiles, turns)[0].nf_instance_id for _ in range(30)]
    assert all(len(set(seen[at : at + 3])) == 3 for at in range(28))


@pytest.mark.parametrize(
    ("first", "second", "shares"),
    [
        ({"capacity": 300}, {"capacity": 100}, {"a": 30, "b": 10}),
        ({"load": 0}, {"load": 75}, {"a": 32, "b": 8}),
        ({"load": 100}, {"load": 0}, {"a": 0, "b": 40}),
        ({"capacity": 0}, {"capacity": 1}, {"a": 20, "b": 20}),
    ],
)
def test_shares_follow_capacity_and_load(first, second, shares):
    found = firsts(Turns(), [profile("a", **first), profile("b", **second)], 40)
    assert {name: found[name] for name in "ab"} == shares


def test_priority_goes_before_capacity_and_load():
    profiles = [profile("late", priority=20, capacity=10_000), profile("first", load=100)]
    assert firsts(Turns(), profiles, 10) == {"first": 10}
    assert [p.nf_instance_id for p in by_rank(profiles, Turns())] == ["first", "late"]


def test_a_suspect_comes_last_whatever_its_priority():
    ordered = by_rank([profile("a", priority=1), profile("b"), profile("c")], Turns(), frozenset({"a"}))
    assert ordered[-1].nf_instance_id == "a"


def test_an_instance_that_comes_back_is_not_flooded():
    turns, profiles = Turns(), [profile("a"), profile("b"), profile("c")]
    firsts(turns, profiles[:2], 1000)
    assert firsts(turns, profiles, 9)["c"] == 3


def test_every_profile_is_there_once():
    profiles = [profile(str(number), priority=number % 3) for number in range(20)]
    assert sorted(p.nf_instance_id for p in by_rank(profiles, Turns())) == sorted(p.nf_instance_id for p in profiles)


class Nrf:
    def __init__(self, profiles):
        self.profiles = profiles
        self.asked = 0
        self.now = 0.0

    async def ask(self, query):
        self.asked += 1
        await asyncio.sleep(0)
        return nrf_disc_pb2.DiscoveryResponse(profiles=self.profiles, validity_s=5)

    def discovery(self):
        return Discovery(self.ask, clock=lambda: self.now)


@async_test
async def test_a_consumer_goes_on_taking_turns_when_it_asks_anew():
    nrf = Nrf([profile("a"), profile("b"), profile("c")])
    discovery = nrf.discovery()
    found = Counter()
    for _ in range(30):
        found[(await discovery.find(QUERY))[0].nf_instance_id] += 1
        nrf.now += 2.0
    assert found == {"a": 10, "b": 10, "c": 10}
    assert nrf.asked > 5


@async_test
async def test_consumers_that_ask_once_take_the_order_of_the_nrf():
    nrf = Nrf([profile("b"), profile("c"), profile("a")])
    assert [p.nf_instance_id for p in await nrf.discovery().find(QUERY)] == ["b", "c", "a"]


@async_test
async def test_an_instance_that_failed_is_asked_last_until_it_answered_or_time_went_by():
    nrf = Nrf([profile("a"), profile("b")])
    discovery = nrf.discovery()
    discovery.suspect("a")
    assert {(await discovery.find(QUERY))[0].nf_instance_id for _ in range(6)} == {"b"}
    discovery.trust("a")
    assert {(await discovery.find(QUERY))[0].nf_instance_id for _ in range(2)} == {"a", "b"}
    discovery.suspect("a")
    nrf.now += 3.0
    assert {(await discovery.find(QUERY))[0].nf_instance_id for _ in range(2)} == {"a", "b"}


@async_test
async def test_an_old_answer_serves_while_the_nrf_is_away_but_a_fresh_one_is_asked_for():
    nrf = Nrf([profile("a"), profile("b")])
    discovery = nrf.discovery()
    await discovery.find(QUERY)
    nrf.profiles = [profile("b")]
    nrf.now = 4.0
    assert len(await discovery.find(QUERY)) == 2
    nrf.now = 5.1
    assert [p.nf_instance_id for p in await discovery.find(QUERY)] == ["b"]
