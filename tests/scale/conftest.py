"""One lab for all tests of several instances; those that start none need none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.lab import running
from tests.scale.crowd import Crowd, crowded


@pytest.fixture(scope="package")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with running(tmp_path_factory.mktemp("scale"), crowded) as lab:
        found = Crowd(lab)
        found.register()
        yield found
