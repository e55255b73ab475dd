"""Reads a session description, strictly in grammar and order, and drops nothing (RFC 8866 5, 9)."""

from signalling.sdp.errors import SdpError
from signalling.sdp.model import MEDIA_ORDER, SESSION_ORDER, Line, MediaDescription, SessionDescription
from signalling.sdp.values import Attribute, Connection, Origin, is_token

MAX_OCTETS = 65_536
"""Longest description that is read."""
MAX_LINES = 4_000
MAX_MEDIA = 128

_REPEATABLE = frozenset("epcbtrza")
_TIME = frozenset("trz")


def parse_sdp(text: bytes | str) -> SessionDescription:
    """Read a description with CRLF or LF line ends.

    Every line is kept; the values of attributes are read when asked for, so a faulty ``a=crypto`` does not stop here.
    Raises SdpError, with the number of the line, for anything that is not a session description.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if len(text) > MAX_OCTETS:
        raise SdpError("description longer than this side reads")
    rows = text.replace("\r\n", "\n").split("\n")
    if rows and rows[-1] == "":
        rows.pop()
    if len(rows) > MAX_LINES:
        raise SdpError("more lines than this side reads")
    session: list[Line] = []
    media: list[list[Line]] = []
    for number, row in enumerate(rows, 1):
        line = _split(row, number)
        if line.kind == "m":
            _check_media_line(line.value, number)
            media.append([line])
            if len(media) > MAX_MEDIA:
                raise SdpError("more media descriptions than this side reads", number)
            continue
        section, order = (media[-1], MEDIA_ORDER) if media else (session, SESSION_ORDER)
        _check_place(line, section, order, number)
        _check_value(line, number)
        section.append(line)
    kinds = [line.kind for line in session]
    for needed, name in (("v", "version"), ("o", "origin"), ("s", "session name"), ("t", "time")):
        if needed not in kinds:
            raise SdpError(f"{name} line is missing")
    return SessionDescription(session, [MediaDescription(lines) for lines in media])


def _split(row: str, number: int) -> Line:
    if len(row) < 2 or row[1] != "=" or "\r" in row or "\0" in row:
        raise SdpError("not a type, an equals sign and a value", number)
    if row[0] not in SESSION_ORDER and row[0] != "m":
        raise SdpError("unknown line type", number)
    return Line(row[0], row[2:])


def _check_place(line: Line, section: list[Line], order: str, number: int) -> None:
    if line.kind not in order:
        raise SdpError("line type does not belong here", number)
    if not section:
        if line.kind != order[0]:
            raise SdpError("a description starts with its version", number)
        return
    last = section[-1].kind
    if line.kind == last:
        if line.kind not in _REPEATABLE:
            raise SdpError("line type may stand only once", number)
    elif order.index(line.kind) < order.index(last) and not (line.kind in _TIME and last in _TIME):
        raise SdpError("line type out of order", number)


def _check_value(line: Line, number: int) -> None:
    if line.kind == "v" and line.value != "0":
        raise SdpError("version is not 0", number)
    try:
        if line.kind == "o":
            Origin.parse(line.value)
        elif line.kind == "c":
            Connection.parse(line.value)
        elif line.kind == "a":
            Attribute.parse(line.value)
    except SdpError as error:
        raise SdpError(str(error), number) from None


def _check_media_line(value: str, number: int) -> None:
    fields = value.split(" ")
    if len(fields) < 4 or not all(fields) or not is_token(fields[0]):
        raise SdpError("media line does not have its four fields", number)
    port, slash, count = fields[1].partition("/")
    if not _is_number(port, 65535) or (slash and (not _is_number(count, 65535) or int(count) == 0)):
        raise SdpError("media port is not a number from 0 to 65535", number)
    if not all(is_token(part) for part in fields[2].split("/")):
        raise SdpError("transport profile is not made of tokens", number)


def _is_number(text: str, top: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= top
