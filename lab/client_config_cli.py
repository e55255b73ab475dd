"""``imslab client-config``: files with which a foreign client is a user of the lab."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.cli_base import fail, state_option, writable_folder
from lab.client_config import CA_FILE, CLIENTS, TONE_FILE, Account, Card, ClientConfigError, ClientFiles
from lab.state import StateFolder

if TYPE_CHECKING:
    from lab.labfile import LabFile, UserRow

TONE_S = 20
"""Length of the tone that baresip plays, s."""
TONE_HERTZ = 440


@click.command("client-config")
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.argument("name", metavar="USER")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder (default: CLIENT-USER).")
@click.option("--callee", default="", metavar="USER|URI", help="Whom the client is shown how to call.")
@click.option("--address", default="127.0.0.1", help="Address of the client itself.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lab description, for sipp as a user with a card (usim).",
)
@click.option("--mediasec", is_flag=True, help="Have sipp agree on media security (announce_on_clear_gm).")
@state_option
def client_config(
    client: str,
    name: str,
    out: Path | None,
    callee: str,
    address: str,
    config: Path | None,
    mediasec: bool,
    state: Path | None,
) -> None:
    """Write a working configuration with which CLIENT is USER; the password goes into a file of mode 0600 only."""
    from lab.labfile import LabFile, LabFileError

    folder = StateFolder.at(state)
    try:
        lab = LabFile.read(folder.lab_json)
    except LabFileError as error:
        fail(str(error))
    row = lab.users.get(name)
    if row is None:
        fail(f"no user is called {name}; there are {', '.join(lab.users)}", 2)
    if row.software_ue:
        fail(
            f"{name} is played by a UE of this lab; to play it yourself write `software_ue: false` into its entry "
            "of the lab description (with `profile: digest`, or `aka-udp` and a `usim:`) and bring the lab up with it",
            2,
        )
    target = (out or Path(f"{client}-{name}")).absolute()
    try:
        account = _account(folder, row, target, address, _callee(lab, row, callee))
        account = replace(account, mediasec=mediasec)
        if config is not None:
            account = replace(account, card=_card(config, name))
        made = CLIENTS[client](account)
    except ClientConfigError as error:
        fail(str(error), 2)
    with contextlib.suppress(OSError):  # said in the next line, as everywhere
        target.mkdir(parents=True, mode=0o700, exist_ok=True)
    writable_folder(target)
    try:
        _write(target, made, folder.pki / "ca.crt")
    except OSError as error:
        fail(f"the folder {target} cannot be written: {error.strerror}", 2)
    _tell(target, made)


def _plays_tone(made: ClientFiles) -> bool:
    return any(TONE_FILE in text for text in (*made.files.values(), *made.notes))


def _callee(lab: LabFile, row: UserRow, wanted: str) -> str:
    if wanted:
        known = lab.users.get(wanted)
        return known.impu if known is not None else wanted
    others = [user for user in lab.users.values() if user.software_ue]
    return next((user.impu for user in others if user.access != row.access), others[0].impu if others else row.impu)


def _account(folder: StateFolder, row: UserRow, target: Path, address: str, callee: str) -> Account:
    from lab.subscribers import load

    own = load(folder).get(row.name)
    return Account(
        user=row.name,
        impu=row.impu,
        impi=row.impi,
        domain=row.domain,
        profile=row.profile,
        pcscf=row.pcscf_host,
        pcscf_port=row.pcscf_port,
        pcscf_tls_port=row.pcscf_tls_port,
        callee=callee,
        address=address,
        folder=str(target),
        password=own.password if own is not None else None,
    )


def _card(config: Path, name: str) -> Card | None:
    """The card of a user in the lab description, which alone has OP."""
    from keying.secret import Secret
    from lab.config import load
    from lab.config_problems import ConfigError

    try:
        usim = load(config).user(name).usim
    except ConfigError as error:
        raise ClientConfigError(f"the lab description has faults\n{error}") from None
    except KeyError:
        raise ClientConfigError(f"{config} has no user called {name}") from None
    if usim is None or usim.op is None:
        return None
    return Card(Secret(bytes.fromhex(usim.k)), Secret(bytes.fromhex(usim.op)), bytes.fromhex(usim.amf))


def _write(target: Path, made: ClientFiles, ca: Path) -> None:
    for name, text in made.files.items():
        place = target / name
        place.unlink(missing_ok=True)
        mode = 0o600 if name in made.secret else 0o644
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
    shutil.copyfile(ca, target / CA_FILE)
    if _plays_tone(made) and not (target / TONE_FILE).exists():
        from media.tone import tone
        from media.wav import write_wav

        write_wav(target / TONE_FILE, tone((TONE_HERTZ,), TONE_S))


def _tell(target: Path, made: ClientFiles) -> None:
    for name in (*made.files, CA_FILE, *([TONE_FILE] if _plays_tone(made) else [])):
        click.echo(f"{target / name}{'  (secret, 0600)' if name in made.secret else ''}", err=True)
    for command in made.commands:
        click.echo(command)
    for note in made.notes:
        click.echo(f"  {note}", err=True)
