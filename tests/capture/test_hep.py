"""HEP3: packets that a strict reader takes, links that never wait, and Kamailio and sngrep as receivers."""

from __future__ import annotations

import asyncio
import io
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from nodes.hep import MOST_PAYLOAD, TCP, TRACE_ID, VENDOR, HepMessage, encode
from nodes.hepexport import MOST_PACKETS, HepExport, HepSettings, TcpLink, UdpLink
from sba.errors import ConfigurationError
from sba.testing import async_test
from signalling.sip.flow import Flow
from signalling.sip.message import SipMessage, parse_message
from tests.capture.hep import Hep, read, read_first
from tests.sba.gateway import until

NOW = 1_795_862_364_123_456_789
KEY = "WnD7c1ksDGs+dIefCEo8omPg4uO8DYIinNGL5yxQ"
INVITE = (
    "INVITE sip:bob@ims.test SIP/2.0\r\nVia: SIP/2.0/TLS 127.1.1.2;branch=z9hG4bKx\r\nFrom: <sip:a@ims.test>;tag=1\r\n"
    "To: <sip:bob@ims.test>\r\nCall-ID: call-1@ims.test\r\nCSeq: 1 INVITE\r\n"
    'Authorization: Digest username="a",response="0123456789abcdef0123456789abcdef"\r\n'
    f"Content-Length: 61\r\n\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"
).encode()
PASSWORD = b"homer's own"


def message(**changes: object) -> HepMessage:
    values: dict[str, object] = {
        "time_ns": NOW,
        "protocol": TCP,
        "source": ("127.1.1.2", 5061),
        "destination": ("127.1.1.3", 6061),
        "payload": INVITE,
        "call_id": "call-1@ims.test",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }
    return HepMessage(**(values | changes))  # type: ignore[arg-type]


def test_a_packet_says_who_spoke_to_whom_when_and_of_which_call() -> None:
    found = read(encode(message(), capture_id=2001, node="pcscf-a", password=Secret(PASSWORD)))
    assert found.source == ("127.1.1.2", 5061)
    assert found.destination == ("127.1.1.3", 6061)
    assert found.number(2) == 6
    assert (found.number(9), found.number(10)) == (1_795_862_364, 123_456)
    assert found.number(11) == 1
    assert found.number(12) == 2001
    assert found.chunks[14] == PASSWORD
    assert found.chunks[17] == b"call-1@ims.test"
    assert found.chunks[19] == b"pcscf-a"
    assert found.payload == INVITE
    assert found.others == {(VENDOR, TRACE_ID): b"0af7651916cd43dd8448eb211c80319c"}


def test_ipv6_and_no_password() -> None:
    found = read(encode(message(source=("::1", 1), destination=("2001:db8::2", 2)), capture_id=0, node="n"))
    assert found.number(1) == 10
    assert found.source == ("::1", 1)
    assert found.destination == ("2001:db8::2", 2)
    assert 14 not in found.chunks


@given(st.binary(max_size=70_000), st.text(max_size=2000), st.integers(0, 2**62))
def test_any_message_makes_a_packet_that_fits_a_datagram(payload: bytes, call_id: str, time_ns: int) -> None:
    time_ns %= 2**32 * 10**9
    octets = encode(message(payload=payload, call_id=call_id, time_ns=time_ns), capture_id=1, node="n" * 2000)
    assert len(octets) <= 65_507
    found = read(octets)
    assert found.payload == payload[:MOST_PAYLOAD]


def export(host: str, port: int, transport: str, tmp_path: Path | None = None) -> HepExport:
    file = ""
    if tmp_path is not None:
        (tmp_path / "password").write_bytes(PASSWORD + b"\n")
        file = str(tmp_path / "password")
    settings = HepSettings.model_validate({"host": host, "port": port, "transport": transport, "password_file": file})
    return HepExport(settings, "pcscf-a", lambda _message: "ab" * 16)


def tell(exporter: HepExport, times: int = 1, *, sent: bool = True) -> None:
    flow = Flow("TLS", ("127.1.1.2", 5061), ("127.1.1.3", 6061), "f", "mw")
    parsed = parse_message(INVITE)
    assert isinstance(parsed, SipMessage)
    for _ in range(times):
        (exporter.message_sent if sent else exporter.message_received)(INVITE, parsed, flow, "key")


@pytest.mark.attack("T8")
@async_test
async def test_what_goes_out_over_udp_holds_no_key_and_no_proof(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0)
        exporter = export("127.0.0.1", receiver.getsockname()[1], "udp", tmp_path)
        exporter.start()
        await until(lambda: isinstance(exporter.link, UdpLink) and exporter.link._address is not None)
        tell(exporter)
        tell(exporter, sent=False)
        sent, received = [read(await loop.sock_recv(receiver, 65_536)) for _ in range(2)]
        exporter.stop()
    assert (sent.source, sent.destination) == (received.destination, received.source)
    assert sent.chunks[14] == PASSWORD
    for octets in (sent.payload, received.payload):
        assert KEY.encode() not in octets
        assert b"0123456789abcdef" not in octets
        assert b"INVITE sip:bob@ims.test" in octets
    assert exporter.link.sent == 2


@async_test
async def test_over_tcp_messages_wait_for_the_server_and_for_its_return() -> None:
    got: list[Hep] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        octets = b""
        while part := await reader.read(4096):
            octets += part
            while len(octets) > 6 and len(octets) >= int.from_bytes(octets[4:6], "big"):
                found, octets = read_first(octets)
                got.append(found)
        writer.close()

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    exporter = export("127.0.0.1", port, "tcp")
    exporter.start()
    tell(exporter, 3)
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await until(lambda: len(got) == 3)
    writers[0].transport.abort()
    await until(lambda: len(writers) == 2)
    tell(exporter, 2)
    await until(lambda: len(got) == 5)
    exporter.stop()
    await until(writers[1].is_closing)
    server.close()
    assert exporter.link.lost == 0


@pytest.mark.attack("T9")
@async_test
async def test_an_absent_or_deaf_server_costs_packets_and_nothing_else() -> None:
    with socket.socket() as deaf, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        closed.bind(("127.0.0.1", 0))
        absent = closed.getsockname()[1]
        closed.close()
        exporters = [
            export("127.0.0.1", absent, "udp"),
            export("127.0.0.1", absent, "tcp"),
            export("no-such-host.invalid", 9060, "udp"),
        ]
        for exporter in exporters:
            exporter.start()
        await asyncio.sleep(0)
        for exporter in exporters:
            tell(exporter, 200)
        blocked = export("127.0.0.1", deaf.getsockname()[1], "tcp")
        blocked.start()
        tell(blocked, MOST_PACKETS + 500)
        assert isinstance(blocked.link, TcpLink)
        assert blocked.link.lost == 500
        assert len(blocked.link._waiting) == MOST_PACKETS
        for exporter in (*exporters, blocked):
            exporter.stop()
        assert exporters[2].link.lost == 200


@async_test
async def test_the_password_is_a_secret_from_its_file_on(tmp_path: Path) -> None:
    exporter = export("127.0.0.1", 9060, "udp", tmp_path)
    shown = io.StringIO()
    print(vars(exporter), exporter._settings, file=shown)
    assert "homer" not in shown.getvalue()
    for name, content in (("empty", b"\n"), ("long", b"x" * 300)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match="256"):
            HepSettings(host="h", password_file=str(tmp_path / name)).password()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        HepSettings(host="h", password_file=str(tmp_path / "absent")).password()
