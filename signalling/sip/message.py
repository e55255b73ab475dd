"""The door to SIP messages: types, datagram parser and stream parser (RFC 3261 7, 18.3, 25)."""

from __future__ import annotations

from signalling.sip.fields import HeaderField, Headers
from signalling.sip.model import SipMessage, SipParseError, SipRequest, SipResponse
from signalling.sip.parser import parse_message
from signalling.sip.stream_parser import (
    StreamEvent,
    StreamFault,
    StreamMessage,
    StreamParser,
    StreamPing,
    StreamPong,
)

__all__ = [
    "HeaderField",
    "Headers",
    "SipMessage",
    "SipParseError",
    "SipRequest",
    "SipResponse",
    "StreamEvent",
    "StreamFault",
    "StreamMessage",
    "StreamParser",
    "StreamPing",
    "StreamPong",
    "parse_message",
]
