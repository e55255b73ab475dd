"""``imslab pki``, ``imslab user`` and ``imslab ue``: certificates, identities, software UEs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from lab.cli_base import ask_supervisor, echo_json, fail, json_option, no_lab, pairs_of, state_option
from lab.control import Params
from lab.state import StateFolder

_T = TypeVar("_T")


@click.group()
def pki() -> None:
    """Certificates of the lab."""


@pki.command("show")
@click.argument("name", metavar="[NODE]", required=False)
@state_option
@json_option
def pki_show(name: str | None, state: Path | None, as_json: bool) -> None:
    """Show the certificates of the lab, or of one node."""
    from lab.certificates import describe
    from lab.show import certificate_table

    rows = _certificates(state, lambda folder: describe(folder, name))
    if as_json:
        echo_json({"certificates": list(rows)})
    else:
        certificate_table(rows)


@pki.command("reissue")
@click.argument("name", metavar="NODE")
@state_option
def pki_reissue(name: str, state: Path | None) -> None:
    """Issue a new certificate and key to NODE; the running node takes them for its next connections."""
    from lab.certificates import reissue

    click.echo(_certificates(state, lambda folder: reissue(folder, name)))


@pki.command("revoke")
@click.argument("name", metavar="NODE")
@state_option
def pki_revoke(name: str, state: Path | None) -> None:
    """Put NODE's certificate on the revocation list; its peers refuse it from then on."""
    from lab.certificates import revoke

    click.echo(_certificates(state, lambda folder: revoke(folder, name)))


def _certificates(state: Path | None, act: Callable[[StateFolder], _T]) -> _T:
    from sba.errors import SbaError

    folder = StateFolder.at(state)
    if not folder.pki.exists():
        fail(no_lab(folder))
    try:
        return act(folder)
    except SbaError as error:
        fail(str(error), 2)


@click.command()
@click.argument("name")
@click.option("--show-password", is_flag=True, help="Print the digest password of a foreign client's user.")
@state_option
@json_option
def user(name: str, show_password: bool, state: Path | None, as_json: bool) -> None:
    """Show the identities of user NAME and where its client finds P-CSCF, KMS and BSF."""
    from lab.labfile import LabFile, LabFileError
    from lab.show import user_facts

    folder = StateFolder.at(state)
    try:
        lab = LabFile.read(folder.lab_json)
        row = lab.users[name]
    except LabFileError as error:
        fail(str(error))
    except KeyError:
        fail(f"no user is called {name}; there are {', '.join(lab.users) or 'none'}", 2)
    facts = user_facts(row, lab.nodes)
    if show_password:
        from lab.subscribers import load

        password = load(folder)[name].password
        if password is None:
            fail(f"{name} uses IMS AKA and has no password", 2)
        facts["password"] = password.reveal().decode()
    if as_json:
        echo_json(facts)
    else:
        for key, value in facts.items():
            click.echo(f"{key:12} {value}")


@click.group()
def ue() -> None:
    """A software UE in a call or at rest."""


@ue.command("status")
@click.argument("name", metavar="USER")
@state_option
def ue_status(name: str, state: Path | None) -> None:
    """Print what USER's UE says of itself, as JSON."""
    echo_json(ask_supervisor(state, "ue", {"user": name}))


@ue.command("behave")
@click.argument("name", metavar="USER")
@click.argument("options", nargs=-1, metavar="KEY=VALUE...")
@state_option
def ue_behave(name: str, options: tuple[str, ...], state: Path | None) -> None:
    """Set how USER's UE treats incoming calls; prints what stands."""
    echo_json(ask_supervisor(state, "behave", {"user": name, "options": pairs_of(options)}))


@ue.command("modify")
@click.argument("name", metavar="USER")
@click.argument("call_id")
@click.argument("action")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE")
@state_option
def ue_modify(name: str, call_id: str, action: str, options: tuple[str, ...], state: Path | None) -> None:
    """Change a call of USER: hold, resume, move-port, rekey, add-stream, drop-stream, cancel, vanish."""
    params: Params = {"user": name, "call_id": call_id, "action": action, "options": pairs_of(options)}
    echo_json(ask_supervisor(state, "modify", params))


@ue.command("hang-up")
@click.argument("name", metavar="USER")
@click.argument("call_id")
@state_option
def ue_hang_up(name: str, call_id: str, state: Path | None) -> None:
    """End a call from USER's side."""
    echo_json(ask_supervisor(state, "hang-up", {"user": name, "call_id": call_id}))
