"""Spans of a small secured call, as the nodes would report them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from lab.spans import AttributeValue, Span, SpanEvent

CALL = "call-1@127.1.1.13"
TRACE = "0af7651916cd43dd8448eb211c80319c"
BASE = 1_700_000_000_000_000_000
ADDRESSES = {
    "alice": "127.1.1.13",
    "pcscf-a": "127.1.1.9",
    "cscf": "127.1.1.4",
    "imsagw-a": "127.1.1.8",
    "hss": "127.1.1.3",
    "bob": "127.1.1.14",
}
NAMES = {address: name for name, address in ADDRESSES.items()}
TYPES = {
    "kms": "KMS",
    "kms-p": "KMS",
    "bsf": "BSF",
    "alice": "UE",
    "bob": "UE",
    "pcscf-a": "PCSCF",
    "cscf": "SCSCF",
    "imsagw-a": "IMS_AGW",
    "hss": "HSS",
}
SDP = (
    "v=0\r\no=alice 1 1 IN IP4 127.1.1.13\r\ns=-\r\nc=IN IP4 127.1.1.13\r\nt=0 0\r\nm=audio 40000 RTP/SAVP 8\r\n"
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:<redacted>\r\na=rtpmap:8 PCMA/8000\r\n"
)
_ids = count(0x1000)


def message(start: str, cseq: str, body: str = "") -> str:
    kind = "Content-Type: application/sdp\r\n" if body else ""
    return (
        f"{start}\r\nVia: SIP/2.0/TLS 127.1.1.13:5061;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
        f"From: <sip:alice@ims.test>;tag=a\r\nTo: <sip:bob@ims.test>\r\nCall-ID: {CALL}\r\nCSeq: {cseq}\r\n{kind}"
        f"Content-Length: 999\r\n\r\n{body}"
    )


def span(
    node: str,
    name: str,
    at_ms: float,
    until_ms: float,
    *,
    kind: str = "INTERNAL",
    parent: str = "",
    attributes: Mapping[str, AttributeValue] | None = None,
    events: tuple[SpanEvent, ...] = (),
    span_id: str = "",
    trace: str = TRACE,
    status: str = "",
) -> Span:
    return Span(
        trace_id=trace,
        span_id=span_id or f"{next(_ids):016x}",
        parent_id=parent,
        node=node,
        nf_type=TYPES.get(node, ""),
        name=name,
        kind=kind,
        start_ns=BASE + int(at_ms * 1e6),
        end_ns=BASE + int(until_ms * 1e6),
        status=status,
        attributes={"imslab.node": node, **(attributes or {})},
        events=events,
    )


def transaction(
    node: str,
    peer: str,
    method: str,
    events: list[tuple[float, str, str, bool]],
    *,
    kind: str,
    cseq: int = 1,
    call: str = CALL,
    transport: str = "TLS",
    parent: str = "",
    span_id: str = "",
) -> Span:
    """Events are (ms, direction, start line, retransmission)."""
    return span(
        node,
        f"SIP {method}",
        events[0][0],
        events[-1][0],
        kind=kind,
        parent=parent,
        span_id=span_id,
        attributes={
            "sip.method": method,
            "sip.call_id": call,
            "sip.cseq": f"{cseq} {method}",
            "imslab.interface": "Gm" if "UE" in (TYPES.get(node), TYPES.get(peer)) else "Mw",
            "network.transport": transport,
            "network.local.address": ADDRESSES.get(node, node),
            "network.local.port": 5060,
            "network.peer.address": ADDRESSES.get(peer, peer),
            "network.peer.port": 5061,
        },
        events=tuple(
            SpanEvent(
                BASE + int(ms * 1e6),
                "sip.message",
                {
                    "direction": direction,
                    "start_line": start,
                    "text": message(start, f"{cseq} {method}", SDP if "INVITE" in start else ""),
                    "size": 700,
                    "retransmission": again,
                },
            )
            for ms, direction, start, again in events
        ),
    )


def http(
    client: str,
    server: str,
    name: str,
    at_ms: float,
    until_ms: float,
    *,
    parent: str = "",
    status: int = 200,
    messages: tuple[str, str] = ("", ""),
    span_id: str,
) -> list[Span]:
    """A request and its answer, as the two ends trace it; the server names the MIKEY messages in the bodies."""
    common: dict[str, AttributeValue] = {"http.request.method": "POST", "url.path": "/keymanagement"}
    told: dict[str, AttributeValue] = {"imslab.mikey.request": messages[0], "imslab.mikey.response": messages[1]}
    return [
        span(
            client,
            "POST",
            at_ms,
            until_ms,
            kind="CLIENT",
            parent=parent,
            span_id=span_id,
            attributes={**common, "server.address": name, "http.response.status_code": status},
        ),
        span(
            server,
            "POST",
            at_ms + 1,
            until_ms - 1,
            kind="SERVER",
            parent=span_id,
            span_id=f"5{span_id[1:]}",
            attributes={**common, **told, "server.address": name, "http.response.status_code": status},
        ),
    ]


REQUEST = ("REQUEST_INIT_PSK: T, RANDRi, IDRi, IDRkms, TP, IDRpsk, V", "REQUEST_RESP: T, IDRkms, TICKET, KEMAC, V")
RESOLVE = ("RESOLVE_INIT_PSK: T, RANDRr, IDRr, TICKET, IDRpsk, V", "RESOLVE_RESP: T, IDRr, IDRkms, KEMAC, V")


def kms_spans() -> list[Span]:
    """A ticket request 40 ms before the INVITE, and bob's resolve that the KMS of another domain answers."""
    root, ask, resolve, relay = "00000000000000c0", "00000000000000c1", "00000000000000c2", "00000000000000c3"
    served = "00000000000000c4"
    invite = "INVITE sip:bob@ims.test SIP/2.0"
    rpc: dict[str, AttributeValue] = {"rpc.service": "ims.kms_resolve.v1.NkmsResolve", "rpc.method": "ResolveTicket"}
    return [
        span("lab", "imslab call", -50, 700, span_id=root),
        span(
            "lab",
            "ims.ue_control.v1.UeControl/Call",
            -49,
            700,
            kind="CLIENT",
            parent=root,
            attributes={"rpc.service": "ims.ue_control.v1.UeControl", "rpc.method": "Call"},
        ),
        *http("alice", "kms", "kms.ims.test", -40, -20, parent=root, messages=REQUEST, span_id=ask),
        span(
            "kms",
            "kms.decision",
            -35,
            -30,
            parent=f"5{ask[1:]}",
            attributes={
                "imslab.kms.operation": "request",
                "imslab.kms.outcome": "granted",
                "imslab.kms.user": "sip:alice@ims.test",
                "imslab.kms.responders": "sip:bob@ims.test",
            },
        ),
        transaction("bob", "pcscf-a", "INVITE", [(10, "received", invite, False)], kind="SERVER", span_id=served),
        span(
            "bob",
            "mikey.transfer",
            11,
            11.2,
            parent=served,
            attributes={
                "imslab.mikey.message": "TRANSFER_INIT: T, RANDRi, IDRi, IDRr, TICKET, V",
                "imslab.mikey.direction": "received",
                "sip.call_id": CALL,
            },
        ),
        *http("bob", "kms-p", "kms.partner.test", 12, 24, parent=served, messages=RESOLVE, span_id=resolve),
        span(
            "kms-p",
            "ims.kms_resolve.v1.NkmsResolve/ResolveTicket",
            14,
            20,
            kind="CLIENT",
            parent=f"5{resolve[1:]}",
            span_id=relay,
            attributes=rpc,
        ),
        span(
            "kms", "ims.kms_resolve.v1.NkmsResolve/ResolveTicket", 15, 19, kind="SERVER", parent=relay, attributes=rpc
        ),
    ]


