"""Routing decisions, filter criteria, identities and charging as pure functions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from nodes.cscf.charging import HEADER, parse_charging_vector, stamp_request, stamp_response
from nodes.cscf.filter_criteria import (
    FilterCriterion,
    ServerHop,
    SessionCase,
    TriggerPoint,
    continues_after_failure,
    next_server,
)
from nodes.cscf.identities import asserted_identities, canonical_text, derived_impi, tel_twin, telephone_identity
from nodes.cscf.registration import Binding, Identity, Profile, Registration
from nodes.cscf.rejection import RejectionError
from nodes.cscf.route_tokens import HAND_BACK_S, HandedBack, RouteTokens
from nodes.cscf.routing import Leg, OwnNames, arrive, dialled, hop_of, served_user, targets_of, toward_contact, way_back
from nodes.cscf.trust import ASSERTED_HEADERS, UNTRUSTED, Peer, peer_of_certificate, strip_asserted
from signalling.sip.flow import Hop
from signalling.sip.message import Headers, SipRequest, SipResponse
from signalling.sip.uri import parse_uri

OWN = OwnNames(frozenset({"127.0.0.9", "cscf.ims.test"}), 5061, "TLS")
TOKENS = RouteTokens(Secret(bytes(32)))
FRIEND = Peer(trusted=True)
ME = "sip:{}127.0.0.9:5061;transport=tls;lr"


def request(method="INVITE", uri="sip:bob@ims.test", *headers, to_tag=None):
    to = "<sip:bob@ims.test>" + (f";tag={to_tag}" if to_tag else "")
    fields = [("To", to), ("From", "<sip:a@ims.test>;tag=1"), ("Call-ID", "call-1"), ("CSeq", f"1 {method}"), *headers]
    return SipRequest(method, uri, fields)


def route(user=""):
    return ("Route", f"<{ME.format(user + '@' if user else '')}>")


def binding(name, q=1.0, instance="", at=0.0, until=100.0, **more):
    base = Binding(f"sip:{name}@192.0.2.1", (), ("<sip:p;lr>",), "c", 1, at, until, name, instance, None, q)
    return replace(base, **more)


def registration(*bindings):
    identities = (Identity("sip:alice@ims.test"), Identity("tel:+1555"), Identity("sip:hidden@ims.test", barred=True))
    return Registration(Profile("i@ims.test", identities), "orig-1", "aka", bindings)


@pytest.mark.clause("RFC 3261", "16.4", "DLG-2a")
def test_the_leg_follows_from_route_and_to_tag():
    assert arrive(request("INVITE", "sip:bob@ims.test", route("orig-1")), OWN, TOKENS, FRIEND).leg is Leg.ORIGINATING
    assert arrive(request(), OWN, TOKENS, FRIEND).leg is Leg.TERMINATING
    assert arrive(request("INVITE", "sip:bob@ims.test", route()), OWN, TOKENS, FRIEND).leg is Leg.TERMINATING
    assert arrive(request("OPTIONS", "sip:cscf.ims.test"), OWN, TOKENS, FRIEND).leg is Leg.LOCAL
    in_dialog = request("BYE", "sip:x@h", route(TOKENS.record_route("call-1")), ("Route", "<sip:next;lr>"), to_tag="t")
    assert arrive(in_dialog, OWN, TOKENS, FRIEND).leg is Leg.IN_DIALOG
    assert in_dialog.headers.values("Route") == ["<sip:next;lr>"]
    leg = HandedBack(SessionCase.TERMINATING, 3, "sip:bob@ims.test")
    back = arrive(request("INVITE", "sip:bob@ims.test", route(TOKENS.handed_out(leg))), OWN, TOKENS, FRIEND)
    assert (back.leg, back.handed_back) == (Leg.HANDED_BACK, leg)


@pytest.mark.clause("RFC 3261", "16.4", "DLG-2a")
def test_a_strict_router_before_us_is_undone():
    own = ME.format(TOKENS.record_route("call-1") + "@")
    strict = request("BYE", own, ("Route", "<sip:next;lr>"), ("Route", "<sip:bob@192.0.2.1>"), to_tag="t")
    assert arrive(strict, OWN, TOKENS, FRIEND).leg is Leg.IN_DIALOG
    assert strict.uri == "sip:bob@192.0.2.1"
    assert strict.headers.values("Route") == ["<sip:next;lr>"]


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    ("message", "peer", "status"),
    [
        (request("BYE", "sip:x@h", route(TOKENS.record_route("other")), to_tag="t"), FRIEND, 403),
        (request("BYE", "sip:x@h", route("rr-00"), to_tag="t"), FRIEND, 403),
        (request("BYE", "sip:x@h", to_tag="t"), FRIEND, 481),
        (request("INVITE", "sip:x@h", ("Route", "<sip:elsewhere;lr>")), FRIEND, 403),
        (request("INVITE", "sip:x@h", route(), ("Route", "<sip:elsewhere;lr>")), FRIEND, 403),
        (request("INVITE", "sip:x@h", route("orig-1"), ("Route", "<sip:elsewhere;lr>")), FRIEND, 403),
        (request("INVITE", "sip:x@h", route("isc-orig.0.00.beef")), FRIEND, 403),
        (request("INVITE", "sip:x@h", route("orig-1")), UNTRUSTED, 403),
        (request("INVITE", "sip:x@h", ("Route", "<not a route")), FRIEND, 400),
        (request("INVITE", "sip:x@h", ("Route", "<tel:+1>")), FRIEND, 400),
    ],
)
def test_route_tricks_are_refused(message, peer, status):
    with pytest.raises(RejectionError) as error:
        arrive(message, OWN, TOKENS, peer)
    assert error.value.status == status


@pytest.mark.attack("T7")
def test_a_record_route_names_the_ways_of_its_call_alone():
    one, two = Hop("TLS", "127.0.0.1", 5061), Hop("TLS", "127.0.0.2", 5061)
    token = TOKENS.record_route("call-1", [one])
    assert TOKENS.is_record_route(token, "call-1")
    assert TOKENS.leads_to(token, "call-1", one)
    for hop in (two, Hop("TCP", "127.0.0.1", 5061), Hop("TLS", "127.0.0.1", 5062)):
        assert not TOKENS.leads_to(token, "call-1", hop)
    assert not TOKENS.leads_to(token, "call-2", one)
    assert not TOKENS.leads_to(TOKENS.record_route("call-1"), "call-1", one)
    call, _ = token.removeprefix("rr-").split("-")
    assert not TOKENS.leads_to(f"rr-{call}-{call[:16]}", "call-1", one)
    assert not RouteTokens(Secret(b"\1" * 32)).leads_to(token, "call-1", one)


@pytest.mark.clause("RFC 3261", "12.1.1")
def test_the_way_back_is_the_topmost_record_route_or_the_contact_of_the_sender():
    contact = ("Contact", "<sip:a@192.0.2.1:5062;transport=tcp>")
    record = ("Record-Route", "<sip:p@192.0.2.7;lr>, <sip:q@192.0.2.8;lr>")
    near = ("Via", "SIP/2.0/TCP 192.0.2.1:5062;branch=z9hG4bKa")
    far = ("Via", "SIP/2.0/TCP 192.0.2.1:5062;branch=z9hG4bKa;received=192.0.2.9")
    assert way_back(request("INVITE", "sip:b@h", near, contact), "TLS") == Hop("TCP", "192.0.2.1", 5062)
    assert way_back(request("INVITE", "sip:b@h", far, contact), "TLS") is None
    assert way_back(request("INVITE", "sip:b@h", contact, record), "TLS") == Hop("TLS", "192.0.2.7", 5061)
    for nothing in ((), (("Contact", "<tel:+1>"),), (("Contact", "<broken"),)):
        assert way_back(request("INVITE", "sip:b@h", *nothing), "TLS") is None


@pytest.mark.attack("T7")
@given(st.sampled_from(list(SessionCase)), st.integers(0, 99), st.text(max_size=20), st.data())
def test_a_token_with_any_mark_changed_is_not_ours(case, index, user, data):
    token = TOKENS.handed_out(HandedBack(case, index, user))
    assert TOKENS.handed_back(token) == HandedBack(case, index, user)
    at = data.draw(st.integers(0, len(token) - 1))
    other = token[:at] + ("0" if token[at] != "0" else "1") + token[at + 1 :]
    assert TOKENS.handed_back(other) is None
    assert RouteTokens(Secret(b"\1" * 32)).handed_back(token) is None


@pytest.mark.attack("T7")
def test_a_server_hands_a_leg_back_while_it_may_have_it_and_nobody_else_does():
    now = [1000.0]
    tokens = RouteTokens(Secret(bytes(32)), lambda: now[0])
    token = tokens.handed_out(HandedBack(SessionCase.ORIGINATING, 1, "sip:alice@ims.test"))
    server, other = Peer(trusted=True, nf_types=("IMS_AS",)), Peer(trusted=True, nf_types=("PCSCF",))
    now[0] += HAND_BACK_S
    assert arrive(request("INVITE", "sip:b@h", route(token)), OWN, tokens, server).leg is Leg.HANDED_BACK
    with pytest.raises(RejectionError, match="Not Handed To This Neighbour"):
        arrive(request("INVITE", "sip:b@h", route(token)), OWN, tokens, other)
    now[0] += 2
    with pytest.raises(RejectionError, match="Route Not Of This Node"):
        arrive(request("INVITE", "sip:b@h", route(token)), OWN, tokens, server)


@pytest.mark.clause("RFC 3325", "5", "9.1")
@pytest.mark.attack("T7")
def test_the_served_user_is_asserted_and_registered():
    def served(*values, found=True):
        message = request("INVITE", "sip:b@ims.test", *(("P-Asserted-Identity", value) for value in values))
        return served_user(message, registration() if found else None)

    assert served("<sip:alice@IMS.test:5060>") == "sip:alice@ims.test"
    assert served("<tel:+1-555>") == "tel:+1555"
    for wrong in (["<sip:bob@ims.test>"], ["<sip:hidden@ims.test>"], [], ["<sip:alice@ims.test>, <sip:bob@ims.test>"]):
        with pytest.raises(RejectionError):
            served(*wrong)
    with pytest.raises(RejectionError):
        served("<sip:alice@ims.test>", found=False)


@pytest.mark.clause("RFC 3325", "9.1")
def test_the_twin_is_a_number_of_the_same_user_once():
    known = ["sip:alice@ims.test", "tel:+1555"]

    def twin(*uris):
        return tel_twin([parse_uri(uri) for uri in uris], known)

    assert twin("sip:alice@ims.test") == "tel:+1555"
    assert twin("sip:bob@ims.test") is None
    assert twin("sip:alice@ims.test", "tel:+1555") is None
    assert twin("tel:+1555") is None
    assert tel_twin([parse_uri("sip:alice@ims.test")], ["sip:alice@ims.test"]) is None


def test_asserted_identities_that_do_not_parse_are_left_out():
    headers = Headers([("P-Asserted-Identity", '"A, B" <sip:a@ims.test>, <oops'), ("P-Asserted-Identity", "tel:+1")])
    assert [canonical_text(str(uri)) for uri in asserted_identities(headers)] == ["sip:a@ims.test", "tel:+1"]


def test_canonical_identities():
    assert canonical_text("sips:%61@IMS.test:1;x?y=z") == "sip:a@ims.test"
    assert derived_impi(parse_uri("sip:a@IMS.test:5060;x")) == "a@ims.test"
    assert telephone_identity(parse_uri("sip:+1-5@h;user=Phone")) == "tel:+15"
    assert telephone_identity(parse_uri("sip:+15@h")) is None
    assert telephone_identity(parse_uri("sip:alice@h;user=phone")) is None


def test_what_was_dialled():
    assert dialled(request(uri="sip:Bob@IMS.test;x=1"), ["ims.test"]) == ("sip:Bob@ims.test", "ims.test")
    assert dialled(request(uri="sip:+15@ims.test;user=phone"), ["ims.test"]) == ("tel:+15", "")
    assert dialled(request(uri="sip:+15@far.test;user=phone"), ["ims.test"])[1] == "far.test"
    for uri, status in (("tel:911", 404), ("urn:service:sos", 416), ("mailto:a@b", 416)):
        with pytest.raises(RejectionError) as error:
            dialled(request(uri=uri), ["ims.test"])
        assert error.value.status == status


@pytest.mark.clause("RFC 3261", "16.6")
@pytest.mark.clause("RFC 5626", "7")
def test_targets_by_q_and_one_per_instance():
    found = targets_of(
        registration(
            binding("a", 0.5),
            binding("b"),
            binding("old", instance="i", at=1.0),
            binding("new", instance="i", at=2.0),
            binding("dead", until=5.0),
        ),
        50.0,
    )
    assert [sorted(one.contact_id for one in group) for group in found] == [["b", "new"], ["a"]]


@pytest.mark.clause("RFC 3327", "5.3")
@pytest.mark.clause("RFC 3261", "19.1.1")
def test_the_way_to_a_contact():
    original = request("INVITE", "sip:bob@ims.test", ("P-Access-Network-Info", "x"), ("P-Called-Party-ID", "<sip:z@z>"))
    evil = binding(
        "b", contact="sip:b@192.0.2.1;method=REGISTER;x=1?Route=%3Csip:evil%3E", path=("<sip:p2;lr>", "<sip:p1;lr>")
    )
    branch = toward_contact(original, evil)
    assert branch.uri == "sip:b@192.0.2.1;x=1"
    assert branch.headers.values("Route") == ["<sip:p2;lr>", "<sip:p1;lr>"]
    assert branch.headers.get_all("P-Called-Party-ID") == ["<sip:bob@ims.test>"]
    assert "P-Access-Network-Info" not in branch.headers
    assert original.uri == "sip:bob@ims.test"
    hop = hop_of(branch, "TLS")
    assert (hop.transport, hop.host, hop.port) == ("TLS", "p2", 5061)
    assert hop_of(request(uri="sip:x@h:7;transport=tcp"), "TLS").transport == "TCP"
    with pytest.raises(RejectionError):
        hop_of(request(uri="tel:+1"), "TLS")


CRITERIA = (
    FilterCriterion(5, "sip:second", (TriggerPoint(method="INVITE"),), terminate_on_failure=True),
    FilterCriterion(1, "sip:first", (TriggerPoint(method="MESSAGE"), TriggerPoint(session_case="orig", header="X"))),
    FilterCriterion(9, "sip:last", (TriggerPoint(header="Subject", header_pattern="(?i)hello"),)),
    FilterCriterion(20, "sip:always"),
)


@pytest.mark.clause("TS 23.218", "6.4", "6.9")
@pytest.mark.parametrize(
    ("message", "case", "start", "server"),
    [
        (request("MESSAGE"), SessionCase.TERMINATING, 0, "sip:first"),
        (request("INVITE"), SessionCase.ORIGINATING, 0, "sip:second"),
        (request("INVITE", "sip:b@h", ("X", "1")), SessionCase.ORIGINATING, 0, "sip:first"),
        (request("INVITE", "sip:b@h", ("X", "1")), SessionCase.TERMINATING, 0, "sip:second"),
        (request("INVITE"), SessionCase.ORIGINATING, 2, "sip:always"),
        (request("BYE", "sip:b@h", ("Subject", "Hello!")), SessionCase.TERMINATING, 0, "sip:last"),
        (request("BYE", "sip:b@h", ("s", "bye")), SessionCase.TERMINATING_UNREGISTERED, 0, "sip:always"),
        (request("INVITE"), SessionCase.ORIGINATING, 4, None),
    ],
)
def test_filter_criteria(message, case, start, server):
    found = next_server(CRITERIA, message, case, start)
    assert (found.server_uri if found else None) == server


@pytest.mark.clause("TS 23.218", "6.4-default-handling")
def test_default_handling():
    lenient, strict = (
        ServerHop("sip:a", 0, terminate_on_failure=False),
        ServerHop("sip:a", 0, terminate_on_failure=True),
    )
    assert all(continues_after_failure(status, lenient, provisional_seen=False) for status in (None, 408, 500, 503))
    assert not any(continues_after_failure(status, lenient, provisional_seen=False) for status in (403, 486, 600))
    assert not continues_after_failure(500, lenient, provisional_seen=True)
    assert not continues_after_failure(None, strict, provisional_seen=False)


@pytest.mark.clause("RFC 5502", "6")
def test_parameters_of_the_served_user():
    assert SessionCase.TERMINATING_UNREGISTERED.served_user_parameters == "sescase=term;regstate=unreg"
    assert SessionCase.ORIGINATING.served_user_parameters == "sescase=orig;regstate=reg"


@pytest.mark.clause("RFC 7315", "4.6")
def test_charging_vectors():
    vector = parse_charging_vector('icid-value="a;b";x=y;orig-ioi=home;TERM-IOI="t"')
    assert (vector.icid, vector.orig_ioi, vector.term_ioi, vector.other) == ("a;b", "home", "t", ("x=y",))
    assert parse_charging_vector(vector.format()) == vector
    assert parse_charging_vector("orig-ioi=x") is None
    message = request("INVITE", "sip:b@h", (HEADER, "icid-value=1;term-ioi=old"))
    stamp_request(message, "home.test", lambda: "new")
    assert message.headers.get(HEADER) == 'icid-value="1";orig-ioi="home.test"'
    bare = request()
    stamped = stamp_request(bare, "home.test", lambda: "new")
    response = SipResponse(200)
    stamp_response(response, stamped, "far.test")
    assert response.headers.get(HEADER) == 'icid-value="new";orig-ioi="home.test";term-ioi="far.test"'


@pytest.mark.attack("T7")
def test_trust_is_by_type_and_strips_everything():
    assert peer_of_certificate(["PCSCF"], "i", ["PCSCF"]).trusted
    assert not peer_of_certificate(["UE", "IMS_AGW"], "i", ["PCSCF"]).trusted
    assert not peer_of_certificate([], "i", ["PCSCF"]).trusted
    message = request("INVITE", "sip:b@h", *((name.lower(), "x") for name in ASSERTED_HEADERS))
    assert sorted(strip_asserted(message)) == sorted(ASSERTED_HEADERS)
    assert not any(name in message.headers for name in ASSERTED_HEADERS)
