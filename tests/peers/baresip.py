"""baresip as a foreign client: digest registration over TLS, SDES, sound from and to WAV files."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
import wave
from pathlib import Path
from typing import Self

MODULES = "/usr/lib/baresip/modules"


def write_tone(path: Path, seconds: float = 20, hertz: float = 440) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(
            b"".join(
                int(12000 * math.sin(2 * math.pi * hertz * i / 8000)).to_bytes(2, "little", signed=True)
                for i in range(int(8000 * seconds))
            )
        )


class Baresip:
    """One baresip process with one account.

    ``outbound`` is the P-CSCF as ``host:port``; ``command`` drives it over its control port.
    """

    def __init__(
        self,
        folder: Path,
        *,
        user: str,
        domain: str,
        password: str,
        outbound: str,
        ca: Path,
        address: str,
        media_encryption: str = "srtp-mand",
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind((address, 0))
            self._control = probe.getsockname()
        write_tone(folder / "tone.wav")
        (folder / "config").write_text(
            "\n".join(
                [
                    "poll_method epoll",
                    f"sip_listen {address}:0",
                    f"sip_cafile {ca}",
                    f"net_interface {address}",
                    f"audio_source aufile,{folder}/tone.wav",
                    "audio_player alsa,null",
                    "audio_alert aufile,/dev/null",
                    "audio_buffer 20-160",
                    "rtp_timeout 0",
                    f"module_path {MODULES}",
                    "module alsa.so",
                    "module sndfile.so",
                    f"snd_path {folder}",
                    "module g711.so",
                    "module aufile.so",
                    "module srtp.so",
                    "module uuid.so",
                    "module account.so",
                    "module_app menu.so",
                    "module_app ctrl_tcp.so",
                    f"ctrl_tcp_listen {address}:{self._control[1]}",
                    "",
                ]
            )
        )
        (folder / "accounts").write_text(
            f"<sip:{user}@{domain};transport=tls>;auth_user={user}@{domain};auth_pass={password}"
            f';outbound="sip:{outbound};transport=tls";regint=300;answermode=auto;mediaenc={media_encryption}'
            ";audio_codecs=pcmu,pcma;ptime=20\n"
        )
        (folder / "contacts").touch()
        self._log = folder / "baresip.log"
        arguments = ["baresip", "-f", str(folder), "-v"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def command(self, name: str, parameters: str = "") -> None:
        """Give one command, such as ``dial``, as a netstring with JSON inside."""
        text = json.dumps({"command": name, "params": parameters})
        with socket.create_connection(self._control, 5) as control:
            control.sendall(f"{len(text)}:{text},".encode())
            control.settimeout(5)
            control.recv(4096)

    @property
    def heard(self) -> Path:
        """The recording of what this end heard (it may not exist yet)."""
        return next(iter(sorted(self.folder.glob("dump-*-dec.wav"), reverse=True)), self.folder / "dump-dec.wav")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert self._process.poll() is None, f"baresip ended\n{self.log}"
            assert time.monotonic() < deadline, f"baresip never said {text!r}\n{self.log}"
            time.sleep(0.1)
