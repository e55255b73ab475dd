"""What the relay reports by itself: silence, and where a peer was found."""

from dataclasses import replace

import pytest

from media.relay import InactivityDirection, MediaInactive, Mode, Side, StreamConfig
from tests.relay.ends import Ends, received, rtp

IN, OUT, BOTH = InactivityDirection.IN, InactivityDirection.OUT, InactivityDirection.BOTH


def told(ends: Ends) -> list[MediaInactive]:
    ends.engine.tick()
    return [event for event in ends.events if isinstance(event, MediaInactive)]


def watched(ends: Ends, direction: InactivityDirection, seconds: float = 10.0) -> Ends:
    return ends.open(access=ends.secured(ends.phone, inactivity_s=seconds, inactivity_direction=direction))


def test_silence_is_reported_once_until_media_returns(ends: Ends):
    watched(ends, IN)
    ends.talk(range(3))
    ends.clock.advance(9.9)
    assert told(ends) == []
    ends.clock.advance(0.1)
    assert told(ends) == [MediaInactive("s", Side.ACCESS, IN, pytest.approx(10.0))]
    ends.clock.advance(100)
    assert len(told(ends)) == 1
    ends.talk(range(3, 5))
    assert len(told(ends)) == 1
    ends.clock.advance(11)
    assert len(told(ends)) == 2


@pytest.mark.attack("T3")
def test_forged_packets_do_not_count_as_media(ends: Ends):
    watched(ends, IN)
    ends.talk(range(2))
    for _ in range(12):
        ends.clock.advance(1)
        ends.throw(rtp(9, payload=bytes(60)))
        ends.throw(rtp(9), by=ends.other())
    assert len(told(ends)) == 1


@pytest.mark.parametrize(("direction", "phone_talks", "far_talks", "expected"), [
    (IN, False, True, 1), (IN, True, False, 0), (OUT, True, False, 1), (OUT, False, True, 0),
    (BOTH, True, False, 0), (BOTH, False, True, 0), (BOTH, False, False, 1),
])  # fmt: skip
def test_direction_of_silence(
    ends: Ends, direction: InactivityDirection, phone_talks: bool, far_talks: bool, expected: int
):
    watched(ends, direction)
    ends.talk([0])
    ends.answer([0])
    for second in range(1, 13):
        ends.clock.advance(1)
        if phone_talks:
            ends.talk([second])
        if far_talks:
            ends.answer([second])
    assert len(told(ends)) == expected


def test_stream_on_hold_is_not_called_silent(ends: Ends):
    watched(ends, IN)
    ends.talk(range(2))
    ends.modify(Side.ACCESS, replace(ends.access, mode=Mode.SENDONLY))
    ends.clock.advance(60)
    assert told(ends) == []
    ends.modify(Side.ACCESS, replace(ends.access, mode=Mode.SENDRECV))
    ends.clock.advance(9)
    assert told(ends) == []
    ends.clock.advance(2)
    assert len(told(ends)) == 1
    assert received(ends.far) == []


def test_a_tick_that_looks_at_a_few_streams_takes_the_next_ones_each_time(ends: Ends):
    ends.open(access=ends.secured(ends.phone, inactivity_s=5.0))
    for number in range(4):
        config = ends.plain(ends.far, inactivity_s=5.0)
        ends.engine.add(StreamConfig(f"more{number}", {Side.ACCESS: config, Side.CORE: ends.plain(ends.far)}))
    ends.clock.advance(6)
    counts = []
    for _ in range(3):
        ends.engine.tick(1.0, 2)
        counts.append(len([event for event in ends.events if isinstance(event, MediaInactive)]))
    assert counts == [2, 4, 5]
