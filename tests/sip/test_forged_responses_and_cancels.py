"""Who has read a branch, as everybody downstream of it has, neither answers nor cancels in another's name (T7)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol

from signalling.sip.flow import Flow, response_destination
from signalling.sip.limits import StackLimits
from signalling.sip.message import SipRequest, SipResponse, parse_message
from signalling.sip.stack import SilentObserver, cancels, make_response
from signalling.sip.transaction import State, cancel_for
from tests.sip.support import headers, on_the_loop
from tests.sip.test_stack import Pair, invite, until

pytestmark = pytest.mark.attack("T7")

OTHER_HOST = "127.66.6.6"


class Drops(SilentObserver):
    """Remembers why something was dropped."""

    def __init__(self):
        self.reasons = []

    def message_dropped(self, reason, data, flow):
        self.reasons.append(reason)


class Stranger(DatagramProtocol):
    """A UDP socket of somebody who is no part of the transaction."""

    def __init__(self, host):
        self.heard = []
        self.port = reactor.listenUDP(0, self, interface=host)

    def send(self, data, address):
        self.transport.write(data, address)

    def datagramReceived(self, datagram, addr):
        self.heard.append(parse_message(datagram))


@contextlib.asynccontextmanager
async def pair_and_stranger(transport="UDP", host=OTHER_HOST, **kwargs):
    """A caller with its INVITE at a callee that does not answer yet, and a stranger."""
    pair = await Pair(lambda txn: None, **kwargs).open(transport)
    pair.caller.observer = pair.drops = Drops()
    pair.udp = await pair.caller.listen("UDP", "127.0.0.1", 0, role="gm")
    stranger = Stranger(host)
    try:
        yield pair, stranger
    finally:
        await asyncio.wait_for(_stopped(stranger.port.stopListening()), 5)
        await pair.close()


async def _stopped(deferred):
    if deferred is not None:
        await deferred.asFuture(asyncio.get_running_loop())


async def calling(pair):
    """Send the INVITE; returns what the caller hears but 100, and the callee's transaction."""
    heard = []

    def responded(response):
        if response.status > 100:
            heard.append(response)

    pair.caller.send(invite(), pair.hop, role="gm", on_response=responded, on_failure=heard.append)
    await until(lambda: pair.bob.requests)
    return heard, pair.bob.requests[0]


@on_the_loop
async def test_a_response_from_another_host_is_dropped_and_the_true_one_still_taken():
    async with pair_and_stranger() as (pair, stranger):
        heard, txn = await calling(pair)
        local = pair.caller.local_address("gm", "UDP")
        stranger.send(make_response(txn.request, 200, to_tag="forged").to_bytes(), local)
        await until(lambda: pair.drops.reasons)
        assert pair.drops.reasons == ["response from elsewhere"]
        assert heard == []
        txn.respond(make_response(txn.request, 486))
        await until(lambda: heard)
        assert [response.status for response in heard] == [486]


@on_the_loop
async def test_a_request_over_a_connection_is_not_answered_by_a_datagram():
    async with pair_and_stranger("TCP", "127.0.0.1") as (pair, stranger):
        heard, txn = await calling(pair)
        stranger.send(make_response(txn.request, 200, to_tag="forged").to_bytes(), pair.udp.address)
        await until(lambda: pair.drops.reasons)
        assert heard == []
        txn.respond(make_response(txn.request, 486))
        await until(lambda: heard)
        assert [response.status for response in heard] == [486]


@on_the_loop
async def test_a_request_over_a_connection_is_not_answered_over_another_one():
    async with pair_and_stranger("TCP") as (pair, _):
        heard, txn = await calling(pair)
        _, writer = await asyncio.open_connection(*pair.caller.local_address("gm", "TCP"))
        writer.write(make_response(txn.request, 200, to_tag="forged").to_bytes())
        await until(lambda: pair.drops.reasons)
        assert pair.drops.reasons == ["response from elsewhere"]
        assert heard == []
        writer.close()


@pytest.mark.parametrize(
    ("via", "destination"),
    [
        (";maddr=192.0.2.66", ("192.0.2.1", 5062)),
        (";maddr=192.0.2.66;received=192.0.2.9", ("192.0.2.9", 5062)),
        (";maddr=192.0.2.66;received=192.0.2.9;rport=4001", ("192.0.2.9", 4001)),
    ],
)
def test_nobody_aims_responses_at_another_host_by_maddr(via, destination):
    response = SipResponse(403, "Forbidden", [("Via", f"SIP/2.0/UDP 192.0.2.1:5062;branch=z9hG4bKa{via}")])
    assert response_destination(response, "UDP") == destination


