"""Rows T7 and T8 of the threat table at the edge: spoofed identity, Route tricks, forged tokens, leaked secrets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io

import pytest

from keying.secret import Secret
from nodes import siptls
from nodes.pcscf.flowtoken import FlowAddress, FlowTokens, ForgedTokenError
from nodes.pcscf.mediasec import AgreementState
from nodes.pcscf.pending import MAX_PER_USER_AND_SOURCE
from protos.nrf_nfm_pb2 import Endpoint, NfProfile
from sba.identity import NodeIdentity
from sba.testing import async_test
from signalling.aka.digest_headers import parse_params
from signalling.sip.dialog import Dialog
from signalling.sip.flow import TransactionFailure
from signalling.sip.stack import make_response
from tests.pcscf.edge import ALICE, CRYPTO_1, KEY_1, REQUESTED, Party, audio, edge, ok
from tests.pcscf.test_sessions import eventually

SECURE = audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3325", "5", "6", "9.1")
@pytest.mark.clause("TS 24.229", "HOP-3", "HOP-5")
@async_test
async def test_spoofed_asserted_identity_is_replaced_by_the_users_own(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        forged = [
            ("P-Asserted-Identity", "<sip:boss@ims.test>"),
            ("P-Preferred-Identity", "<sip:boss@ims.test>"),
            ("P-Charging-Vector", "icid-value=stolen"),
            ("P-Served-User", "<sip:boss@ims.test>"),
            ("Feature-Caps", "*;+x"),
        ]
        alice.send(alice.invite("sip:bob@ims.test", SECURE, headers=forged), alice.hop)
        seen = (await it.core.next("INVITE")).request.headers
        assert seen.get_all("P-Asserted-Identity") == [f"<{ALICE}>"]
        assert "stolen" not in seen.get("P-Charging-Vector")
        for name in ("P-Preferred-Identity", "P-Served-User", "Feature-Caps", "Security-Verify"):
            assert seen.get(name) is None


@pytest.mark.clause("RFC 3325", "9.2")
@async_test
async def test_a_registered_preferred_identity_is_asserted(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        wanted = [("P-Preferred-Identity", "<tel:+15550100>")]
        alice.send(alice.invite("sip:bob@ims.test", SECURE, headers=wanted), alice.hop)
        invite = await it.core.next("INVITE")
        assert invite.request.headers.get_all("P-Asserted-Identity") == ["<tel:+15550100>"]


@pytest.mark.attack("T7")
@async_test
async def test_an_unknown_preferred_identity_is_refused_where_policy_says_so(tmp_path):
    async with edge(tmp_path, reject_unknown_identity=True) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        forged = [("P-Preferred-Identity", "<sip:boss@ims.test>")]
        answer = await alice.send(alice.invite("sip:bob@ims.test", SECURE, headers=forged), alice.hop).final()
        assert answer.status == 403


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "PC-1")
@pytest.mark.parametrize("flag", ["yes", "tls-yes", "auth-done"])
@pytest.mark.parametrize("first", ["", 'Digest username="x",realm="elsewhere",uri="sip:ims.test",nonce="",response=""'])
@async_test
async def test_integrity_flag_hidden_in_a_second_authorization_never_reaches_the_core(tmp_path, first, flag):
    async with edge(tmp_path) as it:
        mallory = await it.ue("mallory", "UDP")
        request = mallory.register()
        theirs = request.headers.get("Authorization").replace("mallory", "alice") + f',integrity-protected="{flag}"'
        request.headers.set_values("Authorization", [first, theirs])
        assert (await mallory.send(request, mallory.hop).final()).status == 400
        assert it.registered == []


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "PC-1")
@pytest.mark.parametrize("name", ["algorithm", "qop", "nc"])
@async_test
async def test_integrity_flag_inside_a_quoted_parameter_does_not_become_one_of_its_own(tmp_path, name):
    async with edge(tmp_path) as it:
        mallory = await it.ue("mallory", "UDP")
        request = mallory.register()
        text = 'Digest username="alice@ims.test",realm="ims.test",uri="sip:ims.test",nonce="",response=""'
        request.headers.set("Authorization", f'{text},{name}="MD5,integrity-protected=yes"')
        await mallory.send(request, mallory.hop).final()
        seen = parse_params(it.registered[-1].headers.get("Authorization").removeprefix("Digest "))
        assert seen["username"] == "alice@ims.test"
        assert seen[name] == "MD5,integrity-protected=yes"
        assert "integrity-protected" not in seen


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    "theirs",
    [
        'Digest username="alice@ims.test",realm="elsewhere",uri="sip:ims.test",nonce="",response="",algorithm=AKAv2-SHA-256',
        'Basic username="alice@ims.test",realm="ims.test"',
    ],
)
@async_test
async def test_a_user_name_of_a_foreign_realm_names_nobody_here_either(tmp_path, theirs):
    async with edge(tmp_path) as it:
        mallory = await it.ue("mallory")
        request = mallory.register()
        request.headers.set("Authorization", theirs)
        await mallory.send(request, mallory.hop).final()
        assert it.registered[-1].headers.get("Authorization") is None
        assert {one.impi for one in it.node.edge.bindings} == {"mallory@ims.test"}


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "HOP-2")
@async_test
async def test_a_route_past_the_s_cscf_is_replaced_by_the_service_route(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        alice.send(alice.invite("sip:bob@ims.test", SECURE, route=["<sip:192.0.2.66;lr>"]), alice.hop)
        invite = await it.core.next("INVITE")
        assert invite.request.headers.values("Route") == [f"<{it.core_uri('orig')}>"]
        assert any(one["mode"] == "route" for one in it.decisions())


@pytest.mark.attack("T7")
@async_test
async def test_a_route_past_the_s_cscf_is_refused_where_policy_says_so(tmp_path):
    async with edge(tmp_path, route_policy="reject") as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        request = alice.invite("sip:bob@ims.test", SECURE, route=["<sip:192.0.2.66;lr>"])
        assert (await alice.send(request, alice.hop).final()).status == 400


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 5626", "5.2", "5.3.1")
@pytest.mark.parametrize("forgery", ["flip", "none", "other"])
@async_test
async def test_a_forged_flow_token_is_answered_403(tmp_path, forgery):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        path = it.path_of(bob)
        token = path.partition("sip:")[2].partition("@")[0]
        octets = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        octets[-1] ^= 1
        wrong = {"flip": base64.urlsafe_b64encode(bytes(octets)).decode().rstrip("="), "none": "", "other": "bob"}
        forged = path.replace(token, wrong[forgery]).replace("sip:@", "sip:")
        answer = await it.core.send(it.call_to(bob, audio(50000), path=forged), it.mw_hop()).final()
        assert answer.status == 403
        assert bob.requests.empty()


@pytest.mark.clause("RFC 5626", "5.2")
def test_a_flow_token_names_its_flow_and_only_for_its_purpose_and_key():
    address = FlowAddress("TLS", ("127.0.0.1", 5061), ("::1", 40000))
    tokens = FlowTokens(Secret(b"k" * 20))
    assert tokens.read(tokens.make(address)) == address
    with pytest.raises(ForgedTokenError):
        tokens.read(tokens.make(address), "route")
    with pytest.raises(ForgedTokenError):
        FlowTokens(Secret(b"x" * 20)).read(tokens.make(address))
    for text in ("", "A", "!!!!", "A" * 500, "é"):
        with pytest.raises(ForgedTokenError):
            tokens.read(text)


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 24.229", "HOP-4")
@async_test
async def test_another_user_cannot_end_a_call_whose_dialog_it_overheard(tmp_path):
    async with edge(tmp_path) as it:
        alice, mallory = await it.ue("alice"), await it.ue("mallory")
        await alice.sign_on()
        await mallory.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        bye = Dialog.from_uac(attempt.txn.request, final).request("BYE")
        assert (await mallory.send(bye, mallory.hop).final()).status == 403
        assert it.iq.contexts


@pytest.mark.attack("T7")
@async_test
async def test_a_foreign_contact_is_answered_403(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        request = alice.invite("sip:bob@ims.test", SECURE)
        request.headers.set("Contact", "<sip:alice@198.51.100.66:5060>")
        assert (await alice.send(request, alice.hop).final()).status == 403


@pytest.mark.attack("T7")
@async_test
async def test_a_node_outside_the_trust_domain_is_not_believed_on_mw(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        identity = NodeIdentity(it.lab.add("client", "intruder", nf_types=("HSS",)))
        intruder = Party("intruder", "mw", it.timers)
        it.parties.append(intruder)
        await intruder.stack.listen("TCP", "127.0.0.1", 0, role="mw")
        intruder.stack.set_client_tls("mw", siptls.client(identity.ca_path, identity))
        answer = await intruder.send(it.call_to(bob, audio(50000)), it.mw_hop()).final()
        assert answer.status == 403
        assert bob.requests.empty()


@pytest.mark.attack("T6")
@async_test
async def test_who_claims_the_entry_of_the_home_domain_without_its_name_gets_no_registration(tmp_path):
    async with edge(tmp_path) as it:
        identity = NodeIdentity(it.lab.add("client", "claimant", nf_types=("SCSCF",), home_domains=["else.test"]))
        claimant = Party("claimant", "mw", it.timers)
        it.parties.append(claimant)
        tls = siptls.server(identity, mutual=True)
        listener = await claimant.stack.listen("TLS", "127.0.0.1", 0, role="mw", tls=tls)
        point = Endpoint(role="mw", transport="TLS", host="127.0.0.1", port=listener.address[1])

        async def discover(nf_type, *_more, **_wanted):
            return [NfProfile(nf_types=[nf_type], endpoints=[point])]

        it.node.settings.core_routes.clear()
        it.node.sbi.discover = discover
        alice = await it.ue("alice")
        answer = await alice.send(alice.register(), alice.hop).final()
        assert answer.status in (500, 503)
        assert claimant.requests.empty()


@pytest.mark.attack("T7")
@async_test
async def test_a_revoked_core_node_is_refused_at_once_and_loses_its_connection(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        identity = NodeIdentity(it.lab.add("client", "cscf-2", nf_types=("SCSCF",)))
        other = Party("cscf-2", "mw", it.timers)
        it.parties.append(other)
        await other.stack.listen("TCP", "127.0.0.1", 0, role="mw")
        other.stack.set_client_tls("mw", siptls.client(identity.ca_path, identity))
        attempt = other.send(it.call_to(bob, audio(50000)), it.mw_hop())
        invite = await bob.next("INVITE")
        invite.respond(make_response(invite.request, 486))
        assert (await attempt.final()).status == 486
        it.lab.ca.revoke("cscf-2")
        with contextlib.suppress(TransactionFailure):  # the answer and the end of the connection race
            second = other.send(it.call_to(bob, audio(50000), call_id="second"), it.mw_hop())
            assert (await second.final()).status == 403
        await eventually(lambda: not other.stack.flows("mw"))
        with pytest.raises(TransactionFailure):
            await other.send(it.call_to(bob, audio(50000), call_id="third"), it.mw_hop()).final()
        assert bob.requests.empty()


@pytest.mark.attack("T7")
@async_test
async def test_registers_nobody_answers_for_leave_nothing_in_the_store(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        mallory = await it.ue("mallory", "UDP")
        before = await it.node.edge.bindings._table.items()
        for number in range(30):
            challenge = mallory.register(
                call_id=f"flood-{number}", headers=[("Contact", f"<sip:x{number}@127.0.0.1:5090>")]
            )
            assert (await mallory.send(challenge, mallory.hop).final()).status == 401
        assert await it.node.edge.bindings._table.items() == before
        assert len(it.node.edge.bindings) == 1
        assert len(it.node._register.procedures) == MAX_PER_USER_AND_SOURCE


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "PC-12")
@async_test
async def test_a_register_in_the_name_of_a_user_does_not_disturb_his_own(tmp_path):
    async with edge(tmp_path) as it:
        alice, mallory = await it.ue("alice"), await it.ue("mallory", "UDP")
        mallory.name, mallory.impu = "alice", alice.impu
        challenged = await alice.send(alice.register(), alice.hop).final()
        for number in range(MAX_PER_USER_AND_SOURCE - 1):  # even from his own address
            forged = mallory.register(call_id=f"forged-{number}", headers=[("Contact", alice.contact)])
            assert (await mallory.send(forged, mallory.hop).final()).status == 401
        verify = challenged.headers.get("Security-Server")
        answer = alice.register(response="00" * 16, nonce="bm9uY2U=", verify=verify)
        assert (await alice.send(answer, alice.hop).final()).status == 200
        assert it.node.edge.bindings.of_impi("alice@ims.test")[0].agreement.state is AgreementState.CONFIRMED


@pytest.mark.clause("RFC 3325", "7")
@async_test
async def test_privacy_keeps_the_asserted_identity_from_the_ue(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        it.core.send(it.call_to(bob, audio(50000), headers=[("Privacy", "id")]), it.mw_hop())
        seen = (await bob.next("INVITE")).request.headers
        assert seen.get("P-Asserted-Identity") is None
        assert seen.get("P-Charging-Vector") is None
        assert seen.get("traceparent") is None


@pytest.mark.attack("T8")
@pytest.mark.clause("TS 33.328", "7.2.1-3", "LOG-1")
@async_test
async def test_no_key_in_logs_spans_or_store(tmp_path):
    async with edge(tmp_path) as it:
        log = io.StringIO()
        it.node.telemetry._stream = log
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", SECURE), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        final = await attempt.final()
        near = Dialog.from_uac(attempt.txn.request, final)
        alice.stack.send_ack(near.ack_for(final), alice.hop, "ue")
        await it.core.next_ack()
        await asyncio.sleep(0.1)
        await it.node.edge.sessions._table.flush()
        keys = {bytes(key) for key in it.iq.keys}
        assert len(keys) >= 2
        texts = {base64.b64encode(key).rstrip(b"=") for key in keys} | {KEY_1.partition(":")[2].encode()}
        texts |= {key.hex().encode() for key in keys} | keys | {b"00112233445566778899aabbccddeeff"}
        spans = "".join(
            f"{span.name} {dict(span.attributes or {})} {[dict(event.attributes or {}) for event in span.events]}"
            for span in it.spans.get_finished_spans()
        ).encode()
        assert b"INVITE" in spans
        stored = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
        assert b"call-alice@ue" in stored
        for text in texts:
            assert text not in spans
            assert text not in stored
            assert text not in log.getvalue().encode()


@pytest.mark.attack("T3")
@pytest.mark.clause("RFC 5245", "18.5.1")
@pytest.mark.parametrize("trusted", [False, True])
@async_test
async def test_a_ue_cannot_aim_media_at_another_host(tmp_path, trusted):
    async with edge(tmp_path, trust_media_address=trusted) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        aimed = SECURE.replace(b"c=IN IP4 127.0.0.1", b"c=IN IP4 127.77.7.7")
        alice.send(alice.invite("sip:bob@ims.test", aimed), alice.hop)
        await it.core.next("INVITE")
        (remote,) = [
            stream.remote
            for info in it.iq.requests("Reserve")[0].terminations
            for stream in info.streams
            if stream.HasField("remote")
        ]
        assert (remote.ip, remote.await_media) == (("127.77.7.7", False) if trusted else ("127.0.0.1", True))


@async_test
async def test_a_call_id_of_octets_that_are_no_text_is_a_call_like_any_other(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        alice.send(alice.invite("sip:bob@ims.test", SECURE, call_id="call-\udcff\udcfe@ue"), alice.hop)
        arrived = await it.core.next("INVITE")
        assert arrived.request.call_id == "call-\udcff\udcfe@ue"
        (reserved,) = it.iq.requests("Reserve")
        assert reserved.correlation == "call-\\udcff\\udcfe@ue"
