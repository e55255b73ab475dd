"""Settings of the HSS."""

from pydantic import Field

from sba.nf import NodeSettings


class HssSettings(NodeSettings):
    """What an HSS instance is told when it starts."""

    provisioning_file: str = Field(
        description="Path of the subscriber file, sealed for this NF instance (nodes/hss/provision.py)"
    )
    sqn_block: int = Field(
        default=32,
        ge=1,
        le=1 << 16,
        description="Sequence numbers reserved on disk at a time, in SEQ steps; a crash skips at most this many",
    )
    max_vectors: int = Field(default=5, ge=1, le=5, description="Most AKA vectors handed out in one answer")
