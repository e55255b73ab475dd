"""``imslab mikey``: what a MIKEY message says, and with keys whether it holds."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from lab.cli_base import echo_json, fail, json_of, json_option, octets_of
from lab.control import Json
from lab.exchange import MESSAGES
from lab.printable import printable

if TYPE_CHECKING:
    from keying.mikey.describe import Tree
    from keying.mikey.describe_keys import Known
    from keying.secret import Secret

MAX_INPUT = 200_000
"""Octets read of a file or of standard input: a message of 64 KiB in base64, and its lines."""
TICKET = "TICKET"
NAMES = (*MESSAGES, TICKET)
"""What ``--message`` chooses from."""
TICKET_BEGINS = b"\x00"
"""First octet of a TICKET payload, the high one of its type; a message begins with the version 1."""
_SDP = re.compile(r"^(?:a=)?key-mgmt:\s*mikey\s+|^mikey\s+")


@click.group()
def mikey() -> None:
    """MIKEY messages."""


@mikey.command("decode")
@click.argument("source", metavar="[BASE64|FILE|-]", default="-")
@click.option("--psk", metavar="HEX|@FILE", help="Pre-shared key of the sender and the KMS.")
@click.option("--tpk", metavar="HEX|@FILE", help="Ticket protection key: opens the ticket, gives MPKi and MPKr.")
@click.option("--mpki", metavar="HEX|@FILE", help="MPKi: protects TRANSFER_INIT.")
@click.option("--mpkr", metavar="HEX|@FILE", help="MPKr as the initiator has it: checks Vr and TRANSFER_RESP.")
@click.option("--forked-mpkr", metavar="HEX|@FILE", help="MPKr' as the responder has it.")
@click.option("--initial", metavar="BASE64|FILE", help="The message that this one answers.")
@click.option("--message", "name", type=click.Choice(NAMES), help="Which one of a JSON file (default: see above).")
@click.option("--show-keys", is_flag=True, help="Print the keys found in KEMACs. Dangerous outside a lab.")
@json_option
def mikey_decode(
    source: str,
    psk: str | None,
    tpk: str | None,
    mpki: str | None,
    mpkr: str | None,
    forked_mpkr: str | None,
    initial: str | None,
    name: str | None,
    show_keys: bool,
    as_json: bool,
) -> None:
    """Print what a MIKEY message or a TICKET payload says.

    It is base64, an SDP key-mgmt line, a file of either or of the octets, a JSON file of `ticket --json` or
    `call --exchange`, or - for stdin. Of a JSON file the ticket is decoded, or every message where it has no ticket, or
    the one of --message. With keys, MACs are checked and KEMACs opened. Ends with 1 when something cannot be read or a
    MAC does not hold.
    """
    from keying.mikey.describe_keys import Known

    found = _sources(source, name)
    known = Known(
        psk=_key("--psk", psk),
        tpk=_key("--tpk", tpk),
        mpki=_key("--mpki", mpki),
        mpkr=_key("--mpkr", mpkr),
        forked_mpkr=_key("--forked-mpkr", forked_mpkr),
        initial=_message(initial) if initial is not None else b"",
        show_keys=show_keys,
    )
    described = [_described(octets, replace(known, initial=known.initial or asked)) for octets, asked in found]
    if as_json:
        objects: list[Json] = [
            {"summary": printable(line), "sound": tree.sound, "message": tree.as_json()} for line, tree in described
        ]
        echo_json(objects[0] if len(objects) == 1 else objects)
    else:
        click.echo("\n\n".join(printable("\n".join([line, *tree.lines()])) for line, tree in described))
    raise SystemExit(0 if all(tree.sound for _, tree in described) else 1)


def _described(octets: bytes, known: Known) -> tuple[str, Tree]:
    """Return one line and the tree of a message or ticket."""
    from keying.mikey.describe import describe, summary
    from keying.mikey.describe_keys import describe_ticket, with_keys

    has_keys = any((known.psk, known.tpk, known.mpki, known.mpkr, known.forked_mpkr))
    if octets[:1] == TICKET_BEGINS:
        tree = describe_ticket(octets, known if has_keys else None)
        inside = [child.name for part in tree.children if part.name == "TP Data" for child in part.children]
        return f"TICKET: {', '.join(inside) or 'not readable'}", tree
    return summary(octets), describe(octets, with_keys(known) if has_keys else None)


@mikey.command("follow")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--show-keys", is_flag=True, help="Print every key that is derived. Dangerous outside a lab.")
@json_option
def mikey_follow(file: Path, show_keys: bool, as_json: bool) -> None:
    """Go through an exchange file from REQUEST_INIT to the media keys: each message, each MAC, each derivation.

    FILE is what `imslab call --with-keys --exchange FILE` wrote. Ends with 1 when a MAC does not hold.
    """
    from lab.mikey_follow import ExchangeError, follow, read_exchange

    text = octets_of(str(file), MAX_INPUT)
    try:
        steps = list(follow(read_exchange(json_of(text)), show_keys=show_keys))
    except ExchangeError as error:
        _wrong(f"{file}: {error}")
    except ValueError:
        _wrong(f"{file} is not JSON")
    if as_json:
        echo_json(
            [
                {"name": s.name, "way": s.way, "message": s.tree.as_json(), "derivations": [*s.derivations]}
                for s in steps
            ]
        )
    else:
        for number, step in enumerate(steps, 1):
            click.echo(printable("\n".join([f"{number}. {step.way}", *step.tree.lines()])))
            click.echo(printable("\n".join(["  derived", *(f"    {line}" for line in step.derivations), ""])))
    raise SystemExit(0 if all(step.tree.sound for step in steps) else 1)


def _sources(source: str, name: str | None) -> list[tuple[bytes, bytes]]:
    """Return what is to be decoded, each with the message it answers where that is at hand."""
    data, where = _read(source)
    if data.lstrip()[:1] == b"{":
        return _of_json(data, where, name)
    if name is not None:
        _wrong(f"--message chooses from a JSON file; {where} is none")
    return [(_octets(data, where), b"")]


def _of_json(data: bytes, where: str, name: str | None) -> list[tuple[bytes, bytes]]:
    try:
        content = json_of(data)
    except ValueError:
        _wrong(f"{where} begins like JSON and is none")
    assert isinstance(content, dict)  # it begins with a brace
    held = content.get("tickets", [content])
    several = [each for each in held if isinstance(each, dict)] if isinstance(held, list) else []
    if name is None:
        name = TICKET if any(_text(each, TICKET) for each in several) else None
    wanted = MESSAGES if name is None else (name,)
    found = [
        (_octets(text.encode(), f"{each} in {where}"), _answered(entry, each, where))
        for entry in several
        for each in wanted
        if (text := _text(entry, each))
    ]
    if not found:
        _wrong(f"{where} has no {name or 'MIKEY message'}")
    return found


def _answered(entry: dict[str, object], name: str, where: str) -> bytes:
    """Return the message of the same file that the message ``name`` answers, empty where there is none."""
    initial = name.replace("_RESP", "_INIT") if name.endswith("_RESP") else ""
    text = _text(entry, initial) if initial else ""
    return _octets(text.encode(), f"{initial} in {where}") if text else b""


def _text(entry: dict[str, object], name: str) -> str:
    value = entry.get("ticket" if name == TICKET else name)
    return value if isinstance(value, str) else ""


def _message(source: str) -> bytes:
    """Return the octets of a message given as base64, as a file, or on standard input."""
    return _octets(*_read(source))


def _read(source: str) -> tuple[bytes, str]:
    """Return what was given, as it is, and where it was found."""
    octets = octets_of(source, MAX_INPUT)
    if source == "-":
        return octets, "standard input"
    return octets, "the argument" if octets == source.encode() else source


def _octets(data: bytes, where: str) -> bytes:
    if data[:1] in (b"\x01", TICKET_BEGINS):  # the version of MIKEY; base64 begins with a letter
        return data
    text = _SDP.sub("", data.decode("latin-1").strip())
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        _wrong(f"{where} is neither a MIKEY message nor base64 nor a file")


def _key(option: str, value: str | None) -> Secret | None:
    from keying.secret import Secret

    if value is None:
        return None
    try:
        text = Path(value[1:]).read_text(encoding="ascii").strip() if value.startswith("@") else value
        octets = bytes.fromhex(text)
    except OSError as error:
        _wrong(f"{option}: {value[1:]} cannot be read: {error.strerror}")
    except ValueError:
        _wrong(f"{option} is not hexadecimal")  # the value is a key: it is not repeated
    if not octets:
        _wrong(f"{option} is empty")
    return Secret(octets)


def _wrong(reason: str) -> NoReturn:
    fail(reason, 2)
