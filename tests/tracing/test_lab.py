"""Traces, metrics and logs of a whole lab: each call one trace, whole; every name is one that docs/tracing.md has."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.metricstore import Kind
from lab.prometheus import exposed_names
from lab.spans import Span
from lab.state import StateFolder
from lab.telemetry_names import Name, names, table
from lab.tracestore import TraceStore
from nodes.siptrace import trace_id_of_call
from signalling.sip.message import SipRequest, SipResponse, parse_message
from signalling.sip.stack import make_response
from tests.e2e.lab import ROOT, Lab, running
from tests.e2e.live import LiveCall
from tests.e2e.rawsip import DigestPhone
from tests.tracing.otlp import Collector
from tests.tracing.tree import Tree

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

WAY = [
    ("alice", "CLIENT"), ("pcscf-a", "SERVER"), ("pcscf-a", "CLIENT"), ("cscf", "SERVER"), ("cscf", "CLIENT"),
    ("pcscf-b", "SERVER"), ("pcscf-b", "CLIENT"), ("bob", "SERVER"),
]  # fmt: skip
"""The hops of a request from alice to bob."""
STRANGE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DASHBOARD = ROOT / "compose/grafana/dashboards/imslab.json"


class Elsewhere:
    """A collector in a thread of its own, as the lab's supervisor is in a process of its own."""

    def __init__(self) -> None:
        self.collector = Collector()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self.collector.start(), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.collector.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    it = Elsewhere()
    yield it
    it.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, elsewhere: Elsewhere) -> Iterator[Lab]:
    def change(description: dict[str, Any]) -> None:
        description["otlp_forward"] = f"127.0.0.1:{elsewhere.port}"
        dave = next(user for user in description["users"] if user["name"] == "dave")
        description["users"].append({**dave, "name": "dan", "impi": "dan@ims.test", "tel": "+15550199"})

    with running(tmp_path_factory.mktemp("tracing"), change) as started:
        yield started


def call(lab: Lab, callee: str, *arguments: str, status: int | None = 0) -> tuple[dict[str, Any], Tree]:
    """Place a call of alice's; returns its verdict and its trace."""
    verdict = lab.call("alice", callee, "--seconds", "0.5", *arguments, status=status)
    tree = Tree.of(lab, verdict["trace_id"])
    assert verdict["trace_id"] == trace_id_of_call(verdict["call_id"])
    return verdict, tree


def assert_whole(tree: Tree, root: str, node: str) -> None:
    assert [(span.name, span.node) for span in tree.roots] == [(root, node)], tree.describe()
    assert not tree.orphans, tree.describe()


def assert_statistics(associations: list[Span], ends: set[tuple[str, str]]) -> None:
    assert {(span.node, span.text("media.side")) for span in associations} == ends
    for span in associations:
        assert span.number("media.packets_in") > 10, dict(span.attributes)
        assert span.number("media.packets_out") > 10, dict(span.attributes)
        assert {"media.lost", "media.jitter_ms", "media.auth_failures", "media.replays"} <= set(span.attributes)


MEDIA_ENDS = {
    ("alice", "end"), ("imsagw-a", "access"), ("imsagw-a", "core"), ("imsagw-b", "core"), ("imsagw-b", "access"), ("bob", "end"),
}  # fmt: skip


# one call, one trace


