"""The command ``imslab``. Exit status: 0 done, 1 refused or failed, 2 wrong usage or faulty description.

Nothing heavy is imported before a command needs it: the work is done in the supervisor.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import click

from keying.modes import BUILT_IN
from lab.capture_cli import capture
from lab.cli_base import (
    ask_supervisor,
    config_option,
    echo_json,
    fail,
    json_option,
    no_lab,
    pairs_of,
    state_option,
    writable_file,
    writable_folder,
)
from lab.cli_parts import pki, ue, user
from lab.client_config_cli import client_config
from lab.compose_cli import compose_file
from lab.console_cli import console, link_of
from lab.control import ControlError, Json, Params, ask
from lab.database_cli import database
from lab.mikey_cli import mikey
from lab.newnf_cli import new_nf
from lab.printable import one_line, printable
from lab.scale_cli import scale
from lab.state import StateFolder
from lab.ticket_cli import kms, ticket

FLOW_FORMATS = ("text", "json", "mermaid", "html")
"""Values of ``flow --format``."""
_LOG_POLL_S = 0.2
_OK = 200


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="imslab", prog_name="imslab")
def imslab() -> None:
    """A testbed for IMS media plane security (3GPP TS 33.328)."""


@imslab.command()
@config_option
@click.option(
    "--with",
    "packages",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of a package that brings nodes or media security; repeat for more. Kept until another --with.",
)
@click.option("--without-packages", is_flag=True, help="Leave out the packages of an earlier --with.")
@click.option("--no-console", is_flag=True, help="Start the lab without its page (imslab console).")
@state_option
@json_option
def up(
    config: Path | None,
    packages: tuple[Path, ...],
    without_packages: bool,
    no_console: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Start the lab: every node a process of its own. Returns when all serve."""
    from lab.config_problems import ConfigError
    from lab.launch import LaunchError, StateFolderError, default_config, runs_another, runs_other_packages
    from lab.launch import up as start
    from lab.show import StartProgress, node_table
    from sba.errors import SbaError
    from sba.packages import PackageError

    if packages and without_packages:
        raise click.UsageError("--with names packages, --without-packages leaves all out; give one of them")
    named = packages if packages or without_packages else None
    folder = StateFolder.at(state)
    progress = StartProgress(quiet=as_json)
    try:
        with progress:
            started = start(config or default_config(), folder, progress.note, named, console=not no_console)
        others = started.already and named is not None and runs_other_packages(named, folder)
        other = started.already and config is not None and runs_another(config, folder)
    except PackageError as error:
        fail(str(error), 2)
    except ConfigError as error:
        count = len(error.problems)
        fail(f"the lab description has {count} fault{'' if count == 1 else 's'}\n{error}", 2)
    except StateFolderError as error:
        fail(str(error), 2)
    except (LaunchError, SbaError, OSError, RuntimeError) as error:
        if as_json and isinstance(error, LaunchError):
            facts = {"error": error.reason, "node": error.node, "log_line": error.log_line, "log": error.log}
            echo_json({**facts, "others": list(error.others)})
        fail(f"the lab did not come up\n{error}")
    if others:
        fail(f"a lab with other packages runs in {folder.root}; end it first with: imslab down", 2)
    if other:
        fail(f"a lab of another description than {config} runs in {folder.root}; end it first with: imslab down", 2)
    page = link_of(folder)
    if page.get("moved"):
        click.echo(page["moved"], err=True)
    if as_json:
        rows: list[Json] = [*started.rows]
        seconds, url = round(started.seconds, 3), page.get("url", "")
        echo_json({"state": str(folder.root), "start_s": seconds, "nodes": rows, "console": url})
        return
    node_table(started.rows)
    word = "already up" if started.already else f"up in {started.seconds:.1f} s"
    click.echo(f"{word}; state folder {folder.root}")
    if page:
        click.echo(f"console {page['link']}")


