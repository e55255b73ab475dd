"""Calls with keys from the KMS on a whole lab: one domain and two, what is shown of them, and what happens when nodes die."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.capture import Capture
from tests.e2e.lab import Lab, running
from tests.e2e.live import LiveCall, behaving
from tests.keying.mikey.independent.rfc6043 import verify_exchange

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

KMS_CALL = ("--security", "e2e-kms", "--seconds", "1")
REFUSED_WITHIN_S = 15.0
"""A call that cannot be keyed ends within this time, seconds: three waits of a UE for its KMS."""
DATA_TYPES = {
    "REQUEST_INIT": 11,
    "REQUEST_RESP": 13,
    "TRANSFER_INIT": 14,
    "TRANSFER_RESP": 15,
    "RESOLVE_INIT": 16,
    "RESOLVE_RESP": 18,
}
"""First octet after the version (IANA MIKEY data types)."""


def kms_call(lab: Lab, caller: str, callee: str, *arguments: str, status: int | None = 0) -> dict[str, Any]:
    return lab.call(caller, callee, *KMS_CALL, *arguments, status=status)


def assert_end_to_end(result: dict[str, Any], caller: str, callee: str) -> None:
    assert result["result"] == "established", result
    assert result["security"] == "e2e-kms"
    legs = result["legs"]
    ends = [leg for leg in legs if leg["side"] == "end"]
    assert [leg["node"] for leg in ends] == [caller, callee]
    assert {(leg["protection"], leg["keying"]) for leg in ends} == {("SRTP", "MIKEY-TICKET")}
    assert len({leg["suite"] for leg in ends}) == 1
    between = [leg for leg in legs if leg["side"] != "end"]
    assert len(between) == 4, legs
    assert {(leg["protection"], leg["keying"], leg["suite"]) for leg in between} == {("opaque", "", "")}
    assert all(leg["packets_in"] > 20 for leg in between)
    assert sum(leg["auth_failures"] + leg["replays"] for leg in legs) == 0
    assert set(result["audio"]) == {f"{caller}->{callee}", f"{callee}->{caller}"}
    assert all(heard["heard"] for heard in result["audio"].values())


@pytest.mark.parametrize(("caller", "callee"), [("alice", "bob"), ("bob", "alice"), ("alice", "erin"), ("erin", "bob")])
@pytest.mark.clause("TS 33.328", "6.2.3.1-1", "4.1.2.2-1", "4.2.4-1")
def test_two_users_talk_under_keys_of_the_kms_that_no_gateway_has(lab: Lab, caller: str, callee: str) -> None:
    assert_end_to_end(kms_call(lab, caller, callee), caller, callee)


def steps_of(lab: Lab, call_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    flow = lab.flow(call_id)
    return flow, flow["steps"]


def index_of(steps: list[dict[str, Any]], kind: str, source: str, target: str, label: str) -> int:
    return next(
        number
        for number, step in enumerate(steps)
        if (step["kind"], step["from"], step["to"]) == (kind, source, target) and step["label"].startswith(label)
    )


def test_one_trace_shows_request_transfer_resolve_and_the_call_between_two_domains(lab: Lab) -> None:
    result = kms_call(lab, "alice", "erin")
    flow, steps = steps_of(lab, result["call_id"])
    assert flow["traces"] == [result["trace_id"]]
    asked = index_of(steps, "http", "alice", "kms", "POST REQUEST_INIT_PSK: T, ")
    granted = index_of(steps, "http", "kms", "alice", "200 REQUEST_RESP: T, ")
    invite = next(number for number, step in enumerate(steps) if step["label"].startswith("INVITE +SDP +MIKEY"))
    taken = index_of(steps, "mikey", "erin", "", "TRANSFER_INIT received")
    resolve = index_of(steps, "http", "erin", "kms-p", "POST RESOLVE_INIT_PSK: T, ")
    relayed = index_of(steps, "rpc", "kms-p", "kms", "NkmsResolve.ResolveTicket")
    resolved = index_of(steps, "http", "kms-p", "erin", "200 RESOLVE_RESP: T, ")
    answered = index_of(steps, "mikey", "erin", "", "TRANSFER_RESP sent")
    verified = index_of(steps, "mikey", "alice", "", "TRANSFER_RESP received")
    media = next(number for number, step in enumerate(steps) if step["kind"] == "media")
    order = [asked, granted, invite, taken, resolve, relayed, resolved, answered, verified, media]
    assert order == sorted(order)
    assert "TICKET" in steps[granted]["label"]
    decisions = [(step["from"], step["label"]) for step in steps if step["kind"] == "decision"]
    assert ("kms", "request granted") in decisions
    assert {"kms", "kms-p", "cscf", "cscf-p"} <= set(flow["participants"])
    for form in ("text", "mermaid", "html"):
        drawn = lab.run("flow", result["call_id"], "--format", form).stdout
        for expected in ("POST REQUEST_INIT_PSK", "RESOLVE_RESP", "NkmsResolve.ResolveTicket", "TRANSFER_RESP"):
            assert expected in drawn, (form, expected)


def test_a_first_ticket_shows_the_bootstrapping_behind_its_key(lab: Lab) -> None:
    dead = lab.kill("bob")
    lab.wait_back("bob", dead)
    ticket = lab.json("ticket", "request", "bob", "alice")
    _, steps = steps_of(lab, ticket["trace_id"])
    points = {(step["from"], step["to"], step["interface"]) for step in steps if step["kind"] in ("http", "rpc")}
    assert {("bob", "bsf", "Ub"), ("bsf", "hss", "Zh"), ("bob", "kms", "Ua"), ("kms", "bsf", "Zn")} <= points
    lab.json("register", "bob")


@pytest.fixture(scope="module")
def written(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An e2e KMS call between the domains with everything the switch gives: exchange file and capture."""
    folder = tmp_path_factory.mktemp("exchange")
    files = {"exchange": folder / "exchange.json", "pcap": folder / "call.pcapng"}
    arguments = [*KMS_CALL, "--with-keys", "--exchange", str(files["exchange"]), "--pcap", str(files["pcap"])]
    process = lab.run("call", "alice", "erin", *arguments, "--json")
    return {**files, "result": json.loads(process.stdout), "stderr": process.stderr}


