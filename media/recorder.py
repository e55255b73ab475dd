"""What an endpoint heard: frames in order out of the jitter buffer, kept coded until somebody asks."""

from array import array

from media.g711 import SAMPLE_RATE, Codec
from media.jitter import Frame

MAXIMUM_SECONDS = 600
"""Seconds of sound one recording keeps; what comes later is counted, not kept."""


class Recording:
    """Coded sound of one direction; a missing frame is silence of its length, so that time stays true."""

    def __init__(self, codec: Codec, step: int) -> None:
        self.codec = codec
        self.step = step
        self.dropped = 0
        self._coded = bytearray()

    def __len__(self) -> int:
        return len(self._coded)

    def add(self, frame: Frame) -> None:
        """Append a frame of the jitter buffer."""
        if len(self._coded) >= MAXIMUM_SECONDS * SAMPLE_RATE:
            self.dropped += 1
            return
        self._coded += self.codec.silent(self.step) if frame.payload is None else frame.payload

    def samples(self) -> "array[int]":
        """Return the sound as 16-bit samples at 8 kHz."""
        return self.codec.decode(bytes(self._coded))
