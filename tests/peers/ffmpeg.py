"""ffmpeg as the media of a foreign phone: its SRTP is ffmpeg's, its signalling is spoken here by hand over TLS."""

from __future__ import annotations

import base64
import random
import shutil
import socket
import ssl
import subprocess
import time
import uuid
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keying.sdes import CryptoAttribute, parse_crypto
from media.wav import parse_wav
from signalling.sdp import parse_sdp
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipRequest, SipResponse, parse_message
from signalling.sip.responses import make_response
from signalling.sip.stream_parser import StreamMessage, StreamParser
from tests.e2e.lab import Lab
from tests.e2e.rawsip import Address, DigestPhone

SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
"""Every suite ffmpeg 5.1 knows."""
NAME_IN_FFMPEG = {"AES_CM_128_HMAC_SHA1_32": "SRTP_AES128_CM_HMAC_SHA1_32"}
"""By its SDES name of the 32-bit suite ffmpeg shortens the SRTCP tag too, against RFC 4568 6.2.2."""
CODECS = {"pcm_mulaw": (0, "PCMU"), "pcm_alaw": (8, "PCMA")}
"""ffmpeg's encoder -> payload type and name (RFC 3551)."""


def base64_key(line: CryptoAttribute) -> str:
    return base64.b64encode(line.keys[0].key_salt.reveal()).decode()


