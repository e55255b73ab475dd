"""Keys over the life of a stream: re-keying, roll-over counters, lifetimes, reuse (RFC 4568 6.1, 7.1.4; RFC 3711 3.3.1)."""

import gc
import weakref
from dataclasses import replace

import pytest

from keying.suites import SUITES
from media.relay import (
    BadStreamConfigError,
    DropCause,
    KeyExpired,
    KeyReusedError,
    KeySet,
    Latching,
    MasterKey,
    Side,
    StreamConfig,
)
from media.relay.interface import Mode, Protection
from media.relay.libsrtp import PacketBuffer, Session
from media.relay.port import terms_of
from tests.relay.ends import SSRC, Ends, context, keys, received, receiver_report, rtp


def wrapped(ends: Ends) -> None:
    """Bring both directions of an open stream past a wrap of the sequence number."""
    ends.talk([65000, 65530, 65540, 65550])
    for sequence in (65000, 65530, 65540, 65550):
        ends.throw(rtp(sequence, 0xFA5), side=Side.CORE)
        ends.hearer.unprotect_rtp(received(ends.phone)[0])


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("RFC 3711", "3.3.1")
@pytest.mark.clause("TS 33.328", "7.4-3")
@pytest.mark.parametrize("suite", SUITES)
def test_roc_goes_on_over_a_rekey_on_the_same_address(ends: Ends, suite: str):
    ends.receive_keys, ends.send_keys = keys(suite), keys(suite)
    ends.open()
    wrapped(ends)
    receive, send = keys(suite), keys(suite)
    ends.modify(Side.ACCESS, replace(ends.access, receive=receive, send=send))
    ends.sender.rekey_to(_set(receive))
    ends.hearer.rekey_to(_set(send))
    ends.talk([65551, 65552])
    ends.throw(rtp(65551, 0xFA5), side=Side.CORE)
    assert ends.hearer.unprotect_rtp(received(ends.phone)[0]) == rtp(65551, 0xFA5)
    assert ends.engine.roc("s", Side.ACCESS, SSRC, received=True) == 1
    assert ends.engine.roc("s", Side.ACCESS, 0xFA5, received=False) == 1


@pytest.mark.clause("RFC 4568", "7.1.4")
def test_rekey_right_at_the_wrap_of_the_sequence_number_loses_nothing(ends: Ends):
    ends.open()
    ends.talk([65000, 65533, 65534])
    receive = keys()
    ends.engine.rekey("s", Side.ACCESS, receive=receive)
    ends.sender.rekey_to(_set(receive))
    ends.talk([65536, 65537])
    assert ends.engine.roc("s", Side.ACCESS, SSRC, received=True) == 1


def test_roc_goes_on_over_a_rekey_when_the_phone_has_come_from_elsewhere(ends: Ends):
    """SRTP may come from anywhere where nothing latches; what came so counts like what came from the signalled address."""
    ends.open(access=ends.secured(ends.phone, latching=Latching.OFF))
    ends.talk([65000, 65001, 65400])
    elsewhere = ends.other()
    for sequence in (65530, 65531, 65540, 66000, 66001):
        ends.throw(ends.sender.protect_rtp(rtp(sequence)), by=elsewhere)
    assert received(ends.far) == [rtp(sequence) for sequence in (65530, 65531, 65540, 66000, 66001)]
    statistics = ends.statistics()
    assert statistics.lost == 66001 - 65000 + 1 - 8
    ends.talk([66002])
    assert ends.statistics().lost == 66002 - 65000 + 1 - 9
    ends.throw(ends.sender.protect_rtp(rtp(66003)), by=elsewhere)
    assert received(ends.far) == [rtp(66003)]
    receive = keys()
    ends.engine.rekey("s", Side.ACCESS, receive=receive)
    ends.sender.rekey_to(_set(receive))
    ends.talk(range(66004, 66010))
    ends.assert_balance()


