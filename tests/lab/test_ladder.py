from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.flow import less
from lab.ladder import Ladder, Step, media_ends, messages_of, of_call, pair_messages
from lab.ladder_steps import arrow_label
from tests.lab.traced import CALL, NAMES, REQUEST, RESOLVE, TRACE, call_spans, http, kms_spans, span, transaction


@pytest.fixture
def call() -> Ladder:
    return of_call(call_spans(), CALL, NAMES)


def steps(call: Ladder, kind: str) -> list[Step]:
    return [step for step in call.steps if step.kind == kind]


def test_a_message_seen_at_both_ends_is_one_arrow(call: Ladder) -> None:
    first = steps(call, "sip")[0]
    assert (first.source, first.target, first.label) == ("alice", "pcscf-a", "INVITE +SDP")
    assert (first.at_ms, first.until_ms, first.unseen) == (0.0, 1.0, False)
    assert sum(step.source == "alice" for step in steps(call, "sip")) == 1


@pytest.mark.parametrize("late", range(len([*call_spans(), *kms_spans()])))
def test_a_step_keeps_its_id_whatever_span_of_the_call_comes_last(late: int) -> None:
    spans = [*call_spans(), *kms_spans()]
    whole = of_call(spans, CALL, NAMES).steps
    assert len({step.ids[0] for step in whole}) == len(whole)
    for early in of_call(spans[:late] + spans[late + 1 :], CALL, NAMES).steps:
        same = [step for step in whole if early.ids[0] in step.ids]
        assert [(step.kind, step.text) for step in same] == [(early.kind, early.text)]


@pytest.mark.attack("T9")
def test_a_node_that_copies_the_ids_of_a_span_of_another_does_not_get_the_ids_of_its_steps() -> None:
    spans = call_spans()
    copied = [
        replace(one, node="eve", start_ns=one.start_ns - 1, attributes={**one.attributes, "lie": 1}) for one in spans
    ]
    ids = [name for step in of_call([*copied, *spans], CALL, NAMES).steps for name in step.ids]
    assert len(set(ids)) == len(ids)
    assert {name for step in of_call(spans, CALL, NAMES).steps for name in step.ids} <= set(ids)


def test_a_response_is_labelled_with_its_status_and_method(call: Ladder) -> None:
    last = steps(call, "sip")[1]
    assert [step.label for step in steps(call, "sip") if step.outcome].count("200 OK (INVITE)") == 3
    assert last.detail.startswith(("INVITE", "SIP/2.0"))


def test_a_message_that_did_not_arrive_is_marked_and_its_retransmission_too(call: Ladder) -> None:
    sent = [step for step in steps(call, "sip") if (step.source, step.target) == ("pcscf-a", "cscf")]
    assert [(step.at_ms, step.unseen, step.retransmission) for step in sent] == [
        (7.0, False, False),
        (507.0, True, True),
    ]


def test_a_peer_outside_the_lab_is_named_by_its_address_and_not_marked_lost(call: Ladder) -> None:
    outside = [step for step in steps(call, "sip") if "127.9.9.9" in step.target]
    assert [(step.label, step.unseen) for step in outside] == [("INVITE +SDP", False)]


def test_a_service_call_is_an_arrow_to_the_node_that_served_it(call: Ladder) -> None:
    (rpc,) = steps(call, "rpc")
    assert (rpc.source, rpc.target, rpc.interface) == ("pcscf-a", "imsagw-a", "Iq")
    assert rpc.label == "Iq.ReserveAndConfigure"
    assert rpc.outcome == "OK"
    assert rpc.until_ms - rpc.at_ms == pytest.approx(3.0)


def test_a_key_decision_is_a_note_at_its_node(call: Ladder) -> None:
    (note,) = steps(call, "decision")
    assert (note.source, note.target) == ("pcscf-a", "")
    assert note.label == "e2ae-sdes accepted AES_CM_128_HMAC_SHA1_80 tag 1"
    assert note.detail == "first acceptable line"


