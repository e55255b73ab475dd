"""SRTP contexts: indices, replay lists, MKI, re-keying, lifetimes, late binding."""

import struct
import time

import pytest

from keying.sdes import generate
from keying.secret import Secret
from keying.suites import RECOGNISED_SUITES, SUITES
from media.srtp import (
    AuthenticationFailure,
    KeyExpired,
    KeyReused,
    MalformedPacket,
    MasterKey,
    MasterKeySet,
    NotEncrypted,
    ReplayError,
    ReplayTooOld,
    SrtpContext,
    SrtpError,
    TooManySources,
    TruncatedPacket,
    UnknownMki,
)
from tests.media.support import AES_80, SSRC, SUITE_NAMES, FakeClock, key_pair, key_set, pair, rtcp, rtp

GCM = SUITES["AEAD_AES_128_GCM"]


@pytest.mark.clause("RFC 3711", "3.1", "3.4", "5")
@pytest.mark.clause("RFC 6188", "4")
@pytest.mark.clause("RFC 7714", "14.1")
@pytest.mark.clause("TS 33.328", "C-1", "C-2", "C-3", "C-9", "C-11", "6.1.1-1")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_every_suite_returns_the_packet_that_was_protected(name: str) -> None:
    suite = SUITES[name]
    sender, receiver = pair(suite)
    for sequence in range(5):
        protected = sender.protect_rtp(rtp(sequence))
        assert len(protected) == len(rtp(sequence)) + suite.srtp_tag_length
        assert protected[:12] == rtp(sequence)[:12]
        assert protected[12:172] != rtp(sequence)[12:]
        assert receiver.unprotect_rtp(protected) == rtp(sequence)
        control = sender.protect_rtcp(rtcp())
        assert len(control) == len(rtcp()) + 4 + suite.srtcp_tag_length
        assert control[:8] == rtcp()[:8]
        assert receiver.unprotect_rtcp(control) == rtcp()


@pytest.mark.clause("RFC 3711", "3.4")
def test_srtcp_index_starts_at_zero_and_grows_by_one_with_the_e_flag_set() -> None:
    sender, _ = pair()
    words = [int.from_bytes(sender.protect_rtcp(rtcp())[-14:-10], "big") for _ in range(3)]
    assert words == [1 << 31, 1 << 31 | 1, 1 << 31 | 2]


@pytest.mark.clause("RFC 3711", "3.4")
@pytest.mark.clause("TS 33.328", "C-9")
@pytest.mark.parametrize("suite", [AES_80, GCM], ids=lambda suite: suite.name)
def test_srtcp_without_the_e_flag_is_refused_even_before_its_tag_is_read(suite) -> None:
    sender, receiver = pair(suite)
    plain = bytearray(sender.protect_rtcp(rtcp()))
    plain[-4 if suite is GCM else -14] &= 0x7F
    with pytest.raises(NotEncrypted):
        receiver.unprotect_rtcp(bytes(plain))


@pytest.mark.clause("TS 33.328", "5.3-2")
def test_csrcs_and_header_extension_stay_in_clear_and_are_authenticated() -> None:
    header = struct.pack("!BBHII", 0x92, 8, 7, 0, SSRC) + struct.pack("!II", 1, 2)
    header += struct.pack("!HHI", 0xBEDE, 1, 0x10203040)
    sender, receiver = pair()
    protected = sender.protect_rtp(header + b"sound")
    assert protected[: len(header)] == header
    assert receiver.unprotect_rtp(protected) == header + b"sound"
    _, other = pair()
    altered = bytearray(protected)
    altered[len(header) - 1] ^= 1
    with pytest.raises(AuthenticationFailure):
        other.unprotect_rtp(bytes(altered))


@pytest.mark.clause("RFC 3711", "3.3.1")
def test_roc_grows_when_the_sequence_number_wraps() -> None:
    sender, receiver = pair()
    for sequence in range(65_530, 65_545):
        assert receiver.unprotect_rtp(sender.protect_rtp(rtp(sequence))) == rtp(sequence)
    assert sender.roc(SSRC) == receiver.roc(SSRC) == 1


@pytest.mark.clause("RFC 3711", "3.3.1")
def test_a_packet_from_before_the_wrap_still_opens_after_it() -> None:
    sender, receiver = pair()
    late = [sender.protect_rtp(rtp(sequence)) for sequence in range(65_530, 65_536)]
    early = [sender.protect_rtp(rtp(sequence)) for sequence in range(65_536, 65_540)]
    for packet in (late[0], *early, *late[1:]):
        receiver.unprotect_rtp(packet)
    assert receiver.roc(SSRC) == 1


