"""The RTP session without sockets: two of them, a network in between, and a clock."""

import itertools
import random
from collections.abc import Callable

import pytest

from keying.sdes import CryptoAttribute, generate
from media.dtmf import DtmfError
from media.g711 import PCMA, PCMU
from media.quality import compare
from media.rtcp import Bye, ReceiverReport, SenderReport, SourceDescription, build_rtcp, parse_rtcp
from media.rtp import RtpPacket, parse_rtp
from media.session import (
    ByeReceived,
    Direction,
    DtmfReceived,
    MediaStarted,
    Outgoing,
    PacketRefused,
    RekeyNeeded,
    RtpSession,
    SessionSettings,
    spoken_by,
)
from media.srtp import MasterKeySet, SrtpContext
from tests.media.support import FakeClock, key_set, rtp

ALICE, BOB, EVE = ("192.0.2.1", 4000), ("192.0.2.2", 5000), ("198.51.100.9", 6000)
SUITE = "AES_CM_128_HMAC_SHA1_80"


class Call:
    """Alice and Bob; `network` may drop, change or add packets on the way."""

    def __init__(self, secure: bool = False, **settings) -> None:
        self.clock = FakeClock()
        options = SessionSettings(**settings)
        self.alice, self.bob = (
            RtpSession(
                options,
                source=spoken_by(name),
                clock=self.clock,
                wall=lambda: self.clock() + 1_700_000_000,
                randomness=random.Random(name),
            )
            for name in ("alice", "bob")
        )
        self.alice.set_remote(BOB)
        self.bob.set_remote(ALICE)
        self.network: Callable[[Outgoing], list[bytes]] = lambda outgoing: [outgoing.octets]
        self.wire: list[Outgoing] = []
        self.keys = generate(SUITE, 1), generate(SUITE, 1)
        if secure:
            self.secure(*self.keys)

    def secure(self, of_alice: CryptoAttribute, of_bob: CryptoAttribute) -> None:
        self.alice.protection.start(of_alice, of_bob)
        self.bob.protection.start(of_bob, of_alice)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.clock.advance(0.02)
            for side, far, address in ((self.alice, self.bob, ALICE), (self.bob, self.alice, BOB)):
                self.deliver(side.tick(), far, (address[0], address[1]))

    def deliver(self, due: list[Outgoing], far: RtpSession, source: tuple[str, int]) -> None:
        for outgoing in due:
            self.wire.append(outgoing)
            for octets in self.network(outgoing):
                far.receive(octets, (source[0], source[1] + outgoing.rtcp))


def test_both_hear_each_other_and_not_themselves() -> None:
    call = Call()
    call.run(3)
    for listener, speaker, own in ((call.alice, "bob", "alice"), (call.bob, "alice", "bob")):
        assert compare(spoken_by(speaker).samples, listener.heard()).snr_db > 34
        assert not compare(spoken_by(own).samples, listener.heard()).heard
        figures = listener.statistics()
        assert (figures.packets_in, figures.packets_out, figures.lost, figures.drops) == (150, 150, 0, {})
        assert figures.octets_in == 150 * 160
        assert figures.jitter_ms < 1


@pytest.mark.clause("RFC 3550", "5.1")
@pytest.mark.clause("RFC 3551", "4.1")
def test_packets_are_20_ms_apart_in_sequence_and_the_first_bears_the_marker() -> None:
    call = Call()
    call.run(0.2)
    packets = [parse_rtp(item.octets) for item in call.wire if item.destination == BOB]
    assert {packet.ssrc for packet in packets} == {call.alice.ssrc}
    assert [packet.marker for packet in packets] == [True] + [False] * 9
    assert {b.timestamp - a.timestamp & 0xFFFFFFFF for a, b in itertools.pairwise(packets)} == {160}
    assert {b.sequence_number - a.sequence_number for a, b in itertools.pairwise(packets)} == {1}
    assert {(packet.payload_type, len(packet.payload)) for packet in packets} == {(8, 160)}


