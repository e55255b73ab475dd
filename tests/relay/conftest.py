"""Ends of a stream, closed after the test, around either packet loop."""

import os
from collections.abc import Iterator

import pytest

from media.relay.compiled import why_not_compiled
from tests.relay.ends import Ends

LOOPS = ("interpreted", "compiled", "threads")


@pytest.fixture
def compiled() -> None:
    """The compiled packet loop is there; in CI it has to be."""
    _need_compiled()


def _need_compiled() -> None:
    if why := why_not_compiled():
        reason = f"no compiled packet loop: {why}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The packet loop that engines and worker processes of the test run."""
    chosen = str(request.param)
    monkeypatch.setenv("IMSLAB_PACKET_LOOP", "python" if chosen == "interpreted" else "compiled")
    if chosen != "interpreted":
        _need_compiled()
    return chosen


@pytest.fixture
def ends(loop: str) -> Iterator[Ends]:
    made = Ends(loop=loop)
    yield made
    made.close()
