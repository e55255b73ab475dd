"""Floods (T3) at the real packet loop: good calls beside them lose nothing, memory is flat, every packet is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from bench.datagrams import MOST, Address, Outbox
from media.relay import DropCause, RelayProcess, RelayStatistics, Side
from sba.testing import async_test
from tests.relay import floods
from tests.relay.ends import udp
from tests.relay.floods import Calls, Flood, Footprint, hostile, hostile_to_core

pytestmark = [pytest.mark.load, pytest.mark.attack("T3"), pytest.mark.usefixtures("loop")]

CALLS = 50
VICTIMS = 4
SECONDS = 4
PACKETS = int(SECONDS / floods.PACE_S)
MEMORY_KB = 8 * 1024
"""How much a packet loop may grow under a flood: what it puts aside for a closer look is bounded."""
LATE = frozenset(cause for cause in DropCause if cause in ("queue_full", "rate_limited"))
"""Causes that say how much came, not what it was."""


@contextlib.asynccontextmanager
async def relay_process() -> AsyncIterator[RelayProcess]:
    relay = await RelayProcess.start()
    try:
        yield relay
    finally:
        await relay.close()


async def watched(relay: RelayProcess, work: asyncio.Future[None], footprint: Footprint) -> None:
    """Look at the process until the work is done; it must answer commands meanwhile."""
    try:
        while not work.done():
            assert relay.alive, "the packet loop is gone"
            footprint.look()
            await asyncio.wait_for(relay.statistics([]), 10)
            await asyncio.wait([work], timeout=0.1)
    finally:
        await work


async def settled(groups: Sequence[Calls], sent: int) -> tuple[list[RelayStatistics], int]:
    """Statistics of every call and what the kernel lost, once all that was sent is accounted for."""
    ports = set().union(*(group.ports() for group in groups))
    statistics: list[RelayStatistics] = []
    lost = 0
    for _ in range(250):
        statistics = [each for group in groups for each in await group.statistics()]
        queues = floods.queues(ports)
        lost = queues.lost
        if not queues.waiting and floods.accounted(statistics, lost) >= sent:
            break
        await asyncio.sleep(0.02)
    return statistics, lost


def assert_accounted(statistics: Sequence[RelayStatistics], lost: int, sent: int, before_any_queue: int) -> None:
    """Every packet that was sent is counted by a cause, or forwarded, or found a queue full."""
    floods.assert_balance(statistics)
    known = floods.accounted(statistics, lost)
    assert sent - before_any_queue <= known <= sent, (sent, floods.taken(statistics), lost, before_any_queue)
    if floods.QUEUE_FULL is not None:
        assert floods.drops(statistics)[floods.QUEUE_FULL] == lost


def from_elsewhere(calls: Calls, *, latched: bool) -> list[tuple[bytes, Address]]:
    """Hostile packets of every kind for every port of the calls, mixed; a replay only of what was said."""
    made = [(call, hostile(call)) for call in calls.calls]
    found: list[tuple[bytes, Address]] = []
    for kind in made[0][1]:
        if latched or kind != "replayed":
            for call, packets in made:
                found += [(packets[kind], call.local[side]) for side in Side]
            found += [(packets[kind], call.rtcp[side]) for call, packets in made[::7] for side in Side]
    return found


@async_test
async def test_a_flood_from_elsewhere_costs_the_good_calls_nothing():
    async with relay_process() as relay, Calls.at(relay, CALLS, PACKETS) as calls:
        footprint, no_room, hostile_sent = Footprint(relay.pid), floods.lost_before_any_queue(), 0
        for latched, packets in ((False, PACKETS // 4), (True, PACKETS - PACKETS // 4)):
            with contextlib.ExitStack() as stack:
                strangers = [stack.enter_context(udp(f"127.0.0.{last}")) for last in (1, 2, 3, 4)]
                flood = stack.enter_context(Flood(from_elsewhere(calls, latched=latched), strangers).running())
                work = asyncio.ensure_future(asyncio.to_thread(calls.talk, packets))
                await watched(relay, work, footprint)
            hostile_sent += flood.sent
        await asyncio.to_thread(calls.hear_all)
        no_room = floods.lost_before_any_queue() - no_room
        sent = hostile_sent + 2 * CALLS * PACKETS
        statistics, lost = await settled([calls], sent)
        calls.check()
        assert_accounted(statistics, lost, sent, no_room)
        seen = {cause for cause, count in floods.drops(statistics).items() if count}
        usual = {DropCause.WRONG_SOURCE, DropCause.OVERSIZE, DropCause.STUN, DropCause.DTLS, DropCause.NOT_RTP}
        usual |= {DropCause.TOO_SHORT, DropCause.AUTH_FAILED}  # before latching SRTP from anywhere is tried
        assert seen - LATE <= usual
        assert seen >= {DropCause.WRONG_SOURCE, DropCause.NOT_RTP}
        assert footprint.grown_kb < MEMORY_KB
        assert footprint.most_descriptors == footprint.first_descriptors


@async_test
async def test_a_flood_from_the_address_of_some_peers_costs_the_other_calls_nothing():
    """Who can send from a phone's own address and port shares its queue, and no other."""
    async with (
        relay_process() as relay,
        Calls.at(relay, CALLS, PACKETS) as calls,
        Calls.at(relay, VICTIMS, PACKETS, first=CALLS) as victims,
    ):
        await asyncio.to_thread(calls.talk, 5)
        await asyncio.to_thread(victims.talk, 5)
        await asyncio.to_thread(victims.hear_all)
        footprint, no_room = Footprint(relay.pid), floods.lost_before_any_queue()
        with contextlib.ExitStack() as stack:
            running = []
            for call in victims.calls:
                datagrams = [(packet, call.local[Side.ACCESS]) for packet in hostile(call).values()] * 5
                running.append(Flood(datagrams, [call.phone]))
                datagrams = [(packet, call.local[Side.CORE]) for packet in hostile_to_core(call).values()] * 5
                running.append(Flood(datagrams, [call.far]))
            for flood in running:
                stack.enter_context(flood.running())
            work = asyncio.ensure_future(asyncio.to_thread(calls.talk, PACKETS - 5))
            await watched(relay, work, footprint)
        await asyncio.to_thread(calls.hear_all)
        no_room = floods.lost_before_any_queue() - no_room
        hostile_sent = sum(flood.sent for flood in running)
        sent = hostile_sent + 2 * CALLS * PACKETS + 2 * VICTIMS * victims.said
        statistics, lost = await settled([calls, victims], sent)
        calls.check()
        assert not floods.drops(await calls.statistics())
        victims.hear_all(0)
        victims.check()  # nothing of the flood has passed
        assert_accounted(statistics, lost, sent, no_room)
        assert footprint.grown_kb < MEMORY_KB
        assert footprint.most_descriptors == footprint.first_descriptors
        await asyncio.to_thread(victims.talk, 20)  # and they go on
        await asyncio.to_thread(victims.hear_all)
        victims.check()


