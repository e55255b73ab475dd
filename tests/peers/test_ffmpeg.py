"""ffmpeg's SRTP through the gateways of real calls: it protects what they open, and opens what they protect."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keying.sdes import CryptoAttribute, generate
from media.quality import compare
from media.session import spoken_by
from media.wav import write_wav
from tests.e2e.lab import COMMAND, ROOT, Lab, running
from tests.peers.ffmpeg import SUITES, FarSide, SdesPhone, listening, speaking

pytestmark = [pytest.mark.lab, pytest.mark.peer("ffmpeg"), pytest.mark.timeout(180)]

SNR_DB = 25
"""G.711 alone leaves about 35 dB; a lost packet or two are forgiven."""
CODEC_OF_SUITE = list(zip(SUITES, ("pcm_mulaw", "pcm_alaw"), strict=True))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose P-CSCFs offer every suite ffmpeg knows, with a second foreign user behind the other gateway."""

    def change(description: dict[str, Any]) -> None:
        for access in description["access_networks"]:
            access["suites"] = list(SUITES)
        description["users"].append(
            {
                "name": "grace",
                "domain": "ims.test",
                "impi": "grace@ims.test",
                "access": "access-b",
                "profile": "digest",
                "software_ue": False,
            }
        )

    with running(tmp_path_factory.mktemp("wide"), change) as lab:
        yield lab


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    """What the phone of dave says: the words the lab's own phones expect of dave."""
    path = tmp_path / "dave.wav"
    write_wav(path, spoken_by("dave").samples)
    return path


