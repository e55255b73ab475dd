from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.control import ControlError, ControlServer, Json, NotRunningError, Params, Progress, ask


class Served:
    """A control server on a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cancelled = threading.Event()
        self.begun = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._server = ControlServer(
            path, {"echo": self._echo, "count": self._count, "refuse": self._refuse, "hang": self._hang}
        )
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(5)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(5)
        asyncio.run_coroutine_threadsafe(self._rest(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @staticmethod
    async def _rest() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*others, return_exceptions=True)

    async def _echo(self, params: Params, progress: Progress) -> Json:
        return params

    async def _count(self, params: Params, progress: Progress) -> Json:
        for number in range(3):
            await progress({"n": number})
        return {"done": True}

    async def _refuse(self, params: Params, progress: Progress) -> Json:
        raise ControlError("no user is called nobody", "usage")

    async def _hang(self, params: Params, progress: Progress) -> Json:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return None


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / ("a-state-folder-with-a-name-longer-than-a-unix-socket-address-may-be-" * 2)
    folder.mkdir()
    server = Served(folder / "control.sock")
    yield server
    server.close()


def test_a_request_gets_its_result_whatever_the_length_of_the_folder_name(served: Served) -> None:
    assert ask(served.path, "echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}


def test_the_socket_is_its_owners_alone(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


def test_progress_comes_before_the_result(served: Served) -> None:
    seen: list[Params] = []
    assert ask(served.path, "count", progress=seen.append) == {"done": True}
    assert seen == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_refusal_keeps_its_kind_and_text(served: Served) -> None:
    with pytest.raises(ControlError, match="nobody") as caught:
        ask(served.path, "refuse")
    assert caught.value.kind == "usage"


def test_an_unknown_operation_is_refused(served: Served) -> None:
    with pytest.raises(ControlError, match="not a request"):
        ask(served.path, "no-such-thing")


def test_what_was_asked_is_cancelled_when_the_asker_goes(served: Served) -> None:
    import socket

    connection = socket.socket(socket.AF_UNIX)
    import os

    folder = os.open(served.path.parent, os.O_RDONLY)
    connection.connect(f"/proc/self/fd/{folder}/{served.path.name}")
    os.close(folder)
    connection.sendall(b'{"op": "hang"}\n')
    assert served.begun.wait(5)
    connection.close()
    assert served.cancelled.wait(5)


def test_without_a_lab_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="imslab up"):
        ask(tmp_path / "control.sock", "status")
