"""Calls through a running CSCF: legs, headers, outcomes."""

import asyncio

import pytest

from sba.testing import async_test
from signalling.sip.headers import parse_name_addr
from signalling.sip.message import SipRequest
from signalling.sip.uri import parse_uri
from tests.cscf.home import ALICE, BOB, DAVE, ERIN, home_network, until


async def registered(home, *subscribers):
    """Register users, each behind a P-CSCF of its own; returns phones."""
    phones = []
    for number, subscriber in enumerate(subscribers):
        peer = await home.peer(f"pcscf-{number}")
        phone = home.phone(subscriber, peer, contact=f"sip:192.0.2.{10 + number}:5061;transport=tls")
        assert (await phone.register()).status == 200
        phones.append(phone)
    return phones


async def invite(caller, uri, *more, method="INVITE", **options):
    request = caller.peer.request(method, uri, headers=caller.originating(*more), **options)
    provisional = []
    answer = await caller.peer.stack.request(request, caller.hop, role="mw", on_provisional=provisional.append)
    return request, answer, provisional


@pytest.mark.clause("TS 24.229", "5.2", "DLG-2")
@pytest.mark.clause("RFC 3327", "5.3")
@pytest.mark.clause("RFC 7315", "4.2.2")
@async_test
async def test_a_call_goes_through_both_legs(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        bob.peer.answers["INVITE"] = (200, [("P-Asserted-Identity", "<sip:bob@ims.test>")])
        _, answer, _ = await invite(
            alice,
            "sip:bob@ims.test",
            ("P-Charging-Vector", 'icid-value=c1;orig-ioi="Type 1v"'),
            ("P-Access-Network-Info", "IEEE-802.11"),
        )
        assert answer.status == 200
        [seen] = bob.peer.received
        assert seen.uri == bob.contact
        assert seen.headers.values("Route") == [f"<{bob.peer.uri}>"]
        assert seen.headers.get("P-Called-Party-ID") == "<sip:bob@ims.test>"
        assert seen.headers.values("P-Asserted-Identity") == ["<sip:alice@ims.test>", "<tel:+15550100>"]
        assert seen.headers.get("P-Access-Network-Info") is None
        assert 'icid-value="c1"' in seen.headers.get("P-Charging-Vector")
        assert 'orig-ioi="Type 1ims.test"' in seen.headers.get("P-Charging-Vector")
        assert seen.headers.get("Max-Forwards") == "69"
        [recorded] = seen.headers.values("Record-Route")
        assert ";lr" in recorded
        assert answer.headers.values("P-Asserted-Identity") == ["<sip:bob@ims.test>", "<tel:+15550101>"]
        assert 'term-ioi="ims.test"' in answer.headers.get("P-Charging-Vector")


@pytest.mark.clause("TS 24.229", "5.4.3.2-tel")
@pytest.mark.parametrize("dialled", ["tel:+1-555-0101", "sip:+15550101@ims.test;user=phone"])
def test_a_number_becomes_the_identity_of_its_owner(tmp_path, dialled):
    @async_test
    async def run():
        async with home_network(tmp_path) as home:
            alice, bob = await registered(home, ALICE, BOB)
            _, answer, _ = await invite(alice, dialled)
            assert answer.status == 200
            assert bob.peer.received[0].uri == bob.contact
            assert bob.peer.received[0].headers.get("P-Called-Party-ID") == "<sip:bob@ims.test>"

    return run()


@pytest.mark.clause("RFC 3261", "16.3", "DLG-4", "E-16")
@async_test
async def test_outcomes_of_calls_that_cannot_be_delivered(tmp_path):
    async with home_network(tmp_path) as home:
        alice, _bob = await registered(home, ALICE, BOB)
        for uri, status in (
            ("sip:erin@ims.test", 480),
            ("sip:nobody@ims.test", 404),
            ("sip:secret-alice@ims.test", 404),
            ("tel:+19999999", 404),
            ("sip:x@nowhere.test", 404),
            ("urn:service:sos", 416),
        ):
            assert (await invite(alice, uri))[1].status == status, uri
        request = alice.peer.request("INVITE", "sip:bob@ims.test", headers=alice.originating())
        request.headers.set("Max-Forwards", "0")
        assert (await alice.peer.stack.request(request, home.hop, role="mw")).status == 483
        looped = alice.peer.request("INVITE", "sip:bob@ims.test", headers=alice.originating())
        for number in range(6):
            looped.headers.prepend("Via", f"SIP/2.0/TLS 127.0.0.1:{home.hop.port};branch=z9hG4bKx{number}")
        assert (await alice.peer.stack.request(looped, home.hop, role="mw")).status == 482
        _, answer, _ = await invite(alice, "sip:bob@ims.test", ("Proxy-Require", "made-up"))
        assert (answer.status, answer.headers.get("Unsupported")) == (420, "made-up")


@pytest.mark.clause("RFC 3261", "12.2.1.1", "16.4", "DLG-2a")
@async_test
async def test_requests_in_the_dialog_follow_the_route_set(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        request, answer, _ = await invite(alice, "sip:bob@ims.test")
        target = str(parse_name_addr(answer.headers.get("Contact")).uri)
        route = answer.headers.values("Record-Route")
        fields = [
            ("Max-Forwards", "70"),
            ("From", request.headers.get("From")),
            ("To", answer.headers.get("To")),
            ("Call-ID", request.call_id),
        ]
        ack = SipRequest("ACK", target, [*fields, ("CSeq", "1 ACK"), *(("Route", value) for value in route)])
        alice.peer.stack.send_ack(ack, home.hop, "mw")
        await bob.peer.until(lambda: bob.peer.acks)
        assert bob.peer.acks[0].headers.get("Route") is None
        bye = SipRequest("BYE", target, [*fields, ("CSeq", "2 BYE"), *(("Route", value) for value in route)])
        assert (await alice.peer.stack.request(bye, home.hop, role="mw")).status == 200
        assert bob.peer.received[-1].method == "BYE"
        assert bob.peer.received[-1].uri == target
        strict = SipRequest(
            "BYE", str(parse_name_addr(route[0]).uri), [*fields, ("CSeq", "3 BYE"), ("Route", f"<{target}>")]
        )
        assert (await alice.peer.stack.request(strict, home.hop, role="mw")).status == 200
        assert bob.peer.received[-1].uri == target


@pytest.mark.clause("RFC 3261", "9.1", "16.10")
@async_test
async def test_cancel_reaches_the_callee_and_the_caller_gets_487(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        bob.peer.answers["INVITE"] = (180, [])
        request = alice.peer.request("INVITE", "sip:bob@ims.test", headers=alice.originating())
        final = asyncio.get_running_loop().create_future()
        ringing = asyncio.Event()

        def responded(response):
            if response.status == 180:
                ringing.set()
            elif response.status >= 200 and not final.done():
                final.set_result(response)

        txn = alice.peer.stack.send(request, home.hop, role="mw", on_response=responded, on_failure=final.set_exception)
        await asyncio.wait_for(ringing.wait(), 5)
        txn.cancel()
        assert (await asyncio.wait_for(final, 5)).status == 487
        assert len(bob.peer.cancelled) == 1
        assert not home.cscf._shell._cancelled, "what is over is forgotten (T7)"


@pytest.mark.clause("RFC 3261", "16.6", "16.7")
@async_test
async def test_several_contacts_ring_and_the_first_answer_cancels_the_rest(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        second_peer = await home.peer("pcscf-9")
        second = home.phone(BOB, second_peer, contact="sip:192.0.2.99:5061;transport=tls", usim=bob.usim)
        assert (await second.register()).status == 200
        bob.peer.answers["INVITE"] = (180, [])
        _, answer, _ = await invite(alice, "sip:bob@ims.test")
        assert answer.status == 200
        await bob.peer.until(lambda: bob.peer.received)
        await until(lambda: bob.peer.cancelled)
        assert second_peer.received[0].uri == second.contact
        assert bob.peer.received[0].headers.values("Route") == [f"<{bob.peer.uri}>"]


@pytest.mark.clause("RFC 3261", "16.6-q")
@async_test
async def test_contacts_of_lower_q_are_tried_after_a_failure(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        second_peer = await home.peer("pcscf-9")
        second = home.phone(
            BOB, second_peer, contact="sip:192.0.2.99:5061;transport=tls", contact_params=";q=0.3", usim=bob.usim
        )
        assert (await second.register()).status == 200
        bob.peer.answers["INVITE"] = 486
        _, answer, _ = await invite(alice, "sip:bob@ims.test")
        assert answer.status == 200
        assert [request.uri for request in bob.peer.received] == [bob.contact]
        second_peer.answers["INVITE"] = 480
        _, answer, _ = await invite(alice, "sip:bob@ims.test")
        assert answer.status == 480


@pytest.mark.clause("TS 23.218", "6.4-default-handling")
@async_test
async def test_an_unreachable_application_server_is_passed_over(tmp_path):
    async with home_network(tmp_path, as_timeout=2.0) as home:
        erin, bob = await registered(home, ERIN, BOB)
        request = erin.peer.request(
            "INVITE", "sip:bob@ims.test", sender="sip:erin@ims.test", headers=erin.originating()
        )
        answer = await erin.peer.stack.request(request, home.hop, role="mw")
        assert answer.status == 200
        assert bob.peer.received[0].headers.get("P-Served-User") is None


@pytest.mark.clause("RFC 3261", "TB-1")
@async_test
async def test_dialog_identifiers_and_body_pass_untouched(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        request = alice.peer.request(
            "MESSAGE",
            "sip:bob@ims.test",
            headers=alice.originating(("Content-Type", "text/plain"), ("X-Unknown", 'odd  "value"')),
            body=b"hello \xff",
        )
        assert (await alice.peer.stack.request(request, home.hop, role="mw")).status == 200
        [seen] = bob.peer.received
        for name in ("From", "To", "Call-ID", "CSeq", "X-Unknown"):
            assert seen.headers.get(name) == request.headers.get(name)
        assert seen.body == b"hello \xff"
        assert seen.headers.get("Record-Route") is None


@pytest.mark.clause("TS 24.229", "5.3.2-other-home")
@async_test
async def test_another_home_domain_is_found_through_the_nrf(tmp_path):
    from dataclasses import replace

    from nodes.cscf.node import Cscf
    from nodes.hss.node import Hss
    from nodes.hss.provision import PublicIdentity
    from sba.testing import free_port
    from tests.cscf.home import Hop, provision

    far = replace(
        BOB,
        impi="far@other.test",
        domain="other.test",
        public_identities=(PublicIdentity("sip:far@other.test"), PublicIdentity("tel:+4670")),
    )
    async with home_network(tmp_path) as home:
        await home.lab.start("hss", "hss-o", provision(home.lab, "hss-o", [far]), cls=Hss)
        port = free_port()
        settings = {"mw": {"host": "127.0.0.1", "port": port}, "home_domains": ["other.test"]}
        await home.lab.start("cscf", "cscf-o", settings, cls=Cscf)
        [alice] = await registered(home, ALICE)
        peer = await home.peer("pcscf-o")
        phone = home.phone(far, peer, contact="sip:203.0.113.5:5061;transport=tls")
        phone.hop = Hop("TLS", "127.0.0.1", port)
        assert (await phone.register()).status == 200
        for uri in ("sip:far@other.test", "tel:+4670"):
            _, answer, _ = await invite(alice, uri)
            assert answer.status == 200
        seen = peer.received[0]
        assert len(seen.headers.values("Record-Route")) == 2
        assert len(seen.headers.values("Via")) == 3
        assert parse_uri(seen.uri).equivalent(parse_uri(phone.contact))


@pytest.mark.clause("RFC 3261", "11")
@async_test
async def test_options_to_the_node_itself(tmp_path):
    async with home_network(tmp_path) as home:
        peer = await home.peer()
        request = peer.request("OPTIONS", f"sip:127.0.0.1:{home.hop.port};transport=tls")
        answer = await peer.stack.request(request, home.hop, role="mw")
        assert answer.status == 200
        assert "INVITE" in answer.headers.get("Allow")


@pytest.mark.clause("RFC 3261", "16.6-tcp")
@async_test
async def test_a_digest_user_calls_over_tcp(tmp_path):
    async with home_network(tmp_path, transport="tcp", trusted_peers=["127.0.0.1"]) as home:
        dave, bob = await registered(home, DAVE, BOB)
        request = dave.peer.request(
            "INVITE", "sip:bob@ims.test", sender="sip:dave@ims.test", headers=dave.originating()
        )
        assert (await dave.peer.stack.request(request, home.hop, role="mw")).status == 200
        assert bob.peer.received[0].headers.values("P-Asserted-Identity") == ["<sip:dave@ims.test>"]
