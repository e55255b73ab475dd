"""SRTP crypto suites as SDES names them: one row per suite (RFC 4568 6.2, RFC 6188 4, RFC 7714 14)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class CryptoSuite:
    """A crypto suite: lengths in octets, lifetimes in packets under one master key."""

    name: str
    cipher: str
    """``AES-CM`` or ``AES-GCM``; merely recognised ones: ``AES-F8``, ``SEED-CTR``, ``SEED-CCM``, ``SEED-GCM``."""
    key_length: int
    salt_length: int
    auth: str
    """``HMAC-SHA1`` or ``AEAD``."""
    srtp_tag_length: int
    srtcp_tag_length: int
    max_srtp_packets: int
    max_srtcp_packets: int

    @property
    def key_salt_length(self) -> int:
        """Octets of master key and master salt together, as they stand behind ``inline:``."""
        return self.key_length + self.salt_length


def _table(*rows: CryptoSuite) -> Mapping[str, CryptoSuite]:
    return MappingProxyType({row.name: row for row in rows})


SUITES: Mapping[str, CryptoSuite] = _table(
    CryptoSuite("AES_CM_128_HMAC_SHA1_80", "AES-CM", 16, 14, "HMAC-SHA1", 10, 10, 2**48, 2**31),
    CryptoSuite("AES_CM_128_HMAC_SHA1_32", "AES-CM", 16, 14, "HMAC-SHA1", 4, 10, 2**48, 2**31),
    CryptoSuite("AEAD_AES_128_GCM", "AES-GCM", 16, 12, "AEAD", 16, 16, 2**48, 2**31),
    CryptoSuite("AEAD_AES_256_GCM", "AES-GCM", 32, 12, "AEAD", 16, 16, 2**48, 2**31),
    CryptoSuite("AES_256_CM_HMAC_SHA1_80", "AES-CM", 32, 14, "HMAC-SHA1", 10, 10, 2**31, 2**31),
    CryptoSuite("AES_256_CM_HMAC_SHA1_32", "AES-CM", 32, 14, "HMAC-SHA1", 4, 10, 2**31, 2**31),
    CryptoSuite("AES_192_CM_HMAC_SHA1_80", "AES-CM", 24, 14, "HMAC-SHA1", 10, 10, 2**31, 2**31),
    CryptoSuite("AES_192_CM_HMAC_SHA1_32", "AES-CM", 24, 14, "HMAC-SHA1", 4, 10, 2**31, 2**31),
)
"""Every suite the media plane can run, in the order of a default offer (TS 33.328 Annex C: the first is a must)."""

RECOGNISED_SUITES: Mapping[str, CryptoSuite] = _table(
    CryptoSuite("F8_128_HMAC_SHA1_80", "AES-F8", 16, 14, "HMAC-SHA1", 10, 10, 2**48, 2**31),
    CryptoSuite("SEED_CTR_128_HMAC_SHA1_80", "SEED-CTR", 16, 14, "HMAC-SHA1", 10, 10, 2**48, 2**31),
    CryptoSuite("SEED_128_CCM_80", "SEED-CCM", 16, 12, "AEAD", 10, 10, 2**48, 2**31),
    CryptoSuite("SEED_128_GCM_96", "SEED-GCM", 16, 12, "AEAD", 12, 12, 2**48, 2**31),
)
"""Registered suites that are read and passed on, but never offered and never chosen (RFC 4568 6.2.3, RFC 5669)."""

_BY_FOLDED_NAME: Mapping[str, CryptoSuite] = {
    name.upper(): suite for table in (SUITES, RECOGNISED_SUITES) for name, suite in table.items()
}


def find_suite(name: str) -> CryptoSuite | None:
    """Return the registered suite of that name in any case, recognised ones included, or None (RFC 4568 4)."""
    return _BY_FOLDED_NAME.get(name.upper())
