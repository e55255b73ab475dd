"""The ladder as a mermaid sequence diagram, for READMEs and issues."""

from __future__ import annotations

import re

from lab.ladder import Ladder
from lab.ladder_steps import Step, arrow_label

_COLOURS = {"SRTP": "rgb(209, 243, 217)", "RTP": "rgb(253, 236, 200)", "opaque": "rgb(210, 233, 252)"}


def _identifier(name: str) -> str:
    return "p_" + re.sub(r"[^A-Za-z0-9]", "_", name)


def _text(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text).replace("#", "#35;").replace(";", "#59;")


def render(call: Ladder) -> str:
    """Return mermaid text beginning with ``sequenceDiagram``."""
    lines = ["sequenceDiagram"]
    lines += [f"  participant {_identifier(name)} as {_text(name)}" for name in call.participants]
    for step in call.steps:
        lines += _step(step)
    return "\n".join(lines) + "\n"


def _step(step: Step) -> list[str]:
    source, target = _identifier(step.source), _identifier(step.target)
    label = _text(f"{step.label}{' (retransmission)' if step.retransmission else ''}")
    if step.kind in ("sip", "http"):
        arrow = "--x" if step.unseen else "-->>" if step.outcome else "->>"
        return [f"  {source}{arrow}{target}: {label}"]
    if step.kind == "rpc":
        mark = "" if step.outcome == "OK" else " failed"
        return [f"  {source}-){target}: {_text(arrow_label(step))}{mark}"]
    if step.kind in ("decision", "mikey"):
        reason = f"<br/>{_text(step.detail)}" if step.detail else ""
        return [f"  Note over {source}: {label}{reason}"]
    colour = _COLOURS.get(step.protection, "rgb(235, 235, 235)")
    return [f"  rect {colour}", f"  Note over {source},{target}: {label}, {_text(step.detail)}", "  end"]
