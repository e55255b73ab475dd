"""The PRF and every label, against foreign vectors and the keys of a whole exchange."""

from __future__ import annotations

import pytest

from keying.mikey.errors import InvalidEncryption, InvalidMac, InvalidPrf, Unspecified
from keying.mikey.kdf import (
    SUITES,
    Constant,
    MessageKeys,
    Phase,
    fork,
    message_keys,
    mpki,
    mpkr,
    prf,
    session_salt,
    suite_of,
    tek,
    ticket_keys,
    vr_auth_key,
)
from keying.mikey.registry import EncrAlg, MacAlg, PrfFunc
from keying.secret import Secret
from tests.keying.mikey import vectors

ONE, TWO = PrfFunc.MIKEY_1, PrfFunc.PRF_HMAC_SHA_256
SUITE = SUITES["128"]


def key(text: str) -> Secret:
    return Secret(bytes.fromhex(text))


def shown(keys: MessageKeys) -> tuple[str, str, str]:
    return keys.encr.reveal().hex(), keys.salt.reveal().hex(), keys.auth.reveal().hex()


@pytest.mark.clause("RFC 6043", "6.1")
@pytest.mark.parametrize(
    ("cs_id", "csb_id", "constant", "bits", "output"),
    [
        (0x04, 0x05A85C16, 0x15798CEF, 128, "3924935940c154ccbc3c2ad05c8f5181"),
        (0x04, 0x05A85C16, 0x39A2C14B, 96, "1725869b80f370cc9f24e13b"),
        (0x00, 0x05A85C16, 0x15798CEF, 128, "f17c80a8d2f9befa47cf712603d7229a"),
        (0x00, 0x05A85C16, 0x39A2C14B, 96, "c3b7b561a291a1d3abef482b"),
        (0x04, 0x0633F457, 0x2AD01C64, 128, "59aaa49ebb54813602b7cc165961b4e8"),
        (0x04, 0x0633F457, 0x39A2C14B, 96, "745eb4df7d155c473114a799"),
    ],
)
def test_prf_hmac_sha_256_agrees_with_a_foreign_implementation(
    cs_id: int, csb_id: int, constant: int, bits: int, output: str
) -> None:
    rand = bytes.fromhex("4339F62F55AAC86348846A482C893802")
    label = constant.to_bytes(4) + bytes([cs_id]) + csb_id.to_bytes(4) + rand  # RFC 3830 4.1.3: no phase, no length
    assert prf(TWO, key("A27B7D578EEB9B1EE7705E385996D300"), label, bits) == key(output)


@pytest.mark.clause("RFC 3830", "4.1.2")
@pytest.mark.parametrize(
    ("func", "bits", "output"),
    [
        (ONE, 160, "0e84844afdda023b708c4a8e9eb8871198b5c8ec"),
        (TWO, 256, "14dc868321c33ef5b272bcf950d3bea4a3e64d9b181447743f4ae92398e6f180"),
    ],
)
def test_a_key_beyond_256_bits_is_cut_into_blocks(func: PrfFunc, bits: int, output: str) -> None:
    assert prf(func, Secret(bytes(range(48))), b"label", bits) == key(output)


@pytest.mark.clause("RFC 3830", "4.1.2")
@pytest.mark.parametrize("func", [ONE, TWO])
def test_a_shorter_output_is_the_left_part_of_a_longer_one(func: PrfFunc) -> None:
    whole = prf(func, Secret(bytes(range(16))), b"label", 1024)
    assert [prf(func, Secret(bytes(range(16))), b"label", 8 * n) for n in (1, 20, 32, 33)] == [
        whole.part(0, n) for n in (1, 20, 32, 33)
    ]


