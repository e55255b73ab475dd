"""The suite against the vectors of RFC 5669 A.1, and against itself."""

import hmac

import pytest
from keying import Secret
from media import AuthenticationFailure

from seed_suite.suite import SUITE, SeedTransform, derive

HEADER = bytes.fromhex("8008315ebf2e6fe020e8f5eb")
SSRC, INDEX = 0x20E8F5EB, 0x315E
KEY, SALT = "0c5ffd37a11edc42c325287fc0604f2e", "cd3a7c42c671e0067a2a2639b43a"
AUTHENTICATION_KEY = "f93563311b354748c978913795530631"
PAYLOAD = bytes.fromhex(
    """
    f57af5fd4ae19562976ec57a5a7ad55a
    5af5c5e5c5fdf5c55ad57a4a7272d572
    62e9729566ed66e97ac54a4a5a7ad5e1
    5ae5fdd5fd5ac5d56ae56ad5c572d54a
    e54ac55a956afd6aed5a4ac562957a95
    16991691d572fd14e97ae962ed7a9f4a
    955af572e162f57a956666e17ae1f54a
    95f566d54a66e16e4afd6a9f7ae1c5c5
    5ae5d56afde916c5e94a6ec56695e14a
    fde1148416e94ad57ac5146ed59d1cc5
    """
)
ENCRYPTED = bytes.fromhex(
    """
    df5a89291e7e383e9beff765e691a737
    49c9e33139ad3001cd8da73ad07f69a2
    805a70358b5c7c8c60ed359f95cf5e08
    f713c53ff7b808250d79a19ccb8d1073
    4e3cb72ed1f0a4e85b002b248049ab07
    63dbe571bec52cf9153fdf2019e421ef
    779cd6f4bd1c8211da8c272e2fce4393
    4b9eabb87362510f254149f992599036
    f5e43102327db1ac5e78adc4f66546ed
    7abfb5a4db320fb7b9c52a61bc554e44
    """
)
TAG = bytes.fromhex("a5cdaa4d9edc53763855")


def transform() -> SeedTransform:
    return SeedTransform(*(Secret(bytes.fromhex(text)) for text in (KEY, SALT, AUTHENTICATION_KEY)))


def test_a_packet_is_that_of_the_rfc() -> None:
    """But for its tag: A.1 has that of the payload before encryption, without ROC, against RFC 3711 4.2."""
    body, tag = transform().seal_rtp(HEADER, PAYLOAD, SSRC, INDEX)
    assert body == HEADER + ENCRYPTED
    authentication_key = bytes.fromhex(AUTHENTICATION_KEY)
    assert hmac.new(authentication_key, HEADER + PAYLOAD, "sha1").digest()[: len(TAG)] == TAG
    assert hmac.new(authentication_key, body + bytes(4), "sha1").digest()[: len(tag)] == tag
    assert transform().open_rtp(len(HEADER), body, tag, SSRC, INDEX) == HEADER + PAYLOAD


@pytest.mark.parametrize("place", [0, len(HEADER), -1])
def test_a_packet_that_was_altered_is_refused(place: int) -> None:
    body, tag = transform().seal_rtp(HEADER, PAYLOAD, SSRC, INDEX)
    altered = bytearray(body)
    altered[place] ^= 1
    with pytest.raises(AuthenticationFailure):
        transform().open_rtp(len(HEADER), bytes(altered), tag, SSRC, INDEX)


def test_rtcp_comes_back_and_its_index_is_authenticated() -> None:
    key, salt = Secret(bytes(range(16))), Secret(bytes(range(14)))
    packet = bytes.fromhex("80c9000120e8f5eb") + bytes(range(40))
    body, tag = SUITE.rtcp(key, salt).seal_rtcp(packet, SSRC, 7)
    assert packet[8:] not in body
    assert SUITE.rtcp(key, salt).open_rtcp(body, tag, SSRC, 7) == packet
    with pytest.raises(AuthenticationFailure):
        SUITE.rtcp(key, salt).open_rtcp(body[:-1] + b"\x08", tag, SSRC, 8)


def test_session_keys_differ_by_label_and_by_master_key() -> None:
    key, salt = Secret(bytes(range(16))), Secret(bytes(range(14)))
    keys = {derive(key, salt, label, 16).reveal() for label in range(6)}
    assert len(keys) == 6
    assert derive(Secret(bytes(16)), salt, 0, 16).reveal() not in keys
