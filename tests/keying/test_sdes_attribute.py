import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.sdes import (
    BadKeyLength,
    BadKeyMethod,
    BadLifetime,
    BadMki,
    BadSessionParameter,
    BadTag,
    CryptoAttribute,
    CryptoSyntaxError,
    InlineKey,
    KeyReuse,
    SdesError,
    UnknownSuite,
    generate,
    parse_crypto,
)
from keying.secret import Secret
from keying.suites import RECOGNISED_SUITES, SUITES, find_suite

KEY = base64.b64encode(bytes(range(30))).decode()
OTHER = base64.b64encode(bytes(range(100, 130))).decode()
CM80 = "AES_CM_128_HMAC_SHA1_80"


def line(tail="", *, tag="1", suite=CM80, key=KEY, params=""):
    return f"{tag} {suite} inline:{key}{tail}{params}"


@pytest.mark.clause("RFC 4568", "9.1", "SDES-2")
@pytest.mark.parametrize("tag", ["1", "0", "999999999"])
def test_a_tag_is_up_to_nine_digits(tag):
    assert parse_crypto(line(tag=tag)).tag == int(tag)


@pytest.mark.clause("RFC 4568", "4.1", "SDES-2")
@pytest.mark.parametrize("tag", ["01", "1000000000", "-1", "+1", "a", "1.0", "١"])
def test_any_other_tag_is_refused(tag):
    with pytest.raises((BadTag, CryptoSyntaxError)):
        parse_crypto(line(tag=tag))


@pytest.mark.clause("RFC 4568", "6.2", "SDES-3", "SDES-5")
@pytest.mark.clause("RFC 6188", "4")
@pytest.mark.clause("RFC 7714", "13.2", "14.2")
@pytest.mark.clause("TS 33.328", "C-1", "C-2", "C-3")
@pytest.mark.parametrize(
    ("name", "key", "salt", "chars", "tags", "lifetimes"),
    [
        ("AES_CM_128_HMAC_SHA1_80", 16, 14, 40, (10, 10), (2**48, 2**31)),
        ("AES_CM_128_HMAC_SHA1_32", 16, 14, 40, (4, 10), (2**48, 2**31)),
        ("F8_128_HMAC_SHA1_80", 16, 14, 40, (10, 10), (2**48, 2**31)),
        ("AES_192_CM_HMAC_SHA1_80", 24, 14, 52, (10, 10), (2**31, 2**31)),
        ("AES_192_CM_HMAC_SHA1_32", 24, 14, 52, (4, 10), (2**31, 2**31)),
        ("AES_256_CM_HMAC_SHA1_80", 32, 14, 64, (10, 10), (2**31, 2**31)),
        ("AES_256_CM_HMAC_SHA1_32", 32, 14, 64, (4, 10), (2**31, 2**31)),
        ("AEAD_AES_128_GCM", 16, 12, 40, (16, 16), (2**48, 2**31)),
        ("AEAD_AES_256_GCM", 32, 12, 60, (16, 16), (2**48, 2**31)),
    ],
)
def test_the_table_of_suites(name, key, salt, chars, tags, lifetimes):
    suite = find_suite(name.lower())
    assert suite is not None
    assert (suite.name, suite.key_length, suite.salt_length) == (name, key, salt)
    assert (suite.srtp_tag_length, suite.srtcp_tag_length) == tags
    assert (suite.max_srtp_packets, suite.max_srtcp_packets) == lifetimes
    text = base64.b64encode(bytes(key + salt)).decode()
    assert len(text) == chars
    attribute = parse_crypto(line(suite=name.lower(), key=text))
    assert (len(attribute.master_key), len(attribute.master_salt)) == (key, salt)
    assert attribute.encode() == line(suite=name, key=text)


@pytest.mark.clause("RFC 4568", "6.2", "SDES-3")
@pytest.mark.parametrize("name", ["AES_CM_128_HMAC_SHA1_81", "NULL_HMAC_SHA1_80", "x"])
def test_an_unregistered_suite_is_refused(name):
    with pytest.raises(UnknownSuite):
        parse_crypto(line(suite=name))


@pytest.mark.clause("RFC 4568", "SDES-3")
@pytest.mark.parametrize("name", sorted(RECOGNISED_SUITES))
def test_a_recognised_suite_is_read_and_never_generated(name):
    text = base64.b64encode(bytes(RECOGNISED_SUITES[name].key_salt_length)).decode()
    assert parse_crypto(line(suite=name, key=text)).suite.name == name
    with pytest.raises(UnknownSuite):
        generate(name, 1)


