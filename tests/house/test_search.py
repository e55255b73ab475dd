"""The search for secrets finds what plain ``in`` finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.search import Search

FEW = st.integers(0, 3).map(lambda number: bytes([number]))


@given(st.lists(FEW, max_size=60), st.lists(st.lists(FEW, min_size=3, max_size=6), max_size=8))
def test_a_string_is_found_exactly_where_it_stands(octets: list[bytes], strings: list[list[bytes]]) -> None:
    whole, named = b"".join(octets), [(str(number), b"".join(string)) for number, string in enumerate(strings)]
    assert Search(named).names_in(whole) == {name for name, string in named if string in whole}


@pytest.mark.parametrize(("octets", "found"), [(b"xxabcd", True), (b"abcdxx", True), (b"xxabc", False), (b"ab", False)])
def test_at_the_ends(octets: bytes, *, found: bool) -> None:
    assert bool(Search([("it", b"abcd")]).names_in(octets)) is found


def test_what_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="it is shorter than 3 octets"):
        Search([("it", b"ab")])
