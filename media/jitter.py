"""The jitter buffer: puts frames back in order and says which are missing (RFC 3550 6.4.1 gives the jitter)."""

from dataclasses import dataclass

from media.rtp import timestamp_difference

DEFAULT_DELAY = 0.06
"""Seconds a frame waits for its predecessors before they count as lost."""
MAXIMUM_FRAMES = 100
"""Frames held at most; beyond that the oldest leave at once."""
MAXIMUM_GAP = 8000 * 10
"""Timestamp units of the longest gap that is filled; a longer one is a new beginning."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet time of sound in order; `payload` None where the packet did not come in time."""

    timestamp: int
    payload: bytes | None


class JitterBuffer:
    """Orders frames by RTP timestamp and releases each exactly once, or as missing after `delay` seconds.

    The first frame waits that long too, since one before it may come after it; then frames in order leave at once.

    `step` is the length of a missing frame in timestamp units. What was never sent (hold, events in place of sound) is
    missing here too; only the SEQ tells loss, see `media.rtp.ReceptionStatistics`.
    """

    def __init__(self, delay: float = DEFAULT_DELAY, step: int = 160) -> None:
        self.delay = delay
        self.step = step
        self.late = 0
        self.duplicates = 0
        self.reordered = 0
        self.missing = 0
        self._held: dict[int, tuple[bytes, float]] = {}
        self._next: int | None = None
        self._open_at: float | None = None

    def __len__(self) -> int:
        return len(self._held)

    def restart(self) -> None:
        """Forget the timestamps: another source begins. What is still held is dropped; take it before."""
        self._held.clear()
        self._next = self._open_at = None

    def _begin(self, timestamp: int, now: float) -> None:
        self._held.clear()
        self._next = timestamp
        self._open_at = now + self.delay

    def put(self, timestamp: int, payload: bytes, now: float) -> None:
        """Take the frame of an RTP packet that arrived at `now` (seconds)."""
        if self._next is None or abs(timestamp_difference(timestamp, self._next)) > MAXIMUM_GAP:
            self._begin(timestamp, now)
        elif timestamp_difference(timestamp, self._next) < 0:
            if self._open_at is None:
                self.late += 1
                return
            self._next = timestamp
        if timestamp in self._held:
            self.duplicates += 1
            return
        if self._held and timestamp_difference(timestamp, next(reversed(self._held))) < 0:
            self.reordered += 1
        self._held[timestamp] = (payload, now)

    def take(self, now: float, *, flush: bool = False) -> list[Frame]:
        """Return the frames whose turn it is, in order; `flush` releases everything that is held."""
        frames: list[Frame] = []
        if self._open_at is not None:
            if now < self._open_at and not flush:
                return frames
            self._open_at = None
        while self._held and self._next is not None:
            held = self._held.pop(self._next, None)
            if held is not None:
                frames.append(Frame(self._next, held[0]))
                self._next = self._next + (len(held[0]) or self.step) & 0xFFFFFFFF
                continue
            nearest = min(self._held, key=lambda timestamp: timestamp_difference(timestamp, self._next or 0))
            waited = now - self._held[nearest][1]
            if not flush and waited < self.delay and len(self._held) < MAXIMUM_FRAMES:
                break
            self._fill(nearest, frames)
        return frames

    def _fill(self, until: int, frames: list[Frame]) -> None:
        position = self._next if self._next is not None else until
        while timestamp_difference(until, position) > 0:
            frames.append(Frame(position, None))
            self.missing += 1
            position = position + min(self.step, timestamp_difference(until, position)) & 0xFFFFFFFF
        self._next = until
