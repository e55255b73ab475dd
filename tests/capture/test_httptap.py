"""What a capture shows of HTTPS: no body without keys, no credentials ever, lengths that are true."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from keying.mikey.codec import decode, encode
from keying.mikey.payloads import Kemac
from keying.mikey.registry import EncrAlg
from nodes.httptap import MOST_BODY, HttpTap, message_text
from protos import capture_pb2
from sba.tap import Tap
from sba.testing import async_test

SEEDS = Path(__file__).resolve().parents[2] / "fuzz" / "seeds" / "mikey"
MIKEY = (("Content-Type", "application/mikey"), ("Content-Length", "7"))
FIELDS = (
    ("Host", "kms.ims.test"),
    ("Authorization", "Bearer eyJhbGciOi"),
    ("Cookie", "session=crumbs"),
    ("X-Session-Token", "t0ken"),
    ("Content-Length", "4"),
)


def length_of(text: bytes) -> tuple[int, int]:
    """What Content-Length says, and what is there."""
    head, _, body = text.partition(b"\r\n\r\n")
    said = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    assert len(said) == 1
    return int(said[0].partition(b":")[2]), len(body)


def test_without_keys_a_body_is_its_size_alone() -> None:
    text, comment = message_text("POST / HTTP/1.1", FIELDS, b"body", with_body=False)
    assert length_of(text) == (0, 0)
    assert comment == "body of 4 octets, encrypted"
    assert b"body" not in text


@pytest.mark.attack("T8")
@pytest.mark.parametrize("with_body", [False, True])
def test_credentials_never_show(with_body: bool) -> None:
    digest = 'Digest username="alice", response="0123456789abcdef0123456789abcdef"'
    text, _ = message_text("GET / HTTP/1.1", (*FIELDS, ("Authorization", digest)), b"body", with_body=with_body)
    for secret in (b"eyJ", b"crumbs", b"t0ken", b"0123456789abcdef"):
        assert secret not in text
    assert b'username="alice"' in text


def test_messages_whose_keys_are_encrypted_show_with_keys() -> None:
    for name in ("request_resp", "resolve_resp", "request_init_psk"):
        octets = (SEEDS / name).read_bytes()
        for body in (octets, base64.b64encode(octets)):
            text, comment = message_text("HTTP/1.1 200 OK", MIKEY, body, with_body=True)
            assert text.endswith(b"\r\n\r\n" + body), name
            assert comment == ""
            assert length_of(text) == (len(body), len(body))


@pytest.mark.attack("T8")
def test_a_key_in_the_open_never_shows() -> None:
    message = decode((SEEDS / "resolve_resp").read_bytes())
    assert any(isinstance(payload, Kemac) for payload in message.payloads)
    opened = encode(
        type(message)(
            message.header,
            tuple(
                Kemac(EncrAlg.NULL, b"\x00open-key-of-somebody", payload.mac_alg, payload.mac)
                if isinstance(payload, Kemac)
                else payload
                for payload in message.payloads
            ),
        )
    )
    for body in (opened, base64.b64encode(opened), b"no MIKEY at all"):
        text, comment = message_text("HTTP/1.1 200 OK", MIKEY, body, with_body=True)
        assert body not in text
        assert comment == "keys in the body masked"


def test_a_body_too_long_is_left_out() -> None:
    text, comment = message_text("HTTP/1.1 200 OK", (), bytes(MOST_BODY + 1), with_body=True)
    assert length_of(text) == (0, 0)
    assert "too long" in comment


@async_test
async def test_both_ends_of_a_connection_name_its_messages_alike() -> None:
    tap, client, server = Tap(), ("127.1.1.9", 40000), ("127.1.1.3", 443)
    with tap.reading([], with_keys=False) as reader:
        for outgoing in (True, False):
            end = HttpTap(tap, client, server, outgoing=outgoing)
            end.request("GET", "/where?who=alice", (("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),), b"")
            end.response(299, (), b"")
        items = reader.items()
        seen = [(await anext(items)).message for _ in range(4)]
    assert [one.pair for one in seen[:2]] == [one.pair for one in seen[2:]]
    assert [one.sent for one in seen] == [True, False, False, True]
    assert (seen[0].source_port, seen[1].source_port) == (40000, 443)
    assert seen[0].trace_id == "ab" * 16
    assert b"alice" not in seen[0].payload, "a query may say who wants what: with keys only"
    assert {one.kind for one in seen} == {capture_pb2.CAPTURE_HTTPS}


def test_nothing_is_rendered_for_nobody() -> None:
    HttpTap(Tap(), ("", 0), ("", 0), outgoing=True).request("GET", "/", (("bad", object()),), b"")  # type: ignore[arg-type]
