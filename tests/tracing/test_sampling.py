"""A lab that traces nothing: calls work, and a refusal, the log and the metrics still tell what happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab import Lab, running
from tests.tracing.tree import Tree

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    def change(description: dict[str, Any]) -> None:
        description["trace_sampling"] = 0.0

    with running(tmp_path_factory.mktemp("sampling"), change) as started:
        yield started


def test_a_call_that_is_not_traced_leaves_no_span_on_any_node(lab: Lab) -> None:
    verdict = lab.call("alice", "bob", "--security", "e2ae-sdes", "--seconds", "0.5")
    assert verdict["result"] == "established"
    assert Tree.of(lab, verdict["trace_id"]).spans == []


@pytest.mark.attack("T1", "T2")
def test_a_refusal_is_on_record_although_its_trace_is_not(lab: Lab) -> None:
    verdict = lab.call(
        "alice", "bob", "--security", "e2ae-sdes", "--option", "tamper_offer=short-key", "--seconds", "0.5", status=1
    )
    tree = Tree.of(lab, verdict["trace_id"])
    assert {span.name for span in tree.spans} == {"key.decision"}
    assert {span.text("imslab.sampling") for span in tree.spans} == {"evidence"}
    assert ("pcscf-a", "refused", "bad-key") in {
        (span.node, span.text("imslab.decision.outcome"), span.text("imslab.decision.token")) for span in tree.spans
    }
    assert not [span for span in tree.spans if span.parent_id], "it does not point at spans that are nowhere"
    log = (lab.state / "logs" / "pcscf-a.log").read_text()
    (line,) = [one for one in log.splitlines() if '"request.refused"' in one and verdict["call_id"] in one]
    assert json.loads(line)["trace_id"] == verdict["trace_id"]
