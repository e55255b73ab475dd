"""The demonstration, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.lab import ROOT
from tests.wheel import WITHOUT_COMPILER, build, install, source

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.mark.attack("T1")
def test_the_demonstration_shows_seven_calls_that_ended_as_they_must(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "lab", "demo", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 of 7 calls ended as they must" in done.stdout
    assert "refused (488)" in done.stdout
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 7
    shown = (
        "INVITE",
        "Iq.ReserveAndConfigure",
        "media srtp",
        "media opaque",
        "media rtp",
        "e2ae-sdes",
        "SRTP MIKEY-TICKET",
    )
    shown += (
        "POST REQUEST_INIT",
        "REQUEST_RESP",
        "TRANSFER_INIT",
        "POST RESOLVE_INIT",
        "RESOLVE_RESP",
        "TRANSFER_RESP",
    )
    for expected in (*shown, "NkmsResolve.ResolveTicket", "resolve refused"):
        assert expected in page, expected
    assert "inline:" not in page.replace("inline:&lt;", "")
    assert (out / "call.pcapng").stat().st_size > 50_000
    assert len(list((out / "heard").glob("*.wav"))) == 2
    assert not (out / "state" / "control.sock").exists()


def test_the_demonstration_needs_no_c_compiler(tmp_path: Path) -> None:
    wheel = build("wheel", source(tmp_path / "source"), tmp_path, WITHOUT_COMPILER)
    environment = install(wheel, tmp_path / "installed")
    environment.pop("IMSLAB_PACKET_LOOP", None)
    why = "from media.relay.compiled import why_not_compiled as why; print(why())"
    for arguments, expected in (
        (["-c", why], "not built at installation"),
        (["-m", "lab", "demo", "--out", str(tmp_path / "out")], "7 of 7 calls ended as they must"),
    ):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
