"""G.711: the tables against known values and against ffmpeg."""

import subprocess
from array import array

import pytest

from media.g711 import CODECS, PCMA, PCMU, Codec, find_codec

RAMP = array("h", range(-32768, 32768))


@pytest.mark.clause("RFC 3551", "4.5.14", "6")
@pytest.mark.parametrize(
    ("codec", "code", "sample"),
    [
        (PCMU, 0xFF, 0),
        (PCMU, 0x7F, 0),
        (PCMU, 0x80, 32124),
        (PCMU, 0x00, -32124),
        (PCMU, 0xF0, 120),
        (PCMU, 0xAF, 4092),
        (PCMA, 0xD5, 8),
        (PCMA, 0x55, -8),
        (PCMA, 0xAA, 32256),
        (PCMA, 0x2A, -32256),
        (PCMA, 0xC5, 264),
    ],
)
def test_known_codes(codec: Codec, code: int, sample: int) -> None:
    assert list(codec.decode(bytes((code,)))) == [sample]


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_every_code_survives_decoding_and_encoding(codec: Codec) -> None:
    codes = bytes(range(256))
    again = codec.encode(codec.decode(codes))
    # µ-law has two codes for zero
    assert [code for code, back in zip(codes, again, strict=True) if code != back] == ([0x7F] if codec is PCMU else [])


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_coding_keeps_every_sample_within_a_step(codec: Codec) -> None:
    for sample, back in zip(RAMP, codec.decode(codec.encode(RAMP)), strict=True):
        assert abs(sample - back) <= max(16, abs(sample) // 16 if abs(sample) < 32000 else 700)


@pytest.mark.peer("ffmpeg")
@pytest.mark.parametrize(("codec", "name"), [(PCMU, "mulaw"), (PCMA, "alaw")], ids=["PCMU", "PCMA"])
def test_ffmpeg_decodes_every_code_alike(codec: Codec, name: str) -> None:
    command = ["ffmpeg", "-v", "error", "-f", name, "-ar", "8000", "-ac", "1", "-i", "-", "-f", "s16le", "-"]
    done = subprocess.run(command, input=bytes(range(256)), capture_output=True, check=True, timeout=30)
    assert codec.decode(bytes(range(256))).tobytes() == done.stdout


def test_codecs_are_found_by_name_in_any_case() -> None:
    assert find_codec("pcma") is PCMA
    assert find_codec("PCMU") is PCMU
    assert find_codec("opus") is None


def test_silence_decodes_to_almost_nothing() -> None:
    for codec in CODECS.values():
        assert max(map(abs, codec.decode(codec.silent(5)))) <= 8
        assert len(codec.silent(5)) == 5
