"""``imslab console``: the link to the page of a running lab."""

from __future__ import annotations

from html import escape
from pathlib import Path

import click

from lab.cli_base import ask_supervisor, echo_json, fail, json_option, state_option
from lab.control import ControlError, Json, ask
from lab.state import StateFolder


@click.command()
@click.option("--open", "in_browser", is_flag=True, help="Open the page in a browser of this machine.")
@click.option("--new-token", is_flag=True, help="Change the token first: links and pages of before are worth nothing.")
@state_option
@json_option
def console(in_browser: bool, new_token: bool, state: Path | None, as_json: bool) -> None:
    """Print the link to the page of the running lab. Whoever has the link has the lab."""
    answer = ask_supervisor(state, "console", {"new_token": new_token})
    assert isinstance(answer, dict)
    if as_json:
        echo_json(answer)
    else:
        click.echo(answer["link"])
    if in_browser and not _opened(str(answer["link"]), StateFolder.at(state)):
        fail("no browser could be opened here; open the link above")


def _opened(link: str, folder: StateFolder) -> bool:
    """Open ``link`` by way of a file that leads there: arguments of a process are seen by everybody on the machine."""
    import webbrowser

    from sba.pki import write_private

    page = folder.root / "console.html"
    write_private(page, f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(link)}">\n'.encode())
    return webbrowser.open(page.as_uri())


def link_of(folder: StateFolder) -> dict[str, Json]:
    """Return ``url``, ``link`` and perhaps ``moved`` of the console of the lab in ``folder``; empty without one."""
    try:
        answer = ask(folder.socket, "console")
    except ControlError:
        return {}
    return answer if isinstance(answer, dict) else {}
