"""Two home domains: a ticket of one KMS is resolved through the other, and only as far as the other's name reaches."""

import asyncio
import time

import grpc
import pytest

from keying.mikey.codec import encode_ticket
from keying.mikey.errors import InvalidIdentity, InvalidTicket, MalformedMessage, PeerError, Unspecified
from keying.mikey.identity import Identity
from keying.mikey.payloads import KeyData
from keying.mikey.registry import ErrorNumber, KeyDataType
from keying.mikey.resolve import Resolution
from keying.secret import Secret
from nodes.kms.node import Kms
from nodes.kms.wire import from_problem, from_wire, to_problem, to_wire
from protos import common_pb2, kms_resolve_pb2
from sba.errors import ProblemError, RemoteProblem
from sba.nf import NetworkFunction
from sba.testing import LabFixture, async_test
from tests.kms.home import Home, sent
from tests.kms.parties import BOB, ERIN, uri

RESOLVE = kms_resolve_pb2.DESCRIPTOR.services_by_name["NkmsResolve"].methods_by_name["ResolveTicket"]


async def two_homes(lab, **settings):
    return await Home(lab).start(**settings), await Home(lab, "partner.test", "-p").start(**settings)


@pytest.mark.clause("TS 33.328", "6.2.3.8-1", "B.2.3-1")
@pytest.mark.clause("RFC 6043", "10")
@async_test
async def test_the_other_domain_s_user_gets_the_keys_through_its_own_kms(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home, partner = await two_homes(lab)
        alice, erin = home.ue("alice"), partner.ue("erin")
        ticket = await alice.ticket(ERIN, reusable=True)
        found = await erin.resolve(sent(ticket))
        assert found.mpki.key == ticket.mpki.key
        assert found.responder == ERIN
        assert found.forked_mpkr.key != ticket.mpkr.key
        again = await erin.resolve(sent(ticket, b"\x01" * 20))
        assert again.rand_kms == found.rand_kms
        [relay] = await partner.kms._kms_store.audit(limit=1)
        assert (relay.operation, relay.outcome, relay.peer_kms) == ("relay", "granted", "kms.ims.test")
        [resolve] = await home.kms._kms_store.audit(limit=1)
        assert (resolve.operation, resolve.party, resolve.peer_kms) == ("resolve", ERIN.text, "kms.partner.test")
        assert relay.responders == resolve.responders == (ERIN.text,)


@pytest.mark.clause("RFC 6043", "10")
@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T5")
@async_test
async def test_a_refusal_of_the_other_kms_comes_back_as_it_is(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home, partner = await two_homes(lab)
        alice, erin, mallory = home.ue("alice"), partner.ue("erin"), partner.ue("mallory")
        ticket = await alice.ticket(ERIN)
        exchange = mallory.resolution(sent(ticket))
        response = await mallory.post("resolve", exchange.message)
        assert response.status == 403
        with pytest.raises(PeerError) as error:
            exchange.receive(response.body, time.time())
        assert error.value.authenticated
        assert error.value.numbers != (ErrorNumber.UNSPECIFIED,)
        entry = (await partner.kms._kms_store.audit(limit=1))[0]
        assert (entry.operation, entry.outcome) == ("relay", "refused")
        assert (await erin.resolve(sent(ticket))).mpki


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T9")
@async_test
async def test_while_the_other_kms_is_away_a_resolve_fails_in_time_and_says_so(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home, partner = await two_homes(lab, peer_timeout_s=1.0)
        alice, erin = home.ue("alice"), partner.ue("erin")
        ticket = await alice.ticket(ERIN)
        await lab.stop("kms")
        started = time.monotonic()
        response = await erin.resolve(sent(ticket))
        assert response.status in (503, 504)
        assert response.body.startswith(b"peer-kms-unavailable")
        assert time.monotonic() - started < 5
        home.kms = await lab.start("kms", "kms", home.settings(), cls=Kms)
        async with asyncio.timeout(20):
            found = await erin.resolve(sent(ticket))
            while not isinstance(found, Resolution):  # until the NRF's answer is asked for anew
                found = await erin.resolve(sent(ticket))
        assert found.mpki.key == ticket.mpki.key


class RogueResolve:
    """Answers every resolve with keys of its own making."""

    service = kms_resolve_pb2.DESCRIPTOR.services_by_name["NkmsResolve"]

    def __init__(self, node):
        self.node = node

    async def ResolveTicket(self, request, context):
        self.node.asked.append(request)
        return kms_resolve_pb2.ResolveTicketResponse(mpki=b"\x01" * 16, mpki_spi=b"\x01" * 4)


class RogueKms(NetworkFunction):
    nf_types = ("KMS",)

    async def open_node(self):
        self.asked = []
        self.offered = [RogueResolve(self)]

    def servicers(self):
        return self.offered


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T5", "T6")
@async_test
async def test_a_kms_that_only_calls_itself_another_s_name_is_not_asked(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home, partner = await two_homes(lab, peer_timeout_s=1.0)
        alice, erin = home.ue("alice"), partner.ue("erin")
        ticket = await alice.ticket(ERIN)
        await lab.stop("kms")
        rogue = await lab.start("kms", "kms-rogue", {"home_domains": ["ims.test"]}, cls=RogueKms)
        response = await erin.resolve(sent(ticket))
        assert response.status in (503, 504)
        assert rogue.asked == []


@pytest.mark.clause("RFC 6043", "10")
@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T5", "T6")
@async_test
async def test_a_compromised_kms_gets_no_keys_beyond_its_own_users(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home, partner = await two_homes(lab)
        alice = home.ue("alice")
        for_bob, for_erin = await alice.ticket(BOB), await alice.ticket(ERIN, reusable=True)
        client = partner.kms.sbi

        async def ask(ticket, *responders, kms="kms.partner.test", octets=None):
            request = kms_resolve_pb2.ResolveTicketRequest(
                ticket=encode_ticket(sent(ticket)) if octets is None else octets, responder=responders, kms=kms
            )
            try:
                return await client.call(RESOLVE, request, instance=lab.instance_id("kms"))
            except RemoteProblem as problem:
                return problem.cause

        assert (await ask(for_erin, ERIN.text)).mpki == for_erin.mpki.key.reveal()
        assert await ask(for_bob, BOB.text) == "MIKEY_INVALID_ID"
        assert await ask(for_bob, ERIN.text, BOB.text) == "MIKEY_INVALID_ID"
        assert await ask(for_bob, ERIN.text) == "MIKEY_INVALID_ID"
        assert await ask(for_erin, "sip:*@partner.test") == "MIKEY_INVALID_ID"
        assert await ask(for_erin) == "MIKEY_INVALID_ID"
        assert await ask(for_erin, ERIN.text, kms="kms.ims.test") == "KMS_IDENTITY_MISMATCH"
        assert await ask(for_erin, ERIN.text, kms="kms.elsewhere.test") == "KMS_IDENTITY_MISMATCH"
        assert await ask(for_erin, ERIN.text, kms="kms-p.ims.test") == "MIKEY_INVALID_TICKET"
        assert await ask(for_erin, ERIN.text, octets=b"\x00") == "MIKEY_UNSPECIFIED"
        assert await ask(for_erin, ERIN.text, octets=bytes(17 * 1024)) == "INVALID_MSG_FORMAT"
        assert await ask(for_erin, *["sip:x@partner.test"] * 33) == "INVALID_MSG_FORMAT"
        assert await ask(for_erin, "") == "INVALID_MSG_FORMAT"
        spoilt = bytearray(encode_ticket(sent(for_erin)))
        spoilt[len(spoilt) // 2] ^= 1
        assert str(await ask(for_erin, ERIN.text, octets=bytes(spoilt))).startswith("MIKEY_")


@pytest.mark.attack("T6")
@async_test
async def test_nobody_but_a_kms_may_ask_for_a_resolve(tmp_path):
    async with LabFixture(tmp_path) as lab:
        await Home(lab).start()
        for nf_type in ("PCSCF", "BSF", "HSS", "UE", "LAB"):
            client = await lab.client(nf_type)
            with pytest.raises(RemoteProblem) as error:
                await client.call(RESOLVE, kms_resolve_pb2.ResolveTicketRequest(kms="kms.partner.test"))
            assert error.value.code in (
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.INVALID_ARGUMENT,
            )


@pytest.mark.attack("T5")
@async_test
async def test_the_rate_of_another_kms_is_bounded(tmp_path):
    async with LabFixture(tmp_path) as lab:
        _home, partner = await two_homes(lab, peer_rate={"per_second": 0.01, "burst": 1})
        request = kms_resolve_pb2.ResolveTicketRequest(kms="kms.partner.test", responder=[ERIN.text], ticket=b"\0")
        causes = []
        for _ in range(2):
            with pytest.raises(RemoteProblem) as error:
                await partner.kms.sbi.call(RESOLVE, request, instance=lab.instance_id("kms"))
            causes.append(error.value.cause)
        assert causes == ["MIKEY_UNSPECIFIED", "NF_CONGESTION_RISK"]


@pytest.mark.attack("T5")
@async_test
async def test_a_ticket_of_a_kms_that_is_not_of_the_lab_is_refused_without_asking_anybody(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob = home.ue("alice"), home.ue("bob")
        alice.kms = bob.kms = home.identity
        ticket = await alice.ticket(BOB)
        policy = ticket.payload.policy
        payloads = tuple(
            type(each)(each.role, each.id_type, b"kms.elsewhere.test") if each == policy.payloads[0] else each
            for each in policy.payloads
        )
        from dataclasses import replace

        moved = replace(sent(ticket), policy=replace(policy, payloads=payloads))
        assert (await bob.resolve(moved)).status == 403
        entry = (await home.kms._kms_store.audit(limit=1))[0]
        assert (entry.operation, entry.outcome, entry.peer_kms) == ("relay", "refused", "kms.elsewhere.test")


def key(kind, **more):
    return KeyData(kind, Secret(b"k" * 16), spi=b"\0\0\0\1", **more)


@pytest.mark.clause("RFC 6043", "10")
def test_a_resolution_comes_back_from_the_wire_as_it_was():
    keys = (key(KeyDataType.TGK), key(KeyDataType.TEK_SALT, salt=Secret(b"s" * 14)), key(KeyDataType.GTGK))
    for resolution in (
        Resolution(key(KeyDataType.MPK), key(KeyDataType.MPK), keys, ERIN, b"r" * 32),
        Resolution(key(KeyDataType.MPK), None, keys, None),
        Resolution(key(KeyDataType.MPK), None, (), Identity.nai("erin@partner.test")),
    ):
        wire = kms_resolve_pb2.ResolveTicketResponse.FromString(to_wire(resolution).SerializeToString())
        assert from_wire(wire) == resolution


@pytest.mark.attack("T5")
@pytest.mark.parametrize(
    "fields",
    [
        {"mpki": b""},
        {"mpki": b"k" * 15},
        {"forked_mpkr": b"k" * 16},
        {"forked_mpkr": b"k" * 16, "idr": b"sip:x@y", "idr_type": 1},
        {"idr": b"x", "idr_type": 9},
        {"keys": [kms_resolve_pb2.ResolvedKey(key=b"k" * 16)]},
        {"keys": [kms_resolve_pb2.ResolvedKey(kind=1, key=b"k")]},
        {"keys": [kms_resolve_pb2.ResolvedKey(kind=7, key=b"k" * 16)]},
        {"keys": [kms_resolve_pb2.ResolvedKey(kind=1, key=b"k" * 16)] * 65},
    ],
)
def test_an_answer_that_is_no_resolution_is_refused(fields):
    with pytest.raises(MalformedMessage):
        from_wire(kms_resolve_pb2.ResolveTicketResponse(**({"mpki": b"k" * 16} | fields)))


def test_a_mikey_error_travels_in_problem_details():
    def travelled(error):
        problem = to_problem(error)
        return from_problem(RemoteProblem(problem.code, problem.details()))

    for error in (InvalidTicket("V", "wrong MAC"), InvalidIdentity("IDRr", "not yours")):
        back = travelled(error)
        assert (type(back), back.where, back.reason) == (type(error), error.where, error.reason)
    silent = travelled(InvalidTicket("V", "wrong MAC", silent=True))
    assert type(silent) is Unspecified
    other = ProblemError(503, "NF_CONGESTION")
    assert from_problem(RemoteProblem(other.code, other.details())) is None
    strange = common_pb2.ProblemDetails(cause="MIKEY_NO_SUCH_THING")
    assert from_problem(RemoteProblem(grpc.StatusCode.PERMISSION_DENIED, strange)) is None


def test_identities_of_the_other_domain_are_compared_in_their_normal_form():
    assert uri("sip:erin@PARTNER.test").same(ERIN)
