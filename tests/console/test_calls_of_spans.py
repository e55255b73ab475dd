"""What the table of calls says of a call follows from its spans, in whatever order they come."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from lab.callfold import CallRecord, call_of, identity
from lab.console.mediapath import Surroundings, ends_of_spans
from lab.console.mediawords import document
from lab.ladder import media_ends, of_call
from lab.spans import Span, SpanEvent
from lab.tracestore import TraceStore
from tests.console.calls import BASE, SECOND, beside, call, decision, invite

CALL = "c1@127.1.1.13"


def folded(spans: list[Span]) -> CallRecord:
    record = CallRecord(CALL)
    for span in spans:
        record.take(span)
    return record


def facts(record: CallRecord) -> tuple[object, ...]:
    return (
        *(record.from_uri, record.to_uri, record.state, record.result, record.sip_status, record.security),
        *(record.began_ns, record.over_ns, record.reason, record.trace_id, record.caller_node, set(record.nodes)),
    )


def test_an_answered_call_that_was_ended():
    record = folded(call(CALL, BASE))
    assert (record.from_uri, record.to_uri) == ("sip:alice@ims.test", "sip:bob@ims.test")
    assert (record.state, record.result, record.sip_status) == ("ended", "established", 200)
    assert (record.security, record.suites) == ("e2ae-sdes", ["AEAD_AES_128_GCM"])
    assert record.began_ns == BASE
    assert record.over_ns == BASE + 5 * SECOND
    assert record.final_ns - record.spoken_ns == SECOND // 4


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_spans_does_not_matter(seed):
    spans = [
        *call(CALL, BASE),
        invite(CALL, "cscf", BASE + 5000, interface="Mw", extra="P-Asserted-Identity: <sip:alice@ims.test>\r\n"),
        decision(call(CALL, BASE)[0], "pcscf-b", "e2ae-sdes", "planned"),
        invite(CALL, "bob", BASE + 3 * SECOND, status=200, to_tag="b", cseq=2, caller="bob", callee="alice"),
    ]
    shuffled = spans[:]
    random.Random(seed).shuffle(shuffled)
    assert facts(folded(shuffled)) == facts(folded(spans))


def test_a_call_that_rings_is_known_by_its_decision_and_has_no_result():
    one = invite(CALL, "alice", BASE)
    record = folded([decision(one, "pcscf-a", "e2ae-sdes", "planned")])
    assert (record.state, record.result, record.security, record.over_ns) == ("setup", "", "e2ae-sdes", 0)


@pytest.mark.parametrize(
    ("status", "result"),
    [(486, "refused"), (488, "refused"), (503, "refused"), (487, "cancelled"), (200, "established")],
)
def test_the_final_answer_decides_the_result(status, result):
    record = folded([invite(CALL, "alice", BASE, status=status, phrase="Word", warning='399 h "media-sec:x"')])
    assert record.result == result
    assert record.state == ("talking" if status == 200 else "ended")
    assert record.reason == ("" if status == 200 else 'Word (399 h "media-sec:x")')


def placed(result: str, status: int, at: int = BASE) -> Span:
    """What the caller's UE says of its own key press."""
    said = {"sip.call_id": CALL, "imslab.call.from": "sip:alice@ims.test", "imslab.call.target": "sip:bob@ims.test"}
    facts: dict[str, object] = {**said, "imslab.call.result": result, "imslab.call.reason": "no ticket"}
    if status:
        facts["sip.status_code"] = status
    return replace(invite(CALL, "alice", at), name="ue.call", attributes=facts, events=[])


