"""WAVE files in and out."""

import math
import struct
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.g711 import PCMA
from media.quality import compare
from media.source import AudioSource, from_wav
from media.tone import tone
from media.wav import (
    WavError,
    WavFormat,
    WavTruncated,
    WavUnsupported,
    build_wav,
    mix_down,
    parse_wav,
    read_wav,
    resample,
    write_wav,
)


def wave(
    samples: array, *, rate: int = 8000, channels: int = 1, tag: int = 1, bits: int = 16, extra: bytes = b""
) -> bytes:
    body = samples.tobytes()
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * 2 * channels, 2 * channels, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@given(st.lists(st.integers(-32768, 32767), max_size=50))
def test_what_is_written_reads_back(values: list[int]) -> None:
    assert parse_wav(build_wav(array("h", values))) == (WavFormat(1, 8000), array("h", values))


@given(st.binary(max_size=200))
def test_any_octets_parse_or_raise_wav_error(octets: bytes) -> None:
    for candidate in (octets, b"RIFF\0\0\0\0WAVE" + octets, wave(array("h", [1]))[:-6] + octets):
        try:
            wav_format, samples = parse_wav(candidate)
        except WavError:
            continue
        assert len(samples) % wav_format.channels == 0


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000, 11_025])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_of_any_common_rate_is_heard_as_8_khz_mono(rate: int, channels: int, tmp_path: Path) -> None:
    sound = tone([440, 1000], 1.0, rate=rate)
    interleaved = array("h", (sample for sample in sound for _ in range(channels)))
    path = tmp_path / "sound.wav"
    path.write_bytes(wave(interleaved, rate=rate, channels=channels))
    samples = read_wav(path)
    assert abs(len(samples) - 8000) <= 1
    assert compare(tone([440, 1000], 1.0), samples, looped=False).snr_db > 30


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_resampling_keeps_out_what_8_khz_cannot_carry(rate: int) -> None:
    samples = resample(tone([6000], 0.5, rate=rate), rate)
    assert math.sqrt(sum(value * value for value in samples) / len(samples)) < 100


def test_channels_are_mixed_to_their_mean() -> None:
    assert mix_down(array("h", [10, 20, -30, 30]), 2) == array("h", [15, 0])


def test_the_extensible_format_is_read() -> None:
    extra = struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    assert parse_wav(wave(array("h", [5, 6]), tag=0xFFFE, extra=extra))[1] == array("h", [5, 6])


def test_a_file_written_to_a_pipe_has_no_length_and_is_read_to_its_end() -> None:
    octets = bytearray(build_wav(array("h", [1, 2, 3])))
    octets[40:44] = b"\xff\xff\xff\xff"
    assert parse_wav(bytes(octets))[1] == array("h", [1, 2, 3])


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"", WavError),
        (b"RIFX" + bytes(20), WavError),
        (b"RIFF\0\0\0\0WAVE", WavError),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", WavError),
        (wave(array("h", [1, 2, 3]))[:-2], WavTruncated),
        (b"RIFF\0\0\0\0WAVEfmt \2\0\0\0ab", WavTruncated),
        (b"RIFF\0\0\0\0WAVEfmt \xff\0\0\0ab", WavTruncated),
        (wave(array("h", [1]), tag=3), WavUnsupported),
        (wave(array("h", [1]), bits=24), WavUnsupported),
        (wave(array("h", [1]), rate=1), WavUnsupported),
        (wave(array("h", [1]), channels=9), WavUnsupported),
    ],
)
def test_other_files_are_refused_with_the_reason(octets: bytes, error: type[WavError]) -> None:
    with pytest.raises(error):
        parse_wav(octets)


def test_a_source_repeats_its_file_and_is_shared(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    write_wav(path, array("h", range(0, 4000, 10)))
    source = from_wav(path)
    assert source is from_wav(path)
    once = PCMA.encode(source.samples)
    assert source.frame(PCMA, 320, 160) == once[320:] + once[:80]
    assert source.frame(PCMA, 400 * 7, 400) == once
    assert AudioSource(source.samples, loop=False).frame(PCMA, 320, 160) == once[320:] + PCMA.silent(80)
    with pytest.raises(ValueError, match="sample"):
        AudioSource(array("h"))
