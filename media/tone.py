"""Generated sound: a speech-like test signal that differs per party, and plain tones. 16-bit samples at 8 kHz."""

import math
import random
from array import array
from collections.abc import Sequence
from functools import lru_cache

from media.g711 import SAMPLE_RATE

SYLLABLE = 0.18
"""Seconds of one syllable of the speech-like signal."""
DEFAULT_SECONDS = 6.0
DEFAULT_AMPLITUDE = 9000


def tone(
    frequencies: Sequence[float], seconds: float, *, amplitude: int = DEFAULT_AMPLITUDE, rate: int = SAMPLE_RATE
) -> "array[int]":
    """Return the sum of sine tones (Hz), `amplitude` being the peak. Raises ValueError without a frequency."""
    if not frequencies:
        raise ValueError("a tone has a frequency")
    share = amplitude / len(frequencies)
    steps = [2 * math.pi * frequency / rate for frequency in frequencies]
    return array("h", (int(share * sum(math.sin(step * n) for step in steps)) for n in range(int(seconds * rate))))


@lru_cache(maxsize=64)
def _speech(party: str, seconds: float, amplitude: int) -> bytes:
    source = random.Random(f"speech of {party}")  # noqa: S311 - a repeatable test signal, not a secret
    samples = array("h")
    total = int(seconds * SAMPLE_RATE)
    length = int(SYLLABLE * SAMPLE_RATE)
    ramp = [0.5 - 0.5 * math.cos(math.pi * n / (length // 4)) for n in range(length // 4)]
    shape = ramp + [1.0] * (length - 2 * len(ramp)) + ramp[::-1]
    while len(samples) < total:
        pitch = 2 * math.pi * source.uniform(110, 240) / SAMPLE_RATE
        first, second = (2 * math.pi * source.uniform(*span) / SAMPLE_RATE for span in ((300, 800), (900, 2400)))
        loudness = amplitude * source.choice((0.0, 0.35, 0.6, 0.8, 1.0))
        samples.extend(
            int(
                loudness
                * shape[n]
                * (0.45 * math.sin(pitch * n) + 0.35 * math.sin(first * n) + 0.2 * math.sin(second * n))
            )
            for n in range(length)
        )
    return samples[:total].tobytes()


def speech_like(party: str, seconds: float = DEFAULT_SECONDS, *, amplitude: int = DEFAULT_AMPLITUDE) -> "array[int]":
    """Return a signal with the rhythm and bands of speech, always the same for one `party` and different for others."""
    return array("h", _speech(party, seconds, amplitude))
