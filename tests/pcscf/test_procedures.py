"""The small procedures of the edge: agreement, schemes, SA table, rate, dialogs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.pcscf import mediasec
from nodes.pcscf.config import MediaPolicy, RoutePolicy
from nodes.pcscf.dialogs import EdgeDialog, dialog_of
from nodes.pcscf.media_plan import Side
from nodes.pcscf.mediasec import AgreementState, Verify, agreement_after, compare, own_media_entries
from nodes.pcscf.pending import MAX_PER_USER_AND_SOURCE, Procedure, Procedures
from nodes.pcscf.ratelimit import SourceRate
from nodes.pcscf.rejection import RejectionError
from nodes.pcscf.routing import OwnAddresses, OwnUri, enforce_service_route, is_emergency, next_hop, take_own_routes
from nodes.pcscf.satable import (
    MAX_TEMPORARY,
    SaTable,
    SecurityAssociation,
    read_proposal,
    select_algorithm,
    server_entries,
)
from nodes.pcscf.scheme import Scheme, Standing, choose_scheme, integrity_flag, vouch
from signalling.secagree import parse_security_header
from signalling.sip.headers import parse_credentials
from signalling.sip.message import SipRequest, SipResponse

IPSEC = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=11;spi-s=12;port-c=3000;port-s=3001"


def entries(text: str):
    return parse_security_header(text) if text else ()


# agreement


@pytest.mark.clause("TS 33.328", "7.1.1-7")
@pytest.mark.clause("TS 33.203", "PC-16")
@pytest.mark.parametrize(
    ("server", "verify", "outcome"),
    [
        ("sdes-srtp;mediasec", "sdes-srtp;mediasec", Verify.EQUAL),
        ("sdes-srtp;mediasec", "SDES-SRTP ; MediaSec", Verify.EQUAL),
        ("sdes-srtp;mediasec", "", Verify.ABSENT),
        ("sdes-srtp;mediasec, msrp-tls;mediasec", "sdes-srtp;mediasec", Verify.MEDIA_ALTERED),
        ("sdes-srtp;mediasec, msrp-tls;mediasec", "msrp-tls;mediasec, sdes-srtp;mediasec", Verify.MEDIA_ALTERED),
        (f"{IPSEC}, sdes-srtp;mediasec", IPSEC, Verify.ABSENT),
        (f"{IPSEC}, sdes-srtp;mediasec", "sdes-srtp;mediasec", Verify.ALTERED),
        ("", "sdes-srtp;mediasec", Verify.UNEXPECTED),
    ],
)
def test_how_a_security_verify_compares(server, verify, outcome):
    assert compare(entries(verify), entries(server)) is outcome


@pytest.mark.clause("TS 33.328", "7.1.1-3", "5.4.1-3")
@pytest.mark.parametrize(
    ("client", "verify", "challenged", "state"),
    [
        ("sdes-srtp;mediasec", Verify.EQUAL, True, AgreementState.CONFIRMED),
        ("sdes-srtp;mediasec", Verify.ABSENT, True, AgreementState.NOT_CONFIRMED),
        ("sdes-srtp;mediasec", Verify.ABSENT, False, AgreementState.ANNOUNCED),
        ("sdes-srtp;mediasec", Verify.MEDIA_ALTERED, True, AgreementState.ALTERED),
        ("", Verify.EQUAL, True, AgreementState.NONE),
        ("unknown-one;mediasec", Verify.EQUAL, True, AgreementState.NONE),
    ],
)
def test_what_comes_of_the_announcement(client, verify, challenged, state):
    agreement = agreement_after(entries(client), entries("sdes-srtp;mediasec"), verify, challenged=challenged)
    assert agreement.state is state
    assert agreement.agreed() is (state in (AgreementState.CONFIRMED, AgreementState.ANNOUNCED))


@pytest.mark.clause("TS 33.328", "4.1.1-2")
@pytest.mark.clause("RFC 3329", "2.3.1")
def test_the_own_list_does_not_depend_on_which_mechanisms_the_ue_named():
    own = ("sdes-srtp", "msrp-tls")
    one = own_media_entries(own, entries("msrp-tls;mediasec"), gm_encrypted=True, policy=MediaPolicy.PREFERRED)
    two = own_media_entries(own, entries("sdes-srtp;mediasec"), gm_encrypted=True, policy=MediaPolicy.PREFERRED)
    assert one == two
    assert not own_media_entries(own, (), gm_encrypted=True, policy=MediaPolicy.PREFERRED)
    assert not own_media_entries(own, one, gm_encrypted=True, policy=MediaPolicy.OFF)
    clear = own_media_entries(own, one, gm_encrypted=False, policy=MediaPolicy.PREFERRED)
    assert [entry.name for entry in clear] == ["msrp-tls"]


@pytest.mark.clause("TS 33.328", "7.1.1-5")
def test_the_agreement_ends_at_this_node():
    request = SipRequest(
        "INVITE",
        "sip:x@y",
        [
            ("Require", "sec-agree"),
            ("Proxy-Require", "mediasec"),
            ("Supported", "100rel, sec-agree, timer"),
            ("Security-Verify", "sdes-srtp;mediasec"),
        ],
    )
    mediasec.strip(request)
    assert request.headers.items() == [("Supported", "100rel, timer")]


# schemes


@pytest.mark.clause("TS 33.203", "PC-2")
@pytest.mark.parametrize(
    ("client", "algorithm", "transport", "scheme"),
    [
        (IPSEC, "", "UDP", Scheme.AKA_IPSEC),
        ("tls", "", "UDP", Scheme.DIGEST_TLS_AGREED),
        ("sdes-srtp;mediasec", "AKAv2-SHA-256", "TLS", Scheme.AKA_TLS),
        ("", "AKAv2-SHA-256", "TLS", Scheme.AKA_TLS),
        ("", "MD5", "TLS", Scheme.DIGEST_TLS),
        ("sdes-srtp;mediasec", "", "UDP", Scheme.DIGEST),
        ("", "AKAv1-MD5", "UDP", Scheme.AKA_PLAIN),
    ],
)
def test_which_scheme_a_register_uses(client, algorithm, transport, scheme):
    credentials = parse_credentials(f'Digest username="a",algorithm={algorithm}') if algorithm else None
    assert choose_scheme(entries(client), credentials, transport, ipsec=True) is scheme


@pytest.mark.clause("TS 33.203", "PC-17", "3.8")
@pytest.mark.parametrize(
    ("scheme", "standing", "response", "flag"),
    [
        (Scheme.AKA_IPSEC, Standing(under_sa=True), True, "yes"),
        (Scheme.AKA_IPSEC, Standing(), True, "no"),
        (Scheme.AKA_TLS, Standing(), False, "tls-connected"),
        (Scheme.DIGEST_TLS, Standing(), False, None),
        (Scheme.DIGEST_TLS, Standing(tls=True), True, "tls-pending"),
        (Scheme.DIGEST_TLS, Standing(tls=True, bound=True), True, "tls-yes"),
        (Scheme.DIGEST_TLS_AGREED, Standing(tls=True, bound=True), True, "tls-yes"),
        (Scheme.DIGEST_TLS_AGREED, Standing(bound=True), True, None),
        (Scheme.DIGEST_TLS_AGREED, Standing(), True, None),
        (Scheme.DIGEST, Standing(), False, None),
        (Scheme.DIGEST, Standing(), True, "ip-assoc-pending"),
        (Scheme.DIGEST, Standing(bound=True), True, "ip-assoc-yes"),
        (Scheme.AKA_PLAIN, Standing(bound=True), True, "no"),
    ],
)
def test_what_the_edge_vouches_for(scheme, standing, response, flag):
    assert integrity_flag(scheme, standing, response=response) == flag


@pytest.mark.clause("TS 33.203", "PC-1")
@pytest.mark.attack("T7")
@pytest.mark.parametrize("flag", [None, "no"])
def test_what_the_ue_wrote_into_integrity_protected_is_deleted(flag):
    request = SipRequest("REGISTER", "sip:y", [("Authorization", 'Digest username="a",Integrity-Protected="yes"')])
    vouch(request, flag)
    assert parse_credentials(request.headers.get("Authorization")).get("integrity-protected") == flag


# security associations


@pytest.mark.clause("TS 33.203", "PC-4", "E-22")
def test_the_sa_table_refuses_a_taken_port_and_a_seventh_association():
    table = SaTable(lambda: 0.0)
    for port in range(6):
        proposal = read_proposal(entries(IPSEC.replace("3000", str(4000 + port))))
        row = table.create("alice", "127.0.0.1", proposal, "x/y", (1, 2), 240.0)
        table.put(replace(row, temporary=False))
    seventh = read_proposal(entries(IPSEC.replace("3000", "4999")))
    with pytest.raises(RejectionError) as refused:
        table.create("alice", "127.0.0.1", seventh, "x/y", (1, 2), 240.0)
    assert refused.value.status == 403
    taken = read_proposal(entries(IPSEC.replace("3000", "4000")))
    with pytest.raises(RejectionError) as refused:
        table.create("mallory", "127.0.0.1", taken, "x/y", (1, 2), 240.0)
    assert refused.value.status == 400


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "E-22", "PC-12")
def test_unanswered_challenges_lock_nobody_out_of_an_association():
    table = SaTable(lambda: 0.0)

    def ask(ip: str, port: int) -> SecurityAssociation:
        proposal = read_proposal(entries(IPSEC.replace("3000", str(port))))
        return table.create("alice", ip, proposal, "x/y", (1, 2), 240.0)

    lasting = replace(ask("127.0.0.1", 4000), temporary=False)
    table.put(lasting)
    own = ask("127.0.0.1", 4001)
    for port in range(6000, 6100):
        ask("127.9.9.9", port)
    assert len(table) == 2 + MAX_TEMPORARY
    assert (table.find("127.0.0.1", 4000), table.find("127.0.0.1", 4001)) == (lasting, own)
    assert table.find("127.9.9.9", 6095) is None
    assert table.find("127.9.9.9", 6099) is not None


@pytest.mark.attack("T7")
@pytest.mark.clause("TS 33.203", "PC-12")
def test_procedures_nobody_finishes_are_few_for_each_user_and_source_and_bounded_together():
    now, given_up = [0.0], []
    procedures = Procedures(lambda: now[0], given_up.append, most=10)
    own = Procedure("own", expires_at=240.0)
    procedures.put("alice", "127.0.0.1", own)
    for number in range(20):
        procedures.put("alice", "127.9.9.9", Procedure(f"call-{number}", expires_at=240.0))
    assert len(procedures) == 1 + MAX_PER_USER_AND_SOURCE
    assert procedures.find("alice", "127.0.0.1", "own") is own
    assert procedures.find("alice", "127.9.9.9", "own") is None
    assert procedures.find("alice", "127.9.9.9", "call-19") is not None
    for number in range(20):
        procedures.put("alice", f"127.9.9.{number}", Procedure("x", expires_at=300.0))
    assert len(procedures) == 10
    assert len(given_up) == 31
    now[0] = 300.0
    procedures.expire()
    assert (len(procedures), len(given_up)) == (0, 41)


@pytest.mark.clause("TS 33.203", "3.12")
def test_a_temporary_association_dies_by_its_timer():
    now = [0.0]
    table = SaTable(lambda: now[0])
    row = table.create("a", "127.0.0.1", read_proposal(entries(IPSEC)), "x/y", (1, 2), 240.0)
    assert table.find("127.0.0.1", 3000) == row
    now[0] = 240.0
    assert table.find("127.0.0.1", 3000) is None
    assert table.expire() == [row]
    assert not len(table)


def test_spis_are_ten_digits_unique_and_not_the_ues():
    values = iter([2_000_000_011, 1_500_000_000, 1_500_000_000, 1_500_000_001])
    table = SaTable(lambda: 0.0, lambda: next(values))
    proposal = read_proposal(entries(IPSEC.replace("spi-c=11", "spi-c=2000000011")))
    row = table.create("a", "127.0.0.1", proposal, "x/y", (1, 2), 240.0)
    assert (row.spi_c, row.spi_s) == (1_500_000_000, 1_500_000_001)


@pytest.mark.clause("TS 33.203", "PC-9", "PC-10")
def test_the_own_order_decides_and_all_algorithms_are_listed():
    own = ["hmac-sha-1-96/aes-cbc", "hmac-sha-1-96/null"]
    proposal = read_proposal(entries(f"{IPSEC.replace('aes-cbc', 'null')}, {IPSEC}"))
    assert select_algorithm(own, proposal, allow_null=True) == own[0]
    null_only = read_proposal(entries(IPSEC.replace("aes-cbc", "null")))
    assert select_algorithm(own, null_only, allow_null=False) is None
    assert [str(entry.q) for entry in server_entries(own, None)] == ["0.9", "0.8"]


@pytest.mark.clause("TS 33.203", "REG-4")
@pytest.mark.parametrize(
    "bad",
    [
        IPSEC.replace("spi-c=11", "spi-c=12"),
        IPSEC.replace("3001", "5060"),
        IPSEC.replace("spi-c=11", "spi-c=99999999999"),
        f"{IPSEC}, {IPSEC.replace('3001', '3009')}",
    ],
)
def test_a_malformed_proposal_is_answered_400(bad):
    with pytest.raises(RejectionError) as refused:
        read_proposal(entries(bad))
    assert refused.value.status == 400


# routes


OWN = OwnAddresses([("127.0.0.1", 5060), ("127.0.0.9", 5061)], ["pcscf-a.ims.test"])


def routed(*routes: str, uri: str = "sip:bob@ims.test") -> SipRequest:
    return SipRequest("INVITE", uri, [("Route", route) for route in routes])


@pytest.mark.clause("RFC 3261", "16.4")
@pytest.mark.clause("RFC 5658", "5")
def test_both_own_routes_are_taken_off_together():
    request = routed("<sip:t@127.0.0.9:5061;transport=tls;lr>, <sip:t@127.0.0.1:5060;lr>", "<sip:next;lr>")
    assert take_own_routes(request, OWN).tokens == ("t", "t")
    assert request.headers.values("Route") == ["<sip:next;lr>"]


def test_a_strict_router_before_us_is_undone():
    request = routed("<sip:bob@192.0.2.1>", uri="sip:t@127.0.0.1:5060;lr")
    assert take_own_routes(request, OWN).tokens == ("t",)
    assert request.uri == "sip:bob@192.0.2.1"


@pytest.mark.clause("TS 24.229", "HOP-2")
def test_the_service_route_is_enforced_in_order():
    request = routed("<sip:b;lr>", "<sip:a;lr>")
    assert enforce_service_route(request, ["<sip:a;lr>", "<sip:b;lr>"], RoutePolicy.REPLACE)
    assert request.headers.values("Route") == ["<sip:a;lr>", "<sip:b;lr>"]
    assert not enforce_service_route(request, ["<sip:a;lr>", "<sip:b;lr>"], RoutePolicy.REJECT)


def test_the_next_hop_is_the_top_route_with_its_transport():
    hop = next_hop(routed("<sip:127.0.0.3:5070;transport=tcp;lr>"), "TLS")
    assert (hop.transport, hop.host, hop.port) == ("TCP", "127.0.0.3", 5070)
    with pytest.raises(RejectionError):
        next_hop(SipRequest("INVITE", "tel:+15550100"), "TLS")


@pytest.mark.clause("RFC 5031", "4.2")
@pytest.mark.parametrize(
    ("uri", "yes"),
    [("urn:service:sos", True), ("urn:service:SOS.fire", True), ("urn:service:sosx", False), ("sip:sos@x", False)],
)
def test_which_uris_are_emergency(uri, yes):
    assert is_emergency(uri) is yes


def test_own_uris_are_recognised_when_they_come_back():
    from signalling.sip.uri import parse_sip_uri

    assert OWN.mine(parse_sip_uri(OwnUri("TLS", "127.0.0.9", 5061).uri("token")))
    assert not OWN.mine(parse_sip_uri("sip:127.0.0.9:5062;lr"))


# dialogs and rate


@pytest.mark.clause("TS 24.229", "HOP-7")
def test_bye_in_both_directions_from_what_passed_through():
    request = SipRequest(
        "INVITE",
        "sip:bob@ims.test",
        [
            ("From", '"A" <sip:alice@ims.test>;tag=a'),
            ("To", "<sip:bob@ims.test>"),
            ("Call-ID", "c"),
            ("CSeq", "7 INVITE"),
            ("Contact", "<sip:alice@127.0.0.2:1>"),
        ],
    )
    response = SipResponse(
        200,
        None,
        [
            ("Record-Route", "<sip:far;lr>, <sip:near;lr>, <sip:me-core;lr>, <sip:me-access;lr>"),
            ("From", '"A" <sip:alice@ims.test>;tag=a'),
            ("To", "<sip:bob@ims.test>;tag=b"),
            ("Call-ID", "c"),
            ("CSeq", "7 INVITE"),
            ("Contact", "<sip:bob@127.0.0.3:2>"),
        ],
    )
    dialog = dialog_of(request, response, Side.ACCESS, ("sip:me-core;lr", "sip:me-access;lr"))
    assert EdgeDialog.from_dict(dialog.to_dict()) == dialog
    far = dialog.bye(Side.CORE, "SIP;cause=503")
    assert (far.uri, far.headers.values("Route")) == ("sip:bob@127.0.0.3:2", ["<sip:near;lr>", "<sip:far;lr>"])
    assert (far.from_tag, far.to_tag, far.cseq) == ("a", "b", (8, "BYE"))
    near = dialog.bye(Side.ACCESS)
    assert (near.uri, near.headers.values("Route")) == ("sip:alice@127.0.0.2:1", [])
    assert (near.from_tag, near.to_tag, near.cseq) == ("b", "a", (1, "BYE"))


def test_a_source_is_held_to_its_rate_and_others_are_not():
    now = [0.0]
    rate = SourceRate(2.0, 3, lambda: now[0])
    assert [rate.allow("a") for _ in range(4)] == [True, True, True, False]
    assert rate.allow("b")
    now[0] = 0.5
    assert [rate.allow("a") for _ in range(2)] == [True, False]