@imslab.command()
@state_option
@json_option
def status(state: Path | None, as_json: bool) -> None:
    """Show every node: state, process, address, restarts; and which packet loop each gateway runs."""
    answer = ask_supervisor(state, "status")
    if as_json:
        echo_json(answer)
        return
    from lab.launch import rows_of
    from lab.show import node_table

    node_table(rows_of(answer))
    loops = answer.get("packet_loops") if isinstance(answer, dict) else None
    for gateway, loop in loops.items() if isinstance(loops, dict) else ():
        click.echo(one_line(f"{gateway}: packet loop {loop}"))


def _in_containers(folder: StateFolder) -> bool:
    from lab.labfile import LabFile, LabFileError

    try:
        return LabFile.read(folder.lab_json).containers
    except LabFileError:
        return False


@imslab.command()
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is written.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last N lines (default: all).")
@state_option
def logs(node: str, follow: bool, lines: int | None, state: Path | None) -> None:
    """Print the log of NODE (or of the supervisor)."""
    folder = StateFolder.at(state)
    path = folder.log_of(Path(node).name)
    if not path.parent.exists():
        fail(no_lab(folder))
    if not path.exists():
        if _in_containers(folder):
            fail(f"the container engine has the logs of this lab: docker compose logs {node}", 2)
        known = sorted(item.stem for item in path.parent.glob("*.log")) if path.parent.exists() else []
        fail(f"there is no log of {node}" + (f"; there are {', '.join(known)}" if known else ""), 2)
    with path.open(encoding="utf-8", errors="replace") as stream:
        text = stream.readlines()
        sys.stdout.writelines(map(printable, text if lines is None else text[max(0, len(text) - lines) :]))
        try:
            while follow:
                chunk = stream.read()
                if chunk:
                    sys.stdout.write(printable(chunk))
                    sys.stdout.flush()
                else:
                    time.sleep(_LOG_POLL_S)
        except KeyboardInterrupt:
            pass


@imslab.command()
@state_option
@json_option
def down(state: Path | None, as_json: bool) -> None:
    """End the lab: every node drains, de-registers and stops."""
    from lab.launch import down as end

    try:
        ran = end(StateFolder.at(state))
    except ControlError as error:
        fail(str(error))
    if as_json:
        echo_json({"stopped": ran})
    else:
        click.echo("down" if ran else "no lab runs here")


@imslab.command()
@click.argument("kind")
@click.option("--instance", required=True, help="Name of the node in the resolved lab.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Resolved lab (lab.json).")
@state_option
def node(kind: str, instance: str, config: Path | None, state: Path | None) -> None:
    """Run one node in the foreground; containers use this."""
    from sba.errors import ConfigurationError
    from sba.run import run

    try:
        code = run(kind, instance, config or StateFolder.at(state).lab_json)
    except ConfigurationError as error:
        fail(str(error), 2)
    raise SystemExit(code)


@imslab.command()
@click.argument("user")
@click.option("--media-security", default="", help="Announce this instead of the configured mechanisms (or none).")
@click.option("--expires", default=0, type=click.IntRange(0, 2**31 - 1), help="Seconds; 0 for the UE's own choice.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Switch of the UE (nodes/ue/config.py).")
@state_option
@json_option
def register(
    user: str, media_security: str, expires: int, options: tuple[str, ...], state: Path | None, as_json: bool
) -> None:
    """Register USER with IMS AKA and agree media security with the P-CSCF."""
    _check_mechanisms(media_security)
    params: Params = {"user": user, "media_security": media_security, "expires": expires, "options": pairs_of(options)}
    _show_registration(ask_supervisor(state, "register", params), as_json, wanted=True)


@imslab.command()
@click.argument("user")
@state_option
@json_option
def deregister(user: str, state: Path | None, as_json: bool) -> None:
    """Take USER's registration away."""
    _show_registration(ask_supervisor(state, "deregister", {"user": user}), as_json, wanted=False)


