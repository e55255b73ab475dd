"""Whether a stream that passes the IMS-ALG unchanged is protected at all, or only says so (7.2.1-6, 7.2.2, T1)."""

from __future__ import annotations

from typing import Final

from keying.mikey.sealed import SEALED_TYPES
from keying.sdes import evaluate_offer
from nodes.pcscf.config import MediaPolicy
from nodes.pcscf.media_plan import DTLS_PROFILES, SECURE_TO_PLAIN, AlgPolicy
from signalling.sdp import KeyManagement, MediaDescription, SdpError, SessionDescription
from signalling.sdp.keymgmt import MIKEY

DTLS_TRANSPORTS: Final = DTLS_PROFILES | {"UDP/TLS/UDPTL", "UDP/DTLS/SCTP"}
"""Profiles whose keys come from a DTLS handshake, which a fingerprint in SDP authenticates (RFC 5763 5)."""


def unprotected(sdp: SessionDescription, media: MediaDescription, policy: AlgPolicy) -> str:
    """Why this m-line of an offer or answer protects nothing; empty when it does.

    A protected profile always needs keys or a fingerprint. Where policy requires protection every line needs a profile
    that protects, and among its SDES lines one that does so fully.
    """
    profile = media.proto.upper()
    required = policy.effective is MediaPolicy.REQUIRED
    if profile in SECURE_TO_PLAIN:
        if has_fingerprint(sdp, media) or sdp.key_mgmt_of(media) or any(map(media.has, policy.sealed)):
            return ""
        if not media.crypto:
            return f"{media.proto} without keys"
        if required and not evaluate_offer(media.crypto, policy.sdes).acceptable:
            return "no key that protects"
        return ""
    if profile in DTLS_PROFILES or (required and profile in DTLS_TRANSPORTS):
        return "" if has_fingerprint(sdp, media) else f"{media.proto} without fingerprint"
    return f"{media.proto} protects nothing" if required else ""


def keys_in_clear(sdp: SessionDescription, media: MediaDescription) -> bool:
    """Whether the m-line's keys can be read by whoever reads SDP: SDES, and key management other than MIKEY-TICKET.

    RFC 6043 needs no confidential signalling; other MIKEY may leave the keys to it (RFC 3830 4.2.3).
    """
    return bool(media.crypto) or not all(_is_sealed(value) for value in sdp.key_mgmt_of(media))


def _is_sealed(value: str) -> bool:
    try:
        line = KeyManagement.parse(value)
    except SdpError:
        return True  # nobody can use it
    return line.protocol == MIKEY and len(line.data) > 1 and line.data[1] in SEALED_TYPES


def has_fingerprint(sdp: SessionDescription, media: MediaDescription) -> bool:
    """Whether a readable certificate fingerprint holds for the line."""
    try:
        return bool(sdp.fingerprints_of(media))
    except SdpError:
        return False
