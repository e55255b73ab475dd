"""Security agreement headers and the entries that announce media plane security (RFC 3329, TS 33.203 H, TS 24.229)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

MEDIASEC = "mediasec"
"""Parameter without value that marks an entry as one of the media plane (TS 24.229 7.2A.7)."""
MEDIA_MECHANISMS = ("sdes-srtp", "msrp-tls", "bfcp-tls", "udptl-dtls", "dtls-srtp")
"""Known media plane mechanisms; dtls-srtp is seen in live networks alone."""
SIGNALLING_MECHANISMS = ("digest", "tls", "ipsec-ike", "ipsec-man", "token", "ipsec-3gpp")
"""Names of signalling mechanisms, which a media entry may not borrow (RFC 3329 2.2, TS 24.229 7.2A.7)."""
MAX_LENGTH = 16_384
MAX_ENTRIES = 64

_TOKEN = re.compile(r"[0-9A-Za-z\-.!%*_+`'~]+")
_ENTRY_PARAM = re.compile(r';\s*([0-9A-Za-z\-.!%*_+`\'~]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]+))?\s*')
_Q = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


class SecurityHeaderError(ValueError):
    """A Security-Client, Security-Server or Security-Verify value is malformed (RFC 3329 2.2)."""


@dataclass(frozen=True, slots=True)
class MechanismEntry:
    """One mechanism with its parameters in order; values keep their quotes, None is a parameter without value."""

    name: str
    params: tuple[tuple[str, str | None], ...] = ()

    @property
    def is_media(self) -> bool:
        """True for an entry of the media plane (TS 24.229 7.2A.7)."""
        return self.has(MEDIASEC)

    @property
    def q(self) -> Decimal | None:
        """Preference 0 to 1, None when the entry gives none or, on media entries, a malformed one (RFC 3329 2.2)."""
        value = self.get("q")
        return Decimal(value) if value is not None and _Q.fullmatch(value) else None

    def has(self, name: str) -> bool:
        """Tell whether a parameter of that name, in any case, is present."""
        return any(present.lower() == name.lower() for present, _ in self.params)

    def get(self, name: str) -> str | None:
        """Return a parameter's value with quotes removed; None when absent or without value."""
        for present, value in self.params:
            if present.lower() == name.lower() and value is not None:
                return value[1:-1] if value.startswith('"') else value
        return None

    def comparable(self) -> tuple[str, frozenset[tuple[str, str]]]:
        """Return what equal entries share: names and tokens in lower case, parameters without order (assumed)."""
        pairs = ((name.lower(), "" if value is None else _folded(value)) for name, value in self.params)
        return self.name.lower(), frozenset(pairs)

    def __str__(self) -> str:
        return ";".join((self.name, *(name if value is None else f"{name}={value}" for name, value in self.params)))


def _folded(value: str) -> str:
    return value if value.startswith('"') else value.lower()


def parse_security_header(values: str | Sequence[str]) -> tuple[MechanismEntry, ...]:
    """Read one header value or all values of one header, in order.

    Comma lists and repeated headers mean the same (TS 24.229 5.1.1). Raises SecurityHeaderError for bad syntax, a
    repeated parameter, a q outside 0 to 1, or two signalling entries with the same q (RFC 3329 2.2, 2.3.1).
    """
    texts = [values] if isinstance(values, str) else list(values)
    if sum(map(len, texts)) > MAX_LENGTH:
        raise SecurityHeaderError("header longer than this side reads")
    entries: list[MechanismEntry] = []
    for text in texts:
        entries.extend(_parse_list(text))
        if len(entries) > MAX_ENTRIES:
            raise SecurityHeaderError("more entries than this side reads")
    preferences = [entry.q for entry in entries if not entry.is_media and entry.q is not None]
    if len(preferences) != len(set(preferences)):
        raise SecurityHeaderError("two mechanisms have the same preference")
    return tuple(entries)


def _parse_list(text: str) -> list[MechanismEntry]:
    entries = []
    place = 0
    text = text.strip()
    while True:
        entry, place = _parse_entry(text, place)
        entries.append(entry)
        if place == len(text):
            return entries
        if text[place] != ",":
            raise SecurityHeaderError("unexpected character behind a mechanism")
        place += 1


