"""``imslab ticket`` and ``imslab kms``: tickets by hand, and what a key management service says of its own."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import click

from lab.cli_base import ask_supervisor, echo_json, fail, json_of, json_option, octets_of, pairs_of, state_option
from lab.control import ControlError, Json, Params, ask
from lab.printable import one_line
from lab.show_tickets import dicts, show_audit, show_resolution, show_ticket
from lab.state import StateFolder

MAX_TICKET_FILE = 1 << 20
"""Largest file a ticket is read from, octets."""


explain_option = click.option("--explain", is_flag=True, help="Say what each flag of the ticket means.")


@click.group()
def ticket() -> None:
    """MIKEY tickets of a software UE (RFC 6043, TS 33.328 6.2.3)."""


@ticket.command("request")
@click.argument("user")
@click.argument("responders", nargs=-1, metavar="[RESPONDER...]")
@click.option("--group", "groups", multiple=True, metavar="URI", help="A group beside or instead of single users.")
@click.option("--reusable", is_flag=True, help="For several calls.")
@click.option("--no-forking", is_flag=True, help="The same keys for whoever answers.")
@click.option("--validity", default=0, type=click.IntRange(0, 2**31 - 1), help="Seconds; 0 for the UE's own policy.")
@click.option("--mode-3", is_flag=True, help="The UE makes the ticket itself, without asking the KMS.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Switch of the UE (nodes/ue/config.py).")
@explain_option
@state_option
@json_option
def ticket_request(
    user: str,
    responders: tuple[str, ...],
    groups: tuple[str, ...],
    reusable: bool,
    no_forking: bool,
    validity: int,
    mode_3: bool,
    options: tuple[str, ...],
    explain: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Have the UE of USER ask its KMS for a ticket to RESPONDER (users or URIs); the UE keeps it."""
    if not responders and not groups:
        raise click.UsageError("name at least one RESPONDER or --group URI")
    params: Params = {
        "user": user,
        "responders": [*responders, *groups],
        "reusable": reusable,
        "no_forking": no_forking,
        "validity_s": validity,
        "mode_3": mode_3,
        "options": pairs_of(options),
    }
    answer = _ask(state, "ticket-request", params, as_json)
    if as_json:
        echo_json(answer)
    else:
        show_ticket(answer, explain=explain)


@ticket.command("show")
@click.argument("user")
@explain_option
@state_option
@json_option
def ticket_show(user: str, explain: bool, state: Path | None, as_json: bool) -> None:
    """Show the tickets that the UE of USER holds."""
    answer = ask_supervisor(state, "ticket-list", {"user": user})
    assert isinstance(answer, dict)
    if as_json:
        echo_json(answer)
        return
    tickets = dicts(answer.get("tickets"))
    if not tickets:
        click.echo(f"{user} holds no ticket")
    for number, each in enumerate(tickets):
        if number:
            click.echo()
        show_ticket(each, explain=explain)


@ticket.command("resolve")
@click.argument("user")
@click.argument("source", metavar="TICKET|FILE|-")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Switch of the UE (nodes/ue/config.py).")
@state_option
@json_option
def ticket_resolve(user: str, source: str, options: tuple[str, ...], state: Path | None, as_json: bool) -> None:
    """Have the UE of USER ask its KMS what TICKET holds for it.

    TICKET is base64; FILE holds base64, the octets themselves, what `ticket request --json` printed or an --exchange
    file of a call. The ticket may stand in a TRANSFER_INIT; with key forking it has to, which proves who sent it.
    """
    params: Params = {"user": user, "ticket": read_ticket(source), "options": pairs_of(options)}
    answer = _ask(state, "ticket-resolve", params, as_json)
    if as_json:
        echo_json(answer)
    else:
        show_resolution(answer)


def _ask(state: Path | None, op: str, params: Params, as_json: bool) -> Params:
    """Ask the supervisor; a refusal is told with its trace and where to read on, and is a JSON object too."""
    try:
        answer = ask(StateFolder.at(state).socket, op, params)
    except ControlError as error:
        details = error.details
        if as_json and details:
            echo_json(details)
        elif details and error.kind != "usage":
            user = params["user"]
            error = ControlError(
                f"{error}\nwhat the KMS wrote down: imslab kms audit --user {user}"
                f"\nwhat was asked of whom: imslab flow {details['trace_id']}",
                error.kind,
            )
        fail(str(error), 2 if error.kind == "usage" else 1)
    assert isinstance(answer, dict)
    return answer


@click.group()
def kms() -> None:
    """Key management services of the lab."""


_kms_option = click.option("--kms", "name", metavar="NAME", help="One KMS (default: every KMS of the lab).")


@kms.command("audit")
@_kms_option
@click.option("--user", default="", help="Only what this user (or URI) asked.")
@click.option("-n", "--limit", default=20, type=click.IntRange(1, 10_000), help="The newest N records.")
@state_option
@json_option
def kms_audit(name: str | None, user: str, limit: int, state: Path | None, as_json: bool) -> None:
    """Show which tickets were issued, resolved and refused; newest first, no keys."""
    answer = ask_supervisor(state, "kms-audit", {"kms": name, "user": user, "limit": limit})
    assert isinstance(answer, dict)
    if as_json:
        echo_json(answer)
    else:
        show_audit(dicts(answer.get("entries")))
    _end_with(answer.get("failed"))


@kms.command("rotate")
@_kms_option
@state_option
@json_option
def kms_rotate(name: str | None, state: Path | None, as_json: bool) -> None:
    """Seal tickets with a new key from now on; tickets under the old one are opened until they end."""
    answer = ask_supervisor(state, "kms-rotate", {"kms": name})
    assert isinstance(answer, dict)
    rotated = answer["tpk_id"]
    if as_json:
        echo_json(answer)
    else:
        for instance, key_id in rotated.items() if isinstance(rotated, dict) else ():
            click.echo(one_line(f"{instance} seals tickets with key {key_id}"))
    _end_with(answer.get("failed"))


def _end_with(failed: Json) -> None:
    """Tell which KMS gave no answer, and end with 1 when there was one; the others have done what was asked."""
    if isinstance(failed, dict) and failed:
        fail("; ".join(map(str, failed.values())))


def read_ticket(source: str) -> str:
    """Return a ticket in base64 from the argument itself, a file, or ``-``; ends with 2 where there is none."""
    octets = octets_of(source, MAX_TICKET_FILE)
    text = octets.decode("ascii", "replace").strip()
    if text.startswith("{"):
        try:
            content = json_of(text)
        except ValueError:
            content = None
        held = content.get("TRANSFER_INIT", content.get("ticket")) if isinstance(content, dict) else None
        if not isinstance(held, str):
            fail(f"{source} is JSON without a ticket", 2)
        text = held
    text = "".join(text.split())
    try:
        whole = bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        if octets == source.encode():
            fail(f"{source} is neither a file nor a ticket in base64", 2)
        return base64.b64encode(octets).decode("ascii")
    if not whole:
        fail("there is no ticket in it", 2)
    return text
