"""SIP on the trace: spans per transaction, one trace per call, nothing secret, nothing done when not sampled."""

from __future__ import annotations

import hashlib

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from nodes.siptrace import SipTracer, call_id_context, format_traceparent, parse_traceparent, trace_id_of_call
from signalling.sip.flow import Flow
from signalling.sip.message import SipRequest
from signalling.sip.stack import make_response
from tests.pcscf.edge import CRYPTO_1, KEY_1, audio

FLOW = Flow("TLS", ("127.0.0.1", 5061), ("127.0.0.2", 40000), "1", "gm")
CALL = "call-1@ue"


def invite(branch: str = "z9hG4bKone", method: str = "INVITE", body: bytes = b"") -> SipRequest:
    return SipRequest(
        method,
        "sip:bob@ims.test",
        [
            ("Via", f"SIP/2.0/TLS 127.0.0.2:40000;branch={branch}"),
            ("From", "<sip:alice@ims.test>;tag=a"),
            ("To", "<sip:bob@ims.test>"),
            ("Call-ID", CALL),
            ("CSeq", f"1 {method}"),
        ],
        body,
    )


class Traced:
    def __init__(self, ratio: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.now = 0.0
        self.tracer = SipTracer(
            provider.get_tracer("test"),
            node="pcscf-a",
            interfaces={"gm": "Gm"},
            sample_ratio=ratio,
            monotonic=lambda: self.now,
        )

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def receive(self, message) -> None:
        self.tracer.message_received(message.to_bytes(), message, FLOW, "")

    def send(self, message) -> None:
        self.tracer.message_sent(message.to_bytes(), message, FLOW, "")


def test_a_call_without_traceparent_belongs_to_the_trace_of_its_call_id():
    it = Traced()
    request = invite(method="OPTIONS")
    it.receive(request)
    it.send(make_response(request, 200))
    (span,) = it.spans
    assert f"{span.context.trace_id:032x}" == hashlib.sha256(CALL.encode()).hexdigest()[:32] == trace_id_of_call(CALL)
    assert span.attributes["imslab.interface"] == "Gm"
    assert span.attributes["sip.status_code"] == 200
    assert [event.attributes["direction"] for event in span.events] == ["received", "sent"]


def test_a_traceparent_is_continued_and_a_new_one_written():
    it = Traced()
    request = invite(method="OPTIONS")
    root = call_id_context("other")
    request.headers.set("traceparent", format_traceparent(root))
    it.receive(request)
    onward = invite("z9hG4bKtwo", "OPTIONS")
    with it.tracer.serving(request):
        it.tracer.request_hook(onward, None, "mw")
    it.send(onward)
    it.receive(make_response(onward, 200))
    it.send(make_response(request, 200))
    client, server = it.spans
    assert server.parent.span_id == root.span_id
    assert client.parent.span_id == server.context.span_id
    assert parse_traceparent(onward.headers.get("traceparent")).span_id == client.context.span_id


def test_a_ue_that_does_not_trace_gets_no_traceparent_but_its_span_is_kept():
    it = Traced()
    request = invite(method="OPTIONS")
    request.headers.set("traceparent", format_traceparent(call_id_context("x")))
    span = it.tracer.outgoing(request, inject=False)
    assert request.headers.get("traceparent") is None
    it.send(request)
    it.receive(make_response(request, 200))
    assert it.spans[0].context.span_id == span.get_span_context().span_id


@pytest.mark.attack("T8")
def test_texts_on_spans_hold_no_key():
    it = Traced()
    request = invite(body=audio(4, "RTP/SAVP", CRYPTO_1))
    it.receive(request)
    it.send(make_response(request, 200))
    (event, _) = it.spans[0].events
    assert KEY_1.partition(":")[2] not in event.attributes["text"]
    assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80" in event.attributes["text"]


def test_the_ack_of_a_refusal_belongs_to_the_invite_and_that_of_a_2xx_does_not():
    it = Traced()
    request = invite()
    it.receive(request)
    it.send(make_response(request, 486))
    assert not it.spans
    it.receive(invite(method="ACK"))
    (span,) = it.spans
    assert len(span.events) == 3
    it.receive(invite("z9hG4bKack", "ACK"))
    assert it.spans[-1].name == "SIP ACK"


def test_repetitions_are_marked_and_forgotten_transactions_end():
    it = Traced()
    request = invite()
    it.receive(request)
    it.tracer.retransmission("received", request.to_bytes(), request, FLOW, "")
    it.now = 1000.0
    it.receive(invite("z9hG4bKlater", "OPTIONS"))
    (span,) = it.spans
    assert [event.attributes["retransmission"] for event in span.events] == [False, True]


def test_nothing_is_rendered_for_a_call_that_is_not_sampled(monkeypatch):
    it = Traced(ratio=0.0)
    monkeypatch.setattr("nodes.siptrace.redact", lambda _data: pytest.fail("rendered"))
    request = invite()
    it.receive(request)
    it.send(make_response(request, 200))
    it.tracer.message_dropped("noise", b"x", None)
    assert not it.spans


@pytest.mark.parametrize("text", [None, "", "00-0-0-0", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "01-x"])
def test_a_malformed_traceparent_is_no_parent(text):
    assert parse_traceparent(text) is None
