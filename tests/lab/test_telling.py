"""What is read out of the log of a node that starts."""

import json

import pytest

from lab.telling import PROCESS, fault_line, fault_text, fault_words, lines, several, size, waits_for


def event(name, level="info", **facts):
    return json.dumps({"ts": 1.0, "level": level, "node": "hss", "event": name, **facts})


def write(folder, *text):
    log = folder / "hss.log"
    log.write_text("\n".join(text) + "\n")
    return log


def test_what_earlier_processes_wrote_is_no_news(tmp_path):
    log = write(tmp_path, event("start-failed", "error", error="the port of yesterday"))
    since = size(log)
    with log.open("a") as stream:
        stream.write(event("node-starting") + "\n")
    assert fault_line(log, since) == event("node-starting")
    assert fault_text(fault_line(log, since)) == ""
    assert fault_text(fault_line(log)) == "the port of yesterday"
    log.write_text(event("registered") + "\n")  # rotated: shorter now
    assert waits_for(log, since) == "its ports"


def test_the_last_fault_counts_and_the_last_line_without_one(tmp_path):
    log = write(
        tmp_path,
        event("start-failed", "error", error="first"),
        event("start-failed", "error", error="second"),
        event("node-stopping"),
        "Traceback (most recent call last):",
        "LookupError: third",
        event("node-stopped"),
    )
    assert fault_line(log) == "LookupError: third"
    assert fault_line(write(tmp_path, event("a"), event("b"))) == event("b")
    assert fault_line(tmp_path / "none.log") == ""
    assert lines(tmp_path / "none.log") == []
    assert len(fault_line(write(tmp_path, "x" * 5000))) == 800


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (event("start-failed", "error", error="no port"), "no port"),
        (
            event("start-failed", "error", error="'x'", kind="KeyError", at="/p/node.py:4 in f"),
            "KeyError: 'x' (/p/node.py:4 in f)",
        ),
        (event("http-handler-failed", "error", error="", fault="f"), "f"),
        (event("odd", "error"), "odd"),
        (event("nrf-unreachable", "warning", cause="refused"), "refused"),
        (event("node-ready", error="not one"), ""),
        ("cscf has no usable key", "cscf has no usable key"),
        ('{"broken', '{"broken'),
    ],
)
def test_a_fault_in_words(line, words):
    assert fault_text(line) == words


def test_a_long_fault_still_says_where_it_was_raised(tmp_path):
    log = write(tmp_path, event("start-failed", "error", error="no " * 400, kind="KeyError", at="n.py:4 in f"))
    assert len(fault_line(log)) == 800
    assert fault_words(log).startswith("KeyError: no no ")
    assert fault_words(log).endswith("no (n.py:4 in f)")


@pytest.mark.parametrize(
    ("event_line", "words"),
    [
        (event("node-starting"), "its store and settings"),
        (event("store-waiting", "warning", database="db:5432/lab", fault="Connection refused"), "the database db:5432/lab: Connection refused"),
        (event("nrf-unreachable", "warning", cause="UNAVAILABLE"), "the NRF: UNAVAILABLE"),
        (event("registered"), "its ports"),
        (event("something-of-the-kind"), PROCESS),
        ("plain words", PROCESS),
    ],
)  # fmt: skip
def test_what_is_waited_for(tmp_path, event_line, words):
    assert waits_for(write(tmp_path, event_line)) == words


def test_the_latest_event_of_the_start_says_what_is_waited_for(tmp_path):
    log = write(tmp_path, event("node-starting"), event("registered"), event("pcscf.something"))
    assert waits_for(log) == "its ports"
    assert waits_for(tmp_path / "none.log") == PROCESS


def test_names_for_people():
    assert several(["a"]) == "a"
    assert several(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 more"
