import copy
import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret

OCTETS = bytes.fromhex("465b5ce8b199b49faa5f0a2ee238a6bc")


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        format,
        "{}".format,
        "{!r}".format,
        "{:>40}".format,
        lambda s: f"{s}",
        lambda s: f"{[s]}",
        lambda s: "secret " + str(s),
    ],
)
def test_a_secret_never_prints_its_octets(show):
    shown = show(Secret(OCTETS))
    assert "<secret 16 bytes>" in shown
    assert OCTETS.hex() not in shown
    assert str(OCTETS)[2:-1] not in shown


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "leave", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, bytes, list, iter, hash, memoryview]
)
def test_a_secret_does_not_leave_by_accident(leave):
    with pytest.raises(TypeError):
        leave(Secret(OCTETS))


@pytest.mark.attack("T8")
def test_a_dataclass_with_a_secret_cannot_be_turned_into_a_dict():
    @dataclasses.dataclass
    class Holder:
        key: Secret

    with pytest.raises(TypeError):
        dataclasses.asdict(Holder(Secret(OCTETS)))
    assert OCTETS.hex() not in repr(Holder(Secret(OCTETS)))


def test_an_exception_with_a_secret_argument_shows_no_octets():
    assert OCTETS.hex() not in repr(ValueError(Secret(OCTETS)))


@given(st.binary(min_size=0, max_size=64), st.binary(min_size=0, max_size=64))
def test_equality_is_that_of_the_octets(one, other):
    assert (Secret(one) == Secret(other)) is (one == other)
    assert Secret(one) != one


def test_parts_and_joins_are_secrets_again():
    whole = Secret(OCTETS)
    assert whole.part(0, 4).joined(whole.part(4, 16)) == whole
    assert len(whole.part(0, 4)) == 4
    with pytest.raises(ValueError):
        whole.part(8, 17)


def test_random_secrets_differ_and_have_the_length_asked_for():
    assert len(Secret.random(30)) == 30
    assert Secret.random(30) != Secret.random(30)
    with pytest.raises(ValueError):
        Secret.random(0)


def test_text_is_not_taken_for_octets():
    with pytest.raises(TypeError):
        Secret("key")


def test_a_secret_does_not_change_with_the_buffer_it_came_from():
    buffer = bytearray(OCTETS)
    secret = Secret(buffer)
    buffer[0] = 0
    assert secret.reveal() == OCTETS
