"""Reading a REGISTER and updating bindings, as pure functions."""

import contextlib
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.cscf.config import CscfSettings
from nodes.cscf.register_answer import registered_headers
from nodes.cscf.register_request import read_register
from nodes.cscf.registrar import ContactEvent, apply_register, contact_value, expire
from nodes.cscf.registration import Identity, Profile, Registration
from nodes.cscf.rejection import RejectionError
from signalling.sip.message import SipRequest

SETTINGS = CscfSettings.model_validate({"mw": {"host": "127.0.0.1"}})
NOW = 1000.0


def register(*contacts, expires=None, call_id="c1", cseq=1, extra=(), uri="sip:ims.test", settings=SETTINGS):
    headers = [("To", "<sip:alice@ims.test>"), ("From", "<sip:alice@ims.test>;tag=1"), ("Call-ID", call_id)]
    headers += [("CSeq", f"{cseq} REGISTER"), *(("Contact", contact) for contact in contacts)]
    if expires is not None:
        headers.append(("Expires", str(expires)))
    return read_register(SipRequest("REGISTER", uri, [*headers, *extra]), ["ims.test"], settings)


def apply(bindings, request, now=NOW, limit=10):
    counter = itertools.count(len(bindings))
    return apply_register(bindings, request, now, limit, lambda: f"id{next(counter)}")


def refused(*contacts, **options):
    with pytest.raises(RejectionError) as error:
        register(*contacts, **options)
    return error.value.status


@pytest.mark.clause("RFC 3261", "10.3-7")
@pytest.mark.parametrize(
    ("contact", "header", "granted"),
    [
        ("<sip:a@192.0.2.1>", None, 3600),
        ("<sip:a@192.0.2.1>", 120, 120),
        ("<sip:a@192.0.2.1>;expires=90", 120, 90),
        ("<sip:a@192.0.2.1>;expires=junk", 120, 3600),
        ("<sip:a@192.0.2.1>", 4000000000, 600000),
        ("sip:a@192.0.2.1;expires=61", None, 61),
    ],
)
def test_the_interval_asked_for_and_granted(contact, header, granted):
    assert register(contact, expires=header).contacts[0].expires == granted


@pytest.mark.clause("RFC 3261", "10.3-7", "E-14")
def test_too_brief_is_423_unless_zero_or_an_hour():
    for seconds, status in ((59, 423), (1, 423)):
        assert refused("<sip:a@192.0.2.1>", expires=seconds) == status
    assert register("<sip:a@192.0.2.1>", expires=0).deregisters
    long = CscfSettings.model_validate({"mw": {"host": "h"}, "min_expires": 3599})
    assert register("<sip:a@192.0.2.1>", expires=3600, settings=long).contacts[0].expires == 3600


@pytest.mark.clause("RFC 3261", "10.3-6", "DR-1")
def test_forms_of_contact_that_are_refused():
    assert refused("*", expires=10) == 400
    assert refused("*") == 400
    assert refused("*", "<sip:a@192.0.2.1>", expires=0) == 400
    assert refused("<mailto:a@b>") == 400
    assert refused("<sip:a@b", expires=60) == 400
    assert refused(extra=[("Authorization", 'Digest username="a"')]) == 400
    assert refused(extra=[("Path", "<sip:p;lr>")] * 11) == 400
    assert refused(uri="sip:elsewhere.test") == 404
    assert refused(uri="tel:+1") == 416
    assert register("*", expires=0).wildcard


@pytest.mark.clause("TS 24.229", "SC-2")
def test_the_private_identity_comes_from_authorization_or_to():
    header = 'Digest username="x@ims.test",realm="{}",uri="sip:ims.test",nonce="",response=""'
    assert register(extra=[("Authorization", header.format("ims.test"))]).impi == "x@ims.test"
    assert register(extra=[("Authorization", header.format("other.test"))]).impi == "alice@ims.test"
    assert register(extra=[("Authorization", "Basic abc")]).impi == "alice@ims.test"
    both = [("Authorization", header.format("ims.test"))] * 2
    assert refused(extra=both) == 400


