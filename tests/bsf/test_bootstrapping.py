"""Bootstrapping from UE to NAF over real HTTPS and gRPC (TS 33.220 4.5.2, 4.5.3, TS 24.109 4)."""

import asyncio
import base64

import pytest
from opentelemetry.trace import StatusCode

from keying.secret import Secret
from nodes.https import HttpResponse
from nodes.ue.card import Card
from nodes.ue.gba import GbaClient, GbaError
from nodes.ue.network import PinnedNetwork
from protos.nrf_disc_pb2 import DESCRIPTOR as DISCOVERY
from protos.nrf_disc_pb2 import DiscoveryRequest
from sba.errors import ConfigurationError, RemoteProblem
from sba.testing import async_test
from signalling.aka.digest import AuthenticationInfo, aka_password, compute_rspauth
from signalling.aka.gba import BootstrappingInfo, Btid, naf_id
from signalling.aka.vectors import Usim, parse_nonce
from tests.bsf.home import BSF, KMS, Ue, answered, home
from tests.cscf.home import ALICE, BOB, DAVE, OPC, K


@pytest.mark.clause("TS 33.220", "4.5.2", "4.5.3", "B.3")
@pytest.mark.clause("TS 33.328", "6.2.3.1-2")
@async_test
async def test_ue_and_naf_come_to_share_a_key(tmp_path):
    async with home(tmp_path) as it:
        ue = Ue(it)
        mine = await ue.gba.credential(KMS)
        theirs = await it.info(mine.btid)
        assert Secret(theirs.ks_naf) == mine.key
        assert len(mine.key) == 32
        assert theirs.impi == ALICE.impi
        assert list(theirs.public_identities) == ["sip:alice@ims.test", "tel:+15550100"]
        assert theirs.expires_at - theirs.bootstrapped_at == it.bsf.settings.lifetime_s
        assert abs(theirs.expires_at - mine.expires_at) < 5
        assert mine.btid.endswith("@" + BSF)
        assert ue.remembered == [ue.card.sequence()]
        again = await ue.gba.credential(KMS)
        assert (again.btid, again.key) == (mine.btid, mine.key)
        other = await ue.gba.credential("other.ims.test")
        assert other.btid == mine.btid
        assert other.key != mine.key


@pytest.mark.clause("TS 24.109", "4.2", "A.3", "C.1")
@async_test
async def test_the_messages_are_those_of_the_specification(tmp_path):
    async with home(tmp_path) as it:
        challenge = await it.challenge()
        assert (challenge.realm, challenge.algorithm, challenge.qop) == (BSF, "AKAv1-MD5", ("auth-int",))
        assert challenge.opaque
        rand, autn = parse_nonce(challenge.nonce)
        assert base64.b64decode(challenge.nonce) == rand + autn
        credentials = answered(challenge, Usim(K, OPC))
        response = await it.get(credentials)
        assert (response.status, response.content_type) == (200, "application/vnd.3gpp.bsf+xml")
        assert response.header("Expires").endswith(" GMT")
        info = BootstrappingInfo.parse(response.body)
        assert info.btid == Btid(rand, BSF)
        assert info.expires_at - info.now == it.bsf.settings.lifetime_s
        proof = AuthenticationInfo.parse(response.header("Authentication-Info"))
        result = Usim(K, OPC).authenticate(rand, autn)
        password = aka_password("AKAv1-MD5", result.res, result.ik, result.ck)
        expected = compute_rspauth(credentials, algorithm="AKAv1-MD5", password=password, body=response.body)
        assert (proof.qop, proof.cnonce, proof.nc) == ("auth-int", "c0ffee", "00000001")
        assert proof.rspauth == Secret(expected.encode())