@pytest.mark.clause("TS 33.328", "C-8")
def test_the_first_sequence_number_is_below_2_to_15() -> None:
    for seed in range(50):
        session = RtpSession(clock=FakeClock(), randomness=random.Random(seed))
        session.set_remote(BOB)
        assert parse_rtp(session.tick()[0].octets).sequence_number < 1 << 15


@pytest.mark.clause("TS 33.328", "C-1", "6.1.1-1")
@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_32", "AES_256_CM_HMAC_SHA1_80", "AEAD_AES_128_GCM"])
def test_a_secured_call_is_heard_and_no_packet_of_it_is_plain(suite: str) -> None:
    call = Call()
    call.secure(generate(suite, 1), generate(suite, 1))
    call.run(3)
    assert compare(spoken_by("alice").samples, call.bob.heard()).snr_db > 34
    source = spoken_by("alice")
    coded = source.frame(PCMA, 0, 8000)
    assert all(item.octets[12:44] not in coded for item in call.wire)
    figures = call.bob.statistics()
    assert (figures.suite_in, figures.suite_out, figures.drops) == (suite, suite, {})
    assert figures.rtcp_in >= 1


@pytest.mark.clause("TS 33.328", "5.1", "6.1.1-1")
def test_once_secured_a_side_without_a_key_says_nothing_and_hears_nothing() -> None:
    call = Call()
    call.bob.protection.start(call.keys[1], None)
    call.alice.protection.start(None, None)
    call.run(1)
    assert [item for item in call.wire if item.destination == BOB] == []
    assert call.alice.packets_in == 0
    assert call.alice.drops["no_receiving_key"] > 40
    call.alice.protection.start_sending(call.keys[0])
    call.alice.protection.start_receiving(call.keys[1])
    call.bob.protection.start_receiving(call.keys[0])
    call.run(1)
    assert call.alice.packets_in >= 49
    assert call.bob.packets_in >= 49


def test_after_unsecuring_both_go_on_as_plain_rtp() -> None:
    call = Call(secure=True)
    call.run(0.5)
    for side in (call.alice, call.bob):
        side.protection.stop()
    call.run(1)
    assert call.bob.packets_in == 75
    assert call.bob.statistics().suite_in is None


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-3", "7.4-5")
def test_a_key_change_during_the_call_loses_no_packet() -> None:
    call = Call(secure=True)
    call.run(1)
    fresh = generate(SUITE, 1)
    call.bob.protection.rekey_receiving(fresh)
    call.run(0.5)
    call.alice.protection.rekey_sending(fresh)
    call.run(8)
    figures = call.bob.statistics()
    assert (figures.lost, figures.drops, figures.packets_in) == (0, {}, 475)


@pytest.mark.clause("TS 33.328", "7.4-10")
@pytest.mark.clause("RFC 4568", "6.5")
def test_on_hold_media_stops_rtcp_goes_on_and_resume_keeps_the_context() -> None:
    call = Call(secure=True)
    call.run(1)
    call.alice.set_direction(Direction.INACTIVE)
    call.bob.set_direction(Direction.INACTIVE)
    before = len(call.wire)
    call.run(20)
    held = call.wire[before:]
    assert held
    assert all(item.rtcp for item in held)
    for side in (call.alice, call.bob):
        side.set_direction(Direction.SENDRECV)
    call.run(2)
    assert call.bob.statistics().lost == 0
    assert call.bob.statistics().drops == {}
    assert call.bob.packets_in == 150


def test_a_side_that_only_receives_hears_and_one_that_only_sends_does_not() -> None:
    call = Call()
    call.alice.set_direction(Direction.SENDONLY)
    call.bob.set_direction(Direction.RECVONLY)
    call.run(1)
    assert call.bob.packets_in == 50
    assert call.alice.packets_in == 0
    assert len(call.alice.heard()) == 0


