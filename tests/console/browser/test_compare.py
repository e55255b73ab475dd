"""Two calls beside each other, with their differences marked."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from playwright.sync_api import expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.watched import Watched


def test_calls_of_two_modes_stand_beside_each_other_with_differences_marked(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any], kms_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.go(f"/compare?a={quote(e2ae_call['call_id'])}&b={quote(kms_call['call_id'])}")
    mode = page.get_by_role("row").filter(has_text="Mode")
    expect(mode).to_have_class("differs")
    expect(mode).to_contain_text("≠")
    expect(page.get_by_role("row").filter(has_text="sip:bob@ims.test").first).not_to_have_class("differs")
    left, right = page.locator('.two [data-side="a"]'), page.locator('.two [data-side="b"]')
    # The request for a ticket is of one call alone, the INVITE of both and different: it carries MIKEY.
    only = right.locator(".step.only")
    expect(only.filter(has_text="REQUEST_INIT").first).to_be_attached()
    invite = right.locator(".step.differs").filter(has_text="INVITE +SDP +MIKEY").first
    expect(invite).to_be_attached()
    assert "differs" in (invite.get_attribute("aria-label") or "")
    expect(left.locator(".step.differs").filter(has_text="INVITE +SDP").first).to_be_attached()
    # A row of one is beside its row of the other.
    heights = [side.locator(".ladder-body").evaluate("node => node.getAttribute('height')") for side in (left, right)]
    assert heights[0] == heights[1]
    ringing = [
        side.locator(".step", has_text="180 Ringing").first.locator(".hit").get_attribute("y") for side in (left, right)
    ]
    assert ringing[0] == ringing[1]
    # Both ways of the media, leg by leg.
    paths = page.locator("svg.path")
    expect(paths).to_have_count(2)
    assert paths.nth(0).locator(".leg.differs").count() == 3
    assert paths.nth(1).locator(".leg.opaque").count() == 3
    assert all((text or "").startswith("≠") for text in paths.nth(1).locator(".what").all_text_contents())


def test_two_marked_calls_are_compared(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    watched.go("/calls?q=stored-0000")
    expect(page.locator(".vspace .vrow")).to_have_count(10)
    page.get_by_role("grid").focus()
    for key in ("Home", "c", "ArrowDown", "ArrowDown", "c"):
        page.keyboard.press(key)
    page.get_by_role("link", name="Compare them").click()
    expect(page.get_by_role("heading", name="Compare two calls")).to_be_visible()
    expect(page.get_by_role("link", name="stored-00000@lab")).to_be_visible()
    expect(page.get_by_role("link", name="stored-00002@lab")).to_be_visible()
    watched.go("/calls")
    page.get_by_role("button", name="Unmark").click()