def test_rekey_places_the_roc_at_what_came_from_elsewhere(ends: Ends):
    ends.open(access=ends.secured(ends.phone, latching=Latching.OFF))
    ends.talk([64000, 64001])
    elsewhere = ends.other()
    for sequence in (65530, 65540, 65541):
        ends.throw(ends.sender.protect_rtp(rtp(sequence)), by=elsewhere)
    assert len(received(ends.far)) == 3
    receive = keys()
    ends.engine.rekey("s", Side.ACCESS, receive=receive)
    ends.sender.rekey_to(_set(receive))
    ends.talk(range(65542, 65550))


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-3")
def test_new_remote_address_with_a_new_key_starts_a_new_context(ends: Ends):
    ends.open()
    wrapped(ends)
    moved = ends.other()
    receive = keys()
    ends.modify(Side.ACCESS, replace(ends.access, remote=moved.getsockname(), receive=receive))
    fresh = context(receive)
    ends.throw(fresh.protect_rtp(rtp(10)), by=moved)
    assert received(ends.far) == [rtp(10)]
    assert ends.engine.roc("s", Side.ACCESS, SSRC, received=True) == 0
    ends.throw(rtp(65551, 0xFA5), side=Side.CORE)
    assert ends.hearer.unprotect_rtp(received(moved)[0]) == rtp(65551, 0xFA5)


@pytest.mark.clause("RFC 4568", "7.1.4")
def test_new_remote_address_with_the_old_key_is_refused_and_changes_nothing(ends: Ends):
    ends.open()
    ends.talk(range(2))
    moved = ends.other()
    with pytest.raises(KeyReusedError):
        ends.engine.modify("s", Side.ACCESS, replace(ends.access, remote=moved.getsockname()))
    ends.talk(range(2, 4))
    ends.answer(range(2))


def test_hold_to_the_unspecified_address_is_no_move(ends: Ends):
    ends.open()
    ends.talk(range(2))
    ends.modify(Side.ACCESS, replace(ends.access, remote=("0.0.0.0", 9)))
    ends.modify(Side.ACCESS, replace(ends.access, remote=ends.phone.getsockname()))
    ends.talk(range(2, 4))


@pytest.mark.clause("TS 33.328", "7.4-2")
def test_unchanged_keys_keep_context_and_replay_list(ends: Ends):
    ends.open()
    packet = ends.sender.protect_rtp(rtp(0))
    ends.throw(packet)
    ends.modify(Side.ACCESS, replace(ends.access, dscp=10))
    ends.throw(packet)
    assert received(ends.far) == [rtp(0)]
    assert ends.drops() == {DropCause.REPLAYED: 1}


@pytest.mark.clause("TS 33.328", "7.4-5")
@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM", "AES_192_CM_HMAC_SHA1_80"])
def test_old_receive_key_works_for_five_seconds_more(ends: Ends, suite: str):
    ends.receive_keys = keys(suite)
    ends.open()
    ends.talk(range(3))
    new = keys(suite)
    ends.engine.rekey("s", Side.ACCESS, receive=new)
    ends.talk(range(3, 5))
    after = context(new)
    ends.throw(after.protect_rtp(rtp(5)))
    ends.clock.advance(4.9)
    ends.throw(ends.sender.protect_rtp(rtp(6)))
    assert received(ends.far) == [rtp(5), rtp(6)]
    ends.clock.advance(0.2)
    ends.engine.tick()
    ends.throw(ends.sender.protect_rtp(rtp(7)))
    assert ends.drops() == {DropCause.AUTH_FAILED: 1}
    ends.throw(after.protect_rtp(rtp(8)))
    assert received(ends.far) == [rtp(8)]
    ends.assert_balance()


def test_replay_of_an_old_key_packet_during_the_grace_time_is_dropped(ends: Ends):
    ends.open()
    packet = ends.sender.protect_rtp(rtp(0))
    ends.throw(packet)
    ends.engine.rekey("s", Side.ACCESS, receive=keys())
    ends.throw(packet)
    assert received(ends.far) == [rtp(0)]
    assert ends.drops() == {DropCause.REPLAYED: 1}


@pytest.mark.clause("RFC 3711", "3.4")
def test_srtcp_index_goes_on_over_a_rekey(ends: Ends):
    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.talk([0])
    for _ in range(3):
        ends.throw(receiver_report(7), side=Side.CORE)
    first = received(ends.phone)
    new = keys()
    ends.engine.rekey("s", Side.ACCESS, send=new)
    ends.throw(receiver_report(7), side=Side.CORE)
    (packet,) = received(ends.phone)
    assert [int.from_bytes(each[-14:-10], "big") & 0x7FFFFFFF for each in (*first, packet)] == [1, 2, 3, 4]


