"""The Twisted shell: real sockets on loopback addresses, and the pacer on a clock of the test's."""

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from keying.sdes import generate
from media.g711 import PCMU
from media.pacer import Pacer, pacer_of
from media.quality import compare
from media.session import DtmfReceived, MediaStarted, RtpEndpoint, SessionSettings, spoken_by
from media.wav import read_wav

SUITE = "AES_CM_128_HMAC_SHA1_80"


class Metronome:
    """Counts its ticks."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ticks: list[float] = []
        self.skipped: list[int] = []

    def paced(self, skipped: int) -> None:
        self.ticks.append(self.clock.seconds())
        self.skipped.append(skipped)


def test_the_pacer_ticks_every_20_ms_without_drift() -> None:
    clock = Clock()
    pacer, paced = Pacer(clock), Metronome(clock)
    stop = pacer.add(paced)
    for _ in range(3000):
        clock.advance(0.00337)  # a reactor that is never on time
    assert abs(len(paced.ticks) - 3000 * 0.00337 / 0.02) <= 1
    assert all(abs((tick - paced.ticks[0]) - n * 0.02) < 0.0085 for n, tick in enumerate(paced.ticks))
    stop()
    clock.advance(1)
    assert abs(len(paced.ticks) - 3000 * 0.00337 / 0.02) <= 1
    assert clock.getDelayedCalls() == []


def test_the_pacer_spreads_endpoints_over_its_phases() -> None:
    clock = Clock()
    pacer = Pacer(clock)
    all_paced = [Metronome(clock) for _ in range(8)]
    for paced in all_paced:
        pacer.add(paced)
    for _ in range(40):
        clock.advance(0.005)
    firsts = [round(paced.ticks[0] * 1000) for paced in all_paced]
    assert sorted(firsts) == [5, 5, 10, 10, 15, 15, 20, 20]
    assert {len(paced.ticks) for paced in all_paced} == {10}


def test_after_a_short_standstill_the_pacer_catches_up_and_after_a_long_one_it_skips() -> None:
    clock = Clock()
    pacer, paced = Pacer(clock), Metronome(clock)
    pacer.add(paced)
    clock.advance(0.005)
    clock.advance(0.1)
    assert len(paced.ticks) in (5, 6)
    assert set(paced.skipped) == {0}
    before = len(paced.ticks)
    clock.advance(2.0)
    assert len(paced.ticks) - before <= 2
    assert 95 <= sum(paced.skipped) <= 100


def test_a_reactor_has_one_pacer() -> None:
    clock = Clock()
    pacer = pacer_of(clock)
    assert pacer_of(clock) is pacer
    assert pacer_of(Clock()) is not pacer


def wait(seconds: float) -> "Deferred[None]":
    return deferLater(reactor, seconds, lambda: None)


async def until(condition, seconds: float = 10.0) -> None:
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline
        await wait(0.02)


@pytest_twisted.ensureDeferred
async def test_the_kernel_gives_an_even_port_with_rtcp_on_the_next() -> None:
    endpoints = [RtpEndpoint(reactor) for _ in range(20)]
    for endpoint in endpoints:
        host, port = endpoint.open("127.0.0.1")
        assert host == "127.0.0.1"
        assert port % 2 == 0
        assert endpoint.local_rtcp == ("127.0.0.1", port + 1)
    with pytest.raises(OSError, match="in use"):
        RtpEndpoint(reactor).open("127.0.0.1", endpoints[0].local[1])
    with pytest.raises(RuntimeError):
        endpoints[0].open("127.0.0.1")
    for endpoint in endpoints:
        await endpoint.close()
    with pytest.raises(RuntimeError):
        _ = endpoints[0].local


@pytest_twisted.ensureDeferred
async def test_with_rtcp_mux_there_is_one_port() -> None:
    endpoint = RtpEndpoint(reactor, SessionSettings(rtcp_mux=True))
    assert endpoint.open("127.0.0.1") == endpoint.local_rtcp
    await endpoint.close()


@pytest.mark.parametrize(("host", "suite"), [("127.0.0.1", SUITE), ("127.0.0.1", None), ("::1", "AEAD_AES_256_GCM")])
@pytest_twisted.ensureDeferred
async def test_two_endpoints_hear_each_other(host: str, suite: str | None, tmp_path: Path) -> None:
    events: list[object] = []
    alice = RtpEndpoint(reactor, SessionSettings(first_rtcp=0.2), source=spoken_by("alice"), on_event=events.append)
    bob = RtpEndpoint(reactor, SessionSettings(first_rtcp=0.2), source=spoken_by("bob"))
    addresses = alice.open(host), bob.open(host)
    if suite:
        keys = generate(suite, 1), generate(suite, 1)
        alice.secure(*keys)
        bob.secure(*reversed(keys))
    alice.set_remote(*addresses[1])
    bob.set_remote(*addresses[0])
    for endpoint in (alice, bob):
        endpoint.start()
        endpoint.start()
    bob.send_digits("7")
    await until(lambda: alice.statistics().packets_in >= 70 and alice.statistics().rtcp_in and bob.statistics().rtcp_in)
    for listener, speaker in ((alice, "bob"), (bob, "alice")):
        assert compare(spoken_by(speaker).samples, listener.heard()).heard
        assert listener.statistics().lost == 0
        assert listener.statistics().suite_in == suite
    assert DtmfReceived("7", 100) in events
    assert [event.protected for event in events if isinstance(event, MediaStarted)] == [suite is not None]
    alice.write_recording(tmp_path / "heard.wav")
    assert compare(spoken_by("bob").samples, read_wav(tmp_path / "heard.wav")).heard
    for endpoint in (alice, bob):
        await endpoint.close("over")
        assert endpoint.statistics().packets_in


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-3")
@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_moves_takes_a_new_port_and_a_new_key_and_is_heard_on() -> None:
    alice, bob = RtpEndpoint(reactor, source=spoken_by("alice")), RtpEndpoint(reactor, source=spoken_by("bob"))
    of_alice, of_bob = generate(SUITE, 1), generate(SUITE, 1)
    first, at_bob = alice.open("127.0.0.1"), bob.open("127.0.0.1")
    alice.secure(of_alice, of_bob)
    bob.secure(of_bob, of_alice)
    alice.set_remote(*at_bob)
    bob.set_remote(*first)
    alice.start()
    bob.start()
    await until(lambda: bob.statistics().packets_in >= 10)
    second = alice.move()
    assert second != first
    alice.end_move()
    moved = generate(SUITE, 1)
    bob.secure_receiving(moved)
    alice.secure_sending(moved)
    bob.set_remote(*second)
    before = alice.statistics().packets_in, bob.statistics().packets_in
    await until(lambda: alice.statistics().packets_in > before[0] + 10 and bob.statistics().packets_in > before[1] + 10)
    assert bob.session.protection.receiving is not None
    assert bob.session.protection.receiving.roc(alice.session.ssrc) == 0
    for endpoint in (alice, bob):
        await endpoint.close()


@pytest_twisted.ensureDeferred
async def test_hold_resume_codec_and_silence_are_passed_on() -> None:
    endpoint = RtpEndpoint(reactor)
    endpoint.open("127.0.0.1")
    endpoint.set_direction("inactive")
    assert not endpoint.session.direction.sends
    with pytest.raises(ValueError, match="sideways"):
        endpoint.set_direction("sideways")
    endpoint.set_codec(PCMU, None, 96)
    endpoint.play(spoken_by("carol"))
    endpoint.secure(None, None)
    endpoint.unsecure()
    assert endpoint.session.codec is PCMU
    assert not endpoint.session.protection.required
    endpoint.stop()
    await endpoint.close()


@pytest_twisted.ensureDeferred
async def test_fifty_secured_calls_in_one_process_lose_nothing() -> None:
    pairs = []
    for _ in range(50):
        alice = RtpEndpoint(reactor, source=spoken_by("alice"))
        bob = RtpEndpoint(reactor, source=spoken_by("bob"))
        keys = generate(SUITE, 1), generate(SUITE, 1)
        addresses = alice.open("127.0.0.1"), bob.open("127.0.0.1")
        alice.secure(*keys)
        bob.secure(*reversed(keys))
        alice.set_remote(*addresses[1])
        bob.set_remote(*addresses[0])
        pairs += [alice, bob]
    for endpoint in pairs:
        endpoint.start()
    await until(lambda: all(endpoint.statistics().packets_in >= 25 for endpoint in pairs), 30)
    assert sum(endpoint.statistics().lost for endpoint in pairs) == 0
    assert all(not endpoint.statistics().drops for endpoint in pairs)
    for endpoint in pairs:
        endpoint.stop()
    for endpoint in pairs:
        await endpoint.close()
