"""One UE takes the gateways: sessions, streams and m-lines of one user are bounded (T7), and no inner word gets out."""

from __future__ import annotations

import grpc
import pytest

from nodes.pcscf.media_plan import Refusal, Side
from nodes.pcscf.rejection import media_rejection
from nodes.pcscf.session_edge import MAX_DIALOGS
from sba.errors import ProblemError
from sba.testing import async_test
from signalling.sip.stack import make_response
from tests.pcscf.edge import HOST, EdgeFixture, Exchange, Ue, audio, edge
from tests.pcscf.test_sessions import call_out, eventually

pytestmark = pytest.mark.attack("T7")

LINE = "m=audio 40002 RTP/AVP 8\r\n"


def lines(count: int) -> bytes:
    return audio(40000, extra=LINE * (count - 1))


def dial(ue: Ue, number: int, body: bytes | None = None, to: str = "sip:bob@ims.test") -> Exchange:
    return ue.send(ue.invite(to, audio(40000) if body is None else body, call_id=f"{ue.name}-{number}"), ue.hop)


def streams_reserved(it: EdgeFixture) -> int:
    return sum(len(info.streams) for request in it.iq.requests("Reserve") for info in request.terminations)


@async_test
async def test_an_offer_of_very_many_lines_is_refused_and_reserves_nothing(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        for count in (9, 121):
            answer = await dial(alice, count, lines(count)).final()
            assert answer.status == 488
            assert "more than 8 media lines" in answer.headers.get("Warning")
        assert streams_reserved(it) == 0
        dial(alice, 1, lines(8))
        await it.core.next("INVITE")
        assert streams_reserved(it) == 16


@async_test
async def test_very_many_lines_from_the_core_are_refused_too(tmp_path):
    async with edge(tmp_path) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        answer = await it.core.send(it.call_to(bob, lines(9)), it.mw_hop()).final()
        assert answer.status == 488
        assert bob.requests.empty()


@async_test
async def test_calls_beyond_the_limit_of_one_user_are_refused_even_when_they_come_at_once(tmp_path):
    async with edge(tmp_path, max_sessions=2) as it:
        alice, carol = await it.ue("alice"), await it.ue("carol")
        await alice.sign_on()
        await carol.sign_on()
        attempts = [dial(alice, number) for number in range(6)]
        invites = [await it.core.next("INVITE") for _ in range(2)]
        statuses = []
        for attempt in attempts:
            if attempt.txn.request.call_id not in {invite.request.call_id for invite in invites}:
                refused = await attempt.final()
                assert "too many sessions" in refused.headers.get("Warning")
                statuses.append(refused.status)
        assert statuses == [403] * 4
        assert len(it.iq.contexts) == 2
        dial(carol, 1)  # somebody else does not notice
        (await it.core.next("INVITE")).respond(make_response(invites[0].request, 486))
        invites[0].respond(make_response(invites[0].request, 486))
        await eventually(lambda: len(it.node.edge.sessions.of_owner("alice@ims.test", Side.ACCESS)) == 1)
        dial(alice, 7)
        await it.core.next("INVITE")


@async_test
async def test_an_ended_call_counts_no_more(tmp_path):
    async with edge(tmp_path, max_sessions=1) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        call = await call_out(it, alice)
        assert (await dial(alice, 2).final()).status == 403
        attempt = alice.send(call.near.request("BYE"), alice.hop)
        bye = await it.core.next("BYE")
        bye.respond(make_response(bye.request, 200))
        assert (await attempt.final()).status == 200
        await eventually(lambda: not it.iq.contexts and not len(it.node.edge.sessions))
        dial(alice, 3)
        await it.core.next("INVITE")


@async_test
async def test_another_registration_of_the_same_user_has_no_limit_of_its_own(tmp_path):
    async with edge(tmp_path, max_sessions=1) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        twin = Ue("alice", it)
        twin.call_id = "reg-twin@ue"
        it.parties.append(twin)
        await twin.open()
        await twin.sign_on()
        dial(alice, 1)
        await it.core.next("INVITE")
        twin.name = "twin"
        assert (await dial(twin, 2).final()).status == 403


@async_test
async def test_calls_survive_a_restart_and_are_still_counted(tmp_path):
    async with edge(tmp_path, max_sessions=1) as it:
        alice = await it.ue("alice", "UDP")
        await alice.sign_on(client=None)
        await call_out(it, alice, audio(40000))
        await it.node.edge.sessions._table.flush()
        await it.restart()
        assert len(it.node.edge.sessions.of_owner("alice@ims.test", Side.ACCESS)) == 1


@async_test
async def test_a_callee_with_its_calls_full_is_busy(tmp_path):
    async with edge(tmp_path, max_sessions=1) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        it.core.send(it.call_to(bob, audio(50000)), it.mw_hop())
        await bob.next("INVITE")
        second = await it.core.send(it.call_to(bob, audio(50000), call_id="second@core"), it.mw_hop()).final()
        assert second.status == 486


@async_test
async def test_nobody_keeps_a_user_from_calling_by_calling_him(tmp_path):
    async with edge(tmp_path, max_sessions=2) as it:
        bob = await it.ue("bob")
        await bob.sign_on()
        for number in range(2):
            it.core.send(it.call_to(bob, audio(50000), call_id=f"ring-{number}"), it.mw_hop())
            await bob.next("INVITE")
        dial(bob, 1, to="sip:alice@ims.test")
        assert (await it.core.next("INVITE")).request.call_id == "bob-1"


@async_test
async def test_one_caller_alone_does_not_keep_others_from_calling_a_user(tmp_path):
    async with edge(tmp_path, max_unanswered_per_caller=2) as it:
        bob = await it.ue("bob")
        await bob.sign_on()

        def ring(number, caller):
            request = it.call_to(bob, audio(50000), call_id=f"ring-{number}")
            request.headers.set("P-Asserted-Identity", f"<sip:{caller}@ims.test>")
            return it.core.send(request, it.mw_hop())

        for number in range(2):
            ring(number, "mallory")
            await bob.next("INVITE")
        refused = await ring(2, "mallory").final()
        assert refused.status == 486
        assert "unanswered" in refused.headers.get("Warning")
        ring(3, "alice")
        assert (await bob.next("INVITE")).request.call_id == "ring-3"


@async_test
async def test_a_callee_that_makes_up_forks_gets_a_few_dialogs_and_no_more(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        attempt = dial(alice, 1)
        invite = await it.core.next("INVITE")
        for number in range(100):
            contact = [("Contact", "<sip:bob@127.0.0.1:5062>")]
            invite.respond(make_response(invite.request, 180, headers=contact, to_tag=f"fork{number}"))
        invite.respond(make_response(invite.request, 486))
        rings = []
        while (response := await attempt.next()).status < 200:
            rings.append(response.to_tag)
        assert response.status == 486
        assert rings == [f"fork{number}" for number in range(MAX_DIALOGS)]


@async_test
async def test_the_limit_of_the_subscribers_profile_holds(tmp_path):
    async with edge(tmp_path) as it:
        it.max_sessions = 1
        alice = await it.ue("alice")
        final = await alice.sign_on()
        assert final.headers.get("P-Imslab-Max-Sessions") is None
        dial(alice, 1)
        await it.core.next("INVITE")
        assert (await dial(alice, 2).final()).status == 403


@async_test
async def test_streams_beyond_the_limit_of_one_user_are_refused(tmp_path):
    async with edge(tmp_path, max_streams=5) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        for number in (1, 2):
            dial(alice, number, lines(2))
            await it.core.next("INVITE")
        refused = await dial(alice, 3, lines(2)).final()
        assert refused.status == 488
        assert "too many streams" in refused.headers.get("Warning")
        dial(alice, 4, lines(1))
        await it.core.next("INVITE")
        assert streams_reserved(it) == 2 * 5


@async_test
async def test_streams_added_to_a_call_count_as_well(tmp_path):
    async with edge(tmp_path, max_streams=2) as it:
        alice = await it.ue("alice")
        await alice.sign_on(client=None)
        call = await call_out(it, alice, lines(1))
        for count, status in ((3, 488), (2, None)):
            request = call.near.request("INVITE", [("Contact", alice.contact)], lines(count))
            request.headers.set("Content-Type", "application/sdp")
            attempt = alice.send(request, alice.hop)
            if status is None:
                await it.core.next("INVITE")
            else:
                assert (await attempt.final()).status == status


@async_test
async def test_emergency_calls_of_a_stranger_are_bounded_and_a_users_calls_are_not_touched(tmp_path):
    async with edge(tmp_path, max_emergency_calls=2) as it:
        alice, stranger = await it.ue("alice"), await it.ue("mallory", "UDP")
        await alice.sign_on()
        for number in range(2):
            dial(stranger, number, to="urn:service:sos")
            await it.core.next("INVITE")
        refused = await dial(stranger, 3, to="urn:service:sos").final()
        assert refused.status == 503
        assert refused.headers.get("Retry-After")
        assert len(it.iq.contexts) == 2
        dial(alice, 1, to="urn:service:sos")
        await it.core.next("INVITE")


@async_test
async def test_the_gateways_fault_is_not_told_in_its_own_words(tmp_path):
    async with edge(tmp_path) as it:
        alice = await it.ue("alice")
        await alice.sign_on()
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        it.iq.fail["Reserve"] = ProblemError(504, "INNER_CAUSE", "agw-a.sbi at 127.9.9.9 is slow", code=code)
        answer = await dial(alice, 1).final()
        assert (answer.status, answer.reason) == (504, "Server Time-out")
        assert b"DEADLINE" not in answer.to_bytes()
        assert b"INNER" not in answer.to_bytes()


@pytest.mark.parametrize("status", [400, 403, 488, 500, 503, 504, 580, 699])
def test_no_refusal_puts_inner_text_on_the_wire(status):
    told = media_rejection(Refusal(status, text="Iq: DEADLINE_EXCEEDED"), HOST)
    assert "Iq" not in told.reason
    assert not any("Iq" in value for _, value in told.headers)
