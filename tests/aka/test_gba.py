"""Keys of a bootstrapping and the document that tells of them (TS 33.220 Annex B, TS 24.109 Annex C)."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.secret import Secret
from signalling.aka.gba import (
    UA_IMS_KMS,
    BootstrappingInfo,
    Btid,
    GbaFormatError,
    bootstrap_key,
    kdf,
    naf_id,
    naf_key,
    split_naf_id,
)

RAND = bytes.fromhex("23553cbe9637a89d218ae64dae47bf35")
CK = Secret(bytes.fromhex("b40ba9a3c58b2a05bbf0d987b21bf8cb"))
IK = Secret(bytes.fromhex("f769bcd751044604127672711c6d3441"))
IMPI = "001010000000001@ims.test"
BTID = Btid(RAND, "bsf.ims.test")
INFO = BootstrappingInfo(BTID, 1_900_000_000.0, 1_899_996_400.0)


def straight_hmac(key, message):
    """HMAC-SHA-256 as RFC 2104 writes it, so that the check shares nothing with the code under test."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(octet ^ 0x36 for octet in block) + message).digest()
    return hashlib.sha256(bytes(octet ^ 0x5C for octet in block) + inner).digest()


@pytest.mark.clause("TS 33.220", "B.2")
@pytest.mark.parametrize(
    ("count", "kasme", "kenb"),
    [  # KeNB of LTE uses the same function with FC 0x11 and the NAS count: values that OpenAirInterface tests with
        (
            0xDB1A3569,
            "238e457e0f758badbca8d34bb2612c10428d426757cb5553b2b184fa64bfc549",
            "8eb1bf0083bd79281ef7034bf677e9ec529f196e15287514a2d122acf713b8e8",
        ),
        (
            0x001FB39C,
            "564cb4d2007e4f293b67d9b29392a64add4c776b133d895af6499aa6882aab62",
            "009010688f85855e218339de6c5bd7b6394958da12ddfbf7559e978ce43408f1",
        ),
        (
            0x00000012,
            "fa77e41f693c2a6e71455cb8687e6e6058ef91e2f5abd1bd3c496179481f308c",
            "0afe81266de52b8c8f1c3f4fe799be883f364b018e7368c41f14dd6d050e13e1",
        ),
        (
            0xAABBCCDD,
            "70d7071aa016a087f9d888ad51f3a83e2c83443ab27843b35bd1b4923615091c",
            "158781a2fdf2ce53abfa186d22eb751decb8273471dc792b5016c9016947d1ae",
        ),
    ],
)
def test_the_generic_function_gives_published_values(count, kasme, kenb):
    assert kdf(Secret(bytes.fromhex(kasme)), 0x11, count.to_bytes(4, "big")) == Secret(bytes.fromhex(kenb))


@pytest.mark.clause("TS 33.220", "B.3", "4.5.2", "H.3")
def test_ks_naf_is_the_hmac_over_label_rand_impi_and_naf_id():
    ks = bootstrap_key(CK, IK)
    assert ks.reveal() == CK.reveal() + IK.reveal()
    naf = b"kms.ims.test\x01\x00\x00\x00\x06"
    assert naf_id("KMS.ims.test") == naf
    text = b"\x01gba-me\x00\x06" + RAND + b"\x00\x10" + IMPI.encode() + b"\x00\x18" + naf + b"\x00\x11"
    key = naf_key(ks, RAND, IMPI, naf)
    assert key.reveal() == straight_hmac(ks.reveal(), text) == hmac.digest(ks.reveal(), text, "sha256")
    # openssl dgst -sha256 -mac HMAC -macopt hexkey:<CK IK> over the same text
    assert key.reveal().hex() == "2b1d1cd267e5769c80e4bb4211d0c06cb69c3499333a0f054bc3ffb8d033e05f"
    assert key.reveal().hex()[:8] not in repr(key)


@pytest.mark.clause("TS 33.220", "B.3")
@given(st.binary(min_size=32, max_size=32), st.sampled_from(["ks", "rand", "impi", "naf", "protocol"]))
def test_each_input_changes_the_key(ks, changed):
    values = {"ks": ks, "rand": RAND, "impi": IMPI, "naf": "kms.ims.test", "protocol": UA_IMS_KMS}
    other = dict(values)
    other[changed] = {
        "ks": bytes((ks[0] ^ 1,)) + ks[1:],
        "rand": RAND[::-1],
        "impi": IMPI + "x",
        "naf": "kms.partner.test",
        "protocol": bytes.fromhex("0100000002"),
    }[changed]
    first, second = (
        naf_key(Secret(found["ks"]), found["rand"], found["impi"], naf_id(found["naf"], found["protocol"]))
        for found in (values, other)
    )
    assert first != second


