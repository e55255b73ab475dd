"""What an endpoint says: samples in a loop, companded once per law and shared by every call that plays them."""

from array import array
from functools import lru_cache
from pathlib import Path

from media.g711 import Codec
from media.tone import speech_like
from media.wav import read_wav


class AudioSource:
    """Sound at 8 kHz that is repeated (`loop`) or followed by silence. Raises ValueError when empty."""

    def __init__(self, samples: "array[int]", *, loop: bool = True) -> None:
        if not samples:
            raise ValueError("a source holds at least one sample")
        self.samples = samples
        self.loop = loop
        self._encoded: dict[str, bytes] = {}

    def frame(self, codec: Codec, position: int, length: int) -> bytes:
        """Return `length` coded samples from `position` (samples since the beginning) on."""
        coded = self._encoded.get(codec.name)
        if coded is None:
            coded = self._encoded[codec.name] = codec.encode(self.samples)
        if self.loop:
            position %= len(coded)
        piece = coded[position : position + length]
        while len(piece) < length:
            piece += coded[: length - len(piece)] if self.loop else codec.silent(length - len(piece))
        return piece


@lru_cache(maxsize=64)
def spoken_by(party: str) -> AudioSource:
    """Return the test signal of a party, shared between calls."""
    return AudioSource(speech_like(party))


@lru_cache(maxsize=16)
def from_wav(path: Path) -> AudioSource:
    """Return a WAV file's sound in a loop, shared between calls. Raises `media.wav.WavError` or OSError."""
    return AudioSource(read_wav(path))