@pytest.mark.clause("RFC 3711", "3.3.1")
def test_loss_of_many_packets_around_the_wrap_keeps_the_index() -> None:
    sender, receiver = pair()
    receiver.unprotect_rtp(sender.protect_rtp(rtp(60_000)))
    for sequence in range(60_001, 75_000):
        protected = sender.protect_rtp(rtp(sequence))
    assert receiver.unprotect_rtp(protected) == rtp(74_999)
    assert receiver.roc(SSRC) == 1


@pytest.mark.clause("RFC 3711", "3.3.1")
def test_with_roc_zero_no_packet_is_looked_for_before_index_zero() -> None:
    sender, receiver = pair()
    receiver.unprotect_rtp(sender.protect_rtp(rtp(10)))
    other, _ = pair()
    assert receiver.unprotect_rtp(other.protect_rtp(rtp(65_000))) == rtp(65_000)


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.clause("TS 33.328", "C-7")
def test_the_replay_window_takes_late_packets_within_and_refuses_those_behind() -> None:
    sender, receiver = pair(window=64)
    packets = [sender.protect_rtp(rtp(sequence)) for sequence in range(66)]
    receiver.unprotect_rtp(packets[65])
    assert receiver.unprotect_rtp(packets[2]) == rtp(2)
    with pytest.raises(ReplayTooOld):
        receiver.unprotect_rtp(packets[1])


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.clause("TS 33.328", "C-7")
def test_a_window_below_64_packets_is_not_built() -> None:
    with pytest.raises(ValueError, match="64"):
        SrtpContext(AES_80, *key_pair(AES_80), window=63)


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.clause("TS 33.328", "C-7", "C-10")
def test_replay_lists_are_separate_per_ssrc_and_for_srtcp() -> None:
    sender, receiver = pair()
    for ssrc in (1, 2):
        assert receiver.unprotect_rtp(sender.protect_rtp(rtp(5, ssrc=ssrc))) == rtp(5, ssrc=ssrc)
        assert receiver.unprotect_rtcp(sender.protect_rtcp(rtcp(ssrc))) == rtcp(ssrc)
    assert receiver.roc(1) == receiver.roc(2) == 0


@pytest.mark.clause("RFC 3711", "9.1")
def test_a_sender_never_uses_an_index_twice() -> None:
    sender, _ = pair()
    sender.protect_rtp(rtp(5))
    with pytest.raises(ReplayError):
        sender.protect_rtp(rtp(5, payload=b"something else"))


@pytest.mark.clause("RFC 4568", "6.4.1")
@pytest.mark.clause("TS 33.328", "E-10")
def test_an_ssrc_is_bound_only_after_its_packet_authenticated() -> None:
    sender, receiver = pair()
    forged = bytearray(sender.protect_rtp(rtp(1)))
    forged[-1] ^= 1
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(bytes(forged))
    assert receiver.roc(SSRC) is None
    receiver.unprotect_rtp(sender.protect_rtp(rtp(2)))
    assert receiver.roc(SSRC) == 0


def test_forged_ssrcs_take_no_room_and_authentic_ones_are_bounded() -> None:
    sender, receiver = pair()
    stranger, _ = pair(seed=9)
    for ssrc in range(32):
        with pytest.raises(AuthenticationFailure):
            receiver.unprotect_rtp(stranger.protect_rtp(rtp(1, ssrc=ssrc)))
    for ssrc in range(32):
        receiver.unprotect_rtp(sender.protect_rtp(rtp(1, ssrc=ssrc)))
    another, _ = pair()
    with pytest.raises(TooManySources):
        receiver.unprotect_rtp(another.protect_rtp(rtp(1, ssrc=99)))
    receiver.forget(0)
    assert receiver.unprotect_rtp(another.protect_rtp(rtp(2, ssrc=99))) == rtp(2, ssrc=99)


@pytest.mark.clause("RFC 3711", "3.3.1")
def test_a_late_joiner_needs_the_roc_and_then_opens_the_stream() -> None:
    sender, receiver = pair()
    sender.set_roc(SSRC, 3)
    protected = sender.protect_rtp(rtp(500))
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(protected)
    receiver.set_roc(SSRC, 3)
    assert receiver.unprotect_rtp(protected) == rtp(500)
    assert receiver.roc(SSRC) == 3


