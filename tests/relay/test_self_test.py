"""The start-up check: its packets follow from the RFCs' own numbers, and a library that differs is refused."""

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keying.suites import SUITES
from media.relay import RelayUnavailableError, libsrtp, self_test
from media.relay.self_test import PLAIN_PACKET, VECTORS, Vector

PUBLISHED = {
    16: (
        "c61e7a93744f39ee10734afe3ff7a087",
        "30cbbc08863d8c85d49db34a9ae1",
        "cebe321f6ff7716b6fd4ab49af256a156d38baa4",
    ),
    24: (
        "31874736a8f1143870c26e4857d8a5b2c4a354407faadabb",
        "2372b82d639b6d8503a47adc0a6c",
        "355b10973cd95b9eacf4061c7e1a7151e7cfbfcb",
    ),
    32: (
        "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4",
        "fa31791685ca444a9e07c6c64e93",
        "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05",
    ),
}
"""Session keys printed in RFC 3711 B.3, RFC 6188 7.4 and 7.2: encryption key, salt, authentication key."""


def derive(vector: Vector, label: int, length: int) -> bytes:
    suite = SUITES[vector.suite]
    octets = bytes.fromhex(vector.key_salt)
    seed = bytearray(octets[suite.key_length :].ljust(14, b"\x00") + bytes(2))
    seed[7] ^= label
    return Cipher(algorithms.AES(octets[: suite.key_length]), modes.CTR(bytes(seed))).encryptor().update(bytes(length))


@pytest.mark.clause("RFC 3711", "4.1.1", "4.2", "B.3")
@pytest.mark.clause("RFC 6188", "7")
@pytest.mark.parametrize("vector", [each for each in VECTORS if "GCM" not in each.suite], ids=lambda each: each.suite)
def test_counter_mode_vectors_follow_from_the_published_session_keys(vector: Vector):
    suite = SUITES[vector.suite]
    key, salt, authentication = map(bytes.fromhex, PUBLISHED[suite.key_length])
    assert derive(vector, 0, len(key)) == key
    counter = (int.from_bytes(salt, "big") << 16) ^ (0xDEADBEEF << 64) ^ (1 << 16)
    body = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "big"))).encryptor().update(PLAIN_PACKET[12:])
    tagger = hmac.HMAC(authentication, hashes.SHA1())
    tagger.update(PLAIN_PACKET[:12] + body + bytes(4))
    assert vector.protected == (PLAIN_PACKET[:12] + body + tagger.finalize()[: suite.srtp_tag_length]).hex()


@pytest.mark.clause("RFC 7714", "8.1", "11")
@pytest.mark.parametrize("vector", [each for each in VECTORS if "GCM" in each.suite], ids=lambda each: each.suite)
def test_gcm_vectors_follow_from_the_derivation(vector: Vector):
    key, salt = derive(vector, 0, SUITES[vector.suite].key_length), derive(vector, 2, 12)
    nonce = int.from_bytes(salt, "big") ^ int.from_bytes(bytes(2) + PLAIN_PACKET[8:12] + bytes(4) + b"\x00\x01", "big")
    sealed = AESGCM(key).encrypt(nonce.to_bytes(12, "big"), PLAIN_PACKET[12:], PLAIN_PACKET[:12])
    assert vector.protected == (PLAIN_PACKET[:12] + sealed).hex()


def test_there_is_a_vector_for_every_suite():
    assert {vector.suite for vector in VECTORS} == set(SUITES)


def test_library_that_protects_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch):
    wrong = VECTORS[0]._replace(protected="00" * 42)
    monkeypatch.setattr(self_test, "VECTORS", (wrong,))
    with pytest.raises(RelayUnavailableError, match="AES_CM_128_HMAC_SHA1_80"):
        self_test.run_self_test.__wrapped__()


@pytest.mark.parametrize("attribute", ["_SUPPORTED_VERSION", "_SYMBOLS"])
def test_library_of_another_version_or_without_a_symbol_is_refused(monkeypatch: pytest.MonkeyPatch, attribute: str):
    monkeypatch.setattr(libsrtp, attribute, "libsrtp2 9." if attribute == "_SUPPORTED_VERSION" else ("srtp_missing",))
    with pytest.raises(RelayUnavailableError):
        libsrtp._library.__wrapped__()


def test_library_with_another_structure_is_refused(monkeypatch: pytest.MonkeyPatch):
    class Binding:
        __file__ = libsrtp._binding.__file__

        class ffi:
            @staticmethod
            def sizeof(_: str) -> int:
                return 120

    monkeypatch.setattr(libsrtp, "_binding", Binding)
    with pytest.raises(RelayUnavailableError, match="srtp_policy_t"):
        libsrtp._library.__wrapped__()
