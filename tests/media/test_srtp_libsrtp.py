"""Packets cross between this implementation and libsrtp in both directions."""

from collections.abc import Iterator

import pylibsrtp
import pytest

from keying.secret import Secret
from keying.suites import SUITES, CryptoSuite
from media.srtp import MasterKey, MasterKeySet, SrtpContext
from media.srtp_transform import CounterModeTransform, derive_session_key
from tests.media.libsrtp import Libsrtp, LibsrtpError
from tests.media.support import SSRC, SUITE_NAMES, octets, rtcp, rtp

PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
AUTHENTICATION_FAILED, REPLAYED = 7, 9
# libsrtp before 2.8 derives AES-192 session keys with the wrong PRF (its issue 763), so it is no oracle for those suites
AGREEING = [name for name in SUITE_NAMES if not name.startswith("AES_192")]


def key_salt(suite: CryptoSuite, seed: int = 5) -> bytes:
    return octets(suite.key_salt_length, seed)


def context(suite: CryptoSuite, *keys: tuple[bytes, bytes]) -> SrtpContext:
    return SrtpContext.from_keys(
        MasterKeySet(
            [
                MasterKey(suite, Secret(key[: suite.key_length]), Secret(key[suite.key_length :]), mki=mki)
                for key, mki in keys
            ]
        )
    )


@pytest.fixture
def sessions() -> Iterator[list[Libsrtp]]:
    opened: list[Libsrtp] = []
    yield opened
    for session in opened:
        session.close()


@pytest.mark.clause("RFC 3711", "3.1", "3.4", "4.1.1", "4.2.1")
@pytest.mark.clause("RFC 7714", "8", "9", "11")
@pytest.mark.parametrize("name", PROFILES)
def test_pylibsrtp_opens_ours_and_we_open_its(name: str) -> None:
    suite = SUITES[name]
    key = key_salt(suite)
    theirs = {
        kind: pylibsrtp.Session(pylibsrtp.Policy(key=key, ssrc_type=kind, srtp_profile=PROFILES[name]))
        for kind in (pylibsrtp.Policy.SSRC_ANY_INBOUND, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)
    }
    inbound, outbound = theirs.values()
    sender, receiver = context(suite, (key, b"")), context(suite, (key, b""))
    for sequence in range(65_500, 65_600):
        packet = rtp(sequence, payload=octets(sequence % 300, sequence))
        assert inbound.unprotect(sender.protect_rtp(packet)) == packet
        assert receiver.unprotect_rtp(outbound.protect(packet)) == packet
        assert inbound.unprotect_rtcp(sender.protect_rtcp(rtcp())) == rtcp()
        assert receiver.unprotect_rtcp(outbound.protect_rtcp(rtcp())) == rtcp()


@pytest.mark.clause("RFC 6188", "2", "3", "4")
@pytest.mark.parametrize("mki", [b"", b"\7", b"\0\0\0\1"], ids=["no MKI", "MKI of 1", "MKI of 4"])
@pytest.mark.parametrize("name", AGREEING)
def test_libsrtp_opens_ours_and_we_open_its(name: str, mki: bytes, sessions: list[Libsrtp]) -> None:
    suite = SUITES[name]
    key = (key_salt(suite), mki)
    sessions += [Libsrtp(suite, key, inbound=True), Libsrtp(suite, key, inbound=False)]
    inbound, outbound = sessions
    sender, receiver = context(suite, key), context(suite, key)
    for sequence in range(65_530, 65_545):
        packet = rtp(sequence, payload=octets(sequence % 300, sequence))
        ours, its = sender.protect_rtp(packet), outbound.protect_rtp(packet)
        assert ours == its
        assert inbound.unprotect_rtp(ours) == packet
        assert receiver.unprotect_rtp(its) == packet
        assert inbound.unprotect_rtcp(sender.protect_rtcp(rtcp())) == rtcp()
        assert receiver.unprotect_rtcp(outbound.protect_rtcp(rtcp())) == rtcp()


@pytest.mark.clause("RFC 4568", "4.3")
@pytest.mark.clause("TS 33.328", "C-6", "7.4-5")
@pytest.mark.parametrize("name", AGREEING)
def test_several_keys_with_mki_agree_with_libsrtp(name: str, sessions: list[Libsrtp]) -> None:
    suite = SUITES[name]
    keys = ((key_salt(suite, 1), b"\0\1"), (key_salt(suite, 2), b"\0\2"))
    sessions += [Libsrtp(suite, *keys, inbound=True), Libsrtp(suite, *keys, inbound=False)]
    inbound, outbound = sessions
    sender, receiver = context(suite, *keys), context(suite, *keys)
    for sequence in range(10):
        sender.select_key(sequence % 2 + 1)
        assert inbound.unprotect_rtp(sender.protect_rtp(rtp(sequence))) == rtp(sequence)
        assert receiver.unprotect_rtp(outbound.protect_rtp(rtp(sequence), key=sequence % 2)) == rtp(sequence)
        assert inbound.unprotect_rtcp(sender.protect_rtcp(rtcp())) == rtcp()
        assert receiver.unprotect_rtcp(outbound.protect_rtcp(rtcp(), key=sequence % 2)) == rtcp()


