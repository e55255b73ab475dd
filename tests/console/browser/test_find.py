"""Ten thousand stored calls: the list stays quick, and calls are found by user, Call-ID and trace id."""

from __future__ import annotations

import time
from typing import Any

from playwright.sync_api import Page, expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.stored import MANY, OLDEST_CALL
from tests.console.browser.watched import Watched

MOST_ROWS = 120
"""Rows in the page at once, however many calls there are."""


def rows_of(page: Page) -> int:
    return page.locator(".vspace .vrow").count()


def test_ten_thousand_calls_scroll_to_the_oldest(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    watched.go("/calls")
    grid = page.get_by_role("grid")
    expect(grid.locator(".vspace .vrow").first).to_be_visible()
    assert int(grid.get_attribute("aria-rowcount") or 0) > MANY
    assert rows_of(page) < MOST_ROWS
    began = time.monotonic()
    grid.focus()
    page.keyboard.press("End")
    expect(grid.locator(".vrow.active")).to_contain_text(OLDEST_CALL, timeout=20_000)
    took = time.monotonic() - began
    assert rows_of(page) < MOST_ROWS
    assert took < 20
    # All pages are here now. A jump draws what one sees, and takes no longer than in a list of a hundred calls.
    many, drawn = jump(page)
    assert drawn < MOST_ROWS
    watched.go("/calls?q=stored-000")
    expect(grid).to_have_attribute("aria-rowcount", "101")
    few, _ = jump(page)
    assert many < 4 * few + 100


def jump(page: Page) -> tuple[float, int]:
    """Jump about in the list; returns how long a jump takes, ms, median, and how many rows were put in for one at most."""
    took, most = page.evaluate(
        """() => new Promise((done) => {
          const grid = document.querySelector('.vgrid'), times = [];
          let last = performance.now(), at = 0, most = 0;
          new MutationObserver((all) => { most = Math.max(most, ...all.map((one) => one.addedNodes.length)); })
            .observe(grid.querySelector('.vspace'), {childList: true});
          const step = (now) => {
            times.push(now - last); last = now;
            if (++at > 40) return done([times.sort((a, b) => a - b)[20], most]);
            grid.scrollTop = grid.scrollHeight * ((at * 17) % 40) / 40;
            requestAnimationFrame(step);
          };
          requestAnimationFrame(step);
        })"""
    )
    return float(took), int(most)


def test_row_in_the_middle_shows_when_scrolled_to(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    watched.go("/calls?user=carol")
    grid = page.get_by_role("grid")
    expect(grid.locator(".vspace .vrow").first).to_be_visible()
    total = int(grid.get_attribute("aria-rowcount") or 0) - 1
    assert MANY // 2 <= total < MANY
    grid.evaluate("node => { node.scrollTop = node.scrollHeight / 2; }")
    row = grid.locator(f'[aria-rowindex="{total // 2}"]')
    expect(row).to_contain_text("carol", timeout=20_000)


def test_calls_are_filtered_by_result_mode_and_text(
    thread: BrowserThread, watched: Watched, kms_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.go("/calls")
    page.get_by_label("Result").select_option("refused")
    states = page.locator(".vspace .vrow .c-state")
    expect(states.filter(has_not_text="refused")).to_have_count(0)
    expect(states.first).to_contain_text("refused")
    assert "result=refused" in page.url
    page.get_by_label("Result").select_option("")
    page.get_by_label("Mode").select_option("e2e-kms")
    expect(page.locator(".vspace .vrow", has_text=kms_call["call_id"])).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Find calls by user, Call-ID or trace id").fill("stored-04242")
    expect(page.locator(".vspace .vrow")).to_have_count(1)
    expect(page.locator(".vspace .vrow")).to_contain_text("stored-04242@lab")
    page.get_by_label("Find calls by user, Call-ID or trace id").fill("no such call")
    expect(page.get_by_text("No call passes the filter")).to_be_visible()


def search(page: Page, words: str) -> None:
    page.keyboard.press("/")
    page.get_by_label("Search users, calls and traces").fill(words)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Search: {words}")).to_be_visible()
    page.get_by_role("heading", name=f"Search: {words}").click()


def test_search_finds_by_call_id_trace_id_and_user(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = watched.page
    call_id, trace_id = e2ae_call["call_id"], e2ae_call["trace_id"]
    search(page, call_id)
    expect(page.get_by_role("link", name=call_id)).to_have_count(1)
    search(page, trace_id)
    expect(page.get_by_role("link", name=call_id).first).to_be_visible()
    page.get_by_role("link", name=call_id).first.click()
    expect(watched.steps().first).to_be_visible()
    search(page, "erin")
    expect(page.get_by_role("heading", name="Users")).to_be_visible()
    expect(page.get_by_role("cell", name="sip:erin@partner.test")).to_be_visible()
    search(page, "kms-p")
    page.get_by_role("link", name="kms-p").click()
    expect(page.get_by_role("complementary", name="Node")).to_contain_text("kms-p")
    search(page, "nothing is called like this")
    expect(page.get_by_text("Nothing found for")).to_be_visible()


def test_trace_that_is_no_call_has_a_waterfall(thread: BrowserThread, watched: Watched, stage: Any) -> None:
    ticket = stage.json("ticket", "request", "alice", "bob")
    page = watched.page
    watched.expected.append("404")  # asked for before its spans are here
    watched.go(f"/trace/{ticket['trace_id']}")
    expect(page.get_by_role("treeitem").first).to_be_visible()
    expect(page.locator("main")).to_contain_text("kms")
