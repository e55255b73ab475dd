"""Two stacks over real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import socket

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.logger import globalLogPublisher
from zope.interface import implementer

from signalling.sip.limits import StackLimits
from signalling.sip.message import SipRequest, SipResponse
from signalling.sip.stack import Hop, TransactionFailure, make_response
from signalling.sip.stun import binding_request, mapped_address
from signalling.sip.transaction import State
from tests.sip.support import FAST, Recorder, headers, new_stack, on_the_loop

LOOPBACKS = [("UDP", "127.0.0.1"), ("TCP", "127.0.0.1"), ("UDP", "::1"), ("TCP", "::1")]


class Pair:
    """A caller and a callee of one role, both listening on a transport."""

    def __init__(self, answer=None, **kwargs):
        self.bob = Recorder(answer)
        self.alice = Recorder()
        self.caller = new_stack(self.alice, **kwargs)
        self.callee = new_stack(self.bob, **kwargs)

    async def open(self, transport="UDP", host="127.0.0.1", **kwargs):
        self.listener = await self.callee.listen(transport, host, 0, role="gm", **kwargs)
        await self.caller.listen(transport, host, 0, role="gm", **kwargs)
        self.hop = Hop(transport, *self.listener.address)
        return self

    async def close(self):
        await self.caller.stop()
        await self.callee.stop()


def invite(**kwargs):
    return SipRequest("INVITE", "sip:bob@ims.test", headers(**kwargs))


def options(cseq=1, extra=(), body=b""):
    return SipRequest("OPTIONS", "sip:bob@ims.test", headers("OPTIONS", cseq=cseq, extra=extra), body)


async def until(condition):
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("did not happen")


@pytest.mark.parametrize(("transport", "host"), LOOPBACKS)
@on_the_loop
async def test_request_and_response_over_each_family(transport, host):
    pair = await Pair().open(transport, host)
    answer = await pair.caller.request(options(), pair.hop, role="gm")
    assert answer.status == 200
    assert answer.top_via.received == host
    assert pair.bob.requests[0].flow.transport == transport
    assert pair.bob.requests[0].flow.role == "gm"
    await pair.close()


class Identity:
    """A self-signed certificate, and TLS settings that trust only the given file."""

    def __init__(self, folder, name):
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def settings(self, trusted):
        return Settings(self, trusted)


@implementer(IOpenSSLContextFactory)
class Settings:
    def __init__(self, own, trusted):
        self.context = SSL.Context(SSL.TLS_METHOD)
        self.context.use_certificate(own.certificate)
        self.context.use_privatekey(own.key)
        self.context.load_verify_locations(str(trusted.file))
        self.context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *seen: bool(seen[-1]))

    def getContext(self):
        return self.context


@on_the_loop
async def test_tls_shows_the_peer_certificate_and_carries_a_call(tmp_path):
    alice, bob = Identity(tmp_path, "alice"), Identity(tmp_path, "bob")
    pair = Pair()
    listener = await pair.callee.listen("TLS", "127.0.0.1", 0, role="gm", tls=bob.settings(alice))
    pair.caller.set_client_tls("gm", lambda name: alice.settings(bob))
    answer = await pair.caller.request(options(), Hop("TLS", *listener.address), role="gm")
    assert answer.status == 200
    txn = pair.bob.requests[0]
    assert txn.request.top_via.transport == "TLS"
    assert txn.request.top_via.port == txn.flow.remote[1]
    assert pair.callee.peer_certificate(txn.flow) == alice.certificate.public_bytes(serialization.Encoding.DER)
    back = await pair.callee.request(options(), Hop.over(txn.flow), role="gm")
    assert back.status == 200
    await pair.close()


@pytest.mark.attack("T7")
@pytest.mark.parametrize("transport", ["TCP", "TLS"])
@on_the_loop
async def test_connection_over_the_limit_of_its_source_is_closed_at_once_without_a_fault(tmp_path, transport):
    bob = Identity(tmp_path, "bob")
    faults = []
    globalLogPublisher.addObserver(note := lambda event: faults.append(event) if event.get("log_failure") else None)
    pair = await Pair(limits=StackLimits(connections_per_source=1)).open()
    listener = await pair.callee.listen(transport, "127.0.0.1", 0, role="gm", tls=bob.settings(bob))
    with socket.create_connection(listener.address), socket.create_connection(listener.address) as second:
        second.settimeout(0)
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(second, 1), 2) == b""
    globalLogPublisher.removeObserver(note)
    assert faults == []
    await pair.close()


@on_the_loop
async def test_tls_peer_of_another_authority_is_no_transport(tmp_path):
    alice, bob = Identity(tmp_path, "alice"), Identity(tmp_path, "bob")
    pair = Pair()
    listener = await pair.callee.listen("TLS", "127.0.0.1", 0, role="gm", tls=bob.settings(alice))
    pair.caller.set_client_tls("gm", alice.settings(alice))
    with pytest.raises(TransactionFailure) as failed:
        await pair.caller.request(options(), Hop("TLS", *listener.address), role="gm")
    assert (failed.value.cause, failed.value.status) == ("transport", 503)
    assert pair.bob.requests == []
    await pair.close()


@on_the_loop
async def test_a_tls_connection_waits_for_what_is_to_be_known_before_it_but_not_for_ever(tmp_path):
    alice, bob = Identity(tmp_path, "alice"), Identity(tmp_path, "bob")
    pair = Pair(limits=StackLimits(connect_deadline=2.0))
    listener = await pair.callee.listen("TLS", "127.0.0.1", 0, role="gm", tls=bob.settings(alice))
    asked = []
    pair.caller.set_client_tls("gm", alice.settings(bob), lambda name, dial: asked.append((name, dial)))
    with pytest.raises(TransactionFailure, match="connection too slow"):
        await pair.caller.request(options(), Hop("TLS", *listener.address), role="gm")
    answers = [
        asyncio.ensure_future(pair.caller.request(options(), Hop("TLS", *listener.address), role="gm")) for _ in "ab"
    ]
    await asyncio.sleep(0.05)
    assert [name for name, _ in asked] == ["127.0.0.1", "127.0.0.1"], "once a connection"
    assert pair.bob.requests == []
    asked[1][1]()
    assert [(await answer).status for answer in answers] == [200, 200]
    asked[0][1]()
    assert len(pair.caller.flows("gm")) == 1
    await pair.close()
    asked[0][1]()


@on_the_loop
async def test_refused_connection_is_a_transport_failure():
    pair = await Pair().open("TCP")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        hop = Hop("TCP", *closed.getsockname())
    with pytest.raises(TransactionFailure) as failed:
        await pair.caller.request(options(), hop, role="gm")
    assert failed.value.status == 503
    await pair.close()


@on_the_loop
async def test_silence_is_a_timeout():
    pair = await Pair(lambda txn: None, timers=FAST.scaled(0.002)).open("TCP")
    with pytest.raises(TransactionFailure) as failed:
        await pair.caller.request(options(), pair.hop, role="gm")
    assert (failed.value.cause, failed.value.status) == ("timeout", 408)
    await pair.close()


@pytest.mark.clause("RFC 3261", "18.1.1")
@pytest.mark.parametrize(("size", "transport"), [(1299, "UDP"), (1300, "UDP"), (1301, "TCP")])
@on_the_loop
async def test_a_request_above_1300_octets_goes_over_tcp(size, transport):
    host = ".".join(["127", *(str(random.randint(2, 250)) for _ in range(3))])  # an address nobody else has ports on
    pair = await Pair().open("UDP", host)
    await pair.callee.listen("TCP", host, pair.listener.address[1], role="gm")
    sent = []
    pair.caller.request_hooks.append(lambda request, hop, role: sent.append(pad(request, size)))
    await pair.caller.request(options(), pair.hop, role="gm")
    flow = pair.bob.requests[0].flow
    assert flow.transport == transport
    assert pair.bob.requests[0].request.top_via.transport == transport
    await pair.close()


def pad(request, size):
    request.headers.add("X-Fill", "")
    request.headers.set("X-Fill", "x" * (size - len(request.to_bytes())))
    assert len(request.to_bytes()) == size


@pytest.mark.clause("RFC 3261", "18.1.1")
@on_the_loop
async def test_tcp_chosen_for_size_and_refused_falls_back_to_udp():
    pair = await Pair().open("UDP")
    await pair.caller.request(options(extra=[("X-Fill", "x" * 1400)]), pair.hop, role="gm")
    txn = pair.bob.requests[0]
    assert txn.flow.transport == "UDP"
    assert txn.request.top_via.transport == "UDP"
    await pair.close()


@on_the_loop
async def test_second_request_uses_the_standing_connection():
    pair = await Pair().open("TCP")
    for cseq in (1, 2):
        await pair.caller.request(options(cseq), pair.hop, role="gm")
    assert pair.bob.requests[0].flow == pair.bob.requests[1].flow
    await pair.close()


@on_the_loop
async def test_request_goes_back_over_the_flow_it_came_by_and_fails_when_that_is_gone():
    pair = await Pair().open("TCP")
    await pair.caller.request(options(), pair.hop, role="gm")
    flow = pair.bob.requests[0].flow
    answer = await pair.callee.request(options(), Hop.over(flow), role="gm")
    assert answer.status == 200
    assert pair.alice.requests[0].flow.local[1] == flow.remote[1]
    pair.callee.close_flow(flow)
    await until(lambda: pair.bob.closed)
    assert not pair.callee.is_open(flow)
    with pytest.raises(TransactionFailure) as failed:
        await pair.callee.request(options(2), Hop.over(flow), role="gm")
    assert (failed.value.cause, failed.value.status) == ("flow-gone", 430)
    await pair.close()


@pytest.mark.clause("RFC 3261", "18.2.2")
@on_the_loop
async def test_response_finds_its_way_when_the_connection_is_gone():
    held = []
    pair = await Pair(held.append).open("TCP")
    answers = []
    pair.caller.send(invite(), pair.hop, role="gm", on_response=answers.append, on_failure=answers.append)
    await until(lambda: held)
    pair.callee.close_flow(held[0].flow)
    await until(lambda: pair.bob.closed)
    assert held[0].respond(make_response(held[0].request, 486))
    assert held[0].state is State.COMPLETED
    await pair.close()


@pytest.mark.clause("RFC 6026", "7.1", "8.1")
@on_the_loop
async def test_lost_ack_makes_the_200_come_again_until_one_arrives():
    pair = await Pair(timers=FAST).open("UDP")
    answers = []
    pair.caller.send(invite(), pair.hop, role="gm", on_response=answers.append, on_failure=answers.append)
    await until(lambda: len([one for one in answers if one.status == 200]) >= 3)
    ack = SipRequest("ACK", "sip:bob@ims.test", headers("ACK", to_tag=answers[-1].to_tag))
    pair.caller.send_ack(ack, pair.hop, "gm")
    await until(lambda: pair.bob.acks)
    assert pair.bob.acks[0][2] is pair.bob.requests[0]
    assert len(pair.bob.requests) == 1
    count = len(answers)
    await asyncio.sleep(0.1)
    assert len(answers) <= count + 1
    await pair.close()


@on_the_loop
async def test_200_without_ack_is_reported_after_64_t1():
    missing = []

    def answer(txn):
        txn.on_ack_timeout = lambda: missing.append(txn)
        txn.respond(make_response(txn.request, 200))

    pair = await Pair(answer, timers=FAST.scaled(0.002)).open("UDP")
    await pair.caller.request(invite(), pair.hop, role="gm")
    await until(lambda: missing)
    await pair.close()


@pytest.mark.clause("RFC 3261", "9.1")
@on_the_loop
async def test_cancel_waits_for_a_provisional_and_ends_the_invite_with_487():
    held = []
    pair = await Pair(held.append, timers=FAST.scaled(0.1)).open("TCP")
    pair.bob.cancel_received = lambda txn, cancel: txn.respond(make_response(txn.request, 487))
    answers = []
    txn = pair.caller.send(invite(), pair.hop, role="gm", on_response=answers.append, on_failure=answers.append)
    txn.cancel()
    await until(lambda: held)
    assert answers == []
    held[0].respond(make_response(held[0].request, 180))
    await until(lambda: [one.status for one in answers] == [180, 487])
    await until(lambda: held[0].state in (State.CONFIRMED, State.TERMINATED))
    await pair.close()


@pytest.mark.clause("RFC 3261", "9.2")
@on_the_loop
async def test_cancel_without_invite_is_481():
    pair = await Pair().open("UDP")
    stray = SipRequest("CANCEL", "sip:bob@ims.test", headers("CANCEL"))
    assert (await pair.caller.request(stray, pair.hop, role="gm")).status == 481
    await pair.close()


@on_the_loop
async def test_an_error_of_the_handler_is_500_and_the_connection_lives(monkeypatch):
    def broken(txn):
        if txn.request.cseq[0] == 1:
            raise KeyError("bug")
        txn.respond(make_response(txn.request, 200))

    pair = await Pair(broken).open("TCP")
    monkeypatch.setattr(pair.callee, "_log_failure", lambda failure: None)
    assert (await pair.caller.request(options(1), pair.hop, role="gm")).status == 500
    assert (await pair.caller.request(options(2), pair.hop, role="gm")).status == 200
    await pair.close()


async def exchange(transport, address, data, *, source=None):
    """Send raw octets, return what comes back first."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as wire:
        wire.settimeout(0)
        wire.bind(source or ("127.0.0.1", 0))
        await loop.sock_connect(wire, address)
        await loop.sock_sendall(wire, data)
        return await asyncio.wait_for(loop.sock_recv(wire, 65535), 5), wire.getsockname()