@pytest.mark.clause("RFC 4568", "7.1.4")
@pytest.mark.clause("TS 33.328", "7.4-3")
@pytest.mark.parametrize("name", AGREEING)
def test_a_key_change_keeps_the_roc_on_both_sides(name: str, sessions: list[Libsrtp]) -> None:
    suite = SUITES[name]
    first, second = key_salt(suite, 1), key_salt(suite, 2)
    sessions += [Libsrtp(suite, (first, b""), inbound=True), Libsrtp(suite, (first, b""), inbound=False)]
    inbound, outbound = sessions
    sender, receiver = context(suite, (first, b"")), context(suite, (first, b""))
    for sequence in range(65_534, 65_538):
        inbound.unprotect_rtp(sender.protect_rtp(rtp(sequence)))
        receiver.unprotect_rtp(outbound.protect_rtp(rtp(sequence)))
    inbound.update(suite, second, inbound=True)
    outbound.update(suite, second, inbound=False)
    for ours in (sender, receiver):
        ours.rekey(suite, Secret(second[: suite.key_length]), Secret(second[suite.key_length :]))
    for sequence in range(65_538, 65_545):
        assert inbound.unprotect_rtp(sender.protect_rtp(rtp(sequence))) == rtp(sequence)
        assert receiver.unprotect_rtp(outbound.protect_rtp(rtp(sequence))) == rtp(sequence)


@pytest.mark.clause("RFC 3711", "3.3.1")
def test_a_roc_that_was_set_agrees_with_libsrtp(sessions: list[Libsrtp]) -> None:
    suite = SUITES["AES_CM_128_HMAC_SHA1_80"]
    key = (key_salt(suite), b"")
    sessions += [Libsrtp(suite, key, inbound=True), Libsrtp(suite, key, inbound=False)]
    inbound, outbound = sessions
    sender, receiver = context(suite, key), context(suite, key)
    sender.protect_rtp(rtp(1))
    inbound.unprotect_rtp(outbound.protect_rtp(rtp(1)))
    outbound.set_roc(SSRC, 7)
    inbound.set_roc(SSRC, 7)
    sender.set_roc(SSRC, 7)
    receiver.set_roc(SSRC, 7)
    assert receiver.unprotect_rtp(outbound.protect_rtp(rtp(100))) == rtp(100)
    assert inbound.unprotect_rtp(sender.protect_rtp(rtp(101))) == rtp(101)


@pytest.mark.attack("T3")
@pytest.mark.parametrize("name", AGREEING)
def test_libsrtp_refuses_ours_altered_and_replayed(name: str, sessions: list[Libsrtp]) -> None:
    suite = SUITES[name]
    sessions.append(Libsrtp(suite, (key_salt(suite), b""), inbound=True))
    sender = context(suite, (key_salt(suite), b""))
    packet = sender.protect_rtp(rtp(1))
    altered = packet[:20] + bytes((packet[20] ^ 1,)) + packet[21:]
    with pytest.raises(LibsrtpError) as refused:
        sessions[0].unprotect_rtp(altered)
    assert refused.value.args == (AUTHENTICATION_FAILED,)
    assert sessions[0].unprotect_rtp(packet) == rtp(1)
    with pytest.raises(LibsrtpError) as refused:
        sessions[0].unprotect_rtp(packet)
    assert refused.value.args == (REPLAYED,)


@pytest.mark.clause("RFC 6188", "2", "3.1")
def test_libsrtp_before_2_8_agrees_on_aes_192_but_for_its_key_derivation(sessions: list[Libsrtp]) -> None:
    """It runs the 256-bit PRF over key and salt run together; with the session keys that gives, all else agrees."""
    suite = SUITES["AES_192_CM_HMAC_SHA1_80"]
    key = key_salt(suite)
    sessions.append(Libsrtp(suite, (key, b""), inbound=False))
    its = sessions[0].protect_rtp(rtp(1))
    wrong = key + bytes(8)
    master, salt = Secret(wrong[:32]), Secret(wrong[32:])
    transform = CounterModeTransform(
        derive_session_key(master, salt, 0, 24),
        derive_session_key(master, salt, 2, 14),
        derive_session_key(master, salt, 1, 20),
        suite.srtp_tag_length,
    )
    assert b"".join(transform.seal_rtp(rtp(1)[:12], rtp(1)[12:], SSRC, 1)) == its
