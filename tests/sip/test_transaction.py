"""The four transaction machines: each rule once, and random walks over state and event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signalling.sip.message import SipRequest
from signalling.sip.responses import make_response
from signalling.sip.timers import Timer, TimerConfig
from signalling.sip.transaction import (
    Cause,
    Deliver,
    Event,
    Fail,
    InviteClient,
    InviteServer,
    NonInviteClient,
    NonInviteServer,
    Send,
    SetTimer,
    State,
    StopTimer,
    Terminated,
    UnexpectedEvent,
    ack_for_failure,
    cancel_for,
)
from tests.sip.support import headers

CORE = TimerConfig.core()
MACHINES = [InviteClient, NonInviteClient, InviteServer, NonInviteServer]


def request(method="INVITE"):
    extra = [("Route", "<sip:p1@ims.test;lr>"), ("Route", "<sip:p2@ims.test;lr>"), ("Require", "sec-agree")]
    lines = [("Via", "SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKone"), *headers(method, extra=extra)]
    return SipRequest(method, "sip:bob@ims.test", lines)


def machine(kind, *, reliable=False, timers=CORE):
    engine = kind(request("INVITE" if kind in (InviteClient, InviteServer) else "OPTIONS"), timers, reliable=reliable)
    return engine, engine.start()


def response(engine, status):
    return make_response(engine.request, status, to_tag="b1")


def timers_of(effects):
    return {effect.timer: effect.delay for effect in effects if isinstance(effect, SetTimer)}


def kinds(effects):
    return [type(effect) for effect in effects if not isinstance(effect, SetTimer | StopTimer)]


@pytest.mark.clause("RFC 3261", "17.1.1.2")
def test_invite_is_repeated_at_t1_doubling_without_cap():
    engine, effects = machine(InviteClient)
    intervals = [timers_of(effects)[Timer.A]]
    for _ in range(6):
        effects = engine.fire(Timer.A)
        assert kinds(effects) == [Send]
        assert effects[0].again
        intervals.append(timers_of(effects)[Timer.A])
    assert intervals == [0.5, 1, 2, 4, 8, 16, 32]


@pytest.mark.clause("RFC 3261", "17.1.1.2")
def test_invite_times_out_after_64_t1():
    engine, effects = machine(InviteClient)
    assert timers_of(effects)[Timer.B] == 32
    assert engine.fire(Timer.B) == [Fail(Cause.TIMEOUT), Terminated()]


def test_no_retransmission_over_tcp():
    assert Timer.A not in timers_of(machine(InviteClient, reliable=True)[1])
    assert Timer.E not in timers_of(machine(NonInviteClient, reliable=True)[1])


@pytest.mark.clause("RFC 3261", "17.1.1.3")
def test_failure_is_acknowledged_hop_by_hop_and_the_same_ack_again():
    engine, _ = machine(InviteClient)
    effects = engine.receive(response(engine, 486))
    ack = next(effect.message for effect in effects if isinstance(effect, Send))
    assert ack.method == "ACK"
    assert ack.uri == engine.request.uri
    assert ack.headers.get_all("via") == engine.request.headers.get_all("via")
    assert ack.headers.get_all("route") == engine.request.headers.get_all("route")
    assert ack.to_tag == "b1"
    assert ack.cseq == (1, "ACK")
    assert "require" not in ack.headers
    again = engine.receive(response(engine, 486))
    assert again == [Send(ack, again=True)]
    assert timers_of(effects)[Timer.D] == 32


@pytest.mark.clause("RFC 6026", "8.4")
def test_timer_d_is_never_below_32_seconds_and_zero_over_tcp():
    assert TimerConfig(t1=0.1).d == 32
    engine, _ = machine(InviteClient, reliable=True)
    assert kinds(engine.receive(response(engine, 404))) == [Send, Deliver, Terminated]


@pytest.mark.clause("RFC 6026", "7.2")
def test_each_forked_2xx_reaches_the_user_and_none_is_acknowledged_here():
    engine, _ = machine(InviteClient)
    first = engine.receive(make_response(engine.request, 200, to_tag="b1"))
    second = engine.receive(make_response(engine.request, 200, to_tag="b2"))
    assert kinds(first) == kinds(second) == [Deliver]
    assert timers_of(first) == {Timer.M: 32}
    assert engine.fire(Timer.M) == [Terminated()]


@pytest.mark.clause("RFC 3261", "9.1")
def test_cancelled_invite_ends_64_t1_after_the_cancel():
    engine, _ = machine(InviteClient)
    engine.receive(response(engine, 180))
    assert timers_of(engine.abandon()) == {Timer.CANCELLED: 32}
    assert engine.fire(Timer.CANCELLED) == [Fail(Cause.TIMEOUT), Terminated()]


@pytest.mark.clause("RFC 3261", "9.1")
def test_cancel_repeats_the_hop_and_carries_no_require():
    cancel = cancel_for(request())
    assert cancel.method == "CANCEL"
    assert cancel.headers.get_all("via") == request().headers.get_all("via")
    assert cancel.headers.get_all("route") == request().headers.get_all("route")
    assert cancel.cseq == (1, "CANCEL")
    assert "require" not in cancel.headers


@pytest.mark.clause("RFC 3261", "17.1.2.2")
def test_other_requests_double_up_to_t2_and_stay_there_in_proceeding():
    engine, effects = machine(NonInviteClient)
    assert timers_of(effects) == {Timer.E: 0.5, Timer.F: 32}
    assert [timers_of(engine.fire(Timer.E))[Timer.E] for _ in range(4)] == [1, 2, 4, 4]
    fresh, _ = machine(NonInviteClient)
    fresh.receive(response(fresh, 100))
    assert timers_of(fresh.fire(Timer.E)) == {Timer.E: 4}
    assert engine.fire(Timer.F) == [Fail(Cause.TIMEOUT), Terminated()]


def test_timer_k_absorbs_repeated_final_responses():
    engine, _ = machine(NonInviteClient)
    assert timers_of(engine.receive(response(engine, 200))) == {Timer.K: 5}
    assert engine.receive(response(engine, 200)) == []
    assert engine.fire(Timer.K) == [Terminated()]
    tcp, _ = machine(NonInviteClient, reliable=True)
    assert kinds(tcp.receive(response(tcp, 200))) == [Deliver, Terminated]


@pytest.mark.clause("RFC 3261", "17.2.1")
def test_100_is_sent_after_200_ms_and_repeated_for_a_repeated_invite():
    engine, effects = machine(InviteServer)
    assert timers_of(effects) == {Timer.TRYING: 0.2}
    (sent,) = engine.fire(Timer.TRYING)
    assert sent.message.status == 100
    assert sent.message.to_tag is None
    assert engine.request_again() == [Send(sent.message, again=True)]


@pytest.mark.clause("RFC 3261", "17.2.1")
def test_failure_is_repeated_up_to_t2_until_the_ack():
    engine, _ = machine(InviteServer)
    effects = engine.respond(response(engine, 486))
    assert timers_of(effects) == {Timer.G: 0.5, Timer.H: 32}
    assert [timers_of(engine.fire(Timer.G))[Timer.G] for _ in range(4)] == [1, 2, 4, 4]
    effects = engine.acknowledge(ack_for_failure(engine.request, response(engine, 486)))
    assert StopTimer(Timer.G) in effects
    assert StopTimer(Timer.H) in effects
    assert timers_of(effects) == {Timer.I: 5}
    assert engine.request_again() == []
    assert engine.fire(Timer.I) == [Terminated()]


def test_missing_ack_is_reported_after_64_t1():
    engine, _ = machine(InviteServer)
    engine.respond(response(engine, 486))
    assert engine.fire(Timer.H) == [Fail(Cause.NO_ACK), Terminated()]


@pytest.mark.clause("RFC 6026", "7.1")
def test_accepted_server_absorbs_invites_and_passes_acks_and_2xx():
    engine, _ = machine(InviteServer)
    effects = engine.respond(response(engine, 200))
    assert timers_of(effects) == {Timer.L: 32}
    assert engine.request_again() == []
    ack = request("ACK")
    assert engine.acknowledge(ack) == [Deliver(ack)]
    assert kinds(engine.respond(make_response(engine.request, 200, to_tag="b2"))) == [Send]
    with pytest.raises(UnexpectedEvent):
        engine.respond(response(engine, 486))
    assert engine.fire(Timer.L) == [Terminated()]


@pytest.mark.clause("RFC 6026", "7.1")
@pytest.mark.parametrize("status", [None, 180, 200, 486])
def test_transport_error_leaves_an_invite_server_where_it_is(status):
    engine, _ = machine(InviteServer)
    if status is not None:
        engine.respond(response(engine, status))
    before = engine.state
    assert engine.transport_error() == [Fail(Cause.TRANSPORT)]
    assert engine.state is before


@pytest.mark.clause("RFC 4320", "4.1")
def test_100_to_other_requests_is_due_when_timer_e_reached_t2():
    engine, effects = machine(NonInviteServer)
    assert timers_of(effects) == {Timer.TRYING: 3.5}
    assert [effect.message.status for effect in engine.fire(Timer.TRYING)] == [100]


@pytest.mark.clause("RFC 3261", "17.2.2")
def test_other_servers_repeat_the_final_response_for_64_t1():
    engine, _ = machine(NonInviteServer)
    assert engine.request_again() == []
    final = response(engine, 200)
    assert timers_of(engine.respond(final)) == {Timer.J: 32}
    assert engine.request_again() == [Send(final, again=True)]
    assert engine.fire(Timer.J) == [Terminated()]
    tcp, _ = machine(NonInviteServer, reliable=True)
    assert kinds(tcp.respond(response(tcp, 200))) == [Send, Terminated]


def test_ims_access_profile_multiplies_the_timers():
    access = TimerConfig.access()
    assert (access.a, access.b, access.t2, access.i, access.k) == (2, 128, 16, 17, 17)
    assert access.d >= 128
    assert (access.h, access.j, access.l, access.m, access.n) == (128, 128, 128, 128, 128)
    assert CORE.c > 180
    assert CORE.scaled(0.01).b == pytest.approx(0.64)


def message_for(engine, event):
    status = {Event.PROVISIONAL: 180, Event.SUCCESS: 200, Event.FAILURE: 486}.get(event)
    if status is not None:
        return response(engine, status)
    return {Event.ACK: request("ACK"), Event.REQUEST: engine.request}.get(event)


@given(
    kind=st.sampled_from(MACHINES), events=st.lists(st.sampled_from(list(Event)), max_size=25), reliable=st.booleans()
)
def test_any_walk_ends_in_a_known_state_and_an_unknown_pair_changes_nothing(kind, events, reliable):
    engine, _ = machine(kind, reliable=reliable)
    for event in events:
        before = engine.state
        known = (before, event) in kind.table
        if known:
            effects = engine.handle(event, message_for(engine, event))
            assert (Terminated() in effects) == (engine.state is State.TERMINATED)
        else:
            with pytest.raises(UnexpectedEvent):
                engine.handle(event, message_for(engine, event))
            assert engine.state is before
        if before is State.TERMINATED:
            assert not known


@pytest.mark.parametrize("kind", MACHINES)
def test_every_state_of_a_table_but_the_last_has_a_way_out(kind):
    states = {state for state, _ in kind.table}
    assert State.TERMINATED not in states
    for state in states:
        assert any(rule.next is not state for (at, _), rule in kind.table.items() if at is state) or state in (
            State.COMPLETED,
            State.CONFIRMED,
            State.ACCEPTED,
        )