@pytest.mark.clause("TS 24.109", "4.5", "A.4")
@pytest.mark.clause("TS 33.102", "RS-2")
@async_test
async def test_a_card_ahead_of_the_home_network_is_followed(tmp_path):
    async with home(tmp_path) as it:
        ue = Ue(it)
        ue.usim.state.highest = {0: 1_000_000}
        key = await ue.gba.credential(KMS)
        assert Secret((await it.info(key.btid)).ks_naf) == key.key
        assert max(ue.remembered[-1].values()) > 1_000_000
        [span] = [span for span in it.spans.get_finished_spans() if span.name == "gba.bootstrap"]
        assert [event.name for event in span.events] == ["resynchronisation"]
        requests = [span for span in it.spans.get_finished_spans() if span.name == "GET"]
        assert [span.attributes["http.response.status_code"] for span in requests] == [401, 401, 200]


@pytest.mark.clause("TS 33.220", "4.5.3")
@async_test
async def test_a_key_that_ends_is_bootstrapped_anew(tmp_path):
    async with home(tmp_path, lifetime_s=60) as it:
        ue = Ue(it)
        first = await ue.gba.credential(KMS)
        it.offset = 50
        assert (await ue.gba.credential(KMS)).btid == first.btid
        it.offset = 56
        second = await ue.gba.credential(KMS)
        assert second.btid != first.btid
        assert second.key != first.key
        ue.gba.invalidate(first.btid)
        assert (await ue.gba.credential(KMS)).btid == second.btid
        ue.gba.invalidate(second.btid)
        assert (await ue.gba.credential(KMS)).btid not in {first.btid, second.btid}
        assert len(ue.remembered) == 3


@async_test
async def test_whoever_asks_at_the_same_time_shares_one_bootstrapping(tmp_path):
    async with home(tmp_path) as it:
        ue = Ue(it)
        keys = await asyncio.gather(*(ue.gba.credential(KMS) for _ in range(20)))
        assert {key.btid for key in keys} == {keys[0].btid}
        assert len(ue.remembered) == 1


@async_test
async def test_the_lifetime_counts_from_the_clock_of_the_bsf(tmp_path):
    async with home(tmp_path, lifetime_s=60) as it:
        it.offset = -1_000_000  # the UE's clock
        ue = Ue(it)
        key = await ue.gba.credential(KMS)
        assert 50 < key.expires_at - it.now() <= 61


@pytest.mark.clause("TS 33.220", "4.5.3")
@async_test
async def test_an_expired_bootstrap_gives_no_key(tmp_path):
    async with home(tmp_path, lifetime_s=1) as it:
        ue = Ue(it)
        key = await ue.gba.credential(KMS)
        gone = it.bsf._bootstraps.find(key.btid)
        it.bsf._bootstraps._now = lambda: gone.expires_at
        with pytest.raises(RemoteProblem) as error:
            await it.info(key.btid)
        assert (error.value.problem.status, error.value.cause) == (404, "CONTEXT_NOT_FOUND")
        assert len(it.bsf._bootstraps) == 1
        await it.bsf._bootstraps.purge()
        assert len(it.bsf._bootstraps) == 0
        assert await it.bsf._bootstraps._table.items() == []


@pytest.mark.clause("TS 33.220", "4.4.2")
@async_test
async def test_the_nrf_tells_where_ub_is(tmp_path):
    async with home(tmp_path) as it:
        method = DISCOVERY.services_by_name["NnrfNfDiscovery"].methods_by_name["Discover"]
        request = DiscoveryRequest(target_nf_type="BSF", requester_nf_type="KMS", home_domain="ims.test")
        [profile] = (await it.kms.call(method, request)).profiles
        [endpoint] = [found for found in profile.endpoints if found.role == "ub"]
        assert (endpoint.transport, endpoint.port, endpoint.tls_name) == ("HTTPS", it.port, BSF)


@async_test
async def test_a_card_without_usim_and_a_user_without_one_get_no_key(tmp_path):
    async with home(tmp_path) as it:
        digest = Card(DAVE.impi, "ims.test", "digest", password=Secret(b"x"))
        network = PinnedNetwork(bsf=it.address)
        client = GbaClient(it.client, digest, it.address.name, network, it.telemetry, Ue(it)._remember)
        with pytest.raises(GbaError) as error:
            await client.credential(KMS)
        assert error.value.reason == "card"
        for impi in (DAVE.impi, "001010000009999@ims.test"):
            with pytest.raises(GbaError) as error:
                await Ue(it, impi).gba.credential(KMS)
            assert error.value.reason == "refused"


