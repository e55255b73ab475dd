"""The media plane: RTP, RTCP, SRTP, G.711, DTMF, the software UE's media end and the access gateway's relay.

Engines here are sans-IO: octets and a clock in, octets and events out. Only `media.session`'s endpoint and
`media.relay` touch sockets. Sources: RFC 3550, 3551, 3711, 4733, 5761, 6188, 7714, 7983; TS 33.328 Annex C.

The names in ``__all__`` are the stable interface for packages of others (docs/api.md); everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from media.rtp import RtpPacket
    from media.srtp import SrtpContext
    from media.srtp_errors import AuthenticationFailure, SrtpError
    from media.srtp_keys import MasterKey, MasterKeySet
    from media.srtp_transform import SrtpSuite, Transform, derive_session_key
    from media.wav import WavError, build_wav, parse_wav

__all__ = [
    "AuthenticationFailure",
    "MasterKey",
    "MasterKeySet",
    "RtpPacket",
    "SrtpContext",
    "SrtpError",
    "SrtpSuite",
    "Transform",
    "WavError",
    "build_wav",
    "derive_session_key",
    "parse_wav",
]

_HOMES = {
    "AuthenticationFailure": "media.srtp_errors",
    "MasterKey": "media.srtp_keys",
    "MasterKeySet": "media.srtp_keys",
    "RtpPacket": "media.rtp",
    "SrtpContext": "media.srtp",
    "SrtpError": "media.srtp_errors",
    "SrtpSuite": "media.srtp_transform",
    "Transform": "media.srtp_transform",
    "WavError": "media.wav",
    "build_wav": "media.wav",
    "derive_session_key": "media.srtp_transform",
    "parse_wav": "media.wav",
}
"""Where each public name is defined; it is loaded when it is asked for, so that a node loads what it uses."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        value = globals()[name] = getattr(import_module(home), name)
        return value
