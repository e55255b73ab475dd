"""A proxy between real stacks: forking, best response, CANCEL, Timer C, hooks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from signalling.sip.best_response import Candidate, best_response
from signalling.sip.message import SipRequest
from signalling.sip.proxy import ProxyCore
from signalling.sip.stack import Hop, make_response
from signalling.sip.transaction import State
from tests.sip.support import FAST, Recorder, headers, new_stack, on_the_loop
from tests.sip.test_stack import until


class Forker:
    """caller -> proxy -> one stack per answer."""

    def __init__(self, *answers, on_response=None, timers=FAST, is_loop=None, record_route=()):
        self.users = [Recorder(answer) for answer in answers]
        self.callees = [new_stack(user) for user in self.users]
        self.handler = Recorder(self.forward)
        self.proxy = new_stack(self.handler, timers=timers)
        self.core = ProxyCore(self.proxy, is_loop=is_loop)
        self.caller = new_stack(Recorder())
        self.contexts = []
        self.answers = []
        self.on_response = on_response
        self.record_route = record_route
        self.handler.cancel_received = self.core.cancel
        self.handler.ack_received = lambda ack, flow, txn: self.core.forward_ack(ack, self.hops[0], role="mw")

    async def open(self, transport="TCP"):
        listeners = [await one.listen(transport, "127.0.0.1", 0, role="mw") for one in self.callees]
        self.hops = [Hop(transport, *one.address) for one in listeners]
        listener = await self.proxy.listen(transport, "127.0.0.1", 0, role="mw")
        await self.caller.listen(transport, "127.0.0.1", 0, role="mw")
        self.hop = Hop(transport, *listener.address)
        return self

    def forward(self, txn):
        self.contexts.append(
            self.core.forward(
                txn, None, self.hops, role="mw", on_response=self.on_response, record_route=self.record_route
            )
        )

    def send(self, method="INVITE", extra=(), **kwargs):
        request = SipRequest(method, "sip:bob@ims.test", [*headers(method, **kwargs), *extra])
        return self.caller.send(
            request, self.hop, role="mw", on_response=self.answers.append, on_failure=self.answers.append
        )

    def statuses(self):
        return [one.status for one in self.answers]

    async def close(self):
        for stack in (self.caller, self.proxy, *self.callees):
            await stack.stop()


def say(*statuses, tag=None):
    def answer(txn):
        for status in statuses:
            txn.respond(make_response(txn.request, status, to_tag=tag))

    return answer


@pytest.mark.clause("RFC 3261", "16.6", "16.7")
@on_the_loop
async def test_request_is_counted_down_recorded_and_answered_by_its_via():
    route = "<sip:127.0.0.1;lr>"
    forker = await Forker(say(180, 200), record_route=[route]).open()
    forker.send()
    await until(lambda: forker.statuses() == [100, 180, 200])
    seen = forker.users[0].requests[0].request
    assert seen.headers.get("max-forwards") == "69"
    assert seen.headers.get_all("record-route") == [route]
    assert len(seen.headers.values("via")) == 2
    assert len(forker.answers[-1].headers.values("via")) == 1
    assert (await forker.contexts[0].wait()).status == 200
    await forker.close()


@pytest.mark.clause("RFC 6026", "8.2")
@on_the_loop
async def test_both_2xx_of_a_fork_reach_the_caller():
    forker = await Forker(say(200, tag="one"), say(200, tag="two")).open()
    forker.send()
    await until(lambda: forker.statuses().count(200) >= 2)
    assert {one.to_tag for one in forker.answers if one.status == 200} == {"one", "two"}
    await forker.close()


@pytest.mark.clause("RFC 3261", "16.7")
@on_the_loop
async def test_6xx_cancels_the_other_branches_and_wins():
    ringing = Recorder()
    forker = Forker(say(180), say(603))
    forker.users[0].cancel_received = lambda txn, cancel: (
        ringing.cancels.append(cancel),
        txn.respond(make_response(txn.request, 487)),
    )
    await forker.open()
    forker.send()
    await until(lambda: 603 in forker.statuses())
    assert ringing.cancels
    assert forker.statuses()[-1] == 603
    await forker.close()


@pytest.mark.clause("RFC 3261", "16.7")
@on_the_loop
async def test_503_comes_upstream_as_500():
    forker = await Forker(say(503)).open()
    forker.send()
    await until(lambda: forker.statuses() == [100, 500])
    await forker.close()


@pytest.mark.clause("RFC 3261", "16.10")
@on_the_loop
async def test_cancel_travels_on_with_its_reason_and_487_travels_back():
    forker = Forker(say(180))
    user = forker.users[0]

    def cancelled(txn, cancel):
        user.cancels.append(cancel)
        txn.respond(make_response(txn.request, 487))

    user.cancel_received = cancelled
    await forker.open()
    txn = forker.send()
    await until(lambda: 180 in forker.statuses())
    txn.cancel([("Reason", "SIP;cause=487")])
    await until(lambda: forker.statuses() == [100, 180, 487])
    assert user.cancels[0].headers.get("reason") == "SIP;cause=487"
    await forker.close()


@pytest.mark.clause("RFC 3261", "16.8")
@on_the_loop
async def test_timer_c_without_a_provisional_is_408():
    forker = await Forker(lambda txn: None, timers=replace(FAST, timer_c=0.05)).open()
    for one in forker.callees:
        one.timers = replace(FAST, trying_after=60)
        one._role_timers.clear()
    forker.send()
    await until(lambda: 408 in forker.statuses())
    await forker.close()


@pytest.mark.clause("RFC 4320", "4.2")
@on_the_loop
async def test_timeout_of_another_request_stays_unanswered():
    fast = FAST.scaled(0.002)
    forker = await Forker(lambda txn: None, timers=fast).open()
    forker.send("OPTIONS")
    await until(lambda: forker.contexts)
    assert await forker.contexts[0].wait() is None
    assert [one for one in forker.statuses() if one >= 200] == []
    await forker.close()


@pytest.mark.clause("RFC 3261", "16.3")
@pytest.mark.parametrize(("hops_left", "loop", "status"), [("0", False, 483), ("70", True, 482)])
@on_the_loop
async def test_spent_hops_and_loops_are_refused(hops_left, loop, status):
    forker = await Forker(say(200), is_loop=lambda request: loop).open()
    request = SipRequest("OPTIONS", "sip:bob@ims.test", headers("OPTIONS"))
    request.headers.set("Max-Forwards", hops_left)
    assert (await forker.caller.request(request, forker.hop, role="mw")).status == status
    assert forker.users[0].requests == []
    await forker.close()


@on_the_loop
async def test_hook_sees_the_responses_of_a_branch_in_order_and_may_change_them():
    order = []

    async def slow_first(branch, response):
        order.append(("in", response.status))
        if response.status == 183:
            await asyncio.sleep(0.05)
        order.append(("out", response.status))
        changed = response.copy()
        changed.headers.add("X-Seen", "yes")
        return None if response.status == 180 else changed

    forker = await Forker(say(183, 180, 200), on_response=slow_first).open()
    forker.send()
    await until(lambda: 200 in forker.statuses())
    assert order[:6] == [(way, status) for status in (183, 180, 200) for way in ("in", "out")]
    assert forker.statuses()[:3] == [100, 183, 200]
    assert order.count(("in", 200)) == 1
    assert forker.answers[-1].headers.get("x-seen") == "yes"
    await forker.close()


@pytest.mark.attack("T9")
@pytest.mark.clause("RFC 5393", "5.3.3")
@pytest.mark.parametrize(
    ("asked", "shares"), [(None, [30, 30]), ("7", [4, 3]), ("2", [1, 1]), ("1000", [30, 30]), ("many", [30, 30])]
)
@on_the_loop
async def test_branches_of_a_fork_share_the_breadth_of_their_request(asked, shares):
    forker = await Forker(say(180), say(200)).open()
    forker.send(extra=[("Max-Breadth", asked)] if asked else ())
    await until(lambda: 200 in forker.statuses())
    assert [int(user.requests[0].request.headers.get("max-breadth")) for user in forker.users] == shares
    await forker.close()


@pytest.mark.attack("T9")
@pytest.mark.clause("RFC 5393", "5.3.3", "6.2")
@pytest.mark.parametrize("asked", ["1", "0"])
@on_the_loop
async def test_a_fork_wider_than_its_breadth_is_refused_and_nothing_is_sent(asked):
    forker = await Forker(say(200), say(200)).open()
    forker.send(extra=[("Max-Breadth", asked)])
    await until(lambda: 440 in forker.statuses())
    assert not any(user.requests for user in forker.users)
    await forker.close()


@on_the_loop
async def test_ack_of_a_2xx_is_forwarded_end_to_end():
    forker = await Forker(say(200, tag="b")).open()
    forker.send()
    await until(lambda: 200 in forker.statuses())
    forker.caller.send_ack(SipRequest("ACK", "sip:bob@ims.test", headers("ACK", to_tag="b")), forker.hop, "mw")
    await until(lambda: forker.users[0].acks)
    ack, _, txn = forker.users[0].acks[0]
    assert len(ack.headers.values("via")) == 2
    assert txn is forker.users[0].requests[0]
    assert txn.state is State.ACCEPTED
    await forker.close()


def candidates(*statuses):
    request = SipRequest("INVITE", "sip:bob@ims.test", [("Via", "SIP/2.0/UDP h;branch=z9hG4bK1"), *headers()])
    return request, [Candidate(make_response(request, status), local=False) for status in statuses]


@pytest.mark.clause("RFC 3261", "16.7")
@pytest.mark.parametrize(
    ("statuses", "best"),
    [
        ((404, 486, 503), 404),
        ((404, 407), 407),
        ((500, 302, 404), 302),
        ((404, 600, 302), 600),
        ((503, 504), 504),
        ((503,), 500),
    ],
)
def test_best_response(statuses, best):
    assert best_response(*candidates(*statuses), "p").status == best


def test_challenges_of_all_branches_are_joined():
    request, found = candidates(401, 407)
    found[0].response.headers.add("WWW-Authenticate", 'Digest realm="a"')
    found[1].response.headers.add("Proxy-Authenticate", 'Digest realm="b"')
    joined = best_response(request, found, "p")
    assert joined.headers.get_all("www-authenticate") == ['Digest realm="a"']
    assert joined.headers.get_all("proxy-authenticate") == ['Digest realm="b"']
