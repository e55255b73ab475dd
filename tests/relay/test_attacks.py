"""Hostile media (T3): each attempt is dropped under its cause, and the good stream does not notice."""

import socket
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keying.suites import SUITES
from media.relay import DropCause, KeySet, Latched, Latching, Protection, Side, SrtpFailures, sockets
from media.relay.compiled import why_not_compiled
from media.relay.interface import MAX_DATAGRAM, MAX_SSRCS
from tests.relay.ends import SSRC, Ends, context, keys, received, receiver_report, rtp

pytestmark = pytest.mark.attack("T3")


@pytest.mark.clause("RFC 3711", "3.3.2")
@pytest.mark.clause("TS 33.328", "C-7")
@pytest.mark.parametrize("suite", SUITES)
def test_replayed_packet_is_dropped(ends: Ends, suite: str):
    ends.receive_keys = keys(suite)
    ends.open()
    packet = ends.sender.protect_rtp(rtp(0))
    ends.throw(packet)
    received(ends.far)
    ends.talk(range(1, 3))
    ends.throw(packet)
    assert received(ends.far) == []
    assert ends.drops() == {DropCause.REPLAYED: 1}
    ends.talk(range(3, 6))
    ends.assert_balance()


def test_packet_older_than_the_window_counts_as_replayed(ends: Ends):
    ends.open()
    late = ends.sender.protect_rtp(rtp(0))
    just_in_time = ends.sender.protect_rtp(rtp(73))
    ends.talk(range(200, 201))
    ends.throw(late)
    assert ends.drops() == {DropCause.REPLAYED: 1}
    ends.throw(just_in_time)
    assert received(ends.far) == [rtp(73)]


@pytest.mark.clause("RFC 3711", "3.4")
def test_replayed_srtcp_is_dropped(ends: Ends):
    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.talk(range(1))
    packet = ends.sender.protect_rtcp(receiver_report())
    ends.throw(packet)
    ends.throw(packet)
    assert received(ends.far) == [receiver_report()]
    assert ends.drops() == {DropCause.REPLAYED: 1}
    ends.assert_balance()


