"""Ends of a stream, closed after the test."""

from collections.abc import Iterator

import pytest

from tests.relay.ends import Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()
