"""RFC 4475 and RFC 5118: every message with the outcome its test asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from signalling.sip.headers import parse_name_addr
from signalling.sip.message import (
    SipParseError,
    SipRequest,
    SipResponse,
    StreamFault,
    StreamMessage,
    StreamParser,
    parse_message,
)
from signalling.sip.uri import SipUri, parse_sip_uri, parse_uri, unescape
from signalling.sip.validation import check_request

FIXTURES = Path(__file__).parent / "fixtures"
TORTURE = {path.stem: path.read_bytes() for path in sorted((FIXTURES / "rfc4475").glob("*.dat"))}
METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE")
EXTENSIONS = ("100rel",)
SCHEMES = ("sip", "sips", "tel")


def ipv6_messages():
    """The archive of RFC 5118 has bare LF, loses some final blank lines and miscounts two bodies; the wire has none of that."""
    for path in sorted((FIXTURES / "rfc5118").iterdir()):
        data = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        head, _, body = data.partition(b"\r\n\r\n")
        lines = [line for line in head.strip().split(b"\r\n") if not line.lower().startswith(b"content-length")]
        yield path.name, b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body


IPV6 = dict(ipv6_messages())


def check(name, role, methods=METHODS):
    message = parse_message(TORTURE[name])
    refusal = check_request(message, role=role, methods=methods, extensions=EXTENSIONS, schemes=SCHEMES)
    return None if refusal is None else refusal.status


def test_all_messages_of_both_documents_are_there():
    assert len(TORTURE) == 49
    assert len(IPV6) == 12


@pytest.mark.clause("RFC 4475", "3.1.1")
@pytest.mark.parametrize(
    "name",
    [
        "wsinv",
        "intmeth",
        "esc01",
        "escnull",
        "esc02",
        "longreq",
        "semiuri",
        "transports",
        "mpart01",
        "lwsdisp",
        "dblreq",
        "unreason",
        "noreason",
    ],
)
def test_wellformed_message_is_accepted_and_survives_a_round_trip(name):
    message = parse_message(TORTURE[name])
    assert parse_message(message.to_bytes()) == message


@pytest.mark.clause("RFC 4475", "3.1.1.1")
def test_short_tortuous_invite_is_read_in_full():
    message = parse_message(TORTURE["wsinv"])
    assert message.call_id == "wsinv.ndaksdj@192.0.2.1"
    assert message.cseq == (9, "INVITE")
    assert len(message.headers.values("via")) == 3
    assert message.top_via.host == "192.0.2.2"
    assert message.headers.get("NewFangledHeader") == "newfangled value continued newfangled value"
    assert message.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    assert len(message.headers.values("contact")) == 1
    assert check("wsinv", "uas") is None


@pytest.mark.clause("RFC 4475", "3.1.1.2")
def test_unusual_method_name_is_501_at_an_endpoint_and_passes_a_proxy():
    message = parse_message(TORTURE["intmeth"])
    assert message.method == "!interesting-Method0123456789_*+`.%indeed'~"
    refusal = check_request(message, role="uas", methods=METHODS, extensions=EXTENSIONS, schemes=SCHEMES)
    assert refusal.status == 501
    assert "INVITE" in refusal.headers.get("allow")
    assert check("intmeth", "proxy") is None


@pytest.mark.clause("RFC 4475", "3.1.1.3")
def test_escapes_are_decoded_once_and_percent_41_is_a_letter():
    assert parse_sip_uri("sip:sips%3Auser%40example.com@example.net").user == "sips%3Auser%40example.com"
    assert unescape("sips%3Auser%40example.com") == "sips:user@example.com"
    assert unescape("%2541") == "%41"
    assert parse_sip_uri("sip:%41lice@h").equivalent(parse_sip_uri("sip:Alice@h"))
    assert isinstance(parse_uri(parse_message(TORTURE["esc01"]).uri), SipUri)


@pytest.mark.clause("RFC 4475", "3.1.1.4")
def test_escaped_nul_does_not_end_the_user_part():
    contacts = [parse_name_addr(one).sip_uri for one in parse_message(TORTURE["escnull"]).headers.values("contact")]
    assert [one.user for one in contacts] == ["%00", "%00%00"]
    assert not contacts[0].equivalent(contacts[1])
    assert check("escnull", "registrar", ("REGISTER",)) is None


@pytest.mark.clause("RFC 4475", "3.1.1.5")
def test_percent_in_a_method_is_no_escape():
    message = parse_message(TORTURE["esc02"])
    assert message.method == "RE%47IST%45R"
    assert len(message.headers.get_all("contact")) == 2
    assert parse_name_addr(message.headers.get("to")).display_name == "%Z%45"
    assert check("esc02", "registrar", ("REGISTER",)) == 501


@pytest.mark.clause("RFC 4475", "3.1.1.7")
def test_long_values_are_not_cut():
    message = parse_message(TORTURE["longreq"])
    assert message.to.display_name.endswith(" proportion")
    assert "extreme" * 10 in message.to.display_name
    assert len(message.headers.values("via")) == 34
    assert message.call_id.endswith("longcallid")
    assert check("longreq", "uas") is None


@pytest.mark.clause("RFC 4475", "3.1.1.8")
def test_octets_after_the_body_are_ignored_on_udp():
    message = parse_message(TORTURE["dblreq"])
    assert (message.method, message.body) == ("REGISTER", b"")
    assert check("dblreq", "registrar", ("REGISTER",)) is None


@pytest.mark.clause("RFC 4475", "3.1.1.9")
def test_semicolon_belongs_to_the_user_part():
    assert parse_sip_uri(parse_message(TORTURE["semiuri"]).uri).user == "user;par=u%40example.net"


@pytest.mark.clause("RFC 4475", "3.1.1.10")
def test_unknown_transports_pass():
    vias = parse_message(TORTURE["transports"]).headers.values("via")
    assert [one.split()[0].rpartition("/")[2] for one in vias] == ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]


@pytest.mark.clause("RFC 4475", "3.1.1.12", "3.1.1.13")
def test_reason_phrase_may_be_utf8_or_empty():
    assert parse_message(TORTURE["unreason"]).reason.startswith("= 2**3 * 5**2 но сто девяносто девять")
    assert parse_message(TORTURE["noreason"]).reason == ""


@pytest.mark.clause("RFC 4475", "3.1.2")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("badinv01", 400),
        ("clerr", 400),
        ("ncl", 400),
        ("scalar02", 400),
        ("quotbal", 400),
        ("ltgtruri", 400),
        ("lwsruri", 400),
        ("lwsstart", 400),
        ("trws", 400),
        ("escruri", 400),
        ("badaspec", 400),
        ("baddn", 400),
        ("badvers", 505),
        ("mismatch01", 400),
        ("mismatch02", 501),
        ("insuf", 400),
        ("multi01", 400),
        ("mcl01", 400),
    ],
)
def test_malformed_request_is_refused_with(name, status):
    with pytest.raises(SipParseError) as refused:
        parse_message(TORTURE[name])
    assert refused.value.status == status
    assert refused.value.partial is None or isinstance(refused.value.partial, SipRequest)


@pytest.mark.clause("RFC 4475", "3.1.2.5", "3.1.2.19")
@pytest.mark.parametrize("name", ["scalarlg", "bigcode"])
def test_malformed_response_is_dropped(name):
    with pytest.raises(SipParseError) as refused:
        parse_message(TORTURE[name])
    assert not isinstance(refused.value.partial, SipRequest)


@pytest.mark.clause("RFC 4475", "3.1.2.2")
def test_stream_waits_for_the_body_that_was_announced():
    assert StreamParser().receive(TORTURE["clerr"]) == []


@pytest.mark.clause("RFC 4475", "3.1.2.3", "3.3.9")
@pytest.mark.parametrize("name", ["ncl", "mcl01"])
def test_stream_ends_at_a_content_length_that_cannot_be_used(name):
    parser = StreamParser()
    events = parser.receive(TORTURE[name])
    assert isinstance(events[-1], StreamFault)
    assert events[-1].error.fatal
    assert parser.failed


@pytest.mark.clause("RFC 4475", "3.1.2.12")
def test_bad_date_is_ignored_where_nobody_uses_it():
    assert check("baddate", "uas") is None


@pytest.mark.clause("RFC 4475", "3.1.2.13")
def test_contact_with_headers_needs_brackets():
    assert check("regbadct", "registrar", ("REGISTER",)) == 400
    assert check("regbadct", "proxy") is None


@pytest.mark.clause("RFC 4475", "3.1.2.15")
def test_display_name_with_stray_characters_is_refused():
    with pytest.raises(SipParseError, match="malformed address"):
        parse_message(TORTURE["baddn"] + b"\r\n")


@pytest.mark.clause("RFC 4475", "3.2.1")
def test_cookie_without_an_id_is_matched_by_the_old_rules():
    from signalling.sip.stack import server_key

    assert len(server_key(parse_message(TORTURE["badbranch"]))) == 6


@pytest.mark.clause("RFC 4475", "3.3.2", "3.3.3")
@pytest.mark.parametrize("name", ["unkscm", "novelsc"])
def test_unknown_request_uri_scheme_is_416(name):
    assert check(name, "uas") == 416
    assert check(name, "proxy") == 416


@pytest.mark.clause("RFC 4475", "3.3.4")
def test_unknown_scheme_in_to_is_400_at_a_registrar_only():
    assert check("unksm2", "registrar", ("REGISTER",)) == 400
    assert check("unksm2", "proxy") is None


@pytest.mark.clause("RFC 4475", "3.3.5")
@pytest.mark.parametrize(
    ("role", "tags"),
    [
        ("uas", "nothingSupportsThis, nothingSupportsThisEither"),
        ("proxy", "noProxiesSupportThis, norDoAnyProxiesSupportThis"),
    ],
)
def test_unknown_extensions_are_listed(role, tags):
    message = parse_message(TORTURE["bext01"])
    refusal = check_request(message, role=role, methods=METHODS, extensions=EXTENSIONS, schemes=SCHEMES)
    assert (refusal.status, refusal.headers.get("unsupported")) == (420, tags)


@pytest.mark.clause("RFC 4475", "3.3.6")
def test_unknown_body_type_is_415_at_an_endpoint_only():
    assert check("invut", "uas") == 415
    assert check("invut", "proxy") is None


@pytest.mark.clause("RFC 4475", "3.3.7")
def test_unknown_credentials_pass_and_a_non_registrar_refuses_the_method():
    assert check("regaut01", "proxy") is None
    assert check("regaut01", "registrar", ("REGISTER",)) is None
    assert check("regaut01", "uas") == 405
    assert b"NoOneKnowsThisScheme opaque-data=here" in parse_message(TORTURE["regaut01"]).to_bytes()


@pytest.mark.clause("RFC 4475", "3.3.10")
def test_response_with_a_broadcast_via_is_recognised_by_its_second_via():
    message = parse_message(TORTURE["bcast"])
    assert isinstance(message, SipResponse)
    assert message.without_top_via().top_via.host == "255.255.255.255"


@pytest.mark.clause("RFC 4475", "3.3.11")
def test_max_forwards_zero_stops_at_a_proxy_and_is_processed_by_an_endpoint():
    assert check("zeromf", "proxy") == 483
    assert check("zeromf", "uas") is None


@pytest.mark.clause("RFC 4475", "3.3.12", "3.3.13", "3.3.14")
def test_parameters_belong_where_the_brackets_say():
    def contact(name):
        assert check(name, "registrar", ("REGISTER",)) is None
        return parse_name_addr(parse_message(TORTURE[name]).headers.values("contact")[0])

    assert contact("cparam01").params == {"unknownparam": None}
    assert contact("cparam02").sip_uri.params == {"unknownparam": None}
    assert contact("regescrt").sip_uri.headers == [("Route", "%3Csip:sip.example.com%3E")]


@pytest.mark.clause("RFC 4475", "3.3.15")
def test_accept_without_sdp_is_406():
    assert check("sdp01", "uas") == 406


@pytest.mark.clause("RFC 4475", "3.4.1")
def test_request_of_an_rfc_2543_client_is_accepted():
    message = parse_message(TORTURE["inv2543"])
    assert message.top_via.branch is None
    assert message.from_tag is None
    assert check("inv2543", "uas") is None


@pytest.mark.clause("RFC 5118", "4.1", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "4.10")
@pytest.mark.parametrize("name", sorted(set(IPV6) - {"ipv6-bad"}))
def test_ipv6_message_is_accepted(name):
    message = parse_message(IPV6[name])
    assert parse_message(message.to_bytes()) == message


@pytest.mark.clause("RFC 5118", "4.2")
def test_ipv6_literal_without_brackets_is_400():
    with pytest.raises(SipParseError) as refused:
        parse_message(IPV6["ipv6-bad"])
    assert refused.value.status == 400


@pytest.mark.clause("RFC 5118", "4.3", "4.4")
def test_port_stands_outside_the_brackets():
    ambiguous = parse_sip_uri(parse_message(IPV6["port-ambiguous"]).uri)
    assert (ambiguous.host, ambiguous.port) == ("2001:db8::10:5070", None)
    clear = parse_sip_uri(parse_message(IPV6["port-unambiguous"]).uri)
    assert (clear.host, clear.port) == ("2001:db8::10", 5070)
    assert str(clear) == "sip:[2001:db8::10]:5070"


@pytest.mark.clause("RFC 5118", "4.5")
@pytest.mark.parametrize("name", ["via-received-param-with-delim", "via-received-param-no-delim"])
def test_received_is_read_with_and_without_brackets(name):
    assert parse_message(IPV6[name]).top_via.received == "2001:db8::9:255"


@pytest.mark.clause("RFC 5118", "4.10")
def test_third_colon_is_ignored():
    bug, right = (IPV6[name] for name in ("ipv6-bug-abnf-3-colons", "ipv6-correct-abnf-2-colons"))
    assert bug != right
    assert parse_sip_uri(parse_message(bug).uri).equivalent(parse_sip_uri(parse_message(right).uri))


@pytest.mark.attack("T7")
@pytest.mark.parametrize("name", sorted(TORTURE))
def test_no_cut_raises_anything_but_a_parse_error(name):
    data = TORTURE[name]
    for end in range(0, len(data), 1 if len(data) < 1200 else 7):
        try:
            parse_message(data[:end])
        except SipParseError:
            continue


@pytest.mark.attack("T7")
@pytest.mark.parametrize("name", sorted(TORTURE))
def test_no_flipped_octet_raises_anything_but_a_parse_error(name):
    data = TORTURE[name]
    for position in range(0, len(data), 1 if len(data) < 1200 else 7):
        for mask in (0x01, 0x20, 0xFF):
            broken = bytearray(data)
            broken[position] ^= mask
            try:
                message = parse_message(bytes(broken))
            except SipParseError:
                continue
            if isinstance(message, SipRequest):
                for role in ("uas", "proxy", "registrar"):
                    check_request(message, role=role, methods=METHODS, extensions=EXTENSIONS, schemes=SCHEMES)
            message.to_bytes()


@pytest.mark.attack("T7")
@pytest.mark.parametrize("name", sorted(TORTURE))
def test_stream_parser_takes_any_message_octet_by_octet(name):
    whole, pieces = StreamParser(), StreamParser()
    at_once = whole.receive(TORTURE[name])
    one_by_one = [event for octet in TORTURE[name] for event in pieces.receive(bytes([octet]))]
    kinds = [type(event) for event in at_once if isinstance(event, StreamMessage)]
    assert [type(event) for event in one_by_one if isinstance(event, StreamMessage)] == kinds
