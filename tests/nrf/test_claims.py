"""What an NF says of itself is taken by the NRF as far as its certificate says so too (T6): nobody draws the traffic of
an access network, a home domain or an NF set that is not his."""

import pytest

from protos import nrf_nfm_pb2
from sba.errors import RemoteProblem
from sba.testing import LabFixture, async_test

REGISTER = nrf_nfm_pb2.DESCRIPTOR.services_by_name["NnrfNfManagement"].methods_by_name["NfRegister"]
Endpoint = nrf_nfm_pb2.Endpoint


async def register(lab, nf_type, dns, *, instance_name="claimant", **claims):
    """Register an NF of that type whose certificate shows the names given; the profile claims what it claims."""
    client = await lab.client(nf_type, "claimant")
    node = lab.document["nodes"]["claimant"]
    lab.ca.issue("claimant", (nf_type,), node["nf_instance_id"], dns=[node["fqdn"], *dns], ips=["127.0.0.1"])
    fresh = type(client).open(lab.add("client", "claimant", nf_types=(nf_type,)))
    lab.clients.append(fresh)
    profile = nrf_nfm_pb2.NfProfile(
        nf_instance_id=node["nf_instance_id"],
        nf_types=[nf_type],
        fqdn=node["fqdn"],
        instance_name=instance_name,
        host="127.0.0.1",
        port=1,
        **claims,
    )
    await fresh.call(REGISTER, nrf_nfm_pb2.NfRegisterRequest(profile=profile))


A, KMS = "access-a.access.ims.test", "kms.ims.test"


@pytest.mark.parametrize(
    ("nf_type", "dns", "claims"),
    [
        ("PCSCF", [A], {"access_network": "access-a"}),
        ("IMS_AGW", [A], {"access_network": "access-a"}),
        ("PCSCF", [A], {"endpoints": [Endpoint(role="gm", access_network="access-a", tls_name="claimant.ims.test")]}),
        ("KMS", [KMS], {"nf_set_id": KMS, "endpoints": [Endpoint(role="kms", tls_name=KMS, access_network="any")]}),
        ("SCSCF", ["scscf.ims.test", "scscf.partner.test"], {"home_domains": ["ims.test", "partner.test"]}),
        ("HSS", ["hss.ims.test", "hss.partner.test"], {"home_domains": ["ims.test", "partner.test"]}),
        ("UE", [], {"access_network": "access-a"}),
    ],
)
@async_test
async def test_what_the_certificate_shows_may_be_claimed(tmp_path, nf_type, dns, claims):
    async with LabFixture(tmp_path) as lab:
        await register(lab, nf_type, dns, **claims)


@pytest.mark.attack("T6", "T9")
@pytest.mark.parametrize(
    ("nf_type", "dns", "claims"),
    [
        ("PCSCF", [A], {"access_network": "access-b"}),
        ("PCSCF", [], {"access_network": "access-a"}),
        ("IMS_AGW", ["access-a.access.partner.test"], {"access_network": "access-a"}),
        ("PCSCF", [A], {"access_network": "access-a", "endpoints": [Endpoint(role="gm", access_network="access-b")]}),
        ("PCSCF", [A], {"endpoints": [Endpoint(role="gm", tls_name="pcscf-a.ims.test")]}),
        ("KMS", ["kms-2.ims.test"], {"nf_set_id": KMS}),
        ("KMS", ["kms.partner.test"], {"nf_set_id": KMS}),
        ("KMS", [], {"endpoints": [Endpoint(role="kms", tls_name=KMS)]}),
        ("SCSCF", ["scscf.partner.test"], {"home_domains": ["ims.test"]}),
        ("ICSCF", ["scscf.partner.test"], {"home_domains": ["partner.test", "ims.test"]}),
        ("PCSCF", [A], {"access_network": "access-a", "instance_name": "pcscf-a"}),
        ("UE", [], {"instance_name": "imsagw-a"}),
        ("UE", [], {"instance_name": "x" * 7_000}),
        ("HSS", ["hss.partner.test"], {"home_domains": ["partner.test", "ims.test"]}),
        ("HSS", ["scscf.ims.test"], {"home_domains": ["ims.test"]}),
    ],
)
@async_test
async def test_what_it_does_not_show_is_refused_and_nobody_is_sent_there(tmp_path, nf_type, dns, claims):
    async with LabFixture(tmp_path) as lab:
        with pytest.raises(RemoteProblem) as refused:
            await register(lab, nf_type, dns, **claims)
        assert (refused.value.cause, refused.value.problem.status) == ("MODIFICATION_NOT_ALLOWED", 403)
        consumer = await lab.client("LAB")
        assert await consumer.discover(nf_type, access_network=claims.get("access_network")) == []


@pytest.mark.attack("T6", "T9")
@async_test
async def test_nobody_makes_the_answers_of_the_nrf_too_large_to_be_received(tmp_path):
    async with LabFixture(tmp_path) as lab:
        with pytest.raises(RemoteProblem) as refused:
            await register(lab, "IMS_AGW", [A], access_network="access-a", attributes={"padding": "x" * (1 << 22)})
        assert refused.value.problem.status == 400
        consumer = await lab.client("LAB")
        assert await consumer.discover("IMS_AGW", access_network="access-a") == []
