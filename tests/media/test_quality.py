"""Is the verdict on what was heard right?"""

import random
import time
from array import array

import pytest

from media.g711 import CODECS, PCMA
from media.quality import compare
from media.tone import speech_like, tone

ALICE, BOB = speech_like("alice"), speech_like("bob")


def through(codec, samples: array) -> array:
    return codec.decode(codec.encode(samples))


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_sound_through_g711_is_heard_at_the_snr_of_the_codec(codec) -> None:
    found = compare(ALICE, through(codec, (ALICE * 2)[12_345:52_345]))
    assert found.heard
    assert 34 < found.snr_db < 41
    assert found.loss == 0
    assert found.offset == 12_345


def test_the_other_party_s_sound_is_not_heard() -> None:
    found = compare(ALICE, through(PCMA, BOB[:40_000]))
    assert (found.heard, found.snr_db, found.loss) == (False, 0.0, 1.0)


@pytest.mark.parametrize(
    "heard", [array("h"), array("h", bytes(80_000)), array("h", bytes(100)), ALICE[:100], array("h", [30_000])]
)
def test_silence_and_scraps_are_not_heard(heard: array) -> None:
    assert not compare(ALICE, heard).heard


def test_noise_is_not_heard() -> None:
    chance = random.Random(1)
    assert not compare(ALICE, array("h", (chance.randint(-9000, 9000) for _ in range(40_000)))).heard


def test_nothing_is_heard_of_a_silent_reference() -> None:
    assert not compare(array("h", bytes(8000)), ALICE).heard
    assert not compare(array("h"), ALICE).heard


def test_lost_frames_are_counted_and_do_not_spoil_the_snr() -> None:
    sound = through(PCMA, ALICE[:40_000])
    for n in range(0, 250, 10):
        sound[n * 160 : (n + 1) * 160] = array("h", bytes(320))
    found = compare(ALICE, sound)
    assert 0.06 < found.loss < 0.14
    assert found.snr_db > 34


def test_leading_silence_is_left_out() -> None:
    found = compare(ALICE, array("h", bytes(2 * 3333)) + through(PCMA, ALICE[5000:25_000]))
    assert found.heard
    assert found.snr_db > 34
    assert found.offset == 5000 - 3333


def test_a_changed_level_is_no_noise() -> None:
    found = compare(ALICE, array("h", (value // 2 for value in ALICE[:30_000])))
    assert found.snr_db > 40


def test_noise_on_the_sound_shows_in_the_snr() -> None:
    chance = random.Random(1)
    found = compare(ALICE, array("h", (value + chance.randint(-500, 500) for value in ALICE[:30_000])))
    assert found.heard
    assert 10 < found.snr_db < 25


def test_a_pure_tone_is_told_from_another() -> None:
    sound = through(PCMA, tone([440], 3)[1234:17_234])
    assert compare(tone([440], 3), sound).snr_db > 34
    assert not compare(tone([620], 3), sound).heard


def test_a_reference_played_once_is_found_anywhere_in_what_was_heard() -> None:
    heard = array("h", bytes(8000)) + through(PCMA, ALICE[:16_000]) + array("h", bytes(8000))
    found = compare(ALICE[:16_000], heard, looped=False)
    assert found.heard
    assert found.snr_db > 34


def test_five_seconds_are_compared_in_half_a_second() -> None:
    sound = through(PCMA, (ALICE * 2)[7777:47_777])
    began = time.process_time()
    assert compare(ALICE, sound).heard
    assert time.process_time() - began < 0.5


def test_the_test_signal_is_the_same_again_for_a_party_and_differs_between_parties() -> None:
    assert speech_like("alice") == ALICE
    assert ALICE != BOB
    assert len(speech_like("carol", 2.0)) == 16_000
    with pytest.raises(ValueError, match="frequency"):
        tone([], 1)
