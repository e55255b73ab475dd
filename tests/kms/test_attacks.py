"""Every octet of the messages that reach a KMS, changed or cut off: no ticket, no keys, no fault (T5)."""

import asyncio
import time

import pytest

from keying.mikey.codec import decode
from keying.mikey.payloads import TicketPayload
from keying.mikey.registry import DataType
from nodes.httpmessage import HttpRequest
from sba.testing import LabFixture, async_test
from tests.kms.home import MIKEY, TARGETS, Home, sent
from tests.kms.parties import BOB


async def ask(home, operation, octets, number=0):
    """The endpoint's answer to a body, without the way through TLS."""
    request = HttpRequest("POST", TARGETS[operation], MIKEY, bytes(octets), (f"127.0.0.{number % 200 + 1}", 1))
    return await home.kms._endpoint.handle(request)


def spoilt(message, step=1):
    """Each octet with one bit flipped, and every prefix."""
    for place in range(0, len(message), step):
        copy = bytearray(message)
        copy[place] ^= 1 << (place % 8)
        yield bytes(copy)
        yield message[:place]


async def hold_firm(home, operation, messages):
    """Nothing but refusals comes back, each with a reason and without a key."""
    for number, octets in enumerate(messages):
        response = await ask(home, operation, octets, number)
        assert response.status in (400, 401, 403), (number, response.status)
        if response.content_type == "application/mikey" and response.body[:1] == b"\x01":
            assert decode(response.body).header.data_type is DataType.ERROR


SETTINGS = {"user_rate": {"per_second": 1e6, "burst": 1_000_000}, "address_rate": {"per_second": 1e6, "burst": 100_000}}


@pytest.mark.attack("T5")
@pytest.mark.clause("RFC 6043", "4.2.1.4")
@async_test
async def test_each_octet_of_a_request_is_covered(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(**SETTINGS)
        alice = home.ue("alice")
        message = alice.request(BOB).message
        await hold_firm(home, "request", spoilt(message))
        assert (await ask(home, "request", message)).status == 200
        assert [entry.outcome for entry in await home.kms._kms_store.audit()] == ["granted"]


@pytest.mark.attack("T5")
@pytest.mark.clause("RFC 6043", "4.2.3.4")
@async_test
async def test_each_octet_of_a_resolve_is_covered(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(**SETTINGS)
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        message = bob.resolution(sent(ticket)).message
        await hold_firm(home, "resolve", spoilt(message))
        assert (await ask(home, "resolve", message)).status == 200


@pytest.mark.attack("T5")
@pytest.mark.clause("RFC 6043", "6.10", "A.1")
@async_test
async def test_each_octet_of_a_ticket_is_covered_under_a_good_mac_of_the_responder(tmp_path):
    """The responder is hostile: the message's MAC is right, the ticket in it is not."""
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(**SETTINGS)
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        good = sent(ticket)
        kinds = ("ticket_data", "initiator_data")
        for kind in kinds:
            for octets in spoilt(getattr(good, kind)):
                fields = {"policy": good.policy} | {name: getattr(good, name) for name in kinds} | {kind: octets}
                response = await ask(home, "resolve", bob.resolution(TicketPayload(**fields)).message)
                assert response.status in (400, 403), (kind, octets.hex())
        assert (await ask(home, "resolve", bob.resolution(good).message)).status == 200


@pytest.mark.attack("T5")
@pytest.mark.clause("TS 33.328", "6.2.3.5-1")
@async_test
async def test_a_message_for_the_one_operation_is_not_taken_for_the_other(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        for operation, message in (
            ("resolve", alice.request(BOB).message),
            ("request", bob.resolution(sent(ticket)).message),
        ):
            response = await ask(home, operation, message)
            assert response.status == 400
            assert decode(response.body).header.data_type is DataType.ERROR


@pytest.mark.attack("T5")
@async_test
async def test_a_ticket_after_its_end_or_before_its_start_opens_nothing(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob = home.ue("alice"), home.ue("bob")
        now = [time.time()]
        home.kms._exchanges._now = lambda: now[0]
        brief = await alice.ticket(BOB, validity_s=20, reusable=True)
        early = await alice.ticket(BOB, not_before=time.time() + 60, validity_s=100)
        assert (await ask(home, "resolve", bob.resolution(sent(brief)).message)).status == 200
        assert (await ask(home, "resolve", bob.resolution(sent(early)).message)).status == 403
        now[0] += 21
        late = bob.resolution(sent(brief), at=now[0])
        assert (await ask(home, "resolve", late.message)).status == 403


@pytest.mark.attack("T5")
@async_test
async def test_the_same_message_many_times_at_once_is_answered_once(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice = home.ue("alice")
        message = alice.request(BOB).message
        answers = await asyncio.gather(*(ask(home, "request", message) for _ in range(30)))
        assert sorted(answer.status for answer in answers) == [200] + [400] * 29
        assert len(home.bsf.asked) == 1
