"""A console that cannot have the port where it is looked for says where it is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.console.service import Console
from lab.console.settings import ConsoleSettings
from lab.metricstore import MetricStore
from lab.state import StateFolder
from lab.tracestore import TraceStore
from sba.testing import async_test


async def nothing(_progress: object) -> None:
    """Nobody listens to how an operation gets on."""


class Site:
    """A console of a lab without nodes, and what it told the supervisor's log."""

    def __init__(self, root: Path, settings: ConsoleSettings) -> None:
        self.told: list[str] = []
        folder = StateFolder.at(root)
        folder.root.mkdir(exist_ok=True)
        self._store = TraceStore(folder.traces)
        fleet = SimpleNamespace(nodes={})
        lab = SimpleNamespace(nodes={}, users={})
        host: Any = SimpleNamespace(folder=folder, fleet=fleet, lab=lab, watching=self._watching)
        nobody: Any = None
        self.console = Console(host, nobody, nobody, self._store, {}, settings, self.told.append, MetricStore())

    @contextlib.contextmanager
    def _watching(self) -> Iterator[asyncio.Queue[object]]:
        yield asyncio.Queue()

    async def page(self) -> Any:
        """What the command line is told, after a start and an end."""
        await self.console.start()
        try:
            return await self.console.operation({}, nothing)
        finally:
            await self.console.stop()
            self._store.close()


@pytest.mark.parametrize("chosen", [True, False], ids=["chosen", "kept"])
@async_test
async def test_a_console_whose_port_is_taken_says_so_and_where_it_serves(tmp_path: Path, chosen: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        (tmp_path / "console.port").write_text(f"{taken}\n")
        site = Site(tmp_path, ConsoleSettings(port=taken if chosen else 0))
        page = await site.page()
    port = int(page["url"].rpartition(":")[2].strip("/"))
    assert page["moved"] == f"the console's port {taken} is taken; it serves {port}"
    assert page["moved"] in site.told


@async_test
async def test_a_console_that_has_its_port_says_nothing_of_it(tmp_path: Path) -> None:
    first = await Site(tmp_path, ConsoleSettings()).page()
    again = Site(tmp_path, ConsoleSettings())
    assert (await again.page())["url"] == first["url"], "kept in the state folder"
    assert "moved" not in first
    assert not [line for line in again.told if "taken" in line]