@pytest.mark.clause("TS 33.328", "6.1.1-4")
@pytest.mark.clause("RFC 4733", "2.5.1")
def test_digits_are_sent_in_place_of_sound_and_told_once() -> None:
    call = Call(secure=True)
    call.run(0.5)
    call.alice.send_digits("19#")
    call.network = lambda outgoing: [outgoing.octets] * 2
    call.run(2)
    told = [event for event in call.bob.events() if isinstance(event, DtmfReceived)]
    assert told == [DtmfReceived("1", 100), DtmfReceived("9", 100), DtmfReceived("#", 100)]
    assert compare(spoken_by("alice").samples, call.bob.heard()).heard


def test_digits_need_a_negotiated_payload_type() -> None:
    session = RtpSession(clock=FakeClock())
    session.set_codec(PCMU, None, None)
    with pytest.raises(DtmfError):
        session.send_digits("1")


@pytest.mark.clause("RFC 3550", "6.1", "6.2", "6.4")
def test_reports_come_after_about_a_second_and_then_every_few_seconds() -> None:
    call = Call()
    times: list[float] = []
    began = call.clock()

    def note(outgoing: Outgoing) -> list[bytes]:
        if outgoing.rtcp and outgoing.destination == (BOB[0], BOB[1] + 1):
            times.append(call.clock() - began)
        return [outgoing.octets]

    call.network = note
    call.run(60)
    assert 0.5 <= times[0] <= 1.6
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(2.0 <= gap <= 6.3 for gap in gaps)
    assert len({round(gap, 1) for gap in gaps}) > 3
    report, description = parse_rtcp(next(item.octets for item in call.wire if item.rtcp))
    assert isinstance(report, SenderReport)
    assert isinstance(description, SourceDescription)


@pytest.mark.clause("RFC 3550", "6.4.1")
def test_reports_tell_the_far_end_loss_and_round_trip() -> None:
    call = Call()
    chance = random.Random(4)
    call.network = lambda outgoing: [] if not outgoing.rtcp and chance.random() < 0.1 else [outgoing.octets]
    call.run(20)
    figures = call.alice.statistics()
    assert 0.06 < call.bob.statistics().loss < 0.14
    assert figures.remote_lost is not None
    assert 50 < figures.remote_lost < 150
    assert figures.round_trip_ms == pytest.approx(0, abs=25)


def test_a_silent_side_reports_as_receiver() -> None:
    call = Call()
    call.bob.set_direction(Direction.RECVONLY)
    call.run(10)
    reports = [parse_rtcp(item.octets)[0] for item in call.wire if item.rtcp and item.destination[0] == ALICE[0]]
    assert reports
    assert all(isinstance(report, ReceiverReport) for report in reports)


@pytest.mark.clause("RFC 3550", "6.6")
def test_the_farewell_is_told() -> None:
    call = Call(secure=True)
    call.run(0.5)
    call.deliver(call.alice.bye("hung up"), call.bob, ALICE)
    assert ByeReceived(call.alice.ssrc, "hung up") in call.bob.events()
    assert RtpSession(clock=FakeClock()).bye() == []


def test_rtcp_mux_sends_both_to_one_port() -> None:
    call = Call(rtcp_mux=True)
    call.run(3)
    assert {item.destination for item in call.wire} == {ALICE, BOB}
    assert call.bob.statistics().rtcp_in >= 1


def test_nothing_is_sent_before_the_far_end_is_known() -> None:
    session = RtpSession(clock=FakeClock())
    assert all(session.tick() == [] for _ in range(100))


@pytest.mark.parametrize("loss", [0.02, 0.2])
def test_loss_is_counted_and_the_rest_is_heard(loss: float) -> None:
    call = Call(secure=True)
    chance = random.Random(2)
    call.network = lambda outgoing: [] if chance.random() < loss else [outgoing.octets]
    call.run(5)
    figures = call.bob.statistics()
    assert loss / 2 < figures.loss < loss * 2
    found = compare(spoken_by("alice").samples, call.bob.heard())
    assert found.snr_db > 34
    assert found.loss < loss * 2


