"""Parts of the gateway by themselves, with a clock the test turns."""

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty

from media.relay import Protection, RelayStatistics, Side, SideStatistics
from nodes.imsagw.context import Context
from nodes.imsagw.hanging import hanging_contexts
from nodes.imsagw.notifications import KEPT, NotificationLog
from nodes.imsagw.replay import TransactionCache
from protos.iq_pb2 import HeartbeatRequest, Notification, RekeyNeeded
from sba.errors import ProblemError
from sba.testing import async_test
from tests.relay.ends import Clock


def counters(name: str, packets: int) -> RelayStatistics:
    side = SideStatistics(Protection.RTP, "", 0, packets, 0, 0, 0, 0, {}, 0, None, 0, 0.0, 0.0)
    return RelayStatistics(f"{name}/1", {Side.ACCESS: side})


@pytest.mark.attack("T9")
def test_context_is_freed_only_when_its_owner_and_its_media_are_silent():
    context = Context("c", "alg", "call", emergency=False, created=0.0)
    heard = {"alg": 0.0}

    def look(now: float, packets: int) -> list[Context]:
        return hanging_contexts([context], [counters("c", packets)], heard, now, 60.0)

    assert look(50, 5) == []
    assert look(100, 10) == [], "media moves although the owner is dead"
    assert look(159, 10) == []
    heard["alg"] = 155.0
    assert look(161, 10) == [], "the owner lives although the media is silent"
    assert look(216, 10) == [context]
    assert hanging_contexts([context], [], heard, 10_000, 0.0) == []


@async_test
async def test_answers_are_forgotten_after_their_time():
    clock = Clock()
    cache: TransactionCache[Empty] = TransactionCache(clock, 60.0)
    runs = []

    async def run() -> Empty:
        runs.append(1)
        return Empty()

    request = HeartbeatRequest(alg_id="a")
    for _ in range(3):
        await cache.once("alg", "1", request, run)
    assert len(runs) == 1
    await cache.once("other", "1", request, run)
    assert len(runs) == 2
    clock.advance(61)
    await cache.once("alg", "1", request, run)
    assert (len(runs), len(cache)) == (3, 1)


@async_test
async def test_error_of_a_transaction_is_given_again():
    cache: TransactionCache[Empty] = TransactionCache(Clock())
    runs = []

    async def run() -> Empty:
        runs.append(1)
        raise ProblemError(404, "IQ_411")

    for _ in range(2):
        with pytest.raises(ProblemError, match="IQ_411"):
            await cache.once("alg", "1", HeartbeatRequest(), run)
    assert len(runs) == 1
    with pytest.raises(ProblemError, match="IQ_442"):
        await cache.once("alg", "", HeartbeatRequest(), run)


@async_test
async def test_notifications_are_numbered_kept_and_private_to_their_owner():
    log = NotificationLog()
    log.add("a", Notification(going_down="1"))
    log.add("b", Notification(going_down="2"))
    log.add("a", Notification(going_down="3"))

    async def first(owner: str, after: int, count: int) -> list[str]:
        found = []
        async for notification in log.follow(owner, after):
            found.append(notification.going_down)
            if len(found) == count:
                break
        return found

    async def number_of_first(owner: str) -> int:
        async for notification in log.follow(owner, 0):
            return notification.event_id
        raise AssertionError(owner)

    one, two = await number_of_first("a"), await number_of_first("b")
    assert two == one + 1
    assert await first("a", 0, 2) == ["1", "3"]
    assert await first("a", one, 1) == ["3"]
    assert await first("a", one + 99, 2) == ["1", "3"], "a number that this gateway never gave"
    waiting = asyncio.ensure_future(first("b", two, 1))
    await asyncio.sleep(0)
    log.add_for_all(Notification(going_down="4"))
    assert await waiting == ["4"]


@pytest.mark.attack("T9")
@async_test
async def test_what_a_context_waits_for_is_told_until_it_has_it_however_many_wait():
    log, count = NotificationLog(), 3 * KEPT

    def needed(number: int) -> Notification:
        return Notification(context_id=str(number), termination_id="t", rekey_needed=RekeyNeeded(stream_ids=[1]))

    for number in range(count):
        log.add("a", needed(number))
    log.add("a", needed(0))  # asked again: told once, at its new place
    heard = []
    async with asyncio.timeout(5):
        async for notification in log.follow("a", 0):
            heard.append(notification.context_id)
            if len(heard) == count:
                break
    assert heard == [*map(str, range(1, count)), "0"]
    for number in range(count):
        log.settle("a", str(number))
    again = log.follow("a", 0)
    waiting = asyncio.ensure_future(anext(again))
    await asyncio.sleep(0)
    assert not waiting.done(), "a call that has its keys is not disturbed when its IMS-ALG comes back"
    log.add("a", Notification(going_down="1"))
    assert (await waiting).going_down == "1"
