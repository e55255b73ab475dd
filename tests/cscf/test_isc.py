"""Application servers over ISC: a server that hands the leg back, and ones that fail."""

import asyncio
from dataclasses import replace

import pytest

from nodes.hss.provision import FilterCriterion, Trigger
from sba.testing import async_test
from signalling.sip.stack import make_response
from tests.cscf.home import ALICE, BOB, Home, MwPeer, home_network
from tests.cscf.test_calls import registered

INVITES = (Trigger(method="INVITE"),)


class Server:
    """An application server in proxy mode."""

    def __init__(self, home: Home, peer: MwPeer) -> None:
        self.home, self.peer = home, peer
        peer.request_received = self.forward

    async def forward_on(self, txn):
        request = txn.request.copy()
        self.peer.received.append(txn.request)
        request.headers.remove_first_value("Route")
        request.headers.set("X-Seen", "yes")
        answer = await self.peer.stack.request(request, self.home.hop, role="mw")
        txn.respond(answer.without_top_via(), forwarded=True)

    def forward(self, txn):
        from sba import runtime

        runtime.spawn(self.forward_on(txn))


def with_server(user, port, case, *, terminate=False):
    criterion = FilterCriterion(
        1, f"sip:127.0.0.1:{port};transport=tls", (replace(INVITES[0], session_case=case),), terminate
    )
    return replace(user, filter_criteria=(criterion,))


async def call(alice, **options):
    request = alice.peer.request("INVITE", "sip:bob@ims.test", headers=alice.originating(), **options)
    return await alice.peer.stack.request(request, alice.hop, role="mw")


@pytest.mark.clause("TS 24.229", "5.4.3.2-as", "5.4.3.3-as")
@pytest.mark.clause("RFC 5502", "6")
@pytest.mark.parametrize(("case", "owner"), [("orig", ALICE), ("term", BOB)])
def test_a_server_sees_the_leg_once_and_hands_it_back(tmp_path, case, owner):
    @async_test
    async def run():
        from sba.testing import free_port

        port = free_port()
        users = [with_server(user, port, case) if user is owner else user for user in (ALICE, BOB)]
        async with home_network(tmp_path, subscribers=users) as home:
            peer = await home.peer("as", nf_type="IMS_AS", port=port)
            Server(home, peer)
            alice, bob = await registered(home, *users)
            assert (await call(alice)).status == 200
            [seen] = peer.received
            served = owner.public_identities[0].uri
            assert seen.headers.get("P-Served-User") == f"<{served}>;sescase={case};regstate=reg"
            assert len(seen.headers.values("Route")) == 2
            [delivered] = bob.peer.received
            assert delivered.headers.get("X-Seen") == "yes"
            assert delivered.headers.get("P-Served-User") is None
            assert delivered.uri == bob.contact
            assert delivered.headers.values("P-Asserted-Identity") == ["<sip:alice@ims.test>", "<tel:+15550100>"]

    return run()


@pytest.mark.clause("TS 23.218", "6.4-default-handling")
@pytest.mark.parametrize(
    ("status", "terminate", "outcome"), [(503, False, 200), (500, True, 500), (486, False, 486), (None, False, 200)]
)
def test_what_a_failing_server_leads_to(tmp_path, status, terminate, outcome):
    @async_test
    async def run():
        from sba.testing import free_port

        port = free_port()
        users = [with_server(ALICE, port, "orig", terminate=terminate), BOB]
        async with home_network(tmp_path, subscribers=users, as_timeout=0.5) as home:
            peer = await home.peer("as", nf_type="IMS_AS", port=port)
            peer.answers["INVITE"] = status
            alice, bob = await registered(home, *users)
            assert (await call(alice)).status == outcome
            assert len(bob.peer.received) == (1 if outcome == 200 else 0)

    return run()


@pytest.mark.clause("TS 23.218", "6.4-default-handling")
@pytest.mark.parametrize(("status", "outcome"), [(503, 500), (408, 408), (486, 486)])
def test_what_the_far_end_answers_behind_a_server_is_no_failure_of_the_server(tmp_path, status, outcome):
    @async_test
    async def run():
        from sba.testing import free_port

        port = free_port()
        users = [with_server(ALICE, port, "orig"), BOB]
        async with home_network(tmp_path, subscribers=users) as home:
            Server(home, await home.peer("as", nf_type="IMS_AS", port=port))
            alice, bob = await registered(home, *users)
            bob.peer.answers["INVITE"] = status
            assert (await call(alice)).status == outcome
            assert len(bob.peer.received) == 1

    return run()


@pytest.mark.clause("TS 23.218", "6.4-default-handling")
def test_a_far_end_that_takes_its_time_behind_a_server_is_waited_for(tmp_path):
    @async_test
    async def run():
        from sba.testing import free_port

        port = free_port()
        users = [with_server(ALICE, port, "orig"), BOB]
        async with home_network(tmp_path, subscribers=users, as_timeout=0.3) as home:
            Server(home, await home.peer("as", nf_type="IMS_AS", port=port))
            alice, bob = await registered(home, *users)
            bob.peer.answers["INVITE"] = None
            calling = asyncio.ensure_future(call(alice))
            await bob.peer.until(lambda: bob.peer.received)
            assert not (await asyncio.wait([calling], timeout=0.7))[0]
            bob.peer.transactions[0].respond(make_response(bob.peer.received[0], 480))
            assert (await calling).status == 480
            assert len(bob.peer.received) == 1
            assert not bob.peer.cancelled

    return run()


@pytest.mark.parametrize(("default", "outcome"), [("continue", 200), ("refuse", 503)])
def test_a_server_that_the_nrf_does_not_know_has_failed(tmp_path, default, outcome):
    @async_test
    async def run():
        criterion = FilterCriterion(1, "sip:nobody.ims.test", INVITES, default == "refuse")
        users = [replace(ALICE, filter_criteria=(criterion,)), BOB]
        async with home_network(tmp_path, subscribers=users) as home:
            alice, bob = await registered(home, *users)
            assert (await call(alice)).status == outcome
            assert len(bob.peer.received) == (outcome == 200)

    return run()


@pytest.mark.attack("T7")
@pytest.mark.parametrize("said", ["<sip:bob@ims.test>", "<sip:alice@ims.test>, <tel:+15550101>", "<sip:a b>"])
def test_a_server_does_not_let_its_user_call_as_somebody_else(tmp_path, said):
    @async_test
    async def run():
        from sba.testing import free_port

        port = free_port()
        users = [with_server(ALICE, port, "orig"), BOB]
        async with home_network(tmp_path, subscribers=users) as home:
            peer = await home.peer("as", nf_type="IMS_AS", port=port)
            Server(home, peer)
            alice, bob = await registered(home, *users)
            assert (await call(alice)).status == 200
            token = peer.received[0].headers.values("Route")[1]
            for asserted, status in ((said, 403), ("<tel:+15550100>", 200)):
                headers = [("Route", token), ("P-Asserted-Identity", asserted), ("Contact", f"<{peer.uri}>")]
                request = peer.request("INVITE", "sip:bob@ims.test", headers=headers)
                assert (await peer.stack.request(request, home.hop, role="mw")).status == status
            assert len(bob.peer.received) == 2

    return run()
