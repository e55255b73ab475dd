"""What peers write is text wherever it shows: markup runs nowhere, hidden characters are seen (T7), keys show nowhere (T8)."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.stored import HOSTILE_CALL, MARKUP, SCRIPT
from tests.console.browser.watched import Watched
from tests.e2e.lab import Lab
from tests.e2e.rawsip import DigestPhone

TABS = ("ladder", "media", "trace", "statistics", "decisions")
FOREIGN = (
    "img, script:not([src^='/static/']), iframe, object, embed, svg[onload], [onerror], [onload], [style*='expression']"
)


def holds_no_markup_of_others(watched: Watched) -> None:
    assert watched.page.locator(FOREIGN).count() == 0


@pytest.mark.attack("T7")
def test_call_made_of_markup_is_shown_as_text_everywhere(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    hostile = quote(HOSTILE_CALL, safe="")
    watched.call(HOSTILE_CALL)
    expect(page.locator(".ladder-head")).to_contain_text("<img")
    holds_no_markup_of_others(watched)
    for name in TABS:
        watched.go(f"/call/{hostile}?tab={name}")
        expect(page.get_by_role("tab", selected=True)).to_have_attribute("data-name", name)
        expect(page.get_by_role("tabpanel")).not_to_be_empty()
        expect(page.locator("[role=tabpanel] .waiting")).to_have_count(0)
        holds_no_markup_of_others(watched)
    watched.go(f"/call/{hostile}")
    watched.steps().filter(has_text="INVITE").first.click()
    message = page.locator("pre.message")
    expect(message).to_contain_text(MARKUP)
    # What would turn the line round stands there as its code point.
    expect(message).to_contain_text("\\u{202e}")
    watched.go("/calls?result=refused&q=hostile")
    expect(page.locator(".vspace .vrow")).to_have_count(1)
    expect(page.locator(".vspace .vrow")).to_contain_text(MARKUP)
    holds_no_markup_of_others(watched)
    watched.go(f"/compare?a={hostile}&b=stored-00000%40lab")
    expect(page.locator(".two .step").first).to_be_attached()
    holds_no_markup_of_others(watched)
    watched.go(f"/search?q={quote(SCRIPT)}")
    expect(page.get_by_text("Nothing found for")).to_contain_text(SCRIPT)
    watched.go(f"/trace/{'ef' * 16}")
    page.get_by_role("treeitem").first.click()
    expect(page.get_by_role("complementary", name="Span")).to_contain_text(SCRIPT)
    holds_no_markup_of_others(watched)


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    "hash_",
    [
        f"#/call/{MARKUP}",
        f"#/search?q={MARKUP}",
        f"#/trace/{SCRIPT}",
        "#/call/%",
        "#/constructor",
        "#/__proto__/x?y=z",
        "#/compare?a=javascript:alert(1)&b=%00",
        "#/place?from=%3Cimg%3E&to=%3Cimg%20src=x%20onerror=alert(1)%3E&security=x&seconds=x",
        "#/topology/%3Csvg%20onload=alert(1)%3E?as=table",
    ],
)
def test_hash_is_data_too(thread: BrowserThread, watched: Watched, hash_: str) -> None:
    watched.expected += ["404", "400"]
    watched.page.evaluate("hash => { location.hash = hash; }", hash_)
    expect(watched.page.locator("main .waiting")).to_have_count(0)
    expect(watched.page.locator("main")).not_to_be_empty()
    holds_no_markup_of_others(watched)


@pytest.mark.attack("T7")
def test_markup_in_the_fields_of_a_real_call_is_text(thread: BrowserThread, watched: Watched, stage: Lab) -> None:
    page = watched.page
    user = stage.resolved["users"]["dave"]
    password = json.loads(stage.run("user", "dave", "--show-password", "--json").stdout)["password"]
    stage.run("register", "bob")
    with DigestPhone(
        (user["pcscf"]["host"], user["pcscf"]["port"]), user["address"], user["impu"], user["impi"], password
    ) as phone:
        assert phone.register(600).status == 200
        stage.run("ue", "behave", "bob", "reject_status=486")
        try:
            invite = phone.invite("sip:bob@ims.test").decode()
            invite = invite.replace("From: <", f'From: "{MARKUP}" <').replace(
                "\r\nCSeq", f"\r\nSubject: {MARKUP}\r\nCSeq"
            )
            answer = phone.exchange(invite.encode())
        finally:
            stage.run("ue", "behave", "bob", "reject_status=0")
    assert answer.status == 486
    call_id = re.search(r"Call-ID: (\S+)", invite)
    assert call_id is not None
    watched.go(f"/calls?q={quote(call_id[1])}")
    expect(page.locator(".vspace .vrow")).to_have_count(1, timeout=15_000)
    page.locator(".vspace .vrow").click()
    watched.steps().filter(has_text="INVITE").first.click()
    expect(page.locator("pre.message")).to_contain_text(MARKUP)
    holds_no_markup_of_others(watched)


def keys_in(captured: bytes) -> set[bytes]:
    """Master keys with their salts, which a capture made with keys holds as comments (in SIP texts they are masked)."""
    return {base64.b64decode(found) for found in re.findall(rb"inline:([A-Za-z0-9+/]{30,}={0,2})", captured)}


@pytest.mark.attack("T8")
@pytest.mark.parametrize("security", ["e2ae-sdes", "e2e-sdes", "e2e-kms"])
def test_no_key_shows_anywhere_in_the_page(
    thread: BrowserThread, watched: Watched, stage: Lab, tmp_path: Path, security: str
) -> None:
    page = watched.page
    exchange, capture = tmp_path / "exchange.json", tmp_path / "call.pcapng"
    more = ["--exchange", str(exchange)] if security == "e2e-kms" else []
    call = stage.call(
        *("alice", "bob", "--security", security, "--seconds", "0.6", "--with-keys", "--pcap", str(capture)), *more
    )
    secrets = keys_in(capture.read_bytes())
    if more:
        content = json.loads(exchange.read_text())
        secrets |= {bytes.fromhex(content[name]) for name in ("psk_i", "psk_r", "tpk")}
    assert secrets or security == "e2e-sdes"  # keys of which no gateway knows are in no capture
    watched.call(call["call_id"])
    expect(watched.steps().nth(20)).to_be_attached()
    count = watched.steps().count()
    shown = []
    for number in range(count):
        watched.steps().nth(number).dispatch_event("click")
        expect(page.locator("aside.panel .waiting")).to_have_count(0)
        shown.append(page.locator("aside.panel").inner_html())
    shown.append(page.content())
    path = f"/api/calls/{quote(call['call_id'], safe='')}"
    for name in TABS:
        watched.go(f"{path.removeprefix('/api').replace('calls', 'call')}?tab={name}")
        expect(page.get_by_role("tab", selected=True)).to_have_attribute("data-name", name)
        expect(page.locator("[role=tabpanel] .waiting")).to_have_count(0)
        shown.append(page.content())
    said = [watched.console.get(one) for one in (path, f"{path}/trace", "/api/tickets", "/api/metrics", "/api/lab")]
    text = "\n".join((*shown, *said))
    assert "alice" in text
    assert ("inline:" in text) == (security != "e2e-kms")
    assert re.search(r"inline:(?!<redacted>|<mark class=.{0,3}redacted|&lt;redacted)", text) is None
    for secret in secrets:
        encoded = base64.b64encode(secret).decode()
        for form in (secret.hex(), encoded, encoded.rstrip("="), encoded.replace("+", "-").replace("/", "_")):
            assert form not in text
