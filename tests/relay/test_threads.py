"""Threads that carry packets: nothing is lost or mixed up while everything about their streams changes."""

from __future__ import annotations

import gc
import os
import random
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from media.relay import (
    DropCause,
    Latching,
    LocalAddress,
    Mode,
    Protection,
    RelayProcess,
    RelayUnavailableError,
    Side,
    SideConfig,
    StreamConfig,
    Workers,
)
from media.relay.engine import RelayEngine
from sba.testing import async_test
from tests.relay.ends import HOST, Ends, context, keys, received, rtp, udp

STREAMS = 12


class Talk:
    """A stream with real time around it: a phone that sends SRTP, a far end that hears RTP."""

    def __init__(self, engine: RelayEngine, name: str) -> None:
        self.name, self._engine = name, engine
        self.phone, self.far = udp(), udp()
        self.keys = keys()
        self.access = SideConfig(
            HOST,
            Protection.SRTP,
            remote=self.phone.getsockname(),
            mode=Mode.SENDRECV,
            latching=Latching.LATCH,
            receive=self.keys,
            send=keys(),
        )
        self.core = SideConfig(HOST, Protection.RTP, remote=self.far.getsockname(), mode=Mode.SENDRECV)
        self.local = engine.add(StreamConfig(name, {Side.ACCESS: self.access, Side.CORE: self.core}))
        self.sender = context(self.keys)
        self.sent = 0
        self.heard: list[bytes] = []

    def speak(self) -> None:
        local = self.local[Side.ACCESS]
        self.phone.sendto(self.sender.protect_rtp(rtp(self.sent)), (local.ip, local.port))
        self.sent += 1

    def listen(self) -> None:
        self.heard += received(self.far)

    def close(self) -> None:
        self.phone.close()
        self.far.close()


@pytest.fixture
def engine(compiled: None) -> Iterator[RelayEngine]:
    made = RelayEngine(compiled=True, workers=Workers(2))
    yield made
    made.close()


