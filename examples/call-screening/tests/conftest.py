"""The package as `imslab up --with` has it: checked, its contract compiled where it changed, on the path."""

from pathlib import Path

import pytest
from sba.testing import use_packages

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    del config
    use_packages([ROOT])