def test_a_protected_call_is_one_whole_trace_from_the_key_press_to_the_last_packet(lab: Lab) -> None:
    verdict, tree = call(lab, "bob", "--security", "e2ae-sdes")
    assert_whole(tree, "ue.call", "alice")
    assert tree.hops("SIP INVITE") == WAY
    assert tree.hops("SIP ACK") == WAY
    assert tree.hops("SIP BYE") == WAY
    (root,) = tree.roots
    assert (root.text("imslab.call.result"), root.text("imslab.call.security")) == ("established", "e2ae-sdes")
    for operation, edges in (("ReserveAndConfigure", 2), ("Configure", 2), ("Release", 2)):
        asked = tree.named(f"ims.iq.v1.Iq/{operation}", kind="CLIENT")
        answered = tree.named(f"ims.iq.v1.Iq/{operation}", kind="SERVER")
        assert (len(asked), len(answered)) == (edges, edges), operation
        assert {span.node for span in asked} == {"pcscf-a", "pcscf-b"}
        assert all(tree.parent(span) in asked for span in answered)
        assert all(tree.parent(span).name.startswith("SIP ") for span in asked)  # type: ignore[union-attr]
    decisions = tree.named("key.decision")
    assert {span.node for span in decisions} == {"alice", "bob", "pcscf-a", "pcscf-b"}
    assert {span.text("sip.call_id") for span in decisions} == {verdict["call_id"]}
    associations = tree.named("media.association")
    assert_statistics(associations, MEDIA_ENDS)
    by_leg = {(span.node, span.text("media.side")): span for span in associations}
    assert by_leg["imsagw-a", "access"].text("media.protection") == "SRTP"
    assert by_leg["imsagw-a", "core"].text("media.protection") == "RTP"


def test_a_call_with_keys_of_the_kms_holds_what_the_kms_the_bsf_and_the_hss_did(lab: Lab) -> None:
    _, tree = call(lab, "erin", "--security", "e2e-kms")
    assert_whole(tree, "ue.call", "alice")
    posts = [span for span in tree.named("POST") if span.kind == "SERVER"]
    assert {span.node for span in posts} == {"kms", "kms-p"}
    assert all(tree.parent(span).name == "POST" for span in posts)  # type: ignore[union-attr]
    assert {(span.node, span.text("imslab.kms.outcome")) for span in tree.named("kms.decision")} >= {
        ("kms", "granted"), ("kms-p", "granted"),
    }  # fmt: skip
    assert {span.node for span in tree.named("gba.bootstrap")} <= {"alice", "erin"}
    assert {span.text("imslab.mikey.direction") for span in tree.named("mikey.transfer")} == {"sent", "received"}
    vectors = [span for span in tree.spans if span.name.startswith("ims.hss_gba") and span.kind == "SERVER"]
    assert {span.node for span in vectors} <= {"hss", "hss-p"}
    between = [span for span in tree.spans if span.name.startswith("ims.kms_resolve") and span.kind == "SERVER"]
    assert {span.node for span in between} == {"kms"}, tree.describe()
    associations = tree.named("media.association")
    assert_statistics(associations, {*MEDIA_ENDS - {("bob", "end")}, ("erin", "end")})
    assert {span.text("media.keying") for span in associations if span.text("media.side") == "end"} == {"MIKEY-TICKET"}


def test_a_refused_call_shows_who_refused_it_and_why(lab: Lab) -> None:
    verdict, tree = call(lab, "bob", "--security", "e2ae-sdes", "--option", "tamper_offer=short-key", status=1)
    assert_whole(tree, "ue.call", "alice")
    assert tree.hops("SIP INVITE") == WAY[:2], "it went no further"
    assert all(span.status == "ERROR" and span.text("error.type") == "488" for span in tree.named("SIP INVITE"))
    refused = [
        span for span in tree.named("key.decision", node="pcscf-a") if span.text("imslab.decision.outcome") == "refused"
    ]
    assert "bad-key" in {span.text("imslab.decision.token") for span in refused}
    assert (tree.roots[0].text("imslab.call.result"), tree.roots[0].status) == ("refused", "ERROR")
    assert not tree.named("media.association")
    assert verdict["sip_status"] == 488


def test_cold_caches_show_discovery_and_tokens_below_the_request_that_needed_them(lab: Lab) -> None:
    for node in ("pcscf-a", "cscf"):
        dead = lab.kill(node)
        lab.wait_back(node, dead)
    registered: dict[str, Any] = {}

    def again() -> bool:
        """Until the NRF names the CSCF with its Mw port again."""
        registered.update(lab.json("register", "alice", status=None))
        return bool(registered.get("registered"))

    lab.wait(again, 20, "alice did not register")
    _, called = call(lab, "bob", "--security", "e2ae-sdes")
    assert_whole(called, "ue.call", "alice")
    registering = Tree.of(lab, registered["trace_id"])
    cold = (
        (called, "nrf_disc.v1.NnrfNfDiscovery/Discover", "pcscf-a"),
        (registering, "nrf_disc.v1.NnrfNfDiscovery/Discover", "cscf"),
        (registering, "nrf_oauth2.v1.NnrfAccessToken/Get", "cscf"),
    )
    for tree, service, node in cold:
        asked = tree.named(f"ims.{service}", node=node, kind="CLIENT")
        answered = [span for span in tree.named(f"ims.{service}", kind="SERVER") if tree.parent(span) in asked]
        assert asked, tree.describe()
        assert {span.node for span in answered} == {"nrf"}
        assert all(any(above.name.startswith("SIP ") for above in tree.above(span)) for span in asked)


