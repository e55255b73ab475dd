"""What happens is shown as it happens: calls placed by the form, nodes that fall, registrations, a lost connection."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.console.browser.cable import Cable
from tests.console.browser.conftest import BrowserThread
from tests.console.browser.watched import Watched
from tests.e2e.lab import Lab


def place(page: Page, security: str, seconds: str, to: str = "bob") -> None:
    page.get_by_label("From", exact=True).select_option("alice")
    page.get_by_label("To", exact=True).fill(to)
    page.get_by_label("Security").select_option(security)
    page.get_by_label("Seconds of talk").fill(seconds)
    page.get_by_role("button", name="Place the call").click()


def test_call_placed_by_the_form_appears_live_and_is_hung_up(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    watched.go("/place")
    other = watched.page.context.new_page()  # shares no page key: a session of its own
    list_page = Watched(other, watched.console)
    list_page.enter("/calls?state=live")
    expect(other.get_by_text("No call passes the filter")).to_be_visible()

    place(page, "e2ae-sdes", "60")
    rows = other.locator(".vspace .vrow")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("in the call")
    expect(rows.first).to_contain_text("e2ae-sdes")
    order = page.locator("li.order").first
    expect(order).to_contain_text(re.compile("answered|media flows"))

    order.get_by_role("link", name="Watch the call").click()
    expect(page.locator("section.call > .head .badge")).to_contain_text("in the call")
    expect(page.locator("svg.path .leg.rtp")).to_have_count(1)
    before = page.locator(".ladder-body .step").count()
    page.get_by_role("button", name="Hang up").click()
    expect(page.locator("section.call > .head .badge")).to_contain_text("established")
    expect(page.get_by_role("button", name="Hang up")).to_have_count(0)
    # The BYE comes into the ladder without a reload.
    expect(page.locator(".ladder-body .step", has_text="BYE").first).to_be_attached(timeout=15_000)
    assert page.locator(".ladder-body .step").count() > before
    expect(rows).to_have_count(0)
    assert list_page.faults == []
    other.close()


def test_verdict_of_a_call_that_the_kms_refuses_is_told_in_words(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    watched.go("/place?from=carol&to=bob&security=e2e-kms&seconds=1")
    expect(page.get_by_label("From", exact=True)).to_have_value("carol")
    page.get_by_role("button", name="Place the call").click()
    order = page.locator("li.order").first
    expect(order).to_contain_text("refused", timeout=20_000)
    expect(order).to_contain_text("the KMS refused")
    expect(order).to_contain_text("imslab kms audit")


def test_order_that_cannot_be_tried_is_told_in_words(thread: BrowserThread, watched: Watched) -> None:
    watched.expected.append("409")
    watched.expected.append("400")
    page = watched.page
    watched.go("/place")
    place(page, "none", "1", to="nobody-of-this-lab")
    expect(page.get_by_role("alert")).to_contain_text("nobody-of-this-lab")


def test_node_that_is_killed_turns_red_and_comes_back(thread: BrowserThread, watched: Watched, stage: Lab) -> None:
    page = watched.page
    node = page.locator('.topology-drawing [data-node="hss-p"]')
    expect(node).to_have_class(re.compile(r"\bgood\b"))
    # The state may last a few milliseconds only: what the node's row went through is written down by the page itself.
    page.evaluate(
        """() => {
          window.seen = new Set();
          const note = () => {
            const row = document.querySelector('.topology-drawing [data-node="hss-p"]');
            if (row) window.seen.add(row.getAttribute('class') + '|' + row.getAttribute('aria-label'));
          };
          new MutationObserver(note).observe(document.querySelector('main'), {subtree: true, childList: true});
        }"""
    )
    dead = stage.kill("hss-p")
    stage.wait(
        lambda: page.evaluate("[...window.seen].some(row => !row.startsWith('node good'))"),
        20,
        "the node never turned red",
    )
    stage.wait_back("hss-p", dead)
    expect(node).to_have_class(re.compile(r"\bgood\b"))
    seen: list[str] = page.evaluate("[...window.seen]")
    assert any("fallen" in row or "starting" in row for row in seen), seen
    node.click()
    panel = page.get_by_role("complementary", name="Node")
    expect(panel).to_contain_text("serving")
    facts = panel.locator(".facts").inner_text()
    assert re.search(r"Restarts\s+[1-9]", facts), facts
    expect(panel).to_contain_text("imslab logs hss-p")
    expect(panel.locator(".metrics").first).to_be_visible()


def test_user_is_registered_and_deregistered_by_a_button(thread: BrowserThread, watched: Watched, stage: Lab) -> None:
    page = watched.page
    watched.go("/registrations")
    row = page.get_by_role("row").filter(has_text="sip:erin@partner.test")
    button = row.get_by_role("button")
    expect(button).to_be_visible()
    if button.inner_text() == "De-register":
        button.click()
        expect(row).to_contain_text("not registered")
    row.get_by_role("button", name="Register erin").click()
    expect(row.locator(".badge.good")).to_have_text("●registered")
    expect(row).to_contain_text("sdes-srtp")
    assert json.loads(stage.run("ue", "status", "erin").stdout)["registered"] is True
    row.get_by_role("button", name="De-register erin").click()
    expect(row).to_contain_text("not registered")
    # And what others do shows here too.
    stage.run("register", "erin")
    expect(row.locator(".badge.good")).to_have_text("●registered")


def test_tickets_come_in_as_they_are_granted(thread: BrowserThread, watched: Watched, stage: Lab) -> None:
    page = watched.page
    watched.go("/tickets?user=bob")
    expect(page.locator("main").get_by_label("User")).to_have_value("bob")
    expect(page.locator("main .waiting")).to_have_count(0)
    before = page.locator("tbody tr").count()
    ticket = stage.json("ticket", "request", "bob", "alice")
    expect(page.locator("tbody tr").filter(has_text=ticket["ticket_id"])).to_have_count(1)
    assert page.locator("tbody tr").count() > before
    page.locator("main").get_by_label("Outcome").select_option("refused")
    expect(page.locator("tbody tr").filter(has_text=ticket["ticket_id"])).to_have_count(0)


def test_lost_connection_shows_and_heals(thread: BrowserThread, opened: Callable[..., Watched]) -> None:
    with Cable() as cable:
        watched = opened(proxy={"server": f"socks5://127.0.0.1:{cable.port}", "bypass": "<-loopback>"})
        watched.expected += ["net::ERR_"]
        watched.enter()
        page = watched.page
        status = page.locator(".bar .status")
        cable.cut()
        expect(status).to_contain_text("connection lost")
        watched.go("/calls?q=stored-00001")
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        cable.mend()
        # What could not be shown comes by itself.
        expect(status).to_contain_text("live")
        expect(page.locator(".vspace .vrow")).to_have_count(1)
        expect(page.get_by_role("alert")).to_have_count(0)
