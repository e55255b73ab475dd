"""Attempts on the CSCF: hijacked registrations, replays, asserted identities, Route tricks (T7)."""

import contextlib

import pytest

from keying.secret import Secret
from nodes.cscf.challenges import MAX_VECTORS
from nodes.cscf.route_tokens import RouteTokens
from sba.testing import async_test
from signalling.aka.digest import DigestChallenge
from signalling.sip.flow import TransactionFailure
from signalling.sip.message import SipRequest
from tests.cscf.home import ALICE, BOB, DAVE, home_network, until
from tests.cscf.test_calls import invite, registered
from tests.trap import trap

pytestmark = pytest.mark.attack("T7")


async def ask(peer, request, hop):
    return (await peer.stack.request(request, hop, role="mw")).status


@async_test
async def test_nobody_registers_the_identity_of_another(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        mallory = home.phone(BOB, bob.peer, contact="sip:203.0.113.66:5061", usim=bob.usim)
        assert (await mallory.send(mallory.credentials(), impu="sip:alice@ims.test")).status == 403
        challenged = await mallory.send(mallory.credentials())
        assert (await mallory.send(mallory.answer(challenged), impu="sip:alice@ims.test")).status == 403
        await invite(bob, "sip:alice@ims.test", method="OPTIONS")
        assert alice.peer.received[-1].uri == alice.contact


@async_test
async def test_registers_in_the_name_of_a_user_void_no_challenge_of_his(tmp_path):
    async with home_network(tmp_path) as home:
        alice = home.phone(ALICE, await home.peer())
        challenged = await alice.send(alice.credentials())
        mallory = home.phone(ALICE, await home.peer("pcscf-2"), contact="sip:203.0.113.66:5061")
        for number in range(20):
            mallory.call_id = f"lock-out-{number}"
            assert (await mallory.send(mallory.credentials())).status == 401
            if number % 2:
                assert (await mallory.send(mallory.credentials('nonce="",response="00"'))).status in (401, 403)
        assert (await alice.send(alice.answer(challenged))).status == 200


@async_test
async def test_unanswered_challenges_spend_only_so_many_vectors_of_a_user(tmp_path):
    async with home_network(tmp_path) as home:
        mallory = home.phone(ALICE, await home.peer())
        nonces = []
        for number in range(30):
            mallory.call_id = f"call-{number // 2}"
            answer = await mallory.send(mallory.credentials())
            nonces.append(DigestChallenge.parse(answer.headers.get_all("WWW-Authenticate")[0]).nonce)
        assert len(set(nonces)) == MAX_VECTORS
        assert set(nonces[MAX_VECTORS:]) == {nonces[MAX_VECTORS - 1]}
        for wrong in (f'nonce="{nonces[-1]}",response="00"', f'nonce="{nonces[-1]}",response=""'):
            assert (await mallory.send(mallory.credentials(wrong))).status in (401, 403)
        alice = home.phone(ALICE, await home.peer("pcscf-2"))
        answer = alice.answer(await alice.send(alice.credentials()))
        assert (await alice.send(answer)).status == 200
        overheard = home.phone(ALICE, mallory.peer, call_id="call-3")
        assert (await overheard.send(answer)).status == 401
        fresh = await mallory.send(mallory.credentials())
        assert DigestChallenge.parse(fresh.headers.get_all("WWW-Authenticate")[0]).nonce not in nonces


@async_test
async def test_an_answer_to_the_challenge_of_another_user_is_worthless(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = [home.phone(user, await home.peer(f"p-{user.impi[14]}")) for user in (ALICE, BOB)]
        await alice.send(alice.credentials())
        bobs = await bob.send(bob.credentials())
        stolen = bob.answer(bobs)[1].replace(BOB.impi, ALICE.impi)
        assert (await alice.send(("Authorization", stolen))).status == 401
        assert home.cscf._location.by_impi(ALICE.impi) is None


@async_test
async def test_a_recorded_register_is_challenged_again(tmp_path):
    async with home_network(tmp_path) as home:
        peer = await home.peer()
        for subscriber in (ALICE, DAVE):
            phone = home.phone(subscriber, peer)
            challenged = await phone.send(phone.credentials() if phone.flag else None)
            recorded = phone.answer(challenged)
            assert (await phone.send(recorded)).status == 200
            replayed = await phone.send(recorded, contact="<sip:203.0.113.66:5061>")
            assert replayed.status == 401
            [binding] = home.cscf._location.by_impi(subscriber.impi).bindings
            assert binding.contact == phone.contact


@pytest.mark.clause("TS 33.203", "P.4.2")
@pytest.mark.parametrize("realm", ["ims.test", "elsewhere"])
@async_test
async def test_several_authorizations_are_refused_whatever_their_realms(tmp_path, realm):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer("pcscf-a"))
        assert (await phone.register()).status == 200
        text = f'Digest username="{ALICE.impi}",realm="{realm}",uri="sip:ims.test",nonce="",response=""'
        second = ("Authorization", f'{text},integrity-protected="yes"')
        assert (await phone.send(phone.credentials(), extra=[second])).status == 400


@async_test
async def test_a_register_from_outside_the_trust_domain_is_refused_whatever_its_flag(tmp_path):
    async with home_network(tmp_path) as home:
        stranger = await home.peer("gateway", nf_type="IMS_AGW")
        for flag in ("yes", "auth-done", "tls-connected", None):
            phone = home.phone(ALICE, stranger, flag=flag)
            assert (await phone.send(phone.credentials())).status == 403


@async_test
async def test_an_application_server_registers_nobody_and_ends_no_registration(tmp_path):
    async with home_network(tmp_path) as home:
        alice = home.phone(ALICE, await home.peer("pcscf-a"), flag="no", algorithm="AKAv1-MD5")
        assert (await alice.register()).status == 200
        server = await home.peer("as", nf_type="IMS_AS")
        mallory = home.phone(ALICE, server, flag="yes", contact="sip:203.0.113.66:5061")
        assert (await mallory.send(mallory.credentials())).status == 403
        assert (await mallory.send(mallory.credentials(), contact="*", expires=0)).status == 403
        assert home.cscf._location.by_impi(ALICE.impi).bindings[0].contact == alice.contact


@async_test
async def test_a_p_cscf_that_did_not_bring_a_registration_has_no_association_of_it(tmp_path):
    async with home_network(tmp_path) as home:
        alice = home.phone(ALICE, await home.peer("pcscf-a"), flag="no", algorithm="AKAv1-MD5")
        assert (await alice.register()).status == 200
        other = await home.peer("pcscf-b")
        mallory = home.phone(ALICE, other, flag="yes", contact="sip:203.0.113.66:5061", algorithm="AKAv1-MD5")
        assert (await mallory.send(mallory.credentials())).status == 401
        assert (await mallory.send(mallory.credentials(), contact="*", expires=0)).status == 401
        alice.flag = "yes"
        assert (await alice.send(alice.credentials())).status == 200
        assert [one.contact for one in home.cscf._location.by_impi(ALICE.impi).bindings] == [alice.contact]


@async_test
async def test_mw_wants_a_certificate_of_this_lab(tmp_path):
    async with home_network(tmp_path / "one") as home, home_network(tmp_path / "two") as other:
        foreign = await other.peer("pcscf-foreign")
        with pytest.raises(TransactionFailure):
            await foreign.stack.request(foreign.request("OPTIONS", "sip:ims.test"), home.hop, role="mw")


@async_test
async def test_asserted_headers_from_outside_are_taken_out(tmp_path):
    async with home_network(tmp_path, untrusted_terminating=True) as home:
        alice, _bob = await registered(home, ALICE, BOB)
        stranger = await home.peer("gateway", nf_type="IMS_AGW")
        request = stranger.request(
            "MESSAGE",
            "sip:alice@ims.test",
            headers=[
                ("P-Asserted-Identity", "<sip:bob@ims.test>"),
                ("P-Served-User", "<sip:bob@ims.test>;sescase=orig;regstate=reg"),
                ("P-Called-Party-ID", "<sip:ceo@ims.test>"),
                ("P-Charging-Vector", "icid-value=theirs"),
                ("P-Asserted-Service", "urn:urn-7:3gpp-service.ims.icsi.mmtel"),
            ],
        )
        assert await ask(stranger, request, home.hop) == 200
        seen = alice.peer.received[-1]
        for name in ("P-Asserted-Identity", "P-Served-User", "P-Asserted-Service"):
            assert seen.headers.get(name) is None
        assert seen.headers.get("P-Called-Party-ID") == "<sip:alice@ims.test>"
        assert "theirs" not in seen.headers.get("P-Charging-Vector")


@pytest.mark.parametrize("nf_type", ["IMS_AGW", "UE"])
@async_test
async def test_a_certificate_of_no_sip_node_reaches_nobody_through_mw(tmp_path, nf_type):
    async with home_network(tmp_path) as home:
        (alice,) = await registered(home, ALICE)
        stranger = await home.peer("stranger", nf_type=nf_type)
        for method in ("INVITE", "MESSAGE", "SUBSCRIBE"):
            assert await ask(stranger, stranger.request(method, "sip:alice@ims.test"), home.hop) == 403
        assert alice.peer.received == []


@async_test
async def test_a_revoked_node_gets_nothing_over_the_connection_it_has(tmp_path):
    async with home_network(tmp_path) as home:
        (alice,) = await registered(home, ALICE)
        other = await home.peer("pcscf-2")
        assert await ask(other, other.request("MESSAGE", "sip:alice@ims.test"), home.hop) == 200
        home.lab.ca.revoke("pcscf-2")
        with contextlib.suppress(TransactionFailure):  # the answer and the end of the connection race
            assert await ask(other, other.request("MESSAGE", "sip:alice@ims.test"), home.hop) == 403
        await until(lambda: not other.stack.flows("mw"))
        with pytest.raises(TransactionFailure):
            await ask(other, other.request("MESSAGE", "sip:alice@ims.test"), home.hop)
        assert len(alice.peer.received) == 1


@async_test
async def test_connections_of_a_revoked_node_are_cut_whoever_opened_them(tmp_path):
    async with home_network(tmp_path) as home:
        (alice,) = await registered(home, ALICE)
        dialled = await home.peer("pcscf-3")
        bob = home.phone(BOB, dialled, contact="sip:192.0.2.40:5061;transport=tls")
        assert (await bob.register()).status == 200
        assert (await invite(alice, "sip:bob@ims.test", method="MESSAGE"))[1].status == 200
        assert len(dialled.stack.flows("mw")) == 2
        home.lab.ca.revoke("pcscf-3")
        await until(lambda: not dialled.stack.flows("mw"))
        reached = len(dialled.received)
        assert (await invite(alice, "sip:bob@ims.test", method="MESSAGE"))[1].status >= 400
        assert len(dialled.received) == reached
        assert alice.peer.stack.flows("mw") != []


@async_test
async def test_an_identity_is_asserted_for_its_own_registration_only(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        for asserted in (
            ["<sip:bob@ims.test>"],
            ["<sip:alice@ims.test>, <tel:+15550101>"],
            ["<sip:secret-alice@ims.test>"],
            ["garbage"],
            [],
        ):
            headers = [("Route", alice.service_route), *(("P-Asserted-Identity", value) for value in asserted)]
            request = alice.peer.request("INVITE", "sip:bob@ims.test", headers=headers)
            assert await ask(alice.peer, request, home.hop) == 403, asserted
        assert bob.peer.received == []


@async_test
async def test_nothing_is_relayed_for_who_is_not_registered(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        service_route = alice.service_route
        assert (await alice.register(expires=0)).status == 200
        peer = alice.peer
        cases = [
            [("Route", service_route), ("P-Asserted-Identity", "<sip:alice@ims.test>")],
            [("Route", service_route.replace("orig-", "orig-0"))],
            [("P-Asserted-Identity", "<sip:alice@ims.test>")],
        ]
        for headers in cases:
            for uri in ("sip:victim@elsewhere.test", "sip:192.0.2.1:25"):
                assert await ask(peer, peer.request("INVITE", uri, headers=headers), home.hop) == 403
        assert bob.peer.received == []


@async_test
async def test_route_tricks(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        stranger = await home.peer("gateway", nf_type="IMS_AGW")
        me = f"127.0.0.1:{home.hop.port};transport=tls;lr"
        victim = f"<{bob.peer.uri}>"
        forged = RouteTokens(Secret(bytes(32))).record_route("any")
        tricks = [
            ("an open relay through another Route", None, [f"<sip:{me}>", victim]),
            ("the same behind the Service-Route", None, [alice.service_route, victim]),
            ("a Route that is not this node", None, [victim]),
            ("a forged Record-Route", "z", [f"<sip:{forged}@{me}>", victim]),
            ("a forged token of an application server", None, [f"<sip:isc-orig.0.00.00@{me}>"]),
            ("a dialog this node never saw", "z", [f"<sip:{me}>", victim]),
        ]
        for name, to_tag, routes in tricks:
            for peer in (alice.peer, stranger):
                to = "<sip:bob@ims.test>" + (f";tag={to_tag}" if to_tag else "")
                headers = [("Route", value) for value in routes]
                headers.append(("P-Asserted-Identity", "<sip:alice@ims.test>"))
                request = peer.request("INFO", "sip:bob@ims.test", to=to, headers=headers)
                assert await ask(peer, request, home.hop) in (403, 481), name
        originating = stranger.request("INVITE", "sip:bob@ims.test", headers=alice.originating())
        assert await ask(stranger, originating, home.hop) == 403
        assert bob.peer.received == []


@async_test
async def test_the_record_route_of_one_call_serves_no_other(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        _, answer, _ = await invite(alice, "sip:bob@ims.test")
        before = len(bob.peer.received)
        borrowed = alice.peer.request(
            "BYE",
            "sip:bob@ims.test",
            to="<sip:bob@ims.test>;tag=x",
            headers=[("Route", value) for value in answer.headers.values("Record-Route")],
        )
        assert await ask(alice.peer, borrowed, home.hop) == 403
        ack = SipRequest("ACK", "sip:bob@ims.test", borrowed.headers.items())
        ack.headers.set("CSeq", "1 ACK")
        alice.peer.stack.send_ack(ack, home.hop, "mw")
        assert await ask(alice.peer, alice.peer.request("OPTIONS", f"sip:127.0.0.1:{home.hop.port}"), home.hop) == 200
        assert len(bob.peer.received) == before
        assert bob.peer.acks == []


@pytest.mark.clause("RFC 3261", "16.4")
@pytest.mark.parametrize("transport", ["tcp", "tls", "udp"])
@async_test
async def test_a_dialog_leads_to_its_own_neighbours_and_nowhere_else(tmp_path, transport):
    async with home_network(tmp_path) as home, trap() as other:
        alice, bob = await registered(home, ALICE, BOB)
        _, answer, _ = await invite(alice, "sip:bob@ims.test")
        place = f"sip:x@127.0.0.1:{other.port};transport={transport}"
        recorded = answer.headers.values("Record-Route")

        def inside(method, uri, *routes):
            request = alice.peer.request(method, uri, to=answer.headers.get("To"), call_id=answer.call_id)
            request.headers.set_values("Route", [*recorded, *routes])
            return request

        for request in (inside("INFO", bob.peer.uri, f"<{place};lr>"), inside("INFO", place), inside("BYE", place)):
            assert await ask(alice.peer, request, home.hop) == 403
        for request in (inside("ACK", bob.peer.uri, f"<{place};lr>"), inside("ACK", place)):
            alice.peer.stack.send_ack(request, home.hop, "mw")
        assert await ask(alice.peer, inside("INFO", bob.peer.uri), home.hop) == 200
        assert bob.peer.received[-1].method == "INFO"
        assert other.caught == []


@async_test
async def test_a_header_in_the_contact_stays_in_the_contact(tmp_path):
    async with home_network(tmp_path) as home:
        alice, bob = await registered(home, ALICE, BOB)
        contact = "sip:192.0.2.11:5061?Route=%3Csip:evil.test%3Blr%3E"
        assert (await bob.register(contact=f"<{contact}>")).status == 200
        await invite(alice, "sip:bob@ims.test")
        sent = {request.uri for request in bob.peer.received}
        assert all("?" not in uri for uri in sent)
        assert all("evil" not in (request.headers.get("Route") or "") for request in bob.peer.received)


@async_test
async def test_with_tcp_only_configured_addresses_are_trusted(tmp_path):
    async with home_network(tmp_path, transport="tcp", trusted_peers=["127.0.0.2"]) as home:
        stranger = await home.peer("p-1", host="127.0.0.1")
        phone = home.phone(ALICE, stranger)
        assert (await phone.send(phone.credentials())).status == 403
        friend = await home.peer("p-2", host="127.0.0.2")
        phone = home.phone(ALICE, friend)
        assert (await phone.register()).status == 200


@pytest.mark.attack("T8")
@async_test
async def test_no_secret_of_the_procedure_reaches_log_or_state(tmp_path, capfd):
    async with home_network(tmp_path) as home:
        phone = home.phone(ALICE, await home.peer(), flag="no", algorithm=None)
        challenged = await phone.send(phone.credentials())
        challenge = DigestChallenge.parse(challenged.headers.get_all("WWW-Authenticate")[0])
        pending = home.cscf._challenges.get(ALICE.impi, phone.call_id)
        secrets = [challenge.ik, challenge.ck, pending.password, *(Secret(x) for x in (b"465b5ce8", b"cd63cb71"))]
        assert (await phone.send(phone.answer(challenged))).status == 200
        assert "secret" in repr(pending)
        dave = home.phone(DAVE, phone.peer)
        assert (await dave.register()).status == 200
        secrets.append(DAVE.credentials)
    written = "".join(capfd.readouterr()).encode()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            written += path.read_bytes()
    for secret in secrets:
        octets = secret.reveal()
        assert octets not in written
        assert octets.hex().encode() not in written
