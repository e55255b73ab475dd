"""SRTP crypto suites as SDES names them: one row per suite (RFC 4568 6.2, RFC 6188 4, RFC 7714 14)."""

import re
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


_NAME = re.compile(r"[A-Z][A-Z0-9_]{3,60}")
_LEAST_KEY, _LEAST_TAG, _LEAST_RTCP_TAG = 16, 4, 10
"""Least octets of key and tags of a suite that a package brings."""
_MOST_TAG = 16


def _table(*rows: CryptoSuite) -> Mapping[str, CryptoSuite]:
    return MappingProxyType({row.name: row for row in rows})


DEFAULT_SUITES: Mapping[str, CryptoSuite] = _table(
    CryptoSuite("AES_CM_128_HMAC_SHA1_80", "AES-CM", 16, 14, "HMAC-SHA1", 10, 10, 2**48, 2**31),
    CryptoSuite("AES_CM_128_HMAC_SHA1_32", "AES-CM", 16, 14, "HMAC-SHA1", 4, 10, 2**48, 2**31),
    CryptoSuite("AEAD_AES_128_GCM", "AES-GCM", 16, 12, "AEAD", 16, 16, 2**48, 2**31),
    CryptoSuite("AEAD_AES_256_GCM", "AES-GCM", 32, 12, "AEAD", 16, 16, 2**48, 2**31),
    CryptoSuite("AES_256_CM_HMAC_SHA1_80", "AES-CM", 32, 14, "HMAC-SHA1", 10, 10, 2**31, 2**31),
    CryptoSuite("AES_256_CM_HMAC_SHA1_32", "AES-CM", 32, 14, "HMAC-SHA1", 4, 10, 2**31, 2**31),
    CryptoSuite("AES_192_CM_HMAC_SHA1_80", "AES-CM", 24, 14, "HMAC-SHA1", 10, 10, 2**31, 2**31),
    CryptoSuite("AES_192_CM_HMAC_SHA1_32", "AES-CM", 24, 14, "HMAC-SHA1", 4, 10, 2**31, 2**31),
)
"""Every suite that is built in, in the order of a default offer (TS 33.328 Annex C: the first is a must)."""

_known: dict[str, CryptoSuite] = dict(DEFAULT_SUITES)
SUITES: Mapping[str, CryptoSuite] = MappingProxyType(_known)
"""Every suite the media plane can run: those built in, and those of packages that the lab description enables.

Defaults are made of :data:`DEFAULT_SUITES`, so that a suite of a package is offered and taken only where it is named.
"""

RECOGNISED_SUITES: Mapping[str, CryptoSuite] = _table(
    CryptoSuite("F8_128_HMAC_SHA1_80", "AES-F8", 16, 14, "HMAC-SHA1", 10, 10, 2**48, 2**31),
    CryptoSuite("SEED_CTR_128_HMAC_SHA1_80", "SEED-CTR", 16, 14, "HMAC-SHA1", 10, 10, 2**48, 2**31),
    CryptoSuite("SEED_128_CCM_80", "SEED-CCM", 16, 12, "AEAD", 10, 10, 2**48, 2**31),
    CryptoSuite("SEED_128_GCM_96", "SEED-GCM", 16, 12, "AEAD", 12, 12, 2**48, 2**31),
)
"""Registered suites that are read and passed on, but never offered and never chosen (RFC 4568 6.2.3, RFC 5669)."""

_BY_FOLDED_NAME: dict[str, CryptoSuite] = {
    name.upper(): suite for table in (DEFAULT_SUITES, RECOGNISED_SUITES) for name, suite in table.items()
}


class SuiteError(ValueError):
    """A suite of a package is none, or stands in the way of another."""


def find_suite(name: str) -> CryptoSuite | None:
    """Return the registered suite of that name in any case, recognised ones included, or None (RFC 4568 4)."""
    return _BY_FOLDED_NAME.get(name.upper())


def enable_suite(suite: CryptoSuite) -> None:
    """Let a suite of a package be run by this process; the media plane has to know it too.

    Raises :class:`SuiteError` for a name that has another meaning already, and for one that protects too little:
    128 bits of key, 80 bits of tag (32 for RTP alone), RFC 3711 8.2 and 9.5; buffers have room for 128 bits of tag.
    """
    known = _BY_FOLDED_NAME.get(suite.name.upper())
    if suite.name in DEFAULT_SUITES or (known is not None and known.name != suite.name):
        raise SuiteError(f"{suite.name} is built in")
    if known is not None and known != suite:
        raise SuiteError(f"{suite.name} is registered with other lengths than these")
    if _NAME.fullmatch(suite.name) is None:
        raise SuiteError(f"{suite.name!r} cannot be the name of a suite")
    if suite.key_length < _LEAST_KEY or suite.srtp_tag_length < _LEAST_TAG or suite.srtcp_tag_length < _LEAST_RTCP_TAG:
        raise SuiteError(f"{suite.name} protects too little: {suite}")
    if max(suite.srtp_tag_length, suite.srtcp_tag_length) > _MOST_TAG:
        raise SuiteError(f"{suite.name} has a tag of more than {_MOST_TAG} octets")
    _known[suite.name] = _BY_FOLDED_NAME[suite.name.upper()] = suite