@pytest.mark.clause("RFC 5626", "6", "E-15")
def test_outbound_rules():
    contact = '<sip:a@192.0.2.1>;reg-id=1;+sip.instance="<urn:uuid:1>"'
    supported = [("Supported", "path, outbound")]
    assert refused(contact, extra=supported) == 439
    assert refused(contact, extra=[*supported, ("Path", "<sip:p;lr>")]) == 439
    assert register(contact).contacts[0].reg_id is None
    ob = [*supported, ("Path", "<sip:p2;lr>, <sip:p1;lr;ob>")]
    assert register(contact, extra=ob).outbound
    assert refused(contact, "<sip:b@192.0.2.1>", extra=ob) == 400
    no_instance = register("<sip:a@192.0.2.1>;reg-id=1", extra=ob)
    assert (no_instance.contacts[0].reg_id, no_instance.outbound) == (None, False)


@pytest.mark.clause("RFC 3261", "10.3-7")
def test_bindings_are_added_refreshed_and_removed():
    change = apply((), register("<sip:a@192.0.2.1>;x=1", "<sip:b@192.0.2.1>;q=0.5", expires=100))
    assert [event for _, event in change.events] == [ContactEvent.REGISTERED] * 2
    again = apply(change.bindings, register("<sip:a@192.0.2.1:5060>", expires=100, cseq=2))
    assert len(again.bindings) == 3
    refreshed = apply(change.bindings, register("<sip:a@192.0.2.1>", expires=500, cseq=2), now=1050.0)
    bound = next(binding for binding in refreshed.bindings if "a@" in binding.contact)
    assert (bound.expires_at, bound.registered_at, bound.contact_id) == (1550.0, 1000.0, "id0")
    gone = apply(change.bindings, register("<sip:a@192.0.2.1>", expires=0, cseq=2))
    assert [binding.contact for binding in gone.bindings] == ["sip:b@192.0.2.1"]
    assert apply(change.bindings, register("*", expires=0, cseq=2)).bindings == ()


@pytest.mark.clause("RFC 3261", "10.3-6", "10.3-7", "E-18")
@pytest.mark.parametrize(
    ("contacts", "expires", "cseq", "call_id", "status"),
    [
        (["<sip:a@192.0.2.1>"], 100, 1, "c1", 500),
        (["<sip:a@192.0.2.1>"], 0, 1, "c1", 500),
        (["*"], 0, 1, "c1", 500),
        (["<sip:z@192.0.2.1>"], 0, 2, "c1", 481),
        (["<sip:n@192.0.2.1>", "<sip:a@192.0.2.1>"], 100, 1, "c1", 500),
    ],
)
def test_all_or_nothing(contacts, expires, cseq, call_id, status):
    start = apply((), register("<sip:a@192.0.2.1>", expires=100)).bindings
    with pytest.raises(RejectionError) as error:
        apply(start, register(*contacts, expires=expires, cseq=cseq, call_id=call_id))
    assert error.value.status == status
    assert apply(start, register(*contacts[-1:], expires=100 if contacts[-1] != "*" else 0, cseq=1, call_id="c2"))


def test_a_star_without_bindings_and_too_many_contacts():
    with pytest.raises(RejectionError) as error:
        apply((), register("*", expires=0))
    assert error.value.status == 481
    with pytest.raises(RejectionError) as error:
        apply((), register(*(f"<sip:{n}@192.0.2.1>" for n in range(3))), limit=2)
    assert error.value.status == 403


