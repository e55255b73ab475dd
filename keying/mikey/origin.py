"""General extensions that bind a TRANSFER_INIT to what it travels with: a message body, the offered protocols.

A General Extension payload (RFC 3830 6.15) is under the MAC of its message. SDP IDs, type 1, hold the list of key
management protocols in the SDP, so that nobody strikes one off (RFC 4567 4.1.4, 7).

Proof of origin (TS 33.328 Annex K, unseen): the layout is assumed, a hash function of the CHASH registry (1 octet) and
the hash of the body; the type number is configuration. It is good for its purpose with key forking: then the ticket's
owner alone could write it, while a KEK is known to a whole group.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from keying.mikey.errors import AuthenticationFailure, InvalidHash
from keying.mikey.payloads import GeneralExtension
from keying.mikey.profile import Profile
from keying.mikey.registry import ExtensionType, HashFunc


def proof_of_origin(profile: Profile, body: bytes) -> GeneralExtension:
    """Return the extension that binds `body` (SHA-256)."""
    data = bytes([HashFunc.SHA_256]) + hashlib.sha256(body).digest()
    return GeneralExtension(profile.genext_proof_of_origin, data)


def check_proof_of_origin(profile: Profile, extensions: Sequence[GeneralExtension], body: bytes) -> bool:
    """Return True where a proof is there and right, False where there is none.

    Call it when the message around the extensions was verified. Raises AuthenticationFailure for a wrong or second
    proof, InvalidHash for another hash than SHA-256.
    """
    found = [each.data for each in extensions if each.extension_type == profile.genext_proof_of_origin]
    if not found:
        return False
    if len(found) > 1:
        raise AuthenticationFailure("proof of origin", "stands there more than once")
    if found[0][:1] != bytes([HashFunc.SHA_256]):
        raise InvalidHash("proof of origin", "only SHA-256 is done")
    if not hmac.compare_digest(found[0][1:], hashlib.sha256(body).digest()):
        raise AuthenticationFailure("proof of origin", "the body is another one")
    return True


def sdp_ids(identifiers: Sequence[str] = ("mikey",)) -> GeneralExtension:
    """Return the SDP IDs extension of the key management protocols an offer lists (RFC 4567 4.1.4)."""
    return GeneralExtension(ExtensionType.SDP_IDS, ";".join(identifiers).encode())


def check_sdp_ids(extensions: Sequence[GeneralExtension], *offered: Sequence[str]) -> None:
    """Check that an SDP IDs extension, if there is one, is one of the lists of protocols that the SDP makes.

    Raises AuthenticationFailure.
    """
    allowed = {sdp_ids(identifiers).data for identifiers in offered}
    for extension in extensions:
        if extension.extension_type == ExtensionType.SDP_IDS and extension.data not in allowed:
            raise AuthenticationFailure("SDP IDs", "not the protocols that the SDP lists (bidding down)")
