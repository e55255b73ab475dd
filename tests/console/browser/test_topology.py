"""The topology at first sight: what connects nodes, without the links that every node has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.console.browser.conftest import BrowserThread
from tests.console.browser.watched import Watched


def drawn(page: Page) -> set[str]:
    return {title.split(",")[0] for title in page.locator(".topology-drawing .link-label title").all_text_contents()}


def test_of_links_to_the_nrf_only_that_of_a_node_without_another_is_drawn_at_first(
    thread: BrowserThread, opened: Callable[..., Watched]
) -> None:
    def with_packages(route: Route) -> None:
        """The lab with an application server and a node that only the NRF knows."""
        answer = route.fetch()
        found: dict[str, Any] = answer.json()
        [cscf] = [node for node in found["nodes"] if node["instance"] == "cscf"]
        nodes = [{**cscf, "instance": name, "nf": name, "kind": name} for name in ("screening", "alone")]
        isc = {"a": "cscf", "b": "screening", "interface": "ISC", "transport": "SIP, mTLS", "quiet": False}
        nnrf = {"b": "nrf", "interface": "Nnrf", "transport": "gRPC, mTLS"}
        links = [isc, {**nnrf, "a": "screening", "quiet": True}, {**nnrf, "a": "alone", "quiet": False}]
        route.fulfill(json={**found, "nodes": found["nodes"] + nodes, "links": found["links"] + links})

    watched = opened()
    page = watched.page
    page.route("**/api/lab", with_packages)
    watched.enter()
    expect(page.locator('.topology-drawing [data-node="alone"]')).to_be_visible()
    at_first = drawn(page)
    assert "ISC between cscf and screening" in at_first
    assert {one for one in at_first if one.startswith("Nnrf")} == {"Nnrf between alone and nrf"}
    page.get_by_role("button", name="Nnrf").click()
    assert any("Nnrf" in one and "hss" in one for one in drawn(page)), "the others are drawn on request"


def test_nodes_that_are_counted_are_those_of_imslab_status(thread: BrowserThread, watched: Watched) -> None:
    page = watched.page
    expect(page.locator(".topology-drawing .node").first).to_be_visible()
    boxes = page.locator(".topology-drawing .node").count()
    expect(page.locator("section.topology > .head")).to_contain_text(f"all {boxes} nodes serve")
    page.get_by_role("tab", name="Table").click()
    expect(page.locator("section.topology tbody tr")).to_have_count(boxes)
    page.get_by_role("tab", name="Drawing").click()
