"""Calls as their nodes would report them, as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lab.spans import Span, SpanEvent

BASE = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
USERS = ("alice", "bob", "carol", "dave", "erin")
MODES = ("none", "e2ae-sdes", "e2e-sdes", "e2e-kms")


def nf_type(node: str) -> str:
    """The NF type in the certificate of a node."""
    name = node.partition("-")[0]
    return "UE" if node in USERS else {"imsagw": "IMS_AGW", "cscf": "SCSCF"}.get(name, name.upper())


def text(method: str, call_id: str, caller: str, callee: str, *, to_tag: str = "", extra: str = "") -> str:
    tag = f";tag={to_tag}" if to_tag else ""
    return (
        f"{method} sip:{callee}@ims.test SIP/2.0\r\nVia: SIP/2.0/TLS 127.1.1.13:5061;branch=z9hG4bK{call_id}\r\n"
        f"From: <sip:{caller}@ims.test>;tag=a\r\nTo: <sip:{callee}@ims.test>{tag}\r\n{extra}"
        f"Call-ID: {call_id}\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )


def invite(
    call_id: str,
    node: str,
    at: int,
    *,
    caller: str = "alice",
    callee: str = "bob",
    status: int = 200,
    phrase: str = "OK",
    cseq: int = 1,
    interface: str = "Gm",
    kind: str = "CLIENT",
    extra: str = "",
    warning: str = "",
    to_tag: str = "",
    trace: str = "",
) -> Span:
    start = f"INVITE sip:{callee}@ims.test SIP/2.0"
    answer = f"SIP/2.0 {status} {phrase}\r\n" + (f"Warning: {warning}\r\n" if warning else "") + "\r\n"
    said = text("INVITE", call_id, caller, callee, to_tag=to_tag, extra=extra)
    events = [SpanEvent(at, "sip.message", {"direction": "sent", "start_line": start, "text": said})]
    if status:
        line = f"SIP/2.0 {status} {phrase}"
        done = {"direction": "received", "start_line": line, "text": answer}
        events.append(SpanEvent(at + SECOND // 4, "sip.message", done))
    return Span(
        trace_id=trace or f"{abs(hash(call_id)):032x}"[:32],
        span_id=f"{abs(hash((call_id, node, at, kind))):016x}"[:16],
        parent_id="",
        node=node,
        nf_type=nf_type(node),
        name="SIP INVITE",
        kind=kind,
        start_ns=at,
        end_ns=at + SECOND // 4,
        attributes={
            "sip.call_id": call_id,
            "sip.cseq": f"{cseq} INVITE",
            "imslab.node": node,
            "imslab.interface": interface,
            **({"sip.status_code": status} if status else {}),
        },
        events=tuple(events),
    )


def beside(one: Span, name: str, node: str, at: int, **attributes: str | int) -> Span:
    """Another span of the call that ``one`` is of."""
    return replace(
        one,
        span_id=f"{abs(hash((name, node, at))):016x}"[:16],
        name=name,
        node=node,
        nf_type=nf_type(node),
        kind="INTERNAL",
        start_ns=at,
        end_ns=at,
        attributes={"sip.call_id": one.text("sip.call_id"), **attributes},
        events=(),
    )


def decision(one: Span, node: str, mode: str, outcome: str, suite: str = "") -> Span:
    said = {"mode": mode, "outcome": outcome, "suite": suite, "node": node}
    return beside(one, "key.decision", node, one.start_ns + 1, **{f"imslab.decision.{k}": v for k, v in said.items()})


def call(
    call_id: str, at: int, *, caller: str = "alice", callee: str = "bob", mode: str = "e2ae-sdes", status: int = 200
) -> list[Span]:
    """A small call: INVITE at both ends, what was agreed, and its end."""
    one = invite(call_id, caller, at, caller=caller, callee=callee, status=status)
    spans = [
        one,
        invite(call_id, "pcscf-a", at + 1000, caller=caller, callee=callee, status=status, kind="SERVER"),
        decision(one, caller, mode, "accepted" if status < 300 else "refused", "AEAD_AES_128_GCM"),
        beside(one, "ims.iq.v1.Iq/ReserveAndConfigure", "imsagw-a", at + 2000),
    ]
    if status < 300:
        spans.append(beside(one, "SIP BYE", caller, at + 5 * SECOND))
    return spans


def many(count: int) -> Iterator[Sequence[Span]]:
    """Calls of all users in every mode, one a second; one in ten is refused."""
    for number in range(count):
        caller, callee = USERS[number % 5], USERS[(number // 5 + number + 1) % 5]
        if caller == callee:
            callee = USERS[(number + 2) % 5]
        yield call(
            f"{number:06d}-call@127.1.1.{number % 250}",
            BASE + number * SECOND,
            caller=caller,
            callee=callee,
            mode=MODES[number % 4],
            status=486 if number % 10 == 3 else 200,
        )
