"""Telephone events for DTMF: sending and receiving (RFC 4733 2)."""

import struct
from collections import deque
from dataclasses import dataclass

DIGITS = "0123456789*#ABCD"
"""Event codes 0 to 15 (RFC 4733 3.2)."""
ENCODING_NAME = "telephone-event"
DEFAULT_VOLUME = 10
"""Minus dBm0."""
END_TRANSMISSIONS = 3
"""Packets that carry the final duration (RFC 4733 2.5.1.4)."""
MAXIMUM_DURATION = 0xFFFF
MAXIMUM_QUEUED_DIGITS = 256
_EVENT = struct.Struct("!BBH")


class DtmfError(ValueError):
    """The octets are no telephone event, or a digit has no event code."""


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """One event payload (RFC 4733 2.3); `duration` in timestamp units, `volume` in -dBm0."""

    event: int
    end: bool
    volume: int
    duration: int

    def to_bytes(self) -> bytes:
        """Return the four octets of the payload."""
        return _EVENT.pack(self.event, self.end << 7 | self.volume & 0x3F, self.duration)


def parse_event(payload: bytes) -> TelephoneEvent:
    """Return the event block in `payload`; further blocks in it are not read. Raises DtmfError."""
    if len(payload) < _EVENT.size:
        raise DtmfError("shorter than a telephone event")
    event, flags, duration = _EVENT.unpack_from(payload)
    return TelephoneEvent(event, flags >= 0x80, flags & 0x3F, duration)


def event_code(digit: str) -> int:
    """Return the event code of a DTMF digit in any case. Raises DtmfError."""
    code = DIGITS.find(digit.upper())
    if code < 0 or len(digit) != 1:
        raise DtmfError("not a DTMF digit")
    return code


@dataclass(frozen=True, slots=True)
class EventPacket:
    """What the sender wants sent in place of this packet time's audio."""

    payload: bytes
    timestamp: int
    """Of the event's beginning, the same in all its packets (RFC 4733 2.5.1.2)."""
    marker: bool


class DtmfSender:
    """Plays queued digits; durations in timestamp units.

    :meth:`next_packets` is asked once per packet time; while it answers something, no audio is sent.
    """

    def __init__(self, duration: int = 800, gap: int = 400, volume: int = DEFAULT_VOLUME) -> None:
        self.duration = min(duration, MAXIMUM_DURATION)
        self.gap = gap
        self.volume = volume
        self._queue: deque[int] = deque()
        self._event: int | None = None
        self._started = 0
        self._silent_until: int | None = None

    @property
    def active(self) -> bool:
        """Whether a digit is being played or waits."""
        return self._event is not None or bool(self._queue)

    def enqueue(self, digits: str) -> None:
        """Add digits to the queue. Raises DtmfError for a digit without a code, or when 256 wait already."""
        codes = [event_code(digit) for digit in digits]
        if len(self._queue) + len(codes) > MAXIMUM_QUEUED_DIGITS:
            raise DtmfError("too many digits wait")
        self._queue.extend(codes)

    def next_packets(self, timestamp: int, step: int) -> list[EventPacket]:
        """Return the packets for the packet time that starts at `timestamp` and lasts `step`; none when idle."""
        marker = False
        if self._event is None:
            if not self._queue or self._in_gap(timestamp):
                return []
            self._event = self._queue.popleft()
            self._started = timestamp
            marker = True
        elapsed = (timestamp - self._started & 0xFFFFFFFF) + step
        if elapsed < self.duration:
            payload = TelephoneEvent(self._event, end=False, volume=self.volume, duration=elapsed).to_bytes()
            return [EventPacket(payload, self._started, marker)]
        payload = TelephoneEvent(self._event, end=True, volume=self.volume, duration=self.duration).to_bytes()
        self._event = None
        self._silent_until = self._started + self.duration + self.gap & 0xFFFFFFFF
        return [EventPacket(payload, self._started, marker and not copy) for copy in range(END_TRANSMISSIONS)]

    def _in_gap(self, timestamp: int) -> bool:
        if self._silent_until is None:
            return False
        if self._silent_until - timestamp & 0x80000000 or self._silent_until == timestamp:
            self._silent_until = None
            return False
        return True


@dataclass(frozen=True, slots=True)
class DigitReceived:
    """A digit the far end sent, once; `duration` in timestamp units as last reported."""

    digit: str
    duration: int


class DtmfReceiver:
    """Turns telephone event packets into digits; retransmissions and lost end packets are no extra digits."""

    def __init__(self) -> None:
        self._timestamp: int | None = None
        self._current: TelephoneEvent | None = None

    def packet(self, payload: bytes, timestamp: int) -> list[DigitReceived]:
        """Take an event packet; return the digits that ended with it. Raises DtmfError."""
        event = parse_event(payload)
        ended: list[DigitReceived] = []
        if timestamp != self._timestamp:
            if self._timestamp is not None and timestamp - self._timestamp & 0x80000000:
                return ended  # a late packet of an earlier event
            ended += self.flush()
            self._timestamp = timestamp
            self._current = event
        elif self._current is None:
            return ended  # the end was reported already
        else:
            self._current = event
        if event.end:
            ended += self.flush()
        return ended

    def flush(self) -> list[DigitReceived]:
        """Return the digit under way as ended: audio came back, or another event began (RFC 4733 2.5.2.3)."""
        current, self._current = self._current, None
        if current is None or current.event >= len(DIGITS):
            return []
        return [DigitReceived(DIGITS[current.event], current.duration)]