def even_port() -> int:
    """A UDP port that is free with its neighbour for RTCP, at every address: ffmpeg listens at all of them.

    Below those that the kernel gives to whoever asks for any: nothing of the lab takes it before ffmpeg is there.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = 2 * random.randrange(5_000, lowest // 2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rtp, socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM
        ) as rtcp:  # fmt: skip
            try:
                rtp.bind(("", port))
                rtcp.bind(("", port + 1))
            except OSError:
                continue
            return port


@contextmanager
def _ffmpeg(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [shutil.which("ffmpeg") or "ffmpeg", "-nostdin", "-v", "error", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


@contextmanager
def speaking(
    sound: Path, line: CryptoAttribute, target: Address, source: Address, *, codec: str = "pcm_mulaw"
) -> Iterator[subprocess.Popen[bytes]]:
    """ffmpeg sends a WAV file again and again as SRTP under the key of `line`."""
    host, port = target
    url = f"srtp://{host}:{port}?localaddr={source[0]}&localrtpport={source[1]}&localrtcpport={source[1] + 1}"
    suite = NAME_IN_FFMPEG.get(line.suite.name, line.suite.name)
    with _ffmpeg(
        *("-re", "-stream_loop", "-1", "-i", str(sound), "-c:a", codec, "-f", "rtp"),
        *("-payload_type", str(CODECS[codec][0]), "-srtp_out_suite", suite, "-srtp_out_params", base64_key(line)),
        f"{url}&pkt_size=172&rtcpport={port + 1}",
    ) as process:
        yield process


@dataclass(frozen=True)
class Recording:
    """What an ffmpeg that listens has written, once it has ended."""

    process: subprocess.Popen[bytes]
    path: Path

    def samples(self, wait_s: float = 20) -> array[int]:
        """The sound, 16 bits at 8 kHz; empty when ffmpeg opened nothing within `wait_s`."""
        try:
            status = self.process.wait(wait_s)
            assert status == 0, self.process.communicate()[1].decode()
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(10)
        data = self.path.read_bytes() if self.path.exists() else b""
        return array("h", parse_wav(data)[1]) if len(data) > 44 else array("h")


@contextmanager
def listening(
    folder: Path, line: CryptoAttribute, at: Address, seconds: float, *, codec: str = "pcm_mulaw"
) -> Iterator[Recording]:
    """ffmpeg opens SRTP that comes to `at` under the key of `line` and writes `seconds` of it to a WAV file."""
    description, heard = folder / f"{at[1]}.sdp", folder / f"{at[1]}.wav"
    payload, name = CODECS[codec]
    description.write_text(
        f"v=0\r\no=- 1 1 IN IP4 {at[0]}\r\ns=-\r\nc=IN IP4 {at[0]}\r\nt=0 0\r\nm=audio {at[1]} RTP/SAVP {payload}\r\n"
        f"a=rtpmap:{payload} {name}/8000\r\na=crypto:1 {line.suite.name} inline:{base64_key(line)}\r\n"
    )
    with _ffmpeg(
        *("-protocol_whitelist", "file,udp,rtp,srtp", "-i", str(description), "-t", str(seconds)),
        *("-c:a", "pcm_s16le", "-y", str(heard)),
    ) as process:
        wait_bound(process, at[1])
        yield Recording(process, heard)


def wait_bound(process: subprocess.Popen[bytes], port: int, seconds: float = 10) -> None:
    """Until a socket has the UDP port at every address: ffmpeg says nothing when it begins to listen."""
    deadline = time.monotonic() + seconds
    while f" 00000000:{port:04X} " not in Path("/proc/net/udp").read_text():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline, "ffmpeg does not listen"
        time.sleep(0.02)


@dataclass(frozen=True)
class FarSide:
    """What the P-CSCF wrote into an offer or an answer: where the gateway is, and its crypto lines."""

    address: Address
    proto: str
    marker: str | None
    crypto: tuple[CryptoAttribute, ...]
    payloads: tuple[str, ...]

    @classmethod
    def of(cls, message: SipRequest | SipResponse) -> FarSide:
        sdp = parse_sdp(message.body)
        media = sdp.media[0]
        connection = sdp.connection_of(media)
        assert connection is not None
        return cls(
            (connection.address, media.port), media.proto, media.e2ae, tuple(map(parse_crypto, media.crypto)),
            tuple(media.formats),
        )  # fmt: skip

    def line(self, suite: str) -> CryptoAttribute:
        return next(line for line in self.crypto if line.suite.name == suite)


class SdesPhone(DigestPhone):
    """A digest user on TLS that announces ``sdes-srtp``; it signals, ffmpeg does the rest."""

    transport = "TLS"

    def __init__(self, lab: Lab, user: str) -> None:
        row = lab.resolved["users"][user]
        facts = lab.json("user", user, "--show-password")
        self._tls = ssl.create_default_context(cafile=str(lab.state / "pki" / "ca.crt"))
        edges = [(name, node["settings"]) for name, node in lab.resolved["nodes"].items() if node["kind"] == "pcscf"]
        edge = next(name for name, settings in edges if settings["access_network"] == row["access"])
        self._name = f"{edge}.{lab.resolved['domain']}"
        self._parser = StreamParser()
        self._waiting: list[bytes] = []
        pcscf = (row["pcscf"]["host"], row["pcscf"]["tls_port"])
        super().__init__(pcscf, row["address"], row["impu"], row["impi"], facts["password"])
        self.media: Address = (self.ip, even_port())
        self.agreed = ""
        """The P-CSCF's list, as every later request verifies it."""

    def open(self, ip: str) -> socket.socket:
        plain = socket.create_connection(self.pcscf, timeout=5, source_address=(ip, 0))
        return self._tls.wrap_socket(plain, server_hostname=self._name)

    def send(self, message: bytes) -> None:
        self.port.sendall(message)

    def receive(self, wait_s: float) -> bytes:
        deadline = time.monotonic() + wait_s
        while not self._waiting:
            self.port.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.port.recv(65_536)
            assert data, "the P-CSCF hung up"
            events = self._parser.receive(data)
            self._waiting += [event.data for event in events if isinstance(event, StreamMessage)]
        return self._waiting.pop(0)

    @property
    def contact(self) -> str:
        return f"sip:phone@{self.ip}:{self.number};transport=tls"

    def sign_on(self) -> None:
        """Register and agree on sdes-srtp (RFC 3329, TS 24.229 5.1.1)."""
        uri = f"sip:{self.domain}"
        headers = ["Expires: 600", "Require: mediasec", "Proxy-Require: mediasec"]
        headers.append("Security-Client: sdes-srtp;mediasec")
        first = self.exchange(self.message("REGISTER", uri, *headers))
        assert first.status == 401, first.to_bytes()
        self.agreed = first.headers.get("Security-Server") or ""
        credentials = f"Authorization: {self.credentials(self.challenge(first), self.impi, uri)}"
        verify = f"Security-Verify: {self.agreed}"
        done = self.exchange(self.message("REGISTER", uri, *headers, verify, credentials))
        assert done.status == 200, done.to_bytes()

    def next_request(self, method: str, wait_s: float = 15) -> SipRequest:
        """The next request of that method; responses and other requests on the way are left out."""
        deadline = time.monotonic() + wait_s
        while True:
            message = parse_message(self.receive(deadline - time.monotonic()))
            if isinstance(message, SipRequest) and message.method == method:
                return message

    def next_final(self, method: str, wait_s: float = 15) -> SipResponse:
        """The next final response to a request of that method."""
        deadline = time.monotonic() + wait_s
        while True:
            message = parse_message(self.receive(deadline - time.monotonic()))
            if isinstance(message, SipResponse) and message.status >= 200 and message.cseq[1] == method:
                return message

    def description(self, line: CryptoAttribute, codec: str, *more: str) -> bytes:
        payload, name = CODECS[codec]
        ip, port = self.media
        lines = [
            *("v=0", f"o=- 1 1 IN IP4 {ip}", "s=-", f"c=IN IP4 {ip}", "t=0 0", f"m=audio {port} RTP/SAVP {payload}"),
            *(f"a=rtpmap:{payload} {name}/8000", f"a=crypto:{line.tag} {line.suite.name} inline:{base64_key(line)}"),
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n").encode()

    def answer(self, invite: SipRequest, line: CryptoAttribute, codec: str = "pcm_mulaw") -> None:
        """Take the call with `line` as own key."""
        body = self.description(line, codec)
        headers = [("Contact", f"<{self.contact}>")]
        response = make_response(invite, 200, headers=headers, body=body, content_type="application/sdp")
        self.send(response.to_bytes())

    def call(self, uri: str, line: CryptoAttribute, codec: str = "pcm_mulaw") -> bytes:
        """An INVITE that asks the P-CSCF for protection to the access edge."""
        body = self.description(line, codec, "a=3ge2ae:requested").decode()
        headers = ["Require: mediasec", "Proxy-Require: mediasec", f"Security-Verify: {self.agreed}"]
        return self.message("INVITE", uri, *headers, body=body)

    def acknowledge(self, invite: bytes, answer: SipResponse) -> Dialog:
        """Send the ACK; returns the dialog."""
        request = parse_message(invite)
        assert isinstance(request, SipRequest)
        dialog = Dialog.from_uac(request, answer)
        self.send(self._signed(dialog.ack_for(answer)))
        return dialog

    def hang_up(self, dialog: Dialog) -> None:
        self.send(self._signed(dialog.request("BYE", [("Security-Verify", self.agreed)])))

    def accept_bye(self) -> None:
        self.send(make_response(self.next_request("BYE"), 200).to_bytes())

    def _signed(self, request: SipRequest) -> bytes:
        via = f"SIP/2.0/{self.transport} {self.ip}:{self.number};rport;branch=z9hG4bK{uuid.uuid4().hex}"
        request.headers.prepend("Via", via)
        return request.to_bytes()
