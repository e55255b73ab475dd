"""One lab with 10,000 stored calls and one Chromium for every browser test; each page is watched while it lives.

Playwright's synchronous interface refuses a thread in which a loop runs, as the reactor does here: browser and tests
have a thread of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.console.browser.stored import fill
from tests.console.browser.watched import Console, Watched
from tests.e2e.lab import Lab, running

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu"]
T = TypeVar("T")

expect.set_options(timeout=15_000)  # a busy machine is no finding


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for mark in (pytest.mark.browser, pytest.mark.lab, pytest.mark.peer("chromium"), pytest.mark.timeout(300)):
                item.add_marker(mark)


class BrowserThread:
    """Where everything of Playwright runs."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "browser")

    def run(self, act: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return self._pool.submit(act, *arguments, **named).result()

    def end(self) -> None:
        self._pool.shutdown()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    thread = pyfuncitem.funcargs.get("thread")
    if not isinstance(thread, BrowserThread):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    thread.run(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture(scope="session")
def thread() -> Iterator[BrowserThread]:
    started = BrowserThread()
    yield started
    started.end()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab whose console is looked at."""
    folder = tmp_path_factory.mktemp("console")
    state = folder / "state"
    state.mkdir(mode=0o700)
    fill(state / "traces.sqlite")
    with running(folder) as lab:
        yield lab


@pytest.fixture(scope="session")
def console(stage: Lab) -> Console:
    origin, _, token = stage.run("console").stdout.strip().partition("/#token=")
    return Console(origin, token)


@pytest.fixture(scope="session")
def browser(thread: BrowserThread) -> Iterator[Browser]:
    def start() -> tuple[Playwright, Browser]:
        playwright = sync_playwright().start()
        return playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

    playwright, chromium = thread.run(start)
    yield chromium
    thread.run(chromium.close)
    thread.run(playwright.stop)


@pytest.fixture
def opened(browser: Browser, console: Console, thread: BrowserThread) -> Iterator[Callable[..., Watched]]:
    """Opens pages; what went wrong in any of them is found when the test ends."""
    pages: list[Watched] = []

    def open_page(**options: Any) -> Watched:
        pages.append(Watched(new_page(browser, **options), console))
        return pages[-1]

    yield open_page

    def close() -> list[str]:
        wrong = [fault for page in pages for fault in page.faults]
        for page in pages:
            page.page.context.close()
        return wrong

    assert thread.run(close) == []


@pytest.fixture
def fresh(opened: Callable[..., Watched], thread: BrowserThread) -> Watched:
    """A page of a browser that knows nothing yet, with a session, at the topology."""
    page = thread.run(opened)
    thread.run(page.enter)
    return page


@pytest.fixture(scope="session")
def shared(browser: Browser, console: Console, thread: BrowserThread) -> Iterator[list[Watched]]:
    """The page that tests share; one that was left in a bad state is taken out of the list."""
    pages: list[Watched] = []
    yield pages
    for page in pages:
        thread.run(page.page.context.close)


@pytest.fixture
def watched(
    shared: list[Watched], browser: Browser, console: Console, thread: BrowserThread, request: pytest.FixtureRequest
) -> Iterator[Watched]:
    """A page with a session, at the topology, for tests that leave nothing behind in it."""

    def begin() -> Watched:
        if not shared:
            shared.append(Watched(new_page(browser), console))
            shared[0].enter()
        page = shared[0]
        page.faults.clear()
        page.expected.clear()
        page.go("/topology")
        return page

    page = thread.run(begin)
    failed = request.session.testsfailed
    yield page
    if page.faults or request.session.testsfailed > failed:
        shared.clear()
        thread.run(page.page.context.close)
    assert page.faults == []


def new_page(browser: Browser, **options: Any) -> Page:
    """A page in a context of its own."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(20_000)
    return context.new_page()


@pytest.fixture(scope="session")
def e2ae_call(stage: Lab) -> dict[str, Any]:
    """A finished call that is protected as far as the access gateways."""
    return stage.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "2.2")


@pytest.fixture(scope="session")
def kms_call(stage: Lab) -> dict[str, Any]:
    """A finished call that is protected end to end with keys of the KMS."""
    return stage.call("alice", "bob", "--security", "e2e-kms", "--seconds", "1")
