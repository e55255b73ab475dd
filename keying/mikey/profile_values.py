"""Values of the MIKEY profile out of settings: what JSON and YAML can write becomes what :class:`Profile` holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from enum import IntEnum
from types import MappingProxyType

from keying.mikey.kdf import SUITES
from keying.mikey.profile import DEFAULT_PROFILE, Profile

PROFILE_NAMES = frozenset(field.name for field in fields(Profile))
"""Names a description may use."""
_TRANSFERRED = (16, 255)
"""Octets of a RAND: what RFC 3830 6.11 recommends at least, and what its length field holds."""
_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "request_rand_octets",
                "transfer_rand_octets",
                "resolve_rand_octets",
                "kms_rand_octets",
                "ticket_rand_octets",
            ),
            _TRANSFERRED,
        ),
        "rand_min_octets": (0, 255),
        "spi_octets": (1, 255),
        "tpk_id_octets": (1, 255),
        "max_responders": (1, 255),
        "clock_skew_s": (0, 86_400),
        "replay_cache_size": (1, 10_000_000),
        "replay_cache_senders": (1, 10_000_000),
        "prot_type_tls": (0, 255),
        "prot_type_mime": (0, 255),
        "genext_proof_of_origin": (0, 255),
    }
)
"""Least and greatest of the numbers."""
_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"suite": tuple(SUITES), "suites_accepted": tuple(SUITES), "http_body_encoding": ("base64", "binary")}
)
"""The texts there are, where only some will do."""
_KIND_LIMITS = (0xFFFF, 0xFF, 0xFF)


class ProfileError(Exception):
    """A name that Profile does not have, or a value that does not fit; ``right`` says what would."""

    def __init__(self, name: str, found: str, right: str) -> None:
        super().__init__(f"{name}: {found}; right would be: {right}")
        self.name = name
        self.found = found
        self.right = right


def read_profile(values: Mapping[str, object], base: Profile = DEFAULT_PROFILE) -> Profile:
    """Return ``base`` with other values: numbers, text, true or false, and lists for those that hold several.

    A ticket kind is a list of type, subtype and version; types of timestamps and identities are numbers or names of
    ``keying.mikey.registry``. Raises :class:`ProfileError` for the first value that does not fit.
    """
    found = {name: read_value(name, value) for name, value in values.items()}
    made = replace(base, **found)  # type: ignore[arg-type] # each was read after the type of its default
    if made.suite not in made.suites_accepted:
        raise ProfileError(
            "suite", f"{made.suite} is not among suites_accepted", f"one of {_listed(made.suites_accepted)}"
        )
    if made.ticket_kind_issued not in made.ticket_kinds_accepted & made.base_format_kinds:
        right = "a kind that stands in ticket_kinds_accepted and base_format_kinds"
        raise ProfileError("ticket_kind_issued", f"{list(made.ticket_kind_issued)} is not accepted", right)
    return made


def read_value(name: str, value: object) -> object:
    """Return one value as the profile holds it. Raises :class:`ProfileError`."""
    if name not in PROFILE_NAMES:
        raise ProfileError(name, "is no value of the MIKEY profile", f"one of {_listed(PROFILE_NAMES)}")
    default = getattr(DEFAULT_PROFILE, name)
    if isinstance(default, frozenset):
        if not isinstance(value, (list, tuple)) or not value:
            raise ProfileError(name, _shown(value), f"a list of one or more, each {_right(name, _sample(name))}")
        return frozenset(_single(name, item, _sample(name)) for item in value)
    return _single(name, value, default)


def _sample(name: str) -> object:
    """One value of the kind that a set of the profile holds."""
    return next(iter(getattr(DEFAULT_PROFILE, name)))


def _single(name: str, value: object, sample: object) -> object:
    made = _read(name, value, sample)
    if made is None:
        raise ProfileError(name, _shown(value), _right(name, sample))
    return made


def _read(name: str, value: object, sample: object) -> object:
    """Return the value as the profile holds it, None where it does not fit."""
    if isinstance(sample, IntEnum):
        return _number_or_name(value, type(sample))
    if isinstance(sample, tuple):
        return _kind(value)
    if type(value) is not type(sample) and not (isinstance(sample, float) and type(value) is int):
        return None
    if isinstance(value, str):  # a line break would begin another field of an HTTP header
        return value if value and value.isprintable() and value in _WORDS.get(name, (value,)) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least, most = _RANGES[name]
        if not least <= value <= most:
            return None
        return float(value) if isinstance(sample, float) else value
    return value


def _kind(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, (list, tuple)) or len(value) != len(_KIND_LIMITS):
        return None
    fits = all(type(part) is int and 0 <= part <= most for part, most in zip(value, _KIND_LIMITS, strict=True))
    return tuple(value) if fits else None


def _number_or_name(value: object, kind: type[IntEnum]) -> IntEnum | None:
    for member in kind:
        if (type(value) is int and value == member) or value == member.name:
            return member
    return None


def _right(name: str, sample: object) -> str:
    if isinstance(sample, bool):
        return "true or false"
    if isinstance(sample, IntEnum):
        return "one of " + ", ".join(f"{member.name} ({member.value})" for member in type(sample))
    if isinstance(sample, tuple):
        return "a ticket kind: [type, subtype, version], such as [2, 1, 1]"
    if isinstance(sample, str):
        return f"one of {_listed(_WORDS[name])}, in quotes" if name in _WORDS else "text, in quotes"
    least, most = _RANGES[name]
    kind = "a number" if isinstance(sample, float) else "a whole number"
    return f"{kind} from {least:g} to {most:.0f}"


def _shown(value: object) -> str:
    return f"{value!r} does not fit"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
