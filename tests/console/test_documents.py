"""Events, traces, topology and orders, without a lab."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from lab.calls import CallOrder
from lab.console import documents
from lab.console.answers import Problem, encode
from lab.console.choices import Choices
from lab.console.events import MOST_KEPT, MOST_WAITING, EventStream
from lab.console.orders import MOST_AT_ONCE, OrderDesk
from lab.console.topology import links, places
from lab.control import ControlError
from lab.spans import Span
from sba.testing import async_test
from tests.lab.traced import TRACE, call_spans, span


def events_in(octets: bytes) -> list[str]:
    return [line[7:] for line in octets.decode().splitlines() if line.startswith("event: ")]


@async_test
async def test_nothing_is_made_while_nobody_watches_and_who_comes_back_is_told_to_look_anew():
    now = [0.0]
    stream = EventStream(lambda: now[0])
    for number in range(100):
        stream.send("call", {"n": number})
    assert not stream._kept
    with stream.watching("50") as client:
        assert b'"resumed":false' in await client.next()


def test_who_comes_when_the_streams_have_ended_is_told_so():
    stream = EventStream(lambda: 0.0)
    with stream.watching(None) as client:
        stream.close()
        assert client.cut
    with pytest.raises(Problem) as stopping, stream.watching(None):
        pass
    assert (stopping.value.status, stopping.value.cause) == (503, "STOPPING")


@async_test
async def test_a_client_that_comes_back_has_what_it_missed_and_nothing_twice():
    now = [0.0]
    stream = EventStream(lambda: now[0])
    with stream.watching(None) as client:
        await client.next()
        for number in range(5):
            stream.send("call", {"n": number})
        assert len(events_in(await client.next())) == 5
    stream.send("call", {"n": 5})
    now[0] = 3.0
    with stream.watching("3") as client:
        first = await client.next()
        assert events_in(first) == ["hello", "call", "call", "call"]
        assert b'"resumed":true' in first
    now[0] = 100.0
    stream.send("call", {"n": 6})
    with stream.watching("6") as client:
        assert b'"resumed":false' in await client.next()
    for wrong in ("", "-1", "x", "9" * 30, "٣", "1e3", "99999"):
        with stream.watching(wrong) as client:
            assert b'"resumed":false' in await client.next()


@async_test
async def test_the_past_is_bounded():
    stream = EventStream(lambda: 0.0)
    with stream.watching(None) as client:
        for number in range(MOST_KEPT + 10):
            stream.send("call", {"n": number})
        assert client.cut
        assert await client.next() == b""
    assert len(stream._kept) == MOST_KEPT
    with stream.watching("3") as client:
        assert b'"resumed":false' in await client.next()


@pytest.mark.attack("T7")
def test_a_client_that_missed_much_is_not_cut_off_again_when_it_comes_back():
    stream = EventStream(lambda: 0.0)
    with stream.watching(None):
        for number in range(2 * MOST_WAITING):
            stream.send("call", {"n": number})
        for missed in (1, MOST_KEPT, MOST_KEPT + 1, MOST_WAITING + 1, 2 * MOST_WAITING - 1):
            with stream.watching(str(2 * MOST_WAITING - missed)) as late:
                assert not late.cut
                assert len(late.waiting) == (1 + missed if missed <= MOST_KEPT else 1)


def test_numbers_json_does_not_know_are_null():
    assert encode({"a": [float("nan"), float("inf"), 1.5]}) == b'{"a":[null,null,1.5]}'


# traces


def test_a_trace_is_a_waterfall_with_children_below_their_parents_and_no_sip_text():
    found = documents.trace(TRACE, call_spans())
    rows = found["spans"]
    at = {row["span_id"]: number for number, row in enumerate(rows)}
    assert len(rows) == len(call_spans())
    for row in rows:
        if row["parent_id"] in at:
            assert at[row["parent_id"]] < at[row["span_id"]]
            assert row["depth"] == rows[at[row["parent_id"]]]["depth"] + 1
        assert all("text" not in event["attributes"] for event in row["events"])
    assert not found["truncated"]


def test_spans_that_are_each_others_parents_or_share_an_id_are_all_shown_and_end():
    one = span("a", "x", 0, 1, span_id="1" * 16, parent="2" * 16)
    two = span("a", "y", 0, 1, span_id="2" * 16, parent="1" * 16)
    own = span("a", "z", 0, 1, span_id="3" * 16, parent="3" * 16)
    twin, child = replace(own, node="b"), span("a", "c", 1, 1, parent="3" * 16)
    rows = documents.trace(TRACE, [one, two, own, twin, child])["spans"]
    assert sorted(row["name"] for row in rows) == ["c", "x", "y", "z", "z"]


def test_a_key_on_a_span_of_a_compromised_node_is_masked():
    leaked = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
    bad = span("a", "x", 0, 1, attributes={"sdp": f"v=0\r\n{leaked}\r\n", "list": [leaked]})
    assert "d0RmdmcmVCspeEc3" not in str(documents.trace(TRACE, [bad]))


def test_a_huge_trace_is_cut_and_says_so():
    spans = [Span(TRACE, f"{number:016x}", "", "n", "", "s", "", number, number) for number in range(2100)]
    found = documents.trace(TRACE, spans)
    assert (len(found["spans"]), found["truncated"]) == (2000, True)


# topology


def lab(*, scaled: bool = False) -> dict[str, object]:
    def node(kind: str, **settings: object) -> dict[str, object]:
        return {"kind": kind, "settings": settings}

    nodes = {
        "nrf": node("nrf"),
        "hss": node("hss", home_domains=["ims.test"]),
        "cscf": node("cscf", home_domains=["ims.test"], mw_transport="tls"),
        "kms": node("kms", home_domains=["ims.test"]),
        "bsf": node("bsf", home_domains=["ims.test"]),
        "pcscf-a": node("pcscf", access_network="access-a"),
        "imsagw-a": node("imsagw", access_network="access-a"),
        "pcscf-b": node("pcscf", access_network="access-b"),
        "alice": node("ue", domain="ims.test", profile="aka-tls"),
        "screen": node("screen"),
        "announcer": node("announcer", isc={"host": "127.1.1.9", "port": 5063}, isc_transport="tcp"),
        "lab": node("lab"),
    }
    if scaled:
        nodes |= {"pcscf-a-2": {**node("pcscf", access_network="access-a"), "nf": "pcscf-a"}}
        nodes |= {"kms-2": {**node("kms", home_domains=["ims.test"]), "nf": "kms"}}
    return {"nodes": nodes, "users": {"alice": {"access": "access-a"}}}


def drawn(content: dict[str, object], **serving: str) -> set[tuple[str, str, str]]:
    return {(link.a, link.interface, link.b) for link in links(places(content), serving) if not link.quiet}


def test_links_follow_from_access_networks_and_home_domains():
    assert drawn(lab()) == {
        ("alice", "Gm", "pcscf-a"),
        ("alice", "Ub", "bsf"),
        ("alice", "Ua", "kms"),
        ("pcscf-a", "Iq", "imsagw-a"),
        ("pcscf-a", "Mw", "cscf"),
        ("pcscf-b", "Mw", "cscf"),
        ("cscf", "N70", "hss"),
        ("bsf", "Zh", "hss"),
        ("kms", "Zn", "bsf"),
        ("cscf", "ISC", "announcer"),
        ("screen", "Nnrf", "nrf"),  # a node of somebody else's package has this one link for sure
    }


def test_the_link_to_an_application_server_tells_its_transport_and_is_to_every_s_cscf():
    content = lab()
    content["nodes"] |= {"cscf-p": {"kind": "cscf", "settings": {"home_domains": ["partner.test"]}}}
    isc = [link for link in links(places(content)) if link.interface == "ISC"]
    assert {(link.a, link.b, link.transport) for link in isc} == {
        ("cscf", "announcer", "SIP, TCP"),
        ("cscf-p", "announcer", "SIP, TCP"),
    }
    nnrf = {link.a: link.quiet for link in links(places(content)) if link.interface == "Nnrf"}
    assert (nnrf["announcer"], nnrf["screen"]) == (True, False)


def test_of_several_instances_a_ue_is_linked_to_the_one_that_serves_it():
    both = drawn(lab(scaled=True))
    assert {("alice", "Gm", "pcscf-a"), ("alice", "Gm", "pcscf-a-2"), ("pcscf-a-2", "Iq", "imsagw-a")} <= both
    assert not {link for link in both if link[1] == "Zk"}, "instances of one KMS are no two KMSs"
    one = drawn(lab(scaled=True), alice="pcscf-a-2")
    assert ("alice", "Gm", "pcscf-a-2") in one
    assert ("alice", "Gm", "pcscf-a") not in one


# orders


class Desk:
    def __init__(self) -> None:
        self.release = asyncio.Event()

    def check(self, order: CallOrder) -> None:
        if order.caller == "nobody":
            raise ControlError("no user is called nobody", "usage")

    async def place(self, order: CallOrder, progress):
        await progress({"state": "calling", "call_id": "c"})
        await self.release.wait()
        raise ControlError("the UE alice does not answer")


@async_test
async def test_orders_are_checked_bounded_and_told(tmp_path):
    desk, told = Desk(), []
    orders = OrderDesk(
        desk, Choices(tmp_path / "lab.json"), lambda order: told.append(order.document()), lambda _, p: p
    )
    good = {"from": "alice", "to": "bob"}
    for wrong in (
        {},
        {"from": "alice"},
        {**good, "from": 1},
        {**good, "to": "a\x00b"},
        {**good, "to": "b" * 300},
        {**good, "security": "rot13"},
        {**good, "security": 1},
        {**good, "seconds": 0},
        {**good, "seconds": 1e9},
        {**good, "seconds": "5"},
        {**good, "seconds": True},
        {**good, "seconds": float("nan")},
        {**good, "suites": ["NULL"]},
        {**good, "suites": "AEAD_AES_128_GCM"},
        {**good, "suites": [{}]},
        {**good, "record": "/etc"},
        {**good, "with_keys": True},
    ):
        with pytest.raises(Problem) as refused:
            orders.place(wrong)
        assert refused.value.status == 400, wrong
    with pytest.raises(ControlError):
        orders.place({**good, "from": "nobody"})
    placed = [orders.place({**good, "security": "e2e-kms"}) for _ in range(MOST_AT_ONCE)]
    with pytest.raises(Problem) as busy:
        orders.place(good)
    assert (busy.value.status, busy.value.cause) == (503, "BUSY")
    desk.release.set()
    await asyncio.gather(*(order.task for order in placed))
    assert {order.state for order in placed} == {"refused"}
    assert told[-1]["problem"] == "the UE alice does not answer"
    assert [each["state"] for each in told if each["order"] == 1] == ["calling", "refused"]
    desk.release.clear()
    again = orders.place(good)
    await asyncio.sleep(0)
    await orders.close()
    assert (again.state, again.problem) == ("refused", "the lab went down")


def test_modes_and_suites_of_packages_are_choices_too(tmp_path):
    path = tmp_path / "lab.json"
    choices = Choices(path)
    assert list(choices.modes) == ["none", "e2ae-sdes", "e2e-sdes", "e2e-kms"]
    fact = {"name": "e2e-sealed", "title": "UE to UE, sealed", "keying": "SEALED", "words": {}}
    path.write_text(json.dumps({"mode_facts": [fact], "crypto_suites": ["ARIA_128_CTR_HMAC_SHA1_80"]}))
    assert (list(choices.modes)[-1], choices.modes["e2e-sealed"].title) == ("e2e-sealed", "UE to UE, sealed")
    assert choices.suites[-1] == "ARIA_128_CTR_HMAC_SHA1_80"
    path.write_text("{")
    assert "e2e-sealed" in choices.modes