def _show_registration(answer: Json, as_json: bool, *, wanted: bool) -> None:
    assert isinstance(answer, dict)
    if as_json:
        echo_json(answer)
    elif answer["registered"]:
        mechanisms = answer.get("media_mechanisms")
        agreed = ", ".join(map(str, mechanisms)) if isinstance(mechanisms, list) and mechanisms else "none"
        said = f"{answer['user']} is registered for {answer.get('expires', '?')} s; media security agreed: {agreed}"
        click.echo(one_line(said))
    elif not wanted:
        refused = answer["sip_status"] not in (0, _OK)
        why = f": SIP {answer['sip_status']} {answer['reason']}" if refused else ""
        click.echo(one_line(f"{answer['user']} is no longer registered{why}"))
    else:
        said = f"{answer['user']} is not registered: SIP {answer['sip_status']} {answer['reason']}"
        click.echo(one_line(said.rstrip(": ")))
    if not as_json:
        click.echo(one_line(f"trace {answer['trace_id']}"))
    raise SystemExit(0 if answer["registered"] is wanted else 1)


@imslab.command()
@click.argument("caller", metavar="FROM")
@click.argument("callee", metavar="TO")
@click.option(
    "--security",
    metavar="MODE",
    help=f"{' | '.join(BUILT_IN)}, or a mode of a package that the lab enables. Default: what FROM prefers.",
)
@click.option("--seconds", default=5.0, type=click.FloatRange(0.1, 3600), help="Talk time, s.")
@click.option("--play", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="WAV that FROM plays.")
@click.option("--record", type=click.Path(file_okay=False, path_type=Path), help="Folder for what each end heard.")
@click.option("--pcap", type=click.Path(dir_okay=False, path_type=Path), help="Signalling and media as pcapng.")
@click.option("--exchange", type=click.Path(dir_okay=False, path_type=Path), help="MIKEY messages and keys as JSON.")
@click.option("--with-keys", is_flag=True, help="Put keys into the files of this call. Dangerous outside a lab.")
@click.option("--suite", "suites", multiple=True, help="Crypto suite to offer; repeat for an order.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Switch of the UE (nodes/ue/config.py).")
@state_option
@json_option
def call(
    caller: str,
    callee: str,
    security: str | None,
    seconds: float,
    play: Path | None,
    record: Path | None,
    pcap: Path | None,
    exchange: Path | None,
    with_keys: bool,
    suites: tuple[str, ...],
    options: tuple[str, ...],
    state: Path | None,
    as_json: bool,
) -> None:
    """Call TO from FROM (users or URIs); registers both ends when needed, plays audio and prints the verdict."""
    from lab.show import CallProgress, verdict_table

    if with_keys and pcap is None and exchange is None:
        raise click.UsageError("--with-keys says what goes into a --pcap or --exchange file; name one")
    if exchange is not None and not with_keys:
        raise click.UsageError("an --exchange file holds keys; say so with --with-keys")
    if exchange is not None and security != "e2e-kms":
        raise click.UsageError("an --exchange file is of a call with --security e2e-kms")
    _check_security(security, suites, StateFolder.at(state))
    named = pairs_of(options)
    if record is not None:
        writable_folder(record)
    if pcap is not None:
        writable_file(pcap)
    if exchange is not None:
        writable_file(exchange)
    params: Params = {
        "from": caller,
        "to": callee,
        "security": security or "",
        "seconds": seconds,
        "play": _absolute(play),
        "record": _absolute(record),
        "pcap": _absolute(pcap),
        "exchange": _absolute(exchange),
        "with_keys": with_keys,
        "suites": list(suites),
        "options": named,
    }
    progress = CallProgress(seconds, quiet=as_json)
    try:
        with progress:
            verdict = ask(StateFolder.at(state).socket, "call", params, progress.note)
    except ControlError as error:
        if as_json and error.kind != "usage":
            echo_json(_no_call(str(error)))
        fail(str(error), 2 if error.kind == "usage" else 1)
    except KeyboardInterrupt:
        if as_json:
            echo_json(_no_call("interrupted"))
        fail("interrupted; the call was ended")
    assert isinstance(verdict, dict)
    if as_json:
        echo_json(verdict)
    else:
        verdict_table(verdict)
    if with_keys:
        files = [str(file) for file in (pcap, verdict.get("exchange")) if file]
        if files:
            verb = "holds" if len(files) == 1 else "hold"
            click.secho(f"WARNING: {' and '.join(files)} {verb} keys of this call", fg="red", bold=True, err=True)
    raise SystemExit(0 if verdict["result"] == "established" else 1)


