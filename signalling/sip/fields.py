"""The ordered header fields of a message, kept as they came (RFC 3261 7.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from signalling.sip.grammar import GrammarError, has_line_break, split_outside

_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

AUTHENTICATION_HEADERS = frozenset(
    {"www-authenticate", "authorization", "proxy-authenticate", "proxy-authorization", "authentication-info"}
)
_SINGLE_VALUE = AUTHENTICATION_HEADERS | {
    "call-id",
    "content-disposition",
    "content-length",
    "content-type",
    "cseq",
    "date",
    "event",
    "expires",
    "from",
    "identity",
    "max-forwards",
    "mime-version",
    "min-expires",
    "organization",
    "p-charging-vector",
    "rack",
    "refer-to",
    "referred-by",
    "replaces",
    "retry-after",
    "rseq",
    "server",
    "session-expires",
    "session-id",
    "subject",
    "subscription-state",
    "timestamp",
    "to",
    "traceparent",
    "tracestate",
    "user-agent",
}
"""Never split at commas: single values, texts that may hold a comma, and authentication (RFC 3261 7.3.1)."""

_KNOWN: dict[str, str] = {}
_MOST_KNOWN = 512


def canonical_name(name: str) -> str:
    """Return the lower-case long form of a header name."""
    key = _KNOWN.get(name)
    if key is None:
        key = name.lower()
        key = _COMPACT.get(key, key)
        if len(_KNOWN) < _MOST_KNOWN:
            _KNOWN[name] = key
    return key


@dataclass(slots=True)
class HeaderField:
    """One header line: canonical name, name as spelled, unfolded value, and the line as received if it was one line."""

    key: str
    name: str
    value: str
    line: str | None = None

    def text(self) -> str:
        """Return the line to write, without CRLF."""
        return self.line if self.line is not None else f"{self.name}: {self.value}"


def _written(key: str, name: str, value: str) -> HeaderField:
    """Make a line of this node's own; what would be more than one line is no value (RFC 3261 25.1)."""
    if has_line_break(value):
        raise GrammarError(f"a line break in {name}")
    return HeaderField(key, name, value)


class Headers:
    """Ordered header fields; names compare without case and with their compact forms.

    A field nobody changed is written back octet for octet (folded lines are unfolded). Whatever writes a value raises
    GrammarError for one with a line break.
    """

    __slots__ = ("_fields",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = [_written(canonical_name(name), name, value) for name, value in items]

    @classmethod
    def of_fields(cls, fields: list[HeaderField]) -> Headers:
        """Wrap parsed fields without copying them."""
        headers = cls.__new__(cls)
        headers._fields = fields
        return headers

    def __iter__(self) -> Iterator[HeaderField]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._comparable() == other._comparable()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Headers {[one.name for one in self._fields]}>"

    def _comparable(self) -> list[tuple[str, str]]:
        return [(one.key, one.value) for one in self._fields]

    def items(self) -> list[tuple[str, str]]:
        """Return (name as spelled, value) pairs in order."""
        return [(one.name, one.value) for one in self._fields]

    def get(self, name: str) -> str | None:
        """Return the first line's value, None when there is none."""
        key = canonical_name(name)
        for one in self._fields:
            if one.key == key:
                return one.value
        return None

    def get_all(self, name: str) -> list[str]:
        """Return the value of every line of that name, unsplit."""
        key = canonical_name(name)
        return [one.value for one in self._fields if one.key == key]

    def values(self, name: str) -> list[str]:
        """Return the values of a list header over all its lines, split at commas; authentication is never split."""
        key = canonical_name(name)
        lines = [one.value for one in self._fields if one.key == key]
        if key in _SINGLE_VALUE:
            return lines
        return [value for line in lines for value in split_outside(line, ",") if value]

    def first_value(self, name: str) -> str | None:
        """Return the topmost value of a list header."""
        line = self.get(name)
        if line is None or "," not in line:
            return line
        return split_outside(line, ",")[0]

    def set(self, name: str, value: str) -> None:
        """Replace all lines of that name by one, at the place of the first; append when there was none."""
        key = canonical_name(name)
        for index, one in enumerate(self._fields):
            if one.key == key:
                rest = [other for other in self._fields[index + 1 :] if other.key != key]
                self._fields[index:] = [_written(key, one.name, value), *rest]
                return
        self._fields.append(_written(key, name, value))

    def set_values(self, name: str, values: Iterable[str]) -> None:
        """Replace all lines of that name by one line per value, at the place of the first."""
        key = canonical_name(name)
        at = next((index for index, one in enumerate(self._fields) if one.key == key), len(self._fields))
        new = [_written(key, name, value) for value in values]
        kept = [one for one in self._fields[at:] if one.key != key]
        self._fields[at:] = new + kept

    def add(self, name: str, value: str) -> None:
        """Append a line, after the last line of that name if there is one."""
        key = canonical_name(name)
        for index in range(len(self._fields) - 1, -1, -1):
            if self._fields[index].key == key:
                self._fields.insert(index + 1, _written(key, name, value))
                return
        self._fields.append(_written(key, name, value))

    def prepend(self, name: str, value: str) -> None:
        """Put a line above the first line of that name, or on top of all."""
        key = canonical_name(name)
        at = next((index for index, one in enumerate(self._fields) if one.key == key), 0)
        self._fields.insert(at, _written(key, name, value))

    def remove(self, name: str) -> None:
        """Remove all lines of that name."""
        key = canonical_name(name)
        self._fields = [one for one in self._fields if one.key != key]

    def remove_first_value(self, name: str) -> str | None:
        """Take the topmost value out of a list header and return it; its line goes when it was alone."""
        key = canonical_name(name)
        for index, one in enumerate(self._fields):
            if one.key != key:
                continue
            first, *rest = split_outside(one.value, ",")
            if rest:
                self._fields[index] = _written(key, one.name, ", ".join(rest))
            else:
                del self._fields[index]
            return first
        return None

    def replace_first_value(self, name: str, value: str) -> None:
        """Rewrite the topmost value of a list header; it is added when there was none."""
        key = canonical_name(name)
        for index, one in enumerate(self._fields):
            if one.key == key:
                rest = split_outside(one.value, ",")[1:]
                self._fields[index] = _written(key, one.name, ", ".join([value, *rest]))
                return
        self._fields.append(_written(key, name, value))

    def copy(self) -> Headers:
        """Return an independent copy (fields are never changed in place, so they are shared)."""
        return Headers.of_fields(self._fields.copy())