def _parse_entry(text: str, place: int) -> tuple[MechanismEntry, int]:
    while place < len(text) and text[place].isspace():
        place += 1
    name = _TOKEN.match(text, place)
    if name is None:
        raise SecurityHeaderError("mechanism name is missing")
    place = name.end()
    while place < len(text) and text[place].isspace():
        place += 1
    params: list[tuple[str, str | None]] = []
    while (param := _ENTRY_PARAM.match(text, place)) is not None:
        if any(present.lower() == param[1].lower() for present, _ in params):
            raise SecurityHeaderError("parameter is repeated")
        params.append((param[1], param[2]))
        place = param.end()
    entry = MechanismEntry(name[0], tuple(params))
    q = entry.get("q")
    if q is not None and not _Q.fullmatch(q) and not entry.is_media:
        raise SecurityHeaderError("preference is not 0 to 1 with three decimals")
    return entry, place


def format_entries(entries: Iterable[MechanismEntry]) -> str:
    """Return the entries as one header value."""
    return ", ".join(str(entry) for entry in entries)


def same_list(one: Sequence[MechanismEntry], other: Sequence[MechanismEntry]) -> bool:
    """Tell whether two lists are equal: same mechanisms in the same order with the same parameters (RFC 3329 2.3.1).

    White space, the order of parameters and the case of tokens do not count (assumed).
    """
    return [entry.comparable() for entry in one] == [entry.comparable() for entry in other]


def media_entries(entries: Iterable[MechanismEntry]) -> tuple[MechanismEntry, ...]:
    """Return the entries of the media plane in order."""
    return tuple(entry for entry in entries if entry.is_media)


def signalling_entries(entries: Iterable[MechanismEntry]) -> tuple[MechanismEntry, ...]:
    """Return the entries of the signalling plane in order."""
    return tuple(entry for entry in entries if not entry.is_media)


def media_mechanisms(entries: Iterable[MechanismEntry]) -> tuple[str, ...]:
    """Return the known media plane mechanisms announced, in lower case and order.

    Unknown ones are ignored, as are media entries that carry the name of a signalling mechanism (TS 24.229 7.2A.7).
    """
    names = (entry.name.lower() for entry in entries if entry.is_media)
    return tuple(dict.fromkeys(name for name in names if name in MEDIA_MECHANISMS))


def agreed_mechanisms(client: Iterable[MechanismEntry], server: Iterable[MechanismEntry]) -> tuple[str, ...]:
    """Return the media mechanisms both sides announced; each may be used per stream (TS 24.229, assumed)."""
    announced = media_mechanisms(client)
    return tuple(name for name in media_mechanisms(server) if name in announced)


def announce(mechanisms: Iterable[str]) -> tuple[MechanismEntry, ...]:
    """Make the entries that announce media plane mechanisms, e.g. ``sdes-srtp;mediasec``.

    Raises ValueError for the name of a signalling mechanism (TS 24.229 7.2A.7).
    """
    entries = []
    for name in mechanisms:
        if name.lower() in SIGNALLING_MECHANISMS:
            raise ValueError("a media mechanism cannot carry the name of a signalling mechanism")
        entries.append(MechanismEntry(name, ((MEDIASEC, None),)))
    return tuple(entries)


def choose_signalling(server: Iterable[MechanismEntry], supported: Sequence[MechanismEntry]) -> MechanismEntry | None:
    """Return the server's entry a client uses: the highest q among those it supports, the first of the list without q.

    An entry is supported when `supported` has one of the same name, ``alg`` and ``ealg``; an absent ealg means null
    (RFC 3329 2.3.1, TS 33.203 Annex H). None when nothing fits.
    """
    offered = {_transform(entry) for entry in supported}
    usable = [entry for entry in signalling_entries(server) if _transform(entry) in offered]
    return max(usable, key=lambda entry: entry.q if entry.q is not None else Decimal(0), default=None)


def _transform(entry: MechanismEntry) -> tuple[str, str, str]:
    return entry.name.lower(), (entry.get("alg") or "").lower(), (entry.get("ealg") or "null").lower()
