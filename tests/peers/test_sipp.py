"""sipp registers with AKAv1-MD5 and announces media security, again and again."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keying.secret import Secret
from signalling.aka.milenage import Milenage, opc_from_op
from tests.docs.pages import fences
from tests.e2e.lab import ROOT, Lab, running

pytestmark = [pytest.mark.lab, pytest.mark.peer("sipp"), pytest.mark.timeout(240)]

K, OP = "a1b2c3d4e5f6a7b8c9dae1f2a3b4c5d6", "cdc2e2d592bea0f6abede7eac7acb398"
# sipp keeps all three as text: no octet of them may be a zero, a space, a bracket or another mark it reads.
AMF = "b9b9"
WANTED = 50

SCENARIO = """<?xml version="1.0" encoding="ISO-8859-1"?>
<scenario name="register with AKA and mediasec">
  <send retrans="500"><![CDATA[
REGISTER sip:ims.test SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
Max-Forwards: 70
From: <sip:frank@ims.test>;tag=[call_number]
To: <sip:frank@ims.test>
Call-ID: [call_id]
CSeq: 1 REGISTER
Contact: <sip:frank@[local_ip]:[local_port]>;expires=600
Supported: path
Require: mediasec
Proxy-Require: mediasec
Security-Client: sdes-srtp;mediasec
Authorization: Digest username="frank@ims.test",realm="ims.test",uri="sip:ims.test",nonce="",response=""
Content-Length: 0

]]></send>
  <recv response="100" optional="true"/>
  <recv response="401" auth="true" rrs="true">
    <action><ereg regexp=".*" search_in="hdr" header="Security-Server:" check_it="true" assign_to="agreed"/></action>
  </recv>
  <send retrans="500"><![CDATA[
REGISTER sip:ims.test SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
Max-Forwards: 70
From: <sip:frank@ims.test>;tag=[call_number]
To: <sip:frank@ims.test>
Call-ID: [call_id]
CSeq: 2 REGISTER
Contact: <sip:frank@[local_ip]:[local_port]>;expires=600
Supported: path
Require: mediasec
Proxy-Require: mediasec
Security-Client: sdes-srtp;mediasec
Security-Verify:[$agreed]
[authentication username=frank@ims.test aka_K=0xKEY aka_OP=0xOPERATOR aka_AMF=0xFIELD]
Content-Length: 0

]]></send>
  <recv response="100" optional="true"/>
  <recv response="200"/>
</scenario>
"""


@pytest.fixture(scope="module")
def open_gm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a user for sipp, and a P-CSCF that announces sdes-srtp over UDP so that headers can be watched."""

    def change(description: dict[str, Any]) -> None:
        description["users"].append(
            {
                "name": "frank",
                "domain": "ims.test",
                "impi": "frank@ims.test",
                "access": "access-a",
                "profile": "aka-udp",
                "software_ue": False,
                "usim": {"k": K, "op": OP, "amf": AMF},
            }
        )
        description["access_networks"][0]["announce_on_clear_gm"] = True

    with running(tmp_path_factory.mktemp("open-gm"), change) as lab:
        yield lab


