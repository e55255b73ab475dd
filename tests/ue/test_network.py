"""Where a UE finds its servers: what is pinned, what the NRF names, and which address of it is the UE's own."""

import grpc
import pytest
from pydantic import ValidationError

from nodes.ue.config import UeSettings
from nodes.ue.network import DiscoveredNetwork, NotFound, PinnedNetwork
from protos import nrf_nfm_pb2
from sba.errors import RemoteProblem
from sba.testing import async_test

Endpoint = nrf_nfm_pb2.Endpoint


def settings(**more):
    return UeSettings(
        impi="1@ims.test",
        impu="sip:alice@ims.test",
        domain="ims.test",
        ip="127.0.0.1",
        key_file="",
        access_network="access-a",
        **more,
    )


def profile(name, *points):
    return nrf_nfm_pb2.NfProfile(nf_instance_id=f"id-{name}", instance_name=name, endpoints=points)


class Nrf:
    """What a UE asks of its SBI client."""

    def __init__(self, *profiles, problem=None):
        self.profiles = list(profiles)
        self.problem = problem
        self.asked = []
        self.suspects = []
        self.discovery = self

    async def discover(self, nf_type, service_name=None, home_domain=None, access_network=None):
        self.asked.append((nf_type, home_domain, access_network))
        if self.problem is not None:
            raise self.problem
        return self.profiles

    def suspect(self, instance_id):
        self.suspects.append(instance_id)

    def trust(self, instance_id):
        self.suspects.remove(instance_id)


def gm(transport, host, port=5060, network="access-a", name="pcscf.ims.test"):
    return Endpoint(role="gm", transport=transport, host=host, port=port, tls_name=name, access_network=network)


@async_test
async def test_p_cscfs_are_those_of_the_access_network_that_speak_the_transport():
    nrf = Nrf(
        profile("pcscf-a", gm("UDP", "127.0.0.2"), gm("TLS", "127.0.0.2", 5061, name="pcscf-a.ims.test")),
        profile("pcscf-a-2", gm("UDP", "127.0.0.3")),
        profile("pcscf-a-3", gm("TLS", "127.0.0.4", 5061, network="access-b")),
        profile("pcscf-a-4", gm("TLS", "127.0.0.5", 5061, network="")),
        profile("pcscf-a-5", Endpoint(role="mw", transport="TLS", host="127.0.0.6", port=5061)),
    )
    found = await DiscoveredNetwork(nrf, settings()).pcscfs()
    assert nrf.asked == [("PCSCF", None, "access-a")]
    assert [(one.name, one.host, one.port, one.tls_name) for one in found] == [
        ("pcscf-a", "127.0.0.2", 5061, "pcscf-a.ims.test"),
        ("pcscf-a-4", "127.0.0.5", 5061, "pcscf.ims.test"),
    ]
    assert [one.name for one in await DiscoveredNetwork(nrf, settings(profile="digest")).pcscfs()] == [
        "pcscf-a",
        "pcscf-a-2",
    ]


@async_test
async def test_of_several_addresses_a_ue_takes_that_of_its_own_network():
    kms = profile(
        "kms",
        Endpoint(role="kms", transport="HTTPS", host="10.2.0.9", port=1, access_network="access-b"),
        Endpoint(role="kms", transport="HTTPS", host="10.0.0.9", port=2),
        Endpoint(role="kms", transport="HTTPS", host="10.1.0.9", port=3, access_network="access-a"),
        Endpoint(role="sbi", transport="HTTPS", host="10.1.0.9", port=4, access_network="access-a"),
    )
    network = DiscoveredNetwork(Nrf(kms), settings(kms={"identity": "kms.ims.test"}))
    [server] = await network.kms()
    assert (server.address.host, server.address.port, server.instance_id) == ("10.1.0.9", 3, "id-kms")