ACCESS_CAUSES = {
    "forged": DropCause.AUTH_FAILED,
    "replayed": DropCause.REPLAYED,
    "truncated": DropCause.AUTH_FAILED,
    "cut short": DropCause.TOO_SHORT,
    "empty": DropCause.TOO_SHORT,
    "oversized": DropCause.OVERSIZE,
    "large": DropCause.AUTH_FAILED,
    "wrong SSRC": DropCause.AUTH_FAILED,
    "header too long": DropCause.TOO_SHORT,
    "RTCP": DropCause.NOT_RTP,
    "STUN": DropCause.STUN,
    "DTLS": DropCause.DTLS,
    "garbage": DropCause.NOT_RTP,
}


CORE_KINDS = ("cut short", "empty", "header too long", "RTCP", "STUN", "DTLS", "garbage", "oversized")
CORE_CAUSES = {kind: ACCESS_CAUSES[kind] for kind in CORE_KINDS}
PUNTED = (DropCause.STUN, DropCause.DTLS, DropCause.NOT_RTP)
"""What a later layer may be told of, so many a second; the rest may be counted as that alone."""


def merged(found: Mapping[DropCause, int]) -> dict[str, int]:
    """Counts by cause, with one for all that may be told of elsewhere."""
    total: Counter[str] = Counter()
    for cause, count in found.items():
        total["punted" if cause in PUNTED or cause == "rate_limited" else str(cause)] += count
    return {cause: count for cause, count in total.items() if count}


class Turns:
    """Hostile packets from a peer's own address, and behind them, in the same queue, a good one of the peer.

    The next turn begins when every good packet has arrived: so all goes as fast as the relay does, and no queue fills.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._made = []
        for call in calls.calls:
            for side, sock, packets in (
                (Side.ACCESS, call.phone, hostile(call)),
                (Side.CORE, call.far, hostile_to_core(call)),
            ):
                self._made.append((sock, Outbox([(octets, call.local[side]) for octets in packets.values()])))
        self.taken = 0

    def take(self, seconds: float, most: int) -> None:
        """Take turns; blocks until then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.taken < most:
            for sock, outbox in self._made:
                at = 0
                while at < outbox.count:
                    at += outbox.send(sock, at, MOST)
            for call in self._calls.calls:
                call.say(self._calls.said)
            self._calls.said += 1
            self.taken += 1
            self._calls.hear_all()


@async_test
async def test_every_hostile_packet_from_a_peers_own_address_is_counted_by_its_cause():
    most = 2000
    async with relay_process() as relay, Calls.at(relay, CALLS, most) as calls:
        await asyncio.to_thread(calls.talk, 2)
        await asyncio.to_thread(calls.hear_all)
        turns, footprint, no_room = Turns(calls), Footprint(relay.pid), floods.lost_before_any_queue()
        work = asyncio.ensure_future(asyncio.to_thread(turns.take, SECONDS, most - 2))
        await watched(relay, work, footprint)
        no_room = floods.lost_before_any_queue() - no_room
        sent = CALLS * turns.taken * (len(ACCESS_CAUSES) + len(CORE_CAUSES)) + 2 * CALLS * calls.said
        statistics, lost = await settled([calls], sent)
        calls.check()
        assert_accounted(statistics, lost, sent, no_room)
        assert lost == no_room == 0
        for side, causes in ((Side.ACCESS, ACCESS_CAUSES), (Side.CORE, CORE_CAUSES)):
            found, due = floods.drops(statistics, side), Counter(causes.values())
            total = {cause: CALLS * turns.taken * count for cause, count in due.items()}
            assert merged(found) == merged(total), side
        assert footprint.grown_kb < MEMORY_KB
        assert footprint.most_descriptors == footprint.first_descriptors
