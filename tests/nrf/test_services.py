"""The NRF over the wire: who may register what, and who gets which token."""

import asyncio
import json
import time

import grpc
import jwt
import pytest

from nodes.nrf.authority import SigningKeys
from protos import common_pb2, nrf_disc_pb2, nrf_nfm_pb2, nrf_oauth2_pb2
from sba.contracts import all_contracts
from sba.errors import RemoteProblem
from sba.store import Store
from sba.testing import LabFixture, async_test
from tests.sba.gateway import Gateway

ANNEX_P = "TS 33.328 Annex P"
Endpoint = nrf_nfm_pb2.Endpoint
NFM = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name
DISCOVER = nrf_disc_pb2.DESCRIPTOR.services_by_name["NnrfNfDiscovery"].methods_by_name["Discover"]
OAUTH = nrf_oauth2_pb2.DESCRIPTOR.services_by_name["NnrfAccessToken"].methods_by_name


def wish(lab, **fields):
    return nrf_oauth2_pb2.AccessTokenRequest(
        **(
            {
                "grant_type": "client_credentials",
                "nf_instance_id": lab.instance_id("client-pcscf"),
                "nf_type": "PCSCF",
                "target_nf_type": "IMS_AGW",
                "scope": "nimsagw-iq",
            }
            | fields
        )
    )


@pytest.mark.clause(ANNEX_P, "P.1.3-1", "P.1.3-4")
@async_test
async def test_token_of_a_permitted_consumer(tmp_path):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        answer = await client.call(OAUTH["Get"], wish(lab))
        jwks = json.loads((await client.call(OAUTH["GetKeySet"], nrf_oauth2_pb2.KeySetRequest())).jwks_json)
        key = jwt.PyJWKSet.from_dict(jwks)[jwt.get_unverified_header(answer.access_token)["kid"]]
        claims = jwt.decode(answer.access_token, key.key, algorithms=["ES256"], audience="IMS_AGW")
        assert claims["iss"] == lab.instance_id("nrf")
        assert claims["sub"] == lab.instance_id("client-pcscf")
        assert claims["scope"] == "nimsagw-iq"
        assert claims["exp"] - claims["iat"] == answer.expires_in == 300
        assert answer.token_type == "Bearer"
        assert all("d" not in entry for entry in jwks["keys"])


@async_test
async def test_instance_level_token_names_the_instance(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("imsagw", "agw-1", cls=Gateway)
        client = await lab.client("PCSCF")
        target = lab.instance_id("agw-1")
        answer = await client.call(OAUTH["Get"], wish(lab, target_nf_type="", target_nf_instance_id=target))
        assert jwt.decode(answer.access_token, options={"verify_signature": False})["aud"] == [target]
        with pytest.raises(RemoteProblem) as raised:
            await client.call(OAUTH["Get"], wish(lab, target_nf_instance_id=lab.instance_id("nobody")))
        assert raised.value.problem.access_token_error == "invalid_request"


@pytest.mark.attack("T6")
@pytest.mark.clause(ANNEX_P, "P.1.3-2", "P.1.3-5", "P.1.3-6", "P.1.3-7")
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
        ({"nf_instance_id": "x"}, "invalid_request"),
        ({"nf_type": ""}, "invalid_request"),
        ({"nf_instance_id": LabFixture.instance_id("somebody-else")}, "invalid_client"),
        ({"nf_type": "SCSCF"}, "invalid_client"),
        ({"nf_type": "LAB"}, "invalid_client"),
        ({"requester_plmn": common_pb2.PlmnId(mcc="999", mnc="99")}, "invalid_client"),
        ({"target_nf_type": "HSS", "scope": "nhss-ims-ueau"}, "unauthorized_client"),
        ({"target_nf_type": "UE", "scope": "ue-control"}, "unauthorized_client"),
        ({"scope": "nimsagw-iq nimsagw-capture"}, "unauthorized_client"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"scope": ""}, "invalid_scope"),
        ({"scope": "nimsagw-iq  nimsagw-iq"}, "invalid_scope"),
        ({"scope": "nimsagw-iq:events:read"}, "invalid_scope"),
        ({"scope": "a" * 3000}, "invalid_scope"),
        ({"target_nf_type": "HSS"}, "invalid_scope"),
    ],
)
@async_test
async def test_no_token_for(tmp_path, fields, error):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        with pytest.raises(RemoteProblem) as raised:
            await client.call(OAUTH["Get"], wish(lab, **fields))
        assert raised.value.problem.access_token_error == error
        assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.attack("T6")
