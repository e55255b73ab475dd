"""The Homer server in the lab description."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lab.config_types import Entry
from lab.control import Json

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f]*$", max_length=4096)]


class HepSection(Entry):
    """Where P-CSCFs and CSCFs send every SIP message they see, keys masked (HEP3)."""

    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 9060
    transport: Literal["udp", "tcp"] = "udp"
    capture_id: Annotated[int, Field(ge=0, le=2**32 - 1)] = 2001
    """Capture agent id of all nodes; their names tell them apart."""
    password_file: AbsolutePath | None = None
    """File with the agents' password, as the nodes find it."""

    def settings(self) -> dict[str, Json]:
        """Return the ``hep`` setting of a node."""
        return {
            "host": self.host,
            "port": self.port,
            "transport": self.transport,
            "capture_id": self.capture_id,
            "password_file": self.password_file or "",
        }