@pytest.mark.parametrize(("status", "result"), [(488, "refused"), (0, "failed")])
def test_a_call_that_its_own_ue_refuses_is_told_by_its_key_press_alone(status, result):
    record = folded([placed("refused", status)])
    assert (record.from_uri, record.to_uri) == ("sip:alice@ims.test", "sip:bob@ims.test")
    assert (record.state, record.result, record.sip_status) == ("ended", result, status)
    assert (record.reason, record.over_ns) == ("no ticket", BASE + SECOND // 4)


@pytest.mark.attack("T9")
@pytest.mark.parametrize("status", [100, 700, 1 << 70])
def test_a_key_press_that_tells_no_final_status_tells_none(status):
    assert (folded([placed("refused", status)]).sip_status, folded([placed("refused", status)]).result) == (0, "failed")


@pytest.mark.parametrize("status", [486, 200])
def test_of_a_call_that_went_out_the_answer_speaks_and_not_the_key_press(status):
    spans = [placed("refused" if status > 299 else "established", status), invite(CALL, "alice", BASE, status=status)]
    both = [folded(list(order)) for order in itertools.permutations(spans)]
    assert facts(both[0]) == facts(both[1])
    assert (both[0].sip_status, "no ticket" in both[0].reason) == (status, False)


def test_the_answer_is_that_of_the_node_nearest_to_the_caller():
    """A fork further on was refused, another answered: the caller saw the answer."""
    spans = [
        invite(CALL, "cscf", BASE + 50, status=486),
        invite(CALL, "alice", BASE, status=200),
        invite(CALL, "pcscf-b", BASE + 90, status=500),
    ]
    for order in itertools.permutations(spans):
        assert (folded(list(order)).sip_status, folded(list(order)).caller_node) == (200, "alice")


def test_a_second_try_after_a_challenge_is_the_one_that_counts():
    first, second = invite(CALL, "dave", BASE, status=407), invite(CALL, "dave", BASE + SECOND, status=200, cseq=2)
    assert folded([first, second]).sip_status == folded([second, first]).sip_status == 200


def test_a_re_invite_that_is_refused_leaves_the_call_established():
    record = folded([invite(CALL, "alice", BASE), invite(CALL, "alice", BASE + SECOND, status=488, cseq=2, to_tag="b")])
    assert (record.state, record.result) == ("talking", "established")


def test_who_calls_is_whom_the_network_asserts_not_who_the_caller_says_he_is():
    lie = invite(CALL, "alice", BASE, caller="president")
    own = invite(CALL, "alice", BASE, caller="president", extra="P-Asserted-Identity: <sip:king@ims.test>\r\n")
    core = invite(
        CALL,
        "pcscf-a",
        BASE + 9,
        caller="president",
        interface="Mw",
        extra='P-Asserted-Identity: "A" <sip:alice@ims.test;user=phone>\r\n',
    )
    assert folded([lie]).from_uri == "sip:president@ims.test"
    for order in itertools.permutations([own, core]):
        assert folded(list(order)).from_uri == "sip:alice@ims.test"


def test_the_mode_of_the_callers_end_is_the_mode_of_the_call():
    one = invite(CALL, "alice", BASE)
    spans = [one, decision(one, "alice", "none", "accepted"), decision(one, "bob", "e2ae-sdes", "accepted")]
    for order in itertools.permutations(spans):
        assert folded(list(order)).security == "none"


def test_what_was_asked_for_is_shown_until_something_is_agreed():
    one = invite(CALL, "alice", BASE, status=488)
    refused = [one, decision(one, "alice", "e2e-kms", "refused"), decision(one, "pcscf-a", "e2e", "planned")]
    assert folded(refused).security == "e2e-kms"


def test_a_p_cscf_that_only_passes_on_says_less_than_who_asked():
    one = invite(CALL, "alice", BASE, status=488)
    record = CallRecord(CALL, modes={"": (1, "e2e-kms")})  # as the order of a call is noted
    for span in (one, decision(one, "pcscf-a", "e2e", "planned"), decision(one, "pcscf-b", "e2e", "applied")):
        record.take(span)
        assert record.security == "e2e-kms"
    record.take(decision(one, "alice", "none", "accepted"))
    assert record.security == "none"


def test_a_p_cscf_speaks_for_a_client_that_does_not_trace():
    one = invite(CALL, "pcscf-a", BASE, kind="SERVER")
    assert folded([one, decision(one, "pcscf-a", "plain", "applied")]).security == "none"
    assert folded([one, decision(one, "pcscf-a", "e2e", "applied", "AES_CM_128_HMAC_SHA1_80")]).security == "e2e-sdes"


def test_registrations_and_stray_messages_are_no_calls():
    one = invite(CALL, "alice", BASE)
    assert call_of(beside(one, "SIP REGISTER", "alice", BASE)) == ""
    assert call_of(beside(one, "SIP OPTIONS", "alice", BASE)) == ""
    assert call_of(decision(one, "pcscf-a", "mediasec", "agreed")) == ""
    assert call_of(beside(one, "SIP BYE", "alice", BASE)) == CALL


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<sip:alice@ims.test>;tag=1", "sip:alice@ims.test"),
        ('"A <b>" <sip:alice@ims.test;user=phone>;tag=1', "sip:alice@ims.test"),
        ("sip:alice@ims.test;tag=1", "sip:alice@ims.test"),
        ("tel:+15550100", "tel:+15550100"),
        ("", ""),
        ("<" + "a" * 1000 + ">", "a" * 256),
    ],
)
def test_a_public_identity_is_the_uri_without_what_follows(value, expected):
    assert identity(value) == expected


