"""Usable by everybody: contrast and names in both themes, the keyboard alone, narrow windows, no motion that was not asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.stored import HOSTILE_CALL, PARTIAL_CALL
from tests.console.browser.watched import Watched

AUDIT = (Path(__file__).parent / "audit.js").read_text()


def views(e2ae: str, kms: str, step: str) -> list[str]:
    one, other = quote(e2ae, safe=""), quote(kms, safe="")
    return [
        "/topology/imsagw-a",
        "/topology?as=table",
        "/calls",
        "/calls?q=none-of-this-name",
        f"/call/{one}?step={step}",
        f"/call/{other}?tab=media",
        f"/call/{one}?tab=trace",
        f"/call/{one}?tab=statistics",
        f"/call/{one}?tab=decisions",
        f"/call/{quote(HOSTILE_CALL, safe='')}",
        f"/call/{PARTIAL_CALL}",
        "/registrations",
        "/tickets",
        f"/compare?a={one}&b={other}",
        "/place",
        "/search?q=alice",
    ]


def settled(page: Page) -> None:
    expect(page.locator("main .waiting")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 400)], ids=["light", "dark", "narrow"]
)
def test_every_view_is_legible_and_every_control_has_a_name(
    thread: BrowserThread,
    opened: Callable[..., Watched],
    e2ae_call: dict[str, Any],
    kms_call: dict[str, Any],
    scheme: str,
    width: int,
) -> None:
    watched = opened(color_scheme=scheme, viewport={"width": width, "height": 900})
    watched.enter()
    faults = {}
    watched.call(e2ae_call["call_id"])
    step = watched.steps().first.get_attribute("data-id")
    assert step
    for view in views(e2ae_call["call_id"], kms_call["call_id"], step):
        watched.go(view)
        settled(watched.page)
        if found := watched.page.evaluate(AUDIT):
            faults[view] = found
    watched.page.keyboard.press("?")
    expect(watched.page.get_by_role("dialog")).to_be_visible()
    if found := watched.page.evaluate(AUDIT):
        faults["help"] = found
    assert faults == {}


def test_audit_finds_what_it_is_for(thread: BrowserThread, fresh: Watched) -> None:
    fresh.go("/place")
    settled(fresh.page)
    fresh.page.evaluate(
        """() => {
          const pale = document.createElement('p');
          pale.textContent = 'hard to read';
          pale.style.color = '#999';
          const bare = document.createElement('button');
          bare.style.width = bare.style.height = '20px';
          const wide = document.createElement('div');
          wide.style.width = '3000px';
          wide.style.height = '2px';
          document.querySelector('main').append(pale, bare, wide);
        }"""
    )
    found = " ".join(fresh.page.evaluate(AUDIT))
    assert "hard to read" in found
    assert "no name: button" in found
    assert "scrolls sideways" in found


def test_theme_follows_the_system_until_one_is_chosen(thread: BrowserThread, opened: Callable[..., Watched]) -> None:
    watched = opened(color_scheme="dark")
    watched.enter()
    page = watched.page
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert light != dark
    for chosen, expected in (("light", light), ("dark", dark)):
        page.get_by_role("button", name="Theme:").click()
        expect(page.locator("html")).to_have_attribute("data-theme", chosen)
        assert page.evaluate(ground) == expected
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.evaluate(ground) == dark


def focus_shows(page: Page) -> bool:
    """Whether the focused element looks different from when it is not focused: an outline, or its row or shape marked."""
    return bool(
        page.evaluate(
            """() => {
              const node = document.activeElement;
              if (!node || node === document.body || node.id === 'main') return true;
              const outlined = (one) => {
                const style = getComputedStyle(one);
                return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
              };
              const hit = node.querySelector(':scope > .hit');
              return outlined(node) || (hit !== null && getComputedStyle(hit).stroke !== 'none');
            }"""
        )
    )


def reach(page: Page, wanted: str, limit: int = 60) -> None:
    """Press Tab until the focused element matches a selector."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        assert focus_shows(page), page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"{wanted} cannot be reached with Tab")