def call_spans() -> list[Span]:
    """alice -> pcscf-a -> cscf -> bob, with Iq, a key decision, a retransmission, a lost message and two media legs."""
    invite, ok = "INVITE sip:bob@ims.test SIP/2.0", "SIP/2.0 200 OK"
    media: dict[str, AttributeValue] = {"sip.call_id": CALL, "suite": "AES_CM_128_HMAC_SHA1_80", "stream": "1"}
    server = "00000000000000aa"
    iq = "00000000000000bb"
    return [
        transaction(
            "alice", "pcscf-a", "INVITE", [(0, "sent", invite, False), (30, "received", ok, False)], kind="CLIENT"
        ),
        transaction(
            "pcscf-a",
            "alice",
            "INVITE",
            [(1, "received", invite, False), (29, "sent", ok, False)],
            kind="SERVER",
            span_id=server,
        ),
        span(
            "pcscf-a",
            "key.decision",
            2,
            2.1,
            parent=server,
            attributes={
                "imslab.decision.mode": "e2ae-sdes",
                "imslab.decision.outcome": "accepted",
                "imslab.decision.suite": "AES_CM_128_HMAC_SHA1_80",
                "imslab.decision.tag": "1",
                "imslab.decision.reason": "first acceptable line",
                "sip.call_id": CALL,
            },
        ),
        span(
            "pcscf-a",
            "ims.iq.v1.Iq/ReserveAndConfigure",
            3,
            6,
            kind="CLIENT",
            parent=server,
            span_id=iq,
            attributes={"rpc.system": "grpc", "rpc.service": "ims.iq.v1.Iq", "rpc.method": "ReserveAndConfigure"},
        ),
        span(
            "imsagw-a",
            "ims.iq.v1.Iq/ReserveAndConfigure",
            4,
            5,
            kind="SERVER",
            parent=iq,
            attributes={"rpc.system": "grpc", "rpc.service": "ims.iq.v1.Iq", "rpc.method": "ReserveAndConfigure"},
        ),
        transaction(
            "pcscf-a",
            "cscf",
            "INVITE",
            [(7, "sent", invite, False), (507, "sent", invite, True), (520, "received", ok, False)],
            kind="CLIENT",
            parent=server,
        ),
        transaction(
            "cscf", "pcscf-a", "INVITE", [(508, "received", invite, False), (519, "sent", ok, False)], kind="SERVER"
        ),
        transaction(
            "cscf", "127.9.9.9", "INVITE", [(509, "sent", invite, False), (518, "received", ok, False)], kind="CLIENT"
        ),
        span(
            "imsagw-a",
            "media.association",
            600,
            3600,
            attributes={
                **media,
                "side": "access",
                "protection": "SRTP",
                "keying": "SDES",
                "local": "127.1.1.8:41000",
                "remote": "127.1.1.13:40000",
                "packets_in": 150,
                "packets_out": 149,
            },
        ),
        span(
            "alice",
            "media.association",
            590,
            3610,
            attributes={
                **media,
                "side": "end",
                "protection": "SRTP",
                "keying": "SDES",
                "local": "127.1.1.13:40000",
                "remote": "127.1.1.8:41000",
                "packets_in": 149,
                "packets_out": 150,
            },
        ),
        span(
            "imsagw-a",
            "media.association",
            600,
            3600,
            attributes={
                "sip.call_id": CALL,
                "stream": "1",
                "side": "core",
                "protection": "RTP",
                "local": "127.1.1.7:42000",
                "remote": "127.9.9.9:5004",
                "packets_in": 149,
                "packets_out": 150,
            },
        ),
        transaction(
            "alice",
            "pcscf-a",
            "REGISTER",
            [(-100, "sent", "REGISTER sip:ims.test SIP/2.0", False), (-90, "received", ok, False)],
            kind="CLIENT",
            call="register-1",
        ),
    ]
