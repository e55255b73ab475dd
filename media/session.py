"""The media end of a user agent: the sans-IO :class:`RtpSession` and its Twisted shell :class:`RtpEndpoint`."""

from media.endpoint import MediaReactor, PortsExhausted, RtpEndpoint
from media.rtp_session import RtpSession
from media.session_events import (
    Address,
    ByeReceived,
    Direction,
    DtmfReceived,
    MediaStarted,
    Outgoing,
    PacketRefused,
    RekeyNeeded,
    RtpStatistics,
    SessionEvent,
    SessionSettings,
)
from media.source import AudioSource, from_wav, spoken_by

__all__ = [
    "Address",
    "AudioSource",
    "ByeReceived",
    "Direction",
    "DtmfReceived",
    "MediaReactor",
    "MediaStarted",
    "Outgoing",
    "PacketRefused",
    "PortsExhausted",
    "RekeyNeeded",
    "RtpEndpoint",
    "RtpSession",
    "RtpStatistics",
    "SessionEvent",
    "SessionSettings",
    "from_wav",
    "spoken_by",
]