def test_what_comes_later_in_a_call_is_linked_to_its_first_invite_also_after_a_restart(lab: Lab) -> None:
    with LiveCall(lab, "alice", "bob", "--security", "e2ae-sdes") as live:
        assert live.modify("alice", "hold") == 200
        assert live.modify("alice", "resume") == 200
        assert live.modify("alice", "rekey") == 200
        trace_id = trace_id_of_call(live.call_id)

        def told() -> bool:
            """Whether the last re-INVITE reached the lab from there: what kill -9 finds unsent nobody knows."""
            return len(Tree.of(lab, trace_id).named("SIP ACK", node="pcscf-b", kind="CLIENT")) == 4

        lab.wait(told, 10, "pcscf-b does not tell")
        dead = lab.kill("pcscf-b")
        lab.wait_back("pcscf-b", dead)
        live.hang_up("alice")
    tree = Tree.of(lab, trace_id)
    assert [span.name for span in tree.roots] == ["ue.call"], tree.describe()
    assert not tree.orphans, tree.describe()
    first = {span.node: span.span_id for span in sorted(tree.named("SIP INVITE"), key=lambda span: -span.start_ns)}
    for name, node in (("SIP INVITE", "pcscf-a"), ("SIP BYE", "pcscf-a"), ("SIP BYE", "pcscf-b"), ("SIP BYE", "cscf")):
        later = max(tree.named(name, node=node, kind="SERVER"), key=lambda span: span.start_ns)
        assert (tree.trace_id, first[node]) in later.links, (name, node)


# foreign UEs


def phone(lab: Lab, name: str) -> DigestPhone:
    user = lab.resolved["users"][name]
    password = json.loads(lab.run("user", name, "--show-password", "--json").stdout)["password"]
    return DigestPhone(
        (user["pcscf"]["host"], user["pcscf"]["port"]), user["address"], user["impu"], user["impi"], password
    )


def refuse_one_call(callee: DigestPhone, heard: list[SipRequest]) -> None:
    """Answer the next INVITE with 486, over UDP as often as it takes; the ACK ends it."""
    deadline = time.monotonic() + 10
    while not any(one.method == "ACK" for one in heard):
        message = parse_message(callee.receive(deadline - time.monotonic()))
        if isinstance(message, SipRequest):
            heard.append(message)
            if message.method == "INVITE":
                callee.send(make_response(message, 486, to_tag="dan").to_bytes())


def ack_of(invite: bytes, refused: SipResponse) -> bytes:
    """The ACK of a refusal: on the branch of the INVITE (RFC 3261 17.1.1.3)."""
    request = parse_message(invite)
    assert isinstance(request, SipRequest)
    kept = [(name, request.headers.get(name) or "") for name in ("Via", "Max-Forwards", "From", "Call-ID")]
    to, cseq = refused.headers.get("To") or "", f"{request.cseq[0]} ACK"
    return SipRequest("ACK", request.uri, [*kept, ("To", to), ("CSeq", cseq)]).to_bytes()


