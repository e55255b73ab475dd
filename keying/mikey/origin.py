"""Proof of origin: a general extension that binds a message body to a TRANSFER_INIT (TS 33.328 Annex K, layout assumed).

Data is a hash function of the CHASH registry (1 octet) and the hash of the body; the type number is configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

from keying.mikey.payloads import GeneralExtension
from keying.mikey.profile import Profile


def proof_of_origin(profile: Profile, body: bytes) -> GeneralExtension:
    """Return the extension that binds `body` (SHA-256)."""
    raise NotImplementedError


def check_proof_of_origin(profile: Profile, extensions: Sequence[GeneralExtension], body: bytes) -> bool:
    """Return True where a proof is there and right, False where there is none. Raises AuthenticationFailure if wrong."""
    raise NotImplementedError


def sdp_ids(identifiers: Sequence[str] = ("mikey",)) -> GeneralExtension:
    """Return the SDP IDs extension of the key management protocols an offer lists (RFC 4567 4.1.4)."""
    raise NotImplementedError


def check_sdp_ids(extensions: Sequence[GeneralExtension], offered: Sequence[str]) -> None:
    """Check an SDP IDs extension, if there is one, against the protocols of the SDP. Raises AuthenticationFailure."""
    raise NotImplementedError
