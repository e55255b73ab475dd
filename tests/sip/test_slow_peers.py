"""Peers that are slow, silent, greedy or do not read: on a fake clock and fake transports."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from signalling.sip.connection import StreamConnection
from signalling.sip.flow import Flow
from signalling.sip.limits import StackLimits
from signalling.sip.message import SipRequest
from signalling.sip.stack import SipStack, make_response
from signalling.sip.timers import TimerConfig
from signalling.sip.transport import TransportLayer
from tests.sip.support import Recorder, headers
from tests.sip.test_parser import message

pytestmark = pytest.mark.attack("T7")


class Wire(StringTransport):
    def __init__(self):
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.9", 4000))
        self.aborted = False

    def abortConnection(self):
        self.aborted = True


class Owner:
    def __init__(self, **limits):
        self.clock = Clock()
        self.limits = StackLimits(**limits)
        self.sink = self
        self.messages = []
        self.dropped = []

    def connect(self, *, accepted=True):
        connection = StreamConnection(self, "gm", 1, tls=False, accepted=accepted)
        wire = Wire()
        connection.makeConnection(wire)
        return connection, wire

    def opened(self, connection):
        pass

    def spoke(self, connection):
        pass

    def closed(self, connection, reason):
        pass

    def connection_lost(self, flow):
        pass

    def message_arrived(self, message, data, flow):
        self.messages.append(message)

    def fault_arrived(self, fault, data, flow):
        self.dropped.append(str(fault))

    def owes(self, flow):
        return False

    def octets_dropped(self, reason, data, flow):
        self.dropped.append(reason)


def test_message_octet_by_octet_within_the_deadline_is_taken():
    owner = Owner(message_deadline=20)
    connection, wire = owner.connect()
    for octet in message(body=b"abc").to_bytes():
        connection.dataReceived(bytes([octet]))
        owner.clock.advance(0.01)
    assert [one.body for one in owner.messages] == [b"abc"]
    assert not wire.aborted


def test_half_a_message_is_cut_off_at_the_deadline_however_it_trickles():
    owner = Owner(message_deadline=20, first_message_deadline=1000)
    connection, wire = owner.connect()
    for octet in message().to_bytes()[:60]:
        connection.dataReceived(bytes([octet]))
        owner.clock.advance(0.5)
    assert wire.aborted
    assert owner.dropped[0] == "message too slow"


def test_connection_that_never_speaks_is_cut_off():
    owner = Owner(first_message_deadline=32)
    _, wire = owner.connect()
    owner.clock.advance(32)
    assert wire.aborted


def test_keep_alive_counts_as_a_sign_of_life():
    owner = Owner(first_message_deadline=32, idle_deadline=100)
    connection, wire = owner.connect()
    connection.dataReceived(b"\r\n\r\n")
    assert wire.value() == b"\r\n"
    owner.clock.advance(60)
    assert not wire.aborted
    owner.clock.advance(60)
    assert wire.aborted


@pytest.mark.clause("RFC 5626", "4.4.1")
def test_flow_without_a_pong_in_ten_seconds_has_failed():
    owner = Owner()
    lost = []
    connection, wire = owner.connect(accepted=False)
    connection.ping(lambda: lost.append(1))
    assert wire.value() == b"\r\n\r\n"
    connection.dataReceived(b"\r\n")
    owner.clock.advance(11)
    assert not lost
    connection.ping(lambda: lost.append(1))
    owner.clock.advance(11)
    assert lost
    assert wire.aborted


def test_peer_that_does_not_read_is_cut_off_before_memory_fills():
    owner = Owner(unsent_octets=10_000)
    connection, wire = owner.connect()
    connection.pauseProducing()
    for _ in range(11):
        connection.write(b"x" * 1000)
    assert wire.aborted
    assert len(wire.value()) <= 10_000


def test_closed_connection_leaves_no_timer():
    owner = Owner()
    connection, _ = owner.connect()
    connection.dataReceived(b"OPTIONS ")
    connection.connectionLost()
    assert owner.clock.getDelayedCalls() == []
    assert owner.dropped == ["stream ended inside a message"]


def test_handshake_that_does_not_end_is_cut_off_long_before_a_first_message_is_due():
    owner = Owner(handshake_deadline=5, first_message_deadline=32)
    connection = StreamConnection(owner, "gm", 1, tls=True, accepted=True)
    wire = Wire()
    connection.makeConnection(wire)
    owner.clock.advance(4.9)
    assert not wire.aborted
    owner.clock.advance(0.2)
    assert wire.aborted
    assert owner.dropped == ["TLS handshake too slow"]


class Door:
    """The accepting side of a transport layer, without a reactor; each connection comes from another source."""

    def __init__(self, **limits):
        self.clock = Clock()
        self.sink = Owner()
        self.layer = TransportLayer(self.clock, self.sink, StackLimits(**limits))
        self.sources = itertools.count(1)

    def knock(self, role="gm"):
        """A new connection; None when it is refused."""
        connection = self.layer.accept(f"192.0.2.{next(self.sources)}", role, tls=False)
        if connection is not None:
            connection.makeConnection(Wire())
        return connection


@pytest.mark.attack("T7")
def test_silent_connections_of_all_sources_together_are_bounded():
    door = Door(silent_connections=3, silent_patience=1)
    silent = [door.knock() for _ in range(3)]
    assert None not in silent
    assert door.knock() is None
    assert door.sink.dropped == ["too many silent connections"]
    assert door.knock("mw") is not None


@pytest.mark.attack("T7")
def test_the_longest_silent_connection_gives_way_to_a_new_one():
    door = Door(silent_connections=2, silent_patience=1)
    first = door.knock()
    door.clock.advance(1)
    second = door.knock()
    assert door.knock() is not None
    assert (first.transport.aborted, second.transport.aborted) == (True, False)
    first.connectionLost()
    assert door.knock() is None


def test_a_connection_that_spoke_or_closed_is_no_silent_one():
    door = Door(silent_connections=2, silent_patience=1)
    speaking, closed = door.knock(), door.knock()
    assert door.knock() is None
    speaking.dataReceived(message().to_bytes())
    closed.connectionLost()
    door.clock.advance(1)
    assert None not in [door.knock(), door.knock()]
    assert not speaking.transport.aborted


def test_a_keep_alive_alone_does_not_keep_a_place():
    door = Door(silent_connections=1, silent_patience=1)
    pinging = door.knock()
    pinging.dataReceived(b"\r\n\r\n")
    door.clock.advance(1)
    assert door.knock() is not None
    assert pinging.transport.aborted


@pytest.mark.attack("T7")
def test_connections_of_all_sources_together_are_bounded():
    door = Door(connections=3)
    connections = [door.knock() for _ in range(3)]
    for connection in connections:
        connection.dataReceived(message().to_bytes())
    assert door.knock() is None
    assert door.sink.dropped == ["too many connections"]
    connections[0].connectionLost()
    assert door.knock() is not None


class Quiet(SipStack):
    """A stack that writes nowhere."""

    def _write(self, response, flow, key, *, again):
        self.written = [*getattr(self, "written", []), response.status]
        return True


def arrive(stack, number, method="OPTIONS", source="192.0.2.1", role="gm"):
    via = ("Via", f"SIP/2.0/UDP {source}:5060;branch=z9hG4bK{number}")
    request = SipRequest(method, "sip:bob@ims.test", [via, *headers(method, call_id=f"c{number}")])
    stack.message_arrived(request, b"", Flow("UDP", ("127.0.0.1", 5060), (source, 5060), "f", role))


def test_one_source_cannot_hold_all_transactions():
    handler = Recorder(lambda txn: None)
    stack = Quiet(
        Clock(), timers=TimerConfig.core(), handler=handler, limits=StackLimits(pending_transactions_per_source=5)
    )
    for number in range(8):
        arrive(stack, number)
    assert len(handler.requests) == 5
    assert stack.written == [503, 503, 503]
    arrive(stack, 99, source="192.0.2.2")
    arrive(stack, 100, role="mw")
    assert len(handler.requests) == 7
    handler.requests[0].respond(make_response(handler.requests[0].request, 200))
    arrive(stack, 101)
    assert len(handler.requests) == 8


def test_register_flood_of_one_source_is_slowed_to_its_rate():
    handler = Recorder()
    clock = Clock()
    stack = Quiet(clock, timers=TimerConfig.core(), handler=handler)
    for number in range(50):
        arrive(stack, number, "REGISTER")
    assert len(handler.requests) == 10
    clock.advance(1)
    arrive(stack, 60, "REGISTER")
    assert len(handler.requests) == 11


def test_all_state_is_gone_when_the_timers_have_run():
    clock = Clock()
    stack = Quiet(clock, timers=replace(TimerConfig.core(), trying_after=0.2), handler=Recorder())
    for number in range(20):
        arrive(stack, number, "INVITE")
        arrive(stack, 100 + number)
    assert stack.transaction_count == 40
    clock.pump([1] * 70)
    assert stack.transaction_count == 0
    assert stack._answered == {}
    assert clock.getDelayedCalls() == []
    assert stack._admission._sources == {}


@pytest.mark.clause("RFC 5626", "4.4.1")
def test_answers_to_keep_alives_alone_are_no_ping_of_the_peer():
    """A phone that only registered hears nothing but one CRLF every two minutes."""
    owner = Owner()
    lost = []
    connection, wire = owner.connect(accepted=False)
    connection.dataReceived(b"\r\n")  # belongs to nothing
    for number in range(1, 6):
        connection.ping(lambda: lost.append(1))
        connection.dataReceived(b"\r\n")
        owner.clock.advance(100)
        assert not lost
        assert wire.value() == number * b"\r\n\r\n", "a pong is not answered"
    connection.dataReceived(b"\r\n")
    connection.dataReceived(b"\r\n")
    assert wire.value().endswith(b"\r\n\r\n\r\n"), "a ping of the peer is"
