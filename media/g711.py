"""G.711 µ-law and A-law, table based (ITU-T G.711; payload types 0 and 8 of RFC 3551 6)."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

SAMPLE_RATE = 8000
"""Hz."""
BIAS = 0x84
CLIP = 8158
"""Largest 14-bit magnitude µ-law codes."""


def _ulaw_to_linear(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + BIAS << (code >> 4 & 7)) - BIAS
    return -magnitude if code & 0x80 else magnitude


def _alaw_to_linear(code: int) -> int:
    code ^= 0x55
    segment = code >> 4 & 7
    magnitude = (code & 0x0F) << 4
    magnitude = magnitude + 8 if segment == 0 else magnitude + 0x108 << segment - 1
    return magnitude if code & 0x80 else -magnitude


def _linear_to_ulaw(sample: int) -> int:
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample >> 2), CLIP) + (BIAS >> 2)
    segment = magnitude.bit_length() - 6
    return ~(sign | segment << 4 | magnitude >> segment + 1 & 0x0F) & 0xFF


def _linear_to_alaw(sample: int) -> int:
    sign = 0x80
    magnitude = sample >> 4
    if magnitude < 0:
        sign, magnitude = 0, ~magnitude
    segment = max(magnitude.bit_length() - 4, 1)
    code = magnitude if magnitude < 16 else (magnitude >> segment - 1 & 0x0F) | segment << 4
    return (sign | code) ^ 0x55


def _codec(expand: Callable[[int], int], compress: Callable[[int], int]) -> tuple[bytes, bytes, bytes]:
    """Return compression by 16-bit sample pattern, and expansion to low and to high octet."""
    compressed = bytes(compress(sample if sample < 32768 else sample - 65536) for sample in range(65536))
    expanded = [expand(code) & 0xFFFF for code in range(256)]
    return compressed, bytes(value & 0xFF for value in expanded), bytes(value >> 8 for value in expanded)


@dataclass(frozen=True, slots=True)
class Codec:
    """One companding law: its RFC 3551 name and payload type, and the tables."""

    name: str
    payload_type: int
    silence: int
    """The code of amplitude zero."""
    _compress: bytes
    _low: bytes
    _high: bytes

    def encode(self, samples: "array[int]") -> bytes:
        """Return one octet per 16-bit sample of `samples` (array of type ``h``)."""
        return bytes(map(self._compress.__getitem__, array("H", samples.tobytes())))

    def decode(self, payload: bytes) -> "array[int]":
        """Return one 16-bit sample (array of type ``h``) per octet."""
        pair = bytearray(2 * len(payload))
        pair[_LOW_OCTET::2] = payload.translate(self._low)
        pair[1 - _LOW_OCTET :: 2] = payload.translate(self._high)
        return array("h", bytes(pair))

    def silent(self, samples: int) -> bytes:
        """Return `samples` octets of silence."""
        return bytes((self.silence,)) * samples


_LOW_OCTET = 0 if array("H", [1]).tobytes()[0] else 1
PCMU = Codec("PCMU", 0, 0xFF, *_codec(_ulaw_to_linear, _linear_to_ulaw))
PCMA = Codec("PCMA", 8, 0xD5, *_codec(_alaw_to_linear, _linear_to_alaw))
CODECS = {codec.name: codec for codec in (PCMU, PCMA)}
"""By encoding name, upper case."""
BY_PAYLOAD_TYPE = {codec.payload_type: codec for codec in (PCMU, PCMA)}


def find_codec(name: str) -> Codec | None:
    """Return the codec of that encoding name in any case (RFC 4855 names are case-insensitive), or None."""
    return CODECS.get(name.upper())