@pytest.mark.attack("T7")
def test_a_call_of_two_foreign_phones_is_a_trace_of_its_own_whatever_they_say_of_traces(lab: Lab) -> None:
    with phone(lab, "dave") as dave, phone(lab, "dan") as dan:
        for one in (dave, dan):
            lab.wait(lambda one=one: one.register(600).status == 200, 20, "a phone did not register")
        invite = dave.invite(dan.impu).replace(b"Max-Forwards", f"traceparent: {STRANGE}\r\nMax-Forwards".encode())
        call_id = parse_message(invite).headers.get("Call-ID") or ""
        heard: list[SipRequest] = []
        answering = threading.Thread(target=refuse_one_call, args=(dan, heard))
        answering.start()
        refused = dave.exchange(invite)
        answering.join(15)
        dave.send(ack_of(invite, refused))
    assert isinstance(refused, SipResponse)
    assert refused.status == 486
    assert next(one for one in heard if one.method == "INVITE").headers.get("traceparent") is None
    tree = Tree.of(lab, trace_id_of_call(call_id))
    assert_whole(tree, "SIP INVITE", "pcscf-a")
    assert tree.hops("SIP INVITE") == [
        ("pcscf-a", "SERVER"), ("pcscf-a", "CLIENT"), ("cscf", "SERVER"), ("cscf", "CLIENT"), ("pcscf-a", "SERVER"),
        ("pcscf-a", "CLIENT"),
    ]  # fmt: skip
    assert not Tree.of(lab, STRANGE.split("-")[1]).spans


def test_a_registration_is_a_trace_with_the_hss_in_it(lab: Lab) -> None:
    answer = lab.json("register", "erin")
    tree = Tree.of(lab, answer["trace_id"])
    assert {(span.name, span.node) for span in tree.roots} == {("ue.register", "erin")}
    assert not tree.orphans, tree.describe()
    assert {span.node for span in tree.named("SIP REGISTER")} == {"erin", "pcscf-b", "cscf-p"}
    assert any(span.name.startswith("ims.hss_") and span.node == "hss-p" for span in tree.spans)


# what else a lab tells


def records(lab: Lab, event: str) -> list[tuple[str, str]]:
    """(node, trace id) of the log records of an event."""
    lab.run("flow", check=False)
    with sqlite3.connect(f"{StateFolder.at(lab.state).traces.as_uri()}?mode=ro", uri=True) as db:
        return [
            (str(node), str(trace))
            for node, trace in db.execute("SELECT node, trace_id FROM record WHERE body = ?", (event,))
        ]


def test_log_records_carry_the_trace_of_the_call_they_are_about(lab: Lab) -> None:
    refused, _ = call(lab, "bob", "--security", "e2ae-sdes", "--option", "tamper_offer=short-key", status=1)
    keyed, _ = call(lab, "bob", "--security", "e2e-kms", "--option", "fresh_ticket=true")
    assert ("pcscf-a", refused["trace_id"]) in records(lab, "request.refused")
    assert ("kms", keyed["trace_id"]) in records(lab, "kms-granted")
    registered = lab.json("register", "alice")["trace_id"]
    assert ("alice", registered) in records(lab, "ue.registration")
    files = "".join(path.read_text(errors="replace") for path in lab.files() if path.suffix == ".log")
    (line,) = [one for one in files.splitlines() if '"request.refused"' in one and refused["call_id"] in one][:1]
    assert json.loads(line)["trace_id"] == refused["trace_id"]


def test_what_arrives_is_forwarded_to_the_collector_of_the_lab_description(lab: Lab, elsewhere: Elsewhere) -> None:
    it = elsewhere.collector
    expected = {
        ("pcscf-a", "SIP INVITE"),
        ("alice", "ue.call"),
        ("imsagw-b", "media.association"),
        ("lab", "imslab call"),
    }
    lab.wait(lambda: expected <= set(it.spans), 10, "spans were not forwarded")
    lab.wait(lambda: ("cscf", "imslab.registrations") in it.metrics, 10, "metrics were not forwarded")
    assert ("nrf", "node-ready") in it.records
    assert set(it.resources["pcscf-a"]) == {one.name for one in names()["resource"]}
    assert it.resources["pcscf-a"]["service.instance.id"] == lab.node("pcscf-a")["nf_instance_id"]


# names

SHOWN_ELSEWHERE = {
    "sip.late": "tests/tracing/test_siptrace.py",
    "sip.retransmissions": "tests/tracing/test_siptrace.py",
    "imslab.sampling": "tests/tracing/test_sampling.py",
    "imslab.bsf.reason": "tests/bsf/test_bootstrapping.py",
    "imslab.decision.suites_left_out": "tests/ue/test_kms_calls.py",
    "resynchronisation": "tests/bsf/test_bootstrapping.py",
    "exception": "tests/tracing/test_spans.py",
    "packet-loop-died": "tests/imsagw/test_revival.py",
}
"""Names that need a situation no call of this lab is in, and the test that has it."""