def test_a_late_joiner_told_the_last_sequence_number_survives_a_wrap_in_between() -> None:
    sender, receiver = pair()
    sender.set_roc(SSRC, 4, 2)
    receiver.set_roc(SSRC, 3, 65_530)
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(3))) == rtp(3)
    assert receiver.roc(SSRC) == 4


def test_the_roc_of_a_bound_ssrc_moves_forward_only() -> None:
    sender, receiver = pair()
    sender.set_roc(SSRC, 2)
    receiver.set_roc(SSRC, 2)
    receiver.unprotect_rtp(sender.protect_rtp(rtp(1)))
    with pytest.raises(ValueError, match="back"):
        receiver.set_roc(SSRC, 1)
    sender.set_roc(SSRC, 7)
    receiver.set_roc(SSRC, 7)
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(2))) == rtp(2)


@pytest.mark.parametrize(("roc", "sequence"), [(-1, None), (1 << 32, None), (0, 65_536), (0, -1)])
def test_a_roc_or_sequence_out_of_range_is_refused(roc: int, sequence: int | None) -> None:
    with pytest.raises(ValueError, match="bits"):
        pair()[0].set_roc(SSRC, roc, sequence)


@pytest.mark.clause("RFC 3711", "3.1")
@pytest.mark.clause("TS 33.328", "C-6", "E-5")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_the_mki_is_in_every_packet_before_the_tag(name: str) -> None:
    suite = SUITES[name]
    sender, receiver = pair(suite, mki=0x0102, mki_length=4)
    media, control = sender.protect_rtp(rtp(1)), sender.protect_rtcp(rtcp())
    outside = 0 if suite.auth == "AEAD" else 1
    for packet, tag in ((media, suite.srtp_tag_length * outside), (control, suite.srtcp_tag_length * outside)):
        assert packet[len(packet) - tag - 4 : len(packet) - tag] == b"\0\0\1\2"
    assert receiver.unprotect_rtp(media) == rtp(1)
    assert receiver.unprotect_rtcp(control) == rtcp()


def test_an_mki_that_does_not_fit_its_length_is_refused() -> None:
    with pytest.raises(ValueError, match="MKI"):
        pair(mki=256, mki_length=1)


@pytest.mark.clause("RFC 4568", "4.3")
@pytest.mark.clause("TS 33.328", "7.4-5")
def test_among_several_keys_of_a_line_the_mki_alone_decides() -> None:
    sender = SrtpContext.from_keys(key_set(b"\1", b"\2"))
    receiver = SrtpContext.from_keys(key_set(b"\1", b"\2"))
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(1))) == rtp(1)
    sender.select_key(2)
    protected = sender.protect_rtp(rtp(2))
    assert protected[-11:-10] == b"\2"
    assert receiver.unprotect_rtp(protected) == rtp(2)
    swapped = bytearray(sender.protect_rtp(rtp(3)))
    swapped[-11] = 1
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(bytes(swapped))
    with pytest.raises(UnknownMki):
        sender.select_key(3)