@pytest.mark.attack("T8")
def test_the_exchange_file_holds_the_six_messages_and_three_keys_for_its_owner_alone(written: dict[str, Any]) -> None:
    path: Path = written["exchange"]
    assert written["result"]["exchange"] == str(path)
    assert "WARNING" in written["stderr"]
    assert str(path) in written["stderr"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    assert set(content) == {*DATA_TYPES, "psk_i", "psk_r", "tpk"}
    for name, data_type in DATA_TYPES.items():
        octets = base64.b64decode(content[name], validate=True)
        assert (octets[0], octets[1]) == (1, data_type), name
    assert [len(bytes.fromhex(content[name])) for name in ("psk_i", "psk_r", "tpk")] == [32, 32, 32]
    assert content["psk_i"] != content["psk_r"]


def test_who_has_the_file_can_check_every_message_and_derive_the_keys_of_the_media(written: dict[str, Any]) -> None:
    done = verify_exchange(json.loads(written["exchange"].read_text()))
    assert done.initiator == b"sip:alice@ims.test"
    assert done.responder == b"sip:erin@partner.test"
    assert set(done.sessions) == {1, 2}


def test_a_gateway_that_is_made_to_show_all_its_keys_has_none_for_this_call(written: dict[str, Any]) -> None:
    capture = Capture(written["pcap"])
    assert sum(frame.is_rtp for frame in capture.frames) > 100
    assert capture.keys == []
    done = verify_exchange(json.loads(written["exchange"].read_text()))
    for number, session in done.sessions.items():
        for name in ("tek", "salt"):
            assert session[name] not in capture.octets, (number, name)


def test_a_reused_ticket_still_gives_a_complete_exchange_file(lab: Lab, tmp_path: Path) -> None:
    lab.json("ticket", "request", "bob", "alice", "--reusable")
    for number in (1, 2):
        path = tmp_path / f"{number}.json"
        result = kms_call(lab, "bob", "alice", "--with-keys", "--exchange", str(path))
        assert_end_to_end(result, "bob", "alice")
        done = verify_exchange(json.loads(path.read_text()))
        assert done.initiator == b"sip:bob@ims.test"
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in (1, 2))
    assert first["REQUEST_INIT"] == second["REQUEST_INIT"] != ""
    assert first["TRANSFER_INIT"] != second["TRANSFER_INIT"]