@pytest.mark.attack("T6")
@async_test
async def test_the_name_a_server_has_to_show_is_the_one_the_ue_knows_whatever_the_nrf_says():
    liar = Endpoint(role="kms", transport="HTTPS", host="10.1.0.9", port=3, tls_name="evil.test")
    told = settings(kms={"identity": "kms.ims.test"}, bsf={"tls_name": "bsf.ims.test"})
    network = DiscoveredNetwork(Nrf(profile("kms", liar)), told)
    [server] = await network.kms()
    assert server.address.name == "kms.ims.test"
    liar.role = "ub"
    [server] = await DiscoveredNetwork(Nrf(profile("bsf", liar)), told).bsf()
    assert server.address.name == "bsf.ims.test"


@async_test
async def test_home_servers_are_looked_for_by_home_domain():
    nrf = Nrf(profile("bsf-p", Endpoint(role="ub", transport="HTTPS", host="10.1.0.9", port=3, tls_name="bsf.test")))
    await DiscoveredNetwork(nrf, settings(bsf={})).bsf()
    assert nrf.asked == [("BSF", "ims.test", None)]


@async_test
async def test_what_is_pinned_is_not_looked_for():
    nrf = Nrf()
    told = settings(
        pcscf={"transport": "TCP", "host": "127.0.0.9", "port": 5070},
        kms={"host": "127.0.0.9", "port": 8443, "tls_name": "kms.ims.test"},
        bsf={"host": "127.0.0.9", "port": 8444},
    )
    network = DiscoveredNetwork(nrf, told)
    [pcscf] = await network.pcscfs()
    assert (pcscf.transport, pcscf.host, pcscf.port, pcscf.name) == ("TCP", "127.0.0.9", 5070, "")
    assert [each.address.port for each in (*await network.kms(), *await network.bsf())] == [8443, 8444]
    assert nrf.asked == []
    assert told.transport == "TCP"


@async_test
async def test_nothing_to_be_found_says_why():
    network = DiscoveredNetwork(Nrf(), settings(kms={"identity": "kms.ims.test"}))
    with pytest.raises(NotFound, match=r"no P-CSCF of access-a is registered with the NRF \(is it running\?\)"):
        await network.pcscfs()
    other = DiscoveredNetwork(Nrf(profile("pcscf-a", gm("UDP", "127.0.0.2"))), settings())
    with pytest.raises(NotFound, match="no P-CSCF of access-a speaks TLS"):
        await other.pcscfs()
    with pytest.raises(NotFound, match="no KMS of"):
        await network.kms()
    away = DiscoveredNetwork(Nrf(problem=RemoteProblem(grpc.StatusCode.UNAVAILABLE, message="gone")), settings())
    with pytest.raises(NotFound, match="the NRF names no PCSCF"):
        await away.pcscfs()
    for find in (PinnedNetwork().pcscfs, PinnedNetwork().kms, PinnedNetwork().bsf, network.bsf):
        with pytest.raises(NotFound):
            await find()


@async_test
async def test_who_failed_is_put_behind_until_he_answers():
    nrf = Nrf()
    network = DiscoveredNetwork(nrf, settings())
    network.failed("id-kms")
    network.failed("")
    assert nrf.suspects == ["id-kms"]
    network.answered("id-kms")
    network.answered("")
    assert nrf.suspects == []


@pytest.mark.parametrize("wrong", [{"host": "127.0.0.1"}, {"port": 5}, {"host": "h", "port": 70000}])
def test_a_pinned_server_has_a_whole_address(wrong):
    with pytest.raises(ValidationError):
        settings(bsf=wrong)


@pytest.mark.parametrize(
    ("told", "transport"),
    [({}, "TLS"), ({"profile": "aka-udp"}, "UDP"), ({"profile": "digest"}, "UDP"), ({"gm_transport": "TCP"}, "TCP")],
)
def test_the_transport_follows_from_the_profile(told, transport):
    assert settings(**told).transport == transport
