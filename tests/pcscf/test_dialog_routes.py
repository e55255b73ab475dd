"""Row T7 at the edge: inside a dialog the network goes its own way, whatever a UE writes (HOP-2, HOP-4, 5.2.6.3)."""

from __future__ import annotations

import asyncio

import pytest

from sba.testing import async_test
from signalling.sip.dialog import Dialog
from signalling.sip.message import SipRequest
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, REQUESTED, EdgeFixture, Ue, audio, edge, ok
from tests.pcscf.test_sessions import answer_next
from tests.trap import trap

SECURE = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)


async def answered(it: EdgeFixture, alice: Ue, *, recorded: bool, contact: str = "") -> Dialog:
    """A call of alice that the core answered, with or without a Record-Route of its own."""
    attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
    invite = await it.core.next("INVITE")
    if recorded:
        invite.request.headers.prepend("Record-Route", f"<{it.core_uri('rr')}>")
    invite.respond(ok(invite, audio(50000), contact=contact or f"<{it.core_uri('bob')}>"))
    final = await attempt.final()
    near = Dialog.from_uac(attempt.txn.request, final)
    alice.stack.send_ack(near.ack_for(final), alice.hop, "ue")
    return near


def own_routes(request: SipRequest) -> list[str]:
    """The two Routes of the edge, on top."""
    return request.headers.values("Route")[:2]


FOREIGN = [
    "sip:127.0.0.1:{port};transport=tcp;lr",
    "sip:127.0.0.1:{port};transport=tls;lr",
    "sip:127.0.0.1:{port};transport=udp;lr",
    "sip:127.0.0.1:{port};lr",
]


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "HOP-2", "HOP-4")
@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("method", ["INFO", "BYE", "UPDATE"])
@async_test
async def test_a_route_of_a_ues_making_is_replaced_by_the_route_set_of_the_dialog(tmp_path, foreign, method):
    async with edge(tmp_path) as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        near = await answered(it, alice, recorded=True)
        await it.core.next_ack()
        request = near.request(method)
        request.headers.set_values("Route", [*own_routes(request), f"<{foreign.format(port=other.port)}>"])
        request.uri = f"sip:x@127.0.0.1:{other.port};transport=tcp"
        sent = alice.send(request, alice.hop)
        seen = await answer_next(it.core, method, b"", f"<{it.core_uri('bob')}>")
        assert seen.request.headers.values("Route") == [f"<{it.core_uri('rr')}>"]
        assert seen.request.uri == it.core_uri("bob")
        assert (await sent.final()).status == 200
        assert other.caught == []
        assert any(one["mode"] == "route" for one in it.decisions())


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "HOP-4")
@pytest.mark.parametrize("uri", ["sip:x@127.0.0.1:{port};transport=tcp", "sip:bob@127.0.0.2;maddr=127.0.0.1:{port}"])
@async_test
async def test_a_request_uri_of_a_ues_making_is_replaced_by_the_remote_target(tmp_path, uri):
    async with edge(tmp_path) as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        near = await answered(it, alice, recorded=False)
        await it.core.next_ack()
        request = near.request("INFO")
        request.uri = uri.format(port=other.port)
        alice.send(request, alice.hop)
        assert (await it.core.next("INFO")).request.uri == it.core_uri("bob")
        assert other.caught == []


@pytest.mark.attack("T7")
@async_test
async def test_the_ack_of_a_ue_goes_the_way_of_the_dialog(tmp_path):
    async with edge(tmp_path) as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        ack = Dialog.from_uac(attempt.txn.request, final).ack_for(final)
        ack.headers.set_values("Route", [*own_routes(ack), f"<sip:127.0.0.1:{other.port};transport=tcp;lr>"])
        ack.headers.add("P-Asserted-Identity", "<sip:boss@ims.test>")
        alice.stack.send_ack(ack, alice.hop, "ue")
        received = await it.core.next_ack()
        assert received.headers.values("Route") == []
        assert received.headers.get("P-Asserted-Identity") is None
        assert other.caught == []


@pytest.mark.attack("T7")
@async_test
async def test_a_foreign_route_in_a_dialog_is_refused_where_policy_says_so(tmp_path):
    async with edge(tmp_path, route_policy="reject") as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        near = await answered(it, alice, recorded=True)
        await it.core.next_ack()
        request = near.request("INFO")
        request.headers.set_values("Route", [*own_routes(request), f"<sip:127.0.0.1:{other.port};transport=tcp;lr>"])
        assert (await alice.send(request, alice.hop).final()).status == 400
        assert other.caught == []
        sent = alice.send(near.request("BYE"), alice.hop)
        await answer_next(it.core, "BYE", b"", f"<{it.core_uri('bob')}>")
        assert (await sent.final()).status == 200