def free_ports(host: str, count: int) -> list[int]:
    """UDP ports of `host` that the kernel had free."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for one in held:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in held]


def response_has_zero(nonce: str) -> bool:
    """sipp treats RES as text and stops at a zero octet; such a challenge it cannot answer."""
    challenge = base64.b64decode(nonce)
    k = Secret(bytes.fromhex(K))
    milenage = Milenage(k, opc_from_op(k, Secret(bytes.fromhex(OP))))
    res = milenage.f2345(challenge[:16])[0]
    return 0 in (res.reveal() if isinstance(res, Secret) else res)


@pytest.mark.clause("TS 33.328", "7.1.1-1", "7.1.1-4", "7.1-1")
def test_fifty_registrations_in_a_row(open_gm: Lab, tmp_path: Path) -> None:
    row = open_gm.resolved["users"]["frank"]
    scenario = tmp_path / "register.xml"
    scenario.write_text(SCENARIO.replace("KEY", K).replace("OPERATOR", OP).replace("FIELD", AMF))
    signalling, control = free_ports(row["address"], 2)
    done = subprocess.run(
        [
            "sipp",
            f"{row['pcscf']['host']}:{row['pcscf']['port']}",
            "-i",
            row["address"],
            "-p",
            str(signalling),
            "-cp",
            str(control),
            "-sf",
            str(scenario),
            "-m",
            str(WANTED + 10),
            "-l",
            "1",
            "-r",
            "20",
            "-trace_msg",
            "-message_file",
            str(tmp_path / "messages"),
            "-nostdin",
            "-auth_uri",
            "ims.test",
            "-timeout",
            "100",
            "-recv_timeout",
            "4000",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=120,
    )
    messages = tmp_path / "messages"
    assert messages.exists(), f"sipp ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}"
    text = messages.read_text(errors="replace")
    outcomes: dict[str, int] = {}
    nonces: dict[str, str] = {}
    for message in re.split(r"-{20,}", text):
        call = re.search(r"Call-ID: (\S+)", message)
        if call is None:
            continue
        if (nonce := re.search(r'WWW-Authenticate:.*?nonce="([^"]+)"', message)) is not None:
            nonces.setdefault(call[1], nonce[1])
            assert "sdes-srtp;mediasec" in message, "the 401 lists what the P-CSCF supports"
        if (status := re.search(r"SIP/2.0 ([2-6]\d\d) ", message)) is not None and status[1] != "401":
            outcomes[call[1]] = int(status[1])
    good = [call for call, status in outcomes.items() if status == 200]
    for call, nonce in nonces.items():
        assert outcomes.get(call) == 200 or response_has_zero(nonce), (call, outcomes.get(call))
    assert len(good) >= WANTED, outcomes
    assert open_gm.json("status")["nodes"]


def page_file(name: str) -> str:
    """The file of that name that docs/clients.md shows, the fence behind the words that introduce it."""
    text = (ROOT / "docs" / "clients.md").read_text()
    found = re.search(rf"```bash\n(# {re.escape(name)} .*?)\n```", text, re.DOTALL)
    if found is None:
        found = re.search(rf"`{re.escape(name)}`:\n\n```\w*\n(.*?)\n```", text, re.DOTALL)
    assert found is not None, name
    return found[1] + "\n"


@pytest.mark.peer("ffmpeg")
def test_the_page_registers_with_a_card_and_calls_with_the_media_of_ffmpeg(open_gm: Lab, tmp_path: Path) -> None:
    played = [item.text for item in fences("docs/clients.md") if item.played_by]
    with_card, with_media = (text.splitlines() for text in played)
    (make,) = [line for line in with_card if line.startswith("imslab client-config")]
    words = [str(open_gm.config) if word == "open.yaml" else word for word in shlex.split(make)[1:]]
    folder = tmp_path / "frank"
    open_gm.run(
        *[str(folder) if word == "frank" and words[index - 1] == "-o" else word for index, word in enumerate(words)]
    )
    for attempt in range(4):  # 3 of 100 have a zero in RES
        done = subprocess.run(["sh", str(folder / "register.sh")], cwd=tmp_path, check=False, capture_output=True)
        if done.returncode == 0:
            break
        assert attempt < 3, done.stdout[-2000:]
    for name in ("call.xml", "speak.sh", "listen.sh"):
        (tmp_path / name).write_text(page_file(name))
    row = open_gm.resolved["users"]["frank"]["pcscf"]
    address = f"{row['host']}:{row['port']}"
    environment = dict(os.environ)
    environment["KEY"] = base64.b64encode(os.urandom(30)).decode()
    protections = []
    for line in with_media:
        command = line.split("#")[0].strip().replace("127.176.108.9:47781", address)
        if command.startswith("KEY="):
            continue
        if command.startswith("imslab "):
            done = open_gm.run(*shlex.split(command)[1:])
            if command == "imslab flow":
                protections.append(done.stdout)
            continue
        ran = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, check=False, capture_output=True, timeout=60
        )
        assert ran.returncode == 0, (command, ran.stdout[-2000:], ran.stderr[-2000:])
    assert any("SRTP SDES AES_CM_128_HMAC_SHA1_80" in text for text in protections), protections
    heard = tmp_path / "heard.wav"
    Lab.wait(
        lambda: heard.exists() and heard.stat().st_size > 16_000, 20, "ffmpeg does not open what the gateway protected"
    )