def raw(via, method="OPTIONS", extra=""):
    return (
        f"{method} sip:bob@ims.test SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nMax-Forwards: 70\r\n"
        f"From: <sip:a@ims.test>;tag=1\r\nTo: <sip:b@ims.test>\r\nCall-ID: raw\r\nCSeq: 1 {method}\r\n{extra}\r\n"
    ).encode()


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3581", "4")
@pytest.mark.parametrize(
    "via",
    [
        "192.0.2.1:5060;branch=z9hG4bKx;rport",
        "127.0.0.1;branch=z9hG4bKx;rport",
        "192.0.2.1;rport=9;received=192.0.2.7;branch=z9hG4bKx",
    ],
)
@on_the_loop
async def test_response_goes_where_the_request_really_came_from(via):
    pair = await Pair().open("UDP")
    data, (host, port) = await exchange("UDP", pair.listener.address, raw(via))
    top = pair.bob.requests[0].request.top_via
    assert (top.received, top.rport) == (host, port)
    assert data.startswith(b"SIP/2.0 200 ")
    await pair.close()


@pytest.mark.attack("T7")
@pytest.mark.parametrize("length", ["-1", "x", "9999999999", "5\r\nContent-Length: 6"])
@on_the_loop
async def test_bad_content_length_on_tcp_is_400_and_the_end(length):
    pair = await Pair().open("TCP")
    via = "127.0.0.1;branch=z9hG4bKx"
    request = raw(via, extra=f"Content-Length: {length}\r\n")
    data, _ = await exchange("TCP", pair.listener.address, request)
    assert data.split()[1] in (b"400", b"413")
    assert pair.bob.requests == []
    await until(lambda: pair.bob.closed)
    await pair.close()


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 4475", "3.1.1.8")
@on_the_loop
async def test_request_before_a_fatal_fault_is_answered_late_and_then_the_stream_ends():
    pair = await Pair().open("TCP")
    pair.bob.answer = lambda txn: reactor.callLater(0.05, txn.respond, make_response(txn.request, 200))
    good = raw("127.0.0.1;branch=z9hG4bKx", extra="Content-Length: 0\r\n")
    data, _ = await exchange("TCP", pair.listener.address, good + b"#\r\n\r\n")
    assert data.startswith(b"SIP/2.0 200 ")
    await until(lambda: pair.bob.closed)
    await pair.close()


