"""What of the media security that packages bring is enabled: nothing that is not named here is used in a lab."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated

from pydantic import Field, StringConstraints

from lab.config_problems import Fault
from lab.config_types import Entry, Name

ModeName = Annotated[str, StringConstraints(pattern=r"^e2e-[a-z][a-z0-9-]{1,20}$")]
SuiteName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{3,60}$")]


class EnabledMode(Entry):
    """A security mode of a package, and who has it."""

    name: ModeName
    users: list[Name] = Field(default_factory=list)
    """Users whose software UE has the mode, and its key where it needs one; empty: all."""


class ExtensionsSection(Entry):
    """Security modes and crypto suites of packages that this lab knows."""

    security_modes: Annotated[list[EnabledMode], Field(max_length=20)] = Field(default_factory=list)
    crypto_suites: Annotated[list[SuiteName], Field(max_length=20)] = Field(default_factory=list)
    """Known to every node, carried by gateways, accepted from UEs by P-CSCFs; offered and taken by a UE only where the
    user's ``suites`` name them, offered by a P-CSCF only where those of the access network do."""

    def modes_of(self, user: str) -> list[str]:
        """Return the modes that a user has."""
        return [mode.name for mode in self.security_modes if not mode.users or user in mode.users]


def extension_faults(section: ExtensionsSection, users: Collection[str]) -> Iterator[Fault]:
    """Yield what does not fit together; ``users`` are the names of all users."""
    seen: set[str] = set()
    for index, mode in enumerate(section.security_modes):
        if mode.name in seen:
            yield ("extensions", "security_modes", index, "name"), f"{mode.name} is listed twice", "each mode once"
        seen.add(mode.name)
        for place, user in enumerate(mode.users):
            if user not in users:
                where = ("extensions", "security_modes", index, "users", place)
                yield where, f"{user} is no user", f"one of {', '.join(sorted(users)) or 'none yet'}"
    for index, suite in enumerate(section.crypto_suites):
        if suite in section.crypto_suites[:index]:
            yield ("extensions", "crypto_suites", index), f"{suite} is listed twice", "each suite once"
