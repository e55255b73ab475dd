"""``imslab capture`` as a process of its own, and tshark with the settings it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Self

from tests.e2e.lab import COMMAND, ROOT, Lab


class Capturing:
    """A capture that runs for the length of a ``with`` block, ended as with Ctrl-C."""

    def __init__(self, lab: Lab, path: Path, *arguments: str) -> None:
        self.path = path
        self.said: list[str] = []
        command = [*COMMAND, "capture", "-o", str(path), *arguments, "--state", str(lab.state)]
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._begun = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line.rstrip())
            if line.startswith("capturing at"):
                self._begun.set()
        self._begun.set()

    def __enter__(self) -> Self:
        assert self._begun.wait(30), "the capture never began"
        assert [line for line in self.said if not line.startswith("capturing at")] == []
        assert self.said
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self.end()

    def end(self) -> int:
        """Wait until it has ended by itself; returns its exit status."""
        try:
            status = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        self._reader.join(10)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return status


def tshark(path: Path, settings: Path, *arguments: str) -> list[str]:
    """Lines tshark prints of a capture with the settings beside it."""
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(settings)}
    done = subprocess.run(
        ["tshark", "-n", "-r", str(path), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )
    return done.stdout.splitlines()


NAMES = (
    "frame.number",
    "frame.interface_name",
    "frame.comment",
    "frame.protocols",
    "frame.time_epoch",
    "ip.src",
    "ip.dst",
    "sip.Call-ID",
    "sip.Method",
    "sip.Status-Code",
    "sip.CSeq.method",
    "http2.headers.path",
    "http2.type",
    "http2.length",
    "protobuf.message.name",
    "rtcp.setup-frame",
    "sdp.crypto.crypto_suite",
    "http.request.method",
    "http.request.uri",
    "http.content_length_header",
    "_ws.expert.severity",
    "_ws.expert.group",
)
"""What the tests look at in a packet."""

Packet = dict[str, str]
"""Fields of a packet; several values of one have commas between them."""


def packets(path: Path, settings: Path) -> list[Packet]:
    """Every packet of a capture as tshark dissects it."""
    options = [option for name in NAMES for option in ("-e", name)]
    lines = tshark(path, settings, "-T", "fields", "-E", "separator=/t", *options)
    return [dict(zip(NAMES, line.split("\t"), strict=True)) for line in lines]


def malformed(found: list[Packet]) -> list[Packet]:
    """The packets of a capture that Wireshark finds fault with, without those whose suite it could not know.

    In an SRTCP packet the word with the E flag stands before MKI and tag under AES-CM (RFC 3711 3.4), and behind the tag
    under the AEAD suites (RFC 7714 9.2). Wireshark 4.0 takes it from a wrong place where the SDP that set up a stream
    accepts an AEAD suite, or names none because a KMS gives the keys: it finds such packets unencrypted, and reads
    ciphertext as reports.
    """
    suites = {packet["frame.number"]: packet["sdp.crypto.crypto_suite"] for packet in found}

    def unreadable(packet: Packet) -> bool:
        suite = suites.get(packet["rtcp.setup-frame"].partition(",")[0])
        accepted = "access SRTP" in packet["frame.comment"] and suite in {"AEAD_AES_128_GCM", "AEAD_AES_256_GCM"}
        by_kms = " opaque" in packet["frame.comment"] and suite == ""
        return "rtcp" in packet["frame.protocols"].split(":") and (accepted or by_kms)

    return [packet for packet in found if _is_malformed(packet) and not unreadable(packet)]


def _is_malformed(packet: Packet) -> bool:
    return "_ws.malformed" in packet["frame.protocols"] or str(MALFORMED) in packet["_ws.expert.group"].split(",")


MALFORMED = 0x07000000
"""PI_MALFORMED of Wireshark's epan/proto.h."""
