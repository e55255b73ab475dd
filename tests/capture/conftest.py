"""One lab for every test of captures: its P-CSCFs and CSCFs also tell a Homer server, played by sngrep."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.capture.live import Capturing, Packet, packets
from tests.e2e.lab import Lab, running

PASSWORD = "homer's own"


@dataclass
class CapturedLab:
    """A lab, and what a capture of two calls and two registrations left."""

    lab: Lab
    folder: Path
    hep_file: Path
    plain: dict[str, Any]
    kms: dict[str, Any]
    said: list[str]

    @cached_property
    def packets(self) -> list[Packet]:
        """What tshark finds in the capture without keys."""
        return packets(self.file, self.settings)

    @cached_property
    def keyed_packets(self) -> list[Packet]:
        """What tshark finds in the capture with keys."""
        return packets(self.keyed, self.settings)

    @property
    def file(self) -> Path:
        return self.folder / "plain.pcapng"

    @property
    def keyed(self) -> Path:
        return self.folder / "keyed.pcapng"

    @property
    def settings(self) -> Path:
        return self.folder / "wireshark"


@contextlib.contextmanager
def sngrep(folder: Path) -> Iterator[tuple[int, Path]]:
    """sngrep as a HEP3 receiver that knows the password; gives its port and the file it writes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "sngreprc"
    settings.write_text(f"set eep.listen.pass {PASSWORD}\nset capture.device lo\n")
    file = folder / "hep.pcap"
    command = ["sngrep", "-N", "-q", "-F", "-f", str(settings), "-L", f"udp:127.0.0.1:{port}", "-O", str(file)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port, file
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="package")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CapturedLab]:
    """Two calls, one with keys of the KMS, captured without and with keys at the same time."""
    folder = tmp_path_factory.mktemp("capture")
    with sngrep(folder) as (port, hep_file):
        password = folder / "password"
        password.write_text(f"{PASSWORD}\n")

        def change(description: dict[str, Any]) -> None:
            description["hep"] = {"host": "127.0.0.1", "port": port, "password_file": str(password)}

        with running(folder, change) as lab:
            settings = folder / "wireshark"
            with (
                Capturing(lab, folder / "plain.pcapng", "--decode-as", str(settings)) as capturing,
                Capturing(lab, folder / "keyed.pcapng", "--with-keys"),
            ):
                plain = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.6")
                kms = lab.call("alice", "bob", "--security", "e2e-kms", "--seconds", "0.6")
                time.sleep(0.2)  # what came last is on its way
            yield CapturedLab(lab, folder, hep_file, plain, kms, capturing.said)
