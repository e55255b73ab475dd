"""Getting in: the link, a wrong token, a reload, a session that ended."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from playwright.sync_api import expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.watched import Watched


def test_link_signs_in_and_the_token_leaves_the_address(thread: BrowserThread, fresh: Watched) -> None:
    page = fresh.page
    expect(page.get_by_role("heading", name="Topology")).to_be_visible()
    assert fresh.console.token not in page.url
    assert fresh.console.token not in page.content()
    # Neither history nor storage nor a script-readable cookie has it.
    held = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
    assert fresh.console.token not in held
    assert "imslab_console" not in held
    page.reload()
    expect(page.locator(".bar .status")).to_contain_text("live")


def test_wrong_token_is_told_in_words(thread: BrowserThread, opened: Callable[..., Watched]) -> None:
    watched = opened()
    watched.expected.append("401")
    page = watched.page
    page.goto(f"{watched.console.origin}/#token={'A' * 43}")
    expect(page.get_by_role("alert")).to_contain_text("token")
    expect(page.get_by_role("heading", name="imslab console")).to_be_visible()
    assert "AAAA" not in page.url
    # The form takes the whole link as well as the token.
    page.get_by_label("Token, or the whole link").fill(watched.console.link)
    page.get_by_role("button", name="Open the console").click()
    expect(page.get_by_role("heading", name="Topology")).to_be_visible()


def test_page_without_a_session_says_how_to_get_one(thread: BrowserThread, opened: Callable[..., Watched]) -> None:
    watched = opened()
    watched.expected.append("401")
    watched.page.goto(watched.console.origin + "/#/calls")
    expect(watched.page.get_by_text("imslab console prints the link")).to_be_visible()
    expect(watched.page.get_by_role("navigation")).to_have_count(0)


def test_session_that_ends_shows_the_way_back_in(thread: BrowserThread, fresh: Watched) -> None:
    fresh.expected.append("401")
    page = fresh.page
    ended = page.evaluate(
        "key => fetch('/api/session', {method: 'DELETE', headers: {'X-Imslab': sessionStorage.getItem(key)}}).then(r => r.status)",
        "imslab-page-key",
    )
    assert ended == 204
    fresh.go("/registrations")
    page.reload()
    expect(page.get_by_label("Token, or the whole link")).to_be_visible()


def test_tabs_of_one_browser_share_a_session(thread: BrowserThread, fresh: Watched) -> None:
    other = Watched(fresh.page.context.new_page(), fresh.console)
    other.page.goto(fresh.console.origin + "/#/calls")
    expect(other.page.get_by_role("heading", name="Calls")).to_be_visible()
    # A second use of the link makes a session anew; the first tab goes on with it, though it may ask once in vain.
    fresh.expected.append("401")
    other.enter("/registrations")
    fresh.go("/tickets")
    expect(fresh.page.get_by_role("heading", name="KMS tickets")).to_be_visible()
    expect(fresh.page.locator("main .waiting")).to_have_count(0)
    expect(fresh.page.get_by_role("alert")).to_have_count(0)
    assert other.faults == []


def test_cookie_alone_opens_nothing(thread: BrowserThread, fresh: Watched) -> None:
    context = fresh.page.context
    fresh.page.close()
    late = Watched(context.new_page(), fresh.console, expected=["401"])
    assert any(cookie["name"].startswith("imslab_console") for cookie in context.cookies())
    late.page.goto(fresh.console.origin + "/#/calls")
    expect(late.page.get_by_label("Token, or the whole link")).to_be_visible()
    assert late.faults == []


def test_link_of_a_view_survives_the_sign_in(thread: BrowserThread, opened: Callable[..., Watched]) -> None:
    watched = opened()
    watched.enter("/registrations")
    expect(watched.page.get_by_role("heading", name="Registrations")).to_be_visible()
    assert watched.page.url.endswith(f"#{quote('/registrations')}")
