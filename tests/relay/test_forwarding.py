"""What comes in on one side leaves on the other, in the form that side wants."""

import socket
from dataclasses import replace

import pytest

from keying.suites import SUITES
from media.relay import (
    BadStreamConfigError,
    DropCause,
    DuplicateStreamError,
    Latching,
    Mode,
    Protection,
    RelayUnavailableError,
    Side,
    SideConfig,
    StreamConfig,
    UnknownStreamError,
)
from media.relay.libsrtp import SUPPORTED_SUITES
from tests.relay.ends import HOST, Ends, context, keys, received, receiver_report, rtp, udp


@pytest.mark.clause("TS 33.328", "C-1", "C-2", "C-3", "CR-4")
@pytest.mark.clause("RFC 6188", "3.1", "4")
@pytest.mark.clause("RFC 7714", "12")
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_agrees_with_the_reference_in_both_directions(ends: Ends, suite: str):
    ends.receive_keys, ends.send_keys = keys(suite), keys(suite)
    ends.open()
    ends.talk(range(10))
    ends.answer(range(10))
    ends.phone.sendto(ends.sender.protect_rtcp(receiver_report()), ends.rtcp_port(Side.ACCESS))
    ends.assert_balance()
    assert ends.statistics().suite == suite


def test_relay_carries_every_suite_the_signalling_offers():
    assert set(SUPPORTED_SUITES) == set(SUITES)


@pytest.mark.clause("TS 33.328", "C-6")
@pytest.mark.clause("RFC 3711", "3.1")
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("mki_length", [1, 4, 128])
def test_mki_is_read_and_written_as_the_reference_does(ends: Ends, suite: str, mki_length: int):
    ends.receive_keys, ends.send_keys = (
        keys(suite, mki=1, mki_length=mki_length),
        keys(suite, mki=2, mki_length=mki_length),
    )
    ends.open()
    ends.talk(range(5))
    ends.answer(range(5))
    ends.assert_balance()


def test_srtp_on_both_sides_is_protected_anew(ends: Ends):
    far_receive, far_send = keys("AEAD_AES_128_GCM"), keys("AEAD_AES_128_GCM")
    ends.open(core=ends.secured(ends.far, receive=far_receive, send=far_send))
    hears = context(far_send)
    for sequence in range(5):
        ends.throw(ends.sender.protect_rtp(rtp(sequence)))
        (packet,) = received(ends.far)
        assert hears.unprotect_rtp(packet) == rtp(sequence)
    ends.assert_balance()


def test_plain_rtp_on_both_sides_passes_unchanged(ends: Ends):
    ends.open(access=ends.plain(ends.phone))
    for sequence in range(5):
        ends.throw(rtp(sequence))
    assert received(ends.far) == [rtp(sequence) for sequence in range(5)]
    ends.assert_balance()


@pytest.mark.clause("TS 33.328", "7.2.2", "7.3.1-1")
def test_opaque_stream_passes_any_octets_untouched_both_ways(ends: Ends):
    ends.open(
        access=ends.plain(ends.phone, protection=Protection.OPAQUE),
        core=ends.plain(ends.far, protection=Protection.OPAQUE),
    )
    packets = [b"\x00", b"\x16\xfe\xfd not ours to read", context(keys()).protect_rtp(rtp(1)), bytes(1400)]
    for packet in packets:
        ends.throw(packet)
        ends.throw(packet, side=Side.CORE)
    assert received(ends.far) == packets
    assert received(ends.phone) == packets
    ends.assert_balance()


def test_nothing_of_an_opaque_stream_is_taken_for_rtcp(ends: Ends):
    opaque = {"protection": Protection.OPAQUE, "rtcp_mux": True}
    ends.open(access=ends.plain(ends.phone, **opaque), core=ends.plain(ends.far, **opaque))
    ends.throw(receiver_report() + bytes(9300))
    ends.throw(receiver_report(), by=ends.other())
    assert ends.drops() == {DropCause.OVERSIZE: 1, DropCause.WRONG_SOURCE: 1}
    assert (ends.statistics().packets_in, ends.statistics().rtcp_in) == (2, 0)


def test_opaque_side_cannot_meet_a_side_that_is_read(ends: Ends):
    with pytest.raises(BadStreamConfigError):
        ends.open(access=ends.plain(ends.phone, protection=Protection.OPAQUE))