@pytest.mark.clause("TS 33.328", "E-5")
def test_several_keys_need_different_mkis_of_one_length() -> None:
    with pytest.raises(ValueError, match="different"):
        key_set(b"", b"")
    with pytest.raises(ValueError, match="length"):
        key_set(b"\1", b"\0\2")
    with pytest.raises(ValueError, match="at least one"):
        MasterKeySet([])


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("RFC 3711", "3.3.1", "3.4")
@pytest.mark.clause("TS 33.328", "7.4-3")
def test_a_new_key_on_the_same_address_keeps_roc_and_srtcp_index() -> None:
    sender, receiver = pair()
    for sequence in range(65_534, 65_540):
        receiver.unprotect_rtp(sender.protect_rtp(rtp(sequence)))
        receiver.unprotect_rtcp(sender.protect_rtcp(rtcp()))
    for context in (sender, receiver):
        context.rekey(AES_80, *key_pair(AES_80, 50))
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(65_540))) == rtp(65_540)
    assert sender.roc(SSRC) == receiver.roc(SSRC) == 1
    control = sender.protect_rtcp(rtcp())
    assert int.from_bytes(control[-14:-10], "big") == 1 << 31 | 6
    assert receiver.unprotect_rtcp(control) == rtcp()


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-3")
def test_a_new_key_on_a_new_address_is_a_new_context_with_roc_zero() -> None:
    sender, receiver = pair()
    for sequence in (65_535, 65_536):
        receiver.unprotect_rtp(sender.protect_rtp(rtp(sequence)))
    moved, follower = pair(seed=50)
    assert follower.unprotect_rtp(moved.protect_rtp(rtp(1))) == rtp(1)
    assert moved.roc(SSRC) == follower.roc(SSRC) == 0


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-5")
def test_during_a_key_change_both_keys_open_until_the_grace_time_is_over() -> None:
    clock = FakeClock()
    sender = SrtpContext(AES_80, *key_pair(AES_80))
    receiver = SrtpContext(AES_80, *key_pair(AES_80), clock=clock)
    early = sender.protect_rtp(rtp(1))
    later = sender.protect_rtp(rtp(2))
    too_late = sender.protect_rtp(rtp(3))
    control = sender.protect_rtcp(rtcp())
    receiver.unprotect_rtp(early)
    receiver.rekey(AES_80, *key_pair(AES_80, 50), grace=2.0)
    assert receiver.unprotect_rtp(later) == rtp(2)
    assert receiver.unprotect_rtcp(control) == rtcp()
    sender.rekey(AES_80, *key_pair(AES_80, 50))
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(4))) == rtp(4)
    clock.advance(2.1)
    with pytest.raises(AuthenticationFailure):
        receiver.unprotect_rtp(too_late)
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(5))) == rtp(5)


def test_a_key_change_may_bring_another_suite() -> None:
    sender, receiver = pair()
    receiver.unprotect_rtp(sender.protect_rtp(rtp(1)))
    waiting = sender.protect_rtp(rtp(2))
    for context in (sender, receiver):
        context.rekey(GCM, *key_pair(GCM, 50))
        assert context.suite is GCM
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(3))) == rtp(3)
    assert receiver.unprotect_rtp(waiting) == rtp(2)


@pytest.mark.clause("TS 33.328", "7.4-2")
def test_the_present_key_again_changes_nothing() -> None:
    sender, receiver = pair()
    receiver.unprotect_rtp(sender.protect_rtp(rtp(1)))
    sender.rekey(AES_80, *key_pair(AES_80))
    receiver.rekey(AES_80, *key_pair(AES_80))
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(2))) == rtp(2)


@pytest.mark.clause("RFC 3711", "9.2")
@pytest.mark.clause("TS 33.328", "7.4-8")
def test_a_former_key_never_comes_back() -> None:
    sender, _ = pair()
    sender.rekey(AES_80, *key_pair(AES_80, 50))
    with pytest.raises(KeyReused):
        sender.rekey(AES_80, *key_pair(AES_80))


@pytest.mark.clause("RFC 3711", "3.3.1", "9.2")
@pytest.mark.clause("TS 33.328", "7.4-4", "E-4")
def test_a_lifetime_ends_sending_and_receiving_until_a_new_key_comes() -> None:
    sender, receiver = pair(lifetime=10)
    for sequence in range(10):
        assert sender.needs_rekey == (sequence >= 9)
        receiver.unprotect_rtp(sender.protect_rtp(rtp(sequence)))
    with pytest.raises(KeyExpired):
        sender.protect_rtp(rtp(10))
    unlimited, _ = pair()
    with pytest.raises(KeyExpired):
        receiver.unprotect_rtp(unlimited.protect_rtp(rtp(10)))
    for context in (sender, receiver):
        context.rekey(AES_80, *key_pair(AES_80, 50))
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(10))) == rtp(10)


@pytest.mark.clause("TS 33.328", "7.4-4", "E-4")
def test_the_lifetime_counts_srtcp_for_itself() -> None:
    sender, receiver = pair(lifetime=3)
    for _ in range(3):
        receiver.unprotect_rtcp(sender.protect_rtcp(rtcp()))
    with pytest.raises(KeyExpired):
        sender.protect_rtcp(rtcp())
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(1))) == rtp(1)


