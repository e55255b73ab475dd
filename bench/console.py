"""What the console costs: the table of calls as spans arrive, lists and pages over many stored calls, and a page that
watches.

Real calls of a lab, one in each security mode, are stored again and again under other ids until there are ``--calls``
of them. Times are medians and maxima in ms; processor time is that of the thread that writes, and last that of the
supervisor of a lab at rest, without a page and with one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.up import imslab
from lab import callfind, callstore
from lab.callfind import Wanted
from lab.console.calldetail import CallPages
from lab.labfile import LabFile
from lab.spans import Span
from lab.state import StateFolder
from lab.tracestore import TraceStore

MODES = ("none", "e2ae-sdes", "e2e-sdes", "e2e-kms")


class Lab:
    """As much of a lab's view as a page of a call takes: nodes that are not running any more."""

    def __init__(self, folder: StateFolder) -> None:
        from lab.console.documents import Names
        from lab.console.topology import places

        self.lab = LabFile.read(folder.lab_json)
        self.names = Names(self.lab.users)
        self._places = places(json.loads(folder.lab_json.read_text()))

    def places(self) -> Any:
        return self._places


def again(spans: list[Span], number: int) -> list[Span]:
    """The spans of a call as another call: ids and time moved, texts alike."""
    old = next(span.text("sip.call_id") for span in spans if span.text("sip.call_id"))
    new = f"{number:08x}{old[8:]}"
    later = number * 1_000_000_000

    def moved(span: Span) -> Span:
        attributes = {k: new if v == old else v for k, v in span.attributes.items()}
        events = tuple(
            replace(
                event,
                time_ns=event.time_ns + later,
                attributes={k: v.replace(old, new) if isinstance(v, str) else v for k, v in event.attributes.items()},
            )
            for event in span.events
        )
        return replace(
            span,
            trace_id=f"{number:08x}{span.trace_id[8:]}",
            start_ns=span.start_ns + later,
            end_ns=span.end_ns + later,
            attributes=attributes,
            events=events,
        )

    return [moved(span) for span in spans]


def timed(work: Callable[[], object], rounds: int) -> dict[str, float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return {"median_ms": statistics.median(taken), "max_ms": max(taken)}


def fill(store: TraceStore, calls: list[list[Span]], count: int) -> dict[str, float]:
    """Store ``count`` calls in batches of four, as exporters send them; the processor time of one call."""
    began, spans = time.thread_time(), 0
    folding = 0.0
    fold = callstore.fold

    def watched(*arguments: Any) -> Any:
        nonlocal folding
        start = time.thread_time()
        try:
            return fold(*arguments)
        finally:
            folding += time.thread_time() - start

    callstore.fold = watched
    copying = 0.0
    for number in range(0, count, 4):
        start = time.thread_time()
        batch = [span for each in range(4) for span in again(calls[(number + each) % len(calls)], number + each)]
        copying += time.thread_time() - start
        spans += store.add_spans(batch)
    callstore.fold = fold
    total = time.thread_time() - began - copying
    return {
        "spans_per_call": spans / count,
        "cpu_ms_per_call": total / count * 1000,
        "of_which_table_of_calls_ms": folding / count * 1000,
    }


def queries(store: TraceStore, lab: Lab, rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    pages = CallPages(lab, store)
    with store.reading() as db:
        newest = callfind.find(db, Wanted(), 1).calls[0]
        middle = callfind.find(db, Wanted(before=(newest.began_ns // 2 + newest.began_ns // 2, 1 << 40)), 1).calls[0]
    for name, wanted in {
        "list, newest 50": Wanted(),
        "list of a user": Wanted(parties=("sip:alice@ims.test",)),
        "list of a mode": Wanted(security="e2e-kms"),
        "list of a result": Wanted(result="established"),
        "search, a Call-ID": Wanted(beginning=middle.call_id),
        "search, beginning of a name": Wanted(beginning="ali"),
        "calls in progress": Wanted(states=callfind.LIVE),
    }.items():

        def ask(wanted: Wanted = wanted) -> object:
            with store.reading() as db:
                return callfind.find(db, wanted, 50)

        yield name, timed(ask, rounds)

    def page() -> object:
        pages._drawn.clear()
        return pages._page(middle.call_id, {})

    yield "page of a call", timed(page, rounds)
    yield "page of a call, drawn before", timed(lambda: pages._page(middle.call_id, {}), rounds)
    yield "trace of a call", timed(lambda: pages._trace(middle.call_id), rounds)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def watch(link: str, seconds: float) -> None:
    """Read the event stream as a page does; a comment every 15 s makes that longer than ``seconds``."""
    url, _, token = link.partition("#token=")
    request = urllib.request.Request(f"{url}api/events", headers={"Authorization": f"Bearer {token}"})
    until = time.monotonic() + seconds
    with urllib.request.urlopen(request, timeout=60) as stream:
        while time.monotonic() < until:
            stream.readline()


def at_rest(state: Path, seconds: float) -> dict[str, float]:
    """Processor time that the supervisor of a lab at rest takes, per cent of one core."""
    pid = int((state / "supervisor.pid").read_text())
    link = imslab("console", state=state)["link"]
    began = cpu_s(pid)
    time.sleep(seconds)
    alone = cpu_s(pid) - began
    began = cpu_s(pid)
    start = time.monotonic()
    watch(link, seconds)
    watched = cpu_s(pid) - began
    return {
        "nobody_watches_percent": alone / seconds * 100,
        "a_page_watches_percent": watched / (time.monotonic() - start) * 100,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=16.0, help="how long the supervisor at rest is looked at")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imslab-bench-") as name:
        state = Path(name) / "state"
        folder = StateFolder.at(state)
        imslab("up", state=state)
        try:
            ids = [
                imslab("call", "alice", "bob", "--security", mode, "--seconds", "2", state=state)["call_id"]
                for mode in MODES
            ]
            time.sleep(2.0)
            resting = at_rest(state, options.seconds)
        finally:
            imslab("down", state=state)
        recorded = TraceStore(folder.traces, read_only=True)
        calls = [recorded.spans_of_call(call_id) for call_id in ids]
        recorded.close()
        path = Path(name) / "many.sqlite"
        store = TraceStore(path)
        rows: dict[str, dict[str, float]] = {"store a call": fill(store, calls, options.calls)}
        rows |= dict(queries(store, Lab(folder), options.rounds))
        store.close()
        rows["disk"] = {"kB_per_call": path.stat().st_size / 1000 / options.calls, "MB": path.stat().st_size / 1e6}
        rows["supervisor at rest"] = resting
    print(f"{options.calls} stored calls")
    for row, figures in rows.items():
        print(f"{row:34} " + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps({"calls": options.calls, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
