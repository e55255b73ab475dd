"""Peers that must not get as far as a token: the TLS side of threat T6."""

import asyncio
import contextlib
import ssl
import uuid

import grpc
import pytest

from sba.access import AccessControl
from sba.config import SbiPolicy
from sba.errors import ProblemError, RemoteProblem
from sba.identity import NodeIdentity
from sba.pki import LabCa
from sba.telemetry import Telemetry
from sba.testing import async_test
from tests.sba.gateway import channel_to, forge, lab_with_gateway, present, raw_call

pytestmark = [pytest.mark.attack("T6")]
ANNEX_P = "TS 33.328 Annex P"


async def unreachable(lab, gateway, channel, metadata=None):
    async with channel:
        with pytest.raises(RemoteProblem) as raised:
            await raw_call(channel, metadata=metadata or (("authorization", f"Bearer {forge(lab)}"),))
    assert raised.value.code is grpc.StatusCode.UNAVAILABLE, "the handshake fails, so no status comes back"
    assert raised.value.problem is None
    assert gateway.handled == []


@pytest.mark.clause(ANNEX_P, "P.1.2-1")
@async_test
async def test_no_client_certificate(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        credentials = grpc.ssl_channel_credentials((tmp_path / "pki/ca.crt").read_bytes())
        await unreachable(lab, gateway, channel_to(lab, "agw-1", credentials=credentials))


@pytest.mark.clause(ANNEX_P, "P.1.2-1")
@async_test
async def test_certificate_of_another_ca(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        other = LabCa.create(tmp_path / "other")
        other.issue("client-pcscf", ["PCSCF"], lab.instance_id("client-pcscf"), dns=["client-pcscf.ims.test"])
        credentials = grpc.ssl_channel_credentials(
            (tmp_path / "pki/ca.crt").read_bytes(),
            (tmp_path / "other/client-pcscf.key").read_bytes(),
            (tmp_path / "other/client-pcscf.crt").read_bytes(),
        )
        await unreachable(lab, gateway, channel_to(lab, "agw-1", credentials=credentials))


@pytest.mark.clause(ANNEX_P, "P.1.1-1", "P.1.2-6")
@async_test
async def test_plaintext(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        port = lab.document["nodes"]["agw-1"]["sbi"]["port"]
        await unreachable(lab, gateway, grpc.aio.insecure_channel(f"127.0.0.1:{port}"))


@pytest.mark.clause(ANNEX_P, "P.1.2-2")
@async_test
async def test_revoked_certificate(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        token = forge(lab)
        assert await present(lab, token) is None
        gateway.handled.clear()
        lab.ca.revoke("client-pcscf")
        gateway.identity.revoked.refresh()  # a server does this once a second
        problem = await present(lab, token)
        assert problem.code is grpc.StatusCode.UNAUTHENTICATED
        assert problem.problem.access_token_error == ""
        assert gateway.handled == []


@pytest.mark.clause(ANNEX_P, "P.1.2-2")
@async_test
async def test_revocation_list_is_read_again_while_serving(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        assert await present(lab, forge(lab)) is None
        lab.ca.revoke("client-pcscf")
        gateway.server._access._crl_checked = float("-inf")  # as if a second had gone by
        problem = await present(lab, forge(lab))
        assert problem.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.clause(ANNEX_P, "P.1.2-2")
@async_test
async def test_revocation_list_of_another_ca_is_not_believed(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        lab.ca.revoke("nrf")
        gateway.identity.revoked.refresh()
        other = LabCa.create(tmp_path / "other")
        (tmp_path / "pki/ca.crl").write_bytes((tmp_path / "other/ca.crl").read_bytes())
        gateway.identity.revoked.refresh()
        assert other.revocation_list() == []
        assert lab.ca.present("nrf").serial_number in gateway.identity.revoked


@pytest.mark.clause(ANNEX_P, "P.1.2-3")
@async_test
async def test_certificate_without_instance_id(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        lab.ca.issue("nameless", ["PCSCF"], "not-a-uuid", dns=["nameless.ims.test"])
        credentials = grpc.ssl_channel_credentials(
            (tmp_path / "pki/ca.crt").read_bytes(),
            (tmp_path / "pki/nameless.key").read_bytes(),
            (tmp_path / "pki/nameless.crt").read_bytes(),
        )
        async with channel_to(lab, "agw-1", credentials=credentials) as channel:
            with pytest.raises(RemoteProblem) as raised:
                await raw_call(channel, metadata=(("authorization", f"Bearer {forge(lab)}"),))
        assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED
        assert raised.value.problem.detail == ""
        assert gateway.handled == []


@pytest.mark.clause(ANNEX_P, "P.1.2-5")
@async_test
async def test_server_that_is_not_the_one_meant(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        pcscf = lab.add("client", "client-pcscf", nf_types=("PCSCF",))
        await unreachable(lab, gateway, channel_to(lab, "agw-1", pcscf, name="agw-2.ims.test"))


@pytest.mark.clause(ANNEX_P, "P.1.2-4")
@pytest.mark.parametrize(
    ("highest", "ciphers"),
    [(ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"), (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256")],
    ids=["TLS 1.1", "CBC suite"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@async_test
async def test_weak_tls(tmp_path, highest, ciphers):
    async with lab_with_gateway(tmp_path) as (lab, _):
        context = ssl.create_default_context(cafile=str(tmp_path / "pki/ca.crt"))
        lab.add("client", "client-pcscf", nf_types=("PCSCF",))
        context.load_cert_chain(tmp_path / "pki/client-pcscf.crt", tmp_path / "pki/client-pcscf.key")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers(ciphers)
        context.maximum_version = highest
        port = lab.document["nodes"]["agw-1"]["sbi"]["port"]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="agw-1.ims.test")


class Tls:
    def __init__(self, **context):
        self._context = context

    def auth_context(self):
        return self._context

    def peer(self):
        return "ipv4:127.0.0.1:1"


@pytest.mark.clause(ANNEX_P, "P.1.2-4")
@async_test
async def test_tls_below_the_floor(tmp_path):
    async with lab_with_gateway(tmp_path, policy={"tls_floor": "TLSv1.3"}) as (lab, gateway):
        assert await present(lab, forge(lab)) is None, "gRPC itself speaks 1.3"
        identity = NodeIdentity(gateway.environment)
        pem = (tmp_path / "pki/client-pcscf.crt").read_bytes()
        control = AccessControl(identity, Telemetry("t", "T"), None, SbiPolicy(tls_floor="TLSv1.3"), assertions=None)
        with pytest.raises(ProblemError) as raised:
            control.identify(Tls(x509_pem_cert=[pem], ssl_tls_version=[b"TLSv1.2"]))
        assert raised.value.status == 401
        assert control.identify(Tls(x509_pem_cert=[pem], ssl_tls_version=[b"TLSv1.3"])).nf_types == ("PCSCF",)


@async_test
async def test_the_transport_states_its_tls_version(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, gateway):
        seen = []
        inner = gateway.server._access.identify
        gateway.server._access.identify = lambda context: (seen.append(context.auth_context()), inner(context))[1]
        assert await present(lab, forge(lab)) is None
        assert seen[0]["ssl_tls_version"] == [b"TLSv1.3"]
        assert uuid.UUID(gateway.handled[0][1].peer.instance_id) == uuid.UUID(lab.instance_id("client-pcscf"))


@async_test
async def test_unknown_method_is_told_to_nobody_without_a_certificate_of_the_lab(tmp_path):
    async with lab_with_gateway(tmp_path) as (lab, _):
        pcscf = lab.add("client", "client-pcscf", nf_types=("PCSCF",))
        async with channel_to(lab, "agw-1", pcscf) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary_unary("/ims.iq.v1.Iq/Nothing")(b"", timeout=3)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def ended_within(reader, seconds):
    """Read until the server closes the connection."""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(seconds):
            while await reader.read(4096):
                pass


@async_test
async def test_connection_that_does_not_shake_hands_is_closed(tmp_path):
    async with lab_with_gateway(tmp_path, policy={"handshake_s": 0.3}) as (lab, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.document["nodes"]["agw-1"]["sbi"]["port"])
        await ended_within(reader, 5)
        writer.close()


@async_test
async def test_connections_of_one_server_are_bounded(tmp_path):
    async with lab_with_gateway(tmp_path, policy={"connections": 8, "handshake_s": 60}) as (lab, _):
        port = lab.document["nodes"]["agw-1"]["sbi"]["port"]
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        ends = [asyncio.ensure_future(ended_within(reader, 30)) for reader, _ in opened]
        done, waiting = await asyncio.wait(ends, timeout=2)
        assert len(done) >= 4
        assert waiting
        for one in waiting:
            one.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        for _, writer in opened:
            writer.close()
