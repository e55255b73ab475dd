"""SIP on the trace: a span per transaction, one trace per call whoever sends what, nothing secret."""

from __future__ import annotations

import hashlib

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from nodes.siptrace import (
    DROPS_PER_SECOND,
    SipTracer,
    call_trace,
    format_traceparent,
    parse_traceparent,
    trace_id_of_call,
)
from sba.config import Otlp
from sba.telemetry import Telemetry, within
from signalling.sip.flow import Flow, TransactionFailure
from signalling.sip.message import SipRequest
from signalling.sip.stack import make_response
from signalling.sip.transaction import cancel_for
from tests.pcscf.edge import CRYPTO_1, KEY_1, audio

GM = Flow("TLS", ("127.0.0.1", 5061), ("127.0.0.2", 40000), "1", "gm")
MW = Flow("TLS", ("127.0.0.1", 5062), ("127.0.0.3", 40000), "2", "mw")
CALL = "call-1@ue"
STRANGE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A trace context of somebody else."""


def request(
    method: str = "INVITE", branch: str = "z9hG4bKone", *, body: bytes = b"", tag: str = "", cseq: int = 1
) -> SipRequest:
    return SipRequest(
        method,
        "sip:bob@ims.test",
        [
            ("Via", f"SIP/2.0/TLS 127.0.0.2:40000;branch={branch}"),
            ("From", "<sip:alice@ims.test>;tag=a"),
            ("To", "<sip:bob@ims.test>" + (f";tag={tag}" if tag else "")),
            ("Call-ID", CALL),
            ("CSeq", f"{cseq} {method}"),
        ],
        body,
    )


class Traced:
    """A tracer of a P-CSCF, and the spans it ended."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.telemetry = Telemetry("pcscf-a", "PCSCF", otlp=Otlp(sampling=ratio))
        self.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.now = 0.0
        self.tracer = self.another_life()

    def another_life(self) -> SipTracer:
        return SipTracer(
            self.telemetry,
            node="pcscf-a",
            interfaces={"gm": "Gm", "mw": "Mw"},
            believes=lambda flow: flow.role == "mw",
            monotonic=lambda: self.now,
        )

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def receive(self, message, flow: Flow = GM) -> None:
        self.tracer.message_received(message.to_bytes(), message, flow, "")

    def send(self, message, flow: Flow = GM) -> None:
        self.tracer.message_sent(message.to_bytes(), message, flow, "")

    def exchange(self, message, status: int = 200, flow: Flow = GM) -> None:
        self.receive(message, flow)
        self.send(make_response(message, status), flow)


def marked(message: SipRequest, traceparent: str) -> SipRequest:
    message.headers.set("traceparent", traceparent)
    return message


def claim(trace_id: int, span_id: int = 7, flags: int = 1) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


# which trace


def test_a_call_without_traceparent_is_the_trace_of_its_call_id_and_has_no_parent():
    it = Traced()
    it.exchange(request("OPTIONS"))
    (span,) = it.spans
    assert f"{span.context.trace_id:032x}" == hashlib.sha256(CALL.encode()).hexdigest()[:32] == trace_id_of_call(CALL)
    assert span.parent is None
    assert (span.attributes["imslab.interface"], span.attributes["sip.status_code"]) == ("Gm", 200)
    assert (span.attributes["sip.transport"], span.attributes["network.transport"]) == ("TLS", "tcp")
    assert [event.attributes["direction"] for event in span.events] == ["received", "sent"]


@pytest.mark.attack("T7")
def test_a_traceparent_of_a_ue_is_not_believed():
    it = Traced()
    it.exchange(marked(request("OPTIONS"), STRANGE))
    (span,) = it.spans
    assert span.context.trace_id == call_trace(CALL)
    assert span.parent is None
    assert not span.links


@pytest.mark.attack("T1")
def test_a_ue_may_name_its_span_of_the_calls_own_trace_but_not_that_nothing_is_recorded():
    it = Traced()
    it.exchange(marked(request("OPTIONS"), claim(call_trace(CALL), 7, flags=0)))
    (span,) = it.spans
    assert (span.context.trace_id, span.parent.span_id) == (call_trace(CALL), 7)


