"""``imslab mikey decode``: every form a message comes in, keys, and the exit status."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keying.mikey.codec import decode, encode_ticket
from keying.mikey.payloads import TicketPayload
from lab import exchange
from lab.mikey_cli import MAX_INPUT, MESSAGES, mikey
from tests.keying.mikey import vectors

BASE64 = base64.b64encode(vectors.TRANSFER_INIT).decode()
SUMMARY = "TRANSFER_INIT: T, RANDRi, IDRi, IDRr, SP, TICKET, V"


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(mikey, ["decode", *arguments], input=stdin)


def lines(result: Result) -> list[str]:
    return [line.strip() for line in result.output.splitlines()]


@pytest.mark.parametrize("text", [BASE64, f"mikey {BASE64}", f"a=key-mgmt:mikey {BASE64}", f"key-mgmt: mikey {BASE64}"])
def test_a_message_is_base64_or_a_line_of_sdp(text: str) -> None:
    result = run(text)
    assert result.exit_code == 0
    assert lines(result)[0] == SUMMARY
    assert "IDRi: sip:alice@a.example (URI)" in lines(result)


@pytest.mark.parametrize(
    "data", [vectors.TRANSFER_INIT, BASE64.encode(), (BASE64[:60] + "\r\n" + BASE64[60:]).encode()]
)
def test_a_message_is_a_file_or_standard_input(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "message"
    path.write_bytes(data)
    for result in (run(str(path)), run("-", stdin=data), run(stdin=data)):
        assert (result.exit_code, lines(result)[0]) == (0, SUMMARY)


def test_keys_check_the_macs(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(vectors.TPK.hex() + "\n")
    for tpk in (vectors.TPK.hex(), f"@{key}"):
        result = run(BASE64, "--tpk", tpk)
        assert result.exit_code == 0
        assert {"ticket MAC: holds", "MAC: holds", "Vr MAC: holds"} <= set(lines(result))
        assert vectors.MPK.hex() not in result.output
    shown = run(BASE64, "--tpk", vectors.TPK.hex(), "--show-keys")
    assert f"key: {vectors.MPK.hex()}" in lines(shown)


def test_a_response_is_checked_with_the_message_it_answers() -> None:
    answer = base64.b64encode(vectors.TRANSFER_RESP).decode()
    result = run(answer, "--initial", BASE64, "--mpkr", vectors.MPKR)
    assert result.exit_code == 0
    assert "MAC: holds" in lines(result)
    assert "MAC: not checked: the initial message is not at hand" in lines(run(answer, "--mpkr", vectors.MPKR))


def test_a_mac_that_does_not_hold_ends_with_one() -> None:
    result = run(BASE64, "--mpki", vectors.MPKR, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.output)
    assert answer["summary"] == SUMMARY
    assert answer["sound"] is False
    (mac,) = (child for child in answer["message"]["children"] if child["name"] == "MAC")
    assert mac == {"name": "MAC", "value": "the MAC does not hold", "fault": True}


def test_what_cannot_be_read_ends_with_one_and_says_why() -> None:
    result = run(base64.b64encode(vectors.TRANSFER_INIT[:60]).decode())
    assert result.exit_code == 1
    assert "cut short" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("no base64!",),
        (BASE64, "--psk", "xyz"),
        (BASE64, "--psk", ""),
        (BASE64, "--psk", "@/nonexistent/key"),
        (BASE64, "--initial", "???"),
    ],
)
def test_wrong_usage_ends_with_two(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_key_that_is_no_key_is_not_repeated() -> None:
    assert "secretkey" not in run(BASE64, "--psk", "secretkey").output


def test_input_has_a_longest_length() -> None:
    assert run("-", stdin=b"A" * (MAX_INPUT + 1)).exit_code == 2


MESSAGE = decode(vectors.TRANSFER_INIT)
TICKET = encode_ticket(next(each for each in MESSAGE.payloads if isinstance(each, TicketPayload)))
EXCHANGE = {
    "REQUEST_INIT": "",
    "TRANSFER_INIT": BASE64,
    "TRANSFER_RESP": base64.b64encode(vectors.TRANSFER_RESP).decode(),
    "tpk": vectors.TPK.hex(),
}


def written(tmp_path: Path, content: object) -> str:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content, indent=1))
    return str(path)


@pytest.mark.parametrize("data", [TICKET, base64.b64encode(TICKET)])
def test_a_bare_ticket_is_decoded_and_its_mac_checked(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ticket"
    path.write_bytes(data)
    result = run(str(path))
    assert result.exit_code == 0
    assert lines(result)[0].startswith("TICKET: ")
    assert any(line.startswith("flags: ") for line in lines(result))
    assert "ticket MAC: holds" in lines(run(str(path), "--tpk", vectors.TPK.hex()))
    wrong = run(str(path), "--tpk", "ab" * 16)
    assert wrong.exit_code == 1
    cut = run(base64.b64encode(TICKET[:9]).decode())
    assert (cut.exit_code, "fault" in cut.output) == (1, True)


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"tickets": [one]}])
def test_of_the_json_of_a_ticket_the_ticket_is_decoded_unless_a_message_is_named(tmp_path: Path, wrap: Any) -> None:
    file = written(tmp_path, wrap({"ticket": base64.b64encode(TICKET).decode(), "REQUEST_INIT": BASE64}))
    assert lines(run(file))[0].startswith("TICKET: ")
    named = run(file, "--message", "REQUEST_INIT")
    assert (named.exit_code, lines(named)[0]) == (0, SUMMARY)
    assert run(file, "--message", "RESOLVE_INIT").exit_code == 2


def test_of_an_exchange_file_every_message_is_decoded_each_answer_checked_with_what_it_answers(tmp_path: Path) -> None:
    file = written(tmp_path, EXCHANGE)
    result = run(file, "--mpki", vectors.MPKI, "--mpkr", vectors.MPKR)
    heads = [line for line in result.output.splitlines() if line.startswith("TRANSFER_") and ": T, " in line]
    assert [head.partition(":")[0] for head in heads] == ["TRANSFER_INIT", "TRANSFER_RESP"]
    assert lines(result).count("MAC: holds") == 2
    both = json.loads(run(file, "--json").output)
    assert [each["sound"] for each in both] == [True, True]
    one = json.loads(run(file, "--message", "TRANSFER_INIT", "--json").output)
    assert one["summary"] == SUMMARY


@pytest.mark.parametrize("content", [{}, {"tickets": 1}, {"TRANSFER_INIT": 5}, {"TRANSFER_INIT": "???"}])
def test_json_without_a_message_is_wrong_usage(tmp_path: Path, content: object) -> None:
    assert run(written(tmp_path, content)).exit_code == 2
    broken = tmp_path / "broken"
    broken.write_text("{no")
    assert run(str(broken)).exit_code == 2
    assert run(BASE64, "--message", "TRANSFER_INIT").exit_code == 2


@pytest.mark.attack("T7")
@pytest.mark.parametrize("command", ["decode", "follow"])
def test_json_nested_without_end_is_wrong_usage(tmp_path: Path, command: str) -> None:
    file = tmp_path / "deep.json"
    file.write_text('{"TRANSFER_INIT":' + "[" * 50_000 + "]" * 50_000 + "}")
    result = CliRunner().invoke(mikey, [command, str(file)])
    assert result.exit_code == 2, result.output
    assert "JSON" in result.stderr


def test_the_names_of_messages_are_those_of_an_exchange_file() -> None:
    assert MESSAGES == exchange.MESSAGES