def decided(**facts: str) -> Step:
    attributes = {"sip.call_id": CALL, **{f"imslab.decision.{name}": value for name, value in facts.items()}}
    (note,) = steps(of_call([span("bob", "key.decision", 2, 2.1, attributes=attributes)], CALL, NAMES), "decision")
    return note


def test_a_refusal_is_noted_with_its_word_and_the_check_that_failed() -> None:
    note = decided(mode="e2e-kms", outcome="refused", reason="mikey-invalid", detail="Replayed: T: seen before")
    assert (note.label, note.detail) == ("e2e-kms refused", "mikey-invalid: Replayed: T: seen before")


def test_a_decision_on_keys_of_the_kms_names_crypto_sessions_and_no_tag() -> None:
    note = decided(mode="e2e-kms", outcome="accepted", suite="AEAD_AES_128_GCM", cs_ids="1,2")
    assert note.label == "e2e-kms accepted AEAD_AES_128_GCM CS 1,2"


def test_both_ends_of_a_media_leg_are_one_segment_coloured_by_protection(call: Ladder) -> None:
    access, core = sorted(steps(call, "media"), key=lambda step: step.protection, reverse=True)
    assert {access.source, access.target} == {"alice", "imsagw-a"}
    assert (access.protection, len(access.ends)) == ("SRTP", 2)
    assert access.label == "SRTP SDES AES_CM_128_HMAC_SHA1_80"
    assert (core.protection, len(core.ends)) == ("RTP", 1)


@pytest.mark.parametrize(
    ("answer", "packets", "shown"),
    [("403 Forbidden", 0, False), ("403 Forbidden", 7, True), ("200 OK", 0, True), ("183 Session Progress", 0, False)],
)
def test_media_that_were_only_reserved_are_not_drawn(answer: str, packets: int, shown: bool) -> None:
    sent, received = "INVITE tel:+15550199 SIP/2.0", f"SIP/2.0 {answer}"
    counted = {"sip.call_id": CALL, "side": "access", "protection": "SRTP", "keying": "SDES", "remote": "127.1.1.13:4"}
    spans = [
        transaction(
            "alice", "pcscf-a", "INVITE", [(0, "sent", sent, False), (9, "received", received, False)], kind="CLIENT"
        ),
        span("imsagw-a", "media.association", 5, 9, attributes={**counted, "packets_in": packets}),
    ]
    assert bool(steps(of_call(spans, CALL, NAMES), "media")) is shown


def test_a_registration_in_the_same_trace_is_not_part_of_the_call(call: Ladder) -> None:
    assert not any("REGISTER" in step.label for step in call.steps)
    register = of_call(call_spans(), "register-1", NAMES)
    assert [step.label for step in register.steps] == ["REGISTER", "200 OK (REGISTER)"]


def test_steps_are_in_time_order_and_participants_from_caller_to_core(call: Ladder) -> None:
    times = [step.at_ms for step in call.steps]
    assert times == sorted(times)
    assert call.participants[:3] == ("alice", "pcscf-a", "imsagw-a")
    assert call.trace_id == TRACE


def test_an_unknown_call_has_an_empty_ladder() -> None:
    empty = of_call(call_spans(), "nobody", NAMES)
    assert empty.steps == ()
    assert empty.participants == ()


def test_a_spiral_through_one_node_keeps_its_two_passages_apart() -> None:
    start = "INVITE sip:bob@ims.test SIP/2.0"
    spans = [
        transaction("pcscf-a", "cscf", "INVITE", [(0, "sent", start, False)], kind="CLIENT"),
        transaction("cscf", "pcscf-a", "INVITE", [(1, "received", start, False)], kind="SERVER"),
        transaction("cscf", "pcscf-a", "INVITE", [(2, "sent", start, False)], kind="CLIENT"),
        transaction("pcscf-a", "cscf", "INVITE", [(3, "received", start, False)], kind="SERVER"),
    ]
    drawn = of_call(spans, CALL, NAMES)
    assert [(step.source, step.target, step.unseen) for step in drawn.steps] == [
        ("pcscf-a", "cscf", False),
        ("cscf", "pcscf-a", False),
    ]


