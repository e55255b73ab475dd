"""Registration at the edge on real sockets (PC-1..PC-18, FLOW-2, 3.9)."""

from __future__ import annotations

import pytest

from sba.testing import async_test
from signalling.sip.headers import parse_credentials
from tests.pcscf.edge import CRYPTO_1, REQUESTED, audio, edge, ok


@pytest.mark.clause("TS 33.203", "PC-1", "PC-3", "PC-5", "PC-6")
@pytest.mark.clause("RFC 3327", "5.1")
@async_test
async def test_what_a_register_looks_like_in_the_core(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        alice.extra = [
            ("Require", "sec-agree, mediasec, gruu"),
            ("Proxy-Require", "sec-agree, mediasec"),
            ("P-Asserted-Identity", "<sip:boss@ims.test>"),
            ("Path", "<sip:evil@192.0.2.66;lr>"),
            ("P-Visited-Network-ID", "elsewhere"),
            ("P-Access-Network-Info", "3GPP-NR;network-provided, IEEE-802.11"),
        ]
        await alice.sign_on()
        first = it.registered[0].headers
        assert first.get("Security-Client") is None
        assert first.values("Require") == ["gruu", "path"]
        assert first.get("Proxy-Require") is None
        assert first.get("P-Asserted-Identity") is None
        assert first.get("P-Visited-Network-ID") == '"ims.test"'
        assert 'orig-ioi="Type 1ims.test"' in first.get("P-Charging-Vector")
        assert first.get("P-Access-Network-Info") == "IEEE-802.11"
        assert len(first.values("Path")) == 1
        assert parse_credentials(first.get("Authorization")).get("integrity-protected") == "tls-connected"


@pytest.mark.clause("TS 33.203", "PC-8")
@pytest.mark.clause("TS 33.328", "7.1.1-2", "7.1.1-4", "7.1.1-5", "FLOW-2")
@async_test
async def test_the_challenge_announces_media_security_and_hides_the_session_keys(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        challenge = await alice.send(alice.register(), alice.hop).final()
        assert challenge.status == 401
        assert challenge.headers.get("Security-Server") == "sdes-srtp;mediasec"
        assert "ik=" not in challenge.headers.get("WWW-Authenticate")
        assert "ck=" not in challenge.headers.get("WWW-Authenticate")
        assert "nonce=" in challenge.headers.get("WWW-Authenticate")


@async_test
async def test_the_200_keeps_charging_inside_and_the_binding_is_stored(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        it.service_policy = "required"
        final = await alice.sign_on()
        for name in ("P-Charging-Vector", "P-Charging-Function-Addresses", "P-Imslab-Media-Security"):
            assert final.headers.get(name) is None
        assert final.headers.get("Security-Server") is None
        (registration,) = list(it.node.edge.bindings)
        assert registration.agreement.agreed()
        assert registration.identities == ("sip:alice@ims.test", "tel:+15550100")
        assert registration.core_policy == "required"
        assert it.node.edge.media_policy(registration.impu, registration.core_policy) == "required"


@pytest.mark.clause("TS 33.328", "7.1.1-6", "7.1.1-7")
@pytest.mark.clause("RFC 3329", "2.3.1")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    "forged",
    ["msrp-tls;mediasec", "sdes-srtp;mediasec, msrp-tls;mediasec", "dtls-srtp;mediasec, sdes-srtp;mediasec", "tls"],
)
@async_test
async def test_an_altered_security_verify_is_answered_494_with_the_unmodified_list(tmp_path, forged):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        final = await alice.sign_on(verify_with=forged)
        assert final.status == 494
        assert final.headers.get("Security-Server") == "sdes-srtp;mediasec"
        assert final.headers.get("Require") == "sec-agree"
        assert len(it.registered) == 1
        assert any(one["outcome"] == "refused" for one in it.decisions())


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.328", "5.4.1-3", "7.2.1-6")
@async_test
async def test_a_register_stripped_of_its_mediasec_entries_leaves_no_agreement_and_e2ae_is_refused(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        assert (await alice.sign_on(client=None)).status == 200
        (registration,) = list(it.node.edge.bindings)
        assert not registration.agreement.agreed()
        shown = [one for one in it.decisions() if one["mode"] == "mediasec"]
        assert [(one["outcome"], one["reason"]) for one in shown] == [("no-agreement", "not-announced")]
        call = alice.send(alice.invite("sip:bob@ims.test", audio(40000, "RTP/SAVP", REQUESTED, CRYPTO_1)), alice.hop)
        answer = await call.final()
        assert answer.status == 488
        assert answer.headers.get("Warning") == '399 pcscf-a "media-sec:e2ae-not-announced"'
        assert it.core.requests.empty()
        assert not it.iq.requests("Reserve")


@pytest.mark.attack("T1")
@pytest.mark.clause("TS 33.203", "PC-15")
@async_test
async def test_a_second_register_that_lost_its_list_is_answered_494(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        challenge = await alice.send(alice.register(), alice.hop).final()
        server = challenge.headers.get("Security-Server")
        second = alice.register(client="msrp-tls;mediasec", response="00", nonce="bm9uY2U=", verify=server)
        assert (await alice.send(second, alice.hop).final()).status == 494


@pytest.mark.clause("TS 33.203", "PC-16")
@async_test
async def test_a_ue_that_verifies_nothing_is_registered_without_agreement(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        assert (await alice.sign_on(echo=False)).status == 200
        (registration,) = list(it.node.edge.bindings)
        assert str(registration.agreement.state) == "not-confirmed"
        assert not registration.agreement.agreed()


@pytest.mark.attack("T1")
@async_test
async def test_an_altered_security_verify_on_an_invite_is_answered_494(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        invite = alice.invite("sip:bob@ims.test", audio(40000), verify="msrp-tls;mediasec")
        answer = await alice.send(invite, alice.hop).final()
        assert answer.status == 494
        assert answer.headers.get("Security-Server") == "sdes-srtp;mediasec"


@pytest.mark.clause("TS 33.328", "5.4.1-4")
@pytest.mark.clause("TS 24.229", "GE-5")
@async_test
async def test_sdes_is_not_announced_on_a_clear_gm(tmp_path):
    async with edge(tmp_path) as it:
        dave = await it.ue("dave", "UDP")
        assert (await dave.sign_on()).status == 200
        assert dave.verify == ""
        flags = [
            parse_credentials(one.headers.get("Authorization")).get("integrity-protected") for one in it.registered
        ]
        assert flags == [None, "ip-assoc-pending"]


@async_test
async def test_the_override_announces_on_a_clear_gm(tmp_path):
    async with edge(tmp_path, announce_on_clear_gm=True) as it:
        dave = await it.ue("dave", "UDP")
        await dave.sign_on()
        assert dave.verify == "sdes-srtp;mediasec"


@pytest.mark.clause("TS 33.328", "7.1.1-4")
@async_test
async def test_the_list_comes_in_the_200_when_no_401_carried_it(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        final = await alice.send(alice.register(response="00" * 16, nonce="bm9uY2U="), alice.hop).final()
        assert final.status == 200
        assert final.headers.get("Security-Server") == "sdes-srtp;mediasec"
        (registration,) = list(it.node.edge.bindings)
        assert str(registration.agreement.state) == "announced"
        assert registration.agreement.agreed()


@pytest.mark.clause("TS 33.328", "7.1.1-8")
@async_test
async def test_deregistration_ends_binding_agreement_and_sessions(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        assert (await alice.sign_on(expires=0)).status == 200
        assert not list(it.node.edge.bindings)
        answer = await alice.send(alice.invite("sip:bob@ims.test", audio(40000)), alice.hop).final()
        assert answer.status == 403


@pytest.mark.attack("T7")
@pytest.mark.clause("RFC 3261", "10.2.2")
@pytest.mark.parametrize("transport", ["TLS", "UDP"])
@async_test
async def test_removing_every_binding_under_a_new_call_id_leaves_none_at_the_edge(tmp_path, transport):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice", transport)
        await alice.sign_on()
        attempt = alice.send(alice.invite("sip:bob@ims.test", audio(40000)), alice.hop)
        invite = await it.core.next("INVITE")
        invite.respond(ok(invite, audio(50000), contact=f"<{it.core_uri('bob')}>"))
        await attempt.final()
        elsewhere = await it.ue("alice", transport)
        await elsewhere.sign_on(call_id="another-device@ue")
        stranger = await it.ue("carol", transport)
        await stranger.sign_on()
        assert len(it.node.edge.bindings) == 3
        for response in ("", "00" * 16):
            request = alice.register(response=response, call_id="fresh@ue", verify=alice.verify)
            request.headers.set("Contact", "*")
            request.headers.set("Expires", "0")
            final = await alice.send(request, alice.hop).final()
        assert final.status == 200
        assert [one.impu for one in it.node.edge.bindings] == ["sip:carol@ims.test"]
        assert not len(it.node.edge.sessions)
        refused = await alice.send(alice.invite("sip:bob@ims.test", audio(40000), call_id="late@ue"), alice.hop).final()
        assert refused.status == 403


@pytest.mark.attack("T9")
@async_test
async def test_registrations_survive_a_restart(tmp_path):
    async with edge(tmp_path) as it:
        dave = await it.ue("dave", "UDP")
        await dave.sign_on()
        await it.restart()
        call = dave.send(dave.invite("sip:bob@ims.test", audio(40000)), dave.hop)
        invite = await it.core.next("INVITE")
        assert invite.request.headers.get("P-Asserted-Identity") == "<sip:dave@ims.test>"
        del call


@pytest.mark.clause("RFC 3329", "2.3.2")
@pytest.mark.clause("TS 33.203", "PC-7a")
@async_test
async def test_several_vias_with_sec_agree_are_answered_502(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        request = alice.register()
        request.headers.add("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKfar")
        assert (await alice.send(request, alice.hop).final()).status == 502


@pytest.mark.clause("RFC 3261", "16.3")
@async_test
async def test_an_unknown_proxy_option_is_answered_420(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        alice.extra = [("Proxy-Require", "sec-agree, teleport")]
        answer = await alice.send(alice.register(), alice.hop).final()
        assert (answer.status, answer.headers.get("Unsupported")) == (420, "teleport")


@pytest.mark.clause("RFC 3329", "2.3.2", "E-10")
@pytest.mark.parametrize(("supported", "status"), [([], 421), ([("Supported", "sec-agree")], 494)])
@async_test
async def test_a_missing_security_client_where_policy_needs_it(tmp_path, supported, status):
    async with edge(tmp_path, require_security_client=True, announce_unsolicited=True) as it:
        alice = await it.ue("alice")
        alice.extra = supported
        answer = await alice.send(alice.register(client=None), alice.hop).final()
        assert (answer.status, answer.headers.get("Require")) == (status, "sec-agree")
        assert answer.headers.get("Security-Server") == "sdes-srtp;mediasec"


@pytest.mark.clause("TS 33.203", "PC-7")
@pytest.mark.attack("T7")
@async_test
async def test_a_source_that_registers_too_fast_is_answered_503(tmp_path):
    async with edge(tmp_path, registrations_per_second=0.1, registration_burst=2) as it:
        alice = await it.ue("alice")
        assert (await alice.sign_on()).status == 200
        answer = await alice.send(alice.register(), alice.hop).final()
        assert (answer.status, answer.headers.get("Retry-After")) == (503, "5")


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "PC-18", "TLS-4")
@async_test
async def test_somebody_else_on_a_users_tls_connection_is_answered_403(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        alice.name, alice.impu = "mallory", "sip:mallory@ims.test"
        assert (await alice.send(alice.register(call_id="hijack"), alice.hop).final()).status == 403


IPSEC = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=2000000011;spi-s=2000000012;port-c={};port-s={}"


@pytest.mark.clause("TS 33.203", "PC-9", "PC-10", "PC-17", "E-2")
@async_test
async def test_ipsec_with_the_null_backend_keeps_ports_spis_and_checks(tmp_path):
    async with edge(tmp_path) as it:
        dave = await it.ue("dave", "UDP")
        dave.algorithm = "AKAv1-MD5"
        port = dave.address[1]
        client = IPSEC.format(port, 36011)
        challenge = await dave.send(dave.register(client=client), dave.hop).final()
        server = challenge.headers.get("Security-Server")
        assert server.startswith("ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=")
        assert "q=0.8;alg=hmac-sha-1-96;ealg=null" in server
        protected = it.node._register.ports.server
        assert f"port-s={protected}" in server
        hop = dave.hop.__class__("UDP", dave.hop.host, protected)
        final = await dave.send(
            dave.register(client=client, response="00", nonce="bm9uY2U=", verify=server), hop
        ).final()
        assert final.status == 200
        flags = [
            parse_credentials(one.headers.get("Authorization")).get("integrity-protected") for one in it.registered
        ]
        assert flags == ["no", "yes"]
        (registration,) = list(it.node.edge.bindings)
        assert registration.association is not None
        assert not registration.association.temporary


@pytest.mark.clause("TS 33.203", "E-11", "E-12")
@async_test
async def test_ipsec_without_common_algorithm_or_with_altered_list_is_answered_494(tmp_path):
    async with edge(tmp_path) as it:
        dave = await it.ue("dave", "UDP")
        client = IPSEC.format(dave.address[1], 36011).replace("hmac-sha-1-96", "hmac-md5-96")
        answer = await dave.send(dave.register(client=client), dave.hop).final()
        assert (answer.status, answer.headers.get("Require")) == (494, "sec-agree")
        good = IPSEC.format(dave.address[1], 36011)
        challenge = await dave.send(dave.register(client=good, call_id="two"), dave.hop).final()
        server = challenge.headers.get("Security-Server")
        forged = server.partition(", ")[2]  # the best algorithm removed: bidding down
        second = dave.register(client=good, call_id="two", response="00", nonce="bm9uY2U=", verify=forged)
        answer = await dave.send(second, dave.hop).final()
        assert (answer.status, answer.headers.get("Security-Server")) == (494, server)
