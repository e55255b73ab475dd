"""The UE's KMS client over a real HTTPS socket: answers, refusals, keys that ran out, and things that never come."""

import asyncio
import base64
import contextlib
import io

import pytest

from keying.mikey.identity import Identity
from keying.mikey.policy import Limits
from keying.mikey.profile import Profile
from keying.secret import Secret
from nodes.https import HttpResponse, HttpsClient, HttpsServer
from nodes.ue.config import KmsAddress, KmsPolicy
from nodes.ue.gba import GbaError, GbaKey
from nodes.ue.kms_client import GbaCredentials, KmsClient, KmsRefused, KmsUnreachable, error_word
from nodes.ue.kms_policy import identity_of, wish_for
from nodes.ue.network import PinnedNetwork
from sba.identity import NodeIdentity
from sba.telemetry import Telemetry
from sba.testing import LabFixture, async_test
from tests.ue.kms_stand_in import ALICE, BOB, Keys, StandInKms

NAME = "kms.ims.test"
INITIATOR = Identity.uri(ALICE)
WISH = wish_for(KmsPolicy(), (identity_of(BOB),))
UNSHARED = wish_for(KmsPolicy(forking=False), (identity_of(BOB),))


@contextlib.asynccontextmanager
async def site(folder, *, name="kms-1.ims.test", timeout_s=2.0, profile=None):
    """A stand-in KMS behind HTTPS and a client for ALICE."""
    lab = LabFixture(folder, nrf=False)
    identity = NodeIdentity(lab.add("kms", "kms-1", nf_types=("KMS",)))
    telemetry = Telemetry("kms-1", "KMS", stream=io.StringIO())
    kms = StandInKms(profile=profile)
    server = HttpsServer(kms.answer, identity, telemetry)
    port = await server.start("127.0.0.1", 0)
    keys = Keys(kms, ALICE)
    https = HttpsClient(identity.ca_path, Telemetry("alice", "UE", stream=io.StringIO()))
    address = KmsAddress(host="127.0.0.1", port=port, tls_name=name, identity=NAME)
    client = KmsClient(https, address, keys, kms.profile, PinnedNetwork(kms=address.address), timeout_s=timeout_s)
    try:
        yield kms, keys, client, server
    finally:
        await server.stop()


def resolver(kms, client):
    """BOB's client at the same KMS."""
    address = KmsAddress(identity=NAME)
    return KmsClient(client._https, address, Keys(kms, BOB), kms.profile, client._network, timeout_s=2.0)


@pytest.mark.clause("TS 33.328", "A-1", "6.2.3.1-1")
@pytest.mark.clause("RFC 6043", "7")
@pytest.mark.parametrize("encoding", ["base64", "binary"])
@async_test
async def test_a_ticket_is_requested_and_resolved_over_https(tmp_path, encoding):
    async with site(tmp_path, profile=Profile(http_body_encoding=encoding)) as (kms, _, client, _):
        ticket, asked = await client.request(INITIATOR, UNSHARED)
        assert [each.text for each in ticket.responders] == [BOB]
        assert (asked.request[1], asked.response[1]) == (11, 13)
        resolution, asked = await resolver(kms, client).resolve(ticket.payload, Identity.uri(BOB))
        assert (asked.request[1], asked.response[1]) == (16, 18)
        assert resolution.keys[0].key == ticket.keys[0].key
        assert kms.asked == ["ticketrequest", "ticketresolve"]


@pytest.mark.clause("TS 33.328", "6.2.3.1-2")
@async_test
async def test_a_key_that_ran_out_is_made_anew_once(tmp_path):
    async with site(tmp_path) as (kms, keys, client, _):
        await client.request(INITIATOR, WISH)
        kms.keys.clear()
        await client.request(INITIATOR, WISH)
        assert keys.made == 2
        kms.script = [HttpResponse(401), HttpResponse(401), HttpResponse(401)]
        with pytest.raises(KmsRefused) as refused:
            await client.request(INITIATOR, WISH)
        assert (refused.value.status, len(kms.script)) == (401, 1)


