"""A capture goes on where a node names its peer instead of giving an address, or writes what is neither."""

from __future__ import annotations

import pytest

from lab.capture_frames import NOWHERE, _whole


@pytest.mark.parametrize("told", ["", "nrf", "nrf.ims.test", "10.89.0", "10.89.0.1.2", "::g", "a" * 4096, "\x00"])
def test_what_is_no_address_is_nowhere(told: str) -> None:
    assert _whole((told, 7443)) == (NOWHERE, 7443)


@pytest.mark.parametrize("told", ["10.89.12.2", "::1", "127.0.0.1"])
def test_an_address_stays(told: str) -> None:
    assert _whole((told, 7443)) == (told, 7443)