def fits(name: str, pattern: str) -> bool:
    filled = {"{method}": r"(?:[A-Z]+|_OTHER)", "{METHOD}": r"[A-Z]+", "{cause}": r"[a-z_]+"}
    if pattern.startswith("{package}"):
        return re.fullmatch(r"[\w.]+\.\w+/\w+", name) is not None
    escaped = re.escape(pattern)
    for key, value in filled.items():
        escaped = escaped.replace(re.escape(key), value)
    return re.fullmatch(escaped, name) is not None


def compare(found: set[str], known: tuple[Name, ...]) -> None:
    unlisted = {name for name in found if not any(fits(name, one.name) for one in known)}
    assert not unlisted, f"docs/tracing.md does not list {sorted(unlisted)}"
    never = {one.name for one in known if not any(fits(name, one.name) for name in found)}
    assert never <= set(SHOWN_ELSEWHERE), f"never seen: {sorted(never - set(SHOWN_ELSEWHERE))}"


@pytest.fixture(scope="module")
def spans(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Span]:
    """Every span of the lab, after all that the tests above did and a little more."""
    ticket = tmp_path_factory.mktemp("ticket") / "ticket.json"
    ticket.write_text(lab.run("ticket", "request", "alice", "bob", "--no-forking", "--json").stdout)
    lab.run("ticket", "resolve", "bob", str(ticket))
    lab.run("ue", "hang-up", "alice", "no-such-call", check=False)
    gm = lab.resolved["users"]["dave"]["pcscf"]
    with phone(lab, "dave") as stranger:
        stranger.pcscf = (gm["host"], gm["port"])
        stranger.send(b"INVITE sip:nobody SIP/2.0\r\nnonsense\r\n\r\n")
    lab.run("flow", check=False)
    store = TraceStore(StateFolder.at(lab.state).traces, read_only=True)
    with sqlite3.connect(f"{StateFolder.at(lab.state).traces.as_uri()}?mode=ro", uri=True) as db:
        traces = [str(row[0]) for row in db.execute("SELECT DISTINCT trace_id FROM span")]
    try:
        return [span for trace in traces for span in store.spans_of_trace(trace)]
    finally:
        store.close()


def test_every_span_event_and_attribute_is_one_that_the_page_lists(spans: list[Span]) -> None:
    known = names()
    compare({span.name for span in spans}, known["spans"])
    compare({event.name for span in spans for event in span.events}, known["events"])
    compare({name for span in spans for name in span.attributes}, known["attributes"])
    kinds = {one.name: one.kinds for one in known["spans"]}
    for span in spans:
        assert span.kind in next(kinds[name] for name in kinds if fits(span.name, name)), span.name


@pytest.mark.parametrize(("name", "file"), SHOWN_ELSEWHERE.items())
def test_what_no_call_here_shows_is_shown_elsewhere(name: str, file: str) -> None:
    assert name.removeprefix("imslab.bsf.").removeprefix("imslab.decision.") in (ROOT / file).read_text()


@pytest.mark.parametrize("section", list(names()))
def test_the_page_holds_the_tables(section: str) -> None:
    assert table(section) in (ROOT / "docs/tracing.md").read_text(), "run: python -m lab.telemetry_names"


# metrics


