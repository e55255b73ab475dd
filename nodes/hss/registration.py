"""The registration flag and the serving S-CSCF of a subscriber (TS 29.228 6.1, TS 29.562; SC-4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Flag(Enum):
    """Registration state of an implicit registration set."""

    NOT_REGISTERED = "not-registered"
    AUTHENTICATION_PENDING = "authentication-pending"
    REGISTERED = "registered"
    UNREGISTERED_SERVICES = "unregistered-services"


@dataclass(frozen=True)
class Assignment:
    """The flag of a subscriber and the SIP URI of the S-CSCF that serves it ("" when none)."""

    flag: Flag = Flag.NOT_REGISTERED
    server_name: str = ""

    def to_record(self) -> dict[str, str]:
        """The form kept in the store."""
        return {"flag": self.flag.value, "server_name": self.server_name}

    @classmethod
    def from_record(cls, record: dict[str, object]) -> Assignment:
        """Read what ``to_record`` wrote."""
        return cls(Flag(record["flag"]), str(record["server_name"]))


class ServedElsewhereError(Exception):
    """The subscriber is registered through another S-CSCF; only that one may clear the flag."""


def assign(current: Assignment, wanted: Flag, server_name: str) -> Assignment:
    """Work out the next assignment.

    A pending authentication leaves a registered subscriber as it is (SC-4, E-1). Deregistration and a failed first
    authentication clear the S-CSCF name. Raises ``ServedElsewhereError`` when another S-CSCF than the one assigned
    asks to clear.
    """
    if wanted is Flag.AUTHENTICATION_PENDING:
        if current.flag is Flag.REGISTERED:
            return current
        return Assignment(wanted, server_name)
    if wanted is Flag.NOT_REGISTERED:
        if current.server_name and current.server_name != server_name:
            raise ServedElsewhereError
        return Assignment()
    return Assignment(wanted, server_name)
