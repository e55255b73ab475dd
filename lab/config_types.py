"""Words the lab description is made of: names, domains, identities, and the base of every entry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

MediaSecurityPolicy = Literal["off", "preferred", "required"]
"""``off``: never protect; ``preferred``: protect what was announced; ``required``: refuse the unprotected (488)."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Domain = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$")]
Impi = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+@[a-z0-9.-]+$")]
Tel = Annotated[str, StringConstraints(pattern=r"^\+[0-9]{3,15}$")]
CollectorAddress = Annotated[
    str, StringConstraints(pattern=r"^(https://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[1-9][0-9]{0,4}$")
]
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")]


class Entry(BaseModel):
    """An entry of the lab description: nothing but what is written here, and of the right kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
