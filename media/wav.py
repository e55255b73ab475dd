"""RIFF/WAVE files: reading 16-bit PCM of any common rate to 8 kHz mono, writing 8 kHz mono."""

import math
import struct
from array import array
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from pathlib import Path

from media.g711 import SAMPLE_RATE

MAXIMUM_FILE = 64 * 1024 * 1024
"""Octets of the largest file that is read."""
MAXIMUM_CHUNKS = 64
RATES = range(4000, 192_001)
"""Sampling rates accepted, in Hz."""
MAXIMUM_CHANNELS = 8
FORMAT_PCM = 1
FORMAT_EXTENSIBLE = 0xFFFE
FILTER_ZEROS = 12
"""Zero crossings of the resampling filter on each side of its centre."""


class WavError(ValueError):
    """The file is no RIFF/WAVE file this reader takes."""


class WavTruncated(WavError):  # noqa: N818 - says what happened to the file
    """A chunk is longer than the file."""


class WavUnsupported(WavError):  # noqa: N818 - says what is wrong with the file
    """A format other than 16-bit PCM, or a rate or number of channels outside the limits."""


@dataclass(frozen=True, slots=True)
class WavFormat:
    """The `fmt ` chunk: `rate` in Hz."""

    channels: int
    rate: int


def parse_wav(octets: bytes) -> tuple[WavFormat, "array[int]"]:
    """Return format and interleaved 16-bit samples. Raises WavError and its subclasses, and nothing else."""
    if len(octets) > MAXIMUM_FILE:
        raise WavUnsupported("larger than 64 MiB")
    if len(octets) < 12 or octets[:4] != b"RIFF" or octets[8:12] != b"WAVE":
        raise WavError("no RIFF/WAVE header")
    wav_format: WavFormat | None = None
    offset = 12
    for _ in range(MAXIMUM_CHUNKS):
        if offset + 8 > len(octets):
            break
        name, length = octets[offset : offset + 4], int.from_bytes(octets[offset + 4 : offset + 8], "little")
        start, end = offset + 8, offset + 8 + length
        if name == b"data":
            if wav_format is None:
                raise WavError("data before its format")
            # a writer to a pipe leaves 0xFFFFFFFF or 0 there: the data goes to the end of the file then
            if length in (0, 0xFFFFFFFF):
                end = len(octets)
            elif end > len(octets):
                raise WavTruncated("data cut short")
            return wav_format, _samples(octets[start:end], wav_format)
        if end > len(octets):
            raise WavTruncated("chunk cut short")
        if name == b"fmt ":
            wav_format = _parse_format(octets[start:end])
        offset = end + (length & 1)
    raise WavError("no data chunk")


def _parse_format(chunk: bytes) -> WavFormat:
    if len(chunk) < 16:
        raise WavTruncated("format cut short")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == FORMAT_EXTENSIBLE and len(chunk) >= 26:
        tag = int.from_bytes(chunk[24:26], "little")
    if tag != FORMAT_PCM or bits != 16:
        raise WavUnsupported("only 16-bit PCM is read")
    if not 1 <= channels <= MAXIMUM_CHANNELS or rate not in RATES:
        raise WavUnsupported("rate or number of channels outside the limits")
    return WavFormat(channels, rate)


def _samples(octets: bytes, wav_format: WavFormat) -> "array[int]":
    samples = array("h", octets[: len(octets) - len(octets) % (2 * wav_format.channels)])
    if array("H", [1]).tobytes()[0] != 1:
        samples.byteswap()
    return samples


def read_wav(path: Path) -> "array[int]":
    """Return a file's sound as 16-bit mono samples at 8 kHz. Raises WavError, or OSError when it cannot be opened."""
    if path.stat().st_size > MAXIMUM_FILE:
        raise WavUnsupported("larger than 64 MiB")
    wav_format, samples = parse_wav(path.read_bytes())
    return resample(mix_down(samples, wav_format.channels), wav_format.rate)


def mix_down(samples: "array[int]", channels: int) -> "array[int]":
    """Return the mean of interleaved channels."""
    if channels == 1:
        return samples
    parts = [samples[channel::channels] for channel in range(channels)]
    return array("h", (sum(values) // channels for values in zip(*parts, strict=True)))


@lru_cache(maxsize=8)
def _phases(up: int, down: int) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """Return reach in input samples and one windowed-sinc filter per output phase."""
    cutoff = min(1.0, up / down) * 0.95
    reach = math.ceil(FILTER_ZEROS / cutoff)
    filters = []
    for phase in range(up):
        taps = []
        for tap in range(1 - reach, reach + 1):
            x = tap - phase / up
            window = 0.5 + 0.5 * math.cos(math.pi * x / reach) if abs(x) < reach else 0.0
            taps.append(cutoff * window * (math.sin(math.pi * cutoff * x) / (math.pi * cutoff * x) if x else 1.0))
        gain = sum(taps)
        filters.append(tuple(value / gain for value in taps))
    return reach, tuple(filters)


def resample(samples: "array[int]", rate: int, to: int = SAMPLE_RATE) -> "array[int]":
    """Return `samples` of `rate` Hz at `to` Hz, low-pass filtered (polyphase windowed sinc)."""
    if rate == to or not samples:
        return samples
    common = math.gcd(rate, to)
    up, down = to // common, rate // common
    reach, filters = _phases(up, down)
    padded = array("h", bytes(2 * (reach - 1))) + samples + array("h", bytes(2 * (reach + 1)))
    width = 2 * reach
    converted = array("h")
    for n in range(len(samples) * up // down):
        start, phase = divmod(n * down, up)
        value = sum(map(mul, filters[phase], padded[start : start + width]))
        converted.append(max(-32768, min(32767, round(value))))
    return converted


def build_wav(samples: "array[int]", rate: int = SAMPLE_RATE) -> bytes:
    """Return the octets of a mono 16-bit file."""
    little = array("h", samples)
    if array("H", [1]).tobytes()[0] != 1:
        little.byteswap()
    body = little.tobytes()
    header = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, FORMAT_PCM, 1, rate, rate * 2, 2, 16, b"data", len(body))
    return struct.pack("<4sI4s", b"RIFF", 4 + len(header) + len(body), b"WAVE") + header + body


def write_wav(path: Path, samples: "array[int]", rate: int = SAMPLE_RATE) -> None:
    """Write a mono 16-bit file. Raises OSError."""
    path.write_bytes(build_wav(samples, rate))