@pytest.mark.clause("RFC 3261", "18.1.2")
@on_the_loop
async def test_another_port_of_the_next_hop_may_answer_a_ue_but_not_on_a_core_side():
    for trusted, statuses in ((frozenset({"mw"}), [200]), (frozenset({"gm"}), [])):
        async with pair_and_stranger(host="127.0.0.1", limits=StackLimits(trusted_roles=trusted)) as (pair, stranger):
            heard, txn = await calling(pair)
            stranger.send(make_response(txn.request, 200).to_bytes(), pair.caller.local_address("gm", "UDP"))
            await until(lambda heard=heard, pair=pair: heard or pair.drops.reasons)
            assert [response.status for response in heard] == statuses


@on_the_loop
async def test_a_response_at_a_port_of_another_role_is_dropped():
    async with pair_and_stranger(host="127.0.0.1") as (pair, stranger):
        other = await pair.caller.listen("UDP", "127.0.0.1", 0, role="mw")
        heard, txn = await calling(pair)
        stranger.send(make_response(txn.request, 200).to_bytes(), other.address)
        await until(lambda: pair.drops.reasons)
        assert heard == []


GM = Flow("UDP", ("127.0.0.1", 5060), ("192.0.2.1", 5060), "udp-1", "gm")


@pytest.mark.parametrize(
    ("back", "loosely", "exactly"),
    [
        (GM, True, True),
        (Flow("UDP", GM.local, ("192.0.2.1", 5070), "udp-2", "gm"), True, False),
        (Flow("UDP", GM.local, ("192.0.2.2", 5060), "udp-3", "gm"), False, False),
        (Flow("UDP", ("127.0.0.1", 5070), GM.remote, "udp-4", "gm"), False, False),
        (Flow("UDP", GM.local, GM.remote, "udp-1", "mw"), False, False),
        (Flow("TCP", GM.local, GM.remote, "tcp-1", "gm"), False, False),
    ],
)
def test_which_way_back_is_believed(back, loosely, exactly):
    assert GM.is_answered_by(back, exact=False) is loosely
    assert GM.is_answered_by(back, exact=True) is exactly


def test_an_address_is_the_same_however_it_is_written():
    one = Flow("UDP", ("::1", 5060), ("2001:db8::1", 5060), "udp-1", "gm")
    other = Flow("UDP", ("::1", 5060), ("2001:DB8:0::1", 5060), "udp-2", "gm")
    assert one.is_answered_by(other, exact=False)


def forged_cancel(request, **changes):
    """A CANCEL with the Via of a request it knows no more of."""
    cancel = SipRequest("CANCEL", changes.get("uri", request.uri))
    cancel.headers.add("Via", request.headers.first_value("Via"))
    for name, value in headers("CANCEL"):
        cancel.headers.add(name, changes.get(name, value))
    return cancel


FOREIGN = [
    {"Call-ID": "other"},
    {"From": "<sip:alice@ims.test>;tag=other"},
    {"From": "<sip:eve@ims.test>;tag=a1"},
    {"To": "<sip:bob@ims.test>;tag=more"},
    {"To": "<sip:eve@ims.test>"},
    {"CSeq": "77 CANCEL"},
    {"uri": "sip:eve@ims.test"},
]


@pytest.mark.clause("RFC 3261", "9.1")
@pytest.mark.parametrize("changes", FOREIGN, ids=lambda changes: next(iter(changes.items())))
def test_a_cancel_that_differs_from_the_invite_is_another_ones(changes):
    sent = invite()
    sent.headers.prepend("Via", "SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKa")
    assert cancels(cancel_for(sent), sent)
    assert not cancels(forged_cancel(sent, **changes), sent)


@pytest.mark.clause("RFC 3261", "9.2")
@on_the_loop
async def test_a_stranger_who_knows_the_branch_does_not_cancel_and_the_caller_still_does():
    async with pair_and_stranger() as (pair, stranger):
        heard = []
        txn = pair.caller.send(invite(), pair.hop, role="gm", on_response=heard.append, on_failure=heard.append)
        await until(lambda: pair.bob.requests)
        server = pair.bob.requests[0]
        server.respond(make_response(server.request, 180, to_tag="b1"))
        address = pair.listener.address
        whole = cancel_for(txn.request)
        for number, cancel in enumerate((whole, forged_cancel(txn.request, **FOREIGN[0])), 1):
            stranger.send(cancel.to_bytes(), address)
            await until(lambda number=number: len(stranger.heard) == number)
        assert [response.status for response in stranger.heard] == [481, 481]
        assert pair.bob.cancels == []
        assert server.state is State.PROCEEDING
        txn.cancel()
        await until(lambda: pair.bob.cancels)
        assert pair.bob.cancels[0][0] is server


@on_the_loop
async def test_a_cancel_over_another_connection_is_481():
    async with pair_and_stranger("TCP") as (pair, _):
        txn = pair.caller.send(invite(), pair.hop, role="gm", on_response=lambda _: None, on_failure=lambda _: None)
        await until(lambda: pair.bob.requests)
        reader, writer = await asyncio.open_connection(*pair.listener.address)
        writer.write(cancel_for(txn.request).to_bytes())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        assert answer == b"SIP/2.0 481 Call/Transaction Does Not Exist\r\n"
        assert pair.bob.cancels == []
        writer.close()
