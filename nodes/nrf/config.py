"""Settings of the NRF."""

from __future__ import annotations

from pydantic import Field

from sba.nf import NodeSettings


class NrfSettings(NodeSettings):
    """What an operator can change at an NRF."""

    discovery_validity_s: int = Field(default=5, ge=1, le=3600)
    """How long a consumer may use a discovery answer, s."""
    missed_heartbeats: float = Field(default=3.0, ge=1.0)
    """An NF silent for this many heartbeat intervals is suspended and no longer discovered."""
    forget_after_s: float = Field(default=3600.0, gt=0)
    """A suspended NF is removed after this time, s."""
    key_rotation_s: float = Field(default=86400.0, gt=0)
    """Age at which the signing key is replaced, s."""
    key_overlap_s: float = Field(default=1800.0, ge=0)
    """How long the public part of a replaced key stays published, s; not shorter than a token lives."""
