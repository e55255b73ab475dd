import base64
from collections.abc import Callable

import pytest
from keying import ModeRefused, Secret

from sealed_keys.mode import SKEW_S, PreSharedKeyMode

LINES = ("1 AES_CM_128_HMAC_SHA1_80 inline:AAAA", "2 AEAD_AES_128_GCM inline:BBBB")


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def pair(clock: Clock, other_key: bytes = bytes(32)) -> tuple[PreSharedKeyMode, PreSharedKeyMode]:
    return PreSharedKeyMode(Secret(bytes(32)), clock), PreSharedKeyMode(Secret(other_key), clock)


def test_both_ends_read_the_lines_and_nobody_else_does() -> None:
    alice, bob = pair(Clock())
    offer = alice.seal_offer(LINES)
    assert bob.open_offer(offer) == LINES
    answer = bob.seal_answer(LINES[0], offer)
    assert alice.open_answer(answer, offer) == LINES[0]
    assert b"inline" not in base64.b64decode(offer) + base64.b64decode(answer)
    assert alice.seal_offer(LINES) != offer


@pytest.mark.parametrize(
    "alter",
    [
        lambda value: value[:-8] + "AAAAAAA=",
        lambda value: base64.b64encode(b"\x02" + base64.b64decode(value)[1:]).decode(),
        lambda value: value[:12],
        lambda value: f"{value[:8]} not base64!",
        lambda value: value[:0],
    ],
)
def test_what_was_altered_is_refused(alter: Callable[[str], str]) -> None:
    alice, bob = pair(Clock())
    with pytest.raises(ModeRefused) as refused:
        bob.open_offer(alter(alice.seal_offer(LINES)))
    assert refused.value.word == "seal-broken"


def test_another_key_opens_nothing() -> None:
    alice, mallory = pair(Clock(), b"\x01" * 32)
    with pytest.raises(ModeRefused, match="does not hold"):
        mallory.open_offer(alice.seal_offer(LINES))


def test_an_offer_is_taken_once_and_while_it_is_young() -> None:
    clock = Clock()
    alice, bob = pair(clock)
    offer, late = alice.seal_offer(LINES), alice.seal_offer(LINES)
    bob.open_offer(offer)
    with pytest.raises(ModeRefused) as again:
        bob.open_offer(offer)
    clock.time += SKEW_S + 1
    with pytest.raises(ModeRefused) as old:
        bob.open_offer(late)
    assert (again.value.word, old.value.word) == ("seal-replayed", "seal-replayed")


def test_an_offer_does_not_come_back_to_who_made_it() -> None:
    clock = Clock()
    alice, bob = pair(clock)
    offer = alice.seal_offer(LINES)
    with pytest.raises(ModeRefused) as reflected:
        alice.open_offer(offer)
    assert reflected.value.word == "seal-replayed"
    assert bob.open_offer(offer) == LINES


def test_an_answer_belongs_to_its_offer() -> None:
    alice, bob = pair(Clock())
    first, second = alice.seal_offer(LINES), alice.seal_offer(LINES)
    answer = bob.seal_answer(LINES[0], first)
    for offer, value in ((second, answer), (first, first)):
        with pytest.raises(ModeRefused, match="does not hold"):
            alice.open_answer(value, offer)
