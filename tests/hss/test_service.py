"""The services of the HSS over real gRPC, and a life after kill -9."""

import asyncio
import json
from dataclasses import replace

import grpc
import pytest

from keying.secret import Secret
from nodes.hss.node import Hss
from nodes.hss.provision import AkaCredentials, PublicIdentity, Subscriber
from nodes.hss.registration import Assignment, Flag, ServedElsewhereError, assign
from protos import hss_sdm_pb2, hss_ueau_pb2, hss_uecm_pb2
from sba.errors import ConfigurationError, RemoteProblem
from sba.testing import LabFixture, async_test
from signalling.aka.digest import compute_ha1
from signalling.aka.vectors import Usim
from tests.cscf.home import ALICE, DAVE, ERIN, OPC, PASSWORD, SUBSCRIBERS, K, provision

VECTORS = hss_ueau_pb2.DESCRIPTOR.services_by_name["NhssImsUeAuthentication"].methods_by_name["GenerateVectors"]
UECM = hss_uecm_pb2.DESCRIPTOR.services_by_name["NhssImsUeContextManagement"].methods_by_name
PROFILE = hss_sdm_pb2.DESCRIPTOR.services_by_name["NhssImsSubscriberDataManagement"].methods_by_name["GetProfile"]
SCSCF = "sip:127.0.0.1:5061;transport=tls;lr"


def assignment(state, server=SCSCF, impu="sip:alice@ims.test"):
    return hss_uecm_pb2.ServerAssignmentRequest(impi=ALICE.impi, impu=impu, server_name=server, state=state)


async def refusal(call):
    with pytest.raises(RemoteProblem) as error:
        await call
    return error.value.cause


@pytest.mark.clause("TS 33.203", "AKA-1", "AKA-2")
@pytest.mark.clause("TS 33.102", "RS-2", "RS-3", "RS-5")
@async_test
async def test_vectors_in_order_and_resynchronisation(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", SUBSCRIBERS), cls=Hss)
        client = await lab.client("SCSCF")

        async def vectors(count=1, **more):
            request = hss_ueau_pb2.GenerateVectorsRequest(impi=ALICE.impi, count=count, **more)
            return (await client.call(VECTORS, request)).aka

        usim = Usim(K, OPC)
        for vector in await vectors(5):
            result = usim.authenticate(vector.rand, vector.autn)
            assert (result.res.reveal(), result.ck.reveal(), result.ik.reveal()) == (vector.xres, vector.ck, vector.ik)
        assert len(await vectors(99)) == 5
        usim.state.highest = {0: 1_000_000}
        [late] = await vectors()
        resync = hss_ueau_pb2.Resynchronisation(rand=late.rand, auts=usim.auts(late.rand))
        [fresh] = await vectors(resync=resync)
        usim.authenticate(fresh.rand, fresh.autn)
        resync.auts = bytes(14)
        assert await refusal(vectors(resync=resync)) == "SYNCHRONISATION_REJECTED"
        resync.auts = b"short"
        assert await refusal(vectors(resync=resync)) == "MANDATORY_IE_INCORRECT"


@pytest.mark.clause("TS 33.203", "N.2")
@async_test
async def test_a_digest_user_gets_ha1_for_both_hashes(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", SUBSCRIBERS), cls=Hss)
        client = await lab.client("SCSCF")
        answer = await client.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi=DAVE.impi))
        assert answer.scheme == hss_ueau_pb2.SIP_DIGEST
        for algorithm, found in (("MD5", answer.digest.ha1_md5), ("SHA-256", answer.digest.ha1_sha256)):
            assert Secret(found.encode()) == compute_ha1(algorithm, DAVE.impi, "ims.test", PASSWORD)


@pytest.mark.clause("TS 29.562", "uecm", "sdm")
@pytest.mark.clause("TS 24.229", "SC-4", "E-16")
@async_test
async def test_flag_location_and_profile(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", SUBSCRIBERS), cls=Hss)
        client = await lab.client("SCSCF")

        async def authorize(impi, impu):
            return await client.call(UECM["Authorize"], hss_uecm_pb2.AuthorizeRequest(impi=impi, impu=impu))

        assert (await authorize(ALICE.impi, "tel:+1-555-0100")).state == hss_uecm_pb2.NOT_REGISTERED
        assert await refusal(authorize(ALICE.impi, "sip:bob@ims.test")) == "IDENTITIES_DONT_MATCH"
        assert await refusal(authorize("nobody@ims.test", "sip:alice@ims.test")) == "USER_NOT_FOUND"
        assert await refusal(authorize(ALICE.impi, "")) == "MANDATORY_IE_MISSING"
        await client.call(UECM["AssignServer"], assignment(hss_uecm_pb2.REGISTERED))
        found = await client.call(UECM["Locate"], hss_uecm_pb2.LocationRequest(impu="tel:+15550100"))
        assert (found.server_name, found.state) == (SCSCF, hss_uecm_pb2.REGISTERED)
        wrong = client.call(UECM["AssignServer"], assignment(hss_uecm_pb2.NOT_REGISTERED, "sip:other"))
        assert await refusal(wrong) == "SERVED_ELSEWHERE"
        profile = await client.call(PROFILE, hss_sdm_pb2.ProfileRequest(impu="sip:erin@ims.test"))
        assert profile.impi == ERIN.impi
        assert profile.filter_criteria[0].triggers[0].session_case == "orig"
        assert await refusal(client.call(PROFILE, hss_sdm_pb2.ProfileRequest())) == "MANDATORY_IE_MISSING"


@pytest.mark.attack("T6")
@async_test
async def test_vectors_are_for_the_s_cscf_alone(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", SUBSCRIBERS), cls=Hss)
        for nf_type in ("PCSCF", "ICSCF", "IMS_AGW", "UE"):
            client = await lab.client(nf_type)
            with pytest.raises(RemoteProblem) as error:
                await client.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi=ALICE.impi))
            assert error.value.code in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.INVALID_ARGUMENT,
            )


