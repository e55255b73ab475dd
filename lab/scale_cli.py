"""``imslab scale``: how many instances of a network function there are."""

from __future__ import annotations

from pathlib import Path

import click

from lab.cli_base import echo_json, fail, json_option, state_option
from lab.control import ControlError, Json, Params, ask
from lab.printable import one_line
from lab.state import StateFolder

MOST = 8
"""Most instances of one network function (``lab.instances.MOST``, which would load more than a command needs)."""


@click.command()
@click.argument("counts", nargs=-1, metavar="[NF=N...]")
@click.option("--drain", "drain_s", default=60.0, type=click.FloatRange(0, 86_400), help="Seconds to finish work in.")
@state_option
@json_option
def scale(counts: tuple[str, ...], drain_s: float, state: Path | None, as_json: bool) -> None:
    """Run N instances of NF, a P-CSCF, access gateway or KMS; without NF=N show how many there are.

    Kept when the lab comes back. An instance that goes finishes its calls first.
    """
    wanted: Params = {}
    for text in counts:
        nf, _, number = text.partition("=")
        if not nf or not (number.isascii() and number.isdigit() and 1 <= int(number) <= MOST):
            raise click.UsageError(f"{text!r} is not NF=N with N from 1 to {MOST}")
        if nf in wanted:
            raise click.UsageError(f"{nf} is named twice")
        wanted[nf] = int(number)
    told: list[str] = []

    def note(item: Params) -> None:
        line = _line(item)
        if not as_json and line not in told[-1:]:
            told.append(line)
            click.echo(line, err=True)

    try:
        answer = ask(StateFolder.at(state).socket, "scale", {"counts": wanted, "drain_s": drain_s}, note)
    except ControlError as error:
        fail(str(error), 2 if error.kind == "usage" else 1)
    except KeyboardInterrupt:
        fail("interrupted; instances that were told to finish stay so")
    if as_json:
        echo_json(answer)
        return
    rows = answer.get("functions") if isinstance(answer, dict) else None
    _table([row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else [])


def _line(item: Params) -> str:
    text = f"{item.get('instance')} {item.get('state')}"
    if item.get("work_left"):
        text += f": {item['work_left']} {item.get('work') or 'left'}"
    return one_line(text)


def _table(rows: list[dict[str, Json]]) -> None:
    lines = [("network function", "kind", "serving", "instances")]
    for row in rows:
        names = row.get("instances")
        listed = [str(name) for name in names] if isinstance(names, list) else []
        lines.append((str(row["nf"]), str(row["kind"]), f"{row['serving']} of {len(listed)}", ", ".join(listed)))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    for line in lines:
        click.echo(
            one_line("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]))
        )