def test_keyboard_alone_goes_through_the_main_paths(
    thread: BrowserThread, fresh: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = fresh.page
    page.mouse.move(0, 0)
    # Topology: to a node, to its neighbour, its panel and back.
    reach(page, ".topology-drawing .node")
    first = page.evaluate("document.activeElement.dataset.node")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.node") != first
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Node")).to_be_visible()
    reach(page, "aside button")
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary", name="Node")).to_have_count(0)
    # Calls: find one, open it.
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Calls", exact=True)).to_be_visible()
    reach(page, "main input[type=search]")
    page.keyboard.type(e2ae_call["call_id"])
    expect(page.locator(".vspace .vrow")).to_have_count(1)
    reach(page, "[role=grid]")
    page.keyboard.press("Enter")
    expect(page.locator("svg.path")).to_be_visible()
    # Ladder: move, open, close; the focus returns to the step.
    expect(fresh.steps().first).to_be_visible()
    reach(page, ".ladder-body .step")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Message")).to_be_visible()
    reach(page, "aside .head button")
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Message")).to_have_count(0)
    assert page.evaluate("document.activeElement.matches('.ladder-body .step')")
    # Tabs.
    page.keyboard.press("Shift+Tab")
    while not page.evaluate("document.activeElement.matches('[role=tab]')"):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Trace")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("treeitem").first).to_be_visible()
    reach(page, "[role=treeitem]")
    # A call is placed.
    page.keyboard.press("6")
    expect(page.get_by_role("heading", name="Place a call")).to_be_visible()
    reach(page, "main select")
    page.keyboard.type("alice")
    reach(page, "input[type=number]")
    page.keyboard.press("Control+a")
    page.keyboard.type("0.5")
    page.keyboard.press("Enter")
    expect(page.locator("li.order").first).to_contain_text("established", timeout=20_000)
    # Help, and out of it.
    reach(page, "a, button")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_single_keys_can_be_switched_off(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    page.keyboard.press("?")
    page.get_by_label("single keys are shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Topology")).to_be_visible()
    page.get_by_role("button", name="Help: keys and signs").click()
    page.get_by_label("single keys are shortcuts").check()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("2")
    expect(page.get_by_role("heading", name="Calls", exact=True)).to_be_visible()


def test_nothing_moves_for_those_who_asked_for_stillness(thread: BrowserThread, opened: Callable[..., Watched]) -> None:
    watched = opened(reduced_motion="reduce")
    watched.enter("/place")
    moving = watched.page.evaluate(
        """() => [...document.querySelectorAll('*')].filter((node) => {
          const style = getComputedStyle(node);
          return style.transitionDuration.split(',').some((one) => parseFloat(one) > 0) || style.animationName !== 'none';
        }).length"""
    )
    assert moving == 0


def test_all_that_is_drawn_comes_from_the_console(thread: BrowserThread, fresh: Watched) -> None:
    """The page's policy forbids what tests of single views might miss."""
    page = fresh.page
    refused = page.evaluate(
        """async () => {
          const found = [];
          document.addEventListener('securitypolicyviolation', (event) => found.push(event.effectiveDirective));
          const script = document.createElement('script');
          script.textContent = 'window.ran = true';
          document.body.append(script);
          const style = document.createElement('style');
          style.textContent = 'body { color: red }';
          document.body.append(style);
          await fetch('http://127.0.0.9:9/').catch(() => {});
          await new Promise((done) => setTimeout(done, 50));
          return [found, window.ran === undefined];
        }"""
    )
    assert set(refused[0]) >= {"script-src-elem", "style-src-elem", "connect-src"}
    assert refused[1]
    # What this test provoked is no fault of the page.
    fresh.faults[:] = [
        fault for fault in fresh.faults if "Content Security Policy" not in fault and "127.0.0.9" not in fault
    ]
