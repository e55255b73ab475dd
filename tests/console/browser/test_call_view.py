"""One call on the page: its ladder, the text of a message, the way of its media, trace, statistics and decisions."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Page, expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.stored import PARTIAL_CALL
from tests.console.browser.watched import Watched
from tests.e2e.lab import Lab


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_message_of_the_ladder_opens_with_its_secrets_redacted(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.call(e2ae_call["call_id"])
    watched.steps().filter(has_text="INVITE +SDP").first.click()
    panel = page.get_by_role("complementary", name="Message")
    text = panel.locator("pre.message")
    expect(text).to_contain_text("INVITE sip:bob@ims.test SIP/2.0")
    expect(text).to_contain_text("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:")
    marks = text.locator("mark.redacted")
    assert marks.count() == text.inner_text().count("inline:") > 0
    # Where a key stands in SDP there is nothing but the mark.
    assert re.search(r"inline:(?!redacted)", text.inner_text()) is None
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_have_count(0)


def test_ladder_shows_what_the_flow_command_shows(
    thread: BrowserThread, watched: Watched, stage: Lab, kms_call: dict[str, Any]
) -> None:
    flow = stage.flow(kms_call["call_id"])
    watched.call(kms_call["call_id"])
    toggle = watched.page.get_by_role("button", name=re.compile("^Nnrf"))
    if toggle.count():
        toggle.click()
    expect(watched.steps()).to_have_count(len(flow["steps"]))
    heads = watched.page.locator(".ladder-head .name").all_text_contents()
    assert heads == flow["participants"]


def test_ladder_is_filtered_by_interface(thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]) -> None:
    page = watched.page
    watched.call(e2ae_call["call_id"])
    gm = watched.steps().filter(has=page.locator(".point", has_text="Gm"))
    rest = watched.steps().filter(has=page.locator(".point", has_text="Mw"))
    before = watched.steps().count()
    many = gm.count()
    assert many > 0
    assert rest.count() > 0
    chip = page.get_by_role("button", name=re.compile(r"^Gm \d+"))
    assert (chip.text_content() or "").endswith(str(many))
    chip.click()
    expect(watched.steps()).to_have_count(before - many)
    expect(gm).to_have_count(0)
    chip.click()
    expect(watched.steps()).to_have_count(before)


def test_media_protected_as_far_as_the_gateways_is_in_the_clear_in_the_core(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.call(e2ae_call["call_id"])
    legs = page.locator("svg.path .leg")
    expect(legs).to_have_count(3)
    assert [kind(legs.nth(number).get_attribute("class")) for number in range(3)] == ["srtp", "rtp", "srtp"]
    # The same without colour: in words, and in the drawing's name.
    assert legs.locator(".what").all_text_contents() == ["SRTP on this leg", "RTP, in the clear", "SRTP on this leg"]
    expect(legs.nth(1)).to_contain_text("anybody on this network can listen")
    name = page.locator("svg.path").get_attribute("aria-label") or ""
    assert "In the clear between imsagw-a and imsagw-b." in name
    assert "imsagw-a and imsagw-b can read it." in name
    assert page.locator("svg.path .station.reads").count() == 2
    tab(page, "Media legs")
    rows = page.get_by_role("row")
    expect(rows.nth(2)).to_contain_text("anybody on this network")
    expect(rows.nth(1)).to_contain_text("SDES AES_CM_128_HMAC_SHA1_80")


def test_media_with_keys_of_the_kms_is_protected_from_end_to_end(
    thread: BrowserThread, watched: Watched, kms_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.call(kms_call["call_id"])
    legs = page.locator("svg.path .leg")
    expect(legs).to_have_count(3)
    assert [kind(legs.nth(number).get_attribute("class")) for number in range(3)] == ["opaque"] * 3
    assert page.locator("svg.path .station.reads").count() == 0
    assert page.locator("svg.path .band.through").count() == 2
    expect(page.locator(".sentences")).to_contain_text("imsagw-a and imsagw-b relay it unopened.")
    tab(page, "Media legs")
    expect(page.get_by_role("row").nth(2)).to_contain_text("MIKEY-TICKET")
    expect(page.get_by_role("row").nth(2)).to_contain_text("kms")


def test_media_that_nobody_reported_never_looks_protected(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    watched.call(PARTIAL_CALL)
    legs = page.locator("svg.path .leg")
    expect(legs).to_have_count(2)
    assert [kind(legs.nth(number).get_attribute("class")) for number in range(2)] == ["srtp", "unknown"]
    said = page.locator(".sentences")
    expect(said).to_contain_text("Not known beyond imsagw-a")
    expect(said).not_to_contain_text("without a break")
    assert page.locator("svg.path .station").last.get_attribute("class") == "station end"
    expect(page.locator("svg.path")).to_contain_text("not known")
    tab(page, "Media legs")
    expect(page.get_by_role("row").nth(2)).to_contain_text("not known")


def test_trace_is_a_waterfall_that_opens_and_closes(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.call(e2ae_call["call_id"], tab="trace")
    spans = page.get_by_role("treeitem")
    expect(spans.filter(has_text="SIP INVITE").first).to_be_visible()
    whole = spans.count()
    assert {"alice", "pcscf-a", "cscf", "pcscf-b", "bob"} <= {
        text.split()[-1] for text in page.locator(".span-name").all_inner_texts()
    }
    first = spans.first
    first.focus()
    page.keyboard.press("ArrowLeft")
    expect(first).to_have_attribute("aria-expanded", "false")
    assert spans.count() < whole
    page.keyboard.press("ArrowRight")
    expect(spans).to_have_count(whole)
    spans.filter(has_text="ReserveAndConfigure").first.click()
    expect(page.get_by_role("complementary", name="Span")).to_contain_text("rpc")


def test_statistics_are_plotted_for_every_gateway(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = watched.page
    watched.call(e2ae_call["call_id"], tab="statistics")
    plots = page.locator(".plot svg")
    expect(plots).to_have_count(3)
    for number in range(3):
        name = plots.nth(number).get_attribute("aria-label") or ""
        assert "imsagw-a access" in name
        assert "imsagw-b core" in name
    plots.nth(1).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout").nth(1)).to_contain_text("imsagw-a access")
    page.get_by_text("Values as a table").click()
    rows = page.locator("details table tbody tr").all_inner_texts()
    assert len(rows) >= 4
    assert all(int(row.split("\t")[1]) > 0 for row in rows)


def test_decisions_are_listed(thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]) -> None:
    watched.call(e2ae_call["call_id"], tab="decisions")
    rows = watched.page.locator("tbody tr")
    expect(rows.filter(has_text="bob").filter(has_text="accepted").first).to_be_visible()
    expect(rows.filter(has_text="pcscf-a").filter(has_text="planned").first).to_be_visible()


def test_everything_of_a_call_has_a_link(thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]) -> None:
    page = watched.page
    watched.call(e2ae_call["call_id"])
    watched.steps().nth(3).click()
    label = page.get_by_role("complementary", name="Message").get_by_role("heading").inner_text()
    assert "step=" in page.url
    page.reload()
    expect(page.get_by_role("complementary", name="Message").get_by_role("heading")).to_have_text(label)
    expect(watched.steps().nth(3)).to_have_attribute("aria-selected", "true")


def test_a_link_to_what_the_receiver_reported_opens_the_step(
    thread: BrowserThread, watched: Watched, e2ae_call: dict[str, Any]
) -> None:
    page = watched.page
    with page.expect_response(lambda answer: answer.url.endswith(quote(e2ae_call["call_id"], safe=""))) as answered:
        watched.call(e2ae_call["call_id"])
    steps = answered.value.json()["ladder"]["steps"]
    sender, receiver = next(step["ids"] for step in steps if len(step["ids"]) == 2)
    watched.go("/topology")
    watched.call(e2ae_call["call_id"], step=receiver)
    expect(page.locator("pre.message")).to_contain_text("INVITE")
    expect(page.locator(".step.chosen")).to_have_attribute("data-id", sender)
    page.get_by_role("complementary", name="Message").get_by_role("button", name="Close").click()
    expect(page.locator(".step:focus")).to_have_attribute("data-id", sender)


def test_unknown_call_is_told_in_words(thread: BrowserThread, watched: Watched) -> None:
    watched.expected.append("404")
    watched.go("/call/nobody%40nowhere")
    expect(watched.page.get_by_role("alert")).to_be_visible()
    expect(watched.page.get_by_role("button", name="Try again")).to_be_visible()


def kind(classes: str | None) -> str:
    return next(word for word in (classes or "").split() if word in ("srtp", "rtp", "opaque", "unknown"))
