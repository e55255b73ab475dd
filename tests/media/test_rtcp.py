"""RTCP compound packets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.rtcp import (
    Bye,
    OtherRtcp,
    ReceiverReport,
    ReportBlock,
    RtcpError,
    SenderReport,
    SourceDescription,
    build_rtcp,
    middle_32,
    ntp_time,
    parse_rtcp,
    round_trip_time,
)
from tests.media.support import rtcp

word = st.integers(0, 2**32 - 1)
blocks = st.lists(
    st.builds(ReportBlock, word, st.integers(0, 255), st.integers(-(2**23), 2**23 - 1), word, word, word, word),
    max_size=31,
).map(tuple)
words = st.lists(st.binary(min_size=4, max_size=4), max_size=4).map(b"".join)
sender_reports = st.builds(SenderReport, word, st.integers(0, 2**64 - 1), word, word, word, blocks, words)
receiver_reports = st.builds(ReceiverReport, word, blocks, words)
items = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=255)), max_size=4).map(tuple)
descriptions = st.builds(SourceDescription, st.lists(st.tuples(word, items), max_size=5).map(tuple))
byes = st.builds(Bye, st.lists(word, max_size=31).map(tuple), st.binary(max_size=255))
others = st.builds(OtherRtcp, st.sampled_from([192, 204, 205, 206, 207]), st.integers(0, 31), words)


@pytest.mark.clause("RFC 3550", "6.1", "6.4.1", "6.4.2", "6.5", "6.6")
@given(sender_reports | receiver_reports, st.lists(descriptions | byes | others, max_size=4))
def test_a_compound_packet_reads_back_as_it_was_built(first, rest) -> None:
    assert parse_rtcp(build_rtcp([first, *rest])) == (first, *rest)


@given(st.binary(max_size=300))
def test_any_octets_parse_or_raise_rtcp_error(octets: bytes) -> None:
    for candidate in (octets, b"\x81\xc8" + octets, rtcp() + octets, b"\x82\xca\0\5" + octets):
        for reduced in (False, True):
            try:
                packets = parse_rtcp(candidate, reduced_size=reduced)
            except RtcpError:
                continue
            assert packets


@pytest.mark.clause("RFC 3550", "A.2")
@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x80\xc9\0",
        b"\x40" + rtcp()[1:],
        rtcp()[:-4],
        rtcp()[8:],
        b"\xa0\xc9\0\2" + bytes(7) + b"\4" + rtcp(),
        b"\xa0\xc9\0\2" + bytes(7) + b"\3",
        b"\xa0\xc9\0\2" + bytes(8),
        b"\x81\xc9\0\1\0\0\0\1",
        b"\x80\xc8\0\1\0\0\0\1",
        b"\x80\xc9\0\0",
    ],
)
def test_a_compound_packet_that_fails_the_validity_checks_is_refused(octets: bytes) -> None:
    with pytest.raises(RtcpError):
        parse_rtcp(octets)


@pytest.mark.parametrize(
    "content",
    [
        b"\x81\xca\0\0",
        b"\x81\xca\0\1\0\0\0\1",
        b"\x81\xca\0\2\0\0\0\1\1\5ab",
        b"\x82\xcb\0\1\0\0\0\1",
        b"\x80\xcb\0\1\7abc",
    ],
    ids=["no chunk", "no end", "item cut", "bye cut", "reason cut"],
)
def test_a_broken_packet_behind_a_good_one_is_refused(content: bytes) -> None:
    with pytest.raises(RtcpError):
        parse_rtcp(rtcp() + content)


def test_a_feedback_packet_alone_is_taken_only_as_reduced_size() -> None:
    feedback = build_rtcp([OtherRtcp(205, 15, bytes(8))])
    with pytest.raises(RtcpError):
        parse_rtcp(feedback)
    assert parse_rtcp(feedback, reduced_size=True) == (OtherRtcp(205, 15, bytes(8)),)


def test_padding_of_the_last_packet_is_left_out() -> None:
    assert parse_rtcp(b"\xa0\xc9\0\2\0\0\0\1\0\0\0\4") == (ReceiverReport(1),)


@pytest.mark.parametrize(
    "packet",
    [
        Bye((1,) * 32),
        Bye((1 << 32,)),
        Bye((1,), b"x" * 256),
        OtherRtcp(204, 0, b"odd"),
        SenderReport(0, 1 << 64, 0, 0, 0),
    ],
)
def test_fields_out_of_range_are_not_built(packet) -> None:
    with pytest.raises(RtcpError):
        build_rtcp([packet])


@pytest.mark.clause("RFC 3550", "6.4.1")
def test_round_trip_is_arrival_less_last_sr_less_delay() -> None:
    sent = ntp_time(1_700_000_000.0)
    block = ReportBlock(1, 0, 0, 0, 0, middle_32(sent), int(5.25 * 65536))
    trip = round_trip_time(ntp_time(1_700_000_000.0 + 5.25 + 0.125), block)
    assert trip == pytest.approx(0.125, abs=1e-4)
    assert round_trip_time(sent, ReportBlock(1, 0, 0, 0, 0, 0, 0)) is None
    assert round_trip_time(sent, block) is None


def test_cumulative_loss_is_clamped_to_its_field() -> None:
    report = ReceiverReport(1, (ReportBlock(2, 0, 1 << 30, 0, 0, 0, 0), ReportBlock(3, 0, -(1 << 30), 0, 0, 0, 0)))
    (parsed,) = parse_rtcp(build_rtcp([report]))
    assert isinstance(parsed, ReceiverReport)
    assert [block.packets_lost for block in parsed.blocks] == [2**23 - 1, -(2**23)]
