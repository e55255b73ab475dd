from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lab import render_html, render_json, render_mermaid, render_text
from lab.ladder import Ladder, Step, of_call
from tests.lab.traced import CALL, NAMES, REQUEST, RESOLVE, call_spans, kms_spans


@pytest.fixture
def call() -> Ladder:
    return of_call(call_spans(), CALL, NAMES)


def test_text_has_a_row_for_every_step_and_a_column_for_every_participant(call: Ladder) -> None:
    text = render_text.render(call, width=160)
    for name in call.participants:
        assert name[:11] in text
    for expected in ("INVITE +SDP", "200 OK (INVITE)", "Iq.ReserveAndConfigure", "e2ae-sdes accepted", "SRTP SDES"):
        assert expected in text
    assert "(again)" in text


def test_text_arrows_point_the_right_way(call: Ladder) -> None:
    rows = [line for line in render_text.render(call, width=200).splitlines() if "---" in line]
    assert rows[0].rstrip("| ").endswith(">")
    assert any("<-" in row for row in rows)


def test_text_shows_messages_on_request_and_never_a_key(call: Ladder) -> None:
    text = render_text.render(call, messages=True)
    assert "| Call-ID: " + CALL in text
    assert "inline:<redacted>" in text


@pytest.mark.parametrize("width", [20, 60, 80, 300])
def test_text_fits_any_terminal(call: Ladder, width: int) -> None:
    assert "INVITE" in render_text.render(call, width=width)


def test_mermaid_is_a_sequence_diagram_with_declared_participants(call: Ladder) -> None:
    lines = render_mermaid.render(call).splitlines()
    assert lines[0] == "sequenceDiagram"
    declared = {line.split()[1] for line in lines if line.strip().startswith("participant")}
    used = {name for line in lines for name in re.findall(r"\bp_[A-Za-z0-9_]+", line)}
    assert used == declared
    assert any(line.strip().startswith("rect rgb") for line in lines)
    assert lines.count("  end") == sum(step.kind == "media" for step in call.steps)


def test_json_names_who_sent_to_whom(call: Ladder) -> None:
    document = json.loads(render_json.render(call))
    assert document["call_id"] == CALL
    first = document["steps"][0]
    assert (first["from"], first["to"], first["kind"]) == ("alice", "pcscf-a", "sip")
    assert {step["kind"] for step in document["steps"]} == {"sip", "rpc", "decision", "media"}


def test_svg_is_well_formed_with_one_group_a_step(call: Ladder) -> None:
    root = ET.fromstring(render_html.render_svg(call))
    groups = [group for group in root.iter() if group.tag.endswith("}g")]
    assert len(groups) == len(call.steps)
    classes = {group.attrib["class"] for group in groups}
    assert {"step media srtp", "step media rtp", "step note"} <= classes


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {value}" for name, value in attrs if name in ("src", "href") and value]
        if tag == "link":
            self.found.append(tag)


def test_page_loads_nothing_from_elsewhere(call: Ladder) -> None:
    page = render_html.render_page([call], title="t")
    parser = _Assets()
    parser.feed(page)
    assert parser.found == []
    assert "@import" not in page
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page


def test_what_a_message_says_cannot_become_markup(call: Ladder) -> None:
    evil = '<script>alert(1)</script>"&'
    step = Step("sip", 0, 0, "a<b", evil, evil, text=evil, ids=("1",))
    page = render_html.render_page([Ladder(evil, "t", 0, ("a<b", evil), (step,))], title=evil)
    assert "<script>alert" not in page
    assert 'data-text="' in page
    assert evil not in page


def test_an_empty_ladder_is_drawn_as_such() -> None:
    empty = Ladder("x", "", 0, (), ())
    assert "nothing was traced" in render_text.render(empty)
    assert render_html.render_svg(empty).startswith("<svg")
    assert render_mermaid.render(empty) == "sequenceDiagram\n"


def test_every_format_shows_the_exchanges_with_the_kms_and_their_payloads() -> None:
    call = of_call([*call_spans(), *kms_spans()], CALL, NAMES)
    drawn = {
        "text": render_text.render(call, width=200),
        "mermaid": render_mermaid.render(call),
        "html": render_html.render_page([call], title="t"),
        "json": render_json.render(call),
    }
    for form, text in drawn.items():
        for expected in (*REQUEST, *RESOLVE, "NkmsResolve.ResolveTicket", "TRANSFER_INIT received", "request granted"):
            assert expected in text, (form, expected)
    assert 'class="step http final"' in drawn["html"]
    assert "...>" in drawn["text"]


@pytest.mark.parametrize("note", ["request granted", "refused: " + "a long reason " * 12])
def test_notes_of_the_last_lane_stay_in_the_drawing(call: Ladder, note: str) -> None:
    last = call.participants[-1]
    noted = replace(call, steps=(*call.steps, Step("decision", 9, 9, last, "", note, ids=("1",))))
    row = render_text.render(noted, width=160).splitlines()[-3]
    assert note.strip() in row
    assert row.endswith("*") is (note == "request granted")
    tree = ET.fromstring(render_html.render_svg(noted))
    boxes = [element for element in tree.iter() if element.get("class") == "box"]
    assert max(float(box.get("x", 0)) + float(box.get("width", 0)) for box in boxes) <= float(tree.get("width", 0))
