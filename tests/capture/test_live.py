"""``imslab capture`` of a running lab, read by tshark with the settings written beside it."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.state import StateFolder
from lab.subscribers import load
from tests.capture.conftest import CapturedLab
from tests.capture.live import Capturing, Packet, malformed, packets, tshark
from tests.e2e.lab import COMMAND, ROOT

pytestmark = [pytest.mark.lab, pytest.mark.peer("tshark", "sngrep"), pytest.mark.timeout(180)]

SDES_KEY = re.compile(rb"inline:([A-Za-z0-9+/=]{20,})")
JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}")


def having(found: list[Packet], protocol: str) -> list[Packet]:
    return [packet for packet in found if protocol in packet["frame.protocols"].split(":")]


def test_wireshark_reads_all_of_it_and_finds_nothing_malformed(captured: CapturedLab) -> None:
    for found in (captured.packets, captured.keyed_packets):
        assert malformed(found) == []
        assert having(found, "data") == []
    counts = {name: len(having(captured.packets, name)) for name in ("sip", "sdp", "http2", "http", "rtp")}
    assert all(counts.values()), counts
    assert counts["rtp"] > 80
    assert having(captured.packets, "rtcp") or having(captured.packets, "srtcp")
    assert any(packet["_ws.expert.group"] for packet in captured.packets), "comments are of an expert group"


def test_every_node_is_an_interface_and_every_packet_says_who_saw_it(captured: CapturedLab) -> None:
    for packet in captured.packets:
        assert packet["frame.comment"].startswith(f"{packet['frame.interface_name']}: "), packet
    seen = {packet["frame.interface_name"] for packet in captured.packets}
    assert {"alice", "bob", "pcscf-a", "pcscf-b", "cscf", "imsagw-a", "imsagw-b", "nrf", "kms", "bsf", "hss"} <= seen
    assert seen <= set(captured.lab.nodes())


def test_sip_is_what_the_nodes_said_each_message_once(captured: CapturedLab) -> None:
    call_id = captured.plain["call_id"]
    of_call = [packet for packet in captured.packets if packet["sip.Call-ID"] == call_id]
    invites = [packet for packet in of_call if packet["sip.Method"] == "INVITE"]
    assert [packet["frame.interface_name"] for packet in invites] == ["alice", "pcscf-a", "cscf", "pcscf-b"]
    for packet in invites:
        assert f"call {call_id}" in packet["frame.comment"]
        assert f"trace {captured.plain['trace_id']}" in packet["frame.comment"]
        assert "shown decrypted; keys are masked" in packet["frame.comment"]
    answers = [p for p in of_call if (p["sip.Status-Code"], p["sip.CSeq.method"]) == ("200", "INVITE")]
    assert [packet["frame.interface_name"] for packet in answers] == ["bob", "pcscf-b", "cscf", "pcscf-a"]


def test_packets_stand_in_the_order_of_time(captured: CapturedLab) -> None:
    times = [float(packet["frame.time_epoch"]) for packet in captured.packets]
    assert len(times) > 300
    late = [(before, after) for before, after in itertools.pairwise(times) if after < before]
    assert len(late) < len(times) / 50, late[:5]


def test_rpcs_show_their_path_and_status_and_without_keys_no_message(captured: CapturedLab) -> None:
    paths = {path for packet in captured.packets for path in packet["http2.headers.path"].split(",")}
    assert {
        "/ims.iq.v1.Iq/ReserveAndConfigure",
        "/ims.hss_ueau.v1.NhssImsUeAuthentication/GenerateVectors",
        "/ims.nrf_oauth2.v1.NnrfAccessToken/Get",
        "/ims.bsf_gba.v1.NbsfGba/GetBootstrappingInfo",
    } <= paths
    assert not any("ims.capture" in path or "grpc.health" in path for path in paths)
    assert having(captured.packets, "grpc") == []
    for packet in having(captured.packets, "http2"):
        frames = zip(packet["http2.type"].split(","), packet["http2.length"].split(","), strict=True)
        assert all(length == "0" for kind, length in frames if kind == "0"), packet
        if packet["http2.headers.path"]:
            assert "octets, encrypted" in packet["frame.comment"] or "began before" in packet["frame.comment"]


def test_with_keys_messages_are_dissected_by_their_contracts(captured: CapturedLab) -> None:
    names = {name for packet in captured.keyed_packets for name in packet["protobuf.message.name"].split(",")}
    assert {"ims.hss_ueau.v1.GenerateVectorsResponse", "ims.nrf_nfm.v1.NfProfile"} <= names, names
    bodies = [p for p in captured.keyed_packets if p["http.request.method"] == "POST"]
    assert bodies
    assert all(int(packet["http.content_length_header"]) > 100 for packet in bodies)


def test_requests_to_kms_and_bsf_show_without_their_bodies(captured: CapturedLab) -> None:
    requests = {(packet["http.request.method"], packet["http.request.uri"]) for packet in captured.packets}
    assert {("GET", "/"), ("POST", "/keymanagement")} <= requests
    posted = [packet for packet in captured.packets if packet["http.request.method"] == "POST"]
    assert all("octets, encrypted" in packet["frame.comment"] for packet in posted)


@pytest.mark.attack("T8")
def test_without_the_switch_there_is_no_key_no_token_no_proof(captured: CapturedLab) -> None:
    octets = captured.file.read_bytes()
    keyed = captured.keyed.read_bytes()
    keys = {match[1] for match in SDES_KEY.finditer(keyed)} - {b"A" * 64}
    assert len(keys) >= 4, "the capture with keys has them"
    for key in keys:
        assert key not in octets
    for name, own in load(StateFolder.at(captured.lab.state)).items():
        for label, secret in vars(own).items():
            if secret is not None:
                for form in (secret.reveal(), secret.reveal().hex().encode()):
                    assert form not in octets, (name, label)
                    assert form not in keyed, (name, label)
    for content in (octets, keyed):
        assert not JWT.search(content), "tokens never show, with keys neither"
        assert b"authorization" in content
        assert not re.search(rb'response="(?!<redacted>|")', content)
        assert not re.search(rb'(?<![\w-])(?:ck|ik)="?(?!<redacted>|")[0-9a-f]{8}', content)
    assert b"THIS FILE HOLDS MEDIA KEYS" not in octets
    assert b"THIS FILE HOLDS MEDIA KEYS" in keyed
    assert captured.file.stat().st_mode & 0o077 == 0


def test_media_say_under_which_key_they_go(captured: CapturedLab) -> None:
    comments = [packet["frame.comment"] for packet in having(captured.keyed_packets, "udp")]
    keyed = [comment for comment in comments if "a=crypto:" in comment]
    assert {comment.partition(":")[0] for comment in keyed} == {"imsagw-a", "imsagw-b"}
    sides = {side for text in comments for side in ("access SRTP", "core RTP", "access opaque") if side in text}
    assert sides == {"access SRTP", "core RTP", "access opaque"}


def test_the_command_says_how_wireshark_is_started(captured: CapturedLab) -> None:
    assert any(line.startswith("capturing at") for line in captured.said)
    process = captured.lab.run("capture", "--decode-as", str(captured.folder / "more"))
    assert process.stdout.startswith("WIRESHARK_CONFIG_DIR=") or "WIRESHARK_CONFIG_DIR=" in process.stderr
    entries = (captured.folder / "more" / "decode_as_entries").read_text()
    gm = captured.lab.node("pcscf-a")["settings"]["gm"]
    for spot in gm:
        table = "udp.port" if spot["transport"] == "UDP" else "tcp.port"
        assert f"decode_as_entry: {table},{spot['port']},(none),SIP" in entries
    assert f"tcp.port,{captured.lab.node('nrf')['sbi']['port']},(none),HTTP2" in entries
    assert "pcscf-a" in (captured.folder / "more" / "hosts").read_text()


def test_a_call_with_pcap_is_read_with_the_same_settings(captured: CapturedLab) -> None:
    file = captured.folder / "call.pcapng"
    captured.lab.call("alice", "bob", "--seconds", "0.4", "--pcap", str(file))
    found = packets(file, captured.settings)
    assert malformed(found) == []
    assert len(having(found, "sip")) > 10
    assert len(having(found, "rtp")) > 20


def test_chosen_nodes_kinds_and_calls(captured: CapturedLab, tmp_path: Path) -> None:
    lab, chosen = captured.lab, ("--nodes", "cscf,pcscf-b", "--sip")
    none, some, every = (tmp_path / name for name in ("none.pcapng", "some.pcapng", "every.pcapng"))
    with (
        Capturing(lab, none, *chosen, "--call", "no-such-call"),
        Capturing(lab, some, *chosen),
        Capturing(lab, every, "--sip", "--sba"),
    ):
        calls = [
            lab.call(caller, callee, "--seconds", "0.2") for caller, callee in (("bob", "alice"), ("alice", "bob"))
        ]
        time.sleep(0.2)
    assert packets(none, captured.settings) == []
    found = packets(some, captured.settings)
    assert {packet["frame.interface_name"] for packet in found} == {"cscf", "pcscf-b"}
    assert len(having(found, "sip")) == len(found)
    comments = [packet["frame.comment"] for packet in packets(every, captured.settings)]
    for call in calls:
        of_trace = [comment for comment in comments if call["trace_id"] in comment]
        assert any("/ims.iq.v1.Iq/" in comment for comment in of_trace)
        assert any(f"call {call['call_id']}" in comment for comment in of_trace)


def test_a_node_that_comes_back_is_captured_again(captured: CapturedLab, tmp_path: Path) -> None:
    lab, file = captured.lab, tmp_path / "killed.pcapng"
    with Capturing(lab, file, "--nodes", "bsf") as capturing:
        dead = lab.kill("bsf")
        lab.wait_back("bsf", dead)
        again = "bsf came back and is captured again"
        lab.wait(lambda: again in capturing.said, 15, f"the new bsf is not captured: {capturing.said}")
        lab.run("ticket", "request", "carol", "bob", check=False)  # carol has not bootstrapped yet
        lab.wait(lambda: b"NbsfGba" in file.read_bytes(), 15, f"nothing of the new bsf: {capturing.said}")


def test_a_pipe_and_a_time_and_a_bound_end_a_capture(captured: CapturedLab, tmp_path: Path) -> None:
    lab = captured.lab
    command = [*COMMAND, "capture", "-o", "-", "--seconds", "1", "--state", str(lab.state)]
    piped = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30)
    assert piped.stdout[:4] == b"\x0a\x0d\x0d\x0a"
    reader = subprocess.run(
        ["tshark", "-n", "-r", "-", "-T", "fields", "-e", "frame.number"],
        input=piped.stdout, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert b"time is up" in piped.stderr
    assert len(reader.stdout.splitlines()) == int(piped.stderr.split(b" packets in ")[0].split()[-1])
    with Capturing(lab, tmp_path / "bound.pcapng", "--megabytes", "1", "--media") as capturing:
        lab.call("alice", "bob", "--seconds", "0.1")
    statistics = (tmp_path / "bound.pcapng").read_bytes()
    assert b"\x05\x00\x00\x00" in statistics, "interface statistics close the file"
    assert any("packets in" in line for line in capturing.said)


def test_wrong_usage_and_no_lab(captured: CapturedLab, tmp_path: Path) -> None:
    lab = captured.lab
    wrong = lab.run("capture", "--nodes", "nobody", "-o", str(tmp_path / "x"), check=False)
    assert wrong.returncode == 2
    assert "no node is called nobody" in wrong.stderr
    assert not (tmp_path / "x").exists()
    both = lab.run("capture", "-o", "-", "--json", check=False)
    assert both.returncode == 2
    process = subprocess.run(
        [sys.executable, "-m", "lab.cli", "capture", "-o", str(tmp_path / "y"), "--state", str(tmp_path / "none")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert process.returncode == 1
    assert "no lab runs" in process.stderr


def test_a_homer_server_gets_every_message_of_pcscf_and_cscf_without_keys(captured: CapturedLab) -> None:
    rows = tshark(captured.hep_file, captured.settings, "-Y", "sip", "-T", "fields", "-e", "ip.src", "-e", "ip.dst",
                  "-e", "sip.Call-ID", "-e", "sip.Method", "-e", "frame.time_epoch")  # fmt: skip
    call_id = captured.plain["call_id"]
    invites = [row.split("\t") for row in rows if call_id in row and "\tINVITE\t" in row]
    ends = [(row[0], row[1]) for row in invites]
    layout = captured.lab.resolved["layout"]["addresses"]
    hop = (layout["pcscf-a/core"], layout["cscf"])
    assert ends.count(hop) == 2, "told by both ends of Mw"
    assert (layout["alice"], layout["pcscf-a"]) in ends
    assert all(abs(time.time() - float(row[4])) < 300 for row in invites)
    octets = captured.hep_file.read_bytes()
    keys = {match[1] for match in SDES_KEY.finditer(captured.keyed.read_bytes())} - {b"A" * 64}
    for key in keys:
        assert key not in octets
    assert b"inline:<redacted>" in octets