def test_a_failed_service_call_is_marked() -> None:
    spans = [
        *call_spans(),
        span(
            "pcscf-a",
            "ims.iq.v1.Iq/Configure",
            8,
            9,
            kind="CLIENT",
            status="ERROR",
            attributes={"rpc.service": "ims.iq.v1.Iq", "rpc.method": "Configure", "sip.call_id": CALL},
        ),
    ]
    assert [step.outcome for step in of_call(spans, CALL, NAMES).steps if step.kind == "rpc"] == ["OK", "ERROR"]


def test_counters_of_an_association_are_numbers() -> None:
    (access, *_) = media_ends(call_spans())
    assert (access.node, access.packets_in, access.packets_out, access.replays) == ("imsagw-a", 150, 149, 0)


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 5))
def test_no_message_is_lost_or_drawn_twice(arrivals: list[bool], late: int) -> None:
    start = "MESSAGE sip:bob@ims.test SIP/2.0"
    sent = [(float(index * 10), "sent", start, index > 0) for index in range(len(arrivals))]
    heard = [(index * 10 + late, "received", start, False) for index, came in enumerate(arrivals) if came]
    spans = []
    if sent:
        spans.append(transaction("alice", "pcscf-a", "MESSAGE", sent, kind="CLIENT"))
    if heard:
        spans.append(transaction("pcscf-a", "alice", "MESSAGE", heard, kind="SERVER"))
    pairs = pair_messages(messages_of(spans, NAMES), frozenset(("alice", "pcscf-a")))
    assert len([one for one, _ in pairs if one is not None]) == len(sent)
    assert len([other for _, other in pairs if other is not None]) == len(heard)
    assert len(pairs) == len(sent)


@pytest.fixture
def keyed() -> Ladder:
    return of_call([*call_spans(), *kms_spans()], CALL, NAMES)


def test_a_ticket_request_before_the_invite_opens_the_ladder_with_its_payloads(keyed: Ladder) -> None:
    asked, answered = steps(keyed, "http")[:2]
    assert keyed.steps[0] is asked
    assert (asked.source, asked.target, asked.label) == ("alice", "kms", f"POST {REQUEST[0]}")
    assert (asked.at_ms, asked.until_ms, asked.interface, asked.unseen) == (0.0, 1.0, "Ua", False)
    assert (answered.source, answered.target, answered.label) == ("kms", "alice", f"200 {REQUEST[1]}")
    assert (answered.at_ms, answered.until_ms, answered.outcome) == (19.0, 20.0, "200")
    assert steps(keyed, "sip")[0].at_ms == 40.0


def test_a_resolve_and_what_one_kms_asks_the_other_stand_in_the_same_ladder(keyed: Ladder) -> None:
    asked, answered = steps(keyed, "http")[2:]
    assert (asked.source, asked.target, asked.label) == ("bob", "kms-p", f"POST {RESOLVE[0]}")
    relayed = next(step for step in steps(keyed, "rpc") if step.interface == "Zk")
    assert (relayed.source, relayed.target, relayed.label) == ("kms-p", "kms", "NkmsResolve.ResolveTicket")
    assert asked.at_ms < relayed.at_ms < answered.at_ms
    assert {"kms", "kms-p"} <= set(keyed.participants)
    assert keyed.traces == (TRACE,)


def test_a_transfer_message_and_a_decision_of_the_kms_are_notes(keyed: Ladder) -> None:
    (note,) = steps(keyed, "mikey")
    assert (note.source, note.label) == ("bob", "TRANSFER_INIT received")
    assert note.detail == "T, RANDRi, IDRi, IDRr, TICKET, V"
    decision = next(step for step in steps(keyed, "decision") if step.source == "kms")
    assert (decision.label, decision.detail) == ("request granted", "sip:alice@ims.test for sip:bob@ims.test")


def test_the_operators_own_calls_stay_out_of_a_ladder_with_a_ticket_request(keyed: Ladder) -> None:
    assert "lab" not in keyed.participants
    assert not any("UeControl" in step.label for step in keyed.steps)


