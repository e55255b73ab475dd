"""A packet loop takes over streams of one that died: ports, peers and ROC as they were, keys never again (RFC 3711 9)."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from keying.suites import SUITES
from media.relay import (
    Address,
    BadStreamConfigError,
    DropCause,
    KeyReusedError,
    Latching,
    PortsExhaustedError,
    RelayProcess,
    Resume,
    Side,
    SideConfig,
    StreamConfig,
    wire,
)
from media.relay.engine import RelayEngine
from sba.testing import async_test
from tests.relay.ends import SSRC, Ends, keys, received, receiver_report, rtp, udp
from tests.relay.test_keys import _set, wrapped
from tests.relay.test_process import plain, read

pytestmark = pytest.mark.attack("T9")


def resumed(ends: Ends, *, latched: bool = True) -> StreamConfig:
    """The stream as a packet loop after this one is to have it, by way of the wire."""
    sides = {Side.ACCESS: replace(ends.access, send=None, receive=None), Side.CORE: ends.core}
    used = [key for half in (ends.access.send, ends.access.receive) if half is not None for key in half.keys]
    told = {side: ends.statistics(side) for side in Side}
    again = {
        side: Resume(
            ends.port(side)[1],
            told[side].latched if latched else None,
            told[side].received,
            told[side].sent,
            told[side].rtcp_out,
        )
        for side in Side
    }
    digests = frozenset(sha256(key.key_salt.reveal()).digest() for key in used)
    return wire.read_stream(wire.write_stream(StreamConfig("s", sides, again, digests)))


def die(ends: Ends, *, latched: bool = True) -> None:
    """The packet loop is gone with all its ports; another one takes over."""
    config = resumed(ends, latched=latched)
    before, compiled = ends.port(Side.ACCESS), ends.engine.loop == "compiled"
    ends.engine.close()
    ends.engine = RelayEngine(
        clock=ends.clock, notify=ends.events.append, mirror=ends.mirrored.append, compiled=compiled
    )
    ends.local = ends.engine.add(config)
    ends.access = config.sides[Side.ACCESS]
    assert ends.port(Side.ACCESS) == before


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("RFC 3711", "3.3.1")
@pytest.mark.clause("TS 33.328", "7.4-3")
@pytest.mark.parametrize("suite", SUITES)
def test_roc_goes_on_under_fresh_keys_after_the_death_of_the_loop(ends: Ends, suite: str):
    ends.receive_keys, ends.send_keys = keys(suite), keys(suite)
    ends.open()
    wrapped(ends)
    die(ends)
    receive, send = keys(suite), keys(suite)
    ends.modify(Side.ACCESS, replace(ends.access, receive=receive, send=send))
    ends.sender.rekey_to(_set(receive))
    ends.hearer.rekey_to(_set(send))
    ends.talk([65551, 65560])
    ends.throw(rtp(65560, 0xFA5), side=Side.CORE)
    assert ends.hearer.unprotect_rtp(received(ends.phone)[0]) == rtp(65560, 0xFA5)
    assert ends.engine.roc("s", Side.ACCESS, SSRC, received=True) == 1
    assert ends.engine.roc("s", Side.ACCESS, 0xFA5, received=False) == 1


@pytest.mark.clause("RFC 4568", "7.1.4")
def test_a_wrap_while_there_was_no_loop_is_found(ends: Ends):
    ends.open()
    ends.talk([65000, 65500])
    ends.throw(rtp(65500, 0xFA5), side=Side.CORE)
    ends.hearer.unprotect_rtp(received(ends.phone)[0])
    die(ends)
    receive, send = keys(), keys()
    ends.modify(Side.ACCESS, replace(ends.access, receive=receive, send=send))
    ends.sender.rekey_to(_set(receive))
    ends.hearer.rekey_to(_set(send))
    ends.talk([65600])
    ends.throw(rtp(65600, 0xFA5), side=Side.CORE)
    assert ends.hearer.unprotect_rtp(received(ends.phone)[0]) == rtp(65600, 0xFA5)


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 3711", "9.1", "9.2")
def test_without_fresh_keys_nothing_passes_and_the_former_ones_are_refused(ends: Ends):
    ends.open()
    ends.talk([1, 2])
    recorded = ends.sender.protect_rtp(rtp(3))
    before = ends.access
    die(ends)
    ends.throw(recorded)
    ends.throw(rtp(3, 0xFA5), side=Side.CORE)
    assert received(ends.far) == received(ends.phone) == []
    assert ends.drops(Side.ACCESS) == {DropCause.NO_KEY: 1}
    assert ends.drops(Side.CORE) == {DropCause.NO_KEY: 1}
    for half in ({"send": before.send}, {"receive": before.receive}):
        with pytest.raises(KeyReusedError):
            ends.engine.modify("s", Side.ACCESS, replace(ends.access, **half))
        with pytest.raises(KeyReusedError):
            ends.engine.rekey("s", Side.ACCESS, **half)
    assert ends.statistics().received == {SSRC: (0, 2)}, "positions wait for keys, also over a second death"


@pytest.mark.clause("RFC 3711", "9.1")
def test_srtcp_index_goes_on_under_a_fresh_key_and_under_no_other(ends: Ends):
    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.talk([0])
    for _ in range(3):
        ends.throw(receiver_report(7), side=Side.CORE)
    assert [_srtcp_index(each) for each in received(ends.phone)] == [1, 2, 3]
    former = ends.send_keys
    die(ends)
    with pytest.raises(KeyReusedError):
        ends.engine.rekey("s", Side.ACCESS, send=former)
    ends.throw(receiver_report(7), side=Side.CORE)
    assert received(ends.phone) == [], "no SRTCP without a key"
    receive, send = keys(), keys()
    ends.modify(Side.ACCESS, replace(ends.access, receive=receive, send=send))
    ends.hearer.rekey_to(_set(send))
    for ssrc in (7, 8):
        ends.throw(receiver_report(ssrc), side=Side.CORE)
    packets = received(ends.phone)
    assert [_srtcp_index(packet) for packet in packets] == [4, 4], "of each SSRC, as no more is known"
    assert [ends.hearer.unprotect_rtcp(packet) for packet in packets] == [receiver_report(7), receiver_report(8)]
    assert ends.engine._streams["s"].sides[Side.ACCESS].sender.lifetime.srtcp_used == 3 + 3 + 2
    ends.modify(Side.ACCESS, replace(ends.access, receive=keys(), send=(third := keys())))
    ends.hearer.rekey_to(_set(third))
    ends.throw(receiver_report(7), side=Side.CORE)
    (packet,) = received(ends.phone)
    assert _srtcp_index(packet) == 5
    assert ends.hearer.unprotect_rtcp(packet) == receiver_report(7)


@pytest.mark.attack("T3")
def test_who_sent_ever_so_much_rtcp_does_not_hold_up_the_next_packet_loop(ends: Ends):
    ends.open(access=ends.secured(ends.phone, rtcp_mux=True), core=ends.plain(ends.far, rtcp_mux=True))
    ends.talk([0])
    config = resumed(ends)
    config = replace(config, resume={side: replace(each, srtcp_sent=1 << 40) for side, each in config.resume.items()})
    ends.engine.close()
    ends.engine = RelayEngine(clock=ends.clock, compiled=ends.engine.loop == "compiled")
    ends.local, ends.access = ends.engine.add(config), config.sides[Side.ACCESS]
    ends.modify(Side.ACCESS, replace(ends.access, receive=keys(), send=keys()))
    for ssrc in range(40):
        ends.throw(receiver_report(ssrc), side=Side.CORE)
    indices = [_srtcp_index(packet) for packet in received(ends.phone)]
    assert set(indices) == {4097}
    assert len(indices) <= 16


@pytest.mark.clause("RFC 3711", "9.1")
@pytest.mark.parametrize("direction", ["send", "receive"])
def test_a_side_that_was_sent_or_received_with_brings_no_key(ends: Ends, direction: str):
    ends.open()
    ends.talk([1])
    ends.throw(rtp(1, 0xFA5), side=Side.CORE)
    config = resumed(ends)
    forgetful = replace(config, used_keys=frozenset(), sides={**config.sides, Side.ACCESS: _keyed(ends, direction)})
    ends.engine.close()
    other = RelayEngine(clock=ends.clock, compiled=ends.engine.loop == "compiled")
    with pytest.raises(BadStreamConfigError):
        other.add(forgetful)
    assert other.stream_ids == []
    other.close()


def _keyed(ends: Ends, direction: str) -> SideConfig:
    """The access side with what it had in one direction."""
    return replace(ends.access, **{"send": None, "receive": None, direction: getattr(ends.access, direction)})


def _srtcp_index(packet: bytes) -> int:
    return int.from_bytes(packet[-14:-10], "big") & 0x7FFFFFFF


@pytest.mark.attack("T3")
def test_replay_of_what_was_sent_under_the_former_key_fails_under_the_fresh_one(ends: Ends):
    ends.open()
    old = [ends.sender.protect_rtp(rtp(number)) for number in range(1, 6)]
    for packet in old:
        ends.throw(packet)
    received(ends.far)
    die(ends)
    receive = keys()
    ends.modify(Side.ACCESS, replace(ends.access, receive=receive, send=keys()))
    for packet in old:
        ends.throw(packet)
    assert received(ends.far) == []
    assert ends.statistics().auth_failures + ends.statistics().replays == 5


@pytest.mark.attack("T3")
@pytest.mark.parametrize("latched", [True, False])
def test_a_latched_peer_stays_the_peer(ends: Ends, latched: bool):
    ends.open(access=ends.plain(ends.phone, latching=Latching.LATCH, any_source=True, remote=(ends.host, 9)))
    ends.throw(rtp(1))
    assert received(ends.far) == [rtp(1)]
    die(ends, latched=latched)
    thief = ends.other()
    ends.throw(rtp(2), by=thief)
    taken = received(ends.far)
    assert taken == ([] if latched else [rtp(2)]), "with its address nobody else has a chance to be first"
    if latched:
        ends.throw(rtp(3, 0xFA5), side=Side.CORE)
        assert received(ends.phone) == [rtp(3, 0xFA5)], "media flows before the peer is heard again"
        assert ends.drops() == {DropCause.WRONG_SOURCE: 1}


def test_a_port_that_somebody_else_has_is_not_replaced_by_another(ends: Ends):
    ends.open(access=ends.plain(ends.phone))
    config = resumed(ends)
    other = RelayEngine(clock=ends.clock, compiled=ends.engine.loop == "compiled")
    with pytest.raises(PortsExhaustedError):
        other.add(config)
    assert other.stream_ids == []
    ends.engine.close()
    other.add(config)
    other.close()


def test_a_stream_goes_on_in_another_process_on_the_same_ports(loop: str):
    @async_test
    async def run() -> None:
        relay = await RelayProcess.start()
        phone, far = udp(), udp()
        config = StreamConfig("s", {Side.ACCESS: plain(phone), Side.CORE: plain(far)})
        local = await relay.add(config)
        died = asyncio.Event()
        relay.on_death = died.set
        os.kill(relay.pid, signal.SIGKILL)
        await asyncio.wait_for(died.wait(), 5)
        again = await RelayProcess.start()
        resume = {side: Resume(at.port) for side, at in local.items()}
        assert await again.add(replace(config, resume=resume)) == local
        phone.sendto(rtp(1), _at(local, Side.ACCESS))
        assert await read(far) == rtp(1)
        await again.close()
        phone.close()
        far.close()

    return run()


def _at(local: Mapping[Side, Any], side: Side) -> Address:
    return local[side].ip, local[side].port
