"""Where requests for a home domain go, and whose certificate has to answer there."""

from __future__ import annotations

import pytest

from nodes.cscf.neighbours import HomeNetworks
from protos.nrf_nfm_pb2 import Endpoint, NfProfile
from sba.testing import async_test
from signalling.sip.flow import Hop


class Registry:
    """An NRF that names what it was told, true or not."""

    def __init__(self, *points: Endpoint) -> None:
        self.profile = NfProfile(nf_types=["ICSCF"], home_domains=["partner.test"], endpoints=points)

    async def discover(self, nf_type, service_name=None, home_domain=None):
        assert nf_type == "ICSCF"
        return [self.profile] if home_domain in self.profile.home_domains else []


@pytest.mark.attack("T6")
@async_test
async def test_over_tls_the_entry_of_a_home_domain_shows_its_name_whatever_the_nrf_was_told():
    claimed = Endpoint(role="mw", transport="TLS", host="127.0.0.9", port=5061, tls_name="pcscf-b.ims.test")
    networks = HomeNetworks(Registry(Endpoint(role="isc", host="127.0.0.8", port=1), claimed))
    assert await networks.home_network("partner.test") == Hop("TLS", "127.0.0.9", 5061, tls_name="scscf.partner.test")
    assert await networks.home_network("elsewhere.test") is None


@async_test
async def test_without_tls_there_is_no_name_to_show():
    networks = HomeNetworks(Registry(Endpoint(role="mw", transport="TCP", host="127.0.0.9", port=5060)))
    assert await networks.home_network("partner.test") == Hop("TCP", "127.0.0.9", 5060)