def tasks_of(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def stepping(engine: RelayEngine, talks: list[Talk], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        engine.step(0.002)
        if all(len(talk.heard) == talk.sent for talk in talks):
            return
        for talk in talks:
            talk.listen()


@pytest.mark.attack("T3")
def test_streams_change_while_their_packets_are_carried(engine: RelayEngine) -> None:
    """Commands of every kind while two threads carry packets of all streams, and strangers knock."""
    chance = random.Random(20)
    talks = [Talk(engine, f"s{number}") for number in range(STREAMS)]
    stranger = udp()
    passing = 0
    for turn in range(400):
        for talk in talks:
            for _ in range(3):
                talk.speak()
        local = talks[turn % STREAMS].local[Side.ACCESS]
        for _ in range(5):
            stranger.sendto(rtp(turn, payload=bytes(60)), (local.ip, local.port))
        chosen = chance.choice(talks)
        match chance.randrange(6):
            case 0:
                engine.tap(chosen.name, enabled=True)
            case 1:
                engine.tap(chosen.name, enabled=False)
            case 2:
                engine.modify(chosen.name, Side.CORE, replace(chosen.core, dscp=chance.randrange(64)))
            case 3:
                engine.statistics()
            case 4:
                engine.tick()
            case 5:
                name = f"passing{passing}"
                passing += 1
                short = Talk(engine, name)
                short.speak()
                stepping(engine, [short], 5)
                assert [len(short.heard), engine.remove(name).sides[Side.CORE].packets_out] == [1, 1]
                short.close()
        while engine.step(0.0):  # a stream that is tapped goes the careful way
            pass
        for talk in talks:
            talk.listen()
    stepping(engine, talks, 10)
    while not engine.settled():
        engine.step(0.01)
    for talk in talks:
        assert talk.heard == [rtp(number) for number in range(talk.sent)], talk.name
    for each in engine.statistics():
        access, core = each.sides[Side.ACCESS], each.sides[Side.CORE]
        assert access.packets_in == core.packets_out + access.dropped
        assert set(access.drops) <= {DropCause.WRONG_SOURCE}
    for talk in talks:
        talk.close()
    stranger.close()


def test_keys_change_under_way(engine: RelayEngine) -> None:
    talk = Talk(engine, "s")
    old = talk.sender
    for turn in range(30):
        for _ in range(5):
            talk.speak()
        stepping(engine, [talk], 5)
        fresh = keys()
        engine.rekey("s", Side.ACCESS, receive=fresh, send=keys())
        talk.sender = context(fresh)
        assert len(talk.heard) == talk.sent, turn
    assert old is not talk.sender
    (statistics,) = engine.statistics()
    assert statistics.sides[Side.CORE].packets_out == 150
    assert statistics.sides[Side.ACCESS].drops == {}
    talk.close()


@pytest.mark.attack("T3")
@pytest.mark.parametrize("loop", ["compiled", "threads"], indirect=True)
def test_packets_that_need_a_closer_look_are_limited_and_counted(ends: Ends) -> None:
    """The limit: 256 at once, 500 a second; the clock of this test stands still."""
    ends.open()
    ends.talk(range(1))
    noise = [b"\x00\x01\x00\x00" + bytes(16), b"\x16\xfe\xfd" + bytes(20), b"\x80", b"\xff" * 30]
    for number in range(1000):
        ends.throw(noise[number % 4])
    assert ends.drops() == {
        DropCause.STUN: 250,
        DropCause.DTLS: 250,
        DropCause.TOO_SHORT: 250,
        DropCause.NOT_RTP: 250,
    }
    for number in range(300):
        ends.throw(rtp(number, 0xBAD, payload=bytes(40)))
    assert ends.drops()[DropCause.RATE_LIMITED] == 300
    ends.talk(range(1, 5))
    ends.clock.advance(1)
    for number in range(300):
        ends.throw(rtp(number, 0xBAD, payload=bytes(40)))
    assert ends.drops()[DropCause.RATE_LIMITED] == 300 + 300 - 256
    assert ends.drops()[DropCause.AUTH_FAILED] == 256
    ends.talk(range(5, 9))
    ends.assert_balance()


@pytest.mark.attack("T3")
def test_signalled_peer_takes_its_port_back_while_strangers_are_refused(ends: Ends) -> None:
    """Who latched first from another port of the phone's host gives way to the phone (RFC 7362 5)."""
    config = ends.secured(ends.phone)
    faster = ends.other()
    ends.open(access=config)
    ends.throw(ends.sender.protect_rtp(rtp(0)), by=faster)
    assert ends.statistics().latched == faster.getsockname()
    for number in range(50):
        ends.throw(rtp(number, payload=bytes(40)), by=ends.other())
    assert ends.drops() == {DropCause.WRONG_SOURCE: 50}
    ends.throw(ends.sender.protect_rtp(rtp(1)))
    assert ends.statistics().latched == ends.phone.getsockname()
    ends.throw(ends.sender.protect_rtp(rtp(2)), by=faster)
    assert ends.drops() == {DropCause.WRONG_SOURCE: 51}
    assert received(ends.far) == [rtp(0), rtp(1)]
    ends.assert_balance()


@pytest.mark.parametrize("mux", [False, True])
def test_strangers_are_counted_by_what_they_send(ends: Ends, mux: bool) -> None:
    ends.open(access=ends.secured(ends.phone, rtcp_mux=mux), core=ends.plain(ends.far, rtcp_mux=mux))
    ends.talk(range(1))
    stranger = ends.other()
    report = bytes([0x81, 201, 0, 7]) + bytes(28)
    noise = b"\x00\x01" + bytes(20), b"\x16\xfe\xfd" + bytes(20), b"\xff" * 30, b"\x80", b"", bytes(9217), report
    for packet in (*noise, report[:12], rtp(5, payload=bytes(60))):
        ends.throw(packet, by=stranger)
    drops, statistics = ends.drops(), ends.statistics()
    assert drops[DropCause.STUN] == drops[DropCause.DTLS] == drops[DropCause.OVERSIZE] == 1
    assert drops[DropCause.NOT_RTP] == (1 if mux else 3)
    assert drops[DropCause.TOO_SHORT] == (3 if mux else 2)
    assert drops[DropCause.WRONG_SOURCE] == (2 if mux else 1)
    assert statistics.rtcp_in == (2 if mux else 0)
    assert statistics.packets_in == 1 + 9 - statistics.rtcp_in
    ends.assert_balance()


def test_workers_are_as_many_as_asked_for_and_tell_so(compiled: None) -> None:
    assert Workers(3).number == 3
    assert Workers(cpus=(0, 0)).number == 2
    assert Workers(99).number == 16
    assert Workers().number == min(len(os.sched_getaffinity(0)), 16)
    engine = RelayEngine(compiled=True, workers=Workers(3))
    assert engine.loop == "compiled, 3 threads"
    assert threading.active_count() < 50
    engine.close()


def test_processor_that_is_not_there_is_told(compiled: None) -> None:
    with pytest.raises(RelayUnavailableError, match="no thread for packets on processor 1000"):
        RelayEngine(compiled=True, workers=Workers(1, (1000,)))


def test_priority_is_granted_or_told(compiled: None) -> None:
    engine = RelayEngine(compiled=True, workers=Workers(1, (), 5))
    granted = engine.loop == "compiled, 1 thread"
    assert granted or "SCHED_FIFO refused" in engine.loop
    policies = {os.sched_getscheduler(task) for task in tasks_of(os.getpid())}
    assert (os.SCHED_FIFO in policies) is granted
    engine.close()


@async_test
async def test_relay_process_runs_as_many_threads_as_it_is_told(compiled: None) -> None:
    cpu = min(os.sched_getaffinity(0))
    relay = await RelayProcess.start(workers=Workers(2, (cpu,)))
    assert relay.loop == "compiled, 2 threads"
    assert len([task for task in tasks_of(relay.pid) if os.sched_getaffinity(task) == {cpu}]) >= 2
    await relay.close()


def test_packets_queued_at_a_socket_before_it_was_watched_are_carried(engine: RelayEngine) -> None:
    """Sixteen are read at once; a queue that was longer is gone on with though the socket is heard of only once."""
    talk = Talk(engine, "s")
    talk.speak()
    stepping(engine, [talk], 5)
    local = talk.local[Side.ACCESS]
    burst = [talk.sender.protect_rtp(rtp(number)) for number in range(1, 51)]
    with engine._loops[min(engine._loops)], engine._loops[max(engine._loops)]:
        for packet in burst:
            talk.phone.sendto(packet, (local.ip, local.port))
    talk.sent += 50
    stepping(engine, [talk], 5)
    assert talk.heard == [rtp(number) for number in range(51)]
    talk.close()


def handed_back(engine: RelayEngine) -> None:
    """Wait until a thread has handed packets back, and take none of them."""
    ready, _, _ = select.select([engine.fileno()], [], [], 5)
    assert ready, "nothing was handed back"


@pytest.mark.attack("T3")
def test_packet_of_a_call_that_ended_is_none_of_the_next(engine: RelayEngine) -> None:
    """A packet waits for its closer look while its call ends, and the next call has the same descriptors."""
    gc.collect()  # what other tests left behind closes now and not between the two calls
    phone, far, next_phone, next_far = (udp() for _ in range(4))
    mode = Mode.SENDRECV

    def add(name: str, one: socket.socket, other: socket.socket) -> Mapping[Side, LocalAddress]:
        sides = {
            side: SideConfig(HOST, Protection.RTP, remote=sock.getsockname(), mode=mode)
            for side, sock in ((Side.ACCESS, one), (Side.CORE, other))
        }
        return engine.add(StreamConfig(name, sides))

    local = add("ended", phone, far)[Side.ACCESS]
    phone.sendto(rtp(0), (local.ip, local.port))  # its SSRC is new
    handed_back(engine)
    before = sorted(engine._by_descriptor)
    engine.remove("ended")
    add("next", next_phone, next_far)
    assert sorted(engine._by_descriptor) == before
    for _ in range(5):
        engine.step(0.01)
    assert [received(sock) for sock in (far, next_phone, next_far)] == [[], [], []]
    (statistics,) = engine.statistics()
    assert statistics.sides[Side.ACCESS].packets_in == 0
    for sock in (phone, far, next_phone, next_far):
        sock.close()


@pytest.mark.parametrize("change", ["dscp", "tap", "tap and back", "peer"])
def test_packets_that_wait_for_a_look_are_first_when_their_stream_changes(engine: RelayEngine, change: str) -> None:
    phone, far, elsewhere = udp(), udp(), udp()
    access = SideConfig(HOST, Protection.RTP, remote=phone.getsockname(), mode=Mode.SENDRECV)
    core = replace(access, remote=far.getsockname())
    local = engine.add(StreamConfig("s", {Side.ACCESS: access, Side.CORE: core}))[Side.ACCESS]
    port = local.ip, local.port
    phone.sendto(rtp(0), port)
    handed_back(engine)
    heard: list[bytes] = []
    while not heard or not engine.settled():
        engine.step(0.01)
        heard += received(far)
    phone.sendto(rtp(0, 0x5EC0ED), port)
    handed_back(engine)
    match change:
        case "dscp":
            engine.modify("s", Side.CORE, replace(core, dscp=10))
        case "peer":
            engine.modify("s", Side.ACCESS, replace(access, remote=elsewhere.getsockname()))
        case _:
            engine.tap("s", enabled=True)
            if change == "tap and back":
                engine.tap("s", enabled=False)
    sender = elsewhere if change == "peer" else phone
    for number in range(1, 5):
        sender.sendto(rtp(number), port)
        time.sleep(0.01)
    until = time.monotonic() + 5
    second = [rtp(0, 0x5EC0ED)] if change != "peer" else []
    expected = [rtp(0), *second, *(rtp(number) for number in range(1, 5))]
    while len(heard) < len(expected) and time.monotonic() < until:
        engine.step(0.01)
        heard += received(far)
    assert heard == expected
    (statistics,) = engine.statistics()
    assert statistics.sides[Side.ACCESS].packets_in == 6
    assert statistics.sides[Side.ACCESS].drops == ({DropCause.WRONG_SOURCE: 1} if change == "peer" else {})
    for sock in (phone, far, elsewhere):
        sock.close()


@pytest.mark.attack("T3")
def test_calls_go_on_when_more_wants_a_closer_look_than_may_wait(compiled: None) -> None:
    """Nobody takes what was handed back: then the rest of it is dropped and counted, and no good packet waits."""
    engine = RelayEngine(compiled=True, workers=Workers(1))
    good = Talk(engine, "good")
    good.speak()
    stepping(engine, [good], 5)
    peer = udp()
    plain = SideConfig(HOST, Protection.RTP, remote=peer.getsockname(), mode=Mode.SENDRECV, rtcp=False)
    sent = 0
    with next(iter(engine._loops.values())):
        for number in range(150):
            local = engine.add(StreamConfig(f"s{number}", {Side.ACCESS: plain, Side.CORE: plain}))
            for side in Side:
                for ssrc in range(10):
                    peer.sendto(rtp(0, ssrc, payload=bytes(9000)), (local[side].ip, local[side].port))
                    sent += 1
    for _ in range(500):
        good.speak()
        time.sleep(0.002)
        good.listen()
        if len(good.heard) > 10:
            break
    assert len(good.heard) > 10
    stepping(engine, [good], 5)
    while not engine.settled():
        engine.step(0.01)
    assert good.heard == [rtp(number) for number in range(good.sent)]
    statistics = engine.statistics()[1:]
    assert sum(side.packets_in for each in statistics for side in each.sides.values()) == sent
    causes = {cause for each in statistics for side in each.sides.values() for cause in side.drops}
    assert DropCause.RATE_LIMITED in causes
    for each in statistics:
        access, core = each.sides[Side.ACCESS], each.sides[Side.CORE]
        assert access.packets_in == core.packets_out + access.dropped
        assert core.packets_in == access.packets_out + core.dropped
    engine.close()
    good.close()
    peer.close()


@pytest.mark.attack("T3")
def test_who_always_wants_the_loop_does_not_get_it_between_any_two_flows(compiled: None) -> None:
    """As a flood does that is looked at by the interpreter, at an RTCP port or before latching."""
    engine = RelayEngine(compiled=True, workers=Workers(1))
    peer = udp()
    plain = SideConfig(HOST, Protection.RTP, remote=peer.getsockname(), mode=Mode.SENDRECV, rtcp=False)
    ports = []
    for number in range(200):
        local = engine.add(StreamConfig(f"s{number}", {Side.ACCESS: plain, Side.CORE: plain}))
        ports += [(local[side].ip, local[side].port) for side in Side]
    for port in ports:
        peer.sendto(rtp(0), port)
    while not engine.settled():
        engine.step(0.01)
    received(peer)
    (loop,) = engine._loops.values()

    def carried() -> int:
        return sum(side.packets_out for sides in engine.counts().values() for side in sides.values())

    with loop:
        before = carried()
        for port in ports:
            peer.sendto(rtp(1), port)
    seen = {0}
    while len(ports) not in seen:
        with loop:
            seen.add(carried() - before)
    assert len(seen) <= len(ports) // 16 + 8, "how often the thread stopped on its way"
    engine.close()
    peer.close()


RACES = Path(__file__).with_name("races.c")
LOOP = Path(__file__).parents[2] / "media" / "relay"


@pytest.mark.attack("T3")
@pytest.mark.peer("gcc")
def test_threads_race_for_nothing(tmp_path: Path) -> None:
    """`packet_loop.c` under the compiler's race detector, with sockets that come and go while packets are carried."""
    program = tmp_path / "races"
    sources = [str(RACES), str(LOOP / "packet_loop.c"), f"-I{LOOP}"]
    flags = ["-std=c11", "-g", "-O1", "-fsanitize=thread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, *sources, "-o", str(program), "-lm", "-lpthread"], check=True)
    # The detector wants its memory where it is: without randomisation it always is.
    command = ["setarch", "--addr-no-randomize", str(program), "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    carried, looked = (int(part.split("=")[1]) for part in ended.stdout.split())
    assert carried > 100
    assert looked > 10
