"""What holds for SRTP whatever is sent, lost, reordered or invented."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keying.suites import SUITES
from media.srtp import ReplayError, SrtpError
from media.srtp_window import ReplayWindow, estimate_index
from tests.media.support import SUITE_NAMES, pair, rtcp, rtp

suites = st.sampled_from([SUITES[name] for name in SUITE_NAMES])


@given(suites, st.binary(max_size=1200), st.integers(0, 65_535), st.integers(0, 2**32 - 1))
def test_unprotect_returns_what_protect_took(suite, payload: bytes, sequence: int, ssrc: int) -> None:
    sender, receiver = pair(suite)
    packet = rtp(sequence, ssrc=ssrc, payload=payload)
    assert receiver.unprotect_rtp(sender.protect_rtp(packet)) == packet


@given(suites, st.binary(max_size=60), st.integers(0, 2**32 - 1))
def test_unprotect_rtcp_returns_what_protect_rtcp_took(suite, text: bytes, ssrc: int) -> None:
    sender, receiver = pair(suite)
    packet = rtcp(ssrc, text.replace(b"\0", b"x"))
    assert receiver.unprotect_rtcp(sender.protect_rtcp(packet)) == packet


@settings(max_examples=60)
@given(
    st.sampled_from([SUITES["AES_CM_128_HMAC_SHA1_80"], SUITES["AEAD_AES_128_GCM"]]),
    st.integers(0, 65_535),
    st.lists(st.integers(1, 3000), min_size=1, max_size=80),
)
def test_any_pattern_of_loss_across_any_number_of_wraps_keeps_the_stream(suite, start: int, gaps: list[int]) -> None:
    sender, receiver = pair(suite)
    receiver.unprotect_rtp(sender.protect_rtp(rtp(start)))
    sequence = start
    for gap in gaps:
        for skipped in range(sequence + 1, sequence + gap, 1000):
            sender.protect_rtp(rtp(skipped, payload=b""))  # sent, and lost
        sequence += gap
        assert receiver.unprotect_rtp(sender.protect_rtp(rtp(sequence, payload=b"x"))) == rtp(sequence, payload=b"x")
    assert sender.roc(0x1234_5678) == receiver.roc(0x1234_5678)


@given(st.integers(0, 65_535), st.randoms(use_true_random=False), st.integers(1, 60))
def test_reordering_and_duplicates_within_the_window_deliver_every_packet_once(start: int, chance, depth: int) -> None:
    sender, receiver = pair()
    sequences = list(range(start, start + 100))
    packets = [(sequence, sender.protect_rtp(rtp(sequence, payload=b"x"))) for sequence in sequences]
    head, rest = packets[0], packets[1:]
    # each packet is late by less than `depth`; the first one comes first, it tells where the stream begins
    shuffled = [head, *(packet for _, packet in sorted((n + chance.random() * depth, p) for n, p in enumerate(rest)))]
    delivered = []
    for sequence, packet in [item for pair_ in shuffled for item in (pair_, pair_)]:
        try:
            assert receiver.unprotect_rtp(packet) == rtp(sequence, payload=b"x")
        except ReplayError:
            continue
        delivered.append(sequence)
    assert sorted(delivered) == sequences


@given(suites, st.binary(max_size=300))
def test_invented_octets_raise_an_srtp_error_and_nothing_else(suite, octets: bytes) -> None:
    _, receiver = pair(suite)
    for unprotect in (receiver.unprotect_rtp, receiver.unprotect_rtcp):
        for packet in (octets, b"\x80" + octets, b"\x80\xc8" + octets):
            with pytest.raises(SrtpError):
                unprotect(packet)


@given(st.integers(0, 2**32 - 2), st.integers(0, 65_535), st.integers(-32_767, 32_767))
def test_the_index_estimate_finds_any_packet_within_2_to_15(roc: int, highest: int, distance: int) -> None:
    index = (roc << 16 | highest) + distance
    if index < 0:
        return
    assert estimate_index(roc, highest, index & 0xFFFF) == index


@given(st.integers(64, 300), st.lists(st.integers(0, 700), max_size=200))
def test_the_replay_window_agrees_with_a_plain_set(size: int, indices: list[int]) -> None:
    window, seen = ReplayWindow(size), set()
    for index in indices:
        fresh = index not in seen and (not seen or index > max(seen) - size)
        try:
            window.check(index)
        except ReplayError:
            assert not fresh
        else:
            assert fresh
            window.accept(index)
            seen.add(index)