@pytest.mark.clause("RFC 4568", "6.1", "SDES-4")
@pytest.mark.clause("TS 33.328", "E-1")
@pytest.mark.parametrize("method", ["url", "INLINE2", "mikey", "uri"])
def test_only_the_inline_method_is_taken(method):
    with pytest.raises(BadKeyMethod):
        parse_crypto(f"1 {CM80} {method}:{KEY}")


@pytest.mark.clause("RFC 4568", "4", "SDES-3")
def test_method_and_parameters_are_read_in_any_case_and_written_in_the_registered_one():
    attribute = parse_crypto(f"1 aes_cm_128_hmac_sha1_80 INLINE:{KEY} kdr=3 unencrypted_srtcp fec_order=fec_srtp")
    assert attribute.encode() == f"1 {CM80} inline:{KEY} KDR=3 UNENCRYPTED_SRTCP FEC_ORDER=FEC_SRTP"


@pytest.mark.clause("RFC 4568", "6.1", "SDES-5")
@pytest.mark.clause("TS 33.328", "E-3")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    "key",
    [
        KEY[:-4],
        KEY + "AAAA",
        KEY[:-1],
        "A" * 39,
        "",
        "=" * 40,
        KEY[:20] + "=" + KEY[21:],
        KEY[:39] + "-",
        KEY[:39] + "_",
        KEY[:39] + "\N{LATIN SMALL LETTER E WITH ACUTE}",
        KEY + "===",
    ],
)
def test_a_key_of_the_wrong_length_or_alphabet_is_refused(key):
    with pytest.raises((BadKeyLength, CryptoSyntaxError)):
        parse_crypto(line(key=key))


@pytest.mark.clause("RFC 4568", "6.1", "SDES-5")
def test_padding_is_optional_on_input_and_written_on_output():
    text = base64.b64encode(bytes(range(28))).decode()
    assert text.endswith("==")
    with_padding = parse_crypto(line(suite="AEAD_AES_128_GCM", key=text))
    without = parse_crypto(line(suite="AEAD_AES_128_GCM", key=text.rstrip("=")))
    assert with_padding == without
    assert without.encode().endswith("==")


@pytest.mark.clause("RFC 4568", "6.1", "SDES-6")
@pytest.mark.clause("TS 33.328", "E-4")
@pytest.mark.parametrize(
    ("text", "packets"),
    [("2^20", 1 << 20), ("2^48", 1 << 48), ("281474976710656", 1 << 48), ("1", 1), ("1066", 1066), ("2^0", 1)],
)
def test_a_lifetime_is_a_decimal_or_a_power_of_two(text, packets):
    attribute = parse_crypto(line(f"|{text}"))
    assert attribute.keys[0].lifetime == packets
    assert attribute.keys[0].mki is None
    assert attribute.max_srtp_packets == packets
    assert attribute.max_srtcp_packets == min(packets, 2**31)


@pytest.mark.clause("RFC 4568", "6.1", "SDES-6")
@pytest.mark.clause("TS 33.328", "E-4")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    "text",
    [
        "0",
        "00",
        "01",
        "2^49",
        "2^",
        "2^048",
        "2^99999999999999999999",
        "281474976710657",
        "9" * 400,
        "-1",
        "3^4",
        "2^2^2",
        "x",
    ],
)
def test_any_other_lifetime_is_refused(text):
    with pytest.raises((BadLifetime, CryptoSyntaxError)):
        parse_crypto(line(f"|{text}"))


@pytest.mark.clause("RFC 6188", "4")
def test_the_lifetime_is_measured_against_the_suite():
    text = base64.b64encode(bytes(46)).decode()
    assert parse_crypto(line("|2^31", suite="AES_256_CM_HMAC_SHA1_80", key=text)).max_srtp_packets == 2**31
    with pytest.raises(BadLifetime):
        parse_crypto(line("|2^32", suite="AES_256_CM_HMAC_SHA1_80", key=text))


@pytest.mark.clause("RFC 4568", "6.1", "SDES-6")
def test_without_a_lifetime_the_limits_of_the_suite_hold():
    attribute = parse_crypto(line())
    assert (attribute.max_srtp_packets, attribute.max_srtcp_packets) == (2**48, 2**31)


