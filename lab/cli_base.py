"""What the commands of ``imslab`` share: options, exit status, the question to the supervisor."""

from __future__ import annotations

import errno
import json
import sys
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
config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Lab description (default: config/lab.yaml here, else that of imslab).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def echo_json(value: Json) -> None:
    """Print ``value`` as one JSON text."""
    click.echo(json.dumps(value, indent=2))


def fail(message: str, code: int = 1) -> NoReturn:
    """Print ``message`` to standard error and end with ``code``."""
    click.echo(f"imslab: {printable(message)}", err=True)
    raise SystemExit(code)


def no_lab(folder: StateFolder) -> str:
    """Say that no lab was ever started in ``folder``; the command that finds it so ends with 1."""
    return f"no lab was started in {folder.root}; start one with: imslab up"


def _reason(error: OSError) -> str:
    return "Not a directory" if isinstance(error, FileExistsError) else error.strerror or str(error)


def writable_folder(path: Path) -> None:
    """Make the folder ``path`` unless it is there; ends with 2 where nothing can be written into it."""
    import tempfile

    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        fail(f"the folder {path} cannot be written: {_reason(error)}", 2)


def writable_file(path: Path) -> None:
    """Make the folder of the file ``path`` unless it is there; ends with 2 where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = path.exists()
        with path.open("ab"):
            pass
        if not known:
            path.unlink()
    except OSError as error:
        fail(f"{path} cannot be written: {_reason(error)}", 2)


def octets_of(source: str, most: int) -> bytes:
    """Return what ``-`` (standard input), a file or, where no file has that name, the argument itself holds.

    Ends with 2 for a file that cannot be read, and for more than ``most`` octets.
    """
    try:
        if source == "-":
            octets = sys.stdin.buffer.read(most + 1)
        else:
            with Path(source).open("rb") as file:
                octets = file.read(most + 1)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):  # a long base64 text is no file name
            fail(f"{source} cannot be read: {error.strerror}", 2)
        octets = source.encode()
    if len(octets) > most:
        fail(f"{'standard input' if source == '-' else source} is longer than {most} octets", 2)
    return octets


def json_of(text: bytes | str) -> object:
    """Return what JSON says. Raises ValueError, for one that is nested too deep as well."""
    try:
        content: object = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return content


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