@pytest.mark.parametrize("shape", ["csrc", "extension", "padding"])
def test_rtp_headers_of_every_shape_pass(ends: Ends, shape: str):
    ends.open()
    ends.talk(range(3))
    first, more = {
        "csrc": (0x82, bytes(8)),
        "extension": (0x90, b"\xbe\xde\x00\x01abcd"),
        "padding": (0xA0, b"\x00\x01"),
    }[shape]
    packet = rtp(3, payload=more + b"speech\x01", first=first)
    ends.throw(ends.sender.protect_rtp(packet))
    assert received(ends.far) == [packet]


@pytest.mark.clause("RFC 3550", "11")
def test_rtp_port_is_even_and_rtcp_the_next(ends: Ends):
    ends.open()
    for local in ends.local.values():
        assert local.port % 2 == 0
        assert local.rtcp_port == local.port + 1


@pytest.mark.clause("TS 33.328", "C-9")
@pytest.mark.clause("RFC 3711", "3.4")
def test_rtcp_is_protected_towards_the_phone_and_plain_in_the_core(ends: Ends):
    phone_rtcp, far_rtcp = ends.other(), ends.other()
    ends.open(
        access=ends.secured(ends.phone, remote_rtcp=phone_rtcp.getsockname()),
        core=ends.plain(ends.far, remote_rtcp=far_rtcp.getsockname()),
    )
    phone_rtcp.sendto(ends.sender.protect_rtcp(receiver_report()), ends.rtcp_port(Side.ACCESS))
    ends.step()
    assert received(far_rtcp) == [receiver_report()]
    far_rtcp.sendto(receiver_report(7), ends.rtcp_port(Side.CORE))
    ends.step()
    (packet,) = received(phone_rtcp)
    assert ends.hearer.unprotect_rtcp(packet) == receiver_report(7)
    assert (ends.statistics().rtcp_in, ends.statistics(Side.CORE).rtcp_out) == (1, 1)
    ends.assert_balance()


@pytest.mark.clause("RFC 5761", "4", "5")
def test_muxed_rtcp_shares_the_port_of_its_side_only(ends: Ends):
    far_rtcp = ends.other()
    ends.open(
        access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, remote_rtcp=far_rtcp.getsockname())
    )
    assert ends.local[Side.ACCESS].rtcp_port == ends.local[Side.ACCESS].port
    ends.talk(range(2))
    ends.throw(ends.sender.protect_rtcp(receiver_report()))
    assert received(far_rtcp) == [receiver_report()]
    far_rtcp.sendto(receiver_report(9), ends.rtcp_port(Side.CORE))
    ends.step()
    (packet,) = received(ends.phone)
    assert ends.hearer.unprotect_rtcp(packet) == receiver_report(9)
    assert ends.statistics().packets_in == 2
    ends.assert_balance()


def test_rtcp_without_a_port_opposite_is_counted(ends: Ends):
    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp=False))
    ends.talk(range(1))
    ends.throw(ends.sender.protect_rtcp(receiver_report()))
    assert ends.drops() == {DropCause.RTCP_OFF: 1}


GATES = {
    (Mode.SENDRECV, Mode.SENDRECV): (True, True),
    (Mode.RECVONLY, Mode.SENDONLY): (True, False),
    (Mode.SENDONLY, Mode.RECVONLY): (False, True),
    (Mode.RECVONLY, Mode.SENDRECV): (True, False),
    (Mode.SENDRECV, Mode.RECVONLY): (False, True),
    (Mode.INACTIVE, Mode.SENDRECV): (False, False),
    (Mode.SENDRECV, Mode.INACTIVE): (False, False),
    (Mode.INACTIVE, Mode.INACTIVE): (False, False),
}


@pytest.mark.parametrize("modes", GATES, ids=lambda modes: f"{modes[0]}-{modes[1]}")
def test_gates_let_through_what_both_modes_allow(ends: Ends, modes: tuple[Mode, Mode]):
    ends.open(access=ends.plain(ends.phone, mode=modes[0]), core=ends.plain(ends.far, mode=modes[1]))
    ends.throw(rtp(1))
    ends.throw(rtp(1), side=Side.CORE)
    inward, outward = GATES[modes]
    assert (bool(received(ends.far)), bool(received(ends.phone))) == (inward, outward)
    assert ends.drops() == ({} if inward else {DropCause.GATE_CLOSED: 1})
    assert ends.drops(Side.CORE) == ({} if outward else {DropCause.GATE_CLOSED: 1})
    ends.assert_balance()


