"""Row T3 of the threat table at the engine: every attack is dropped under its cause and the good stream goes on."""

from collections.abc import Callable

import pytest

from keying.suites import SUITES
from media.srtp import (
    AuthenticationFailure,
    ReplayError,
    ReplayTooOld,
    SrtpContext,
    SrtpError,
    TruncatedPacket,
    UnknownMki,
)
from tests.media.support import AES_80, SSRC, SUITE_NAMES, key_set, pair, rtcp, rtp

pytestmark = pytest.mark.attack("T3")


def good_stream_goes_on(sender: SrtpContext, receiver: SrtpContext, sequence: int) -> None:
    """The next packets open, RTP and RTCP."""
    for n in range(sequence, sequence + 5):
        assert receiver.unprotect_rtp(sender.protect_rtp(rtp(n))) == rtp(n)
    assert receiver.unprotect_rtcp(sender.protect_rtcp(rtcp())) == rtcp()


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_replayed_rtp_packet(name: str) -> None:
    sender, receiver = pair(SUITES[name])
    packets = [sender.protect_rtp(rtp(sequence)) for sequence in range(20)]
    for packet in packets:
        receiver.unprotect_rtp(packet)
    for packet in packets:
        with pytest.raises(ReplayError) as refused:
            receiver.unprotect_rtp(packet)
        assert refused.value.cause == "replay"
    good_stream_goes_on(sender, receiver, 20)


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_replayed_rtcp_packet(name: str) -> None:
    sender, receiver = pair(SUITES[name])
    packets = [sender.protect_rtcp(rtcp()) for _ in range(3)]
    for packet in packets:
        receiver.unprotect_rtcp(packet)
    for packet in packets:
        with pytest.raises(ReplayError):
            receiver.unprotect_rtcp(packet)
    good_stream_goes_on(sender, receiver, 1)


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.clause("TS 33.328", "C-7")
def test_packet_held_back_for_65_packets() -> None:
    sender, receiver = pair(window=64)
    held = sender.protect_rtp(rtp(0))
    for sequence in range(1, 66):
        receiver.unprotect_rtp(sender.protect_rtp(rtp(sequence)))
    with pytest.raises(ReplayTooOld):
        receiver.unprotect_rtp(held)
    good_stream_goes_on(sender, receiver, 66)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_bit_flip_anywhere_in_an_rtp_packet(name: str) -> None:
    sender, receiver = pair(SUITES[name])
    receiver.unprotect_rtp(sender.protect_rtp(rtp(0)))
    packet = sender.protect_rtp(rtp(1, payload=b"short payload"))
    for bit in range(8 * len(packet)):
        flipped = bytearray(packet)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SrtpError) as refused:
            receiver.unprotect_rtp(bytes(flipped))
        assert refused.value.cause in {"auth_failure", "malformed", "truncated", "replay"}
    assert receiver.unprotect_rtp(packet) == rtp(1, payload=b"short payload")
    good_stream_goes_on(sender, receiver, 2)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_bit_flip_anywhere_in_an_rtcp_packet(name: str) -> None:
    sender, receiver = pair(SUITES[name])
    packet = sender.protect_rtcp(rtcp())
    for bit in range(8 * len(packet)):
        flipped = bytearray(packet)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SrtpError):
            receiver.unprotect_rtcp(bytes(flipped))
    assert receiver.unprotect_rtcp(packet) == rtcp()
    good_stream_goes_on(sender, receiver, 1)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_packet_truncated_at_every_length(name: str) -> None:
    sender, receiver = pair(SUITES[name])
    media, control = sender.protect_rtp(rtp(1)), sender.protect_rtcp(rtcp())
    openers: list[tuple[bytes, Callable[[bytes], bytes]]] = [
        (media, receiver.unprotect_rtp),
        (control, receiver.unprotect_rtcp),
    ]
    for packet, unprotect in openers:
        for length in range(len(packet)):
            with pytest.raises(SrtpError):
                unprotect(packet[:length])
    with pytest.raises(TruncatedPacket):
        receiver.unprotect_rtp(media[:15])
    assert receiver.unprotect_rtp(media) == rtp(1)
    good_stream_goes_on(sender, receiver, 2)


def test_foreign_ssrc_under_another_key() -> None:
    sender, receiver = pair()
    stranger, _ = pair(seed=9)
    receiver.unprotect_rtp(sender.protect_rtp(rtp(0)))
    for ssrc in range(30):
        with pytest.raises(AuthenticationFailure):
            receiver.unprotect_rtp(stranger.protect_rtp(rtp(1, ssrc=ssrc)))
    assert receiver.roc(5) is None
    good_stream_goes_on(sender, receiver, 1)


