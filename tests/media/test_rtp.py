"""RTP packets and reception figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.rtp import HeaderExtension, ReceptionStatistics, RtpError, RtpPacket, parse_rtp, timestamp_difference
from tests.media.support import rtp

packets = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 127),
    sequence_number=st.integers(0, 65_535),
    timestamp=st.integers(0, 2**32 - 1),
    ssrc=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=300),
    marker=st.booleans(),
    csrcs=st.lists(st.integers(0, 2**32 - 1), max_size=15).map(tuple),
    extension=st.none()
    | st.builds(
        HeaderExtension, st.integers(0, 65_535), st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(b"".join)
    ),
    padding=st.integers(0, 255),
)


@pytest.mark.clause("RFC 3550", "5.1", "5.3.1")
@given(packets)
def test_a_packet_reads_back_as_it_was_built(packet: RtpPacket) -> None:
    assert parse_rtp(packet.to_bytes()) == packet


@given(st.binary(max_size=400))
def test_any_octets_parse_or_raise_rtp_error(octets: bytes) -> None:
    for candidate in (octets, b"\xbf" + octets):
        try:
            packet = parse_rtp(candidate)
        except RtpError:
            continue
        assert parse_rtp(packet.to_bytes()) == packet


@pytest.mark.clause("RFC 3550", "5.1", "A.1")
@pytest.mark.parametrize(
    "octets",
    [
        b"",
        rtp(1)[:11],
        b"\x40" + rtp(1)[1:],
        b"\x81" + rtp(1, payload=b"")[1:],
        b"\x90" + rtp(1, payload=b"\0\0")[1:],
        b"\x90" + rtp(1, payload=b"\0\0\0\1")[1:],
        b"\xa0" + rtp(1, payload=b"")[1:],
        b"\xa0" + rtp(1, payload=b"abc\0")[1:],
        b"\xa0" + rtp(1, payload=b"abc\5")[1:],
    ],
    ids=[
        "empty",
        "short",
        "version",
        "csrc",
        "extension",
        "extension words",
        "no padding",
        "padding 0",
        "padding too long",
    ],
)
def test_a_packet_that_contradicts_its_lengths_is_refused(octets: bytes) -> None:
    with pytest.raises(RtpError):
        parse_rtp(octets)


@pytest.mark.parametrize(
    "packet",
    [
        RtpPacket(128, 0, 0, 0, b""),
        RtpPacket(0, 65_536, 0, 0, b""),
        RtpPacket(0, 0, 1 << 32, 0, b""),
        RtpPacket(0, 0, 0, -1, b""),
        RtpPacket(0, 0, 0, 0, b"", csrcs=(0,) * 16),
        RtpPacket(0, 0, 0, 0, b"", csrcs=(1 << 32,)),
        RtpPacket(0, 0, 0, 0, b"", padding=256),
        RtpPacket(0, 0, 0, 0, b"", extension=HeaderExtension(1, b"odd")),
    ],
)
def test_fields_out_of_range_are_not_built(packet: RtpPacket) -> None:
    with pytest.raises(RtpError):
        packet.to_bytes()


@pytest.mark.clause("RFC 3550", "A.3")
def test_loss_is_what_was_expected_less_what_came_across_the_wrap() -> None:
    reception = ReceptionStatistics()
    for sequence in range(65_500, 65_600):
        if sequence % 10:
            reception.packet(sequence & 0xFFFF, sequence * 160, sequence * 0.02)
    assert (reception.expected, reception.received, reception.lost) == (99, 90, 9)
    assert reception.extended_highest == 65_599
    assert reception.fraction_lost() == 9 * 256 // 99
    assert reception.fraction_lost() == 0


@pytest.mark.clause("RFC 3550", "A.8", "6.4.1")
def test_jitter_is_zero_for_even_arrival_and_nears_the_mean_difference_for_uneven() -> None:
    even, uneven = ReceptionStatistics(), ReceptionStatistics()
    for n in range(500):
        even.packet(n, n * 160, n * 0.02)
        uneven.packet(n, n * 160, n * 0.02 + n % 2 * 0.004)
    assert even.jitter_ms < 0.2
    assert 3.5 < uneven.jitter_ms < 4.5


@pytest.mark.clause("RFC 3550", "A.1")
def test_a_jump_of_the_sequence_number_is_believed_when_two_packets_show_it() -> None:
    reception = ReceptionStatistics()
    for n in range(10):
        assert reception.packet(n, n * 160, n * 0.02)
    assert not reception.packet(30_000, 0, 1.0)
    assert reception.packet(10, 1600, 0.2)
    assert not reception.packet(40_000, 0, 1.0)
    assert reception.packet(40_001, 160, 1.02)
    assert reception.expected == reception.received == 1


def test_duplicates_make_the_loss_negative_as_the_rfc_allows() -> None:
    reception = ReceptionStatistics()
    for _ in range(3):
        reception.packet(5, 0, 0.0)
    assert reception.lost == -2
    assert reception.fraction_lost() == 0


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1))
def test_timestamp_difference_is_the_nearest_way_round(start: int, difference: int) -> None:
    assert timestamp_difference(start + difference & 0xFFFFFFFF, start) == difference
