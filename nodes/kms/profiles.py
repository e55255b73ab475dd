"""The MIKEY profile out of settings: scalar values of Profile by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from keying.mikey.profile import DEFAULT_PROFILE, Profile


class ProfileError(Exception):
    """A name that Profile does not have, or a value of another type than its default."""


def read_profile(values: Mapping[str, str | int | float | bool], base: Profile = DEFAULT_PROFILE) -> Profile:
    """Return `base` with other values. Raises :class:`ProfileError`."""
    known = {field.name for field in fields(base)}
    found: dict[str, str | int | float | bool] = {}
    for name, value in values.items():
        if name not in known:
            raise ProfileError(f"{name} is no value of the profile")
        default = getattr(base, name)
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # noqa: PLW2901 - 300 stands for 300.0
        if type(value) is not type(default):
            raise ProfileError(f"{name} is a {type(default).__name__}")
        found[name] = value
    return replace(base, **found)  # type: ignore[arg-type] # checked against the type of each default
