"""What the benches of the relay keep: rows with min / median / max, the machine, and files that rounds are added to."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"


def spread(values: Iterable[float]) -> list[float]:
    """Min, median and max."""
    known = list(values)
    return [min(known), statistics.median(known), max(known)]


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float] | None:
    """Spread of the ratios of each round; None where the other was not measured."""
    pairs = [a / b for a, b in zip(mine, theirs, strict=False) if b]
    return spread(pairs) if pairs else None


def show(values: Sequence[float] | None, digits: int = 2) -> str:
    return "-" if values is None else "/".join(f"{value:.{digits}f}" for value in values)


def machine() -> Row:
    """Describe the machine without telling which one it is."""
    told = Path("/proc/cpuinfo").read_text()
    fields = dict(re.findall(r"^(cpu family|model|model name)\s*: (.*)$", told, re.MULTILINE))
    family = f"family {fields.get('cpu family')} model {fields.get('model')}"
    return {
        "cores": os.cpu_count(),
        "processor": f"{fields.get('model name', 'unknown')}, {family}",
        "kernel": "Linux " + re.match(r"[\d.]*", os.uname().release)[0],  # type: ignore[index]
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "load": os.getloadavg()[0],
    }


def common_options(parser: argparse.ArgumentParser, rounds: int, seconds: float) -> None:
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds, help="length of one measurement")
    parser.add_argument("--shared-network", action="store_true", help="do not leave the network of this machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="put the rows in here, in place of older ones alike")


def keep(path: Path | None, rows: Sequence[Row], identity: Sequence[str], **more: object) -> None:
    """Write rows to a file; rows there that are alike in `identity` go, others stay."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    fresh = {tuple(row.get(name) for name in identity) for row in rows}
    stay = [row for row in before if tuple(row.get(name) for name in identity) not in fresh]
    text = json.dumps({"machine": machine(), **more, "rows": [*stay, *rows]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> list[Row]:
    """Rows of a file; none where it is not there."""
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []
