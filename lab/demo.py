"""``imslab demo``: a lab, seven calls, the verdict of each with its reason, and a report with every ladder."""

from __future__ import annotations

import math
import struct
import sys
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from lab.control import ControlError, Params, ask
from lab.flow import FlowError, build
from lab.launch import LaunchError, StateFolderError, default_config, down, up
from lab.printable import one_line
from lab.render_html import render_call, render_page
from lab.state import StateFolder

WAV_SECONDS = 4
"""Length of the audio of the demonstration, seconds."""
_RATE = 8000
_NOTES_HZ = (523.25, 659.25, 783.99, 1046.5)


@dataclass(frozen=True)
class Scene:
    """A call of the demonstration: what is asked, what must come out, and why."""

    title: str
    caller: str
    callee: str
    security: str
    expected: str
    reason: str
    seconds: float = 2.0
    play: bool = False
    stripped: bool = False
    access: tuple[str, ...] = ()
    keying: str = ""


SCENES = (
    Scene(
        "e2ae SDES with audio from a file",
        "alice",
        "bob",
        "e2ae-sdes",
        "established",
        "both UEs announced sdes-srtp at registration and Gm is TLS: each access leg is SRTP with keys of its own,"
        " the core between the gateways is plain RTP",
        seconds=float(WAV_SECONDS),
        play=True,
        access=("SRTP", "SRTP"),
    ),
    Scene(
        "e2e SDES",
        "alice",
        "bob",
        "e2e-sdes",
        "established",
        "the UEs' own keys pass every TLS hop unchanged: the gateways relay SRTP they cannot open",
        access=("opaque", "opaque"),
    ),
    Scene(
        "downgrade refused",
        "alice",
        "bob",
        "e2ae-sdes",
        "refused",
        "alice's REGISTER lost its mediasec entries, so nothing was agreed: the P-CSCF answers 488 to the e2ae offer"
        " and never carries the call in the clear",
        stripped=True,
    ),
    Scene(
        "plain call for contrast",
        "alice",
        "carol",
        "none",
        "established",
        "no protection was asked for and carol's phone has none: RTP on every leg",
        access=("RTP", "RTP"),
    ),
    Scene(
        "e2e KMS within one domain",
        "alice",
        "bob",
        "e2e-kms",
        "established",
        "alice's KMS gave her a ticket for bob, bob had it resolved: both derive the keys, and no node between them nor"
        " anyone who read every SDP, can",
        access=("opaque", "opaque"),
        keying="MIKEY-TICKET",
    ),
    Scene(
        "e2e KMS across two domains",
        "alice",
        "erin",
        "e2e-kms",
        "established",
        "erin's KMS of partner.test cannot open alice's ticket and has the KMS of ims.test resolve it: each user trusts"
        " the KMS of their own operator",
        access=("opaque", "opaque"),
        keying="MIKEY-TICKET",
    ),
    Scene(
        "e2e KMS refused",
        "alice",
        "carol",
        "e2e-kms",
        "refused",
        "the KMS lets carol resolve no ticket, so her UE answers 488 and nobody falls back to less protection unasked",
    ),
)
"""The calls of the demonstration, in order."""


@dataclass
class Outcome:
    """What became of a scene."""

    scene: Scene
    verdict: Params = field(default_factory=dict)
    fault: str = ""

    @property
    def as_expected(self) -> bool:
        """Whether the call ended as it must, with the protection it must have, and was heard."""
        if self.fault or self.verdict.get("result") != self.scene.expected:
            return False
        if self.scene.expected == "refused":
            return self.verdict.get("sip_status") == 488
        audio = self.verdict.get("audio")
        heard = isinstance(audio, dict) and all(isinstance(end, dict) and end["heard"] for end in audio.values())
        keyed = set(self._of_legs("end", "keying")) == {self.scene.keying} if self.scene.keying else True
        return heard and keyed and tuple(self.protection("access")) == self.scene.access

    def protection(self, side: str) -> list[str]:
        """Return the protection of the legs on ``side``, in the order of the media path."""
        return self._of_legs(side, "protection")

    def _of_legs(self, side: str, key: str) -> list[str]:
        legs = self.verdict.get("legs")
        rows = [leg for leg in legs if isinstance(leg, dict)] if isinstance(legs, list) else []
        return [str(leg[key]) for leg in rows if leg["side"] == side]

    def audio_line(self) -> str:
        """Say what was heard."""
        audio = self.verdict.get("audio")
        parts = []
        for direction, heard in audio.items() if isinstance(audio, dict) else ():
            assert isinstance(heard, dict)
            parts.append(f"{direction} {heard['snr_db']} dB" if heard["heard"] else f"{direction} not heard")
        return ", ".join(parts)


def write_melody(path: Path) -> None:
    """Write the audio of the demonstration: a rising chord, 16 bit, 8 kHz."""
    step = _RATE * WAV_SECONDS // len(_NOTES_HZ)
    samples = []
    for index, pitch in enumerate(_NOTES_HZ):
        for n in range(step):
            fade = min(1.0, n / 400, (step - n) / 400)
            t = (index * step + n) / _RATE
            samples.append(int(9000 * fade * (math.sin(2 * math.pi * pitch * t) + 0.3 * math.sin(math.pi * pitch * t))))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(_RATE)
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))


def run_demo(out: Path, config: Path | None, state: Path | None, *, keep: bool = False) -> int:
    """Run the demonstration and write ``out/report.html``; returns 0 when every call ended as it must."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    folder = StateFolder.at(state or out / "state")
    outcomes: list[Outcome] = []
    down(folder)
    try:
        with console.status("starting the lab"):
            started = up(config or default_config(), folder, lambda _: None)
        console.print(
            f"[bold]lab up[/] in {started.seconds:.1f} s: {', '.join(str(r['instance']) for r in started.rows)}"
        )
        write_melody(out / "melody.wav")
        outcomes += [_play(scene, folder, out, console) for scene in SCENES]
        ask(folder.socket, "settle")
        write_report(out / "report.html", outcomes, folder, started.seconds)
    except StateFolderError as error:
        console.print(escape_markup(one_line(str(error))))
        return 2
    except (LaunchError, ControlError, OSError, ValueError) as error:
        console.print(f"[bold red]the demonstration failed[/]: {escape_markup(one_line(str(error)))}")
        return 1
    finally:
        if not keep:
            with console.status("ending the lab"):
                down(folder)
    _table(console, outcomes)
    console.print(f"report: {(out / 'report.html').absolute()}", soft_wrap=True)
    if keep:
        console.print(f"the lab is still up; its state folder is {folder.root}", soft_wrap=True)
    good = sum(outcome.as_expected for outcome in outcomes)
    console.print(f"{good} of {len(outcomes)} calls ended as they must; {time.monotonic() - began:.0f} s")
    return 0 if good == len(outcomes) else 1


def _play(scene: Scene, folder: StateFolder, out: Path, console: Console) -> Outcome:
    outcome = Outcome(scene)
    params: Params = {
        "from": scene.caller,
        "to": scene.callee,
        "security": scene.security,
        "seconds": scene.seconds,
        "play": str((out / "melody.wav").absolute()) if scene.play else "",
        "record": str((out / "heard").absolute()) if scene.play else "",
        "pcap": str((out / "call.pcapng").absolute()) if scene.play else "",
        "options": {"force_offer": "true"} if scene.stripped else {},
    }
    with console.status(f"{scene.title}: {scene.caller} calls {scene.callee}"):
        try:
            if scene.stripped:
                ask(folder.socket, "deregister", {"user": scene.caller})
                ask(folder.socket, "register", {"user": scene.caller, "options": {"strip_mediasec": "true"}})
            verdict = ask(folder.socket, "call", params)
            assert isinstance(verdict, dict)
            outcome.verdict = verdict
            if scene.stripped:
                ask(folder.socket, "deregister", {"user": scene.caller})
        except ControlError as error:
            outcome.fault = one_line(str(error))
    mark = "[green]as it must[/]" if outcome.as_expected else "[red]NOT as it must[/]"
    result = escape_markup(outcome.fault or str(outcome.verdict["result"]))
    console.print(f"{scene.title}: {result} - {mark}")
    return outcome


def _cells(outcome: Outcome) -> list[str]:
    verdict = outcome.verdict
    result = f"{verdict.get('result', 'failed')} ({verdict.get('sip_status', 0)})"
    access, core = outcome.protection("access"), outcome.protection("core")
    media = f"{' / '.join(access)}, core {' / '.join(sorted(set(core)))}" if access else "none"
    found = outcome.fault or one_line(str(verdict.get("reason", "")))
    reason = outcome.scene.reason if outcome.as_expected else f"expected {outcome.scene.expected}; {found}"
    return [
        outcome.scene.title,
        f"{outcome.scene.caller} -> {outcome.scene.callee}",
        outcome.scene.security,
        result,
        media,
        outcome.audio_line() or "-",
        reason,
    ]


_HEAD = ("call", "who", "asked", "result", "access legs", "audio", "why")


def _table(console: Console, outcomes: Sequence[Outcome]) -> None:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in _HEAD[:-1]:
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        table.add_row(*map(escape_markup, _cells(outcome)[:-1]), style="" if outcome.as_expected else "red")
    console.print()
    console.print(table)
    console.print()
    for outcome in outcomes:
        *_, why = _cells(outcome)
        console.print(f"[bold]{outcome.scene.title}[/]: {escape_markup(why)}", soft_wrap=not console.is_terminal)
    console.print()


def write_report(path: Path, outcomes: Sequence[Outcome], folder: StateFolder, start_s: float) -> None:
    """Write the page: the table of verdicts and the ladder of each call. Raises ``OSError``."""
    rows = []
    for outcome in outcomes:
        cells = [escape(cell) for cell in _cells(outcome)]
        cells[3] = f'<span class="{"ok" if outcome.as_expected else "no"}">{cells[3]}</span>'
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{escape(column)}</th>" for column in _HEAD)
    body = (
        f"<p class='dim'>{time.strftime('%Y-%m-%d %H:%M')}, lab up in {start_s:.1f} s</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    sections = []
    for outcome in outcomes:
        call_id = str(outcome.verdict.get("call_id", ""))
        try:
            call = build(folder, call_id) if call_id else None
        except FlowError:
            call = None
        if call is None:
            sections.append(f"<section><h2>{escape(outcome.scene.title)}</h2><p>nothing was traced</p></section>")
        else:
            sections.append(render_call(call, heading=outcome.scene.title, text=outcome.scene.reason))
    path.write_text(render_page([], title="imslab: media plane security, call by call", body=body, sections=sections))
