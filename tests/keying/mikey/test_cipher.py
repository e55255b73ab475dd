"""AES-CM over Key data, HMAC over messages, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.cipher import (
    MAX_ENCRYPTED,
    TICKET_CSB_ID,
    aes_cm,
    mac,
    open_kemac,
    plain_kemac,
    seal_kemac,
    verify_mac,
)
from keying.mikey.codec import (
    decode,
    decode_initiator_data,
    decode_key_data,
    decode_ticket_data,
    encode_initiator_data,
    ticket_mac_input,
    without_initiator_data,
    without_mac,
)
from keying.mikey.errors import AuthenticationFailure, InvalidEncryption, InvalidMac, MalformedMessage, MikeyError
from keying.mikey.kdf import MessageKeys
from keying.mikey.ntp import t64
from keying.mikey.payloads import Kemac, KeyData
from keying.mikey.registry import EncrAlg, KeyDataType, MacAlg
from keying.secret import Secret
from tests.keying.mikey import vectors

SHA1 = MacAlg.HMAC_SHA_1_160


def key(text: str) -> Secret:
    return Secret(bytes.fromhex(text))


def keys(texts: tuple[str, str, str]) -> MessageKeys:
    return MessageKeys(*map(key, texts))


MPK_DATA = KeyData(KeyDataType.MPK, Secret(vectors.MPK), spi=b"\x01")
TGK_DATA = KeyData(KeyDataType.TGK, Secret(vectors.TGK), spi=b"\x02")


@pytest.mark.clause("RFC 3830", "4.2.3")
@pytest.mark.parametrize(
    ("block", "keystream"),
    [
        (0x0000, "E03EAD0935C95E80E166B16DD92B4EB4"),
        (0x0001, "D23513162B02D0F72A43A2FE4A5F97AB"),
        (0x0002, "41E95B3BB0A2E8DD477901E4FCA894C0"),
        (0xFEFF, "EC8CDF7398607CB0F2D21675EA9EA1E4"),
        (0xFF00, "362B7C3C6773516318A077D7FC5073AE"),
        (0xFF01, "6A2CC3787889374FBEB4C81B17BA6C44"),
    ],
)
def test_aes_cm_is_the_counter_mode_of_srtp(block: int, keystream: str) -> None:
    salt = key("F0F1F2F3F4F5F6F7F8F9FAFBFCFD")
    stream = aes_cm(key("2B7E151628AED2A6ABF7158809CF4F3C"), salt, 0, bytes(8), bytes(16 * (block + 1)))
    assert stream[-16:] == bytes.fromhex(keystream)


@pytest.mark.clause("RFC 3830", "4.2.3")
def test_csb_id_and_timestamp_enter_the_iv() -> None:
    plain = [
        aes_cm(key("00" * 16), key("00" * 14), csb_id, t, bytes(16))
        for csb_id, t in ((0, bytes(8)), (1, bytes(8)), (0, bytes(7) + b"\x01"))
    ]
    assert len(set(plain)) == 3
    salt = Secret(bytes(2) + (0x11223344).to_bytes(4) + bytes(range(8)))
    assert aes_cm(key("00" * 16), salt, 0x11223344, bytes(range(8)), bytes(16)) == plain[0]


@pytest.mark.clause("RFC 3830", "4.2.3")
def test_aes_cm_ends_where_its_block_counter_does() -> None:
    assert len(aes_cm(key("00" * 32), key("00" * 14), 0, bytes(8), bytes(MAX_ENCRYPTED))) == MAX_ENCRYPTED
    with pytest.raises(InvalidEncryption):
        aes_cm(key("00" * 32), key("00" * 14), 0, bytes(8), bytes(MAX_ENCRYPTED + 1))
    for bad_key, bad_salt, bad_t in ((24, 14, 8), (16, 12, 8), (16, 14, 4)):
        with pytest.raises(ValueError, match="length"):
            aes_cm(Secret(bytes(bad_key)), Secret(bytes(bad_salt)), 0, bytes(bad_t), b"")


@pytest.mark.clause("RFC 6043", "A.1")
def test_the_kemac_of_a_ticket_is_sealed_and_opened() -> None:
    _, t, _, kemac, v = decode_ticket_data(vectors.TICKET_DATA)
    ticket_keys = keys(vectors.TICKET_KEYS)
    assert seal_kemac(EncrAlg.AES_CM_128, ticket_keys, TICKET_CSB_ID, t64(t), (MPK_DATA, TGK_DATA)) == kemac
    assert open_kemac(kemac, ticket_keys, TICKET_CSB_ID, t64(t)) == (MPK_DATA, TGK_DATA)
    policy = decode(vectors.TRANSFER_INIT).payloads[5].policy
    verify_mac(SHA1, ticket_keys.auth, ticket_mac_input(policy, vectors.TICKET_DATA), v.mac)


@pytest.mark.clause("RFC 6043", "4.2.1.5", "4.2.3.5")
@pytest.mark.parametrize(
    ("octets", "texts", "expected"),
    [
        (
            vectors.REQUEST_RESP,
            vectors.REQUEST_RESP_KEYS,
            (
                KeyData(KeyDataType.MPK, key(vectors.MPKI), spi=b"\x01"),
                KeyData(KeyDataType.MPK, key(vectors.MPKR), spi=b"\x03"),
                TGK_DATA,
            ),
        ),
        (
            vectors.RESOLVE_RESP,
            vectors.RESOLVE_RESP_KEYS,
            (
                KeyData(KeyDataType.MPK, key(vectors.MPKI), spi=b"\x01"),
                KeyData(KeyDataType.MPK, key(vectors.FORKED_MPKR), spi=b"\x03"),
                KeyData(KeyDataType.TGK, key(vectors.FORKED_TGK), spi=b"\x02"),
            ),
        ),
    ],
    ids=["REQUEST_RESP", "RESOLVE_RESP"],
)
def test_the_keys_of_a_known_response_come_out(octets: bytes, texts, expected) -> None:
    message = decode(octets)
    (kemac,) = (payload for payload in message.payloads if isinstance(payload, Kemac))
    opened = open_kemac(kemac, keys(texts), message.header.csb_id, t64(message.payloads[0]))
    assert opened == expected
    assert seal_kemac(EncrAlg.AES_CM_128, keys(texts), message.header.csb_id, t64(message.payloads[0]), opened) == kemac


@pytest.mark.clause("RFC 6043", "5.5")
@pytest.mark.parametrize(
    ("octets", "auth", "covered"),
    [
        (vectors.REQUEST_INIT_PSK, vectors.REQUEST_INIT_AUTH, vectors.ALICE + vectors.KMS),
        (vectors.REQUEST_RESP, vectors.REQUEST_RESP_KEYS[2], vectors.REQUEST_INIT_PSK),
        (vectors.RESOLVE_INIT_PSK, vectors.RESOLVE_INIT_AUTH, vectors.BOB + vectors.KMS),
        (vectors.RESOLVE_RESP, vectors.RESOLVE_RESP_KEYS[2], vectors.RESOLVE_INIT_PSK),
        (vectors.TRANSFER_RESP, vectors.TRANSFER_RESP_AUTH, vectors.TRANSFER_INIT),
    ],
    ids=["REQUEST_INIT", "REQUEST_RESP", "RESOLVE_INIT", "RESOLVE_RESP", "TRANSFER_RESP"],
)
def test_the_mac_of_a_known_message_holds(octets: bytes, auth: str, covered: bytes) -> None:
    verify_mac(SHA1, key(auth), without_mac(octets) + covered, octets[-20:])
    with pytest.raises(AuthenticationFailure):
        verify_mac(SHA1, key(auth), without_mac(octets) + covered + b"\0", octets[-20:])


@pytest.mark.clause("RFC 6043", "5.5", "6.10")
def test_the_macs_of_transfer_init_and_its_initiator_data_hold() -> None:
    octets = vectors.TRANSFER_INIT
    verify_mac(
        SHA1,
        key(vectors.TRANSFER_INIT_AUTH),
        without_initiator_data(octets) + vectors.ALICE + vectors.BOB,
        octets[-20:],
    )
    initiator_data = decode(octets).payloads[5].initiator_data
    vi, vr = decode_initiator_data(initiator_data)
    assert vi.mac == octets[-20:]
    assert encode_initiator_data(vi, vr) == initiator_data
    verify_mac(SHA1, key(vectors.VR_AUTH), initiator_data[:-20], vr.mac)


@pytest.mark.clause("RFC 3830", "4.2.4")
@pytest.mark.clause("RFC 6043", "6.2")
def test_hmac_sha_256_with_the_published_vectors() -> None:
    # RFC 4231 has no key of 32 octets; a longer one is hashed, which its case 6 shows, so that hash is our key.
    hashed = key("45ad4b37c6e2fc0a2cfcc1b5da524132ec707615c2cae1dbbc43c97aa521db81")
    octets = b"Test Using Larger Than Block-Size Key - Hash Key First"
    expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    assert mac(MacAlg.HMAC_SHA_256_256, hashed, octets).hex() == expected
    # A key shorter than a block is padded with zeros: case 1 with its 20 octets, filled up to 32.
    padded = Secret(b"\x0b" * 20 + bytes(12))
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert mac(MacAlg.HMAC_SHA_256_256, padded, b"Hi There").hex() == expected


@pytest.mark.parametrize(("alg", "length"), [(SHA1, 20), (MacAlg.HMAC_SHA_256_256, 32)])
def test_one_bit_of_a_mac_is_enough(alg: MacAlg, length: int) -> None:
    secret = Secret(bytes(range(length)))
    good = mac(alg, secret, b"octets")
    verify_mac(alg, secret, b"octets", good)
    for bit in range(8 * length):
        bad = (int.from_bytes(good) ^ 1 << bit).to_bytes(length)
        with pytest.raises(AuthenticationFailure):
            verify_mac(alg, secret, b"octets", bad)
    for bad in (b"", good[:-1], good + b"\0"):
        with pytest.raises(AuthenticationFailure):
            verify_mac(alg, secret, b"octets", bad)


@pytest.mark.clause("RFC 3830", "4.2.4")
@pytest.mark.clause("RFC 6043", "12.1")
def test_null_macs_and_keys_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidMac, match="NULL"):
        verify_mac(MacAlg.NULL, Secret(bytes(20)), b"", b"")
    with pytest.raises(InvalidMac, match="160 bits"):
        mac(MacAlg.HMAC_SHA_256_256, Secret(bytes(20)), b"")
    with pytest.raises(InvalidMac, match="256 bits"):
        mac(SHA1, Secret(bytes(32)), b"")


@pytest.mark.clause("RFC 6043", "4.2.1.5", "12.1")
@pytest.mark.parametrize("alg", [EncrAlg.NULL, EncrAlg.AES_KW_128, EncrAlg.AES_CM_256])
def test_keys_are_not_sent_or_taken_under_another_algorithm(alg: EncrAlg) -> None:
    with pytest.raises(InvalidEncryption, match=alg.name):
        seal_kemac(alg, keys(vectors.REQUEST_RESP_KEYS), 1, bytes(8), (TGK_DATA,))
    with pytest.raises(InvalidEncryption, match=alg.name):
        open_kemac(Kemac(alg, bytes(32)), keys(vectors.REQUEST_RESP_KEYS), 1, bytes(8))


@pytest.mark.clause("RFC 6043", "6.2")
def test_a_kemac_with_a_mac_of_its_own_is_refused() -> None:
    with pytest.raises(InvalidMac):
        open_kemac(Kemac(EncrAlg.AES_CM_128, bytes(32), SHA1, bytes(20)), keys(vectors.REQUEST_RESP_KEYS), 1, bytes(8))


@pytest.mark.clause("RFC 6043", "6.10")
def test_a_wish_for_keys_has_no_keys_in_it() -> None:
    wish = KeyData(KeyDataType.TGK, Secret(bytes(16)), spi=b"\x02")
    assert plain_kemac([wish]).encr_alg is EncrAlg.NULL
    assert decode_key_data(plain_kemac([wish]).encr_data) == (wish,)
    with pytest.raises(MalformedMessage):
        plain_kemac([wish, TGK_DATA])


@given(st.binary(max_size=200))
def test_what_decrypts_to_no_key_data_is_a_typed_error(octets: bytes) -> None:
    try:
        opened = open_kemac(Kemac(EncrAlg.AES_CM_128, octets), keys(vectors.REQUEST_RESP_KEYS), 1, bytes(8))
    except MikeyError:
        return
    assert seal_kemac(EncrAlg.AES_CM_128, keys(vectors.REQUEST_RESP_KEYS), 1, bytes(8), opened).encr_data == octets


@pytest.mark.clause("RFC 6043", "6.2")
def test_the_256_bit_suite_encrypts_with_a_256_bit_key() -> None:
    long = MessageKeys(Secret(bytes(range(32))), Secret(bytes(14)), Secret(bytes(32)))
    kemac = seal_kemac(EncrAlg.AES_CM_256, long, 7, bytes(8), (TGK_DATA,))
    assert open_kemac(kemac, long, 7, bytes(8)) == (TGK_DATA,)
    assert vectors.TGK not in kemac.encr_data
