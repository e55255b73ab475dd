"""A page of the console with everything noted that must never happen in it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from playwright.sync_api import Locator, Page, expect

CHANGED = "ERR_NETWORK_CHANGED"
"""Chromium gives up what it loads when an interface comes or goes on this machine, as those of containers do."""


@dataclass(frozen=True)
class Console:
    """Where a console is and what opens it."""

    origin: str
    token: str

    @property
    def link(self) -> str:
        return f"{self.origin}/#token={self.token}"

    def get(self, path: str) -> str:
        """What the interface says to a program that holds the token."""
        request = Request(self.origin + path, headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(request, timeout=20) as answer:
            body: bytes = answer.read()
        return body.decode()


@dataclass
class Watched:
    """``faults`` is empty for a page that asked nobody else, ran no foreign script and complained about nothing."""

    page: Page
    console: Console
    faults: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Parts of console messages that a test provokes."""
    _cut: int = 0

    def __post_init__(self) -> None:
        page = self.page
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda said: self._said(said.type, said.text))
        page.on("popup", lambda popup: self.faults.append(f"window: {popup.url}"))

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != self.console.origin:
            self.faults.append(f"request: {url}")

    def _said(self, kind: str, text: str) -> None:
        self._cut += CHANGED in text
        if kind in ("error", "warning") and not any(part in text for part in (CHANGED, *self.expected)):
            self.faults.append(f"console: {text}")

    def enter(self, view: str = "/topology") -> None:
        """Open the link that the command prints, then go to a view."""
        for _ in range(3):
            cut = self._cut
            self.page.goto(f"{self.console.link}&to={quote(view, safe='')}")
            with suppress(AssertionError):
                expect(self.page.locator(".bar .status")).to_contain_text("live")
                return
            if self._cut == cut:
                break
        expect(self.page.locator(".bar .status")).to_contain_text("live")

    def go(self, view: str) -> None:
        """Go to a view by its hash, as a link does."""
        self.page.evaluate("hash => { location.hash = hash; }", f"#{view}")

    def call(self, call_id: str, **parameters: str) -> None:
        """Open a call and wait for it, and for its ladder unless another tab is asked for."""
        tail = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        self.go(f"/call/{quote(call_id, safe='')}" + (f"?{tail}" if tail else ""))
        expect(self.page.locator("main .copyable").first).to_contain_text(call_id)
        if "tab" not in parameters:
            expect(self.steps().first).to_be_attached()

    def steps(self) -> Locator:
        """Steps of the ladder that is shown."""
        return self.page.locator(".ladder-body .step")