def test_a_ticket_by_hand_is_requested_shown_resolved_and_audited(lab: Lab, tmp_path: Path) -> None:
    wish = ("--reusable", "--no-forking", "--validity", "600")
    ticket = lab.json("ticket", "request", "alice", "erin", *wish)
    assert ticket["kms"] == "kms.ims.test"
    assert ticket["responders"] == ["sip:erin@partner.test"]
    assert 0 < ticket["not_after"] - time.time() <= 600
    held = lab.json("ticket", "show", "alice")["tickets"]
    assert ticket["ticket_id"] in {each["ticket_id"] for each in held}
    file = tmp_path / "ticket.json"
    file.write_text(json.dumps(ticket))
    resolved = lab.json("ticket", "resolve", "erin", str(file))
    assert (resolved["kms"], resolved["responder"]) == ("kms.partner.test", "sip:erin@partner.test")
    assert base64.b64decode(resolved["RESOLVE_INIT"])[1] == DATA_TYPES["RESOLVE_INIT"]
    refused = lab.run("ticket", "resolve", "bob", str(file), check=False)
    assert refused.returncode == 1, refused.stdout
    assert "INVALID" in refused.stderr.upper() or "refused" in refused.stderr
    entries = lab.json("kms", "audit", "-n", "50")["entries"]
    told = {
        (e["kms"], e["operation"], e["outcome"], e["user"]) for e in entries if e["ticket_id"] == ticket["ticket_id"]
    }
    assert ("kms", "request", "granted", "sip:alice@ims.test") in told
    assert ("kms-p", "relay", "granted", "sip:erin@partner.test") in told
    assert ("kms", "resolve", "granted", "sip:erin@partner.test") in told
    assert ("kms", "resolve", "refused", "sip:bob@ims.test") in told


def assert_refused(result: dict[str, Any], began: float, *words: str) -> None:
    assert result["result"] in ("refused", "failed"), result
    assert time.monotonic() - began < REFUSED_WITHIN_S
    assert any(word in result["reason"] for word in words), result
    assert result["legs"] == []


@pytest.mark.attack("T5")
def test_who_may_resolve_no_ticket_is_not_called_in_the_clear_instead(lab: Lab) -> None:
    began = time.monotonic()
    result = kms_call(lab, "alice", "carol", status=1)
    assert_refused(result, began, "kms-refused")
    assert result["sip_status"] == 488


@contextmanager
def halted(lab: Lab, *instances: str) -> Iterator[None]:
    """These nodes take connections and never answer, for the length of the block: worse than a death."""
    pids = [int(lab.nodes()[instance]["pid"]) for instance in instances]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.attack("T9")
def test_a_caller_whose_kms_is_silent_is_told_so_in_time_and_the_call_works_when_it_is_back(lab: Lab) -> None:
    with halted(lab, "kms"):
        began = time.monotonic()
        assert_refused(kms_call(lab, "alice", "bob", status=1), began, "kms-unreachable")
        plain = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.5")
        assert plain["result"] == "established"
    assert_end_to_end(kms_call(lab, "alice", "bob"), "alice", "bob")


@pytest.mark.attack("T9")
@pytest.mark.parametrize("silent", ["kms-p", "kms"])
def test_a_responder_whose_ticket_cannot_be_resolved_answers_488_in_time(lab: Lab, silent: str) -> None:
    lab.json("ticket", "request", "alice", "erin", "--reusable")
    with halted(lab, silent):
        began = time.monotonic()
        result = kms_call(lab, "alice", "erin", status=1)
        assert_refused(result, began, "kms-unreachable")
        assert result["sip_status"] == 488
    assert_end_to_end(kms_call(lab, "alice", "erin"), "alice", "erin")


@pytest.mark.attack("T9")
def test_a_ue_that_cannot_bootstrap_says_so_in_time_and_works_when_the_bsf_is_back(lab: Lab) -> None:
    dead = lab.kill("alice")
    lab.wait_back("alice", dead)
    lab.json("register", "alice")
    with halted(lab, "bsf"):
        began = time.monotonic()
        assert_refused(kms_call(lab, "alice", "bob", status=1), began, "kms-unreachable")
    assert_end_to_end(kms_call(lab, "alice", "bob"), "alice", "bob")


@pytest.mark.attack("T9")
@pytest.mark.parametrize("instance", ["kms", "kms-p", "bsf", "bsf-p"])
def test_after_kill_9_between_calls_a_node_is_back_with_its_keys(lab: Lab, instance: str) -> None:
    ticket = lab.json("ticket", "request", "alice", "erin", "--reusable")
    dead = lab.kill(instance)
    lab.wait_back(instance, dead)
    result = kms_call(lab, "alice", "erin")
    assert_end_to_end(result, "alice", "erin")
    held = {each["ticket_id"]: each["uses"] for each in lab.json("ticket", "show", "alice")["tickets"]}
    assert held[ticket["ticket_id"]] >= 1