@pytest.mark.clause("RFC 4568", "6.1", "7.1.2")
@pytest.mark.clause("RFC 3711", "9.2")
@pytest.mark.clause("TS 33.328", "7.4-8")
@pytest.mark.attack("T2")
def test_used_key_never_comes_back(ends: Ends):
    ends.open()
    first = ends.receive_keys
    ends.engine.rekey("s", Side.ACCESS, receive=keys())
    for again in ({"receive": first}, {"send": first}, {"send": ends.send_keys}):
        with pytest.raises(KeyReusedError):
            ends.engine.rekey("s", Side.ACCESS, **again)


@pytest.mark.clause("RFC 4568", "7.1.2")
def test_one_key_for_both_directions_is_refused(ends: Ends):
    with pytest.raises(KeyReusedError):
        ends.open(access=ends.secured(ends.phone, send=ends.receive_keys))


@pytest.mark.clause("RFC 4568", "6.1")
@pytest.mark.clause("TS 33.328", "7.4-4")
def test_no_packet_passes_beyond_the_lifetime_of_a_key(ends: Ends):
    ends.open(access=ends.secured(ends.phone, receive=keys(lifetime=10), send=keys(lifetime=5)))
    ends.talk(range(10))
    ends.engine.tick()
    assert KeyExpired("s", Side.ACCESS, near=False) in ends.events
    ends.throw(ends.sender.protect_rtp(rtp(10)))
    assert ends.drops() == {DropCause.KEY_EXPIRED: 1}
    ends.answer(range(5))
    ends.throw(rtp(5, 0xFA5), side=Side.CORE)
    assert received(ends.phone) == []
    assert ends.drops(Side.CORE) == {DropCause.KEY_EXPIRED: 1}
    ends.assert_balance()


@pytest.mark.clause("RFC 4568", "6.1")
def test_lifetime_that_begins_on_the_quick_way_ends_in_time(ends: Ends):
    ends.open(access=ends.secured(ends.phone, receive=keys(lifetime=3000)))
    ends.talk(range(1))
    for first in range(1, 3200, 40):
        for sequence in range(first, first + 40):
            ends.phone.sendto(ends.sender.protect_rtp(rtp(sequence)), ends.port(Side.ACCESS))
        ends.step()
        ends.clock.advance(0.8)
        received(ends.far)
    assert ends.statistics(Side.CORE).packets_out == 3000
    assert ends.drops() == {DropCause.KEY_EXPIRED: 201}
    ends.assert_balance()


@pytest.mark.parametrize("loop", ["compiled", "threads"], indirect=True)
def test_key_with_the_usual_lifetime_goes_the_quick_way(ends: Ends):
    """2^20 packets, as in the examples of RFC 4568."""
    ends.open(access=ends.secured(ends.phone, receive=keys(lifetime=1 << 20), send=keys(lifetime=1 << 20)))
    ends.talk(range(1))
    assert all(flow._carried for flow in ends.engine._by_descriptor.values())


@pytest.mark.clause("TS 33.328", "7.4-4")
def test_rekey_before_the_end_of_a_lifetime_keeps_the_call_alive(ends: Ends):
    ends.open(access=ends.secured(ends.phone, receive=keys(lifetime=10)))
    ends.talk(range(9))
    ends.engine.tick()
    ends.engine.tick()
    assert ends.events.count(KeyExpired("s", Side.ACCESS, near=True)) == 1
    new = keys()
    ends.engine.rekey("s", Side.ACCESS, receive=new)
    ends.sender.rekey_to(_set(new))
    ends.talk(range(9, 20))


def test_forged_packets_do_not_use_up_a_lifetime(ends: Ends):
    ends.open(access=ends.secured(ends.phone, receive=keys(lifetime=10)))
    ends.talk(range(2))
    for sequence in range(2, 40):
        ends.throw(rtp(sequence, payload=bytes(40)))
    ends.talk(range(40, 48))


@pytest.mark.clause("RFC 4568", "6.1")
@pytest.mark.parametrize("octets", [0, 16, 29, 31, 46])
def test_key_of_a_wrong_length_is_refused(ends: Ends, octets: int):
    from keying.secret import Secret

    wrong = KeySet(SUITES["AES_CM_128_HMAC_SHA1_80"], (MasterKey(Secret(bytes(octets))),))
    with pytest.raises(BadStreamConfigError) as refused:
        ends.open(access=ends.secured(ends.phone, receive=wrong))
    assert str(octets) in str(refused.value)


def test_several_keys_without_mki_are_refused(ends: Ends):
    both = KeySet(SUITES["AES_CM_128_HMAC_SHA1_80"], (*keys().keys, *keys().keys))
    with pytest.raises(BadStreamConfigError):
        ends.open(access=ends.secured(ends.phone, receive=both))