class CallToDave:
    """``imslab call`` in a process of its own, and its verdict."""

    def __init__(self, lab: Lab, caller: str, security: str, seconds: float) -> None:
        command = [*COMMAND, "call", caller, "dave", "--security", security, "--seconds", str(seconds), "--json"]
        self._process = subprocess.Popen(
            [*command, "--state", str(lab.state)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def verdict(self) -> dict[str, Any]:
        output, errors = self._process.communicate(timeout=60)
        assert output.strip(), errors
        verdict: dict[str, Any] = json.loads(output)
        return verdict

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=20)


@contextmanager
def called(
    lab: Lab, phone: SdesPhone, caller: str, security: str = "none", seconds: float = 4
) -> Iterator[tuple[CallToDave, Any]]:
    """`caller` rings at dave's phone; gives the call and its INVITE."""
    call = CallToDave(lab, caller, security, seconds)
    try:
        yield call, phone.next_request("INVITE", 30)
    finally:
        call.stop()


def leg(verdict: dict[str, Any], node: str, side: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in verdict["legs"] if (each["node"], each["side"]) == (node, side))
    return found


@pytest.mark.clause("TS 33.328", "7.3.1-2", "7.3.1-6", "C-1", "C-2")
@pytest.mark.parametrize(("suite", "codec"), CODEC_OF_SUITE)
def test_carol_hears_in_plain_rtp_what_ffmpeg_protects(wide: Lab, voice: Path, suite: str, codec: str) -> None:
    with SdesPhone(wide, "dave") as phone:
        phone.sign_on()
        own = generate(suite, 1)
        with called(wide, phone, "carol") as (call, invite):
            gateway = FarSide.of(invite)
            assert (gateway.proto, gateway.marker) == ("RTP/SAVP", "applied")
            own = generate(suite, gateway.line(suite).tag)
            phone.answer(invite, own, codec)
            phone.next_request("ACK")
            with speaking(voice, own, gateway.address, phone.media, codec=codec):
                phone.accept_bye()
            verdict = call.verdict()
    assert verdict["result"] == "established", verdict
    sound = verdict["audio"]["dave->carol"]
    assert sound["heard"], verdict
    assert sound["snr_db"] > SNR_DB, verdict
    access = leg(verdict, "imsagw-a", "access")
    assert (access["protection"], access["keying"], access["suite"]) == ("SRTP", "SDES", suite)
    assert access["packets_in"] > 100
    assert access["auth_failures"] == 0
    assert leg(verdict, "imsagw-a", "core")["protection"] == "RTP"
    assert leg(verdict, "carol", "end")["protection"] == "RTP"


@pytest.mark.clause("TS 33.328", "7.3.1-2", "7.3.1-6", "C-1", "C-2")
@pytest.mark.parametrize(("suite", "codec"), CODEC_OF_SUITE)
def test_ffmpeg_hears_protected_what_carol_says_in_plain_rtp(wide: Lab, tmp_path: Path, suite: str, codec: str) -> None:
    with SdesPhone(wide, "dave") as phone:
        phone.sign_on()
        with called(wide, phone, "carol") as (call, invite):
            line = FarSide.of(invite).line(suite)
            with listening(tmp_path, line, phone.media, 2, codec=codec) as recording:
                phone.answer(invite, generate(suite, line.tag), codec)
                heard = recording.samples()
            phone.accept_bye()
            verdict = call.verdict()
    found = compare(spoken_by("carol").samples, heard)
    assert found.heard, verdict
    assert found.snr_db > SNR_DB
    assert found.seconds > 1.5
    access = leg(verdict, "imsagw-a", "access")
    assert (access["protection"], access["suite"]) == ("SRTP", suite)
    assert access["packets_out"] > 100


@pytest.mark.clause("TS 33.328", "7.2.1-3", "7.2.1-4", "7.3.1-2")
@pytest.mark.parametrize("suite", SUITES)
def test_two_ffmpegs_hear_each_other_under_keys_of_their_own(
    wide: Lab, tmp_path: Path, voice: Path, suite: str
) -> None:
    with SdesPhone(wide, "dave") as dave, SdesPhone(wide, "grace") as grace:
        dave.sign_on()
        grace.sign_on()
        hers = generate(suite, 1)
        calling = grace.call("sip:dave@ims.test", hers)
        grace.send(calling)
        invite = dave.next_request("INVITE")
        at_dave = FarSide.of(invite)
        his = generate(suite, at_dave.line(suite).tag)
        dave.answer(invite, his)
        answered = grace.next_final("INVITE")
        assert answered.status == 200, answered.to_bytes()
        dialog = grace.acknowledge(calling, answered)
        dave.next_request("ACK")
        at_grace = FarSide.of(answered)
        with (
            listening(tmp_path, at_grace.crypto[0], grace.media, 2) as recording,
            speaking(voice, his, at_dave.address, dave.media),
        ):
            heard = recording.samples()
        grace.hang_up(dialog)
        dave.accept_bye()
        assert grace.next_final("BYE").status == 200
    found = compare(spoken_by("dave").samples, heard)
    assert found.heard
    assert found.snr_db > SNR_DB
    lines: list[CryptoAttribute] = [hers, his, at_dave.line(suite), at_grace.crypto[0]]
    assert {line.suite.name for line in lines} == {suite}
    assert len({line.keys[0].key_salt.reveal() for line in lines}) == 4


@pytest.mark.attack("T3")
@pytest.mark.parametrize("suite", SUITES)
def test_ffmpeg_under_another_key_is_not_heard_and_the_gateway_counts_it(wide: Lab, voice: Path, suite: str) -> None:
    with SdesPhone(wide, "dave") as phone:
        phone.sign_on()
        with called(wide, phone, "carol", seconds=3) as (call, invite):
            gateway = FarSide.of(invite)
            tag = gateway.line(suite).tag
            phone.answer(invite, generate(suite, tag))
            phone.next_request("ACK")
            with speaking(voice, generate(suite, tag), gateway.address, phone.media):
                phone.accept_bye()
            verdict = call.verdict()
    assert not verdict["audio"]["dave->carol"]["heard"], verdict
    assert leg(verdict, "carol", "end")["packets_in"] == 0
    access = leg(verdict, "imsagw-a", "access")
    assert access["auth_failures"] > 50, verdict
    assert leg(verdict, "imsagw-a", "core")["packets_out"] == 0
