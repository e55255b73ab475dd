"""Calls that a lab had before it came up: written into its trace store as the supervisor would have written them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from lab.spans import Span, SpanEvent
from lab.tracestore import TraceStore

MANY = 10_000
MARKUP = "<img src=x onerror=alert(1)>"
SCRIPT = '"><script>alert(2)</script>'
HOSTILE_CALL = "hostile<svg/onload=alert(3)>@peer"
"""A Call-ID that is markup, of a call in which everything is."""
PARTIAL_CALL = "partial@lab"
"""A call of which one access network alone reported its media."""
OLDEST_CALL = f"stored-{MANY - 1:05d}@lab"
_SECOND = 1_000_000_000
_AGE = 3600 * _SECOND


def _message(time_ns: int, start_line: str, head: str, body: str = "", direction: str = "sent") -> SpanEvent:
    text = f"{start_line}\r\n{head}\r\n\r\n{body}"
    return SpanEvent(time_ns, "sip.message", {"direction": direction, "start_line": start_line, "text": text})


def _call(number: int, began: int) -> Iterator[Span]:
    call_id, trace_id = f"stored-{number:05d}@lab", f"{number + 1:032x}"
    caller, callee = ("alice", "bob") if number % 2 else ("carol", "alice")
    refused = number % 10 == 3
    head = f"From: <sip:{caller}@ims.test>;tag=1\r\nTo: <sip:{callee}@ims.test>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE"
    status = "SIP/2.0 488 Not Acceptable Here" if refused else "SIP/2.0 200 OK"
    common = {"sip.call_id": call_id, "imslab.interface": "Gm", "network.transport": "TLS"}
    yield Span(
        *(trace_id, f"{number + 1:016x}", "", caller, "UE", "SIP INVITE", "CLIENT", began, began + _SECOND // 5),
        attributes={**common, "sip.cseq": "1 INVITE", "sip.status_code": 488 if refused else 200},
        events=(
            _message(began, f"INVITE sip:{callee}@ims.test SIP/2.0", head),
            _message(began + _SECOND // 5, status, head, direction="received"),
        ),
    )
    if not refused:
        yield Span(
            *(trace_id, f"{number + 1:015x}b", "", caller, "UE", "SIP BYE", "CLIENT", began + 3 * _SECOND),
            began + 3 * _SECOND + _SECOND // 100,
            attributes={**common, "sip.cseq": "2 BYE"},
        )


def _hostile(began: int) -> Iterator[Span]:
    trace_id = "ef" * 16
    head = (
        f'From: "{MARKUP}" <sip:{MARKUP}@ims.test>;tag={SCRIPT}\r\nTo: "{SCRIPT}" <sip:{SCRIPT}@ims.test>\r\n'
        f"Call-ID: {HOSTILE_CALL}\r\nCSeq: 1 INVITE\r\n{MARKUP}: {SCRIPT}\r\nSubject: \u202e{MARKUP}"
    )
    common = {"sip.call_id": HOSTILE_CALL, "imslab.interface": MARKUP, "network.transport": SCRIPT}
    yield Span(
        *(trace_id, "e" * 16, "", MARKUP, SCRIPT, "SIP INVITE", "CLIENT", began, began + _SECOND),
        attributes={**common, "sip.cseq": "1 INVITE", "sip.status_code": 603, MARKUP: SCRIPT},
        events=(
            _message(began, f"INVITE sip:{SCRIPT}@ims.test SIP/2.0", head, MARKUP),
            _message(began + _SECOND, f"SIP/2.0 603 {MARKUP}", head, direction="received"),
        ),
    )
    for number, (mode, outcome) in enumerate(((MARKUP, SCRIPT), ("e2ae-sdes", "refused"))):
        yield Span(
            *(
                trace_id,
                f"{number:016x}",
                "e" * 16,
                MARKUP,
                "UE",
                "key.decision",
                "INTERNAL",
                began + number,
                began + 9,
            ),
            attributes={
                "sip.call_id": HOSTILE_CALL,
                "imslab.decision.mode": mode,
                "imslab.decision.outcome": outcome,
                "imslab.decision.reason": MARKUP,
                "imslab.decision.suite": SCRIPT,
            },
        )
    yield Span(
        *(trace_id, "d" * 16, "e" * 16, MARKUP, "IMS_AGW", "media.association", "INTERNAL", began, began + _SECOND),
        attributes={
            "sip.call_id": HOSTILE_CALL,
            "media.protection": "SRTP",
            "media.keying": MARKUP,
            "media.suite": SCRIPT,
            "media.side": "access",
            "media.stream": MARKUP,
            "media.local": "127.0.0.1:1",
            "media.remote": MARKUP,
        },
    )


def _partial(began: int) -> Iterator[Span]:
    trace_id = "cd" * 16
    head = f"From: <sip:alice@ims.test>;tag=1\r\nTo: <sip:bob@ims.test>\r\nCall-ID: {PARTIAL_CALL}\r\nCSeq: 1 INVITE"
    common = {"sip.call_id": PARTIAL_CALL, "imslab.interface": "Gm", "network.transport": "TLS"}
    yield Span(
        *(trace_id, "c" * 16, "", "alice", "UE", "SIP INVITE", "CLIENT", began, began + _SECOND // 5),
        attributes={**common, "sip.cseq": "1 INVITE", "sip.status_code": 200},
        events=(
            _message(began, "INVITE sip:bob@ims.test SIP/2.0", head),
            _message(began + _SECOND // 5, "SIP/2.0 200 OK", head, direction="received"),
        ),
    )
    yield Span(
        *(trace_id, "b" * 16, "", "alice", "UE", "SIP BYE", "CLIENT", began + 3 * _SECOND, began + 4 * _SECOND),
        attributes={**common, "sip.cseq": "2 BYE"},
    )
    ends = (
        ("alice", "end", "127.9.9.1:4000", "127.9.9.2:5000"),
        ("imsagw-a", "access", "127.9.9.2:5000", "127.9.9.1:4000"),
    )
    for number, (node, side, local, remote) in enumerate(ends):
        yield Span(
            *(trace_id, f"{number + 1:016x}", "c" * 16, node, "UE", "media.association", "INTERNAL", began),
            began + 3 * _SECOND,
            attributes={
                "sip.call_id": PARTIAL_CALL,
                "media.protection": "SRTP",
                "media.keying": "SDES",
                "media.suite": "AES_CM_128_HMAC_SHA1_80",
                "media.side": side,
                "media.stream": "1",
                "media.local": local,
                "media.remote": remote,
                "media.packets_in": 100,
                "media.packets_out": 100,
            },
        )


def fill(path: Path) -> None:
    """Write MANY calls and the hostile one, an hour old, newest first in number."""
    now = time.time_ns() - _AGE
    store = TraceStore(path)
    try:
        spans = [span for number in range(MANY) for span in _call(number, now - number * 5 * _SECOND)]
        for start in range(0, len(spans), 4000):
            store.add_spans(spans[start : start + 4000])
        store.add_spans(_hostile(now + _SECOND))
        store.add_spans(_partial(now + 2 * _SECOND))
    finally:
        store.close()
