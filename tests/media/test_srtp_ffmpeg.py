"""ffmpeg as the far end: it protects what we open, and opens what we protect."""

import base64
import contextlib
import shutil
import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from keying.sdes import CryptoAttribute, generate
from media.g711 import PCMA
from media.quality import compare
from media.session import Direction, RtpEndpoint, SessionSettings, spoken_by
from media.wav import parse_wav, write_wav

pytestmark = [
    pytest.mark.peer("ffmpeg"),
    pytest.mark.clause("RFC 3711", "3.1"),
    pytest.mark.clause("TS 33.328", "C-1", "C-2"),
]
# by its SDES name of the 32-bit suite ffmpeg shortens the SRTCP tag too, against RFC 4568 6.2.2; by this name it does not
NAME_IN_FFMPEG = {"AES_CM_128_HMAC_SHA1_32": "SRTP_AES128_CM_HMAC_SHA1_32"}
SUITES_OF_FFMPEG = ["AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"]


@contextlib.contextmanager
def ffmpeg(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [shutil.which("ffmpeg") or "ffmpeg", "-nostdin", "-v", "error", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


async def until(condition, seconds: float = 20.0) -> None:
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline
        await deferLater(reactor, 0.02, lambda: None)


def base64_key(crypto: CryptoAttribute) -> str:
    return base64.b64encode(crypto.keys[0].key_salt.reveal()).decode()


@pytest.mark.parametrize("suite", SUITES_OF_FFMPEG)
@pytest_twisted.ensureDeferred
async def test_we_hear_what_ffmpeg_protects(suite: str, tmp_path: Path) -> None:
    crypto = generate(suite, 1)
    endpoint = RtpEndpoint(reactor)
    host, port = endpoint.open("127.0.0.1")
    endpoint.secure(None, crypto)
    endpoint.start()
    played = spoken_by("ffmpeg").samples
    write_wav(tmp_path / "played.wav", played)
    target = f"srtp://{host}:{port}?pkt_size=172&rtcpport={port + 1}"
    arguments = [
        "-re",
        "-i",
        str(tmp_path / "played.wav"),
        "-t",
        "3",
        "-c:a",
        "pcm_alaw",
        "-f",
        "rtp",
        "-payload_type",
        "8",
    ]
    name = NAME_IN_FFMPEG.get(suite, suite)
    with ffmpeg(*arguments, "-srtp_out_suite", name, "-srtp_out_params", base64_key(crypto), target) as process:
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
    await deferLater(reactor, 0.1, lambda: None)
    figures = endpoint.statistics()
    assert figures.packets_in > 100
    assert (figures.auth_failures, figures.lost) == (0, 0)
    assert figures.rtcp_in >= 1
    found = compare(played, endpoint.heard())
    assert found.heard
    assert found.snr_db > 30
    await endpoint.close()


@pytest.mark.parametrize("suite", SUITES_OF_FFMPEG)
@pytest_twisted.ensureDeferred
async def test_ffmpeg_hears_what_we_protect(suite: str, tmp_path: Path) -> None:
    crypto = generate(suite, 1)
    endpoint = RtpEndpoint(reactor, SessionSettings(first_rtcp=0.2), source=spoken_by("alice"))
    host, _ = endpoint.open("127.0.0.1")
    probe = RtpEndpoint(reactor)
    _, free = probe.open("127.0.0.1")
    await probe.close()
    description = tmp_path / "call.sdp"
    description.write_text(
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {free} RTP/SAVP 8\r\n"
        f"a=rtpmap:8 PCMA/8000\r\na=crypto:1 {suite} inline:{base64_key(crypto)}\r\n"
    )
    heard = tmp_path / "heard.wav"
    endpoint.secure(crypto, generate(suite, 1))
    endpoint.set_remote(host, free)
    endpoint.start()
    options = ["-protocol_whitelist", "file,udp,rtp,srtp", "-i", str(description), "-t", "2", "-y", str(heard)]
    with ffmpeg(*options) as process:
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
    await endpoint.close()
    _, samples = parse_wav(heard.read_bytes())
    found = compare(spoken_by("alice").samples, array("h", samples))
    assert found.heard
    assert found.snr_db > 30


@pytest.mark.attack("T3")
@pytest_twisted.ensureDeferred
async def test_ffmpeg_under_another_key_is_not_heard(tmp_path: Path) -> None:
    endpoint = RtpEndpoint(reactor)
    host, port = endpoint.open("127.0.0.1")
    endpoint.secure(None, generate(SUITES_OF_FFMPEG[0], 1))
    endpoint.set_direction(Direction.RECVONLY)
    endpoint.start()
    write_wav(tmp_path / "played.wav", spoken_by("eve").samples)
    wrong = base64_key(generate(SUITES_OF_FFMPEG[0], 1))
    arguments = ["-i", str(tmp_path / "played.wav"), "-c:a", "pcm_alaw", "-f", "rtp", "-payload_type", "8"]
    target = f"srtp://{host}:{port}?rtcpport={port + 1}"
    with ffmpeg(*arguments, "-srtp_out_suite", SUITES_OF_FFMPEG[0], "-srtp_out_params", wrong, target) as process:
        await until(lambda: process.poll() is not None)
    await until(lambda: endpoint.statistics().auth_failures > 20)
    assert endpoint.statistics().packets_in == 0
    assert len(endpoint.heard()) == 0
    assert endpoint.session.codec is PCMA
    await endpoint.close()
