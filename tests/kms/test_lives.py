"""A KMS process that is killed at any moment, and what the next life knows (T9)."""

import asyncio
import sys

import pytest

from keying.mikey.resolve import Resolution
from nodes.httpmessage import HttpError
from protos import kms_control_pb2
from sba.errors import RemoteProblem
from sba.testing import LabFixture, NodeProcess, async_test
from tests.kms.home import Home, sent
from tests.kms.parties import BOB, ERIN
from tests.postgresql import shared_server

ROTATE = kms_control_pb2.DESCRIPTOR.services_by_name["NkmsControl"].methods_by_name["RotateTicketKey"]


async def spawn_crashing(home, point, **settings):
    """Start the KMS so that it ends at a point of its work."""
    lab = home.lab
    lab.add("kms", home.kms_name, home.settings(**settings), nf_types=("KMS",))
    arguments = ("-m", "tests.kms.crashing", point, home.kms_name, str(lab.path))
    process = NodeProcess(
        await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.PIPE)
    )
    lab.processes.append(process)
    await lab.wait_serving(home.kms_name)
    return process


async def ends(process):
    async with asyncio.timeout(20):
        assert await process.process.wait() == -9


@pytest.mark.clause("RFC 6043", "12.4")
@pytest.mark.clause("RFC 3830", "5.4")
@pytest.mark.attack("T5", "T9")
@pytest.mark.parametrize("point", ["before-seen", "after-seen", "before-audit", "after-audit"])
@async_test
async def test_killed_while_it_answers_a_request_the_kms_serves_new_ones_at_once_and_no_replay(tmp_path, point):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        process = await home.spawn()
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        old = alice.request(BOB)
        assert (await alice.post("request", old.message)).status == 200
        await process.kill()
        crashing = await spawn_crashing(home, point)
        exchange = alice.request(BOB)
        with pytest.raises(HttpError):
            await alice.post("request", exchange.message)
        await ends(crashing)
        await home.spawn()
        assert (await alice.post("request", old.message)).status == 400
        again = await alice.post("request", exchange.message)
        assert again.status == (200 if point == "before-seen" else 400)
        assert (await alice.post("request", exchange.message)).status == 400
        assert (await alice.ticket(BOB)).payload
        assert (await bob.resolve(sent(ticket))).mpki.key == ticket.mpki.key


@pytest.mark.attack("T5", "T9")
@pytest.mark.parametrize("point", ["before-use", "after-use"])
@async_test
async def test_killed_while_it_resolves_a_single_use_ticket_stays_for_one_call(tmp_path, point):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        process = await home.spawn()
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        await process.kill()
        crashing = await spawn_crashing(home, point)
        with pytest.raises(HttpError):
            await bob.resolve(sent(ticket))
        await ends(crashing)
        await home.spawn()
        first = await bob.resolve(sent(ticket))
        assert first.mpki.key == ticket.mpki.key
        assert (await bob.resolve(sent(ticket, b"\x01" * 20))).status == 403
        assert (await bob.resolve(sent(ticket))).rand_kms == first.rand_kms


@pytest.mark.attack("T9")
@pytest.mark.parametrize("point", ["before-rotation", "after-rotation"])
@async_test
async def test_killed_while_it_turns_the_ticket_key_every_ticket_still_opens(tmp_path, point):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        process = await home.spawn()
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        await process.kill()
        crashing = await spawn_crashing(home, point)
        operator = await lab.client("LAB")
        with pytest.raises(RemoteProblem):
            await operator.call(ROTATE, kms_control_pb2.RotateRequest())
        await ends(crashing)
        await home.spawn()
        later = await alice.ticket(BOB)
        for held in (ticket, later):
            assert (await bob.resolve(sent(held))).mpki.key == held.mpki.key


@pytest.mark.attack("T9")
@async_test
async def test_killed_while_it_waits_for_the_bsf_the_same_request_is_good_in_the_next_life(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        process = await home.spawn(bsf_timeout_s=10.0)
        alice = home.ue("alice")
        home.bsf.hold = asyncio.Event()
        exchange = alice.request(BOB)
        waiting = asyncio.ensure_future(alice.post("request", exchange.message))
        async with asyncio.timeout(10):
            await home.bsf.reached.wait()
        await process.kill()
        with pytest.raises(HttpError):
            await waiting
        home.bsf.hold.set()
        home.bsf.hold = None
        await home.spawn()
        assert (await alice.post("request", exchange.message)).status == 200


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T9")
@async_test
async def test_killed_while_another_kms_waits_for_it_the_responder_is_told_and_can_ask_again(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        process = await home.spawn()
        partner = await Home(lab, "partner.test", "-p").start(peer_timeout_s=3.0)
        alice, erin = home.ue("alice"), partner.ue("erin")
        ticket = await alice.ticket(ERIN)
        await process.kill()
        crashing = await spawn_crashing(home, "before-audit")
        response = await erin.resolve(sent(ticket))
        assert response.status in (503, 504)
        await ends(crashing)
        await home.spawn()
        async with asyncio.timeout(30):
            found = await erin.resolve(sent(ticket))
            while not isinstance(found, Resolution):  # until the channel to the new process stands
                found = await erin.resolve(sent(ticket))
        assert found.mpki.key == ticket.mpki.key


@async_test
async def test_asked_to_stop_it_ends_what_it_began_and_says_so(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        process = await home.spawn()
        alice = home.ue("alice")
        home.bsf.hold = asyncio.Event()
        waiting = asyncio.ensure_future(alice.ticket(BOB))
        async with asyncio.timeout(10):
            await home.bsf.reached.wait()
        stopping = asyncio.ensure_future(process.terminate())
        home.bsf.hold.set()
        assert (await waiting).payload
        assert await stopping == 0
        events = [line["event"] for line in process.log]
        assert "kms-granted" in events
        assert events[-1] == "node-stopped"


@pytest.mark.attack("T5", "T9")
@pytest.mark.peer("pg_ctlcluster")
@async_test
async def test_a_kms_on_postgresql_returns_with_its_tickets_and_takes_no_replay(tmp_path):
    lab = LabFixture(tmp_path)
    names = ("nrf", "bsf", "kms", "client-lab")
    lab.document |= await shared_server().database(tmp_path, {name: [name] for name in names})
    lab.write()
    async with lab:
        home = Home(lab)
        process = await home.spawn()
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        old = alice.request(BOB)
        assert (await alice.post("request", old.message)).status == 200
        answers = await asyncio.gather(*(alice.ticket(BOB) for _ in range(20)))
        assert len({answer.payload.ticket_data for answer in answers}) == 20
        await process.kill()
        await home.spawn()
        assert (await alice.post("request", old.message)).status == 400
        assert (await bob.resolve(sent(ticket))).mpki.key == ticket.mpki.key
        assert (await alice.ticket(BOB)).payload