def test_gate_is_closed_until_somebody_opens_it(ends: Ends):
    config = SideConfig(HOST, Protection.RTP, remote=ends.phone.getsockname())
    ends.open(access=config)
    ends.throw(rtp(1))
    assert ends.drops() == {DropCause.GATE_CLOSED: 1}
    ends.modify(Side.ACCESS, replace(config, mode=Mode.SENDRECV))
    ends.throw(rtp(2))
    assert received(ends.far) == [rtp(2)]


@pytest.mark.clause("TS 33.328", "7.4-10")
def test_roc_survives_a_hold_during_which_the_phone_keeps_sending(ends: Ends):
    ends.open()
    ends.talk([65000])
    ends.modify(Side.ACCESS, replace(ends.access, mode=Mode.SENDONLY))
    for sequence in range(65001, 65000 + 40000, 400):
        ends.throw(ends.sender.protect_rtp(rtp(sequence)))
    assert set(ends.drops()) == {DropCause.GATE_CLOSED}
    ends.modify(Side.ACCESS, replace(ends.access, mode=Mode.SENDRECV))
    ends.throw(ends.sender.protect_rtp(rtp(65000 + 40001)))
    assert len(received(ends.far)) == 1
    assert ends.engine.roc("s", Side.ACCESS, 0x0DECADE0, received=True) == 1


def test_stream_may_get_its_second_side_later(ends: Ends):
    ends.engine.add(StreamConfig("s", {Side.ACCESS: ends.plain(ends.phone)}))
    local = ends.engine.modify("s", Side.CORE, ends.plain(ends.far))
    ends.far.sendto(rtp(1), (local.ip, local.port))
    ends.step()
    assert received(ends.phone) == [rtp(1)]


def test_one_side_alone_forwards_nothing_and_counts(ends: Ends):
    ends.local = ends.engine.add(StreamConfig("s", {Side.ACCESS: ends.plain(ends.phone)}))
    ends.throw(rtp(1))
    assert ends.drops() == {DropCause.GATE_CLOSED: 1}


def test_removed_stream_gives_its_counters_and_its_ports_back(ends: Ends):
    ends.open()
    ends.talk(range(3))
    final = ends.engine.remove("s")
    assert final.sides[Side.ACCESS].packets_in == 3
    assert ends.engine.stream_ids == []
    again = udp(HOST, ends.port(Side.ACCESS)[1])
    again.close()
    with pytest.raises(UnknownStreamError):
        ends.engine.remove("s")


def test_released_port_rests_ten_seconds():
    from media.relay import PortsExhaustedError
    from media.relay.sockets import PortPool
    from tests.relay.ends import Clock

    clock = Clock()
    with udp() as probe:
        first = probe.getsockname()[1] // 2 * 2
    pool = PortPool(clock, (first, first + 1))
    rtp_socket, rtcp_socket = pool.open(HOST, pair=True, dscp=0)
    assert rtcp_socket is not None
    address = rtp_socket.getsockname()
    rtp_socket.close()
    rtcp_socket.close()
    pool.release(address)
    with pytest.raises(PortsExhaustedError):
        pool.open(HOST, pair=True, dscp=0)
    clock.advance(10.5)
    for sock in pool.open(HOST, pair=True, dscp=0):
        assert sock is not None
        sock.close()


def test_nobody_else_can_bind_a_port_of_the_relay(ends: Ends):
    ends.open()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind(ends.port(Side.ACCESS))


def test_name_is_taken_once(ends: Ends):
    ends.open()
    with pytest.raises(DuplicateStreamError):
        ends.open()


def test_draining_relay_takes_no_new_stream_and_keeps_the_old(ends: Ends):
    ends.open()
    assert ends.engine.drain() == 1
    with pytest.raises(RelayUnavailableError):
        ends.engine.add(StreamConfig("other", {Side.ACCESS: ends.plain(ends.phone)}))
    ends.talk(range(2))


