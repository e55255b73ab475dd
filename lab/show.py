"""What the command line puts on the screen: tables and progress. Progress goes to standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from lab.control import Json, Params
from lab.labfile import NodeRow, UserRow
from lab.printable import one_line

_STATE_STYLE = {"serving": "green", "starting": "yellow", "fallen": "red", "failed": "bold red", "stopped": "dim"}
_RESULT_STYLE = {"established": "bold green", "refused": "bold yellow", "failed": "bold red"}
_TALK_TIME_OVER = "talk time over"
"""What a UE says of a call that it ended when it was to (nodes.ue.service)."""
PROTECTION_STYLE = {"SRTP": "green", "RTP": "yellow", "opaque": "cyan"}
"""Colour of a media leg by its protection, on the screen as on the page."""


def _console() -> Console:
    """The screen, or lines of 140 characters when it is none."""
    return Console(width=None if sys.stdout.isatty() else 140)


def shown(value: Json) -> Json:
    """Return ``value`` with every text in it fit for the screen: no control characters, no markup of its own."""
    if isinstance(value, str):
        return escape(one_line(value))
    if isinstance(value, list):
        return [shown(item) for item in value]
    return _shown_params(value) if isinstance(value, dict) else value


def _shown_params(params: Params) -> Params:
    return {one_line(key): shown(value) for key, value in params.items()}


def node_table(rows: Sequence[Params]) -> None:
    """Print the nodes of a lab."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("node", "kind", "state", "pid", "SBI", "restarts"):
        table.add_column(column)
    for row in map(_shown_params, rows):
        state = "retiring" if row.get("retiring") else str(row.get("state", ""))
        reason = f" ({row['reason']})" if row.get("reason") else ""
        table.add_row(
            str(row["instance"]),
            str(row["kind"]),
            f"[{_STATE_STYLE.get(state, '')}]{state}[/]{reason}" if state in _STATE_STYLE else state,
            str(row.get("pid") or "-"),
            str(row.get("sbi", "")),
            str(row.get("restarts", 0)),
        )
    _console().print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Params]) -> None:
    """Print rows under the columns named like their entries."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in map(_shown_params, rows):
        table.add_row(*(str(row.get(column, "")) for column in columns))
    _console().print(table)


class StartProgress:
    """The progress of ``up``: how many nodes serve, and which one waits for what.

    On a terminal one line that changes; elsewhere a line for everything that takes longer than ``PATIENCE_S``.
    """

    PATIENCE_S = 2.0
    """How long a node may wait before that is worth a line, seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._bar = not quiet and sys.stderr.isatty()
        self._quiet = quiet
        self._states: dict[str, str] = {}
        self._waits: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()
        self._console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(20), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            TextColumn("{task.description}"), console=self._console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._bar:
            self._progress.start()
            self._task = self._progress.add_task("starting", total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._bar:
            self._progress.stop()

    def note(self, message: Params) -> None:
        """Take in what is done now, or one progress message of ``watch``."""
        if message.get("phase") and self._task is not None:
            self._progress.update(self._task, description=str(shown(message["phase"])), refresh=True)
        row = shown(message.get("node"))
        if not isinstance(row, dict):
            return
        name, state = str(row["instance"]), str(row["state"])
        self._states[name], self._waits[name] = state, str(row.get("waits_for") or row.get("reason") or "")
        if self._task is not None:
            self._show()
        elif not self._quiet:
            self._say(name, row)

    def _show(self) -> None:
        serving = sum(state == "serving" for state in self._states.values())
        late = [name for name, state in self._states.items() if state not in ("serving", "stopped")]
        waiting = late or [name for name, state in self._states.items() if state != "serving"]
        text = f"{waiting[0]} waits for {self._waits[waiting[0]] or 'its turn'}" if waiting else "all serve"
        assert self._task is not None
        self._progress.update(self._task, total=len(self._states), completed=serving, description=text)

    def _say(self, name: str, row: Params) -> None:
        since, waits = row.get("since_s"), self._waits[name]
        slow = isinstance(since, (int, float)) and since >= self.PATIENCE_S
        if row["state"] in ("starting", "fallen") and waits and slow and (name, waits) not in self._said:
            self._said.add((name, waits))
            self._console.print(f"{name} waits for {waits}", soft_wrap=True, highlight=False)


class CallProgress:
    """The progress of a call: its states, then a bar while media runs."""

    def __init__(self, seconds: float, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = not quiet and sys.stderr.isatty()
        self._seconds = seconds
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:22}"),
            BarColumn(40),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._stop = None

    def __enter__(self) -> Self:
        if self._bar:
            self._progress.start()
            self._task = self._progress.add_task("calling", total=None)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._bar:
            self._progress.stop()

    def note(self, message: Params) -> None:
        """Take in one event of the call."""
        message = _shown_params(message)
        state = str(message.get("state", ""))
        if self._quiet:
            return
        if not self._bar:
            extra = " ".join(str(message.get(key) or "") for key in ("user", "sip_status", "reason")).strip()
            self._console.print(f"[dim]{state}[/] {extra}".rstrip())
            return
        assert self._task is not None
        if state == "established":
            self._progress.reset(self._task, total=self._seconds, description="media runs")
            self._run_bar()
        elif state != "media":
            self._progress.update(self._task, description=f"{state} {message.get('user') or ''}")

    def _run_bar(self) -> None:
        import threading
        import time

        began, task = time.monotonic(), self._task
        assert task is not None

        def advance() -> None:
            while (passed := time.monotonic() - began) < self._seconds:
                self._progress.update(task, completed=passed)
                time.sleep(0.1)

        threading.Thread(target=advance, daemon=True).start()


def verdict_table(verdict: Params) -> None:
    """Print the verdict of a call: headline, legs, audio."""
    console, verdict = _console(), _shown_params(verdict)
    result = str(verdict["result"])
    setup = f", set up in {verdict['setup_ms']} ms" if result == "established" else ""
    reason = f": {verdict['reason']}" if verdict.get("reason") and result != "established" else ""
    console.print(
        f"[{_RESULT_STYLE.get(result, 'bold')}]{result}[/] SIP {verdict['sip_status']}{reason}"
        f" security {verdict['security'] or 'none'}{setup}"
    )
    if verdict.get("meaning"):
        console.print(str(verdict["meaning"]), soft_wrap=True)
    if result == "established" and verdict.get("reason") not in (None, "", _TALK_TIME_OVER):
        console.print(f"[yellow]ended before its time[/]: {verdict['reason']}", soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("node", "side", "protection", "keying", "suite", "in", "out", "auth failures", "replays"):
        table.add_column(column)
    for leg in _dicts(verdict["legs"]):
        protection = str(leg["protection"])
        style = PROTECTION_STYLE.get(protection, "")
        table.add_row(
            str(leg["node"]),
            str(leg["side"]),
            f"[{style}]{protection}[/]" if style else protection,
            *(str(leg[key]) for key in ("keying", "suite", "packets_in", "packets_out", "auth_failures", "replays")),
        )
    if table.row_count:
        console.print(table)
    audio = verdict["audio"]
    for direction, heard in audio.items() if isinstance(audio, dict) else ():
        assert isinstance(heard, dict)
        word = "[green]heard[/]" if heard["heard"] else "[red]not heard[/]"
        loss = heard["loss"]
        percent = f"{loss:.1%}" if isinstance(loss, float) else str(loss)
        snr = f"{heard['snr_db']} dB" if heard["snr_db"] else "n/a"
        console.print(f"{direction}: {word}, SNR {snr}, loss {percent}, jitter {heard['jitter_ms']} ms")
    for key in ("recordings", "pcap", "exchange"):
        if verdict.get(key):
            console.print(f"{key}: {verdict[key]}", soft_wrap=True)
    console.print(f"[dim]call {verdict['call_id']} trace {verdict['trace_id']}[/]", soft_wrap=True)


def certificate_table(rows: Sequence[Params]) -> None:
    """Print certificates."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("node", "NF types", "NF instance", "names", "valid until", "state"):
        table.add_column(column, overflow="fold")
    for row in map(_shown_params, rows):
        names = ", ".join(map(str, _list(row["names"])))
        types = ", ".join(map(str, _list(row["nf_types"])))
        state = "[red]revoked[/]" if row["revoked"] else "[green]valid[/]"
        table.add_row(str(row["node"]), types, str(row["nf_instance_id"]), names, str(row["not_after"]), state)
    _console().print(table)


def user_facts(row: UserRow, nodes: Mapping[str, NodeRow] | None = None) -> dict[str, Json]:
    """Return what a client needs to know to register as this user and to ask its KMS, without its secret."""
    facts: dict[str, Json] = {
        "impu": row.impu,
        "impi": row.impi,
        "tel": row.tel,
        "domain": row.domain,
        "profile": row.profile,
        "access": row.access,
        "pcscf": f"{row.pcscf_host}:{row.pcscf_port}",
        "pcscf_tls": f"{row.pcscf_host}:{row.pcscf_tls_port}",
    }
    for role, instance in (("kms", row.kms), ("bsf", row.bsf)):
        node = (nodes or {}).get(instance)
        if node is not None:
            # in this lab the name a certificate shows is also IDRkms, or the host of B-TIDs
            facts |= {role: node.https, f"{role}_tls_name": node.role_name, f"{role}_identity": node.role_name}
    return facts


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _dicts(value: Json) -> list[Params]:
    return [item for item in _list(value) if isinstance(item, dict)]