def test_what_a_hostile_ue_writes_is_bounded_and_stays_text():
    nasty = "<script>" * 200
    one = invite(CALL, "alice", BASE, caller=nasty, callee=nasty, status=400, phrase=nasty)
    record = folded(
        [one, *(decision(one, f"n{index}", f"m{index}" * 50, "accepted", f"s{index}") for index in range(99))]
    )
    assert len(record.from_uri) <= 256
    assert len(record.reason) <= 400
    assert len(record.modes) <= 32
    assert len(record.suites) <= 8
    assert all(len(mode) <= 64 for _, mode in record.modes.values())


def test_folded_and_compact_header_fields_are_read():
    at = invite(CALL, "alice", BASE)
    said = (
        f'INVITE sip:b@x SIP/2.0\r\nf: "A"\r\n <sip:alice@ims.test>;tag=1\r\nt:<sip:bob@ims.test>\r\ni: {CALL}\r\n\r\n'
    )
    event = at.events[0]
    span = replace(at, events=(replace(event, attributes={**event.attributes, "text": said}), *at.events[1:]))
    record = folded([span])
    assert (record.from_uri, record.to_uri) == ("sip:alice@ims.test", "sip:bob@ims.test")


@pytest.mark.attack("T1")
def test_a_ue_asserts_nobodys_identity_and_decides_for_nobody_else():
    ue = invite(CALL, "alice", BASE, interface="Mw", extra="P-Asserted-Identity: <sip:king@ims.test>\r\n")
    weak = decision(call(CALL, BASE)[0], "pcscf-b", "e2ae-sdes", "refused")
    lie = decision(ue, "pcscf-b", "e2e-kms", "accepted")
    record = folded([ue, weak, replace(lie, node="alice", nf_type="UE")])
    assert (record.from_uri, record.asserted) == ("sip:alice@ims.test", False)
    assert record.modes == {"pcscf-b": (1, "e2ae-sdes"), "alice": (2, "e2e-kms")}


@pytest.mark.attack("T9")
@pytest.mark.parametrize("number", ["\N{SUPERSCRIPT TWO}", "9" * 5000, str(2**70), "-1", ""])
def test_what_is_no_number_makes_no_call_unreadable(tmp_path, number):
    store = TraceStore(tmp_path / "t.sqlite")
    one, *later = call(CALL, BASE)
    line = {"direction": "received", "start_line": f"SIP/2.0 {number} OK", "text": ""}
    lie = replace(
        invite(CALL, "mallory", BASE + 1, status=0),
        attributes={**one.attributes, "sip.cseq": f"{number} INVITE", "sip.status_code": number},
        events=(*one.events[:1], SpanEvent(BASE, "sip.message", line)),
    )
    media = beside(
        one, "media.association", "mallory", BASE, packets_in=number, lost=number, jitter_ms=number, stream=number
    )
    store.add_spans([one, lie, media, *later])
    spans = store.spans_of_call(CALL)
    assert of_call(spans, CALL).steps
    assert len(media_ends(spans)) == 1
    streams = {end.stream: [end] for end in ends_of_spans(spans)}
    around = Surroundings("alice", "bob", "", (), {}, {}, {})
    (stream,) = document(streams, ["audio"], around)["streams"]
    assert stream["n"] >= 1
    store.close()
