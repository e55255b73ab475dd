"""Attacks on the counters in shared memory: sides that leave and come back, readers in another thread, rows given on."""

import math
import os
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, NoOpMeter

from media.relay import Mode, Side, SideCounts
from media.relay.board import Board, SharedCounters
from nodes.imsagw.meter import MediaMeter
from tests.relay.ends import Ends, keys


def total(counts: Any) -> int:
    return sum(side.packets_in + side.packets_out for sides in counts.values() for side in sides.values())


@pytest.mark.attack("T9")
def test_a_side_that_was_removed_and_comes_back_starts_at_nothing(ends: Ends):
    """H.248: one termination is subtracted, another one added to the same stream."""
    ends.open()
    ends.talk(range(20))
    ends.answer(range(5))
    ends.engine.remove("s", Side.CORE)
    back = ends.engine.modify("s", Side.CORE, ends.core)
    assert ends.engine.counts()["s"][Side.CORE].packets_out == 0, "what the side before it sent"
    assert ends.engine.counts()["s"][Side.ACCESS].packets_out == 5
    ends.local = {**ends.local, Side.CORE: back}
    ends.engine.tick()
    ends.talk(range(20, 25))
    ends.engine.tick()
    assert ends.statistics(Side.CORE).packets_out == 5
    assert ends.statistics(Side.ACCESS).packets_in == 25


@pytest.mark.attack("T9")
def test_no_counter_falls_for_a_reader_that_has_not_heard_of_a_removal_yet(ends: Ends):
    """Between the removal in the packet loop and its answer in the gateway process a metric may be read."""
    ends.open()
    ends.talk(range(20))
    ends.answer(range(5))
    ends.statistics()
    reader, rows = SharedCounters(os.dup(ends.engine.board.descriptor)), dict(ends.engine.rows())
    before = total(reader.read(rows))
    ends.engine.remove("s", Side.CORE)
    assert total(reader.read(rows)) >= before


@pytest.mark.attack("T9")
def test_metrics_are_read_by_a_thread_while_streams_come_and_go():
    """PeriodicExportingMetricReader calls the instruments in a thread of its own; the rows are the event loop's."""
    board = Board()
    rows = {f"{number}/1": {side: board.open().row for side in Side} for number in range(3000)}
    reader = SharedCounters(os.dup(board.descriptor))
    meter = MediaMeter(SimpleNamespace(meter=NoOpMeter("")))  # type: ignore[arg-type]
    meter.watch(
        counts=lambda: reader.read(rows),  # as RelayProcess.counts()
        streams=lambda: 0,
        room=0,
        contexts=lambda: 0,
        commands=lambda: 0,
        restarts=lambda: 0,
    )
    for name, sides in rows.items():
        for side in sides:
            meter.began(name, side)
    faults: list[Exception] = []
    observe, done = meter._observe("packets", "network.io.direction"), threading.Event()

    def export() -> None:
        try:
            for _ in range(5):
                meter._read_at = -math.inf
                observe(CallbackOptions())
        except Exception as fault:  # noqa: BLE001
            faults.append(fault)
        done.set()

    thread = threading.Thread(target=export)
    thread.start()
    number = 3000
    while not done.wait(0.005):
        rows |= {f"{number}/1": {Side.ACCESS: 0}}
        number += 1
    thread.join()
    board.release()
    assert not faults


@pytest.mark.attack("T9")
def test_a_packet_loop_that_dies_while_metrics_are_read_is_counted_once():
    """What the exporter's thread has read just before is not written over the new beginning."""
    meter = MediaMeter(SimpleNamespace(meter=NoOpMeter("")))  # type: ignore[arg-type]
    found = {"c/1": {Side.ACCESS: SideCounts(100, 0, 0, 0, 0, 0, {})}}
    meter._read = lambda: found
    meter.began("c/1", Side.ACCESS)
    meter.refresh()

    def die_meanwhile() -> Any:
        meter.interrupted("c/1", Side.ACCESS)  # the event loop has its turn before the thread goes on
        return found

    meter._read, meter._read_at = die_meanwhile, -math.inf
    values = {
        tuple((each.attributes or {}).values()): each.value
        for each in meter._observe("packets", "network.io.direction")(CallbackOptions())
    }
    assert values["access", "receive"] == 100


@pytest.mark.attack("T8")
@pytest.mark.parametrize("end", ["hold without protection", "removed"])
def test_no_session_outlives_its_protection(ends: Ends, end: str):
    ends.open()
    ends.talk(range(3))
    ends.answer(range(2))
    side = ends.engine._streams["s"].sides[Side.ACCESS]
    assert side.receiver is not None
    assert side.sender is not None
    sessions = [weakref.ref(side.receiver.session), weakref.ref(side.sender.session)]
    del side
    if end == "removed":
        ends.engine.remove("s", Side.ACCESS)
    else:
        ends.modify(Side.ACCESS, ends.plain(ends.phone, mode=Mode.INACTIVE))
    ends.step()
    ends.engine.tick()
    assert not any(session() for session in sessions)


@pytest.mark.attack("T8")
def test_the_key_before_is_forgotten_after_its_grace_also_on_hold(ends: Ends):
    ends.open()
    ends.talk(range(3))
    side = ends.engine._streams["s"].sides[Side.ACCESS]
    assert side.receiver is not None
    before = weakref.ref(side.receiver.session)
    ends.modify(Side.CORE, ends.plain(ends.far, mode=Mode.INACTIVE))
    ends.engine.rekey("s", Side.ACCESS, receive=keys())
    ends.clock.advance(60)
    ends.engine.tick()
    assert before() is None
