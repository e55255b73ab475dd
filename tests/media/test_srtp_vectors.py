"""The published vectors of RFC 3711 B.2 and B.3, RFC 6188 7, RFC 7714 16 and 17."""

import pytest

from keying.secret import Secret
from media.srtp import AuthenticationFailure
from media.srtp_transform import CounterModeTransform, GcmTransform, derive_session_key

KEYSTREAM = {
    "2b7e151628aed2a6abf7158809cf4f3c": (
        "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0",
        "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae6a2cc3787889374fbeb4c81b17ba6c44",
    ),
    "eab234764e517b2d3d160d587d8c86219740f65f99b6bcf7": (
        "35096cba4610028dc1b57503804ce37c5de986291dcce161d5165ec4568f5c9a474a40c77894bc17180202272a4c264d",
        "d108d1a31a00bad6367ec23eb044b415c8f57129fdeb970b59f917b257662d4ca5dab625811034e8cebdfeb6dc158dd3",
    ),
    "57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98": (
        "92bdd28a93c3f52511c677d08b5515a49da71b2378a854f67050756ded165bac63c4868b7096d88421b563b8c94c9a31",
        "cea518c90fd91ced9cbb18c078a547113dbc4814f4da5f00a08772b63c6a046d6eb246913062a16891433e97dd01a57f",
    ),
}
KEYSTREAM_OCTETS = 1_044_512


@pytest.mark.clause("RFC 3711", "B.2")
@pytest.mark.clause("RFC 6188", "7.1", "7.3")
@pytest.mark.parametrize("key", KEYSTREAM, ids=lambda key: f"{len(key) * 4} bit")
def test_counter_mode_keystream_is_the_published_one(key: str) -> None:
    salt = Secret(bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfd"))
    transform = CounterModeTransform(Secret(bytes.fromhex(key)), salt, Secret(bytes(20)), 10)
    body, _ = transform.seal_rtp(b"", bytes(KEYSTREAM_OCTETS), ssrc=0, index=0)
    head, tail = KEYSTREAM[key]
    assert body[:48].hex() == head
    assert body[-48:].hex() == tail


DERIVATION = [
    (
        "e1f97a0d3e018be0d64fa32c06de4139",
        "0ec675ad498afeebb6960b3aabe6",
        "c61e7a93744f39ee10734afe3ff7a087",
        "30cbbc08863d8c85d49db34a9ae1",
        (
            "cebe321f6ff7716b6fd4ab49af256a15"
            "6d38baa48f0a0acf3c34e2359e6cdbce"
            "e049646c43d9327ad175578ef7227098"
            "6371c10c9a369ac2f94a8c5fbcdddc25"
            "6d6e919a48b610ef17c2041e47403576"
            "6b68642c59bbfc2f34db60dbdfb2"
        ),
    ),
    (
        "73edc66c4fa15776fb57f9505c17136550ffda71f3e8e5f1",
        "c8522f3acd4ce86d5add78edbb11",
        "31874736a8f1143870c26e4857d8a5b2c4a354407faadabb",
        "2372b82d639b6d8503a47adc0a6c",
        "355b10973cd95b9eacf4061c7e1a7151e7cfbfcb",
    ),
    (
        "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6",
        "3b04803de51ee7c96423ab5b78d2",
        "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4",
        "fa31791685ca444a9e07c6c64e93",
        "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05",
    ),
]


@pytest.mark.clause("RFC 3711", "4.3.1", "B.3")
@pytest.mark.clause("RFC 6188", "3", "7.2", "7.4")
@pytest.mark.clause("TS 33.328", "C-1", "C-5", "C-11")
@pytest.mark.parametrize("vector", DERIVATION, ids=("128", "192", "256"))
def test_session_keys_are_the_published_ones(vector: tuple[str, ...]) -> None:
    key, salt = (Secret(bytes.fromhex(text)) for text in vector[:2])
    for label, expected in ((0, vector[2]), (2, vector[3]), (1, vector[4])):
        assert derive_session_key(key, salt, label, len(expected) // 2).reveal().hex() == expected


SALT = Secret(b"Quid pro quo")
RTP_HEADER = bytes.fromhex("8040f17b8041f8d35501a0b2")
RTP_PAYLOAD = b"Gallia est omnis divisa in partes tres"
RTP_SSRC, RTP_INDEX = 0x5501A0B2, 0xF17B
RTP_SEALED = {
    16: "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
    32: "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
}
RTCP_PACKET = bytes.fromhex(
    "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef"
)
RTCP_SSRC, RTCP_INDEX = 0x4D617273, 0x5D4
RTCP_SEALED = {
    16: "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
    32: "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
}


@pytest.mark.clause("RFC 7714", "8.1", "8.2", "16.1", "16.2")
@pytest.mark.clause("TS 33.328", "C-3")
@pytest.mark.parametrize("length", [16, 32])
def test_gcm_seals_and_opens_the_published_rtp_packet(length: int) -> None:
    transform = GcmTransform(Secret(bytes(range(length))), SALT)
    body, tag = transform.seal_rtp(RTP_HEADER, RTP_PAYLOAD, RTP_SSRC, RTP_INDEX)
    assert (body, tag) == (RTP_HEADER + bytes.fromhex(RTP_SEALED[length]), b"")
    assert transform.open_rtp(12, body, b"", RTP_SSRC, RTP_INDEX) == RTP_HEADER + RTP_PAYLOAD


@pytest.mark.clause("RFC 7714", "9.1", "9.2", "17.1", "17.2")
@pytest.mark.parametrize("length", [16, 32])
def test_gcm_seals_and_opens_the_published_rtcp_packet(length: int) -> None:
    transform = GcmTransform(Secret(bytes(range(length))), SALT)
    body, tag = transform.seal_rtcp(RTCP_PACKET, RTCP_SSRC, RTCP_INDEX)
    assert (body.hex(), tag) == (RTCP_SEALED[length], b"")
    assert transform.open_rtcp(body, b"", RTCP_SSRC, RTCP_INDEX) == RTCP_PACKET


@pytest.mark.clause("RFC 7714", "5.3")
@pytest.mark.parametrize("at", [0, 5, 11, 12, 40, -1])
def test_gcm_refuses_the_published_packet_with_one_bit_changed(at: int) -> None:
    transform = GcmTransform(Secret(bytes(range(16))), SALT)
    altered = bytearray(RTP_HEADER + bytes.fromhex(RTP_SEALED[16]))
    altered[at] ^= 1
    with pytest.raises(AuthenticationFailure):
        transform.open_rtp(12, bytes(altered), b"", RTP_SSRC, RTP_INDEX)