@pytest.mark.clause("RFC 6043", "5.4")
@pytest.mark.attack("T5")
@async_test
async def test_a_mikey_error_is_told_by_its_name(tmp_path):
    async with site(tmp_path) as (_, _, client, _):
        with pytest.raises(KmsRefused, match="INVALID_ID") as refused:
            await client.request(Identity.uri("sip:mallory@ims.test"), WISH)
        assert (refused.value.status, refused.value.numbers) == (403, (7,))


@pytest.mark.attack("T5")
@pytest.mark.parametrize("status", [200, 400, 403, 404, 429, 500, 503])
@pytest.mark.parametrize(
    "body", [b"", b"no", b"AQ==", b"\x01", b"<html>", b"\xff" * 40, base64.b64encode(b"\x01\x0d" + bytes(60))]
)
@async_test
async def test_an_answer_that_is_no_mikey_is_a_refusal(tmp_path, status, body):
    async with site(tmp_path) as (kms, _, client, _):
        kms.script = [HttpResponse(status, (("Content-Type", "application/mikey"),), body)]
        with pytest.raises(KmsUnreachable if status == 503 else KmsRefused):
            await client.request(INITIATOR, WISH)


@pytest.mark.attack("T5")
@async_test
async def test_an_answer_to_another_request_is_a_refusal(tmp_path):
    async with site(tmp_path) as (kms, _, client, _):
        _, first = await client.request(INITIATOR, WISH)
        kms.script = [HttpResponse(200, (), base64.b64encode(first.response))]
        with pytest.raises(KmsRefused, match="not usable"):
            await client.request(INITIATOR, WISH)


@pytest.mark.clause("RFC 6043", "4.2.1.6")
@pytest.mark.clause("TS 33.328", "7.2.3-3")
@async_test
async def test_a_ticket_that_is_worse_than_asked_for_is_not_taken(tmp_path):
    async with site(tmp_path) as (kms, _, client, _):
        kms.limits = Limits(responders=(Identity.uri("sip:carol@ims.test"),))
        with pytest.raises(KmsRefused):
            await client.request(INITIATOR, WISH)


@pytest.mark.attack("T9")
@async_test
async def test_a_silent_kms_is_given_up(tmp_path):
    async with site(tmp_path, timeout_s=0.1) as (kms, _, client, _):
        waiting = asyncio.Event()
        kms.script = [waiting.wait]
        with pytest.raises(KmsUnreachable, match="timeout"):
            await client.request(INITIATOR, WISH)
        waiting.set()


@pytest.mark.attack("T9")
@async_test
async def test_a_kms_that_is_not_there_is_unreachable(tmp_path):
    async with site(tmp_path) as (_, _, client, server):
        await server.stop()
        with pytest.raises(KmsUnreachable, match="unreachable"):
            await client.request(INITIATOR, WISH)


@pytest.mark.clause("TS 33.328", "5.4.3-1")
@pytest.mark.attack("T6")
@async_test
async def test_a_server_with_another_name_is_told_nothing(tmp_path):
    async with site(tmp_path, name="kms.partner.test") as (kms, _, client, _):
        with pytest.raises(KmsUnreachable, match="tls"):
            await client.request(INITIATOR, WISH)
        assert kms.asked == []


class Gba:
    def __init__(self):
        self.forgotten = []
        self.fails = False

    async def credential(self, naf):
        if self.fails:
            raise GbaError("unreachable", "no BSF")
        return GbaKey("btid@bsf.ims.test", Secret(bytes(32)), 0.0)

    def invalidate(self, btid=None):
        self.forgotten.append(btid)


@pytest.mark.clause("TS 33.328", "6.2.3.1-2")
@async_test
async def test_the_key_is_that_of_gba_under_its_b_tid():
    gba = Gba()
    credentials = GbaCredentials(gba, NAME)
    key = await credentials.credential()
    assert (key.identity, key.key) == (b"btid@bsf.ims.test", Secret(bytes(32)))
    credentials.invalidate(key)
    assert gba.forgotten == ["btid@bsf.ims.test"]
    gba.fails = True
    with pytest.raises(KmsUnreachable, match="no BSF"):
        await credentials.credential()


def test_error_numbers_have_names():
    assert [error_word(number) for number in (0, 14, 99)] == ["AUTH_FAILURE", "INVALID_TICKET", "error 99"]