def test_reordering_is_repaired_by_the_jitter_buffer() -> None:
    call = Call(secure=True)
    held: list[bytes] = []

    def swap(outgoing: Outgoing) -> list[bytes]:
        if outgoing.rtcp or outgoing.destination != BOB:
            return [outgoing.octets]
        held.append(outgoing.octets)
        if len(held) < 3:
            return []
        out, held[:] = held[::-1], []
        return out

    call.network = swap
    call.run(3)
    found = compare(spoken_by("alice").samples, call.bob.heard())
    assert (found.loss, call.bob.statistics().lost) == (0, 0)
    assert found.snr_db > 34


def test_the_other_g711_law_is_understood() -> None:
    call = Call()
    call.alice.set_codec(PCMU, None, 101)
    call.run(2)
    assert compare(spoken_by("alice").samples, call.bob.heard()).snr_db > 30


def test_a_dynamic_payload_type_is_sent_and_taken() -> None:
    call = Call()
    for side in (call.alice, call.bob):
        side.set_codec(PCMU, 97, 101)
    call.run(1)
    assert parse_rtp(call.wire[0].octets).payload_type == 97
    assert call.bob.packets_in == 50


def test_a_standstill_of_the_process_shows_as_a_gap_in_time_and_not_as_loss() -> None:
    call = Call()
    call.run(0.2)
    call.alice.skip(10)
    call.run(0.2)
    packets = [parse_rtp(item.octets) for item in call.wire if item.destination == BOB]
    assert packets[10].timestamp - packets[9].timestamp & 0xFFFFFFFF == 11 * 160
    assert packets[10].marker
    assert call.bob.statistics().lost == 0


def test_symmetric_rtp_follows_the_source_of_valid_media() -> None:
    session = RtpSession(SessionSettings(symmetric=True), clock=FakeClock())
    session.set_remote(BOB)
    session.receive(rtp(1), (BOB[0], 7777))
    assert session.tick()[0].destination == (BOB[0], 7777)


def test_the_end_of_each_key_is_told_once_before_it_ends_the_stream() -> None:
    call = Call(secure=True)
    call.alice.protection.sending = SrtpContext.from_keys(key_set(b"", lifetime=100))
    call.run(3)
    events = [event for event in call.alice.events() if isinstance(event, RekeyNeeded)]
    assert events == [RekeyNeeded(SUITE)]
    assert call.alice.packets_out == 100
    assert call.alice.drops["send_key_expired"] == 50
    call.alice.protection.sending.rekey_to(key_set(b"", seed=40, lifetime=50))
    call.run(2)
    assert call.alice.packets_out == 150
    assert [event for event in call.alice.events() if isinstance(event, RekeyNeeded)] == [RekeyNeeded(SUITE)]


# -- attacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "3.3.2")
def test_attack_replay_is_counted_and_the_call_goes_on() -> None:
    call = Call(secure=True)
    call.network = lambda outgoing: [outgoing.octets] * 3
    call.run(2)
    figures = call.bob.statistics()
    assert figures.packets_in == 100
    assert figures.replays >= 200
    assert figures.auth_failures == 0
    assert compare(spoken_by("alice").samples, call.bob.heard()).loss == 0


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "4.2")
def test_attack_bit_flips_are_counted_told_once_and_the_call_goes_on() -> None:
    call = Call(secure=True)
    chance = random.Random(3)

    def flip(outgoing: Outgoing) -> list[bytes]:
        altered = bytearray(outgoing.octets)
        altered[chance.randrange(12, len(altered))] ^= 1 << chance.randrange(8)
        return [bytes(altered), outgoing.octets]

    call.network = flip
    call.run(2)
    figures = call.bob.statistics()
    assert figures.packets_in == 100
    assert figures.auth_failures >= 100
    refused = [event for event in call.bob.events() if isinstance(event, PacketRefused)]
    assert refused.count(PacketRefused("auth_failure", ALICE)) == 1
    assert compare(spoken_by("alice").samples, call.bob.heard()).snr_db > 34