@pytest.mark.clause("RFC 4568", "6.4.2")
@pytest.mark.clause("TS 33.328", "7.4-4", "C-10")
def test_ssrcs_that_share_a_key_together_stay_below_2_to_31_packets() -> None:
    key = MasterKey(AES_80, *key_pair(AES_80))
    sender = SrtpContext.from_keys(MasterKeySet([key]))
    sender.protect_rtp(rtp(1, ssrc=1))
    key.srtp_packets = 2**31
    sender.protect_rtp(rtp(2, ssrc=1))
    sender.protect_rtp(rtp(1, ssrc=2))
    with pytest.raises(KeyExpired):
        sender.protect_rtp(rtp(2, ssrc=2))


@pytest.mark.clause("RFC 3711", "3.3.1", "9.2")
def test_the_index_space_of_a_stream_is_never_used_again() -> None:
    sender, _ = pair()
    sender.set_roc(SSRC, 2**32 - 1, 65_535)
    with pytest.raises(KeyExpired):
        sender.protect_rtp(rtp(1))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x80",
        bytes(12),
        b"\x40" + bytes(40),
        b"\x8f" + bytes(20),
        b"\x90" + bytes(13),
        b"\x90\0" + bytes(12) + b"\xff\xff",
    ],
)
def test_what_is_no_rtp_packet_is_malformed_in_both_directions(packet: bytes) -> None:
    sender, receiver = pair()
    with pytest.raises(MalformedPacket):
        sender.protect_rtp(packet)
    with pytest.raises(MalformedPacket):
        receiver.unprotect_rtp(packet)


def test_a_packet_longer_than_a_datagram_is_not_protected() -> None:
    sender, _ = pair()
    with pytest.raises(MalformedPacket):
        sender.protect_rtp(rtp(1, payload=bytes(70_000)))
    with pytest.raises(MalformedPacket):
        sender.protect_rtcp(rtcp() + bytes(70_000))


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_a_packet_without_room_for_its_tag_is_truncated(name: str) -> None:
    suite = SUITES[name]
    _, receiver = pair(suite, mki=1, mki_length=2)
    with pytest.raises(TruncatedPacket):
        receiver.unprotect_rtp(rtp(1, payload=bytes(suite.srtp_tag_length + 1)))
    with pytest.raises(TruncatedPacket):
        receiver.unprotect_rtcp(rtcp()[:8] + bytes(suite.srtcp_tag_length + 5))


@pytest.mark.parametrize("suite", RECOGNISED_SUITES.values(), ids=lambda suite: suite.name)
def test_suites_that_are_only_recognised_are_not_run(suite) -> None:
    with pytest.raises(ValueError, match="not supported"):
        MasterKey(suite, *key_pair(suite))


def test_key_and_salt_have_the_length_of_the_suite() -> None:
    with pytest.raises(ValueError, match="octets"):
        SrtpContext(AES_80, Secret(bytes(15)), Secret(bytes(14)))
    with pytest.raises(ValueError, match="octets"):
        SrtpContext(AES_80, Secret(bytes(16)), Secret(bytes(12)))


@pytest.mark.clause("RFC 4568", "6")
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_a_context_is_built_from_a_crypto_line(name: str) -> None:
    crypto = generate(name, 1)
    sender, receiver = SrtpContext.from_crypto(crypto), SrtpContext.from_crypto(crypto)
    assert receiver.unprotect_rtp(sender.protect_rtp(rtp(1))) == rtp(1)
    by_hand = SrtpContext(crypto.suite, crypto.master_key, crypto.master_salt)
    assert by_hand.unprotect_rtp(sender.protect_rtp(rtp(2))) == rtp(2)


@pytest.mark.attack("T8")
def test_no_key_shows_in_a_context_or_its_errors() -> None:
    key, salt = key_pair(AES_80)
    context = SrtpContext(AES_80, key, salt)
    shown = repr(context) + repr(vars(context)) + repr(vars(MasterKey(AES_80, key, salt)))
    with pytest.raises(SrtpError) as refused:
        context.unprotect_rtp(rtp(1, payload=bytes(40)))
    shown += repr(refused.value) + str(refused.value)
    for secret in (key, salt):
        assert secret.reveal().hex() not in shown
        assert repr(secret.reveal())[2:-1] not in shown


def test_protecting_and_opening_a_packet_takes_microseconds() -> None:
    sender, receiver = pair()
    packets = [rtp(sequence) for sequence in range(2000)]
    began = time.process_time()
    for packet in packets:
        receiver.unprotect_rtp(sender.protect_rtp(packet))
    assert time.process_time() - began < 2000 * 200e-6
