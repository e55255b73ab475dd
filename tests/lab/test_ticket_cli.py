"""``imslab ticket``: where a ticket is read from, and what is shown of one."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keying.mikey.codec import encode_ticket
from keying.mikey.payloads import TicketPayload, TicketPolicy
from keying.mikey.registry import PrfFunc, TicketFlag
from lab import cli, show_tickets, ticket_cli
from lab.control import ControlError
from lab.kms_operations import audit_document, check_resolvable
from lab.ticket_words import ERRORS, FLAGS
from protos import kms_control_pb2

OCTETS = bytes(range(1, 220)) * 3
TEXT = base64.b64encode(OCTETS).decode()
ROW: dict[str, Any] = {
    "ticket_id": "ab" * 32,
    "kms": "kms.ims.test",
    "initiator": "sip:alice@ims.test",
    "responders": ["sip:bob@ims.test"],
    "ticket_type": 2,
    "subtype": 1,
    "version": 1,
    "flags": "DEFGHI",
    "not_before": 0,
    "not_after": 1_800_000_000.0,
    "key_spis": ["0a0b0c0d"],
    "uses": 1,
    "ticket": TEXT,
    "REQUEST_INIT": "",
    "REQUEST_RESP": "",
    "trace_id": "0" * 32,
}


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        (TEXT[:76] + "\n" + TEXT[76:] + "\n").encode(),
        OCTETS,
        json.dumps({"ticket": TEXT, "other": 1}).encode(),
    ],
)
def test_a_ticket_is_read_from_a_file_in_every_form(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ticket"
    file.write_bytes(content)
    assert ticket_cli.read_ticket(str(file)) == TEXT


def test_a_ticket_is_read_from_the_argument_itself_however_long() -> None:
    assert ticket_cli.read_ticket(TEXT) == TEXT
    assert ticket_cli.read_ticket(TEXT[:200]) == TEXT[:200]


def test_a_ticket_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ticket_cli, "ask", lambda _, op, params: asked.append((op, params)) or {})
    CliRunner().invoke(cli.imslab, ["ticket", "resolve", "bob", "-", "--json"], input=TEXT + "\n")
    assert asked == [("ticket-resolve", {"user": "bob", "ticket": TEXT, "options": {}})]


DEEP = b'{"ticket":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    "content",
    [
        b"", b'{"no": 1}', b"{broken", b"A" * (ticket_cli.MAX_TICKET_FILE + 4), b'{"ticket": null}',
        b'{"TRANSFER_INIT": {"a": 1}}', DEEP,
    ],
)  # fmt: skip
def test_a_file_without_a_ticket_is_wrong_usage(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ticket"
    file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        ticket_cli.read_ticket(str(file))
    assert ended.value.code == 2


def test_a_request_names_users_and_groups_and_shows_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ticket_cli, "ask", lambda _, op, params: asked.append((op, params)) or ROW)
    command = ["ticket", "request", "alice", "bob", "--group", "sip:all@ims.test", "--reusable", "--validity", "60"]
    shown = CliRunner().invoke(cli.imslab, command)
    assert shown.exit_code == 0, shown.output
    ((op, params),) = asked
    assert (op, params["responders"], params["reusable"]) == ("ticket-request", ["bob", "sip:all@ims.test"], True)
    assert (params["validity_s"], params["mode_3"], params["no_forking"]) == (60, False, False)
    for word in ("kms.ims.test", "sip:bob@ims.test", "DEFGHI", "unbounded", TEXT):
        assert word in shown.output


def test_what_a_ticket_says_cannot_paint_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = {**ROW, "responders": ["sip:\x1b[31mbob@ims.test"]}
    monkeypatch.setattr(ticket_cli, "ask_supervisor", lambda *_: {"tickets": [evil]})
    shown = CliRunner().invoke(cli.imslab, ["ticket", "show", "alice"])
    assert shown.exit_code == 0
    assert "\x1b" not in shown.output


def run(*command: str) -> Any:
    return CliRunner().invoke(cli.imslab, [*command])


def test_a_group_alone_is_enough_and_nobody_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ticket_cli, "ask", lambda _, op, params: asked.append(params) or ROW)
    assert run("ticket", "request", "alice", "--group", "sip:all@ims.test").exit_code == 0
    assert [params["responders"] for params in asked] == [["sip:all@ims.test"]]
    ended = run("ticket", "request", "alice")
    assert ended.exit_code == 2
    assert "at least one RESPONDER or --group" in ended.output
    assert len(asked) == 1


DETAILS: dict[str, Any] = {"result": "refused", "cause": "MIKEY_INVALID_TP_PAR", "reason": "no", "trace_id": "ab" * 16}


def refuse(monkeypatch: pytest.MonkeyPatch, kind: str = "failed", details: dict[str, Any] | None = None) -> None:
    def ask(*_: object) -> None:
        raise ControlError("the UE alice refused", kind, details)

    monkeypatch.setattr(ticket_cli, "ask", ask)


@pytest.mark.parametrize("command", [("request", "alice", "bob"), ("resolve", "alice", TEXT)])
def test_a_refusal_gives_its_trace_and_where_to_read_on(monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    refuse(monkeypatch, details=DETAILS)
    ended = run("ticket", *command)
    assert ended.exit_code == 1
    assert "imslab kms audit --user alice" in ended.output
    assert f"imslab flow {'ab' * 16}" in ended.output
    ended = run("ticket", *command, "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout) == DETAILS


def test_wrong_usage_is_not_sent_to_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "usage")
    ended = run("ticket", "request", "alice", "bob")
    assert (ended.exit_code, "audit" in ended.output) == (2, False)


def test_each_flag_has_a_meaning_that_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(FLAGS) == {flag.name for flag in TicketFlag}
    monkeypatch.setattr(ticket_cli, "ask_supervisor", lambda *_: {"tickets": [ROW]})
    plain, explained = run("ticket", "show", "alice").output, run("ticket", "show", "alice", "--explain").output
    for letter in "DEFGHI":
        assert FLAGS[letter] in explained
        assert FLAGS[letter] not in plain
    assert FLAGS["J"] not in explained


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    show_tickets.show_ticket({**ROW, **changes}, now=1_800_000_001.0)
    return capsys.readouterr().out


def test_an_ended_ticket_is_marked_and_times_have_a_zone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert "2027-01-15 08:00:00 UTC (expired)" in shown(capsys)
    assert "expired" not in shown(capsys, not_after=1_800_000_002.0)
    assert "expired" not in shown(capsys, not_after=0)


def test_what_the_kms_altered_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, altered=["validity: asked 7200 s, granted 600 s", "reuse: asked for, not granted"])
    assert "altered    validity: asked 7200 s, granted 600 s" in out
    assert "altered    reuse: asked for, not granted" in out


def forked(initiator_data: bytes = b"", flags: int = TicketFlag.D | TicketFlag.E | TicketFlag.I) -> bytes:
    policy = TicketPolicy(1, 1, 1, PrfFunc.MIKEY_1, int(flags))
    return encode_ticket(TicketPayload(policy, b"opaque", initiator_data))


def test_a_forked_ticket_alone_is_not_asked_about_and_how_to_get_one_is_said() -> None:
    with pytest.raises(ControlError) as caught:
        check_resolvable(forked(), "bob")
    assert caught.value.kind == "usage"
    for word in ("TRANSFER_INIT", "--exchange FILE", "--no-forking", "bob"):
        assert word in str(caught.value)
    check_resolvable(forked(b"vi and vr"), "bob")
    check_resolvable(forked(flags=TicketFlag.D | TicketFlag.E), "bob")
    check_resolvable(b"no ticket at all", "bob")


ENTRY: dict[str, Any] = {"at": 1.8e9, "operation": "request", "outcome": "granted", "user": "sip:alice@ims.test"}


def audited(kms: str, **changes: Any) -> dict[str, Any]:
    entry = kms_control_pb2.AuditEntry(**{**ENTRY, **changes})
    return audit_document(kms, entry, {"kms.ims.test": "kms", "kms.partner.test": "kms-p"})


def test_the_audit_is_a_table_with_one_name_for_each_kms(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    show_tickets.show_audit(
        [
            audited("kms-p", operation="relay", user="sip:erin@partner.test", peer_kms="kms.ims.test"),
            audited("kms", operation="resolve", user="sip:erin@partner.test", peer_kms="kms.partner.test"),
            audited("kms", responders=["sip:erin@partner.test"], ticket_id="0123456789abcdef00", outcome="refused"),
        ]
    )
    header, relay, resolve, request = capsys.readouterr().out.splitlines()
    assert header.split() == [*show_tickets.AUDIT_COLUMNS]
    assert "2027-01-15 08:00:00 UTC  kms-p  asked kms to resolve" in relay
    assert " kms    resolve for kms-p " in resolve
    assert " 0123456789abcdef" in request
    assert len({line.index("sip:") for line in (relay, resolve, request)}) == 1
    assert "kms.ims.test" not in relay + resolve


@pytest.mark.parametrize(
    ("command", "answer", "said"),
    [
        ("audit", {"entries": [audited("kms")], "failed": {"kms-p": "kms-p does not answer"}}, "sip:alice@ims.test"),
        ("rotate", {"tpk_id": {"kms": "0a0b"}, "failed": {"kms-p": "kms-p does not answer"}}, "with key 0a0b"),
    ],
)
def test_one_kms_that_is_down_keeps_nothing_of_the_others_back(
    monkeypatch: pytest.MonkeyPatch, command: str, answer: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(ticket_cli, "ask_supervisor", lambda *_: answer)
    ended = run("kms", command)
    assert ended.exit_code == 1
    assert said in ended.stdout
    assert ended.stderr == "imslab: kms-p does not answer\n"
    ended = run("kms", command, "--json")
    assert (ended.exit_code, json.loads(ended.stdout)) == (1, answer)


def test_every_mikey_error_is_explained() -> None:
    from keying.mikey.registry import ErrorNumber

    assert set(ERRORS) == {number.name for number in ErrorNumber}