@async_test
async def test_a_bsf_that_is_away_is_unreachable_and_nothing_is_forgotten(tmp_path):
    async with home(tmp_path) as it:
        ue = Ue(it)
        key = await ue.gba.credential(KMS)
        ends = it.bsf.settings.lifetime_s
        await it.lab.stop("bsf")
        it.offset = ends
        with pytest.raises(GbaError) as error:
            await ue.gba.credential(KMS)
        assert error.value.reason == "unreachable"
        it.offset = 0.0
        assert (await ue.gba.credential(KMS)).btid == key.btid


@async_test
async def test_a_bsf_without_its_hss_says_503(tmp_path):
    async with home(tmp_path) as it:
        await it.lab.stop("hss")
        with pytest.raises(GbaError) as error:
            await Ue(it).gba.credential(KMS)
        assert error.value.reason == "unreachable"


@async_test
async def test_a_bsf_starts_under_a_name_of_its_certificate_alone(tmp_path):
    async with home(tmp_path, bsf=False) as it:
        with pytest.raises(ConfigurationError):
            await it.start_bsf(fqdn="bsf.partner.test")


@async_test
async def test_bootstraps_of_one_user_are_bounded_and_the_newest_stay(tmp_path):
    async with home(tmp_path, kept_per_user=2) as it:
        alice, bob = Ue(it), Ue(it, BOB.impi)
        first = await bob.gba.credential(KMS)
        keys = [await alice.gba.credential(KMS), *[await alice.key_anew(KMS) for _ in range(3)]]
        kept = [it.bsf._bootstraps.find(key.btid) is not None for key in keys]
        assert kept == [False, False, True, True]
        assert it.bsf._bootstraps.find(first.btid) is not None
        assert len(await it.bsf._bootstraps._table.items()) == 3


@pytest.mark.clause("TS 33.220", "4.5.2")
@async_test
async def test_one_trace_shows_bootstrapping_and_key_request(tmp_path):
    async with home(tmp_path) as it:
        it.bsf.telemetry.tracer_provider.add_span_processor(it.telemetry.tracer_provider._active_span_processor)
        with it.telemetry.tracer.start_as_current_span("call") as call:
            key = await Ue(it).gba.credential(KMS)
        await it.info(key.btid)
        trace = [
            span for span in it.spans.get_finished_spans() if span.context.trace_id == call.get_span_context().trace_id
        ]
        decisions = [span for span in trace if span.name == "bsf.decision"]
        assert [span.attributes["imslab.bsf.outcome"] for span in decisions] == ["challenged", "bootstrapped"]
        by_id = {span.context.span_id: span for span in trace}
        for span in decisions:
            assert by_id[span.parent.span_id].name == "GET"
        given = [
            span for span in it.spans.get_finished_spans() if span.attributes.get("imslab.bsf.operation") == "zn.key"
        ]
        assert [span.attributes["imslab.bsf.naf"] for span in given] == [KMS]
        assert all(span.status.status_code is not StatusCode.ERROR for span in trace)


@pytest.mark.parametrize("naf", ["", "kms ims", "x" * 300])
@async_test
async def test_a_naf_without_a_dns_name_gets_no_key(tmp_path, naf):
    async with home(tmp_path) as it:
        with pytest.raises(GbaError) as error:
            await Ue(it).gba.credential(naf)
        assert error.value.reason == "protocol"


def test_nothing_of_a_key_shows_when_printed():
    response = HttpResponse(200, (("Authentication-Info", 'rspauth="00"'),))
    assert "rspauth" not in repr(response)
    assert naf_id(KMS)[-5:] == bytes.fromhex("0100000006")