@pytest.mark.attack("T7")
@pytest.mark.parametrize("params", ["", ";transport=tcp", ";transport=tls", ";transport=udp"])
@async_test
async def test_a_contact_of_the_far_end_opens_no_connection_on_mw(tmp_path, params):
    async with edge(tmp_path) as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        contact = f"<sip:bob@127.0.0.1:{other.port}{params}>"
        near = await answered(it, alice, recorded=False, contact=contact)
        assert (await alice.send(near.request("INFO"), alice.hop).final()).status == 403
        await asyncio.sleep(0.1)
        assert other.caught == []
        assert it.core.acks.empty()


async def subscribed(it: EdgeFixture, alice: Ue) -> Dialog:
    """A subscription of alice that the core accepted."""
    request = alice.invite("sip:bob@ims.test", headers=[("Event", "presence"), ("Expires", "600")])
    request.method = "SUBSCRIBE"
    request.headers.set("CSeq", "1 SUBSCRIBE")
    attempt = alice.send(request, alice.hop)
    received = await it.core.next("SUBSCRIBE")
    received.request.headers.prepend("Record-Route", f"<{it.core_uri('rr')}>")
    contact = [("Contact", f"<{it.core_uri('bob')}>"), ("Expires", "600")]
    routes = [("Record-Route", value) for value in received.request.headers.values("Record-Route")]
    answer = make_response(received.request, 200, to_tag="far", headers=contact)
    if "Record-Route" not in answer.headers:
        answer.headers.set_values("Record-Route", [value for _, value in routes])
    received.respond(answer)
    return Dialog.from_uac(attempt.txn.request, await attempt.final())


@pytest.mark.clause("RFC 6665", "4.1.2.2")
@async_test
async def test_a_subscription_is_refreshed_along_its_route_set(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        dialog = await subscribed(it, alice)
        sent = alice.send(dialog.request("SUBSCRIBE", headers=[("Security-Verify", alice.verify)]), alice.hop)
        seen = await answer_next(it.core, "SUBSCRIBE", b"", f"<{it.core_uri('bob')}>")
        assert seen.request.headers.values("Route") == [f"<{it.core_uri('rr')}>"]
        assert (await sent.final()).status == 200


@pytest.mark.attack("T7")
@pytest.mark.parametrize("foreign", FOREIGN)
@async_test
async def test_a_subscription_takes_a_request_to_the_users_s_cscf_and_nowhere_else(tmp_path, foreign):
    async with edge(tmp_path) as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        dialog = await subscribed(it, alice)
        place = foreign.format(port=other.port)
        for routes, uri in (([f"<{place}>"], it.core_uri("bob")), ([], place.removesuffix(";lr"))):
            request = dialog.request("INFO", headers=[("Security-Verify", alice.verify)])
            request.headers.set_values("Route", [*own_routes(request), *routes])
            request.uri = uri
            assert (await alice.send(request, alice.hop).final()).status == 403
        await asyncio.sleep(0.1)
        assert other.caught == []
        assert it.core.requests.empty()


@pytest.mark.attack("T7")
@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "PRACK"])
@async_test
async def test_a_subscription_is_no_way_round_the_media_gateway(tmp_path, method):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        dialog = await subscribed(it, alice)
        headers = [("Security-Verify", alice.verify), ("Content-Type", "application/sdp")]
        request = dialog.request(method, headers=headers, body=audio(40000))
        assert (await alice.send(request, alice.hop).final()).status == 481
        assert it.core.requests.empty()


@pytest.mark.attack("T7")
@async_test
async def test_the_route_of_one_subscription_serves_no_other_dialog(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        dialog = await subscribed(it, alice)
        request = dialog.request("INFO", headers=[("Security-Verify", alice.verify)])
        request.headers.set("Call-ID", "another@ue")
        assert (await alice.send(request, alice.hop).final()).status == 481
        assert it.core.requests.empty()


@pytest.mark.attack("T7")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@async_test
async def test_without_service_route_a_request_enters_at_the_home_domain_and_not_where_its_uri_leads(tmp_path, method):
    async with edge(tmp_path) as it, trap() as other:
        alice = await it.ue("alice")
        await alice.sign_on()
        (registration,) = it.node.edge.bindings
        registration.service_route = ()
        request = alice.invite(f"sip:x@127.0.0.1:{other.port};transport=tcp", route=[])
        request.method = method
        request.headers.set("CSeq", f"1 {method}")
        alice.send(request, alice.hop)
        await it.core.next(method)
        assert other.caught == []
