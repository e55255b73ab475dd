"""What the commands of ``imslab`` share: options, exit status, the question to the supervisor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from lab.control import ControlError, Json, Params, ask
from lab.printable import printable
from lab.state import StateFolder

state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the lab (default: $IMSLAB_STATE or a per-user folder).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def echo_json(value: Json) -> None:
    """Print ``value`` as one JSON text."""
    click.echo(json.dumps(value, indent=2))


def fail(message: str, code: int = 1) -> NoReturn:
    """Print ``message`` to standard error and end with ``code``."""
    click.echo(f"imslab: {printable(message)}", err=True)
    raise SystemExit(code)


def ask_supervisor(
    state: Path | None, op: str, params: Params | None = None, progress: Callable[[Params], None] | None = None
) -> Json:
    """Ask the supervisor; where it refuses, end with 2 for wrong usage and 1 otherwise."""
    try:
        return ask(StateFolder.at(state).socket, op, params, progress)
    except ControlError as error:
        fail(str(error), 2 if error.kind == "usage" else 1)


def pairs_of(values: tuple[str, ...]) -> dict[str, Json]:
    """Read ``KEY=VALUE`` arguments; raises ``click.UsageError``."""
    pairs: dict[str, Json] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals:
            raise click.UsageError(f"{value} is not KEY=VALUE")
        pairs[key] = text
    return pairs
