"""Messages that several nodes saw: each once, as its sender saw it, in order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.capture_frames import Frames
from lab.capture_merge import (
    FAR_AHEAD_NS,
    MOST_OCTETS,
    PATIENT_SHARE,
    SAME_NS,
    SETTLE_NS,
    CallChoice,
    Merger,
    Seen,
    of_message,
    of_packet,
)
from lab.pcapng import PcapngWriter, sip_payload
from protos import capture_pb2

BASE = 1_700_000_000_000_000_000
A, B = ("127.1.1.1", 5060), ("127.1.1.2", 6060)
SIP = capture_pb2.CAPTURE_SIP


def sip(
    node: str, at: int, payload: bytes = b"INVITE", *, sent: bool = True, call: str = "c1", trace: str = "t1"
) -> Seen:
    message = capture_pb2.CapturedMessage(kind=SIP, time_ns=BASE + at, sent=sent, transport="TLS", payload=payload)
    message.source_ip, message.source_port = A
    message.destination_ip, message.destination_port = B
    message.correlation, message.trace_id = call, trace
    return of_message(node, message)


def all_of(merger: Merger) -> list[Seen]:
    return merger.settled(FAR_AHEAD_NS)


def test_a_message_seen_at_both_ends_is_one_of_its_sender() -> None:
    for first, second in ((sip("a", 10), sip("b", 20, sent=False)), (sip("b", 5, sent=False), sip("a", 10))):
        merger = Merger()
        merger.add(first)
        merger.add(second)
        (found,) = all_of(merger)
        assert (found.node, found.time_ns, found.sent) == ("a", BASE + 10, True)


def test_retransmissions_are_as_many_as_were_sent() -> None:
    for order in ("aabb", "abab", "aab", "bbaa"):
        merger = Merger()
        for number, node in enumerate(order):
            merger.add(sip(node, 10 * number, sent=node == "a"))
        assert len(all_of(merger)) == 2, order


def test_what_only_the_receiver_tells_of_is_kept() -> None:
    merger = Merger()
    merger.add(sip("b", 1, sent=False))
    (found,) = all_of(merger)
    assert found.node == "b"


def test_the_second_sight_of_what_was_written_already_is_not_written_again() -> None:
    merger = Merger()
    merger.add(sip("a", 0))
    assert len(merger.settled(BASE + SETTLE_NS)) == 1
    merger.add(sip("b", 1, sent=False))
    assert all_of(merger) == []


def test_the_same_octets_much_later_are_another_message() -> None:
    merger = Merger()
    merger.add(sip("a", 0))
    merger.add(sip("b", 60_000_000_000, sent=False))
    assert len(all_of(merger)) == 2


@given(st.permutations(range(8)))
def test_messages_come_in_the_order_of_their_times(order: list[int]) -> None:
    merger = Merger()
    for at in order:
        merger.add(sip("a", at, payload=bytes([at])))
    assert [seen.payload[0] for seen in all_of(merger)] == list(range(8))


def test_what_may_still_have_something_before_it_waits() -> None:
    merger = Merger()
    merger.add(sip("a", 0, b"1"))
    merger.add(sip("a", 100, b"2"))
    assert [seen.payload for seen in merger.settled(BASE + SETTLE_NS + 50)] == [b"1"]
    assert [seen.payload for seen in merger.settled(BASE + SETTLE_NS + 100)] == [b"2"]


def heard_of(*, captured: dict[str, list[str]], told: list[Seen]) -> Merger:
    merger = Merger()
    for node, hosts in captured.items():
        merger.captures(node, hosts)
    for seen in told:
        merger.add(seen)
    return merger


def test_what_one_end_told_waits_for_a_captured_node_at_the_other_and_nothing_overtakes_it() -> None:
    sent, received, elsewhere = sip("a", 10), sip("b", 10, sent=False), sip("c", 20, b"later")
    elsewhere.source = elsewhere.destination = ("127.1.1.3", 1)
    for order in ((received, sent), (sent, received)):
        first, second, later = map(of_copy, (*order, elsewhere))
        merger = heard_of(captured={"a": [A[0]], "b": [B[0]]}, told=[first, later])
        assert merger.awaits
        assert merger.settled(BASE + SAME_NS) == []
        merger.add(second)
        assert [(seen.node, seen.payload) for seen in merger.settled(BASE + SAME_NS)] == [
            ("a", b"INVITE"),
            ("c", b"later"),
        ]


def test_an_end_that_tells_nothing_is_waited_for_no_longer_than_two_sights_may_be_apart() -> None:
    merger = heard_of(captured={"a": [A[0]], "b": [B[0]]}, told=[sip("b", 0, sent=False)])
    assert merger.settled(BASE + SAME_NS - 1) == []
    assert [seen.node for seen in merger.settled(BASE + SAME_NS)] == ["b"]


def test_only_other_nodes_that_are_captured_are_waited_for() -> None:
    message = sip("b", 0, sent=False)
    for captured in ({}, {"b": [A[0], B[0]]}, {"c": ["127.1.1.3"]}, {"a": []}):
        merger = heard_of(captured=captured, told=[message])
        assert not merger.awaits
        assert merger.settled(BASE + SETTLE_NS) == [message]
    gone = heard_of(captured={"a": [A[0]]}, told=[message])
    gone.captures("a", [])
    assert gone.settled(BASE + SETTLE_NS) == [message]
    packet = capture_pb2.CapturedPacket(timestamp=BASE / 1e9, source_ip=A[0], destination_ip=B[0])
    media = heard_of(captured={"a": [A[0]]}, told=[of_packet("imsagw-a", packet)])
    assert len(media.settled(BASE + SETTLE_NS + 1000)) == 1, "UEs tell no media"


def test_what_was_sent_before_the_awaited_message_waits_with_it() -> None:
    earlier = sip("c", -3_000_000, b"earlier")
    earlier.source = earlier.destination = ("127.1.1.3", 1)
    merger = heard_of(captured={"a": [A[0]], "b": [B[0]]}, told=[sip("b", 0, sent=False), earlier])
    assert merger.settled(BASE + SETTLE_NS) == []
    merger.add(sip("a", -5_000_000))
    assert [seen.node for seen in merger.settled(BASE + SETTLE_NS)] == ["a", "c"]


@pytest.mark.attack("T7")
def test_where_much_waits_nobody_waits_for_another_end() -> None:
    merger = heard_of(captured={"a": [A[0]], "b": [B[0]]}, told=[sip("b", 0, sent=False)])
    merger.add(sip("c", 1, bytes(MOST_OCTETS // PATIENT_SHARE)))
    assert len(merger.settled(BASE + SETTLE_NS + 1)) == 2


def test_an_rpc_that_the_producer_told_of_waits_for_the_consumer_in_its_certificate() -> None:
    captured = {"pcscf-a": ["127.1.1.9", "pcscf-a.ims.test"], "imsagw-a": [B[0]]}
    told = rpc("imsagw-a", sent=False, source=("127.0.0.1", 40000), peer="pcscf-a.ims.test")
    assert heard_of(captured=captured, told=[told]).awaits
    told = rpc("imsagw-a", sent=False, source=("127.0.0.1", 40000), peer="operator.ims.test")
    assert not heard_of(captured=captured, told=[told]).awaits


def rpc(node: str, *, sent: bool, source: tuple[str, int], peer: str = "") -> Seen:
    message = capture_pb2.CapturedMessage(kind=capture_pb2.CAPTURE_SBA, time_ns=BASE, sent=sent, pair="p 1")
    message.source_ip, message.source_port = source
    message.destination_ip, message.destination_port = B
    message.sba.path, message.sba.peer, message.sba.phase = "/x.Y/Z", peer, capture_pb2.SbaStep.REQUEST
    return of_message(node, message)


def test_an_rpc_has_its_time_of_the_consumer_and_its_port_of_the_producer() -> None:
    consumer = rpc("pcscf-a", sent=True, source=("127.1.1.9", 0))
    producer = rpc("imsagw-a", sent=False, source=("127.0.0.1", 40000), peer="pcscf-a.ims.test")
    for first, second in ((consumer, producer), (producer, consumer)):
        merger = Merger()
        merger.add(of_copy(first))
        merger.add(of_copy(second))
        (found,) = all_of(merger)
        assert found.node == "pcscf-a"
        assert found.source == ("127.0.0.1", 40000)
        assert found.sba is not None
        assert found.sba.peer == "pcscf-a.ims.test"


def of_copy(seen: Seen) -> Seen:
    from copy import deepcopy

    return deepcopy(seen)


def test_media_of_the_core_is_seen_by_two_gateways_and_written_once() -> None:
    merger = Merger()
    packet = capture_pb2.CapturedPacket(
        timestamp=BASE / 1e9, payload=b"rtp", correlation="c1", comment="imsagw-a core RTP"
    )
    packet.source_ip, packet.source_port = A
    packet.destination_ip, packet.destination_port = B
    merger.add(of_packet("imsagw-a", packet))
    merger.add(of_packet("imsagw-b", packet))
    (found,) = all_of(merger)
    assert (found.node, found.comment) == ("imsagw-a", "core RTP")


def test_one_call_is_its_messages_its_media_and_what_its_trace_caused() -> None:
    merger = Merger(CallChoice("c1"))
    before = rpc("ue", sent=True, source=A)
    before.trace_id, before.time_ns = "t1", BASE - 1
    other = rpc("ue", sent=True, source=A)
    other.trace_id, other.key = "t2", "another"
    for seen in (
        before,
        sip("a", 0),
        sip("a", 1, b"BYE", call="c2", trace="t2"),
        sip("a", 2, b"B leg", call="c3"),
        other,
    ):
        merger.add(seen)
    assert [seen.payload for seen in all_of(merger)] == [b"", b"INVITE", b"B leg"]
    assert CallChoice("t1").takes(sip("a", 0))
    assert not CallChoice("c10").takes(sip("a", 0))


def test_too_much_is_left_out_and_counted_and_the_next_packet_says_so() -> None:
    merger = Merger()
    merger.missed("a", 3)
    merger.add(sip("b", 0, b"x"))
    merger.add(sip("a", 1, b"y"))
    merger.add(sip("a", 2, b"z"))
    assert [seen.lost_before for seen in all_of(merger)] == [0, 3, 0]
    assert merger.lost == {"a": 3}
    large = bytes(1 << 20)
    for number in range(100):
        merger.add(sip("a", 10 + number, large + bytes([number])))
    assert merger.lost["a"] > 30
    assert len(all_of(merger)) == 103 - merger.lost["a"]


# what a hostile node may tell


def written(*told: Seen) -> int:
    """Return how many frames a capture has of what nodes told."""
    merger, frames, writer = Merger(), Frames({}, with_keys=True), PcapngWriter()
    for seen in told:
        merger.add(seen)
    return sum(bool(writer.add(frame)) for seen in all_of(merger) for frame in frames.of(seen))


@pytest.mark.attack("T9")
@pytest.mark.parametrize(
    "lie",
    [
        {"source_port": 70_000},
        {"destination_port": 2**32 - 1},
        {"time_ns": -1},
        {"time_ns": 2**63 - 1},
        {"comment": "x" * 70_000},
        {"correlation": "\N{GRINNING FACE}" * 70_000},
        {"source_ip": "x" * 70_000},
        {"trace_id": "x" * 70_000},
        {"payload": b"x" * 200_000},
        {"kind": 7},
    ],
)
def test_what_fits_no_packet_ends_no_capture(lie: dict[str, object]) -> None:
    told = {"kind": SIP, "time_ns": BASE, "source_ip": A[0], "destination_ip": B[0], "transport": "TLS", **lie}
    message = capture_pb2.CapturedMessage(**told)  # type: ignore[arg-type]
    assert written(of_message("evil", message, BASE), sip("pcscf-a", 0)) == 2


@pytest.mark.attack("T9")
@pytest.mark.parametrize("timestamp", [math.nan, math.inf, -1.0, 1e300])
def test_a_packet_of_no_time_ends_no_capture(timestamp: float) -> None:
    packet = capture_pb2.CapturedPacket(timestamp=timestamp, source_ip=A[0], destination_ip=B[0], source_port=70_000)
    assert written(of_packet("evil", packet, BASE), sip("pcscf-a", 0)) == 2


@pytest.mark.attack("T9")
def test_what_is_yet_to_come_takes_no_room_from_others() -> None:
    message = capture_pb2.CapturedMessage(kind=SIP, time_ns=FAR_AHEAD_NS)
    seen = of_message("evil", message, BASE)
    assert seen.time_ns == BASE


@pytest.mark.attack("T7")
def test_masks_that_never_end_are_read_once() -> None:
    text = b"MESSAGE sip:a SIP/2.0\r\n\r\n" + b"inline:<" * 250_000
    assert sip_payload(text) == text