@pytest.mark.clause("RFC 4568", "6.1", "SDES-6", "SDES-6a")
@pytest.mark.clause("TS 33.328", "E-5")
@pytest.mark.clause("TS 33.328", "C-6")
def test_the_field_with_a_colon_is_the_mki():
    alone = parse_crypto(line("|1066:4")).keys[0]
    assert (alone.lifetime, alone.mki, alone.mki_length) == (None, 1066, 4)
    assert alone.mki_octets == b"\x00\x00\x04\x2a"
    both = parse_crypto(line("|2^20|1:4")).keys[0]
    assert (both.lifetime, both.mki, both.mki_length) == (1 << 20, 1, 4)


@pytest.mark.clause("RFC 4568", "6.1", "SDES-6a")
@pytest.mark.clause("TS 33.328", "E-5")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    "text",
    ["0:4", "01:4", "1:0", "1:04", "1:129", "1:1000", "1:", ":4", "256:1", "1:4:4", "-1:4", "1:x", "9" * 310 + ":128"],
)
def test_any_other_mki_is_refused(text):
    with pytest.raises((BadMki, CryptoSyntaxError)):
        parse_crypto(line(f"|{text}"))


@pytest.mark.clause("RFC 4568", "6.1")
@pytest.mark.parametrize("tail", ["|1:4|2^20", "|2^20|1:4|x", "|", "||1:4", "|2^20|2^20"])
def test_fields_behind_the_key_stand_in_their_order(tail):
    with pytest.raises(SdesError):
        parse_crypto(line(tail))


@pytest.mark.clause("RFC 4568", "4.3", "6.1", "SDES-7")
def test_several_keys_need_an_mki_each_of_one_length():
    keys = parse_crypto(f"1 {CM80} inline:{KEY}|1:4;inline:{OTHER}|2^20|2:4").keys
    assert [key.mki for key in keys] == [1, 2]
    assert keys[1].lifetime == 1 << 20


@pytest.mark.clause("RFC 4568", "4.3", "6.1", "SDES-7")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        (f"{KEY}|1:4", OTHER, BadMki),
        (KEY, OTHER, BadMki),
        (f"{KEY}|1:4", f"{OTHER}|2:2", BadMki),
        (f"{KEY}|1:4", f"{OTHER}|1:4", BadMki),
        (f"{KEY}|1:4", f"{KEY}|2:4", KeyReuse),
    ],
)
def test_several_keys_without_proper_mki_are_refused(first, second, fault):
    with pytest.raises(fault):
        parse_crypto(f"1 {CM80} inline:{first};inline:{second}")


@pytest.mark.clause("RFC 4568", "6.3", "SDES-8")
@pytest.mark.clause("TS 33.328", "E-6")
@pytest.mark.parametrize(
    "param",
    [
        "KDR=0",
        "KDR=1",
        "KDR=24",
        "WSH=64",
        "WSH=1024",
        "FEC_ORDER=FEC_SRTP",
        "FEC_ORDER=SRTP_FEC",
        "UNENCRYPTED_SRTP",
        "UNENCRYPTED_SRTCP",
        "UNAUTHENTICATED_SRTP",
    ],
)
def test_the_known_session_parameters_are_read(param):
    assert parse_crypto(line(params=f" {param}")).session_params == (param,)


@pytest.mark.clause("RFC 4568", "6.3", "SDES-8")
@pytest.mark.clause("TS 33.328", "E-6")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    "param",
    [
        "KDR=25",
        "KDR=01",
        "KDR=",
        "KDR",
        "WSH=63",
        "WSH=064",
        "WSH=x",
        "FEC_ORDER=NONE",
        "FEC_KEY=",
        "UNENCRYPTED_SRTP=1",
        "FOO",
        "FOO=1",
        "KDR=1 KDR=1",
        "UNENCRYPTED_SRTP unencrypted_srtp",
    ],
)
def test_unknown_malformed_or_repeated_session_parameters_are_refused(param):
    with pytest.raises((BadSessionParameter, CryptoSyntaxError)):
        parse_crypto(line(params=f" {param}"))


@pytest.mark.clause("RFC 4568", "6.3.7", "SDES-8")
def test_an_unknown_parameter_marked_optional_is_ignored():
    assert parse_crypto(line(params=" -FOO=1 KDR=2")).session_params == ("KDR=2",)