@pytest.mark.clause("RFC 5626", "6")
def test_flows_of_one_instance_live_side_by_side_and_a_plain_one_moves():
    ob = [("Supported", "outbound"), ("Path", "<sip:p;lr;ob>")]
    first = register('<sip:a@192.0.2.1>;reg-id=1;+sip.instance="<urn:uuid:1>"', extra=ob)
    second = register('<sip:a@192.0.2.2>;reg-id=2;+sip.instance="<urn:uuid:1>"', extra=ob, cseq=2)
    both = apply(apply((), first).bindings, second)
    assert len(both.bindings) == 2
    moved = register('<sip:a@192.0.2.9>;reg-id=1;+sip.instance="<urn:uuid:1>"', extra=ob, cseq=3)
    assert sorted(b.contact for b in apply(both.bindings, moved).bindings) == ["sip:a@192.0.2.2", "sip:a@192.0.2.9"]
    plain = apply((), register('<sip:a@192.0.2.1>;+sip.instance="<urn:uuid:1>"'))
    change = apply(plain.bindings, register('<sip:a@192.0.2.5>;+sip.instance="<urn:uuid:1>"', call_id="c2"))
    assert [binding.contact for binding in change.bindings] == ["sip:a@192.0.2.5"]
    assert change.events[-1][1] is ContactEvent.DEACTIVATED


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 60, 100]), st.integers(1, 20)), max_size=12))
def test_whatever_comes_bindings_stay_distinct_and_in_time(steps):
    bindings = ()
    for cseq, (contact, expires, later) in enumerate(steps, 1):
        now = NOW + later * cseq
        with contextlib.suppress(RejectionError):
            bindings = apply(bindings, register(f"<sip:{contact}@192.0.2.1>", expires=expires, cseq=cseq), now).bindings
        contacts = [binding.contact for binding in bindings]
        assert len(contacts) == len(set(contacts))
        live = expire(bindings, now + 100)
        assert all(binding.expires_at > now + 100 for binding in live.bindings)


@pytest.mark.clause("RFC 3327", "5.3")
@pytest.mark.clause("RFC 3608", "6.1")
@pytest.mark.clause("RFC 7315", "4.1.2")
def test_the_answer_lists_what_stands():
    request = register(
        '<sip:a@192.0.2.1>;+g.3gpp.icsi-ref="x"', expires=100, extra=[("Path", "<sip:p2;lr>, <sip:p1;lr>")]
    )
    identities = (Identity("sip:hidden@ims.test", barred=True), Identity("sip:alice@ims.test"), Identity("tel:+1"))
    registration = Registration(Profile("i", identities), "orig-1", "aka", apply((), request).bindings)
    headers = registered_headers(request, registration, "sip:orig-1@s;lr", NOW)
    assert [value for name, value in headers if name == "Path"] == ["<sip:p2;lr>", "<sip:p1;lr>"]
    assert dict(headers)["P-Associated-URI"] == "<sip:alice@ims.test>, <tel:+1>"
    assert dict(headers)["Contact"] == '<sip:a@192.0.2.1>;+g.3gpp.icsi-ref="x";expires=100'
    empty = dict(registered_headers(request, registration.with_bindings(()), "sip:s", NOW))
    assert "Service-Route" not in empty
    assert "Contact" not in empty


def test_a_registration_survives_its_record():
    request = register('<sip:a@192.0.2.1>;x;y="z"', expires=100, extra=[("Path", "<sip:p;lr>")])
    registration = Registration(
        Profile("i", (Identity("sip:alice@ims.test"),)), "t", "aka", apply((), request).bindings
    )
    assert Registration.from_record(registration.to_record()) == registration
    [binding] = registration.bindings
    assert contact_value(replace(binding, expires_at=NOW - 5), NOW).endswith("expires=0")


@pytest.mark.parametrize(("limit", "told"), [(0, []), (3, ["3"])])
def test_the_limit_of_sessions_in_the_profile_is_told(limit, told):
    request = register("<sip:a@192.0.2.1>", expires=100)
    profile = Profile("i", (Identity("sip:alice@ims.test"),), max_sessions=limit)
    registration = Registration(profile, "t", "aka", apply((), request).bindings)
    headers = registered_headers(request, registration, "sip:orig@cscf", NOW)
    assert [value for name, value in headers if name == "P-Imslab-Max-Sessions"] == told
