"""The file of MIKEY messages and keys of one call."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from keying.secret import Secret
from lab import exchange
from protos import ue_control_pb2

CALLER = ue_control_pb2.MikeyExchange(
    request_init=b"\x01\x0b1",
    request_resp=b"\x01\x0e1",
    transfer_init=b"\x01\x0f",
    transfer_resp=b"\x01\x10",
    psk=b"I" * 32,
)
CALLEE = ue_control_pb2.MikeyExchange(
    transfer_init=b"\x01\x0f", resolve_init=b"\x01\x11", resolve_resp=b"\x01\x12", psk=b"R" * 32
)


def test_the_six_messages_stand_by_name_and_the_keys_beside_them() -> None:
    content = exchange.document(CALLER, CALLEE, Secret(b"T" * 16))
    assert {name: base64.b64decode(content[name])[1] for name in exchange.MESSAGES} == {
        "REQUEST_INIT": 0x0B,
        "REQUEST_RESP": 0x0E,
        "TRANSFER_INIT": 0x0F,
        "RESOLVE_INIT": 0x11,
        "RESOLVE_RESP": 0x12,
        "TRANSFER_RESP": 0x10,
    }
    assert [bytes.fromhex(content[name]) for name in exchange.KEYS] == [b"I" * 32, b"R" * 32, b"T" * 16]
    assert list(content) == [*exchange.MESSAGES, *exchange.KEYS]


def test_what_nobody_had_is_an_empty_text() -> None:
    made_by_itself = ue_control_pb2.MikeyExchange(transfer_init=b"\x01\x0f", psk=b"I" * 32)
    content = exchange.document(made_by_itself, ue_control_pb2.MikeyExchange(), None)
    assert {name for name, text in content.items() if text} == {"TRANSFER_INIT", "psk_i"}


@pytest.mark.attack("T8")
def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "exchange.json"
    path.touch(mode=0o644)
    exchange.write(path, exchange.document(CALLER, CALLEE, None))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["tpk"] == ""