@pytest.mark.attack("T3")
def test_attack_flood_of_every_kind_leaves_the_call_unharmed() -> None:
    call = Call(secure=True)
    stranger = SrtpContext.from_keys(key_set(b"", seed=99))
    sequence = iter(range(10_000))

    def flood(outgoing: Outgoing) -> list[bytes]:
        n = next(sequence)
        return [
            b"",
            b"\x80",
            outgoing.octets[:11],
            outgoing.octets[:20],
            bytes(200),
            b"\x16\xfe\xfd" + bytes(50),
            rtp(n),
            stranger.protect_rtp(rtp(n)),
            rtp(n, ssrc=n),
            outgoing.octets,
        ]

    call.network = flood
    call.run(2)
    figures = call.bob.statistics()
    assert figures.packets_in == 100
    assert figures.drops["auth_failure"] >= 300
    assert figures.drops["not_media"] >= 400
    assert compare(spoken_by("alice").samples, call.bob.heard()).snr_db > 34


@pytest.mark.attack("T3")
def test_attack_plain_packets_of_another_address_or_ssrc_are_not_heard() -> None:
    call = Call()
    call.run(0.5)
    for n in range(25):
        call.bob.receive(rtp(n, ssrc=0xEEEE), EVE)
        call.bob.receive(rtp(n, ssrc=0xEEEE), ALICE)
        call.run(0.02)
    figures = call.bob.statistics()
    assert figures.drops == {"foreign_source": 25, "foreign_ssrc": 25}
    assert (figures.packets_in, figures.remote_ssrc) == (50, call.alice.ssrc)


@pytest.mark.attack("T3")
def test_attack_plain_rtcp_bye_into_a_secured_call_is_refused() -> None:
    call = Call(secure=True)
    call.run(1)
    forged = build_rtcp([ReceiverReport(call.alice.ssrc), Bye((call.alice.ssrc,))])
    call.bob.receive(forged + bytes(20), (ALICE[0], ALICE[1] + 1))
    assert not [event for event in call.bob.events() if isinstance(event, ByeReceived)]
    call.run(1)
    assert call.bob.packets_in == 100


def test_a_far_end_that_changes_its_ssrc_is_heard_at_once_when_authenticated() -> None:
    call = Call(secure=True)
    call.run(1)
    call.alice.ssrc ^= 0xFFFF
    call.run(1)
    assert call.bob.packets_in >= 99
    started = [event for event in call.bob.events() if isinstance(event, MediaStarted)]
    assert [event.ssrc for event in started] == [call.alice.ssrc ^ 0xFFFF, call.alice.ssrc]


def test_a_plain_far_end_that_changes_its_ssrc_is_heard_after_a_short_silence() -> None:
    call = Call()
    call.run(1)
    call.alice.ssrc ^= 0xFFFF
    call.run(1)
    assert 85 <= call.bob.packets_in <= 92


def test_unknown_payload_types_and_broken_events_are_counted() -> None:
    session = RtpSession(clock=FakeClock())
    session.receive(RtpPacket(96, 1, 0, 5, b"x").to_bytes(), ALICE)
    session.receive(RtpPacket(101, 1, 0, 5, b"x").to_bytes(), ALICE)
    session.receive(b"\xa0\x08" + bytes(12), ALICE)
    session.receive(b"\x80\xcb" + bytes(10), ALICE)
    assert session.drops == {"unknown_payload_type": 1, "malformed": 3}


def test_a_key_set_of_the_wrong_suite_is_no_surprise_to_the_statistics() -> None:
    session = RtpSession(clock=FakeClock())
    session.protection.receiving = SrtpContext.from_keys(MasterKeySet([key_set(b"").sending]))
    assert session.statistics().suite_in == SUITE
