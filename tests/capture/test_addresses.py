"""A capture shows the addresses of the wire, also where a node listens on every one it has or is known by a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.capture_decode_as import LabPorts
from protos import capture_pb2, nrf_oauth2_pb2
from protos.nrf_nfm_pb2 import Endpoint, NfProfile
from sba.client import SbiClient
from sba.identity import NodeIdentity
from sba.networks import address_of, local_host
from sba.tap import Tap, TapReader
from sba.telemetry import Telemetry
from sba.testing import LabFixture, async_test

KEYS = nrf_oauth2_pb2.DESCRIPTOR.services_by_name["NnrfAccessToken"].methods_by_name["GetKeySet"]


async def ends(reader: TapReader) -> tuple[str, str, int]:
    """The addresses of the next message, and the port it goes to."""
    message: capture_pb2.CapturedMessage = (await anext(reader.items())).message
    return message.source_ip, message.destination_ip, message.destination_port


@async_test
async def test_both_ends_of_a_request_to_an_nrf_on_every_address_know_the_addresses_of_the_connection(
    tmp_path: Path,
) -> None:
    lab = LabFixture(tmp_path)
    lab.document["nrf"]["host"] = "localhost"
    lab.document["nodes"]["nrf"]["sbi"]["host"] = "0.0.0.0"
    lab.write()
    port = lab.document["nrf"]["port"]
    async with lab:
        environment = lab.add("client", "alice", nf_types=("UE",))
        identity, tap = NodeIdentity(environment), Tap()
        client = SbiClient(environment, identity, Telemetry.for_node(environment, identity), tap=tap)
        lab.clients.append(client)
        with tap.reading([], with_keys=False) as there, lab.nodes["nrf"].tap.reading([], with_keys=False) as here:
            await client.call(KEYS, nrf_oauth2_pb2.KeySetRequest())
            assert await ends(there) == ("127.0.0.1", "127.0.0.1", port)
            loopback = [("127.0.0.1", "127.0.0.1", port), ("::1", "::1", port)]  # localhost may be either
            assert await ends(here) in loopback


@pytest.mark.parametrize(
    ("host", "peer", "local"),
    [
        ("0.0.0.0", "127.1.1.3", "127.0.0.1"),
        ("::", "127.1.1.3", "127.0.0.1"),
        ("127.1.1.5", "127.1.1.3", "127.1.1.5"),
        ("0.0.0.0", "", "0.0.0.0"),
        ("0.0.0.0", "nrf", "0.0.0.0"),
        ("nrf", "127.0.0.1", "nrf"),
    ],
)
def test_only_a_host_that_is_every_address_gives_way_to_the_one_towards_the_peer(
    host: str, peer: str, local: str
) -> None:
    assert local_host(host, peer) == local


@async_test
async def test_a_name_without_an_address_has_none() -> None:
    assert await address_of("127.1.1.3") == "127.1.1.3"
    assert await address_of("localhost") == "127.0.0.1"
    assert await address_of("nobody.invalid") == ""


def test_every_address_is_no_nodes_name() -> None:
    ports = LabPorts.of_names({"127.0.0.1": "nrf"})
    point = Endpoint(role="ub", transport="HTTPS", host="10.89.1.2", port=8443)
    ports.learn(NfProfile(instance_name="nrf", host="0.0.0.0", port=7443, endpoints=[point]))
    assert ports.hosts == {"127.0.0.1": "nrf", "10.89.1.2": "nrf"}
    assert ports.ports["tcp", 7443] == "HTTP2"
