"""Encryption and MACs of MIKEY: AES-CM over the Key data of a KEMAC, HMAC over messages and tickets.

AES-KW-128 is refused by name: Key data is rarely a multiple of eight octets. NULL is refused wherever keys or a MAC are
due; the one place of NULL encryption, the KEMAC of a TP payload, has no keys in it and does not come here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keying.mikey.codec import decode_key_data, encode_key_data
from keying.mikey.errors import AuthenticationFailure, InvalidEncryption, InvalidMac, MalformedMessage
from keying.mikey.kdf import MessageKeys
from keying.mikey.payloads import Kemac, KeyData
from keying.mikey.registry import EncrAlg, MacAlg
from keying.secret import Secret

MAX_ENCRYPTED = 1 << 20
"""Octets under one IV: 2^23 bits, what sixteen bits of block counter reach (RFC 3830 4.2.3)."""
TICKET_CSB_ID = 0xFFFFFFFF
"""CSB ID in the IV of Ticket Data (RFC 6043 A.1)."""
_SALT_OCTETS = 14
_KEY_OCTETS = {EncrAlg.AES_CM_128: 16, EncrAlg.AES_CM_256: 32}
_HASHES = {MacAlg.HMAC_SHA_1_160: hashlib.sha1, MacAlg.HMAC_SHA_256_256: hashlib.sha256}
_MAC_KEY_OCTETS = {MacAlg.HMAC_SHA_1_160: 20, MacAlg.HMAC_SHA_256_256: 32}


def aes_cm(key: Secret, salt: Secret, csb_id: int, t64: bytes, octets: bytes) -> bytes:
    """Encrypt or decrypt with AES in counter mode (RFC 3830 4.2.3).

    IV = (salt XOR (0x0000 || CSB ID || T)) || 0x0000 with a salt of 14 octets and T of 8, the T payload of the message
    that carries the KEMAC. Raises InvalidEncryption beyond MAX_ENCRYPTED octets.
    """
    if len(octets) > MAX_ENCRYPTED:
        raise InvalidEncryption("KEMAC", "too long for one IV")
    if len(salt) != _SALT_OCTETS or len(t64) != 8 or len(key) not in _KEY_OCTETS.values():
        raise ValueError("a key, salt or timestamp of another length than AES-CM takes")
    mask = int.from_bytes(csb_id.to_bytes(4) + t64)
    counter = (int.from_bytes(salt.reveal()) ^ mask).to_bytes(_SALT_OCTETS) + bytes(2)
    context = Cipher(algorithms.AES(key.reveal()), modes.CTR(counter)).encryptor()
    return context.update(octets) + context.finalize()


def seal_kemac(alg: EncrAlg, keys: MessageKeys, csb_id: int, t64: bytes, key_data: Sequence[KeyData]) -> Kemac:
    """Return a KEMAC with `key_data` under `keys`; its MAC alg is NULL, as V carries the MAC (RFC 6043 4.2)."""
    _check(alg, keys)
    return Kemac(alg, aes_cm(keys.encr, keys.salt, csb_id, t64, encode_key_data(key_data)))


def open_kemac(kemac: Kemac, keys: MessageKeys, csb_id: int, t64: bytes) -> tuple[KeyData, ...]:
    """Return the keys of a KEMAC; call it when the V around it held.

    Raises InvalidEncryption for NULL, AES-KW-128 and an algorithm that does not go with the keys, InvalidMac for a MAC
    algorithm other than NULL, MalformedMessage for what is no Key data.
    """
    _check(kemac.encr_alg, keys)
    if kemac.mac_alg is not MacAlg.NULL:
        raise InvalidMac("KEMAC MAC alg", "is NULL in MIKEY-TICKET")
    return decode_key_data(aes_cm(keys.encr, keys.salt, csb_id, t64, kemac.encr_data))


def plain_kemac(key_data: Sequence[KeyData]) -> Kemac:
    """Return the KEMAC of a TP payload: NULL encryption, key octets all zero (RFC 6043 6.10).

    Raises MalformedMessage when there is a key in it.
    """
    if any(any(data.key.reveal()) for data in key_data):
        raise MalformedMessage("KEMAC", "keys are never sent in the plain")
    return Kemac(EncrAlg.NULL, encode_key_data(key_data))


def mac(alg: MacAlg, key: Secret, octets: bytes) -> bytes:
    """Return the MAC over `octets`. Raises InvalidMac for NULL."""
    digest = _HASHES.get(alg)
    if digest is None:
        raise InvalidMac("MAC alg", f"{alg.name} where a MAC is due")
    if len(key) != _MAC_KEY_OCTETS[alg]:
        raise InvalidMac("MAC alg", f"{alg.name} does not go with a key of {8 * len(key)} bits")
    return hmac.new(key.reveal(), octets, digest).digest()


def verify_mac(alg: MacAlg, key: Secret, octets: bytes, received: bytes, where: str = "V") -> None:
    """Compare in constant time. Raises AuthenticationFailure when the MAC does not hold, InvalidMac for NULL."""
    if not hmac.compare_digest(mac(alg, key, octets), received):
        raise AuthenticationFailure(where, "the MAC does not hold")


def _check(alg: EncrAlg, keys: MessageKeys) -> None:
    octets = _KEY_OCTETS.get(alg)
    if octets is None:
        raise InvalidEncryption("KEMAC Encr alg", f"{alg.name} is refused")
    if len(keys.encr) != octets:
        raise InvalidEncryption("KEMAC Encr alg", f"{alg.name} does not go with a key of {8 * len(keys.encr)} bits")