def exposition(lab: Lab) -> str:
    link = lab.run("console").stdout.strip()
    address, _, token = link.partition("/#token=")
    request = urllib.request.Request(f"{address.split()[-1]}/metrics", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? \S+$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@pytest.fixture(scope="module")
def samples(lab: Lab, spans: list[Span]) -> list[tuple[str, dict[str, str]]]:
    """(name, labels) of every series the lab exposes, once all that is listed is there."""
    wanted = {name for one in names()["metrics"] for name in exposed_names(one.name, one.unit, Kind(one.kind))}
    found: list[tuple[str, dict[str, str]]] = []

    def complete() -> bool:
        found[:] = [(name, dict(_LABEL.findall(labels))) for name, labels in _SAMPLE.findall(exposition(lab))]
        return wanted <= {name for name, _ in found}

    try:
        lab.wait(complete, 20, "")
    except AssertionError:
        missing = sorted(wanted - {name for name, _ in found})
        raise AssertionError(f"listed and never told: {missing}") from None
    return found


def test_every_metric_and_label_is_one_that_the_page_lists(samples: list[tuple[str, dict[str, str]]]) -> None:
    common = {"service_name", "imslab_nf_type", "le"}
    listed = {
        name: {re.sub(r"\W", "_", label) for label in one.labels}
        for one in names()["metrics"]
        for name in exposed_names(one.name, one.unit, Kind(one.kind))
    }
    for name, labels in samples:
        if name != "target_info":
            assert name in listed, f"docs/tracing.md does not list {name}"
            assert set(labels) - common <= listed[name], (name, labels)


@pytest.mark.attack("T8")
def test_no_metric_names_a_user_a_call_or_a_ticket(samples: list[tuple[str, dict[str, str]]]) -> None:
    assert not [(name, labels) for name, labels in samples if any("@" in value for value in labels.values())]


@pytest.mark.peer("promtool")
def test_promtool_finds_nothing_wrong_with_what_a_lab_exposes(lab: Lab, samples: object) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition(lab), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


# the dashboard


def expressions() -> list[tuple[str, str]]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "5m"))
        for panel in panels
        for target in panel.get("targets", ())
    ]


@pytest.mark.peer("promtool")
def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, (_, expr) in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


_SELECTOR = re.compile(r"\b([a-z][a-z0-9_]*)(?:\{([^}]*)\})?(?=[\s)\[]|$)")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"')
_WORDS = {"sum", "rate", "histogram_quantile", "by", "or"}


def selectors(expr: str) -> Iterator[tuple[str, str]]:
    """(metric, matchers) of an expression."""
    plain = re.sub(r"\bby \([^)]*\)", "", expr)
    for name, matchers in _SELECTOR.findall(plain):
        if name not in _WORDS:
            yield name, matchers


def matches(labels: dict[str, str], matchers: str) -> bool:
    for name, how, value in _MATCHER.findall(matchers):
        found = labels.get(name, "")
        same = re.fullmatch(value, found) is not None if "~" in how else found == value
        if same is how.startswith("!"):
            return False
    return True


@pytest.mark.parametrize(("title", "expr"), expressions())
def test_a_lab_has_data_for_every_panel_of_the_dashboard(
    title: str, expr: str, samples: list[tuple[str, dict[str, str]]]
) -> None:
    found = list(selectors(expr))
    assert found, title
    for name, matchers in found:
        series = [labels for sample, labels in samples if sample == name and matches(labels, matchers)]
        assert series, f"{title}: nothing is exposed as {name}{{{matchers}}}"
        for group in re.findall(r"\bby \(([^)]*)\)", expr):
            asked = {label.strip() for label in group.split(",")} - {"le"}
            assert asked <= set(series[0]), f"{title}: {name} has no {asked - set(series[0])}"


def test_what_the_collector_exports_goes_where_the_other_files_expect_it() -> None:
    collector = yaml.safe_load((ROOT / "compose/otel/collector.yaml").read_text())
    for pipeline in collector["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(collector[part])
    assert collector["exporters"]["prometheus"]["add_metric_suffixes"] is True
    assert collector["exporters"]["prometheus"]["resource_to_telemetry_conversion"] == {"enabled": True}
    port = collector["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    prometheus = yaml.safe_load((ROOT / "compose/grafana/prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": [f"collector:{port}"]}]
    sources = yaml.safe_load((ROOT / "compose/grafana/provisioning/datasources/imslab.yaml").read_text())["datasources"]
    known = {source["uid"] for source in sources}
    dashboard = json.loads(DASHBOARD.read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if "datasource" in panel} <= known


@pytest.mark.peer("promtool")
def test_the_configuration_of_prometheus_is_one() -> None:
    file = ROOT / "compose/grafana/prometheus.yml"
    checked = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
