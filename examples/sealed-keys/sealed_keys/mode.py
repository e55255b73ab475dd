"""The mode e2e-psk: the crypto lines of an offer and an answer, encrypted with a key that both UEs hold.

The attribute is ``a=psk-crypto``, base64 of ``version | nonce | AES-256-GCM(time | lines)``. No SIP node on the way can
read or alter the keys. An answer is sealed for its very offer; an offer holds its time, and is taken once, by its own
maker never: who lacks the key cannot call him with it. Whoever has the shared key can pose as another who has it: that
is what a group key can do, and why e2e-kms is there.
"""

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from keying import ModeFacts, ModeRefused, Secret, SecurityMode

VERSION = b"\x01"
NONCE_OCTETS = 12
TIME_OCTETS = 8
SKEW_S = 30.0
"""How far the clocks of two UEs may be apart, and how old an offer may be, seconds."""
BROKEN, REPLAYED = "seal-broken", "seal-replayed"


class PreSharedKeyMode(SecurityMode):
    """Keys in SDP, sealed with a key that the lab gave the users of the mode."""

    facts = ModeFacts(
        "e2e-psk",
        "UE to UE, keys in SDP under a key that the users share",
        "PSK",
        {
            BROKEN: "the keys were sealed with another key than this user's, or altered on the way",
            REPLAYED: "the sealed keys were used before, are this user's own, or are too old",
        },
    )
    attribute = "psk-crypto"
    key_octets = 32

    def __init__(self, shared_key: Secret | None, now: Callable[[], float] = time.time) -> None:
        super().__init__(shared_key, now)
        self._seen: dict[bytes, float] = {}

    def seal_offer(self, lines: Sequence[str]) -> str:
        """Seal the lines of an offer with their time."""
        moment = int(self.now() * 1000).to_bytes(TIME_OCTETS, "big")
        value = self._seal(b"offer", moment + "\n".join(lines).encode())
        self._take(_nonce_of(value))
        return value

    def open_offer(self, value: str) -> tuple[str, ...]:
        """Open the lines of an offer that is of now and was not taken before."""
        nonce, plain = self._open(b"offer", value)
        moment = int.from_bytes(plain[:TIME_OCTETS], "big") / 1000
        if abs(self.now() - moment) > SKEW_S:
            raise ModeRefused(REPLAYED, "the sealed keys are of another time")
        self._take(nonce)
        return tuple(plain[TIME_OCTETS:].decode().split("\n"))

    def seal_answer(self, line: str, offer: str) -> str:
        """Seal the line of an answer for its offer."""
        return self._seal(_answer_to(offer), line.encode())

    def open_answer(self, value: str, offer: str) -> str:
        """Open the line of the answer to an own offer."""
        return self._open(_answer_to(offer), value)[1].decode()

    def _take(self, nonce: bytes) -> None:
        """Note an offer that was made or opened here; raise ModeRefused for one that was before."""
        now = self.now()
        self._seen = {known: until for known, until in self._seen.items() if until > now}
        if nonce in self._seen:
            raise ModeRefused(REPLAYED, "the sealed keys were taken before")
        self._seen[nonce] = now + 2 * SKEW_S

    def _cipher(self) -> AESGCM:
        assert self.shared_key is not None
        derivation = HKDF(hashes.SHA256(), 32, salt=None, info=b"imslab e2e-psk 1")
        return AESGCM(derivation.derive(self.shared_key.reveal()))

    def _seal(self, purpose: bytes, plain: bytes) -> str:
        nonce = secrets.token_bytes(NONCE_OCTETS)
        sealed = self._cipher().encrypt(nonce, plain, VERSION + purpose)
        return base64.b64encode(VERSION + nonce + sealed).decode()

    def _open(self, purpose: bytes, value: str) -> tuple[bytes, bytes]:
        try:
            octets = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ModeRefused(BROKEN, "the sealed keys are no base64") from None
        version, nonce, sealed = octets[:1], octets[1 : 1 + NONCE_OCTETS], octets[1 + NONCE_OCTETS :]
        if version != VERSION or len(nonce) != NONCE_OCTETS:
            raise ModeRefused(BROKEN, "the sealed keys are of no known version")
        try:
            return nonce, self._cipher().decrypt(nonce, sealed, VERSION + purpose)
        except InvalidTag:
            raise ModeRefused(BROKEN, "the seal of the keys does not hold") from None


def _nonce_of(value: str) -> bytes:
    return base64.b64decode(value)[1 : 1 + NONCE_OCTETS]


def _answer_to(offer: str) -> bytes:
    return b"answer to " + hashlib.sha256(offer.encode()).digest()
