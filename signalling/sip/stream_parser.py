"""Framing of SIP on a stream: Content-Length, keep-alive CRLFs, bounded buffer (RFC 3261 18.3, RFC 5626 4.4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from signalling.sip.limits import MAX_HEADER_BLOCK
from signalling.sip.model import SipParseError, SipRequest, SipResponse
from signalling.sip.parser import content_length, parse_head


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A complete message and its octets."""

    message: SipRequest | SipResponse
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamPing:
    """A double CRLF between messages: answer with one CRLF."""


@dataclass(frozen=True, slots=True)
class StreamPong:
    """A single CRLF between messages: the answer to our ping, if one is out."""


@dataclass(frozen=True, slots=True)
class StreamFault:
    """A malformed message; when ``error.fatal`` the stream is lost and takes no more octets."""

    error: SipParseError
    data: bytes


StreamEvent = StreamMessage | StreamPing | StreamPong | StreamFault


class StreamParser:
    """Cuts a stream into messages; holds at most one header block and one body."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._head: SipRequest | SipResponse | None = None
        self._head_error: SipParseError | None = None
        self._head_length = 0
        self._needed = 0
        self._crlfs = 0
        self.awaits_pong = False
        """A ping is out: the next CRLF is its answer, and no half of a ping of the peer's."""
        self.failed = False

    @property
    def mid_message(self) -> bool:
        """True while the first octets of a message wait for the rest."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> list[StreamEvent]:
        """Take octets, return what they complete; never raises."""
        events: list[StreamEvent] = []
        if self.failed:
            return events
        self._buffer += data
        while not self.failed and self._step(events):
            pass
        return events

    def _step(self, events: list[StreamEvent]) -> bool:
        if self._needed:
            return self._take_message(events)
        if self._skip_crlf(events):
            return True
        if not self._buffer or (self._buffer[0] == 0x0D and len(self._buffer) == 1):
            return False
        return self._take_head(events)

    def _skip_crlf(self, events: list[StreamEvent]) -> bool:
        if not self._buffer.startswith(b"\r\n"):
            return False
        del self._buffer[:2]
        if self.awaits_pong:
            self.awaits_pong, self._crlfs = False, 0
            events.append(StreamPong())
            return True
        self._crlfs += 1
        if self._crlfs == 2:
            self._crlfs = 0
            events.append(StreamPing())
        else:
            events.append(StreamPong())
        return True

    def _take_head(self, events: list[StreamEvent]) -> bool:
        self._crlfs = 0
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self._buffer)
            if len(self._buffer) > MAX_HEADER_BLOCK:
                self._fail(SipParseError(513, "header block too large", fatal=True), events)
            return False
        self._searched = 0
        try:
            self._head = parse_head(bytes(self._buffer[:end]))
            length = content_length(self._head)
        except SipParseError as error:
            length = self._length_despite(error)
        if length is None:
            partial = self._head if self._head_error is None else self._head_error.partial
            fault = self._head_error or SipParseError(400, "no Content-Length", partial)
            self._fail(SipParseError(fault.status, fault.reason, partial, fatal=True), events)
            return False
        self._head_length = end + 4
        self._needed = self._head_length + length
        return True

    def _length_despite(self, error: SipParseError) -> int | None:
        """Find the frame of a malformed message, so that the stream can go on after it."""
        self._head_error = error
        if error.fatal or error.partial is None:
            return None
        try:
            return content_length(error.partial)
        except SipParseError:
            return None

    def _take_message(self, events: list[StreamEvent]) -> bool:
        if len(self._buffer) < self._needed:
            return False
        data = bytes(self._buffer[: self._needed])
        del self._buffer[: self._needed]
        head, error = self._head, self._head_error
        self._head = self._head_error = None
        self._needed = 0
        if error is not None:
            events.append(StreamFault(error, data))
        elif head is not None:
            head.body = data[self._head_length :]
            events.append(StreamMessage(head, data))
        return True

    def _fail(self, error: SipParseError, events: list[StreamEvent]) -> None:
        self.failed = True
        events.append(StreamFault(error, bytes(self._buffer[:MAX_HEADER_BLOCK])))
        self._buffer.clear()
