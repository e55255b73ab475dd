import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.ue.registration import TRANSITIONS, Event, Registration, RegistrationError, State, next_state, refresh_delay
from signalling.secagree import announce, parse_security_header


@pytest.mark.clause("TS 24.229", "RR-1")
@pytest.mark.parametrize(("granted", "delay"), [(120, 60), (1200, 600), (1800, 1200), (600_000, 599_400), (2, 1)])
def test_the_time_of_re_registration(granted, delay):
    assert refresh_delay(granted) == delay


@pytest.mark.clause("TS 24.229", "3.13")
@given(st.sampled_from(State), st.sampled_from(Event))
def test_every_pair_is_in_the_table_or_an_error(state, event):
    if event is Event.LOST and state in {State.IDLE, State.FAILED}:
        assert next_state(state, event) is state
    elif (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(RegistrationError):
            next_state(state, event)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_a_refused_event_leaves_the_state(events):
    registration = Registration()
    for event in events:
        before = registration.state
        try:
            registration.apply(event)
        except RegistrationError:
            assert registration.state is before


@pytest.mark.clause("TS 24.229", "REG-1")
def test_only_one_procedure_at_a_time():
    registration = Registration()
    registration.apply(Event.START)
    with pytest.raises(RegistrationError):
        registration.apply(Event.START)


@pytest.mark.clause("TS 33.328", "7.1.1-6", "7.1.1-8")
def test_verify_repeats_the_list_unchanged_and_dies_with_the_binding():
    registration = Registration()
    registration.client_list = announce(["sdes-srtp"])
    registration.server_list = parse_security_header("msrp-tls;mediasec, sdes-srtp;mediasec")
    assert registration.verify_entries() == registration.server_list
    assert registration.agreed == ("sdes-srtp",)
    registration.clear()
    assert registration.verify_entries() == ()
    assert registration.agreed == ()


@pytest.mark.attack("T1")
@pytest.mark.parametrize(("how", "count"), [("omit", 0), ("drop", 1), ("reorder", 2), ("alter", 2)])
def test_the_switches_that_tamper_with_verify_change_it(how, count):
    registration = Registration(verify_tampering=how)
    registration.server_list = parse_security_header("sdes-srtp;mediasec, msrp-tls;mediasec")
    assert len(registration.verify_entries()) == count
    assert registration.verify_entries() != registration.server_list
