"""The command line without a lab: usage, exit status, and that it stays light."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab import cli
from lab.config import load
from lab.control import ControlError, Json
from lab.launch import Started
from lab.resolve import resolve
from lab.spans import AttributeValue
from lab.state import StateFolder
from lab.tracestore import TraceStore
from tests.lab.traced import CALL, call_spans, kms_spans

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.imslab, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["call", "alice"],
        ["call", "alice", "bob", "--security", "rot13"],
        ["call", "alice", "bob", "--seconds", "0"],
        ["call", "alice", "bob", "--with-keys"],
        ["call", "alice", "bob", "--security", "e2e-kms", "--exchange", "/tmp/exchange.json"],
        ["call", "alice", "bob", "--security", "e2e-sdes", "--with-keys", "--exchange", "/tmp/exchange.json"],
        ["call", "alice", "bob", "--with-keys", "--exchange", "/tmp/exchange.json"],
        ["ticket", "request", "alice"],
        ["ticket", "request", "alice", "bob", "--validity", "-1"],
        ["ticket", "resolve", "bob", "no ticket at all"],
        ["kms", "audit", "-n", "0"],
        ["call", "alice", "bob", "--option", "no-value"],
        ["call", "alice", "bob", "--play", "/no/such/file.wav"],
        ["call", "alice", "bob", "--suite", "FOO"],
        ["register", "alice", "--expires", "-5"],
        ["register", "alice", "--media-security", "foo"],
        ["flow", "--format", "pdf"],
        ["logs", "hss", "-n", "-1"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], state: str) -> None:
    extra = ["--state", state] if arguments[0] != "no-such-command" else []
    assert invoke(*arguments, *extra).exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["register", "alice"],
        ["call", "alice", "bob"],
        ["ue", "status", "bob"],
        ["ticket", "request", "alice", "bob"],
        ["ticket", "resolve", "bob", "AgID"],
        ["kms", "rotate"],
    ],
)
def test_without_a_lab_a_command_fails_and_says_what_to_do(command: list[str], state: str) -> None:
    result = invoke(*command, "--state", state)
    assert result.exit_code == 1
    assert "imslab up" in result.output


def test_a_call_that_cannot_be_tried_is_still_one_json_object(state: str) -> None:
    result = CliRunner().invoke(cli.imslab, ["call", "alice", "bob", "--json", "--state", state])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["result"], document["legs"], document["audio"]) == ("failed", [], {})


def test_an_unknown_suite_is_refused_with_those_there_are(state: str) -> None:
    result = invoke("call", "alice", "bob", "--suite", "AEAD_AES_128_GCM", "--suite", "FOO", "--state", state)
    assert result.exit_code == 2
    assert re.search("FOO.*AES_CM_128_HMAC_SHA1_80", result.output, re.DOTALL)


@pytest.mark.parametrize(
    "arguments",
    [
        ["call", "alice", "bob", "--record", "{file}/heard"],
        ["call", "alice", "bob", "--pcap", "{file}/call.pcapng"],
        ["call", "alice", "bob", "--security", "e2e-kms", "--with-keys", "--exchange", "{file}/exchange.json"],
        ["demo", "--out", "{file}/out"],
        ["up", "--state", "{file}/state"],
    ],
)
def test_what_cannot_be_written_is_named_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, arguments: list[str]
) -> None:
    def ask(*_: object, **__: object) -> Any:
        raise AssertionError("a call was placed")

    monkeypatch.setattr(cli, "ask", ask)
    file = tmp_path / "file"
    file.touch()
    named = [argument.format(file=file) for argument in arguments]
    result = invoke(*named, *([] if "--state" in named else ["--state", state]))
    assert result.exit_code == 2
    assert f"{file}/" in result.output
    assert "Not a directory" in result.output


def test_a_running_lab_of_another_description_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lab import launch
    from lab.config import load
    from lab.state import StateFolder

    config, other = ROOT / "config" / "lab.yaml", tmp_path / "other.yaml"
    text = config.read_text()
    other.write_text(text.replace("alice", "alina"))
    same = tmp_path / "same.yaml"
    same.write_text("# the same lab\n" + text)
    folder = StateFolder.at(tmp_path / "state")
    folder.create()
    folder.description.write_text(launch._digest(load(config)))
    monkeypatch.setattr(launch, "ask", lambda *_: {"nodes": []})
    assert invoke("up", "--state", str(folder.root)).exit_code == 0
    assert invoke("up", "--config", str(same), "--state", str(folder.root)).exit_code == 0
    refused = invoke("up", "--config", str(other), "--state", str(folder.root))
    assert refused.exit_code == 2
    assert str(other) in refused.output


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "hss.log").write_text("a\nb\nc\n")
    state = str(tmp_path)
    printed = [invoke("logs", "hss", "-n", count, "--state", state).output for count in ("0", "2", "9")]
    assert printed == ["", "b\nc\n", "a\nb\nc\n"]


def test_down_without_a_lab_is_no_fault(state: str) -> None:
    result = invoke("down", "--state", state)
    assert (result.exit_code, result.output.strip()) == (0, "no lab runs here")


def test_a_faulty_description_ends_with_two_and_lists_its_faults(state: str, tmp_path: Path) -> None:
    config = tmp_path / "lab.yaml"
    config.write_text("users: 3\nfoo: 1\n")
    result = invoke("up", "--config", str(config), "--state", state)
    assert result.exit_code == 2
    assert f"{config}:2: foo: is unknown" in result.output
    assert not Path(state).exists()


@pytest.mark.parametrize(("result", "code"), [("established", 0), ("refused", 1), ("failed", 1)])
def test_the_exit_status_of_a_call_is_its_verdict(
    monkeypatch: pytest.MonkeyPatch, state: str, result: str, code: int
) -> None:
    verdict = {
        "call_id": "c", "trace_id": "t", "result": result, "sip_status": 488, "setup_ms": 1.0, "security": "none",
        "legs": [], "audio": {"alice->bob": {"heard": True, "snr_db": 1.0, "loss": 0.0, "jitter_ms": 0.1}}, "reason": "",
    }  # fmt: skip
    asked: list[dict[str, Any]] = []

    def ask(path: Path, op: str, params: dict[str, Any], progress: object = None) -> Any:
        asked.append(params)
        return verdict

    monkeypatch.setattr(cli, "ask", ask)
    done = invoke("call", "alice", "bob", "--security", "e2ae-sdes", "--option", "media=off", "--state", state)
    assert done.exit_code == code
    assert asked[0]["options"] == {"media": "off"}
    assert asked[0]["security"] == "e2ae-sdes"
    assert result in done.output


@pytest.mark.parametrize(
    ("command", "there_are"),
    [
        (["user", "nobody"], "no user is called nobody; there are alice, bob, carol, dave, erin"),
        (["pki", "show", "nope"], "nope has no certificate; there are those of alice, bob, bsf"),
        (["pki", "revoke", "nope"], "nope has no certificate; there are those of alice, bob, bsf"),
        (["pki", "reissue", "../x"], "../x has no certificate; there are those of alice, bob, bsf"),
    ],
)
def test_who_is_not_there_is_answered_with_who_is(state: str, command: list[str], there_are: str) -> None:
    resolve(load(ROOT / "config" / "lab.yaml"), StateFolder.at(state))
    done = invoke(*command, "--state", state)
    assert done.exit_code == 2
    assert there_are in done.output


@pytest.mark.parametrize("client", ["baresip", "linphone", "sipp"])
def test_every_file_of_a_client_is_listed(state: str, tmp_path: Path, client: str) -> None:
    resolve(load(ROOT / "config" / "lab.yaml"), StateFolder.at(state))
    folder = tmp_path / client
    done = CliRunner().invoke(cli.imslab, ["client-config", client, "dave", "-o", str(folder), "--state", state])
    assert done.exit_code == 0
    listed = {line.partition("  ")[0] for line in done.stderr.splitlines() if line.startswith(str(folder))}
    assert listed == {str(path) for path in folder.iterdir()}


@pytest.mark.parametrize(("status", "why"), [(200, ""), (0, ""), (403, ": SIP 403 Odd")])
def test_a_de_registration_that_was_refused_is_told_so(monkeypatch: pytest.MonkeyPatch, status: int, why: str) -> None:
    answer = {"user": "alice", "registered": False, "sip_status": status, "reason": "Odd", "trace_id": "t"}
    monkeypatch.setattr(cli, "ask_supervisor", lambda *_: answer)
    assert invoke("deregister", "alice").output.startswith(f"alice is no longer registered{why}\n")


def test_a_refusal_of_kind_usage_ends_with_two(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    def ask(*_: object, **__: object) -> Any:
        raise ControlError("no user is called nobody", "usage")

    monkeypatch.setattr(cli, "ask", ask)
    done = invoke("call", "alice", "nobody", "--json", "--state", state)
    assert done.exit_code == 2
    assert "nobody" in done.output


def test_a_flow_is_drawn_from_the_store_of_a_lab_that_is_down(tmp_path: Path) -> None:
    from lab.config import load
    from lab.resolve import resolve
    from lab.state import StateFolder

    folder = StateFolder.at(tmp_path / "state")
    resolve(load(ROOT / "config" / "lab.yaml"), folder)
    store = TraceStore(folder.traces)
    store.add_spans(call_spans())
    store.close()
    text = invoke("flow", "--state", str(folder.root))
    assert text.exit_code == 0
    assert "INVITE +SDP" in text.output
    page = tmp_path / "new" / "call.html"
    assert invoke("flow", CALL[:6], "--format", "html", "-o", str(page), "--state", str(folder.root)).exit_code == 0
    assert "<svg" in page.read_text()
    assert page.read_text().count(f">Call {CALL}<") == 2, "the title of the page and its heading, and no other"
    unknown = invoke("flow", "unknown", "--state", str(folder.root))
    assert unknown.exit_code == 2
    assert f"no call has the Call-ID unknown; the last ones have {CALL}" in unknown.output
    less = invoke("flow", "--without", "iq,imsagw-a", "--without", "hss", "--state", str(folder.root))
    assert (less.exit_code, "Iq" in less.output, "imsagw-a" in less.output) == (0, False, False)
    wrong = invoke("flow", "--without", "nobody", "--state", str(folder.root))
    assert wrong.exit_code == 2
    assert "there are alice, pcscf-a" in wrong.output


def test_a_ticket_asked_for_by_hand_is_drawn_by_its_trace(tmp_path: Path) -> None:
    from lab.config import load
    from lab.resolve import resolve
    from lab.state import StateFolder

    folder = StateFolder.at(tmp_path / "state")
    resolve(load(ROOT / "config" / "lab.yaml"), folder)
    store = TraceStore(folder.traces)
    trace = "ab" * 16
    store.add_spans([replace(span, trace_id=trace) for span in kms_spans() if "sip.call_id" not in span.attributes])
    store.close()
    drawn = invoke("flow", trace, "--state", str(folder.root))
    assert drawn.exit_code == 0, drawn.output
    assert f"call {trace}" in drawn.output
    assert "POST REQUEST_INIT_PSK: T, RANDRi" in drawn.output


HOSTILE = "c\x1b]0;pwned\x07\x1b[2J\x9b31m\u202eevil\n[bold red]fake[/]\r"
"""What a sender may put into a Call-ID or reason: terminal commands, another direction, lines and markup of its own."""


def assert_harmless(output: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output), repr(output)
    assert re.search(r"\\u001b]0(;|#59;)pwned\\u0007", output)


@pytest.mark.attack("T7")
@pytest.mark.parametrize("form", ["text", "mermaid", "html"])
def test_a_flow_gives_the_terminal_no_command_of_a_sender(tmp_path: Path, form: str) -> None:
    from lab.config import load
    from lab.resolve import resolve
    from lab.state import StateFolder

    folder = StateFolder.at(tmp_path / "state")
    resolve(load(ROOT / "config" / "lab.yaml"), folder)
    store = TraceStore(folder.traces)

    def forged(value: AttributeValue) -> AttributeValue:
        return value.replace(CALL, HOSTILE).replace("OK", HOSTILE) if isinstance(value, str) else value

    spans = [
        replace(
            span,
            name=span.name + HOSTILE,
            attributes={key: forged(value) for key, value in span.attributes.items()},
            events=tuple(
                replace(event, attributes={key: forged(value) for key, value in event.attributes.items()})
                for event in span.events
            ),
        )
        for span in call_spans()
    ]
    store.add_spans(spans)
    store.close()
    more = ["--messages"] if form == "text" else []
    result = invoke("flow", "--state", str(folder.root), "--format", form, *more)
    assert result.exit_code == 0
    assert_harmless(result.output)
    if form == "text":
        assert not any(line.startswith("[bold red]fake") for line in result.output.splitlines())
    missing = invoke("flow", HOSTILE + "x", "--state", str(folder.root))
    assert missing.exit_code == 2
    assert_harmless(missing.output)


@pytest.mark.attack("T7")
def test_logs_verdicts_and_answers_give_the_terminal_no_command_of_a_sender(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lab import show

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "hss.log").write_text(HOSTILE)
    assert_harmless(invoke("logs", "hss", "--state", str(tmp_path)).output)

    answer = {"registered": False, "user": "a", "sip_status": 403, "reason": HOSTILE, "trace_id": HOSTILE}
    monkeypatch.setattr(cli, "ask_supervisor", lambda *_: answer)
    refused = invoke("register", "a")
    assert_harmless(refused.output)
    assert len(refused.output.splitlines()) == 2
    assert_harmless(invoke("register", "a", "--json").output)

    show.node_table([{"instance": "hss", "kind": "hss", "state": "fallen", "reason": HOSTILE}])
    assert_harmless(capsys.readouterr().out)
    leg: dict[str, Json] = dict.fromkeys(("node", "side", "protection", "keying", "suite"), HOSTILE)
    leg |= dict.fromkeys(("packets_in", "packets_out", "auth_failures", "replays"), 0)
    show.verdict_table(
        {
            "call_id": HOSTILE, "trace_id": "t", "result": "refused", "sip_status": 488, "setup_ms": 1.0,
            "security": HOSTILE, "legs": [leg], "audio": {}, "reason": HOSTILE,
        }
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert_harmless(printed)
    assert "[bold red]fake[/]" in printed
    show.CallProgress(1.0, quiet=False).note({"state": HOSTILE, "user": HOSTILE, "reason": HOSTILE})
    assert_harmless(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("reason", "told"), [("talk time over", False), ('SIP;cause=503;text="media gateway lost the session"', True)]
)
def test_an_established_call_that_was_broken_off_says_so(
    reason: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from lab import show

    verdict: dict[str, Json] = {
        "call_id": "c", "trace_id": "t", "result": "established", "sip_status": 200, "setup_ms": 1.0,
        "security": "e2ae-sdes", "legs": [], "audio": {}, "reason": reason,
    }  # fmt: skip
    show.verdict_table(verdict)
    assert (f"ended before its time: {reason}" in capsys.readouterr().out) is told


def test_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, lab.cli; from click.testing import CliRunner;"
        "CliRunner().invoke(lab.cli.imslab, ['status', '--state', '/nonexistent']);"
        "heavy = {'grpc', 'twisted', 'sqlalchemy', 'opentelemetry', 'cryptography', 'pydantic', 'asyncio.runners'};"
        "print(sorted(heavy & set(sys.modules) - {'asyncio.runners'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


NO_LAB_NEEDED = {"mikey", "new-nf", "compose-file"}


@pytest.mark.parametrize("command", sorted(set(cli.imslab.commands) - NO_LAB_NEEDED))
def test_every_command_takes_a_state_folder(command: str) -> None:
    found = cli.imslab.commands[command]
    leaves = dict(getattr(found, "commands", {command: found}))
    if command == "database":
        del leaves["migration"]  # compares models with a history, in a checkout
    for leaf in leaves.values():
        assert any("--state" in parameter.opts for parameter in leaf.params), leaf.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["logs", "hss"],
        ["register", "alice"],
        ["deregister", "alice"],
        ["call", "alice", "bob"],
        ["flow"],
        ["flow", "x"],
        ["ticket", "request", "alice", "bob"],
        ["ticket", "show", "alice"],
        ["ticket", "resolve", "alice", "AAAA"],
        ["kms", "audit"],
        ["kms", "rotate"],
        ["pki", "show"],
        ["pki", "reissue", "hss"],
        ["pki", "revoke", "hss"],
        ["user", "alice"],
        ["ue", "status", "alice"],
        ["ue", "behave", "alice", "ring=off"],
        ["ue", "modify", "alice", "x", "hold"],
        ["ue", "hang-up", "alice", "x"],
    ],
)
def test_without_a_lab_every_command_that_needs_one_ends_with_one(arguments: list[str], state: str) -> None:
    ended = invoke(*arguments, "--state", state)
    assert ended.exit_code == 1, ended.output
    assert "imslab up" in ended.output


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_up_says_on_standard_error_that_the_console_is_not_at_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    moved = "the console's port 8480 is taken; it serves 35899"
    page = {"url": "http://127.0.0.1:35899/", "link": "http://127.0.0.1:35899/#token=t", "moved": moved}
    monkeypatch.setattr("lab.launch.up", lambda *_, **__: Started([], 1.0))
    monkeypatch.setattr(cli, "link_of", lambda _folder: page)
    result = invoke("up", "--state", str(tmp_path), *more)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{moved}\n"


def test_the_address_of_kms_and_bsf_is_among_the_facts_of_a_user(tmp_path: Path) -> None:
    folder = StateFolder.at(tmp_path / "state")
    lab: Any = resolve(load(ROOT / "config" / "lab.yaml"), folder)
    facts = json.loads(invoke("user", "erin", "--state", str(folder.root), "--json").output)
    for role, instance, listener in (("kms", "kms-p", "http"), ("bsf", "bsf-p", "ub")):
        at = lab["nodes"][instance]["settings"][listener]
        assert facts[role] == f"{at['host']}:{at['port']}"
        assert facts[f"{role}_tls_name"] == facts[f"{role}_identity"] == f"{role}.partner.test"
    assert f"kms          {facts['kms']}" in invoke("user", "erin", "--state", str(folder.root)).output


@pytest.mark.parametrize(
    ("exchange", "said"), [("", "call.pcapng holds keys"), ("x.json", "call.pcapng and x.json hold keys")]
)
def test_files_with_keys_are_counted_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    verdict = {"result": "failed", "exchange": exchange}
    monkeypatch.setattr(cli, "ask", lambda *_: verdict)
    ended = invoke("call", "alice", "bob", "--with-keys", "--pcap", "call.pcapng", "--json")
    assert said in ended.stderr