@pytest.mark.attack("T9", "T8")
@pytest.mark.clause("TS 33.102", "RS-5")
@async_test
async def test_a_killed_hss_returns_with_flags_and_never_repeats_a_number(tmp_path):
    async with LabFixture(tmp_path) as lab:
        settings = {**provision(lab, "hss", SUBSCRIBERS), "sqn_block": 4}
        client = await lab.client("SCSCF")
        usim = Usim(K, OPC)
        for life in range(3):
            process = await lab.spawn("hss", "hss", settings, nf_types=("HSS",))
            for _ in range(3):
                request = hss_ueau_pb2.GenerateVectorsRequest(impi=ALICE.impi, count=1)
                [vector] = (await client.call(VECTORS, request, timeout=10.0)).aka
                usim.authenticate(vector.rand, vector.autn)
            if life == 0:
                await client.call(UECM["AssignServer"], assignment(hss_uecm_pb2.REGISTERED), timeout=10.0)
            found = await client.call(
                UECM["Locate"], hss_uecm_pb2.LocationRequest(impu="sip:alice@ims.test"), timeout=10.0
            )
            assert found.server_name == SCSCF
            await process.kill()
        kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
        assert K.reveal() not in kept
        assert K.reveal().hex().encode() not in kept


@async_test
async def test_without_subscriber_file_the_hss_does_not_start(tmp_path):
    async with LabFixture(tmp_path, nrf=False) as lab:
        with pytest.raises(ConfigurationError):
            await lab.start("hss", "hss", {"provisioning_file": str(tmp_path / "none")}, cls=Hss)


@async_test
async def test_concurrent_requests_get_different_numbers(tmp_path):
    user = Subscriber("9@ims.test", "ims.test", (PublicIdentity("sip:nine@ims.test"),), AkaCredentials(K, OPC))
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", [user]), cls=Hss)
        client = await lab.client("SCSCF")
        request = hss_ueau_pb2.GenerateVectorsRequest(impi=user.impi, count=2)
        answers = await asyncio.gather(*(client.call(VECTORS, request) for _ in range(20)))
        numbers = set()
        for vector in (vector for answer in answers for vector in answer.aka):
            ak = Usim(K, OPC)._milenage.f2345(vector.rand).ak.reveal()
            numbers.add(bytes(a ^ b for a, b in zip(vector.autn[:6], ak, strict=True)))
        assert len(numbers) == 40


@pytest.mark.clause("TS 24.229", "SC-4", "E-1")
def test_the_flag_moves_as_the_rules_say():
    registered = Assignment(Flag.REGISTERED, "s1")
    assert assign(registered, Flag.AUTHENTICATION_PENDING, "s2") == registered
    assert assign(Assignment(), Flag.AUTHENTICATION_PENDING, "s1") == Assignment(Flag.AUTHENTICATION_PENDING, "s1")
    assert assign(registered, Flag.NOT_REGISTERED, "s1") == Assignment()
    with pytest.raises(ServedElsewhereError):
        assign(registered, Flag.NOT_REGISTERED, "s2")
    assert assign(registered, Flag.REGISTERED, "s2").server_name == "s2"
    assert Assignment.from_record(json.loads(json.dumps(registered.to_record()))) == registered


@pytest.mark.attack("T6")
@async_test
async def test_a_cscf_of_another_home_network_gets_no_vector_and_moves_no_registration(tmp_path):
    """A valid certificate of a CSCF is a CSCF of its own domain alone: its vectors would be any network to a card."""
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", SUBSCRIBERS), cls=Hss)
        lab.add("client", "cscf-rogue", nf_types=("SCSCF",), home_domains=["elsewhere.test"])
        rogue = await lab.client("SCSCF", "cscf-rogue")
        impu = ALICE.public_identities[0].uri
        for method, request in (
            (VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi=ALICE.impi)),
            (VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi=DAVE.impi)),
            (VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impu=impu)),
            (VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impu="tel:+15550100")),
            (VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi="nobody@ims.test")),
            (UECM["Authorize"], hss_uecm_pb2.AuthorizeRequest(impi=ALICE.impi, impu=impu)),
            (UECM["AssignServer"], assignment(hss_uecm_pb2.REGISTERED)),
            (UECM["Locate"], hss_uecm_pb2.LocationRequest(impu=impu)),
            (PROFILE, hss_sdm_pb2.ProfileRequest(impu=impu)),
            (PROFILE, hss_sdm_pb2.ProfileRequest(impi=ALICE.impi)),
        ):
            assert await refusal(rogue.call(method, request)) in {"CSCF_NOT_AUTHORIZED", "USER_NOT_FOUND"}, request
        own = await lab.client("SCSCF")
        answer = await own.call(UECM["Locate"], hss_uecm_pb2.LocationRequest(impu=impu))
        assert answer.state == hss_uecm_pb2.NOT_REGISTERED
        assert len((await own.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi=ALICE.impi))).aka) == 1


@async_test
async def test_a_private_identity_of_another_realm_is_served_by_the_cscf_of_its_home_domain(tmp_path):
    subscriber = replace(ALICE, impi="001010000000001@ims.mnc001.mcc001.test")
    async with LabFixture(tmp_path) as lab:
        await lab.start("hss", "hss", provision(lab, "hss", [subscriber]), cls=Hss)
        own = await lab.client("SCSCF")
        answer = await own.call(VECTORS, hss_ueau_pb2.GenerateVectorsRequest(impi=subscriber.impi))
        assert len(answer.aka) == 1