@pytest.mark.attack("T7")
def test_a_ue_cannot_have_recorded_what_the_lab_does_not_record():
    it = Traced(ratio=0.0)
    it.exchange(marked(request("OPTIONS"), claim(call_trace(CALL), 7, flags=1)))
    assert not it.spans


def test_a_node_of_the_trust_domain_is_believed():
    it = Traced()
    it.exchange(marked(request("OPTIONS"), STRANGE), flow=MW)
    (span,) = it.spans
    assert (span.context.trace_id, span.parent.span_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)


@pytest.mark.parametrize("text", [None, "", "00-0-0-0", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "01-x"])
def test_a_malformed_traceparent_is_no_parent(text):
    assert parse_traceparent(text) is None


# who is whose parent


def test_what_is_forwarded_is_below_what_came_and_carries_its_own_traceparent():
    it = Traced()
    came = request("OPTIONS")
    it.receive(came)
    onward = request("OPTIONS", "z9hG4bKtwo")
    with it.tracer.serving(came):
        it.tracer.request_hook(onward, None, "mw")
    it.send(onward, MW)
    it.receive(make_response(onward, 200), MW)
    it.send(make_response(came, 200))
    client, server = it.spans
    assert client.parent.span_id == server.context.span_id
    assert parse_traceparent(onward.headers.get("traceparent")).span_id == client.context.span_id


def test_every_branch_of_a_fork_is_a_span_below_the_same_request():
    it = Traced()
    came = request()
    it.receive(came, MW)
    branches = [request("INVITE", f"z9hG4bKb{number}") for number in range(3)]
    for branch in branches:
        with it.tracer.serving(came):
            it.tracer.request_hook(branch, None, "mw")
        it.send(branch, MW)
    for branch in branches:
        it.receive(make_response(branch, 486), MW)
        it.send(request("ACK", branch.headers.get("Via").rpartition("=")[2]), MW)
    it.send(make_response(came, 486), MW)
    it.receive(request("ACK"), MW)
    *forked, server = it.spans
    assert {span.parent.span_id for span in forked} == {server.context.span_id}
    assert len({span.context.span_id for span in forked}) == 3


def test_a_cancel_is_below_the_invite_it_cancels():
    it = Traced()
    invite = request()
    it.receive(invite)
    it.exchange(cancel_for(invite))
    it.tracer.close()
    cancel, cancelled = it.spans
    assert (cancel.name, cancelled.name) == ("SIP CANCEL", "SIP INVITE")
    assert cancel.parent.span_id == cancelled.context.span_id


def test_what_an_ack_causes_is_below_the_ack():
    it = Traced()
    it.exchange(request())
    ack = request("ACK", "z9hG4bKack", tag="b")
    it.receive(ack)
    onward = request("ACK", "z9hG4bKonward", tag="b")
    with it.tracer.serving(ack):
        it.tracer.request_hook(onward, None, "mw")
    it.send(onward, MW)
    received, _invite, sent = it.spans
    assert (received.name, sent.name) == ("SIP ACK", "SIP ACK")
    assert sent.parent.span_id == received.context.span_id


def test_a_ue_that_does_not_trace_gets_no_traceparent_but_its_span_is_kept():
    it = Traced()
    sent = marked(request("OPTIONS"), STRANGE)
    span = it.tracer.outgoing(sent, inject=False)
    assert sent.headers.get("traceparent") is None
    it.send(sent)
    it.receive(make_response(sent, 200))
    assert it.spans[0].context.span_id == span.get_span_context().span_id


# a call over time


def test_a_bye_is_linked_to_the_first_invite_and_below_whoever_sent_it():
    it = Traced()
    it.exchange(request())
    it.receive(request("ACK", "z9hG4bKack", tag="b"))
    it.now = 7200.0
    it.exchange(marked(request("BYE", "z9hG4bKbye", tag="b", cseq=2), claim(call_trace(CALL), 9)))
    invite = next(span for span in it.spans if span.name == "SIP INVITE")
    bye = it.spans[-1]
    assert (bye.context.trace_id, bye.parent.span_id) == (invite.context.trace_id, 9)
    (link,) = bye.links
    assert (link.context.span_id, dict(link.attributes)) == (invite.context.span_id, {"imslab.link": "call"})


