"""Telephone events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.dtmf import (
    DIGITS,
    DigitReceived,
    DtmfError,
    DtmfReceiver,
    DtmfSender,
    EventPacket,
    TelephoneEvent,
    event_code,
    parse_event,
)


def played(digits: str, start: int = 0, steps: int = 200) -> list[EventPacket]:
    sender = DtmfSender()
    sender.enqueue(digits)
    return [packet for n in range(steps) for packet in sender.next_packets(start + n * 160 & 0xFFFFFFFF, 160)]


@pytest.mark.clause("RFC 4733", "2.3", "2.5.1.2", "2.5.1.4")
def test_a_digit_is_packets_of_growing_duration_with_one_timestamp_and_three_ends() -> None:
    packets = played("5", start=1000)
    events = [parse_event(packet.payload) for packet in packets]
    assert {packet.timestamp for packet in packets} == {1000}
    assert [packet.marker for packet in packets] == [True] + [False] * 6
    assert [event.duration for event in events] == [160, 320, 480, 640, 800, 800, 800]
    assert [event.end for event in events] == [False] * 4 + [True] * 3
    assert {event.event for event in events} == {5}


@pytest.mark.clause("RFC 4733", "3.2")
@given(st.text(alphabet=DIGITS, max_size=12), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_digits_arrive_once_each_though_a_third_of_the_packets_is_lost(digits: str, start: int, chance) -> None:
    receiver = DtmfReceiver()
    heard = ""
    for packet in played(digits, start):
        first = parse_event(packet.payload).duration == 160
        if first or chance.random() > 0.33:
            heard += "".join(digit.digit for digit in receiver.packet(packet.payload, packet.timestamp))
    heard += "".join(digit.digit for digit in receiver.flush())
    assert heard == digits


@pytest.mark.clause("RFC 4733", "2.5.2.3")
def test_a_digit_whose_end_was_lost_ends_with_the_next_one() -> None:
    receiver = DtmfReceiver()
    assert receiver.packet(TelephoneEvent(1, end=False, volume=10, duration=320).to_bytes(), 0) == []
    assert receiver.packet(TelephoneEvent(2, end=True, volume=10, duration=800).to_bytes(), 8000) == [
        DigitReceived("1", 320),
        DigitReceived("2", 800),
    ]


def test_late_packets_of_an_earlier_digit_are_no_digit() -> None:
    receiver = DtmfReceiver()
    end = TelephoneEvent(1, end=True, volume=10, duration=800).to_bytes()
    assert receiver.packet(end, 8000) == [DigitReceived("1", 800)]
    assert receiver.packet(end, 8000) == []
    assert receiver.packet(end, 0) == []


def test_events_that_are_no_digits_are_not_told() -> None:
    assert DtmfReceiver().packet(TelephoneEvent(64, end=True, volume=0, duration=1).to_bytes(), 5) == []


@given(st.binary(max_size=12))
def test_any_octets_are_an_event_or_raise_dtmf_error(octets: bytes) -> None:
    if len(octets) < 4:
        with pytest.raises(DtmfError):
            parse_event(octets)
    else:
        assert parse_event(octets).event == octets[0]


@pytest.mark.parametrize("digit", ["E", "", "12", " ", "x"])
def test_what_is_no_digit_has_no_code(digit: str) -> None:
    with pytest.raises(DtmfError):
        event_code(digit)


def test_the_queue_is_bounded() -> None:
    sender = DtmfSender()
    sender.enqueue("1" * 256)
    with pytest.raises(DtmfError):
        sender.enqueue("1")
