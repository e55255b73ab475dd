"""The console of a running lab: what happens is told as it happens, and what the page may do it does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sba.testing import async_test
from tests.console.client import Browser, next_event
from tests.e2e.lab import COMMAND, ROOT, Lab

pytestmark = pytest.mark.lab


class Page(Browser):
    """A page that was opened with the link ``imslab console`` prints."""

    @classmethod
    async def of(cls, lab: Lab) -> Page:
        link = (await asyncio.to_thread(lab.run, "console")).stdout.strip()
        match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#token=([A-Za-z0-9_-]{43})", link)
        assert match, link
        page = cls(int(match[1]))
        assert (await page.sign_in(match[2])).status == 200
        return page

    async def ask(self, path: str) -> dict[str, Any]:
        answer = await self.get(path)
        assert answer.status == 200, (path, answer.body)
        found: dict[str, Any] = answer.json
        return found

    async def tell(self, path: str, body: object, status: int = 200) -> dict[str, Any]:
        answer = await self.send("POST", path, body)
        assert answer.status == status, (path, answer.body)
        found: dict[str, Any] = answer.json
        return found

    async def call(self, call_id: str) -> dict[str, Any]:
        return await self.ask(f"/api/calls/{quote(call_id, safe='')}")


async def until(reader: asyncio.StreamReader, name: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(40):
        while True:
            found, document = await next_event(reader)
            if found == name and wanted(document):
                return document


async def until_all(
    reader: asyncio.StreamReader, *wanted: tuple[str, Callable[[dict[str, Any]], bool]]
) -> list[dict[str, Any]]:
    """One event for each of ``wanted``, whichever comes first."""
    seen: dict[int, dict[str, Any]] = {}
    async with asyncio.timeout(40):
        while len(seen) < len(wanted):
            found, document = await next_event(reader)
            for index, (name, fits) in enumerate(wanted):
                if found == name and fits(document):
                    seen[index] = document
    return [seen[index] for index in range(len(wanted))]


async def whole(page: Page, call_id: str) -> dict[str, Any]:
    """The page of an ended call once every node has exported what it knows of it."""
    async with page.events() as reader, asyncio.timeout(40):
        while True:
            call = await page.call(call_id)
            legs = [leg for stream in call["media"]["streams"] for leg in stream["legs"]]
            if call["summary"]["state"] == "ended" and len(legs) == 3 and all(leg["a_to_b"]["packets"] for leg in legs):
                return call
            await next_event(reader)


async def placed(page: Page, reader: asyncio.StreamReader, **order: object) -> dict[str, Any]:
    """Place a call, wait for its end, and return its page once all its spans are in."""
    number = (await page.tell("/api/calls", order, 202))["order"]["order"]
    ended = await until(reader, "order", lambda each: each["order"] == number and each["state"] in ("ended", "refused"))
    assert ended["problem"] is None, ended
    call_id = ended["call_id"]
    async with asyncio.timeout(40):
        while True:
            call = await page.call(call_id)
            legs = [leg for stream in call["media"]["streams"] for leg in stream["legs"]]
            whole = len(legs) == 3 or call["summary"]["result"] != "established"
            if call["summary"]["security"] == "e2e-kms" and legs:  # the KMS tells of its part in its own time
                whole = whole and any(each["what"].startswith("ticket ") for each in call["decisions"])
            if call["summary"]["state"] == "ended" and whole:
                return call
            await asyncio.sleep(0.2)


@async_test
async def test_the_lab_is_shown_as_it_is(lab: Lab) -> None:
    page = await Page.of(lab)
    found = await page.ask("/api/lab")
    assert {node["instance"] for node in found["nodes"]} == set(lab.resolved["nodes"])
    assert {node["state"] for node in found["nodes"]} == {"serving"}
    assert [mode["name"] for mode in found["security_modes"]][:4] == ["none", "e2ae-sdes", "e2e-sdes", "e2e-kms"]
    names = {node["instance"] for node in found["nodes"]}
    assert all(link["a"] in names and link["b"] in names for link in found["links"])
    drawn = {(link["a"], link["interface"], link["b"]) for link in found["links"] if not link["quiet"]}
    assert {("alice", "Gm", "pcscf-a"), ("pcscf-a", "Iq", "imsagw-a"), ("kms", "Zn", "bsf")} <= drawn
    users = {user["name"]: user for user in found["users"]}
    assert users["dave"]["registered"] is None
    assert users["alice"]["impu"] == "sip:alice@ims.test"
    assert not re.search(r"[0-9a-f]{64}", json.dumps(found)), "no key, no token"


@async_test
async def test_a_call_is_told_as_it_happens_and_shown_from_end_to_end(lab: Lab) -> None:
    page = await Page.of(lab)
    async with page.events() as reader:
        await next_event(reader)
        order = await page.tell(
            "/api/calls", {"from": "alice", "to": "bob", "security": "e2ae-sdes", "seconds": 60}, 202
        )
        number = order["order"]["order"]
        ringing = await until(reader, "order", lambda each: each["order"] == number and each["call_id"] != "")
        call_id = ringing["call_id"]
        talking = await until(reader, "call", lambda each: each["call_id"] == call_id and each["state"] == "talking")
        assert (talking["from_user"], talking["to_user"], talking["ended"]) == ("alice", "bob", None)
        sample = await until(reader, "sample", lambda each: each["call_id"] == call_id)
        assert {(each["node"], each["side"]) for each in sample["samples"]} == {
            (node, side) for node in ("imsagw-a", "imsagw-b") for side in ("access", "core")
        }
        later = await until(reader, "sample", lambda each: each["call_id"] == call_id)
        assert later["samples"][0]["at"] > sample["samples"][0]["at"]
        assert later["samples"][0]["packets_in"] > sample["samples"][0]["packets_in"]
        during = await page.call(call_id)
        assert during["live"]
        [stream] = during["media"]["streams"]
        assert [(leg["from"], leg["to"]) for leg in stream["legs"]] == [
            ("alice", "imsagw-a"),
            ("imsagw-a", "imsagw-b"),
            ("imsagw-b", "bob"),
        ]
        path = f"/api/calls/{quote(call_id, safe='')}/hang-up"
        assert (await page.tell(path, {}))["sip_status"] == 200
        ended, _ = await until_all(
            reader,
            ("order", lambda each: each["order"] == number and each["state"] == "ended"),
            ("call", lambda each: each["call_id"] == call_id and each["state"] == "ended"),
        )
        assert ended["verdict"]["result"] == "established"
        again = await page.send("POST", path, {})
        assert (again.status, again.cause) == (409, "REFUSED")

    call = await whole(page, call_id)
    summary = call["summary"]
    assert (summary["result"], summary["security"], summary["sip_status"]) == ("established", "e2ae-sdes", 200)
    assert summary["trace_id"] == ended["verdict"]["trace_id"]
    assert summary["began"] + summary["setup_ms"] < summary["ended"]
    assert 0 < summary["duration_ms"] <= summary["ended"] - summary["began"]
    assert summary["setup_ms"] == pytest.approx(ended["verdict"]["setup_ms"], rel=0.5, abs=50)
    [stream] = call["media"]["streams"]
    assert [leg["clear"] for leg in stream["legs"]] == [False, True, False]
    assert all(leg["a_to_b"]["packets"] > 50 for leg in stream["legs"])
    assert len({each["at"] for each in call["samples"]}) >= 2
    assert {"alice", "pcscf-a", "cscf", "pcscf-b", "bob"} <= {each["name"] for each in call["ladder"]["participants"]}

    texts = [step for step in call["ladder"]["steps"] if step["has_text"]]
    offer = next(step for step in texts if step["label"].startswith("INVITE"))
    message = await page.ask(f"/api/calls/{quote(call_id, safe='')}/messages/{offer['ids'][0]}")
    assert message["text"].startswith("INVITE sip:bob@ims.test SIP/2.0")
    assert (message["from"], message["to"], message["secured"]) == ("alice", "pcscf-a", "TLS")
    assert message["redactions"] >= 1
    assert "inline:<redacted>" in message["text"]
    silent = next(step for step in call["ladder"]["steps"] if not step["has_text"])
    for wrong in (silent["ids"][0], "0", "x", "-1"):
        assert (await page.get(f"/api/calls/{quote(call_id, safe='')}/messages/{wrong}")).status == 404

    trace = await page.ask(f"/api/calls/{quote(call_id, safe='')}/trace")
    assert {"alice", "pcscf-a", "imsagw-a", "cscf", "imsagw-b", "pcscf-b", "bob"} <= {s["node"] for s in trace["spans"]}
    assert (await page.ask(f"/api/traces/{trace['trace_id']}"))["trace_id"] == trace["trace_id"]
    for path in ("/api/calls/nobody%40nowhere", "/api/calls/x/trace", "/api/traces/ffff"):
        assert (await page.get(path)).status == 404


@async_test
async def test_every_mode_is_placed_and_shown_with_who_could_listen(lab: Lab) -> None:
    page = await Page.of(lab)
    async with page.events() as reader:
        shown = {
            mode: await placed(
                page, reader, **{"from": "alice", "to": "bob", "security": mode, "seconds": 0.5, "suites": []}
            )
            for mode in ("none", "e2e-sdes", "e2e-kms")
        }
    readers = {
        mode: [{each["name"] for each in leg["readable_by"]} for leg in call["media"]["streams"][0]["legs"]]
        for mode, call in shown.items()
    }
    assert all(call["summary"]["security"] == mode for mode, call in shown.items())
    assert readers["none"][0] == {"alice", "imsagw-a", "*"}
    assert set(map(frozenset, readers["e2e-sdes"])) == {frozenset({"alice", "bob", "pcscf-a", "pcscf-b", "cscf"})}
    assert set(map(frozenset, readers["e2e-kms"])) == {frozenset({"alice", "bob", "kms"})}
    clear = [leg["clear"] for leg in shown["e2e-kms"]["media"]["streams"][0]["legs"]]
    assert clear == [False, False, False]
    assert any(step["kind"] == "mikey" for step in shown["e2e-kms"]["ladder"]["steps"])
    decisions = {each["what"] for each in shown["e2e-kms"]["decisions"]}
    assert decisions & {"ticket request", "ticket resolve"}, "a ticket that alice has already is not asked for again"
    tickets = await page.ask("/api/tickets?limit=5")
    assert tickets["failed"] == []
    assert tickets["tickets"][0]["ticket_id"]
    assert tickets["tickets"][0]["at"] > 1.6e12, "milliseconds"


@async_test
async def test_a_refused_call_says_why_and_nothing_of_keys_that_were_never_used(lab: Lab) -> None:
    page = await Page.of(lab)
    async with page.events() as reader:
        call = await placed(page, reader, **{"from": "alice", "to": "carol", "security": "e2e-kms", "seconds": 0.5})
    assert (call["summary"]["result"], call["summary"]["sip_status"], call["summary"]["security"]) == (
        "refused",
        488,
        "e2e-kms",
    )
    assert "kms-refused" in call["summary"]["reason"]
    assert all(leg["readable_by"] == [] for stream in call["media"]["streams"] for leg in stream["legs"])
    found = await page.ask("/api/calls?result=refused&security=e2e-kms&user=carol")
    assert call["summary"]["call_id"] in {each["call_id"] for each in found["calls"]}


@async_test
async def test_what_cannot_be_placed_is_refused_with_the_words_of_the_command_line(lab: Lab) -> None:
    page = await Page.of(lab)
    for order, words in (
        ({"from": "nobody", "to": "bob"}, "no user is called nobody"),
        ({"from": "dave", "to": "bob"}, "foreign client"),
        ({"from": "alice", "to": "alice"}, "cannot call itself"),
        ({"from": "alice", "to": "nobody"}, "no user is called nobody"),
    ):
        refused = await page.send("POST", "/api/calls", order)
        assert (refused.status, refused.cause) == (409, "REFUSED")
        assert words in refused.json["detail"]
    assert (await page.send("POST", "/api/calls", {"from": "alice", "to": "bob", "security": "x"})).status == 400
    for action in ("register", "deregister"):
        gone = await page.send("POST", f"/api/users/nobody/{action}", {})
        assert (gone.status, gone.cause) == (409, "REFUSED")
    assert (await page.send("POST", "/api/calls/none%40x/hang-up", {})).status == 404


@async_test
async def test_users_come_and_go_by_hand(lab: Lab) -> None:
    page = await Page.of(lab)
    async with page.events() as reader:
        await next_event(reader)
        assert (await page.tell("/api/users/erin/register", {}))["registered"] is True
        told = await until(reader, "registration", lambda each: each["user"] == "erin" and each["registered"])
        assert (told["pcscf"], told["media_mechanisms"]) == ("pcscf-b", ["sdes-srtp"])
        assert (await page.tell("/api/users/erin/deregister", {}))["registered"] is False
        await until(reader, "registration", lambda each: each["user"] == "erin" and not each["registered"])
        rows = {each["user"]: each for each in (await page.ask("/api/registrations"))["registrations"]}
        assert rows["erin"]["registered"] is False

        # However quickly one asks after a change, its answer is of after it.
        for action in ("register", "deregister", "register", "deregister"):
            asked_before = asyncio.create_task(page.ask("/api/registrations"))
            assert (await page.tell(f"/api/users/erin/{action}", {}))["registered"] is (action == "register")
            rows = {each["user"]: each for each in (await page.ask("/api/registrations"))["registrations"]}
            assert rows["erin"]["registered"] is (action == "register")
            await asked_before


@async_test
async def test_calls_are_found_by_user_call_id_and_trace_and_lists_are_checked(lab: Lab) -> None:
    page = await Page.of(lab)
    [newest] = (await page.ask("/api/calls?limit=1"))["calls"]
    for text in (newest["call_id"][:8], newest["trace_id"][:10], newest["from_user"][:3], newest["from"]):
        found = await page.ask(f"/api/search?q={quote(text, safe='')}")
        assert newest["call_id"] in {each["call_id"] for each in found["calls"]}, text
        listed = await page.ask(f"/api/calls?q={quote(text, safe='')}")
        assert newest["call_id"] in {each["call_id"] for each in listed["calls"]}, text
    traces = (await page.ask(f"/api/search?q={newest['trace_id']}"))["traces"]
    assert [(each["trace_id"], each["call_id"]) for each in traces] == [(newest["trace_id"], newest["call_id"])]
    assert [node["instance"] for node in (await page.ask("/api/search?q=pcscf-b"))["nodes"]] == ["pcscf-b"]
    first = await page.ask("/api/calls?limit=1")
    second = await page.ask(f"/api/calls?limit=1&cursor={first['cursor']}")
    assert first["calls"][0]["call_id"] != second["calls"][0]["call_id"]
    for wrong in ("limit=0", "limit=201", "limit=x", "cursor=x", "cursor=W10", "state=dead", "q=" + "a" * 600):
        assert (await page.get(f"/api/calls?{wrong}")).status == 400, wrong
    hostile = quote("'; DROP TABLE call; --", safe="")
    assert (await page.ask(f"/api/calls?user={hostile}&result={hostile}&q={hostile}"))["total"] == 0


@async_test
async def test_a_node_that_falls_and_comes_back_is_told(lab: Lab) -> None:
    page = await Page.of(lab)
    async with page.events() as reader:
        await next_event(reader)
        dead = await asyncio.to_thread(lab.kill, "bsf-p")
        fallen = await until(reader, "node", lambda each: each["instance"] == "bsf-p" and each["state"] == "fallen")
        assert "SIGKILL" in fallen["reason"] or "kill" in fallen["reason"].lower()
        back = await until(reader, "node", lambda each: each["instance"] == "bsf-p" and each["state"] == "serving")
        assert back["restarts"] >= 1
        assert back["pid"] != dead


@async_test
async def test_metrics_of_all_nodes_as_prometheus_reads_them(lab: Lab) -> None:
    link = (await asyncio.to_thread(lab.json, "console"))["link"]
    port, token = re.search(r":(\d+)/#token=(.+)", link).groups()
    answer = await Browser(int(port)).get("/metrics", Authorization=f"Bearer {token}")
    assert answer.status == 200
    text = answer.body.decode()
    for node in ("alice", "nrf", "pcscf-a", "imsagw-b"):
        assert f'service_name="{node}"' in text
    series = (await (await Page.of(lab)).ask("/api/metrics?node=nrf"))["series"]
    assert {each["node"] for each in series} == {"nrf"}


def test_the_token_is_in_no_argument_environment_log_or_trace(lab: Lab) -> None:
    token = (lab.state / "console.token").read_text().strip()
    assert len(token) == 43
    assert (lab.state / "console.token").stat().st_mode & 0o777 == 0o600
    for entry in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            try:
                content = (entry / part).read_bytes()
            except OSError:
                continue
            assert token.encode() not in content, f"{entry} {part}"
    for path in lab.files():
        if path.name != "console.token":
            assert token.encode() not in path.read_bytes(), path


def test_open_leads_there_by_a_file_of_the_user_alone_and_a_new_token_ends_the_old(lab: Lab, tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$*" > {opened}\n')
    browser.chmod(0o700)
    before = lab.json("console")["link"]
    subprocess.run(
        [*COMMAND, "console", "--open", "--state", str(lab.state)],
        cwd=ROOT,
        env={**os.environ, "BROWSER": f"{browser} %s"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    page = lab.state / "console.html"
    assert opened.read_text().strip() == page.as_uri(), "an argument is seen by every user of the machine"
    assert page.stat().st_mode & 0o777 == 0o600
    assert before in page.read_text()
    after = lab.json("console", "--new-token")["link"]
    assert after != before
    page.unlink()


def test_status_tells_where_the_console_is_without_the_token(lab: Lab) -> None:
    status = lab.json("status")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", status["console"])
    assert (lab.state / "console.token").read_text().strip() not in json.dumps(status)
