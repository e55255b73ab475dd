"""SIP for a capture: every message of a stack as it stood inside TLS, keys masked, for whoever watches just now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from keying.redaction import redact
from nodes.siptrace import SipTracer
from protos import capture_pb2
from sba.spans import wire_text
from sba.tap import Tap
from signalling.sip.flow import Flow, MessageObserver
from signalling.sip.message import SipMessage

SIP: Final = capture_pb2.CAPTURE_SIP
MOST_DROPPED: Final = 16384
"""Octets kept of something that was dropped."""


def trace_finder(tracer: SipTracer) -> Callable[[SipMessage], str]:
    """Return what finds the trace that a message is recorded in; 32 hex digits."""
    return tracer.trace_of


class SipTap:
    """Observer of a SIP stack that feeds captures; `interfaces` maps a flow's role to a reference point."""

    def __init__(self, tap: Tap, interfaces: Mapping[str, str], trace_of: Callable[[SipMessage], str]) -> None:
        self._tap = tap
        self._interfaces = dict(interfaces)
        self._trace_of = trace_of

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message left for the first time."""
        del txn_key
        self._take(data, message, flow, sent=True)

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message came that is no known retransmission."""
        del txn_key
        self._take(data, message, flow, sent=False)

    def retransmission(self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """A message went or came again."""
        del txn_key
        self._take(data, message, flow, sent=direction == "sent", note="retransmission")

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Octets that were no message for this node."""
        if flow is not None and data:
            sent = reason.startswith("response undeliverable")
            self._take(data[:MOST_DROPPED], None, flow, sent=sent, note=f"dropped: {reason}")

    def _take(self, data: bytes, message: SipMessage | None, flow: Flow, *, sent: bool, note: str = "") -> None:
        if not self._tap.wants(SIP):
            return
        at_ns = time.time_ns()

        def render(with_keys: bool) -> capture_pb2.CapturedMessage:
            source, destination = (flow.local, flow.remote) if sent else (flow.remote, flow.local)
            interface = self._interfaces.get(flow.role, flow.role)
            return capture_pb2.CapturedMessage(
                kind=SIP,
                time_ns=at_ns,
                sent=sent,
                transport=flow.transport,
                source_ip=source[0],
                source_port=source[1],
                destination_ip=destination[0],
                destination_port=destination[1],
                payload=redact(data, media_keys=with_keys),
                comment=wire_text(f"{interface}, {note}" if note else interface),
                correlation="" if message is None else wire_text(message.call_id),
                trace_id="" if message is None else self._trace_of(message),
            )

        self._tap.put(SIP, render)


class Observers:
    """Several observers of one stack, told in order."""

    def __init__(self, *observers: MessageObserver) -> None:
        self._observers = observers

    def message_sent(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.message_sent(data, message, flow, txn_key)

    def message_received(self, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.message_received(data, message, flow, txn_key)

    def message_dropped(self, reason: str, data: bytes, flow: Flow | None) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.message_dropped(reason, data, flow)

    def retransmission(self, direction: str, data: bytes, message: SipMessage, flow: Flow, txn_key: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.retransmission(direction, data, message, flow, txn_key)


def observing(tracer: SipTracer, tap: Tap, interfaces: Mapping[str, str], *others: MessageObserver) -> MessageObserver:
    """Return the observer of a node's SIP stack: its tracer, its tap and what else wants to see messages."""
    return Observers(tracer, SipTap(tap, interfaces, trace_finder(tracer)), *others)