def test_refused_stream_leaves_no_port_open(ends: Ends):
    with pytest.raises(KeyReusedError):
        ends.open(access=ends.secured(ends.phone, send=ends.receive_keys))
    assert ends.engine.stream_ids == []
    ends.access = ends.core = ends.plain(ends.phone)
    ends.receive_keys, ends.send_keys = keys(), keys()
    ends.open()
    ends.talk(range(2))


@pytest.mark.attack("T8")
def test_no_key_shows_in_any_text_form(ends: Ends):
    ends.open()
    texts = repr((ends.access, ends.engine.statistics(), ends.engine.__dict__, ends.receive_keys))
    for of in (ends.receive_keys, ends.send_keys):
        octets = of.keys[0].key_salt.reveal()
        assert octets.hex() not in texts
        assert repr(octets)[2:-1] not in texts


def _set(of: KeySet):
    from media.srtp import MasterKey as ReferenceKey
    from media.srtp import MasterKeySet

    suite, octets = of.suite, of.keys[0].key_salt
    return MasterKeySet(
        [ReferenceKey(suite, octets.part(0, suite.key_length), octets.part(suite.key_length, suite.key_salt_length))]
    )


@pytest.mark.attack("T8")
def test_sessions_go_with_their_stream_without_a_collector(ends: Ends):
    """What refers to itself would keep keys for as long as nobody looks for cycles, in a packet loop for hours."""
    ends.open()
    ends.talk(range(3))
    ends.answer(range(3))
    side = ends.engine._streams["s"].sides[Side.ACCESS]
    gone = [weakref.ref(side.receiver.session), weakref.ref(side.sender.session)]
    del side
    ends.engine.rekey("s", Side.ACCESS, receive=keys(), send=keys())
    gc.disable()
    try:
        ends.engine.remove("s")
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.attack("T8")
def test_master_keys_are_not_kept_once_the_sessions_have_them(ends: Ends):
    ends.open()
    ends.talk(range(3))
    received, sent = keys(), keys()
    ends.engine.rekey("s", Side.ACCESS, receive=received, send=sent)
    ends.modify(Side.ACCESS, ends.secured(ends.phone, receive=received, send=sent))  # the same again: nothing changes
    masters = [keys.keys[0] for keys in (received, sent)]
    ends.access = ends.core
    del received, sent
    assert [[each for each in gc.get_referrers(one) if isinstance(each, tuple)] for one in masters] == [[], []]


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)], ids=len)
def test_used_key_that_is_no_digest_is_refused(ends: Ends, digest: bytes):
    """It would shift those after it, and a key that was used would not be found among them."""
    sides = {Side.ACCESS: ends.secured(ends.phone), Side.CORE: ends.plain(ends.far)}
    with pytest.raises(BadStreamConfigError):
        ends.engine.add(StreamConfig("s", sides, used_keys=frozenset({bytes(32), digest})))
    assert not ends.engine.stream_ids


@pytest.mark.attack("T8")
def test_a_transform_outlives_its_session_and_frees_it_in_the_end():
    session, buffer = Session(keys(), sender=True), PacketBuffer(64)
    gone, transform = weakref.ref(session), session.rtp
    del session
    buffer.load(rtp(1))
    assert transform(buffer.data, buffer.length) == 0
    assert gone() is not None
    del transform
    assert gone() is None


@pytest.mark.attack("T8")
def test_what_is_kept_of_a_configuration_is_shared_and_names_no_peer_and_no_key(ends: Ends):
    ends.open()
    others = {Side.ACCESS: replace(ends.access, receive=keys(), send=keys()), Side.CORE: ends.core}
    ends.engine.add(StreamConfig("t", others))
    kept = [ends.engine._streams[name].sides[Side.ACCESS].config for name in ("s", "t")]
    assert kept[0] is kept[1]
    assert (kept[0].remote, kept[0].remote_rtcp, kept[0].send, kept[0].receive) == (None, None, None, None)
    vague = terms_of(replace(ends.access, protection="SRTP", mode="sendrecv", latching="latch"))  # type: ignore[arg-type]
    assert (vague.protection, vague.mode, vague.latching) == (Protection.SRTP, Mode.SENDRECV, Latching.LATCH)
    assert all(type(each) is not str for each in (vague.protection, vague.mode, vague.latching))