@pytest.mark.clause(ANNEX_P, "P.1.2-2", "P.1.3-5")
@async_test
async def test_no_token_for_an_nf_that_is_not_registered(tmp_path):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        await lab.nodes["nrf"].registry.remove(lab.instance_id("client-pcscf"))
        with pytest.raises(RemoteProblem) as raised:
            await client.call(OAUTH["Get"], wish(lab))
        assert raised.value.problem.access_token_error == "invalid_client"


@async_test
async def test_the_operator_needs_no_profile(tmp_path):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("LAB")
        request = wish(
            lab, nf_instance_id=lab.instance_id("client-lab"), nf_type="LAB", target_nf_type="UE", scope="ue-control"
        )
        assert (await client.call(OAUTH["Get"], request)).scope == "ue-control"


@pytest.mark.clause(ANNEX_P, "P.1.3-6")
def test_the_matrix_of_who_may_call_what():
    matrix = {(c.nf_type, m.service_name): set(m.consumers) for c in all_contracts() for m in c.methods.values()}
    assert matrix[("IMS_AGW", "nimsagw-iq")] == {"PCSCF"}
    assert matrix[("HSS", "nhss-ims-ueau")] == {"SCSCF"}
    assert matrix[("UE", "ue-control")] == {"LAB"}
    assert "PCSCF" not in matrix[("HSS", "nhss-ims-sdm")]


def test_every_contract_can_be_served():
    assert {c.service_name for c in all_contracts()} >= {"nnrf-nfm", "nnrf-disc", "nnrf-oauth2", "nimsagw-iq"}