@pytest.mark.attack("T7")
@on_the_loop
async def test_stream_that_ended_closes_even_when_an_answer_never_comes():
    pair = await Pair(limits=StackLimits(answer_deadline=0.05)).open("TCP")
    pair.bob.answer = lambda txn: None
    good = raw("127.0.0.1;branch=z9hG4bKx", extra="Content-Length: 0\r\n")
    with contextlib.suppress(ConnectionResetError):
        data, _ = await exchange("TCP", pair.listener.address, good + b"#\r\n\r\n")
        assert data == b""
    await until(lambda: pair.bob.closed)
    await pair.close()


@pytest.mark.clause("RFC 5626", "4.4.1", "5.4")
@on_the_loop
async def test_double_crlf_is_answered_by_one():
    pair = await Pair().open("TCP")
    data, _ = await exchange("TCP", pair.listener.address, b"\r\n\r\n")
    assert data == b"\r\n"
    await pair.close()


@pytest.mark.clause("RFC 5626", "4.4.2", "8")
@on_the_loop
async def test_stun_binding_on_the_sip_port_tells_the_source():
    pair = await Pair().open("UDP")
    transaction = bytes(range(12))
    data, source = await exchange("UDP", pair.listener.address, binding_request(transaction))
    assert mapped_address(data) == (transaction, source)
    await pair.close()


@on_the_loop
async def test_observer_sees_each_message_and_each_drop():
    seen = []

    class Observer:
        def message_sent(self, data, message, flow, txn_key):
            seen.append(("sent", type(message), txn_key.split("|")[0]))

        def message_received(self, data, message, flow, txn_key):
            seen.append(("received", type(message), txn_key.split("|")[0]))

        def message_dropped(self, reason, data, flow):
            seen.append(("dropped", reason, data))

        def retransmission(self, direction, data, message, flow, txn_key):
            seen.append((direction, "again"))

    pair = await Pair(observer=Observer()).open("TCP")
    await pair.caller.request(options(), pair.hop, role="gm")
    assert seen == [
        ("sent", SipRequest, "client"),
        ("received", SipRequest, "server"),
        ("sent", SipResponse, "server"),
        ("received", SipResponse, "client"),
    ]
    await pair.close()
