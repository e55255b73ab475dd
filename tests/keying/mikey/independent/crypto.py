"""The derivations, the cipher and the MACs of RFC 3830 4 and RFC 6043 5 over hmac, hashlib and AES; nothing else."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.keying.mikey.independent.wire import Mismatch, Octets, Payload, read_chain, require


def prf(function: int, inkey: bytes, label: bytes, bits: int) -> bytes:
    """RFC 3830 4.1.2 with HMAC-SHA-1, or HMAC-SHA-256 as RFC 6043 6.1 has it."""
    digest = {0: hashlib.sha1, 1: hashlib.sha256}.get(function)
    if digest is None:
        raise Mismatch("PRF function")
    out = bytes(bits // 8)
    for start in range(0, len(inkey), 32):
        block, a, stream = inkey[start : start + 32], label, b""
        while len(stream) * 8 < bits:
            a = hmac.new(block, a, digest).digest()
            stream += hmac.new(block, a + label, digest).digest()
        out = bytes(x ^ y for x, y in zip(out, stream, strict=False))
    return out


def rand(octets: bytes) -> bytes:
    return bytes([len(octets)]) + octets


def constant(name: str) -> bytes:
    """The label constants (RFC 3830 4.1.3, 4.1.4; RFC 6043 5.1.1, A.2.2)."""
    table = {"encr": "150533E1", "auth": "2D22AC75", "salt": "29B88916", "tek": "2AD01C64", "tek salt": "39A2C14B"}
    table |= {"fork MPKr": "2B288856", "fork TGK": "1512B54A", "MPKi": "220E99A2", "MPKr": "1F4D675B"}
    return bytes.fromhex(table[name])


def protection(function: int, inkey: bytes, where: bytes, encr_alg: int, mac_alg: int) -> dict[str, bytes]:
    """encr, salt and auth key under one label tail (RFC 6043 5.1.2, 6.10, A.2.1); lengths as the algorithms have them."""
    lengths = {"encr": 256 if encr_alg == 3 else 128, "salt": 112, "auth": 256 if mac_alg == 2 else 160}
    return {use: prf(function, inkey, constant(use) + b"\xff" + where, bits) for use, bits in lengths.items()}


def message_label(csb_id: bytes, phase: int, rand_i: bytes, rand_r: bytes) -> bytes:
    """RFC 6043 5.1.2: phase 1 for initial messages, 2 for responses."""
    return csb_id + bytes([phase]) + rand(rand_i) + rand(rand_r)


def fork(function: int, name: str, inkey: bytes, identity: bytes, rand_kms: bytes) -> bytes:
    """MPKr' or TGK' (RFC 6043 5.1.1)."""
    label = constant(name) + b"\xff" * 5 + b"\x00" + len(identity).to_bytes(2, "big") + identity + rand(rand_kms)
    return prf(function, inkey, label, len(inkey) * 8)


def t64(timestamp: Payload) -> bytes:
    """A timestamp as the IV wants it (RFC 3830 6.6, RFC 6043 6.3)."""
    value: bytes = timestamp["value"]
    return value.rjust(8, b"\0") if timestamp["type"] == 2 else value.ljust(8, b"\0")


def unix(timestamp: Payload) -> float:
    """Seconds since 1970; a value with its top bit clear lies behind the overflow of 2036 (RFC 4330 3)."""
    seconds = int.from_bytes(timestamp["value"][:4], "big")
    fraction = int.from_bytes(timestamp["value"][4:], "big") / 2**32
    return seconds + (0 if seconds >> 31 else 1 << 32) - 2208988800 + fraction


def aes_cm(key: bytes, salt: bytes, csb_id: bytes, time: bytes, data: bytes) -> bytes:
    """AES counter mode under IV = (salt XOR (0x0000 || CSB ID || T)) || 0x0000 (RFC 3830 4.2.3)."""
    iv = bytes(x ^ y for x, y in zip(salt, bytes(2) + csb_id + time, strict=True)) + bytes(2)
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


def mac(alg: int, key: bytes, covered: bytes) -> bytes:
    require(alg in (1, 2), "MAC algorithm")
    return hmac.new(key, covered, hashlib.sha1 if alg == 1 else hashlib.sha256).digest()


def open_kemac(kemac: Payload, keys: Mapping[str, bytes], csb_id: bytes, timestamp: Payload) -> list[Payload]:
    """Key data out of a KEMAC: never NULL encryption, always the NULL MAC (RFC 6043 4.2.1.5, 4.2.3.5, A.1)."""
    require(kemac["encr"] in (1, 3) and kemac["mac_alg"] == 0, "KEMAC algorithms")
    plain = aes_cm(keys["encr"], keys["salt"], csb_id, t64(timestamp), kemac["data"])
    chain = read_chain(Octets(plain), 20) if plain else []
    require(all(key["name"] == "KEY" for key in chain), "KEMAC content")
    require(all(key["kv"] == 1 and key["spi"] and len(key["data"]) >= 16 for key in chain), "SPI or size of a key")
    return chain


def key_tuple(key: Payload) -> tuple[Any, ...]:
    return key["type"], key["data"], key["salt"], key["spi"]