def test_a_bye_of_a_foreign_ue_is_below_the_first_invite():
    it = Traced()
    it.exchange(request())
    it.receive(request("ACK", "z9hG4bKack", tag="b"))
    it.exchange(request("BYE", "z9hG4bKbye", tag="b", cseq=2))
    invite = next(span for span in it.spans if span.name == "SIP INVITE")
    assert it.spans[-1].parent.span_id == invite.context.span_id


def test_a_call_outlives_the_process_that_saw_it_begin():
    it = Traced()
    it.exchange(request())
    kept = it.tracer.first_span(CALL)
    it.tracer.close()
    it.tracer = it.another_life()
    it.tracer.restore(CALL, kept)
    it.exchange(request("BYE", "z9hG4bKbye", tag="b", cseq=2))
    invite, bye = it.spans
    assert (bye.context.trace_id, bye.parent.span_id) == (call_trace(CALL), invite.context.span_id)


def test_a_node_that_kept_nothing_of_a_call_still_finds_its_trace():
    it = Traced()
    it.exchange(request("BYE", "z9hG4bKbye", tag="b", cseq=2))
    (span,) = it.spans
    assert (span.context.trace_id, span.parent) == (call_trace(CALL), None)


def test_what_a_node_sends_for_a_call_is_of_its_trace_whatever_made_it_send():
    it = Traced()
    it.exchange(request())
    it.receive(request("ACK", "z9hG4bKack", tag="b"))
    deregistration = it.telemetry.tracer.start_span("another trace")
    bye = request("BYE", "z9hG4bKbye", tag="b", cseq=2)
    with within(trace.set_span_in_context(deregistration)):
        it.tracer.outgoing(bye)
    it.send(bye)
    it.receive(make_response(bye, 200))
    sent = it.spans[-1]
    assert sent.context.trace_id == call_trace(CALL)
    causes = [link.context.span_id for link in sent.links if link.attributes["imslab.link"] == "cause"]
    assert causes == [deregistration.get_span_context().span_id]


def test_the_key_press_is_the_root_and_points_at_its_cause():
    it = Traced()
    command = it.telemetry.tracer.start_span("imslab call")
    root = it.tracer.begin("ue.call", CALL, command.get_span_context())
    invite = request()
    it.tracer.outgoing(invite)
    root.end()
    it.send(invite)
    it.receive(make_response(invite, 486))
    it.send(request("ACK"))
    pressed, called = it.spans
    assert (pressed.parent, pressed.context.trace_id) == (None, call_trace(CALL))
    assert pressed.links[0].context.span_id == command.get_span_context().span_id
    assert called.parent.span_id == pressed.context.span_id


# transactions


def test_the_ack_of_a_refusal_belongs_to_the_invite_and_that_of_a_2xx_does_not():
    it = Traced()
    it.exchange(request(), 486)
    assert not it.spans
    it.receive(request("ACK"))
    (span,) = it.spans
    assert len(span.events) == 3
    it.receive(request("ACK", "z9hG4bKack"))
    assert it.spans[-1].name == "SIP ACK"


@pytest.mark.attack("T7")
@pytest.mark.parametrize("call_id", [CALL, "another@eve"])
def test_who_takes_the_branch_of_another_gets_no_word_into_his_span(call_id):
    it = Traced()
    alice, eve = request(), request()
    eve.headers.set("Via", "SIP/2.0/TLS 127.0.0.9:40000;branch=z9hG4bKone")
    eve.headers.set("Call-ID", call_id)
    it.receive(alice)
    with it.tracer.serving(alice):
        hers = trace.get_current_span().get_span_context().span_id
    it.exchange(eve, 603)
    with it.tracer.serving(eve):
        assert trace.get_current_span().get_span_context().span_id != hers
    cancel = cancel_for(eve)
    it.exchange(cancel)
    it.send(make_response(alice, 200))
    it.receive(request("ACK", "z9hG4bKack", tag="b"))
    (span,) = (span for span in it.spans if span.context.span_id == hers)
    assert span.attributes["sip.status_code"] == 200
    assert not any("127.0.0.9" in event.attributes["text"] for event in span.events)