def test_keys_of_a_wrong_length_are_no_input():
    for make in (
        lambda: bootstrap_key(CK, Secret(b"short")),
        lambda: naf_key(Secret(b"short"), RAND, IMPI, naf_id("kms.ims.test")),
        lambda: naf_key(bootstrap_key(CK, IK), b"short", IMPI, naf_id("kms.ims.test")),
        lambda: kdf(CK, 1, bytes(65536)),
        lambda: kdf(CK, 256, b""),
    ):
        with pytest.raises(ValueError):
            make()


@pytest.mark.clause("TS 33.220", "4.5.3", "H.1")
def test_a_naf_id_parts_into_name_and_protocol():
    assert split_naf_id(naf_id("kms.ims.test")) == ("kms.ims.test", UA_IMS_KMS)
    for bad in (
        b"",
        b"\x01\x00\x00\x00\x06",
        b"KMS.test" + UA_IMS_KMS,
        b"k ms.test" + UA_IMS_KMS,
        b"\xff.test" + UA_IMS_KMS,
    ):
        with pytest.raises(GbaFormatError):
            split_naf_id(bad)
    for bad in ("", ".", "a..b", "kms.ims.test.", "x" * 300, "kms/ims", "kms.ims.test\n", "-a.test"):
        with pytest.raises(GbaFormatError):
            naf_id(bad)


@pytest.mark.clause("TS 33.220", "4.5.2")
@given(st.binary(min_size=16, max_size=16))
def test_a_btid_is_rand_at_the_bsf(rand):
    btid = Btid(rand, "bsf.ims.test")
    assert str(btid) == base64.b64encode(rand).decode() + "@bsf.ims.test"
    assert Btid.parse(str(btid)) == btid


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "bsf.ims.test",
        "AAAA@bsf.ims.test",
        "I1U8vpY3qJ0hiuZNrke/NQ@bsf.ims.test",
        "I1U8vpY3qJ0hiuZNrke/NR==@bsf.ims.test",
        "I1U8vpY3qJ0hiuZNrke/NQ==@",
        "I1U8vpY3qJ0hiuZNrke/NQ==@bsf ims",
        "I1U8vpY3qJ0hiuZNrke/NQ== @bsf.ims.test",
        "I1U8vpY3qJ0hiuZNrke/NQ==@" + "x" * 300,
        "€1U8vpY3qJ0hiuZNrke/NQ==@bsf.ims.test",
    ],
)
def test_what_is_no_btid_is_refused(text):
    with pytest.raises(GbaFormatError):
        Btid.parse(text)


@pytest.mark.clause("TS 24.109", "C.1")
def test_the_document_is_that_of_the_schema():
    assert INFO.format() == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b'<BootstrappingInfo xmlns="uri:3gpp-gba"><btid>I1U8vpY3qJ0hiuZNrke/NQ==@bsf.ims.test</btid>'
        b"<lifetime>2030-03-17T17:46:40Z</lifetime>"
        b"<Extension><currenttime>2030-03-17T16:46:40Z</currenttime></Extension></BootstrappingInfo>\n"
    )
    assert BootstrappingInfo.parse(INFO.format()) == INFO
    bare = BootstrappingInfo(BTID, 1_900_000_000.0)
    assert BootstrappingInfo.parse(bare.format()) == bare
    foreign = (
        INFO.format()
        .replace(b"<btid>", b'<x:new xmlns:x="urn:x"><x:y/></x:new><btid a="b"> ')
        .replace(b":40Z", b":40.25Z")
    )
    assert BootstrappingInfo.parse(foreign) == INFO


@pytest.mark.attack("T7")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<BootstrappingInfo", b"<Bootstrapping"),
        (b"uri:3gpp-gba", b"uri:other"),
        (b"<btid>", b"<btid></btid><btid>"),
        (b"<btid>I1U8", b"<btid>"),
        (b"40Z</life", b"40+02:00</life"),
        (b"-03-17T17", b"-02-31T17"),
        (b"<lifetime>", b"<life>"),
        (b'UTF-8"?>', b'UTF-8"?><!DOCTYPE x [<!ENTITY a "aaaa">]>'),
        (b'UTF-8"?>', b'UTF-8"?><!DOCTYPE x SYSTEM "file:///etc/passwd">'),
        (b"</BootstrappingInfo>", b""),
        (b"\n<Boot", b"x<Boot"),
        (b"Info>\n", b"Info>" + b" " * 5000),
        (b"bsf.ims", b"\xff\xfe"),
    ],
)
def test_another_document_is_refused(old, new):
    assert old in INFO.format()
    with pytest.raises(GbaFormatError):
        BootstrappingInfo.parse(INFO.format().replace(old, new))


@pytest.mark.attack("T7")
@given(st.binary(max_size=200))
def test_octets_of_any_kind_are_read_or_refused(octets):
    for document in (octets, INFO.format() + octets, INFO.format()[:60] + octets + INFO.format()[60:]):
        try:
            found = BootstrappingInfo.parse(document)
        except GbaFormatError:
            continue
        assert found.btid.bsf