@pytest.mark.attack("T6")
@pytest.mark.clause(ANNEX_P, "P.1.3-3", "P.1.3-18")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"nf_instance_id": LabFixture.instance_id("hss-1")}, grpc.StatusCode.PERMISSION_DENIED),
        ({"nf_types": ["PCSCF", "HSS"]}, grpc.StatusCode.PERMISSION_DENIED),
        ({"fqdn": "hss-1.ims.test"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"host": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"instance_name": "hss-1"}, grpc.StatusCode.PERMISSION_DENIED),
        ({"host": "unix:/tmp/x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"endpoints": [Endpoint(role="mw", host="10.0.0.1;lr>,<sip:a\r\nb")]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"endpoints": [Endpoint(role="mw", host="fe80::1%0;lr>,<sip:a")]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"endpoints": [Endpoint(role="mw", transport="TLS;lr>,<sip:a")]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"endpoints": [Endpoint(role="m\nw", transport="TLS")]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"nf_types": []}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
@async_test
async def test_a_profile_that_does_not_match_its_certificate(tmp_path, change, code):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        good = {
            "nf_instance_id": lab.instance_id("client-pcscf"),
            "nf_types": ["PCSCF"],
            "fqdn": "client-pcscf.ims.test",
            "host": "127.0.0.1",
            "port": 5,
        }
        profile = nrf_nfm_pb2.NfProfile(**(good | change))
        with pytest.raises(RemoteProblem) as raised:
            await client.call(NFM["NfRegister"], nrf_nfm_pb2.NfRegisterRequest(profile=profile))
        assert raised.value.code is code


@pytest.mark.attack("T6")
@async_test
async def test_nobody_deregisters_or_updates_another_nf(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("imsagw", "agw-1", cls=Gateway)
        client = await lab.client("PCSCF")
        victim = lab.instance_id("agw-1")
        for name, request in (
            ("NfDeregister", nrf_nfm_pb2.NfDeregisterRequest(nf_instance_id=victim)),
            ("NfUpdate", nrf_nfm_pb2.NfUpdateRequest(nf_instance_id=victim, load=100)),
        ):
            with pytest.raises(RemoteProblem) as raised:
                await client.call(NFM[name], request)
            assert raised.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert lab.nodes["nrf"].registry.get(victim) is not None


@async_test
async def test_retrieval_and_list(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("imsagw", "agw-1", {"access_network": "a"}, cls=Gateway)
        client = await lab.client("PCSCF")
        request = nrf_nfm_pb2.NfProfileRequest(nf_instance_id=lab.instance_id("agw-1"))
        assert (await client.call(NFM["NfProfileRetrieval"], request)).access_network == "a"
        listed = await client.call(NFM["NfListRetrieval"], nrf_nfm_pb2.NfListRequest())
        assert [p.instance_name for p in listed.profiles] == ["agw-1", "client-pcscf", "nrf"]
        with pytest.raises(RemoteProblem) as raised:
            await client.call(NFM["NfProfileRetrieval"], nrf_nfm_pb2.NfProfileRequest(nf_instance_id="none"))
        assert raised.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.clause(ANNEX_P, "P.1.3-9")
@async_test
async def test_a_subscriber_hears_of_a_node_that_comes_and_goes(tmp_path):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        events = client.stream(NFM["NfStatusSubscribe"], nrf_nfm_pb2.NfStatusSubscribeRequest(nf_type="IMS_AGW"))
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.1)  # the subscription has no answer of its own to wait for
        await lab.start("imsagw", "agw-1", cls=Gateway)
        kinds = [(await first).kind, (await anext(events)).kind]
        await lab.stop("agw-1")
        kinds.append((await anext(events)).kind)
        await events.aclose()
        event = nrf_nfm_pb2.NfStatusEvent
        assert kinds == [event.NF_REGISTERED, event.NF_PROFILE_CHANGED, event.NF_DEREGISTERED]


@pytest.mark.attack("T6")
@async_test
async def test_discovery_in_the_name_of_another_nf_type(tmp_path):
    async with LabFixture(tmp_path) as lab:
        client = await lab.client("PCSCF")
        for request, cause in (
            (
                nrf_disc_pb2.DiscoveryRequest(target_nf_type="HSS", requester_nf_type="SCSCF"),
                "MANDATORY_QUERY_PARAM_INCORRECT",
            ),
            (nrf_disc_pb2.DiscoveryRequest(requester_nf_type="PCSCF"), "MANDATORY_QUERY_PARAM_MISSING"),
        ):
            with pytest.raises(RemoteProblem) as raised:
                await client.call(DISCOVER, request)
            assert raised.value.cause == cause
            assert raised.value.problem.invalid_params


@async_test
async def test_keys_survive_rotate_overlap_and_are_forgotten(tmp_path):
    environment = LabFixture(tmp_path, nrf=False).add("nrf", "nrf")
    now = [time.time()]

    async def opened():
        store = await Store.open(environment)
        keys = SigningKeys(store, await store.key_value("signing_keys"), overlap_s=100.0, clock=lambda: now[0])
        await keys.load()
        return store, keys

    store, keys = await opened()
    first = keys.current.key_id
    now[0] += 10
    second = await keys.rotate()
    await store.close()
    store, keys = await opened()
    assert keys.current.key_id == second
    assert {k["kid"] for k in json.loads(keys.jwks())["keys"]} == {first, second}
    now[0] += 101
    await keys.prune()
    assert {k["kid"] for k in json.loads(keys.jwks())["keys"]} == {second}
    await store.close()


@pytest.mark.attack("T8")
@async_test
async def test_the_signing_key_is_sealed_in_the_store(tmp_path):
    from cryptography.hazmat.primitives import serialization

    async with LabFixture(tmp_path) as lab:
        nrf = lab.nodes["nrf"]
        number = nrf.signing_keys.current.private.private_numbers().private_value.to_bytes(32, "big")
        der = nrf.signing_keys.current.private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        await lab.stop("nrf")
        for path in nrf.environment.node_dir.iterdir():
            content = path.read_bytes()
            for secret in (number, der):
                assert secret not in content
                assert secret.hex().encode() not in content