def test_dscp_is_on_what_leaves(ends: Ends):
    ends.open(core=ends.plain(ends.far, dscp=46))
    ends.far.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    ends.throw(ends.sender.protect_rtp(rtp(1)))
    _, ancillary, _, _ = ends.far.recvmsg(2048, 64)
    assert ancillary[0][2][0] >> 2 == 46


def test_ipv6_side_joins_an_ipv4_side(ends: Ends):
    try:
        far = udp("::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    ends.others.append(far)
    config = SideConfig("::1", Protection.RTP, remote=far.getsockname()[:2], mode=Mode.SENDRECV)
    ends.open(core=config)
    ends.throw(ends.sender.protect_rtp(rtp(1)))
    assert received(far) == [rtp(1)]
    far.sendto(rtp(2), ends.port(Side.CORE))
    ends.step()
    assert ends.hearer.unprotect_rtp(received(ends.phone)[0]) == rtp(2)


def test_address_of_another_ip_version_is_refused(ends: Ends):
    with pytest.raises(BadStreamConfigError):
        ends.open(core=replace(ends.plain(ends.far), remote=("::1", 4000)))


def test_peer_at_the_last_port_has_no_rtcp_port_above_it(ends: Ends):
    """Whoever signals port 65535 must not end the packet loop with the first RTCP that goes there."""
    ends.open(core=ends.plain(ends.far, remote=(HOST, 65535)))
    ends.throw(ends.sender.protect_rtp(rtp(0)))
    ends.phone.sendto(ends.sender.protect_rtcp(receiver_report()), ends.rtcp_port(Side.ACCESS))
    ends.step()
    assert ends.drops()[DropCause.NOT_LATCHED] == 1
    ends.assert_balance()


def test_ipv6_peer_is_known_however_its_address_was_written(loop: str):
    ends = Ends("::1", loop=loop)
    signalled = "0:0:0:0:0:0:0:1", ends.phone.getsockname()[1]
    ends.open(access=ends.plain(ends.phone, remote=signalled, latching=Latching.LATCH, await_media=True))
    ends.throw(rtp(0))
    assert received(ends.far) == [rtp(0)]
    assert ends.statistics().latched == ends.phone.getsockname()[:2]
    ends.close()


@pytest.mark.parametrize("host", ["", "phone.example", "localhost", "127.0.0.1.", "fe80::1%lo", "x" * 300, "\0"])
def test_peer_is_an_ip_address_and_never_a_name_to_be_looked_up(ends: Ends, host: str):
    with pytest.raises(BadStreamConfigError):
        ends.open(core=ends.plain(ends.far, remote=(host, 4000)))
    with pytest.raises(BadStreamConfigError):
        ends.open(core=ends.plain(ends.far, remote_rtcp=(host, 4000)))


def test_tap_mirrors_both_sides_as_on_the_wire(ends: Ends):
    ends.open()
    ends.engine.tap("s", enabled=True)
    protected = ends.sender.protect_rtp(rtp(1))
    ends.throw(protected)
    came, left = ends.mirrored
    assert (came.side, came.payload, came.source) == (Side.ACCESS, protected, ends.phone.getsockname())
    assert (left.side, left.payload, left.destination) == (Side.CORE, rtp(1), ends.far.getsockname())
    ends.throw(protected)
    assert ends.mirrored[-1].cause is DropCause.REPLAYED
    ends.engine.tap("s", enabled=False)
    received(ends.far)
    ends.talk([2])
    assert len(ends.mirrored) == 3


def test_first_packet_of_a_source_that_sent_rtcp_before_is_its_first(ends: Ends):
    ends.open(access=ends.plain(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.throw(receiver_report())
    for sequence in (1, 2):
        ends.throw(rtp(sequence))
    assert received(ends.far) == [receiver_report(), rtp(1), rtp(2)]
    assert ends.statistics().lost == 0


def test_loss_is_counted_from_sequence_numbers(ends: Ends):
    ends.open()
    ends.talk([65530, 65531, 65534, 65535, 65536, 65540])
    assert ends.statistics().lost == 5


def burst(ends: Ends, packets: list[bytes], side: Side = Side.ACCESS) -> None:
    """Let packets queue up before the loop comes to them."""
    for packet in packets:
        (ends.phone if side is Side.ACCESS else ends.far).sendto(packet, ends.port(side))
    ends.step()


@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM", "AES_192_CM_HMAC_SHA1_80"])
def test_queue_of_packets_passes_in_order_both_ways(ends: Ends, suite: str):
    ends.receive_keys, ends.send_keys = keys(suite), keys(suite)
    ends.open()
    ends.talk([0])
    ends.answer([0])
    for first in (1, 21, 41):
        burst(ends, [ends.sender.protect_rtp(rtp(number)) for number in range(first, first + 20)])
        assert received(ends.far) == [rtp(number) for number in range(first, first + 20)]
        burst(ends, [rtp(number, 0xFA5) for number in range(first, first + 20)], Side.CORE)
        heard = [ends.hearer.unprotect_rtp(packet) for packet in received(ends.phone)]
        assert heard == [rtp(number, 0xFA5) for number in range(first, first + 20)]
    ends.assert_balance()
    assert ends.statistics().lost == 0


def test_queue_of_packets_of_all_sizes_passes_in_order(ends: Ends):
    ends.open()
    ends.talk([0])
    packets = [rtp(number, payload=bytes([number]) * (10 + number // 3 % 4 * 400)) for number in range(1, 33)]
    burst(ends, [ends.sender.protect_rtp(packet) for packet in packets])
    assert received(ends.far) == packets
    sizes = ends.statistics(Side.CORE).octets_out
    assert sizes == sum(map(len, packets)) + len(rtp(0))
    ends.assert_balance()


@pytest.mark.attack("T3")
def test_bad_packets_in_a_queue_take_no_good_one_with_them(ends: Ends):
    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.talk([0])
    good = [ends.sender.protect_rtp(rtp(number)) for number in range(1, 12)]
    stranger = ends.sender.protect_rtp(rtp(5, 4242))
    report = ends.sender.protect_rtcp(receiver_report())
    queue = [
        good[0],
        good[0],
        good[1],
        b"",
        good[2],
        b"\x16" + bytes(50),
        good[3],
        bytes(5),
        good[4],
        rtp(90, payload=bytes(50)),
    ]
    queue += [good[5], stranger, good[6], report, good[7], good[2], good[8], good[9], good[10]]
    burst(ends, queue)
    heard = received(ends.far)
    assert [packet for packet in heard if packet[8:12] != b"\x00\x00\x10\x92" and packet[1] != 201] == [
        rtp(number) for number in range(1, 12)
    ]
    assert rtp(5, 4242) in heard
    assert receiver_report() in heard
    assert ends.drops() == {
        DropCause.REPLAYED: 2,
        DropCause.TOO_SHORT: 1,
        DropCause.DTLS: 1,
        DropCause.STUN: 1,
        DropCause.AUTH_FAILED: 1,
    }
    ends.assert_balance()


def test_queue_for_a_far_end_that_is_gone_is_counted(ends: Ends):
    ends.open()
    ends.talk([0])
    ends.far.close()
    burst(ends, [ends.sender.protect_rtp(rtp(number)) for number in range(1, 30)])
    assert ends.statistics().packets_in == 30
    ends.assert_balance()


def test_many_streams_at_once_are_sent_in_bursts_without_mixing(ends: Ends):
    ends.open()
    streams = {}
    for number in range(40):
        name, receive = f"m{number}", keys()
        config = ends.secured(ends.phone, receive=receive, send=keys())
        local = ends.engine.add(StreamConfig(name, {Side.ACCESS: config, Side.CORE: ends.plain(ends.far)}))
        streams[number] = (local[Side.ACCESS], context(receive))
    expected: list[bytes] = []
    heard: list[bytes] = []
    for sequence in range(9):
        for number, (local, sender) in streams.items():
            packet = rtp(sequence, number + 1, payload=bytes([number]) * 160)
            ends.phone.sendto(sender.protect_rtp(packet), (local.ip, local.port))
            expected.append(packet)
        if sequence in (0, 3, 6):
            ends.step()
            heard += received(ends.far)
    ends.step()
    heard += received(ends.far)
    assert sorted(heard) == sorted(expected)
    for statistics in ends.engine.statistics():
        if statistics.stream_id != "s":
            assert statistics.sides[Side.ACCESS].packets_in == statistics.sides[Side.CORE].packets_out == 9
