"""``imslab mikey follow``: an exchange file from the first message to the media keys."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lab.mikey_cli import mikey
from tests.keying.mikey import vectors
from tests.keying.mikey.independent.rfc6043 import verify_exchange

MESSAGES = ("REQUEST_INIT", "REQUEST_RESP", "TRANSFER_INIT", "RESOLVE_INIT", "RESOLVE_RESP", "TRANSFER_RESP")


def content() -> dict[str, str]:
    """The exchange of ``tests/keying/mikey/vectors.py`` as the file has it."""
    octets = {
        name: getattr(vectors, f"{name}_PSK" if name.startswith(("REQUEST_INIT", "RESOLVE_INIT")) else name)
        for name in MESSAGES
    }
    keys = {"psk_i": vectors.PSK_I, "psk_r": vectors.PSK_R, "tpk": vectors.TPK}
    return {
        **{name: base64.b64encode(each).decode() for name, each in octets.items()},
        **{name: each.hex() for name, each in keys.items()},
    }


def run(tmp_path: Path, told: object, *arguments: str) -> Result:
    path = tmp_path / "call.json"
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return CliRunner().invoke(mikey, ["follow", str(path), *arguments])


def test_every_key_of_the_exchange_is_derived_and_is_what_the_other_path_derives(tmp_path: Path) -> None:
    shown = run(tmp_path, content(), "--show-keys")
    assert shown.exit_code == 0
    done = verify_exchange(content())
    for session in done.sessions.values():
        assert f"128) = {session['tek'].hex()}" in shown.output
        assert f"112) = {session['salt'].hex()}" in shown.output
    for name in ("MPKi", "MPKr"):
        assert f"= {done.keys[name].hex()}\n" in shown.output
    assert shown.output.count(" MAC: holds") + shown.output.count("\n  MAC: holds") >= 6


def test_keys_are_shown_on_demand_alone(tmp_path: Path) -> None:
    silent = run(tmp_path, content())
    assert silent.exit_code == 0
    assert "master key = PRF(" in silent.output
    done = verify_exchange(content())
    for secret in (vectors.PSK_I, vectors.PSK_R, vectors.TPK, *(s["tek"] for s in done.sessions.values())):
        assert secret.hex() not in silent.output


@pytest.mark.parametrize("name", MESSAGES)
def test_a_changed_message_is_told_by_its_mac(tmp_path: Path, name: str) -> None:
    told = content()
    octets = bytearray(base64.b64decode(told[name]))
    octets[-1] ^= 1
    told[name] = base64.b64encode(octets).decode()
    result = run(tmp_path, told)
    assert result.exit_code == 1
    assert "DOES NOT HOLD" in result.output.upper()


def test_the_same_as_json(tmp_path: Path) -> None:
    steps = json.loads(run(tmp_path, content(), "--json").output)
    assert [step["name"] for step in steps] == list(MESSAGES)
    assert all(step["derivations"] for step in steps)


def test_a_call_without_request_and_resolve_is_followed_from_its_transfer(tmp_path: Path) -> None:
    told = {**content(), "REQUEST_INIT": "", "REQUEST_RESP": "", "psk_i": ""}
    result = run(tmp_path, told)
    assert result.exit_code == 0
    assert "REQUEST_INIT" not in result.output
    assert "ticket auth_key = PRF(tpk" in result.output
    assert "master key = PRF(" in result.output


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("{", "not JSON"),
        ([], "no TRANSFER_INIT"),
        ({"REQUEST_INIT": ""}, "no TRANSFER_INIT"),
        ({**content(), "tpk": "xyz"}, "tpk is not hexadecimal"),
        ({**content(), "RESOLVE_RESP": "%%"}, "RESOLVE_RESP is not base64"),
        ({**content(), "psk_i": 7}, "psk_i is not text"),
        ({**content(), "TRANSFER_INIT": content()["TRANSFER_INIT"][:40]}, "TRANSFER_INIT"),
        ({**content(), "TRANSFER_INIT": content()["REQUEST_INIT"]}, "TRANSFER_INIT is a REQUEST_INIT_PSK"),
    ],
)
def test_what_is_no_exchange_is_wrong_usage_with_its_reason(tmp_path: Path, told: object, reason: str) -> None:
    result = run(tmp_path, told)
    assert result.exit_code == 2
    assert reason in result.output
    assert vectors.TPK.hex() not in result.output


@pytest.mark.attack("T8")
@pytest.mark.parametrize("missing", ["tpk", "psk_i", "psk_r"])
def test_a_key_that_nobody_had_ends_in_no_traceback(tmp_path: Path, missing: str) -> None:
    result = run(tmp_path, {**content(), missing: ""})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "TRANSFER_RESP" in result.output