@pytest.mark.clause("RFC 4568", "6.3.5", "SDES-8")
@pytest.mark.attack("T8")
def test_fec_keys_are_kept_as_secrets_and_differ_from_the_master_key():
    attribute = parse_crypto(line(params=f" FEC_KEY=inline:{OTHER}"))
    assert attribute.fec_keys == (InlineKey(Secret(bytes(range(100, 130)))),)
    assert OTHER not in repr(attribute)
    assert attribute.encode() == line(params=f" FEC_KEY=inline:{OTHER}")
    with pytest.raises(KeyReuse):
        parse_crypto(line(params=f" FEC_KEY=inline:{KEY}"))


@pytest.mark.clause("RFC 4568", "9.1")
def test_fields_may_be_separated_by_any_white_space():
    assert parse_crypto(f"1\t{CM80}  inline:{KEY} \t KDR=1") == parse_crypto(line(params=" KDR=1"))


@pytest.mark.clause("RFC 4568", "9.1")
@pytest.mark.attack("T2")
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1",
        f"1 {CM80}",
        f"1 {CM80} inline:",
        f"1 {CM80} :{KEY}",
        f"1 {CM80} inline",
        f"1 {CM80} inline:{KEY};",
        f"1 {CM80} inline:{KEY}\x00",
        f"1 {CM80} inline:{KEY}\r\n",
        "1 " + "x" * 5000,
    ],
)
def test_broken_lines_are_refused(text):
    with pytest.raises(SdesError):
        parse_crypto(text)


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "text",
    [
        line("|x"),
        line(tag="x"),
        f"{KEY} {CM80} inline:{KEY}",
        f"1 {KEY} inline:{KEY}",
        f"1 {CM80} {KEY}:{KEY}",
        line(params=f" {KEY}"),
        line(key=KEY + "A"),
    ],
)
def test_no_error_repeats_text_of_the_line(text):
    with pytest.raises(SdesError) as caught:
        parse_crypto(text)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)
    assert caught.value.__cause__ is None


@st.composite
def attributes(draw):
    suite = draw(st.sampled_from([*SUITES.values(), *RECOGNISED_SUITES.values()]))
    count = draw(st.integers(1, 3))
    length = draw(st.integers(2, 128))
    octets = draw(
        st.lists(
            st.binary(min_size=suite.key_salt_length, max_size=suite.key_salt_length),
            min_size=count,
            max_size=count,
            unique=True,
        )
    )
    mkis = draw(st.lists(st.integers(1, 65535), min_size=count, max_size=count, unique=True))
    with_mki = count > 1 or draw(st.booleans())
    keys = tuple(
        InlineKey(
            Secret(key),
            draw(st.none() | st.integers(1, suite.max_srtp_packets)),
            mki if with_mki else None,
            length if with_mki else 0,
        )
        for key, mki in zip(octets, mkis, strict=True)
    )
    params = draw(
        st.lists(st.sampled_from(["KDR=5", "WSH=128", "UNENCRYPTED_SRTP", "FEC_ORDER=SRTP_FEC"]), unique=True)
    )
    return CryptoAttribute(draw(st.integers(0, 999_999_999)), suite, keys, tuple(params))


@pytest.mark.clause("RFC 4568", "9.2")
@pytest.mark.clause("TS 33.328", "E-2")
@given(attributes())
def test_what_is_written_is_read_back(attribute):
    assert parse_crypto(attribute.encode()) == attribute


@pytest.mark.attack("T2")
@given(st.text() | st.from_regex(r"[0-9]{1,3} [A-Z_0-9]{3,30} inline:[A-Za-z0-9+/=|:^;]{0,80}", fullmatch=True))
def test_any_text_is_read_or_refused_with_a_typed_error(text):
    try:
        parse_crypto(text)
    except SdesError:
        return


@pytest.mark.attack("T2")
@given(st.integers(0, 80), st.characters(min_codepoint=32, max_codepoint=126))
def test_a_changed_character_never_gives_anything_but_a_line_or_a_typed_error(place, char):
    text = line("|2^20|1:4", params=" KDR=1")
    try:
        parse_crypto(text[:place] + char + text[place + 1 :])
    except SdesError:
        return


@pytest.mark.clause("TS 33.328", "5.2-1", "5.2-2")
@pytest.mark.clause("RFC 3711", "3.4", "5.2")
@pytest.mark.parametrize("name", sorted(SUITES))
def test_every_suite_authenticates_srtcp_with_at_least_80_bits(name):
    assert SUITES[name].srtcp_tag_length >= 10
    assert SUITES[name].srtp_tag_length >= 4