@pytest.mark.clause("RFC 3711", "4.2")
@pytest.mark.parametrize("suite", SUITES)
def test_every_flipped_bit_of_a_new_packet_is_noticed(ends: Ends, suite: str):
    ends.receive_keys = keys(suite)
    ends.open()
    ends.talk(range(3))
    good = ends.sender.protect_rtp(rtp(3, payload=b"12345678"))
    for bit in range(8 * len(good)):
        octets = bytearray(good)
        octets[bit // 8] ^= 0x80 >> bit % 8
        ends.throw(bytes(octets))
    assert received(ends.far) == []
    assert sum(ends.drops().values()) == 8 * len(good)
    assert ends.drops()[DropCause.AUTH_FAILED] > 8 * (len(good) - 12)
    ends.throw(good)
    assert received(ends.far) == [rtp(3, payload=b"12345678")]
    ends.assert_balance()


@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM"])
def test_truncated_packet_is_dropped_at_every_length(ends: Ends, suite: str):
    ends.receive_keys = keys(suite)
    ends.open()
    ends.talk(range(2))
    good = ends.sender.protect_rtp(rtp(2))
    for length in range(len(good)):
        ends.throw(good[:length])
    assert received(ends.far) == []
    drops = ends.drops()
    tag = SUITES[suite].srtp_tag_length
    assert drops[DropCause.TOO_SHORT] == 12 + tag
    assert drops[DropCause.AUTH_FAILED] == len(good) - 12 - tag
    ends.throw(good)
    assert received(ends.far) == [rtp(2)]
    ends.assert_balance()


def test_foreign_ssrc_without_the_key_takes_no_place(ends: Ends):
    ends.open()
    ends.talk(range(2))
    stranger = context(keys())
    for ssrc in range(100):
        ends.throw(stranger.protect_rtp(rtp(1, ssrc)) if ssrc < 20 else rtp(1, ssrc, payload=bytes(40)))
    assert ends.drops() == {DropCause.AUTH_FAILED: 100}
    ends.talk(range(5), ssrc=77)
    ends.talk(range(2, 4))


@pytest.mark.clause("TS 33.328", "C-10")
@pytest.mark.clause("RFC 4568", "6.4.1")
def test_number_of_ssrcs_under_a_key_is_bounded(ends: Ends):
    ends.open()
    for ssrc in range(MAX_SSRCS):
        ends.talk([0], ssrc)
    ends.throw(ends.sender.protect_rtp(rtp(0, 5000)))
    assert ends.drops() == {DropCause.SSRC_LIMIT: 1}
    ends.talk([1, 2], 3)
    ends.assert_balance()


def test_ssrc_flood_from_the_core_cannot_fill_the_senders_contexts(ends: Ends):
    ends.open()
    ends.answer(range(1))
    for ssrc in range(1000):
        ends.throw(rtp(1, ssrc), side=Side.CORE)
    assert ends.drops(Side.CORE) == {DropCause.SSRC_LIMIT: 1000 - MAX_SSRCS + 1}
    received(ends.phone)
    ends.answer(range(1, 4))
    ends.assert_balance()


@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"])
def test_wrong_mki_is_counted_apart(ends: Ends, suite: str):
    ends.receive_keys = keys(suite, mki=1, mki_length=4)
    ends.open()
    ends.talk(range(2))
    packet = ends.sender.protect_rtp(rtp(2))
    place = -SUITES[suite].srtp_tag_length - 4 if suite.startswith("AES") else -4
    forged = bytearray(packet)
    forged[place + 3] ^= 7
    ends.throw(bytes(forged))
    assert ends.drops() == {DropCause.MKI: 1}
    ends.throw(packet)
    assert received(ends.far) == [rtp(2)]
    assert ends.statistics().auth_failures == 1


def test_key_is_chosen_by_mki_among_several(ends: Ends):
    one, two = keys(mki=1, mki_length=2), keys(mki=2, mki_length=2)
    ends.receive_keys = KeySet(one.suite, (*one.keys, *two.keys))
    ends.open()
    ends.throw(context(two).protect_rtp(rtp(0)))
    ends.throw(context(one).protect_rtp(rtp(1)))
    assert received(ends.far) == [rtp(0), rtp(1)]


def test_packet_of_an_old_roc_is_dropped(ends: Ends):
    ends.open()
    recorded = ends.sender.protect_rtp(rtp(65000))
    for sequence in (65001, 65500, 66000, 66500):
        ends.talk([sequence])
    ends.throw(recorded)
    assert received(ends.far) == []
    assert sum(ends.drops().values()) == 1
    ends.talk(range(66501, 66504))


@pytest.mark.clause("RFC 7983", "7")
def test_other_protocols_on_the_media_port_are_told_apart_and_dropped(ends: Ends):
    ends.open()
    ends.talk(range(1))
    for first, cause in ((0, DropCause.STUN), (3, DropCause.STUN), (22, DropCause.DTLS), (63, DropCause.DTLS)):
        before = ends.drops().get(cause, 0)
        ends.throw(bytes([first]) + bytes(60))
        assert ends.drops()[cause] == before + 1
    for first in (4, 15, 16, 19, 64, 79, 127, 192, 255):
        ends.throw(bytes([first]) + bytes(60))
    assert ends.drops()[DropCause.NOT_RTP] == 9
    ends.talk(range(1, 3))
    ends.assert_balance()


def test_rtcp_on_the_rtp_port_is_not_taken_for_media(ends: Ends):
    ends.open()
    ends.talk(range(1))
    ends.throw(ends.sender.protect_rtcp(receiver_report()))
    assert ends.drops() == {DropCause.NOT_RTP: 1}


def test_oversized_datagram_is_dropped(ends: Ends):
    ends.open(access=ends.plain(ends.phone))
    ends.throw(rtp(0, payload=bytes(MAX_DATAGRAM - 12)))
    assert len(received(ends.far)) == 1
    ends.throw(rtp(1, payload=bytes(MAX_DATAGRAM - 11)))
    ends.throw(rtp(2, payload=bytes(40000)))
    assert ends.drops() == {DropCause.OVERSIZE: 2}


def test_oversized_datagram_on_the_quick_way_is_dropped(ends: Ends):
    ends.open()
    ends.talk(range(2))
    for turn, size in enumerate(range(MAX_DATAGRAM + 1, MAX_DATAGRAM + 250, 50)):
        ends.clock.advance(0.02)
        ends.throw(rtp(2, payload=bytes(size - 12)))
        ends.talk([2 + turn])
    assert ends.drops() == {DropCause.OVERSIZE: 5}
    ends.talk(range(7, 9))
    ends.assert_balance()
    ends.assert_balance()


@pytest.mark.clause("RFC 4568", "6.4.1")
def test_off_path_sender_cannot_steal_the_latch_of_an_srtp_side(ends: Ends):
    ends.open()
    thief = ends.other()
    for sequence in range(50):
        ends.throw(rtp(sequence, payload=bytes(40)), by=thief)
    assert ends.drops() == {DropCause.AUTH_FAILED: 50}
    assert ends.statistics().latched is None
    ends.talk(range(3))
    assert ends.statistics().latched == ends.phone.getsockname()
    ends.answer(range(3))
    assert received(thief) == []


def test_latched_stream_is_deaf_to_everybody_else(ends: Ends):
    ends.open()
    ends.talk(range(3))
    thief = ends.other()
    recorded = ends.sender.protect_rtp(rtp(3))
    ends.throw(recorded, by=thief)
    assert ends.drops() == {DropCause.WRONG_SOURCE: 1}
    ends.throw(recorded)
    assert received(ends.far) == [rtp(3)]
    ends.answer(range(3))
    assert received(thief) == []
    assert ends.statistics().latch_changes == 1


def test_phone_behind_nat_latches_where_it_really_is(ends: Ends):
    ends.open(access=ends.secured(ends.phone, remote=("127.0.0.77", 4000)))
    ends.talk(range(3))
    assert ends.statistics().latched == ends.phone.getsockname()
    ends.answer(range(3))
    assert ends.events == [Latched("s", Side.ACCESS, ends.phone.getsockname())]


@pytest.mark.parametrize("muxed", [False, True])
def test_what_a_peer_sent_before_it_was_known_is_heard(ends: Ends, muxed: bool):
    """Its packets wait among those of strangers when the first of them tells who it is; the strangers are refused."""
    nowhere = ("127.0.0.77", 4000)
    ends.open(
        access=ends.secured(ends.phone, remote=nowhere, rtcp_mux=muxed), core=ends.plain(ends.far, rtcp_mux=muxed)
    )
    stranger = ends.other()
    for sequence in range(20):
        ends.phone.sendto(ends.sender.protect_rtp(rtp(sequence)), ends.port(Side.ACCESS))
        stranger.sendto(rtp(sequence, payload=bytes(60)), ends.port(Side.ACCESS))
    if muxed:
        ends.phone.sendto(ends.sender.protect_rtcp(receiver_report()), ends.port(Side.ACCESS))
    ends.step()
    assert received(ends.far) == [rtp(sequence) for sequence in range(20)] + [receiver_report()] * muxed
    assert sum(ends.drops().values()) == 20
    assert set(ends.drops()) <= {DropCause.WRONG_SOURCE, DropCause.AUTH_FAILED}
    ends.assert_balance()


class _Hasty(socket.socket):
    """A socket to which packets came before it was connected."""

    waiting: list[tuple[bytes, tuple[str, int]]]

    def recvfrom(self, *_: object) -> tuple[bytes, tuple[str, int]]:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop(0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> type[_Hasty]:
    """The sockets of peers that are made from now on; `waiting` is what waits at them."""
    usual = sockets._open

    def opened(*args: Any, shared: bool = False, **named: Any) -> socket.socket:
        sock = usual(*args, shared=shared, **named)
        return _Hasty(fileno=sock.detach()) if shared else sock

    monkeypatch.setattr(sockets, "_open", opened)
    monkeypatch.setattr(_Hasty, "waiting", [], raising=False)
    return _Hasty


def test_packets_that_came_to_a_socket_before_it_was_connected_keep_their_order(ends: Ends, hasty: type[_Hasty]):
    phone, stranger = ends.phone.getsockname(), ("127.0.0.1", 9)
    ends.open(access=ends.plain(ends.phone, latching=Latching.LATCH))
    hasty.waiting += [(rtp(1), phone), (rtp(9), stranger), (rtp(2), phone), (bytes(40000), phone), (rtp(3), phone)]
    ends.modify(Side.ACCESS, replace(ends.access, remote=("127.0.0.9", 4000)))
    ends.modify(Side.ACCESS, replace(ends.access, remote=phone))
    ends.engine.tick()
    assert received(ends.far) == [rtp(1), rtp(2), rtp(3)]
    assert ends.drops() == {DropCause.WRONG_SOURCE: 1, DropCause.OVERSIZE: 1}
    ends.assert_balance()


def test_peer_that_sends_faster_than_its_socket_is_made_ready_is_not_waited_for(ends: Ends, hasty: type[_Hasty]):
    class Endless(list[tuple[bytes, tuple[str, int]]]):
        def pop(self, _: Any = 0) -> tuple[bytes, tuple[str, int]]:
            return rtp(0), ends.phone.getsockname()

    hasty.waiting = Endless([(b"", ("", 0))])
    ends.open(access=ends.plain(ends.phone))
    hasty.waiting = []
    ends.step()
    assert ends.statistics().packets_in <= sockets.MOST_EARLY
    ends.assert_balance()


def test_plain_side_takes_nothing_from_another_host(ends: Ends):
    ends.open(access=ends.plain(ends.phone))
    thief = ends.other("127.0.0.99")
    ends.throw(rtp(0), by=thief)
    neighbour = ends.other()
    ends.throw(rtp(1), by=neighbour)
    assert received(ends.far) == []
    assert ends.drops() == {DropCause.WRONG_SOURCE: 2}
    ends.throw(rtp(2))
    assert received(ends.far) == [rtp(2)]


def test_plain_side_latches_once_and_only_within_the_signalled_host(ends: Ends):
    ends.open(access=ends.plain(ends.phone, latching=Latching.LATCH))
    thief = ends.other("127.0.0.99")
    ends.throw(rtp(0), by=thief)
    assert ends.drops() == {DropCause.WRONG_SOURCE: 1}
    other_port = ends.other()
    ends.throw(rtp(1), by=other_port)
    assert received(ends.far) == [rtp(1)]
    ends.throw(rtp(2), by=ends.other())
    assert ends.drops() == {DropCause.WRONG_SOURCE: 2}
    ends.throw(rtp(0), side=Side.CORE)
    assert len(received(other_port)) == 1


@pytest.mark.clause("RFC 7362", "5")
@pytest.mark.parametrize("protection", ["plain", "secured"])
def test_the_signalled_peer_takes_its_port_back_from_whoever_was_faster(ends: Ends, protection: str):
    ends.open(access=getattr(ends, protection)(ends.phone, latching=Latching.LATCH))
    packets = [rtp(n) if protection == "plain" else ends.sender.protect_rtp(rtp(n)) for n in range(4)]
    thief = ends.other()
    ends.throw(packets[0], by=thief)  # its own plain packet, or a copy that overtook the original
    assert ends.statistics().latched == thief.getsockname()
    ends.throw(packets[1])
    assert ends.statistics().latched == ends.phone.getsockname()
    ends.throw(packets[2], by=thief)
    ends.throw(rtp(0, 0xFA5), side=Side.CORE)
    assert len(received(ends.phone)) == 1
    assert received(thief) == []
    ends.throw(packets[3])
    assert received(ends.far) == [rtp(0), rtp(1), rtp(3)]
    assert ends.statistics().latch_changes == 2


@pytest.mark.parametrize("where", ["moved", "held back"])
def test_an_address_that_is_not_proven_takes_nothing_back(ends: Ends, where: str):
    signalled = ends.other()
    ends.open(access=ends.plain(signalled, latching=Latching.LATCH, await_media=where == "held back"))
    if where == "moved":
        ends.throw(rtp(0), by=signalled)  # heard once: from now on it is like any other
        ends.modify(Side.ACCESS, replace(ends.access, latching=Latching.RELATCH))
    ends.throw(rtp(1))
    ends.throw(rtp(2), by=signalled)
    assert ends.statistics().latched == ends.phone.getsockname()
    assert ends.drops() == {DropCause.WRONG_SOURCE: 1}


def test_late_packets_from_the_former_port_do_not_hold_the_new_one_off(ends: Ends):
    ends.open(access=ends.plain(ends.phone, latching=Latching.LATCH))
    ends.throw(rtp(0))
    moved = ends.other()
    ends.modify(Side.ACCESS, replace(ends.access, remote=moved.getsockname(), latching=Latching.RELATCH))
    ends.throw(rtp(1))
    ends.throw(rtp(2), by=moved)
    received(ends.phone)
    ends.throw(rtp(0, 0xFA5), side=Side.CORE)
    assert len(received(moved)) == 1
    assert received(ends.phone) == []


def test_plain_side_latches_anywhere_only_when_explicitly_allowed(ends: Ends):
    ends.open(access=ends.plain(ends.phone, latching=Latching.LATCH, any_source=True))
    elsewhere = ends.other("127.0.0.99")
    ends.throw(rtp(0), by=elsewhere)
    assert ends.statistics().latched == elsewhere.getsockname()


def test_plain_side_without_a_signalled_peer_latches_to_nobody(ends: Ends):
    ends.open(access=replace(ends.plain(ends.phone, latching=Latching.LATCH), remote=None))
    ends.throw(rtp(0))
    assert ends.drops() == {DropCause.NOT_LATCHED: 1}
    ends.throw(rtp(0), side=Side.CORE)
    assert ends.drops(Side.CORE) == {DropCause.NOT_LATCHED: 1}
    ends.assert_balance()


def test_source_filter_binds_the_srtp_side_to_the_signalled_host(ends: Ends):
    ends.open(access=ends.secured(ends.phone, source_address=True))
    elsewhere = ends.other("127.0.0.99")
    packet = ends.sender.protect_rtp(rtp(0))
    ends.throw(packet, by=elsewhere)
    assert ends.drops() == {DropCause.WRONG_SOURCE: 1}
    ends.throw(packet)
    assert received(ends.far) == [rtp(0)]


@pytest.mark.parametrize("plain", [False, True])
def test_relatch_works_only_once_and_only_after_a_configure(ends: Ends, plain: bool):
    config = (
        ends.plain(ends.phone, latching=Latching.RELATCH)
        if plain
        else ends.secured(ends.phone, latching=Latching.RELATCH)
    )
    ends.open(access=config)

    def packet(sequence: int) -> bytes:
        return rtp(sequence) if plain else ends.sender.protect_rtp(rtp(sequence))

    ends.throw(packet(0))
    moved, third = ends.other(), ends.other()
    ends.throw(packet(1), by=moved)
    assert ends.drops() == {DropCause.WRONG_SOURCE: 1}
    ends.modify(Side.ACCESS, config)
    ends.throw(packet(2))
    ends.throw(packet(3), by=moved)
    assert ends.statistics().latched == moved.getsockname()
    ends.throw(packet(4), by=third)
    ends.throw(packet(5))
    assert ends.drops() == {DropCause.WRONG_SOURCE: 3}
    assert received(ends.far) == [rtp(0), rtp(2), rtp(3)]
    ends.assert_balance()


def test_forged_packets_do_not_use_up_an_armed_relatch(ends: Ends):
    config = ends.secured(ends.phone, latching=Latching.RELATCH)
    ends.open(access=config)
    ends.talk(range(2))
    ends.modify(Side.ACCESS, config)
    thief, moved = ends.other(), ends.other()
    ends.throw(rtp(2, payload=bytes(40)), by=thief)
    assert ends.statistics().latched == ends.phone.getsockname()
    ends.throw(ends.sender.protect_rtp(rtp(2)), by=moved)
    assert ends.statistics().latched == moved.getsockname()


@pytest.mark.parametrize("latched", [False, True])
def test_good_stream_is_unharmed_by_a_flood_at_its_port(ends: Ends, latched: bool):
    ends.open()
    if latched:
        ends.talk(range(1))
    flooders = [ends.other(), ends.other("127.0.0.99")]
    forged = rtp(9, payload=bytes(60))
    for sequence in range(1, 60):
        for flooder in flooders:
            for _ in range(100):
                flooder.sendto(forged, ends.port(Side.ACCESS))
        ends.throw(ends.sender.protect_rtp(rtp(sequence)))
    if latched:
        assert received(ends.far) == [rtp(sequence) for sequence in range(1, 60)]
        assert {DropCause.WRONG_SOURCE} <= set(ends.drops()) <= {DropCause.WRONG_SOURCE, DropCause.QUEUE_FULL}
    else:
        heard = received(ends.far)
        assert heard[-1] == rtp(59)
        assert len(heard) == 59
        assert set(ends.drops()) <= {DropCause.AUTH_FAILED, DropCause.WRONG_SOURCE, DropCause.QUEUE_FULL}
    assert ends.statistics().packets_in == 59 * 201 + latched, "every packet that was sent is counted"
    assert ends.statistics().packets_out == 0
    ends.assert_balance()


def test_failures_are_reported_when_they_pass_a_threshold(ends: Ends):
    ends.open()
    ends.talk(range(1))
    for number in range(520):
        ends.throw(rtp(number % 60000 + 1, payload=bytes(40)))
    told = [event for event in ends.events if isinstance(event, SrtpFailures)]
    assert [event.auth_failures for event in told] == [50, 500]


@pytest.mark.clause("TS 33.328", "C-9")
def test_rtcp_with_a_cleared_e_bit_is_refused_even_with_a_good_tag(ends: Ends):
    """SDP asked for encrypted SRTCP; a packet cannot take that back (RFC 4568 6.3.2)."""
    from cryptography.hazmat.primitives import hashes, hmac
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.talk(range(1))
    master = ends.receive_keys.keys[0].key_salt.reveal()
    seed = bytearray(master[16:] + bytes(2))
    seed[7] ^= 4
    stream = Cipher(algorithms.AES(master[:16]), modes.CTR(bytes(seed))).encryptor().update(bytes(20))
    tagger = hmac.HMAC(stream, hashes.SHA1())
    body = receiver_report() + bytes(4)
    tagger.update(body)
    ends.throw(body + tagger.finalize()[:10])
    assert ends.drops() == {DropCause.AUTH_FAILED: 1}
    assert received(ends.far) == []


PROTECTIONS = st.sampled_from([Protection.RTP, Protection.SRTP])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    loop=st.sampled_from(["interpreted"] if why_not_compiled() else ["interpreted", "compiled", "threads"]),
    access=PROTECTIONS,
    core=PROTECTIONS,
    mux=st.booleans(),
    packets=st.lists(
        st.tuples(
            st.sampled_from(["good", "noise", "flip", "replay", "cut", "stranger", "rtcp"]),
            st.sampled_from(list(Side)),
            st.binary(max_size=80),
        ),
        max_size=40,
    ),
)
def test_counters_add_up_whatever_is_thrown(loop, access, core, mux, packets):
    ends = Ends(loop=loop)
    try:
        far_keys = keys(), keys()
        ends.open(
            access=(ends.secured(ends.phone) if access is Protection.SRTP else ends.plain(ends.phone)),
            core=(
                ends.secured(ends.far, receive=far_keys[0], send=far_keys[1])
                if core is Protection.SRTP
                else ends.plain(ends.far, rtcp_mux=mux)
            ),
        )
        contexts = {
            Side.ACCESS: ends.sender if access is Protection.SRTP else None,
            Side.CORE: context(far_keys[0]) if core is Protection.SRTP else None,
        }
        stranger = ends.other()
        good = {Side.ACCESS: 0, Side.CORE: 0}
        last = dict.fromkeys(Side, b"")
        for kind, side, octets in packets:
            protector = contexts[side]
            packet, by = octets, None
            if kind in ("good", "stranger"):
                packet = rtp(good[side], SSRC + len(side), payload=octets)
                packet = protector.protect_rtp(packet) if protector else packet
                good[side] += 1
                by = stranger if kind == "stranger" else None
            elif kind == "rtcp":
                packet = protector.protect_rtcp(receiver_report()) if protector else receiver_report()
            elif kind == "replay":
                packet = last[side] or octets
            elif kind in ("flip", "cut") and last[side]:
                packet = bytearray(last[side])
                packet[len(octets) % len(packet)] ^= 1
                packet = bytes(packet if kind == "flip" else packet[: len(packet) // 2])
            if kind == "good":
                last[side] = packet
            ends.throw(packet, side=side, by=by)
        ends.assert_balance()
        for side in Side:
            assert ends.statistics(side).packets_in + ends.statistics(side).rtcp_in == sum(
                1 for _, where, _ in packets if where is side
            )
    finally:
        ends.close()


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 5245", "18.5.1")
@pytest.mark.parametrize("protection", ["secured", "plain"])
def test_media_goes_to_no_one_who_never_spoke(ends: Ends, protection: str):
    victim = ends.other()
    waiting = {"remote": victim.getsockname(), "latching": Latching.LATCH, "await_media": True}
    ends.open(getattr(ends, protection)(ends.phone, **waiting))
    for sequence in range(20):
        ends.throw(rtp(sequence, 0xFA5), side=Side.CORE)
    ends.far.sendto(receiver_report(), ends.rtcp_port(Side.CORE))
    ends.step()
    assert received(victim) == received(ends.phone) == []
    assert ends.drops(Side.CORE)[DropCause.NOT_LATCHED] == 20
    packet = rtp(0) if protection == "plain" else ends.sender.protect_rtp(rtp(0))
    ends.throw(packet)
    assert received(ends.far) == [rtp(0)]
    ends.throw(rtp(20, 0xFA5), side=Side.CORE)
    assert len(received(ends.phone)) == 1
    assert received(victim) == []


@pytest.mark.attack("T3")
def test_a_move_to_a_stranger_sends_nothing_there(ends: Ends):
    ends.open(ends.plain(ends.phone, latching=Latching.LATCH))
    ends.throw(rtp(0))
    victim = ends.other()
    moved = replace(ends.access, remote=victim.getsockname(), latching=Latching.RELATCH, await_media=True)
    ends.modify(Side.ACCESS, moved)
    received(ends.phone)
    ends.throw(rtp(1, 0xFA5), side=Side.CORE)
    assert received(victim) == received(ends.phone) == []
