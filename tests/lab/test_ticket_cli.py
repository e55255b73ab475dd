"""``imslab ticket``: where a ticket is read from, and what is shown of one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab import cli, ticket_cli

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
    monkeypatch.setattr(ticket_cli, "ask_supervisor", lambda _, op, params: asked.append((op, params)) or {})
    CliRunner().invoke(cli.imslab, ["ticket", "resolve", "bob", "-", "--json"], input=TEXT + "\n")
    assert asked == [("ticket-resolve", {"user": "bob", "ticket": TEXT, "options": {}})]


@pytest.mark.parametrize("content", [b"", b'{"no": 1}', b"{broken"])
def test_a_file_without_a_ticket_is_wrong_usage(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ticket"
    file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        ticket_cli.read_ticket(str(file))
    assert ended.value.code == 2


def test_a_request_names_users_and_groups_and_shows_what_came(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ticket_cli, "ask_supervisor", lambda _, op, params: asked.append((op, params)) or ROW)
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
