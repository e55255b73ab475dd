"""The table by descriptor is a dict that remembers nothing of what is gone, and knows no descriptor below 0."""

import pytest

from media.relay.descriptors import ByDescriptor


def test_values_are_found_by_their_descriptor_until_they_are_taken_out():
    table: ByDescriptor[str] = ByDescriptor()
    table[7], table[3] = "seven", "three"
    assert (dict(table), len(table), table.get(5), table.get(700)) == ({3: "three", 7: "seven"}, 2, None, None)
    table[7] = "another"
    assert (table.pop(7), table.pop(7, None), list(table)) == ("another", None, [3])


@pytest.mark.parametrize("descriptor", [-1, 4, 1 << 20])
def test_a_descriptor_that_has_nothing_is_no_key(descriptor: int):
    table: ByDescriptor[str] = ByDescriptor()
    table[5] = "five"
    assert descriptor not in table
    with pytest.raises(KeyError):
        del table[descriptor]
    with pytest.raises(KeyError):
        table[-1] = "closed"
