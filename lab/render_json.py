"""The ladder as one JSON object, for programs and tests."""

from __future__ import annotations

import dataclasses
import json

from lab.ladder import Ladder

_RENAMED = {"source": "from", "target": "to"}


def document(call: Ladder) -> dict[str, object]:
    """Return the ladder as plain data: ``call_id``, ``trace_id``, ``participants``, ``steps``."""
    steps = []
    for step in call.steps:
        fields = dataclasses.asdict(step)
        del fields["ids"]
        steps.append({_RENAMED.get(name, name): value for name, value in fields.items()})
    return {
        "call_id": call.call_id,
        "trace_id": call.trace_id,
        "traces": list(call.traces),
        "start_ns": call.start_ns,
        "participants": list(call.participants),
        "steps": steps,
    }


def render(call: Ladder) -> str:
    """Return the JSON text."""
    return json.dumps(document(call), indent=1)
