"""Session descriptions: ordered lines with typed access, nothing dropped (RFC 8866, RFC 3264)."""

from signalling.sdp.errors import SdpAttributeError, SdpError, SdpShapeError
from signalling.sdp.keymgmt import KeyManagement
from signalling.sdp.model import DIRECTIONS, Line, MediaDescription, SessionDescription
from signalling.sdp.parser import parse_sdp
from signalling.sdp.shape import check_answer_shape, check_successor
from signalling.sdp.values import Attribute, Candidate, Connection, Fingerprint, Fmtp, Origin, RtcpAddress, RtpMap

__all__ = [
    "DIRECTIONS",
    "Attribute",
    "Candidate",
    "Connection",
    "Fingerprint",
    "Fmtp",
    "KeyManagement",
    "Line",
    "MediaDescription",
    "Origin",
    "RtcpAddress",
    "RtpMap",
    "SdpAttributeError",
    "SdpError",
    "SdpShapeError",
    "SessionDescription",
    "check_answer_shape",
    "check_successor",
    "parse_sdp",
]