@pytest.mark.clause("RFC 3830", "4.1.3", "4.1.4")
def test_the_constants_are_decimal_digits_of_e() -> None:
    # RFC 3830 4.1.3 and RFC 6043 5.1.1 take nine digits at a time; each constant has to be one of those groups.
    digits, a, b = "", *_e(400)
    digits = str(10**400 * a // b)
    for constant in Constant:
        assert f"{int(constant):09d}" in digits, constant.name


def _e(places: int) -> tuple[int, int]:
    numerator, denominator, n = 1, 1, 1
    while denominator < 10 ** (places + 10):
        numerator, denominator, n = numerator * n + 1, denominator * n, n + 1
    return numerator, denominator


@pytest.mark.clause("RFC 6043", "5.1.2")
def test_request_messages_are_protected_by_the_psk_and_randri() -> None:
    psk = Secret(vectors.PSK_I)
    first = message_keys(ONE, psk, Phase.INITIAL, vectors.CSB_REQUEST, vectors.RAND_I_REQUEST, b"", SUITE)
    assert first.auth == key(vectors.REQUEST_INIT_AUTH)
    answer = message_keys(ONE, psk, Phase.RESPONSE, vectors.CSB_REQUEST, vectors.RAND_I_REQUEST, b"", SUITE)
    assert shown(answer) == vectors.REQUEST_RESP_KEYS


@pytest.mark.clause("RFC 6043", "5.1.2")
def test_resolve_messages_are_protected_by_the_psk_and_randrr() -> None:
    psk = Secret(vectors.PSK_R)
    first = message_keys(ONE, psk, Phase.INITIAL, vectors.CSB_RESOLVE, b"", vectors.RAND_R_RESOLVE, SUITE)
    assert first.auth == key(vectors.RESOLVE_INIT_AUTH)
    answer = message_keys(ONE, psk, Phase.RESPONSE, vectors.CSB_RESOLVE, b"", vectors.RAND_R_RESOLVE, SUITE)
    assert shown(answer) == vectors.RESOLVE_RESP_KEYS


@pytest.mark.clause("RFC 6043", "A.2.1", "A.2.2")
def test_ticket_keys_come_from_the_tpk_and_the_transfer_keys_from_the_mpk() -> None:
    assert shown(ticket_keys(ONE, Secret(vectors.TPK), vectors.RAND_TICKET, SUITE)) == vectors.TICKET_KEYS
    assert mpki(ONE, Secret(vectors.MPK), vectors.RAND_TICKET) == key(vectors.MPKI)
    assert mpkr(ONE, Secret(vectors.MPK), vectors.RAND_TICKET) == key(vectors.MPKR)


@pytest.mark.clause("TS 33.328", "D-4")
@pytest.mark.clause("RFC 6043", "5.1.1")
def test_mpkr_and_tgk_fork_with_the_responders_identity_and_randrkms() -> None:
    assert fork(ONE, key(vectors.MPKR), Constant.FORK_MPKR, vectors.BOB, vectors.RAND_KMS) == key(vectors.FORKED_MPKR)
    forked = fork(ONE, Secret(vectors.TGK), Constant.FORK_TGK, vectors.BOB, vectors.RAND_KMS)
    assert forked == key(vectors.FORKED_TGK)
    others = [
        fork(ONE, Secret(vectors.TGK), Constant.FORK_TGK, b"sip:carol@b.example", vectors.RAND_KMS),
        fork(ONE, Secret(vectors.TGK), Constant.FORK_TGK, vectors.BOB, bytes(16)),
    ]
    assert all(forked != other for other in others)
    with pytest.raises(ValueError, match="forking"):
        fork(ONE, Secret(vectors.TGK), Constant.TEK, vectors.BOB, vectors.RAND_KMS)


@pytest.mark.clause("RFC 6043", "5.1.2", "6.10")
def test_transfer_messages_are_protected_by_mpki_and_forked_mpkr_and_vr_by_mpkr() -> None:
    first = message_keys(
        ONE, key(vectors.MPKI), Phase.INITIAL, vectors.CSB_TRANSFER, vectors.RAND_I_TRANSFER, b"", SUITE
    )
    assert first.auth == key(vectors.TRANSFER_INIT_AUTH)
    assert vr_auth_key(ONE, key(vectors.MPKR), SUITE) == key(vectors.VR_AUTH)
    rands = (vectors.RAND_I_TRANSFER, vectors.RAND_R_TRANSFER)
    answer = message_keys(ONE, key(vectors.FORKED_MPKR), Phase.RESPONSE, vectors.CSB_TRANSFER, *rands, SUITE)
    assert answer.auth == key(vectors.TRANSFER_RESP_AUTH)


@pytest.mark.clause("RFC 6043", "5.1.3")
@pytest.mark.parametrize("cs_id", vectors.SESSION_KEYS)
def test_every_crypto_session_has_a_tek_and_a_salt_of_its_own(cs_id: int) -> None:
    rands = (vectors.RAND_I_TRANSFER, vectors.RAND_R_TRANSFER)
    expected_tek, expected_salt = vectors.SESSION_KEYS[cs_id]
    assert tek(ONE, key(vectors.FORKED_TGK), cs_id, *rands, 128) == key(expected_tek)
    assert session_salt(ONE, key(vectors.FORKED_TGK), cs_id, *rands) == key(expected_salt)


@pytest.mark.clause("RFC 6043", "5.1.3")
def test_session_keys_need_a_random_value_of_one_side() -> None:
    with pytest.raises(Unspecified):
        tek(ONE, Secret(vectors.TGK), 1, b"", b"", 128)
    one_side = [
        tek(ONE, Secret(vectors.TGK), 1, b"x" * 16, b"", 128),
        tek(ONE, Secret(vectors.TGK), 1, b"", b"x" * 16, 128),
    ]
    assert one_side[0] != one_side[1]


@pytest.mark.clause("RFC 6043", "12.1")
def test_the_256_bit_suite_has_256_bit_keys() -> None:
    suite = SUITES["256"]
    keys = message_keys(TWO, Secret(bytes(range(32))), Phase.INITIAL, 1, bytes(32), b"", suite)
    assert (len(keys.encr), len(keys.salt), len(keys.auth)) == (32, 14, 32)
    assert len(vr_auth_key(TWO, Secret(bytes(range(32))), suite)) == 32
    assert len(fork(TWO, Secret(bytes(range(32))), Constant.FORK_TGK, b"x", bytes(32))) == 32


@pytest.mark.clause("TS 33.328", "D-3")
@pytest.mark.clause("RFC 6043", "12.1")
def test_algorithms_of_different_strength_do_not_go_together() -> None:
    assert suite_of(ONE, MacAlg.HMAC_SHA_1_160, EncrAlg.AES_CM_128) is SUITES["128"]
    assert suite_of(TWO, MacAlg.HMAC_SHA_256_256, EncrAlg.AES_CM_256) is SUITES["256"]
    assert suite_of(TWO) is SUITES["256"]
    for mac_alg in (MacAlg.HMAC_SHA_256_256, MacAlg.NULL):
        with pytest.raises(InvalidMac):
            suite_of(ONE, mac_alg)
    for encr_alg in (EncrAlg.NULL, EncrAlg.AES_KW_128, EncrAlg.AES_CM_128):
        with pytest.raises(InvalidEncryption):
            suite_of(TWO, encr_alg=encr_alg)
    with pytest.raises(InvalidPrf):
        suite_of(112)  # type: ignore[arg-type]


@pytest.mark.clause("RFC 6043", "12.1")
def test_a_key_below_128_bits_is_not_used() -> None:
    for derive in (
        lambda short: prf(ONE, short, b"label", 160),
        lambda short: mpki(ONE, short, bytes(16)),
        lambda short: fork(ONE, short, Constant.FORK_TGK, b"x", bytes(16)),
        lambda short: tek(ONE, short, 1, bytes(16), b"", 128),
    ):
        for octets in (0, 1, 15):
            with pytest.raises(Unspecified, match="128"):
                derive(Secret(bytes(octets)))


def test_keys_are_whole_octets_and_the_prf_is_a_known_one() -> None:
    for bits in (0, -8, 12):
        with pytest.raises(ValueError, match="octets"):
            prf(ONE, Secret(bytes(16)), b"label", bits)
    with pytest.raises(InvalidPrf):
        prf(5, Secret(bytes(16)), b"label", 128)  # type: ignore[arg-type]


def test_derived_keys_do_not_print() -> None:
    keys = message_keys(ONE, Secret(vectors.PSK_I), Phase.RESPONSE, 1, bytes(16), b"", SUITE)
    assert not any(text in repr(keys) for text in shown(keys))