def _check_mechanisms(text: str) -> None:
    names = text.replace(",", " ").split()
    if not names or names == ["none"]:
        return
    from signalling.secagree import MEDIA_MECHANISMS

    for name in names:
        if name not in MEDIA_MECHANISMS:
            known = ", ".join(("none", *MEDIA_MECHANISMS))
            raise click.BadParameter(f"{name!r} is no mechanism; there are {known}", param_hint="--media-security")


def _check_security(mode: str | None, suites: tuple[str, ...], folder: StateFolder) -> None:
    """Hold mode and suites against what is built in and what the lab enables of packages."""
    if mode is None and not suites:
        return
    from lab.security_modes import modes_of_lab, suites_of_lab

    modes = modes_of_lab(folder.lab_json)
    if mode is not None and mode not in modes:
        raise click.BadParameter(f"{mode!r} is not one of {', '.join(modes)}", param_hint="--security")
    known = suites_of_lab(folder.lab_json)
    for name in suites:
        if name not in known:
            raise click.BadParameter(f"{name!r} is no suite; there are {', '.join(known)}", param_hint="--suite")


def _absolute(path: Path | None) -> str:
    return str(path.absolute()) if path is not None else ""


def _no_call(reason: str) -> Json:
    return {
        "call_id": "",
        "trace_id": "",
        "result": "failed",
        "sip_status": 0,
        "setup_ms": 0.0,
        "security": "",
        "legs": [],
        "audio": {},
        "reason": reason,
    }


@imslab.command()
@click.argument("call_id", required=False)
@click.option("--format", "form", type=click.Choice(FLOW_FORMATS), default="text")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File instead of the screen.")
@click.option("--messages", is_flag=True, help="With text: print every SIP message (keys are never in it).")
@click.option("--without", multiple=True, metavar="NAMES", help="Leave out nodes or interfaces, e.g. nrf,hss,Zn.")
@state_option
def flow(
    call_id: str | None, form: str, output: Path | None, messages: bool, without: tuple[str, ...], state: Path | None
) -> None:
    """Draw the flow of CALL_ID: a call or registration, the beginning of its Call-ID or its trace id; else the last."""
    from lab.flow import FlowError, draw

    folder = StateFolder.at(state)
    if folder.socket.exists():
        with contextlib.suppress(ControlError):  # a lab that is down still has its trace store
            ask(folder.socket, "settle")
    try:
        left_out = ",".join(without).replace(",", " ").split()
        text = draw(folder, call_id, form, messages=messages, width=_width(output), without=left_out)
    except FlowError as error:
        fail(str(error), 1 if error.no_lab else 2)
    if output is None:
        click.echo(text)
    else:
        writable_file(output)
        output.write_text(text, "utf-8")
        click.echo(f"{output} written", err=True)


def _width(output: Path | None) -> int:
    import shutil

    return 200 if output is not None or not sys.stdout.isatty() else shutil.get_terminal_size().columns


@imslab.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out"), help="Folder of the report."
)
@config_option
@click.option("--keep", is_flag=True, help="Leave the lab up.")
@state_option
def demo(out: Path, config: Path | None, keep: bool, state: Path | None) -> None:
    """Start a lab, place seven calls, say why each went as it did, write report.html, end the lab."""
    from lab.demo import run_demo

    writable_folder(out)
    raise SystemExit(run_demo(out, config, state, keep=keep))


for part in (compose_file, console, capture, client_config, pki, user, ue, ticket, kms, mikey, new_nf, database, scale):
    imslab.add_command(part)


def main() -> None:
    """Run the command line."""
    try:
        imslab(prog_name="imslab")
    except BrokenPipeError:
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
