"""The jitter buffer."""

from hypothesis import given
from hypothesis import strategies as st

from media.jitter import Frame, JitterBuffer


def sound(n: int) -> bytes:
    return bytes((n & 0xFF,)) * 160


def begun(delay: float = 0.06) -> JitterBuffer:
    """A buffer that gave out frame 0 at time 0."""
    buffer = JitterBuffer(delay=delay)
    buffer.put(0, sound(0), -delay)
    assert buffer.take(0.0) == [Frame(0, sound(0))]
    return buffer


def test_the_first_frame_waits_for_one_before_it() -> None:
    buffer = JitterBuffer(delay=0.06)
    for n, at in ((2, 0.0), (1, 0.01), (0, 0.02)):
        buffer.put(n * 160, sound(n), at)
        assert buffer.take(at) == []
    assert [frame.payload for frame in buffer.take(0.061)] == [sound(0), sound(1), sound(2)]
    assert buffer.late == 0


def test_frames_in_order_leave_at_once() -> None:
    buffer = begun()
    for n in range(1, 4):
        buffer.put(n * 160, sound(n), n * 0.02)
        assert buffer.take(n * 0.02) == [Frame(n * 160, sound(n))]


def test_a_late_frame_holds_the_following_ones_until_it_comes() -> None:
    buffer = begun()
    buffer.put(320, sound(2), 0.04)
    assert buffer.take(0.04) == []
    buffer.put(160, sound(1), 0.05)
    assert buffer.take(0.05) == [Frame(160, sound(1)), Frame(320, sound(2))]
    assert buffer.reordered == 1


def test_a_frame_that_does_not_come_is_missing_after_the_delay_and_late_afterwards() -> None:
    buffer = begun()
    buffer.put(480, sound(3), 0.06)
    assert buffer.take(0.06) == []
    assert buffer.take(0.125) == [Frame(160, None), Frame(320, None), Frame(480, sound(3))]
    buffer.put(160, sound(1), 0.13)
    assert buffer.take(0.13) == []
    assert (buffer.missing, buffer.late) == (2, 1)


def test_a_duplicate_is_counted_and_given_out_once() -> None:
    buffer = begun()
    buffer.put(320, sound(2), 0.0)
    buffer.put(320, sound(9), 0.0)
    buffer.put(160, sound(1), 0.0)
    assert buffer.take(0.0) == [Frame(160, sound(1)), Frame(320, sound(2))]
    assert buffer.duplicates == 1


def test_the_timestamp_may_wrap() -> None:
    buffer = JitterBuffer(delay=0.0)
    start = 2**32 - 160
    for n in range(3):
        buffer.put(start + n * 160 & 0xFFFFFFFF, sound(n), 0.0)
    assert [frame.timestamp for frame in buffer.take(0.0)] == [start, 0, 160]


def test_a_jump_of_the_timestamp_begins_anew_without_filling_the_gap() -> None:
    buffer = begun()
    buffer.put(1_000_000_000, sound(1), 0.02)
    assert buffer.take(0.09) == [Frame(1_000_000_000, sound(1))]


def test_flush_gives_out_everything_held() -> None:
    buffer = JitterBuffer()
    buffer.put(0, sound(0), 0.0)
    buffer.put(320, sound(2), 0.0)
    assert buffer.take(0.0, flush=True) == [Frame(0, sound(0)), Frame(160, None), Frame(320, sound(2))]
    assert len(buffer) == 0


@given(st.lists(st.integers(0, 40), max_size=80))
def test_frames_leave_in_order_and_each_place_once(order: list[int]) -> None:
    buffer = JitterBuffer(delay=0.06)
    frames: list[Frame] = []
    for n, place in enumerate(order):
        buffer.put(place * 160, sound(place), n * 0.02)
        frames += buffer.take(n * 0.02)
    frames += buffer.take(100.0, flush=True)
    places = [frame.timestamp // 160 for frame in frames]
    assert places == list(range(places[0], places[0] + len(places))) if places else not order
    assert all(frame.payload in (None, sound(frame.timestamp // 160)) for frame in frames)
