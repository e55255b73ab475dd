"""Settings of call-screening."""

from nodes.application_server import ApplicationServerSettings
from pydantic import Field


class CallScreeningSettings(ApplicationServerSettings):
    """What may stand under `settings` in the lab description."""

    refused_callers: tuple[str, ...] = Field(default=(), description="Whose calls are refused: an identity or *@domain")
    barred_targets: tuple[str, ...] = Field(default=(), description="Whom nobody may call: an identity or *@domain")
