"""Which protocol a datagram is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.demux import MediaProtocol, classify, is_rtcp
from tests.media.support import rtcp, rtp


@pytest.mark.clause("RFC 7983", "7")
@pytest.mark.clause("TS 33.328", "O-8")
def test_the_first_octet_decides() -> None:
    expected = (
        [MediaProtocol.STUN] * 4
        + [MediaProtocol.DROP] * 12
        + [MediaProtocol.ZRTP] * 4
        + [MediaProtocol.DTLS] * 44
        + [MediaProtocol.TURN_CHANNEL] * 16
        + [MediaProtocol.DROP] * 48
        + [MediaProtocol.RTP] * 64
        + [MediaProtocol.DROP] * 64
    )
    assert [classify(bytes((first,)) + bytes(40)) for first in range(256)] == expected


@pytest.mark.clause("RFC 5761", "4")
@pytest.mark.parametrize("second", range(256))
def test_the_second_octet_tells_rtcp_from_rtp(second: int) -> None:
    datagram = bytes((0x80, second)) + bytes(40)
    assert is_rtcp(datagram) == (192 <= second <= 223)
    assert classify(datagram) is (MediaProtocol.RTCP if 192 <= second <= 223 else MediaProtocol.RTP)


def test_real_packets_are_known_and_short_ones_dropped() -> None:
    assert classify(rtp(1)) is MediaProtocol.RTP
    assert classify(rtcp()) is MediaProtocol.RTCP
    assert classify(rtp(1)[:11]) is MediaProtocol.DROP
    assert classify(rtcp()[:7]) is MediaProtocol.DROP
    assert classify(b"") is MediaProtocol.DROP
    assert classify(memoryview(rtcp())) is MediaProtocol.RTCP


@given(st.binary(max_size=40))
def test_any_octets_have_one_answer(octets: bytes) -> None:
    assert isinstance(classify(octets), MediaProtocol)
