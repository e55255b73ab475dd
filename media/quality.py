"""Was it heard, and how well: the sound that was played against the sound that arrived, in pure Python.

The two are aligned by the cross-correlation of their loudness (10 ms steps) and then sample by sample around the best
places; after that each 20 ms of the heard sound is compared with the reference at one common gain.
"""

import math
from array import array
from dataclasses import dataclass
from operator import mul

from media.g711 import SAMPLE_RATE

BLOCK = 80
"""Samples of one loudness step, 10 ms."""
FRAME = 160
"""Samples that are judged together, 20 ms."""
SEARCH = 2000
"""Samples correlated in the fine search."""
COARSE_CANDIDATES = 4
MINIMUM_OVERLAP = 0.4
"""Seconds the two must have in common."""
HEARD_CORRELATION = 0.6
"""Correlation of the aligned sounds from which they count as the same (testbed choice)."""
SILENCE_LEVEL = 32
"""RMS below which 20 ms are silence, in 16-bit units."""
MAXIMUM_SNR_DB = 99.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare` found."""

    heard: bool
    """Whether the reference sound is in what was heard."""
    snr_db: float
    """Of the frames that arrived, in dB; 0 when nothing was heard."""
    loss: float
    """Part of the frames with sound in the reference that arrived silent, 0 to 1."""
    correlation: float
    """Of the aligned sounds, lost frames left out, -1 to 1."""
    offset: int
    """Sample of the (repeated) reference at which the heard sound begins."""
    seconds: float
    """Length of sound that was compared."""


NOTHING = Comparison(heard=False, snr_db=0.0, loss=1.0, correlation=0.0, offset=0, seconds=0.0)


def compare(reference: "array[int]", heard: "array[int]", *, looped: bool = True) -> Comparison:
    """Compare what was played with what was heard, both 16-bit samples at 8 kHz.

    `looped`: the reference was played again and again. Silence around the heard sound is left out. Never raises for
    sounds of any content or length.
    """
    start, end = _sounding(heard)
    sound = heard[start:end]
    if len(sound) < MINIMUM_OVERLAP * SAMPLE_RATE or not any(reference):
        return NOTHING
    played = reference
    if looped:
        played = reference * (1 + math.ceil(len(sound) / len(reference)))
    else:
        played = array("h", bytes(2 * len(sound))) + reference + array("h", bytes(2 * len(sound)))
    offset = _align(played, sound, len(reference) if looped else len(reference) + len(sound))
    comparison = _judge(played[offset : offset + len(sound)], sound)
    begin = (offset - start) % len(reference) if looped else offset - start - len(sound)
    return Comparison(
        comparison.heard, comparison.snr_db, comparison.loss, comparison.correlation, begin, comparison.seconds
    )


def _sounding(samples: "array[int]") -> tuple[int, int]:
    """Return where the first and the last block with sound lie."""
    loud = [n for n, level in enumerate(_loudness(samples)) if level > SILENCE_LEVEL]
    return (loud[0] * BLOCK, (loud[-1] + 1) * BLOCK) if loud else (0, 0)


def _loudness(samples: "array[int]") -> list[float]:
    return [sum(map(abs, samples[n : n + BLOCK])) / BLOCK for n in range(0, len(samples) - BLOCK + 1, BLOCK)]


def _align(played: "array[int]", sound: "array[int]", lags: int) -> int:
    """Return the sample of `played`, below `lags`, where `sound` fits best."""
    coarse = _coarse(_loudness(played), _loudness(sound), math.ceil(lags / BLOCK))
    piece_at = _loudest(sound)
    piece = sound[piece_at : piece_at + SEARCH]
    best, best_score = 0, float("-inf")
    for block in coarse:
        low = max(0, block * BLOCK - BLOCK - BLOCK // 2)
        high = min(len(played) - len(sound), block * BLOCK + BLOCK + BLOCK // 2)
        if high < low:
            continue
        # every fourth sample first: speech and tones of a telephone band change little in between
        score, lag = max((_similarity(played, piece, piece_at + lag, 4), lag) for lag in range(low, high + 1))
        near = range(max(0, lag - 2), min(len(played) - len(sound), lag + 2) + 1)
        score, lag = max((_similarity(played, piece, piece_at + lag, 1), lag) for lag in near)
        if score > best_score:
            best, best_score = lag, score
    return best


def _coarse(played: list[float], sound: list[float], lags: int) -> list[int]:
    """Return the blocks where the loudness of `sound` fits that of `played` best, best first."""
    mean = sum(sound) / len(sound)
    centred = [level - mean for level in sound]
    width = len(sound)
    energy = 0.0
    total = sum(played[:width])
    squares = sum(map(mul, played[:width], played[:width]))
    scores = []
    for lag in range(min(lags, len(played) - width + 1)):
        energy = squares - total * total / width
        product = sum(map(mul, centred, played[lag : lag + width]))
        scores.append((product / math.sqrt(energy) if energy > 1e-6 else 0.0, lag))
        if lag + width < len(played):
            leaving, coming = played[lag], played[lag + width]
            total += coming - leaving
            squares += coming * coming - leaving * leaving
    scores.sort(reverse=True)
    chosen: list[int] = []
    for _, lag in scores:
        if all(abs(lag - other) > 1 for other in chosen):
            chosen.append(lag)
        if len(chosen) == COARSE_CANDIDATES:
            break
    return chosen


def _loudest(sound: "array[int]") -> int:
    """Return where the loudest stretch for the fine search begins."""
    levels = _loudness(sound)
    width = min(len(levels), SEARCH // BLOCK)
    current = best = sum(levels[:width])
    at = 0
    for n in range(width, len(levels)):
        current += levels[n] - levels[n - width]
        if current > best:
            best, at = current, n - width + 1
    return at * BLOCK


def _similarity(played: "array[int]", piece: "array[int]", at: int, step: int) -> float:
    stretch = played[at : at + len(piece) : step]
    energy = sum(map(mul, stretch, stretch))
    return sum(map(mul, stretch, piece[::step])) / math.sqrt(energy) if energy else 0.0


def _judge(played: "array[int]", sound: "array[int]") -> Comparison:
    """Compare two aligned sounds frame by frame."""
    silent = FRAME * SILENCE_LEVEL * SILENCE_LEVEL
    compared = lost = 0
    played_energy = heard_energy = product = 0
    # the first and the last frame may hold the edge of the silence around
    for n in range(FRAME, min(len(played), len(sound)) - 2 * FRAME + 1, FRAME):
        mine, theirs = played[n : n + FRAME], sound[n : n + FRAME]
        energy = sum(map(mul, mine, mine))
        arrived = sum(map(mul, theirs, theirs))
        if energy > silent:
            compared += 1
            if arrived < silent and arrived * 16 < energy:
                lost += 1
                continue
        played_energy += energy
        heard_energy += arrived
        product += sum(map(mul, mine, theirs))
    if not played_energy or not heard_energy or not compared:
        return NOTHING
    correlation = product / math.sqrt(played_energy) / math.sqrt(heard_energy)
    heard = correlation >= HEARD_CORRELATION
    snr = 0.0
    if heard:
        # at the gain product / played_energy the rest of the heard sound is noise
        signal = product * product / played_energy
        noise = heard_energy - signal
        snr = min(MAXIMUM_SNR_DB, 10 * math.log10(signal / noise)) if noise > signal * 1e-10 else MAXIMUM_SNR_DB
    return Comparison(
        heard=heard,
        snr_db=snr,
        loss=lost / compared if heard else 1.0,
        correlation=correlation,
        offset=0,
        seconds=(min(len(played), len(sound)) // FRAME * FRAME) / SAMPLE_RATE,
    )
