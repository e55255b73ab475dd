"""Service profiles of the lab description: which application servers see whose requests (TS 29.228 Annex B)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator

from lab.config_problems import Fault
from lab.config_types import Entry, Name

if TYPE_CHECKING:
    from lab.config import LabConfig

MOST_PATTERN = 200
"""Characters of a pattern at most; it is tried on headers of every request it concerns."""
Method = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,20}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,60}$")]
Server = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9-]{0,30}|sips?:[^\s<>]{1,200})$")]


class TriggerPoint(Entry):
    """What a request has to be; what is not said matches anything."""

    method: Method | None = None
    session_case: Literal["orig", "term", "orig-unreg", "term-unreg"] | None = None
    """Whose leg: of the caller (orig) or the called (term) user, registered or not."""
    header: HeaderName | None = None
    """A header that must be there, with a value that ``header_pattern`` (a regular expression) fits."""
    header_pattern: Annotated[str, StringConstraints(max_length=MOST_PATTERN)] | None = None

    @field_validator("header_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
        return value


class FilterCriterion(Entry):
    """An initial filter criterion: requests that meet one of the triggers go by way of the application server."""

    server: Server
    """Name of an extra node, or the SIP URI of a server that the lab does not start."""
    priority: Annotated[int, Field(ge=0, le=65535)] = 0
    """The lowest comes first."""
    triggers: list[TriggerPoint] = Field(default_factory=list)
    """Empty: every request."""
    default_handling: Literal["continue", "refuse"] = "continue"
    """When the server fails or is silent: go on without it, or refuse the request."""


class ServiceProfile(Entry):
    """A named set of filter criteria, which users may share."""

    name: Name
    filter_criteria: Annotated[list[FilterCriterion], Field(min_length=1, max_length=20)]


def criteria_of(config: LabConfig, profile: str | None) -> Sequence[FilterCriterion]:
    """Return the filter criteria of the service profile called ``profile``; none without one."""
    return next((item.filter_criteria for item in config.service_profiles if item.name == profile), ())


def server_uri(config: LabConfig, server: str) -> str:
    """Return the SIP URI of an application server: a node goes by its name, for which the S-CSCF asks the NRF."""
    return server if ":" in server else f"sip:{server}.{config.home_domains[0].name}"


def service_faults(
    profiles: Sequence[ServiceProfile], users: Sequence[tuple[int, str | None]], nodes: Collection[str]
) -> Iterator[Fault]:
    """Yield what does not fit together: ``users`` are index and service profile, ``nodes`` names of extra nodes."""
    known: set[str] = set()
    for index, profile in enumerate(profiles):
        if profile.name in known:
            yield ("service_profiles", index, "name"), f"{profile.name} is listed twice", "each service profile once"
        known.add(profile.name)
        for place, criterion in enumerate(profile.filter_criteria):
            if ":" not in criterion.server and criterion.server not in nodes:
                where = ("service_profiles", index, "filter_criteria", place, "server")
                listed = ", ".join(sorted(nodes)) or "nothing yet"
                yield where, f"{criterion.server} is no extra node", f"a SIP URI, or a name in extra_nodes ({listed})"
    for index, named in users:
        if named is not None and named not in known:
            listed = ", ".join(sorted(known)) or "none yet"
            yield (
                ("users", index, "service_profile"),
                f"{named} is no service profile",
                f"a name in service_profiles ({listed})",
            )


def salvaged(items: object) -> list[ServiceProfile]:
    """Make what can be made of faulty profiles, so that other faults are found in the same run."""
    made = []
    for item in items if isinstance(items, list) else []:
        try:
            made.append(ServiceProfile.model_validate(item))
        except ValidationError:
            name = item.get("name") if isinstance(item, dict) else None
            made.append(ServiceProfile.model_construct(name=str(name), filter_criteria=[]))
    return made