@pytest.mark.attack("T9")
@pytest.mark.parametrize("instance", ["kms", "kms-p", "bsf", "bsf-p"])
def test_kill_9_while_the_callee_rings_harms_no_call(lab: Lab, instance: str) -> None:
    with behaving(lab, "erin", answer_after_s=3), LiveCall(lab, "alice", "erin", *KMS_CALL, state="ringing") as call:
        dead = lab.kill(instance)
        call.wait_for("established")
        result = call.result()
    assert_end_to_end(result, "alice", "erin")
    lab.wait_back(instance, dead)


@pytest.mark.attack("T9")
def test_kill_9_of_every_kms_and_bsf_during_a_call_leaves_its_media_alone(lab: Lab) -> None:
    with LiveCall(lab, "alice", "erin", "--security", "e2e-kms") as call:
        dead = {instance: lab.kill(instance) for instance in ("kms", "kms-p", "bsf", "bsf-p")}
        for instance, pid in dead.items():
            lab.wait_back(instance, pid)
        assert call.modify("alice", "hold") == 200
        assert call.modify("alice", "resume") == 200
        call.hang_up("alice")
        result = call.result()
    assert_end_to_end(result, "alice", "erin")
    assert_end_to_end(kms_call(lab, "erin", "alice"), "erin", "alice")


def test_a_new_ticket_key_ends_neither_calls_nor_tickets_under_the_old_one(lab: Lab) -> None:
    before = lab.json("ticket", "request", "alice", "bob", "--reusable")
    with LiveCall(lab, "alice", "bob", "--security", "e2e-kms") as call:
        fresh = lab.json("kms", "rotate", "--kms", "kms")["tpk_id"]["kms"]
        call.talk(1.0)
        call.hang_up("bob")
        result = call.result()
    assert_end_to_end(result, "alice", "bob")
    assert_end_to_end(kms_call(lab, "alice", "bob"), "alice", "bob")
    held = {each["ticket_id"]: each["uses"] for each in lab.json("ticket", "show", "alice")["tickets"]}
    assert held[before["ticket_id"]] >= 2
    after = lab.json("ticket", "request", "alice", "bob")
    entries = lab.json("kms", "audit", "--kms", "kms", "-n", "50")["entries"]
    sealed = {entry["ticket_id"]: entry["tpk_id"] for entry in entries if entry["operation"] == "request"}
    assert sealed[after["ticket_id"]] == fresh != sealed[before["ticket_id"]]


def test_a_lab_without_bsf_shares_static_keys_and_calls_are_as_secret(own_folder: Path) -> None:
    def change(description: dict[str, Any]) -> None:
        description["kms"] = {**description.get("kms", {}), "static_psk": True}
        for home in description["home_domains"]:
            del home["bsf"]

    with running(own_folder, change) as lab:
        assert not any(node["kind"] == "bsf" for node in lab.nodes().values())
        assert_end_to_end(kms_call(lab, "alice", "erin"), "alice", "erin")


def test_a_ue_that_prefers_the_kms_chooses_it_and_falls_back_only_where_policy_says_so(own_folder: Path) -> None:
    def change(description: dict[str, Any]) -> None:
        alice, bob = description["users"][:2]
        alice["kms_policy"] = {"level": "preferred", "fallback": True}
        bob["kms_policy"] = {"level": "preferred"}

    with running(own_folder, change) as lab:
        assert_end_to_end(lab.call("alice", "bob", "--seconds", "1"), "alice", "bob")
        with halted(lab, "kms"):
            fallen_back = lab.call("alice", "bob", "--seconds", "0.5")
            assert (fallen_back["result"], fallen_back["security"]) == ("established", "e2ae-sdes")
            began = time.monotonic()
            refused = lab.call("bob", "alice", "--seconds", "0.5", status=1)
            assert_refused(refused, began, "kms-unreachable")
        _, steps = steps_of(lab, fallen_back["call_id"])
        assert any(step["kind"] == "decision" and "fallback" in step["label"] for step in steps)


@pytest.mark.attack("T8")
def test_a_lab_that_never_exports_keys_gives_no_exchange_file(own_folder: Path) -> None:
    def change(description: dict[str, Any]) -> None:
        description["key_export"] = "never"

    with running(own_folder, change) as lab:
        target = own_folder / "exchange.json"
        process = lab.run("call", "alice", "bob", *KMS_CALL, "--with-keys", "--exchange", str(target), check=False)
        assert process.returncode == 2
        assert not target.exists()
        assert_end_to_end(kms_call(lab, "alice", "bob"), "alice", "bob")
