"""The console of a running lab, put together: what the supervisor starts, stops and tells the command line about."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.internet.error import CannotListenError

from lab.calls import CallDesk, CallOrder
from lab.console.access import Access, as_text, new_token, open_token
from lab.console.api import Api
from lab.console.choices import Choices
from lab.console.events import EventStream
from lab.console.feed import Feed
from lab.console.labview import Host, LabView
from lab.console.notes import noting
from lab.console.orders import Order, OrderDesk
from lab.console.server import ConsoleServer
from lab.console.settings import ConsoleSettings
from lab.control import ControlError, Json, Operation, Params, Progress
from lab.metricstore import MetricStore
from lab.operator import Operator
from lab.tracestore import TraceStore


class Console:
    """Page, interface and events of one supervisor; ``tell`` writes to its log."""

    def __init__(
        self,
        host: Host,
        operator: Operator,
        desk: CallDesk,
        store: TraceStore,
        operations: Mapping[str, Operation],
        settings: ConsoleSettings,
        tell: Callable[[str], None],
        metrics: MetricStore,
    ) -> None:
        self._host, self._operator, self._desk, self._store = host, operator, desk, store
        self._operations, self._settings, self._tell = operations, settings, tell
        self._metrics = metrics
        self._server: ConsoleServer | None = None
        self._feed: Feed | None = None
        self._orders: OrderDesk | None = None
        self._reader: TraceStore | None = None
        self._access: Access | None = None
        self._token = ""
        self._moved = ""
        self._why_not = "" if settings.enabled else "this lab was started without its console"

    @property
    def _token_file(self) -> Path:
        return self._host.folder.root / "console.token"

    @property
    def _port_file(self) -> Path:
        return self._host.folder.root / "console.port"

    async def start(self) -> None:
        """Serve, unless the lab is to have no console; what keeps it from serving is told, and ends nothing else."""
        if not self._settings.enabled:
            return
        try:
            token = open_token(self._token_file)
            self._reader = TraceStore(self._host.folder.traces, read_only=True)
        except (OSError, sqlite3.Error) as error:
            self._why_not = f"the console could not be started: {error}"
            self._tell(self._why_not)
            return
        self._token, self._access = as_text(token), Access(token)
        view, events = LabView(self._host, self._operator), EventStream(time.monotonic)

        def told(order: Order) -> None:
            events.send("order", order.document())

        choices = Choices(self._host.folder.lab_json)
        orders = OrderDesk(self._desk, choices, told, self.noting)
        feed = Feed(self._host, view, self._operator, self._store, self._reader, events)
        api = Api(
            self._host,
            view,
            self._operator,
            self._store,
            self._reader,
            feed,
            orders,
            self._operations,
            choices,
        )
        server = ConsoleServer(self._access, api.routes(), events, hosts=self._settings.hosts, metrics=self._prometheus)
        wanted = self._settings.port or self._kept_port()
        try:
            port = server.start(self._settings.bind, wanted)
        except CannotListenError as error:
            self._why_not = f"the console could not be started: {error}"
            self._tell(self._why_not)
            return
        self._port_file.write_text(f"{port}\n")
        self._server, self._feed, self._orders = server, feed, orders
        feed.start()
        if wanted and port != wanted:
            self._moved = f"the console's port {wanted} is taken; it serves {port}"
            self._tell(self._moved)
        self._tell(f"the console serves {self.url}")

    async def _prometheus(self) -> str:
        from lab.prometheus import render

        return await asyncio.to_thread(render, self._metrics)

    def _kept_port(self) -> int:
        try:
            port = int(self._port_file.read_text())
        except (OSError, ValueError):
            return 0
        return port if 1024 <= port <= 65535 else 0

    async def stop(self) -> None:
        """Serve no longer."""
        if self._orders is not None:
            await self._orders.close()
        if self._feed is not None:
            await self._feed.stop()
        if self._server is not None:
            await self._server.stop()
            self._server = None
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await asyncio.to_thread(reader.close)

    @property
    def url(self) -> str:
        """Where the page is, without the token; empty while it is not served."""
        if self._server is None:
            return ""
        where = self._settings.published or f"{self._settings.bind}:{self._server.port}"
        return f"http://{where}/"

    def noting(self, order: CallOrder, progress: Progress) -> Progress:
        """Return a progress that also notes a call of the operator before its first span comes."""
        return noting(self._store, lambda: self._host.lab, order, progress)

    async def operation(self, params: Params, progress: Progress) -> Json:
        """Return the link of the page, for the control socket: whoever asks there is the user himself.

        With ``new_token`` the token changes, and every session ends. ``moved`` is there when another program has the
        port where the page was to be, and says so.
        """
        del progress
        if self._access is None or not self.url:
            raise ControlError(self._why_not or "the console does not serve yet")
        if params.get("new_token") is True:
            token = await asyncio.to_thread(new_token, self._token_file)
            self._token = as_text(token)
            self._access.change_token(token)
        page: dict[str, Json] = {"url": self.url, "link": f"{self.url}#token={self._token}"}
        return {**page, "moved": self._moved} if self._moved else page
