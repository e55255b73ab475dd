"""The media relay of a gateway: forwards between two sides, changes the protection, counts what it drops.

`Relay` is the interface; `PythonRelay` runs the loop inside the caller's event loop, `RelayProcess` in a process of
its own.
"""

from media.relay.interface import (
    Address,
    BadStreamConfigError,
    DropCause,
    DuplicateStreamError,
    InactivityDirection,
    KeyExpired,
    KeyReusedError,
    KeySet,
    Latched,
    Latching,
    LocalAddress,
    MasterKey,
    MediaInactive,
    Mode,
    PortsExhaustedError,
    Protection,
    Relay,
    RelayError,
    RelayEvent,
    RelayStatistics,
    RelayUnavailableError,
    Side,
    SideConfig,
    SideStatistics,
    SrtpFailures,
    StreamConfig,
    TappedPacket,
    UnknownStreamError,
)
from media.relay.process import RelayProcess
from media.relay.python_relay import PythonRelay
from media.relay.refuge import Refuge

__all__ = [
    "Address",
    "BadStreamConfigError",
    "DropCause",
    "DuplicateStreamError",
    "InactivityDirection",
    "KeyExpired",
    "KeyReusedError",
    "KeySet",
    "Latched",
    "Latching",
    "LocalAddress",
    "MasterKey",
    "MediaInactive",
    "Mode",
    "PortsExhaustedError",
    "Protection",
    "PythonRelay",
    "Refuge",
    "Relay",
    "RelayError",
    "RelayEvent",
    "RelayProcess",
    "RelayStatistics",
    "RelayUnavailableError",
    "Side",
    "SideConfig",
    "SideStatistics",
    "SrtpFailures",
    "StreamConfig",
    "TappedPacket",
    "UnknownStreamError",
]