def test_a_kms_that_cannot_be_reached_is_an_arrow_that_does_not_arrive() -> None:
    client = http("alice", "kms", "kms.ims.test", -40, -20, span_id="00000000000000d1")[0]
    attributes = {key: value for key, value in client.attributes.items() if key != "http.response.status_code"}
    broken = replace(client, attributes={**attributes, "error.type": "unreachable"}, status="ERROR")
    asked, failed = steps(of_call([*call_spans(), broken], CALL, {**NAMES, "kms.ims.test": "kms"}), "http")
    assert (asked.target, asked.unseen) == ("kms", True)
    assert (failed.label, failed.outcome) == ("unreachable", "ERROR")


def test_a_key_management_line_in_a_message_is_told() -> None:
    event = next(event for one in call_spans() for event in one.events if "INVITE" in event.text("start_line"))
    line = "a=key-mgmt:mikey <secret>\r\nm=audio"
    text = event.text("text").replace("m=audio", line)
    spans = [
        replace(one, events=tuple(replace(each, attributes={**each.attributes, "text": text}) for each in one.events))
        for one in call_spans()[:2]
    ]
    assert steps(of_call(spans, CALL, NAMES), "sip")[0].label == "INVITE +SDP +MIKEY"


def test_the_nodes_of_one_home_network_stand_side_by_side_the_caller_s_first() -> None:
    homes = {"cscf": "ims.test", "hss": "ims.test", "kms": "ims.test", "kms-p": "partner.test", "bsf-p": "partner.test"}
    lanes = of_call([*call_spans(), *kms_spans()], CALL, NAMES, homes).participants
    own = [lanes.index(name) for name in lanes if homes.get(name) == "ims.test"]
    others = [lanes.index(name) for name in lanes if homes.get(name) == "partner.test"]
    assert len(own) >= 2
    assert own == list(range(own[0], own[0] + len(own)))
    assert others == list(range(own[-1] + 1, own[-1] + 1 + len(others))) != []


def test_nodes_and_interfaces_can_be_left_out(keyed: Ladder) -> None:
    left = less(keyed, ["KMS-p", "Iq"])
    assert "kms-p" not in left.participants
    assert set(left.participants) == {name for step in left.steps for name in (step.source, step.target) if name}
    assert not any("kms-p" in (step.source, step.target) or step.interface == "Iq" for step in left.steps)
    assert len(left.steps) < len(keyed.steps)
    assert less(keyed, []) == keyed
    with pytest.raises(KeyError, match="nobody"):
        less(keyed, ["nobody"])


@pytest.mark.parametrize(
    ("interface", "label", "arrow"),
    [
        ("Nnrf", "NnrfNfDiscovery.Discover", "Nnrf Discover"),
        ("Nnrf", "NnrfAccessToken.GetToken", "Nnrf GetToken"),
        ("Iq", "Iq.Reserve", "Iq.Reserve"),
        ("Zk", "NkmsResolve.ResolveTicket", "Zk NkmsResolve.ResolveTicket"),
    ],
)
def test_a_reference_point_is_named_once_on_an_arrow(interface: str, label: str, arrow: str) -> None:
    assert arrow_label(Step("rpc", 0, 0, "a", "nrf", label, interface=interface, ids=("1",))) == arrow


@pytest.mark.attack("T1")
def test_a_node_draws_nothing_under_the_name_of_another() -> None:
    said = {"imslab.node": "pcscf-a", "imslab.decision.node": "pcscf-a", "media.node": "pcscf-a"}
    lies = [replace(each, node="bob", attributes={**each.attributes, **said}) for each in call_spans()]
    assert {message.node for message in messages_of(lies, NAMES)} == {"bob"}
    assert {end.node for end in media_ends(lies)} == {"bob"}
    decisions = [step for step in of_call(lies, CALL, NAMES).steps if step.kind == "decision"]
    assert {step.source for step in decisions} == {"bob"}