def test_good_packet_with_another_ssrc_written_over() -> None:
    sender, receiver = pair()
    packet = bytearray(sender.protect_rtp(rtp(0)))
    packet[8:12] = b"\1\2\3\4"
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(bytes(packet))
    good_stream_goes_on(sender, receiver, 1)


@pytest.mark.clause("RFC 3711", "3.3.1")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_old_roc(name: str) -> None:
    """A packet of 2^16 packets ago has a fresh looking SEQ and an authentic tag, of another ROC."""
    suite = SUITES[name]
    sender, receiver = pair(suite)
    old = sender.protect_rtp(rtp(100))
    sender.set_roc(SSRC, 1, 90)
    receiver.set_roc(SSRC, 1, 90)
    receiver.unprotect_rtp(sender.protect_rtp(rtp(91)))
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(old)
    good_stream_goes_on(sender, receiver, 92)


def test_forged_sequence_jump_does_not_move_the_roc() -> None:
    sender, receiver = pair()
    receiver.unprotect_rtp(sender.protect_rtp(rtp(40_000)))
    stranger, _ = pair(seed=9)
    for sequence in (5, 7_000, 65_535):
        with pytest.raises(AuthenticationFailure):
            receiver.unprotect_rtp(stranger.protect_rtp(rtp(sequence)))
    assert receiver.roc(SSRC) == 0
    good_stream_goes_on(sender, receiver, 40_001)


@pytest.mark.clause("TS 33.328", "C-6", "7.4-5")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_wrong_mki(name: str) -> None:
    suite = SUITES[name]
    sender = SrtpContext.from_keys(key_set(b"\1", b"\2", suite=suite))
    receiver = SrtpContext.from_keys(key_set(b"\1", b"\2", suite=suite))
    media, control = bytearray(sender.protect_rtp(rtp(1))), bytearray(sender.protect_rtcp(rtcp()))
    tag = 0 if suite.auth == "AEAD" else suite.srtp_tag_length
    control_tag = 0 if suite.auth == "AEAD" else suite.srtcp_tag_length
    for mki in (0, 3, 255):
        media[len(media) - tag - 1] = control[len(control) - control_tag - 1] = mki
        with pytest.raises(UnknownMki):
            receiver.unprotect_rtp(bytes(media))
        with pytest.raises(UnknownMki):
            receiver.unprotect_rtcp(bytes(control))
    good_stream_goes_on(sender, receiver, 2)


def test_mki_of_the_other_key_of_the_line() -> None:
    sender = SrtpContext.from_keys(key_set(b"\1", b"\2"))
    receiver = SrtpContext.from_keys(key_set(b"\1", b"\2"))
    packet = bytearray(sender.protect_rtp(rtp(1)))
    packet[-11] = 2
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(bytes(packet))
    good_stream_goes_on(sender, receiver, 2)


def test_plain_packet_where_srtp_was_agreed() -> None:
    sender, receiver = pair()
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(rtp(1))
    with pytest.raises(SrtpError):
        receiver.unprotect_rtcp(rtcp())
    good_stream_goes_on(sender, receiver, 2)


def test_own_packet_reflected() -> None:
    """Each direction has its own key, so what a side sent is foreign to its receiving context (RFC 4568 6.1)."""
    sender, _ = pair(seed=1)
    other_sender, own_receiver = pair(seed=2)
    with pytest.raises(AuthenticationFailure):
        own_receiver.unprotect_rtp(sender.protect_rtp(rtp(1)))
    good_stream_goes_on(other_sender, own_receiver, 1)


def test_replay_across_a_key_change() -> None:
    sender, receiver = pair()
    before = sender.protect_rtp(rtp(1))
    control = sender.protect_rtcp(rtcp())
    receiver.unprotect_rtp(before)
    receiver.unprotect_rtcp(control)
    for context in (sender, receiver):
        context.rekey(AES_80, *_fresh())
    with pytest.raises(ReplayError):
        receiver.unprotect_rtp(before)
    with pytest.raises(ReplayError):
        receiver.unprotect_rtcp(control)
    good_stream_goes_on(sender, receiver, 2)


def _fresh():
    crypto = key_set(b"", seed=77).sending
    return crypto.key, crypto.salt
