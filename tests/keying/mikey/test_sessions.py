"""SRTP policies by suite name, and the keys of crypto sessions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.errors import InvalidPolicy, InvalidPolicyParameter, MalformedMessage, MikeyError, Unspecified
from keying.mikey.payloads import CryptoSession, KeyData, SecurityPolicy
from keying.mikey.registry import KeyDataType, PrfFunc
from keying.mikey.registry import SrtpParameter as P
from keying.mikey.sessions import derive, srtp_policy, srtp_session, ssrc_of, suite_of
from keying.secret import Secret
from keying.suites import SUITES

RANDS = (bytes(range(16)), bytes(range(16, 32)))
TGK = KeyData(KeyDataType.TGK, Secret(bytes(range(32, 48))), spi=b"\x02")
LONG_TGK = KeyData(KeyDataType.TGK, Secret(bytes(range(32, 64))), spi=b"\x02")


@pytest.mark.clause("RFC 3830", "6.10.1")
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_is_read_as_it_is_written(suite):
    assert suite_of(srtp_policy(suite, 3)) == suite


@pytest.mark.clause("RFC 3830", "6.10.1")
def test_a_policy_without_parameters_is_the_default_suite():
    assert suite_of(SecurityPolicy(0)) == "AES_CM_128_HMAC_SHA1_80"


def test_a_gcm_policy_of_another_implementation_is_read():
    parameters = bytes.fromhex("000106010110020104" + "04010c050100060100" + "140110")
    listed = []
    while parameters:
        listed.append((parameters[0], parameters[2 : 2 + parameters[1]]))
        parameters = parameters[2 + parameters[1] :]
    assert suite_of(SecurityPolicy(0, 0, tuple(listed))) == "AEAD_AES_128_GCM"


def test_a_short_tag_leaves_srtcp_its_own():
    assert suite_of(SecurityPolicy(0, 0, ((P.TAG_LENGTH, b"\x04"),))) == "AES_CM_128_HMAC_SHA1_32"
    both = ((P.SRTP_TAG_LENGTH, b"\x04"), (P.SRTCP_TAG_LENGTH, b"\x0a"))
    assert suite_of(SecurityPolicy(0, 0, both)) == "AES_CM_128_HMAC_SHA1_32"


@pytest.mark.clause("RFC 3830", "6.10.1")
@pytest.mark.attack("T1")
@pytest.mark.parametrize(
    "parameter",
    [
        (P.ENCRYPTION, b"\x00"),
        (P.ENCRYPTION, b"\x07"),
        (P.AUTHENTICATION, b"\x00"),
        (P.SRTP_ENCRYPTION, b"\x00"),
        (P.SRTCP_ENCRYPTION, b"\x00"),
        (P.SRTP_AUTHENTICATION, b"\x00"),
        (P.TAG_LENGTH, b"\x00"),
        (P.TAG_LENGTH, b"\x02"),
        (P.ENCRYPTION_KEY_LENGTH, b"\x08"),
        (P.AUTHENTICATION_KEY_LENGTH, b"\x08"),
        (P.SALT_KEY_LENGTH, b"\x00"),
        (P.KEY_DERIVATION_RATE, b"\x01"),
        (P.PREFIX_LENGTH, b"\x01"),
        (P.ROC_RATE, b"\x00\x01"),
        (P.SRTCP_TAG_LENGTH, b"\x04"),
        (77, b"\x01"),
        (P.TAG_LENGTH, b""),
    ],
)
def test_a_parameter_that_weakens_or_is_unknown_is_refused(parameter):
    with pytest.raises(InvalidPolicyParameter):
        suite_of(SecurityPolicy(0, 0, (parameter,)))


def test_a_parameter_twice_and_another_protocol_are_refused():
    with pytest.raises(InvalidPolicyParameter):
        suite_of(SecurityPolicy(0, 0, ((P.TAG_LENGTH, b"\x0a"), (P.TAG_LENGTH, b"\x04"))))
    with pytest.raises(InvalidPolicy):
        suite_of(SecurityPolicy(0, 241))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=3)), max_size=6))
def test_any_parameters_are_a_suite_or_refused(parameters):
    number = None
    try:
        suite = suite_of(SecurityPolicy(0, 0, tuple(parameters)))
    except MikeyError as error:
        number, suite = error.number, None
    assert suite in SUITES if number is None else number in (9, 10)


@pytest.mark.parametrize("suite", SUITES)
def test_the_keys_have_the_lengths_of_the_suite(suite):
    row = SUITES[suite]
    long = row.key_length > 16
    keys = derive(
        PrfFunc.PRF_HMAC_SHA_256 if long else PrfFunc.MIKEY_1,
        1,
        [srtp_session(1, (0,), 5, b"\x02")],
        {0: srtp_policy(suite, 0)},
        [LONG_TGK if long else TGK],
        RANDS,
    )
    assert (len(keys[1].tek), len(keys[1].salt)) == (row.key_length, row.salt_length)
    assert (keys[1].suite, keys[1].ssrc, keys[1].spi) == (suite, 5, b"\x02")


@pytest.mark.clause("RFC 6043", "12.1")
@pytest.mark.clause("TS 33.328", "D-3")
def test_a_key_of_256_bits_is_not_made_with_128_bit_algorithms():
    with pytest.raises(InvalidPolicy):
        derive(
            PrfFunc.MIKEY_1,
            1,
            [srtp_session(1, (0,), 5, b"\x02")],
            {0: srtp_policy("AEAD_AES_256_GCM", 0)},
            [LONG_TGK],
            RANDS,
        )


def one(key: KeyData, **changes: object) -> Secret:
    session = replace(srtp_session(1, (0,), 5, key.spi or b""), **changes)  # type: ignore[arg-type]
    return derive(PrfFunc.MIKEY_1, 1, [session], {0: srtp_policy("AES_CM_128_HMAC_SHA1_80", 0)}, [key], RANDS)[1].salt


@pytest.mark.clause("RFC 6043", "5.1.3")
def test_a_salt_that_was_carried_is_used_and_none_derived():
    salt = Secret(bytes(14))
    assert one(replace(TGK, key_type=KeyDataType.TGK_SALT, salt=salt)) == salt
    assert one(TGK) != salt


def test_a_tek_is_used_as_it_is_and_needs_its_salt_and_length():
    key = KeyData(KeyDataType.TEK_SALT, Secret(bytes(16)), Secret(bytes(14)), b"\x05")
    assert one(key) == Secret(bytes(14))
    for wrong in (
        replace(key, key_type=KeyDataType.TEK, salt=None),
        replace(key, key=Secret(bytes(24))),
        replace(key, salt=Secret(bytes(8))),
    ):
        with pytest.raises(InvalidPolicy):
            one(wrong)


def test_two_streams_under_one_tek_have_two_ssrcs():
    key = KeyData(KeyDataType.TEK_SALT, Secret(bytes(16)), Secret(bytes(14)), b"\x05")
    sessions = [srtp_session(1, (0,), 5, b"\x05"), srtp_session(2, (0,), 5, b"\x05")]
    with pytest.raises(MikeyError, match="SSRC"):
        derive(PrfFunc.MIKEY_1, 1, sessions, {0: SecurityPolicy(0)}, [key], RANDS)


@pytest.mark.clause("RFC 6043", "6.1.1")
@pytest.mark.parametrize(
    ("session", "error"),
    [
        (srtp_session(1, (), 5, b"\x02"), InvalidPolicy),
        (srtp_session(1, (0, 0), 5, b"\x02"), InvalidPolicy),
        (srtp_session(1, (9,), 5, b"\x02"), InvalidPolicy),
        (srtp_session(1, (0,), None, b"\x02"), Unspecified),
        (srtp_session(1, (0,), 5, b""), Unspecified),
        (srtp_session(1, (0,), 5, b"\x09"), Unspecified),
        (CryptoSession(1, policies=(0,), session_data=bytes(3), spi=b"\x02"), MalformedMessage),
        (CryptoSession(1, rollover=True, policies=(0,), session_data=bytes(4), spi=b"\x02"), MalformedMessage),
        (CryptoSession(1, 241, policies=(0,), spi=b"\x02"), InvalidPolicy),
    ],
)
def test_an_incomplete_session_has_no_keys(session, error):
    with pytest.raises(error):
        derive(PrfFunc.MIKEY_1, 1, [session], {0: SecurityPolicy(0)}, [TGK], RANDS)


@pytest.mark.clause("RFC 6043", "6.1.1")
def test_rollover_counter_and_sequence_number_come_with_the_s_flag():
    data = (5).to_bytes(4, "big") + (7).to_bytes(4, "big") + (9).to_bytes(2, "big")
    session = CryptoSession(1, rollover=True, policies=(0,), session_data=data, spi=b"\x02")
    keys = derive(PrfFunc.MIKEY_1, 1, [session], {0: SecurityPolicy(0)}, [TGK], RANDS)[1]
    assert (ssrc_of(session), keys.roc, keys.seq) == (5, 7, 9)


def test_a_session_of_another_protocol_has_a_key_and_no_salt():
    session = CryptoSession(1, 241, spi=b"\x02")
    for prf, key, length in ((PrfFunc.MIKEY_1, TGK, 16), (PrfFunc.PRF_HMAC_SHA_256, LONG_TGK, 32)):
        keys = derive(prf, 1, [session], {}, [key], RANDS)[1]
        assert (len(keys.tek), len(keys.salt), keys.ssrc, keys.suite) == (length, 0, None, "")


def test_without_any_random_value_there_are_no_session_keys():
    with pytest.raises(Unspecified):
        derive(PrfFunc.MIKEY_1, 1, [srtp_session(1, (0,), 5, b"\x02")], {0: SecurityPolicy(0)}, [TGK], (b"", b""))
