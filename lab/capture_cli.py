"""``imslab capture``: a pcapng file, or a stream for Wireshark, of the running lab."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import click

from lab.cli_base import ask_supervisor, echo_json, fail, json_option, state_option, writable_file, writable_folder
from lab.control import ControlError, Conversation, Json, Params
from lab.printable import one_line
from lab.state import StateFolder

DEFAULT_FILE = Path("capture.pcapng")
DEFAULT_MEGABYTES = 256
"""Bound of a file, 10^6 octets."""
_STDOUT = "-"
_NEWS = {"returned": "{} came back and is captured again", "joined": "captured from now on: {}"}


@click.command()
@click.option("-o", "--output", metavar="FILE|-", help="pcapng file (default capture.pcapng), - for standard output.")
@click.option("--nodes", multiple=True, metavar="A,B", help="Only what these nodes see (default: all nodes).")
@click.option("--sip", is_flag=True, help="SIP, as it stood inside TLS, keys masked.")
@click.option("--sba", is_flag=True, help="gRPC between nodes; messages only with --with-keys.")
@click.option("--https", is_flag=True, help="HTTPS of UEs with KMS and BSF; bodies only with --with-keys.")
@click.option("--media", is_flag=True, help="RTP, SRTP and RTCP at the gateways.")
@click.option("--call", "call_id", default="", metavar="ID", help="One call: beginning of its Call-ID, or trace id.")
@click.option("--seconds", default=0.0, type=click.FloatRange(0, 86_400), help="Length, s (default: until Ctrl-C).")
@click.option("--megabytes", default=DEFAULT_MEGABYTES, type=click.IntRange(1, 100_000), help="Bound of the file.")
@click.option("--with-keys", is_flag=True, help="Open SBA and HTTPS, show media keys. Dangerous outside a lab.")
@click.option(
    "--decode-as",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for Wireshark's settings of this lab; without -o only that is written.",
)
@state_option
@json_option
def capture(
    output: str | None,
    nodes: tuple[str, ...],
    sip: bool,
    sba: bool,
    https: bool,
    media: bool,
    call_id: str,
    seconds: float,
    megabytes: int,
    with_keys: bool,
    decode_as: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Capture the running lab: signalling, SBA, key management and media of all nodes in one pcapng."""
    if as_json and output == _STDOUT:
        raise click.UsageError("--json and -o - both want standard output")
    if decode_as is not None:
        writable_folder(decode_as)
    if decode_as is not None and output is None:
        _write_settings(decode_as, ask_supervisor(state, "capture-ports"))
        _say_how(decode_as, None)
        return
    if output == _STDOUT and sys.stdout.isatty():
        raise click.UsageError("a capture is no text for a terminal; pipe it, or name a file with -o")
    chosen = {"sip": sip, "sba": sba, "https": https, "media": media}
    params: Params = {
        "nodes": [*" ".join(nodes).replace(",", " ").split()],
        "kinds": [name for name, wanted in chosen.items() if wanted],
        "call": call_id,
        "seconds": seconds,
        "most_octets": megabytes * 1_000_000,
        "with_keys": with_keys,
    }
    path = None if output == _STDOUT else Path(output or DEFAULT_FILE)
    if path is not None:
        writable_file(path)
    result = _run(StateFolder.at(state), params, path, decode_as)
    if as_json:
        echo_json(result)
    _conclude(result, path, with_keys=with_keys)
    if decode_as is not None:
        _say_how(decode_as, path)


def _run(folder: StateFolder, params: Params, path: Path | None, decode_as: Path | None) -> Json:
    try:
        conversation = Conversation(folder.socket, "capture", params)
    except ControlError as error:
        fail(str(error))
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(conversation.close)
            stack.enter_context(_ending(conversation))
            sink: BinaryIO | None = None
            for item in conversation.progress():
                octets = item.get("octets")
                if isinstance(octets, str):
                    if sink is None:
                        sink = sys.stdout.buffer if path is None else stack.enter_context(_private(path))
                    sink.write(base64.b64decode(octets))
                    sink.flush()
                else:
                    _begun(item, decode_as)
    except ControlError as error:
        fail(str(error), 2 if error.kind == "usage" else 1)
    except BrokenPipeError:  # Wireshark was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        fail(f"{path or 'standard output'} cannot be written: {error.strerror}")
    ports = conversation.result.get("ports") if isinstance(conversation.result, dict) else None
    if decode_as is not None:
        _write_settings(decode_as, ports)
    return conversation.result


@contextlib.contextmanager
def _ending(conversation: Conversation) -> Iterator[None]:
    """Let the first Ctrl-C ask for the end of the file; a second one ends at once."""

    def enough(number: int, frame: FrameType | None) -> None:
        del frame
        conversation.enough()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, enough) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _private(path: Path) -> BinaryIO:
    """Open a file that its owner alone may read; a pipe or device is written as it is.

    Raises ``PermissionError`` where the name leads to a file of another user.
    """
    if path.exists() and stat.S_ISREG(path.lstat().st_mode):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):  # by a link too, which may be somebody else's
        if status.st_uid != os.geteuid():
            os.close(descriptor)
            raise PermissionError(errno.EPERM, "it is a file of another user")
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
    return os.fdopen(descriptor, "wb")


def _begun(item: Params, decode_as: Path | None) -> None:
    nodes = item.get("nodes")
    for news, text in _NEWS.items():
        if isinstance(item.get(news), str):
            click.echo(one_line(text.format(item[news])), err=True)
            return
    absent = item.get("absent")
    for name, why in absent.items() if isinstance(absent, dict) else ():
        click.echo(one_line(f"not captured yet: {name}: {why}"), err=True)
    if isinstance(nodes, list):
        click.echo(f"capturing at {len(nodes)} nodes; Ctrl-C ends it", err=True)
    if decode_as is not None:
        _write_settings(decode_as, item.get("ports"))


def _write_settings(folder: Path, ports: Json) -> None:
    from lab.capture_decode_as import write_folder

    try:
        write_folder(folder, ports if isinstance(ports, dict) else {})
    except OSError as error:
        fail(f"the folder {folder} cannot be written: {error.strerror}", 2)


def _say_how(folder: Path, path: Path | None) -> None:
    from lab.capture_decode_as import command_line

    click.echo(command_line(folder, path), err=path is None)


def _conclude(result: Json, path: Path | None, *, with_keys: bool) -> None:
    if not isinstance(result, dict):
        return
    where = path or "standard output"
    click.echo(one_line(f"{result['packets']} packets in {where}; {result['ended']}"), err=True)
    for name, table in (("lost", result.get("lost")), ("fault", result.get("faults"))):
        for node, what in table.items() if isinstance(table, dict) else ():
            click.echo(one_line(f"{name} at {node}: {what}"), err=True)
    if with_keys:
        click.secho(f"WARNING: {where} holds keys of this lab", fg="red", bold=True, err=True)