def test_repetitions_make_no_second_span_and_are_counted():
    it = Traced()
    invite = request()
    it.receive(invite)
    it.tracer.retransmission("received", invite.to_bytes(), invite, GM, "")
    answer = make_response(invite, 200)
    it.send(answer)
    for _ in range(2):
        it.tracer.retransmission("sent", answer.to_bytes(), answer, GM, "")
    assert not it.spans, "an INVITE waits for the ACK of its 2xx"
    it.receive(request("ACK", "z9hG4bKack", tag="b"))
    (span,) = (span for span in it.spans if span.name == "SIP INVITE")
    assert span.attributes["sip.retransmissions"] == 3
    assert [event.attributes["retransmission"] for event in span.events] == [False, True, False, True, True]
    answered = span.events[2].timestamp
    assert abs(span.end_time - answered) < 1_000_000_000


def test_a_second_2xx_of_a_forked_invite_has_a_span_of_its_own():
    it = Traced()
    invite = request()
    it.tracer.outgoing(invite)
    it.send(invite)
    it.receive(make_response(invite, 200))
    it.send(request("ACK", "z9hG4bKack", tag="b"))
    it.receive(make_response(invite, 200))
    late = it.spans[-1]
    assert (late.name, late.attributes["sip.late"]) == ("SIP INVITE", True)
    assert late.context.trace_id == call_trace(CALL)


def test_a_request_nobody_answers_ends_with_its_failure():
    it = Traced()
    invite = request()
    it.tracer.outgoing(invite)
    it.send(invite)
    it.tracer.failure_hook(invite, TransactionFailure("timeout"))
    (span,) = it.spans
    assert (span.attributes["error.type"], span.status.status_code) == ("timeout", StatusCode.ERROR)


def test_transactions_that_nobody_ends_are_ended():
    it = Traced()
    it.receive(request())
    it.now = 1000.0
    it.tracer._sweep()
    assert [span.name for span in it.spans] == ["SIP INVITE"]


@pytest.mark.parametrize(
    ("status", "error"), [(488, "488"), (403, "403"), (503, "503"), (486, None), (401, None), (200, None)]
)
def test_a_refusal_is_an_error_and_a_challenge_or_a_busy_phone_is_none(status, error):
    it = Traced()
    it.exchange(request("OPTIONS"), status)
    (span,) = it.spans
    assert span.attributes.get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) is (error is not None)


# what it must not do


@pytest.mark.attack("T8")
def test_texts_on_spans_hold_no_key():
    it = Traced()
    it.exchange(request(body=audio(4, "RTP/SAVP", CRYPTO_1)))
    it.tracer.close()
    event = it.spans[0].events[0]
    assert KEY_1.partition(":")[2] not in event.attributes["text"]
    assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80" in event.attributes["text"]


def test_nothing_is_rendered_for_a_call_that_is_not_sampled(monkeypatch):
    it = Traced(ratio=0.0)
    monkeypatch.setattr("nodes.siptrace.redact", lambda _data: pytest.fail("rendered"))
    it.exchange(request())
    it.tracer.message_dropped("noise", b"x", None)
    assert not it.spans


@pytest.mark.attack("T7")
def test_garbage_does_not_push_other_spans_out_of_the_queue():
    it = Traced()
    for _ in range(1000):
        it.tracer.message_dropped("malformed: x", b"x", GM)
    assert len(it.spans) == DROPS_PER_SECOND
    it.tracer._sweep()
    it.tracer.message_dropped("malformed: x", b"x", GM)
    assert len(it.spans) == DROPS_PER_SECOND + 1


@pytest.mark.attack("T7")
def test_a_method_somebody_made_up_names_no_span():
    it = Traced()
    it.exchange(request("XYZZY"), 405)
    (span,) = it.spans
    assert (span.name, span.attributes["sip.method"]) == ("SIP _OTHER", "XYZZY")


def test_a_ratio_decides_alike_on_every_node():
    first, second = Traced(0.5), Traced(0.5)
    for number in range(64):
        for it in (first, second):
            message = request("OPTIONS", f"z9hG4bK{number}")
            message.headers.set("Call-ID", f"call-{number}")
            it.exchange(message)
    seen = [{span.attributes["sip.call_id"] for span in it.spans} for it in (first, second)]
    assert seen[0] == seen[1]
    assert 8 < len(seen[0]) < 56


def test_format_and_parse_agree():
    assert format_traceparent(parse_traceparent(STRANGE)) == STRANGE
