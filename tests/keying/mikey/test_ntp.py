"""Timestamps: NTP, its eras, and the octets that enter an IV."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keying.mikey.errors import InvalidTimestamp
from keying.mikey.ntp import FIRST, LAST, from_unix, interval, interval_seconds, role_from_unix, t64, to_unix
from keying.mikey.payloads import Timestamp, TimestampRole
from keying.mikey.registry import TsRole, TsType

TIMES = [TsType.NTP_UTC, TsType.NTP, TsType.NTP_UTC_32]


def moment(*parts: int) -> float:
    return dt.datetime(*parts, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("when", "octets"),
    [
        (moment(1968, 1, 20, 3, 14, 8), "80000000" + "00000000"),
        (moment(1970, 1, 1), "83aa7e80" + "00000000"),
        (moment(2013, 7, 24, 0, 0, 0) + 0.5, "d5999780" + "80000000"),
        (moment(2036, 2, 7, 6, 28, 15), "ffffffff" + "00000000"),
        (moment(2036, 2, 7, 6, 28, 16), "00000000" + "00000000"),
        (moment(2104, 2, 26, 9, 42, 23), "7fffffff" + "00000000"),
    ],
)
@pytest.mark.clause("RFC 6043", "6.3")
def test_a_moment_of_either_era(when: float, octets: str) -> None:
    for ts_type in (TsType.NTP_UTC, TsType.NTP):
        assert from_unix(when, ts_type) == Timestamp(ts_type, bytes.fromhex(octets))
        assert to_unix(from_unix(when, ts_type)) == when
    short = from_unix(when, TsType.NTP_UTC_32)
    assert short == Timestamp(TsType.NTP_UTC_32, bytes.fromhex(octets)[:4])
    assert to_unix(short) == when // 1


@given(st.floats(FIRST, LAST, exclude_max=True), st.sampled_from(TIMES))
def test_a_moment_comes_back_to_the_resolution_of_its_type(when: float, ts_type: TsType) -> None:
    again = to_unix(from_unix(when, ts_type))
    assert -(2**-40) <= when - again <= (1 if ts_type is TsType.NTP_UTC_32 else 2**-20)  # a float rounds


@pytest.mark.clause("RFC 6043", "6.3")
@given(st.binary(min_size=8, max_size=8))
def test_every_ntp_timestamp_means_a_moment_between_1968_and_2104(value: bytes) -> None:
    assert FIRST <= to_unix(Timestamp(TsType.NTP_UTC, value)) <= LAST
    assert to_unix(Timestamp(TsType.NTP_UTC_32, value[:4])) == to_unix(Timestamp(TsType.NTP, value[:4] + bytes(4)))


@pytest.mark.clause("RFC 6043", "6.3")
def test_the_iv_takes_eight_octets() -> None:
    assert t64(Timestamp(TsType.NTP_UTC, bytes(range(8)))) == bytes(range(8))
    assert t64(Timestamp(TsType.NTP_UTC_32, b"abcd")) == b"abcd\0\0\0\0"
    assert t64(Timestamp(TsType.COUNTER, b"abcd")) == b"\0\0\0\0abcd"
    with pytest.raises(InvalidTimestamp):
        t64(Timestamp(TsType.NTP_UTC, b"abcd"))


def test_a_counter_is_no_time() -> None:
    with pytest.raises(InvalidTimestamp):
        to_unix(Timestamp(TsType.COUNTER, bytes(4)))
    with pytest.raises(InvalidTimestamp):
        from_unix(0.0, TsType.COUNTER)


@pytest.mark.parametrize("when", [FIRST - 1, LAST, 1e300, -1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("ts_type", TIMES)
def test_a_moment_that_ntp_cannot_say_is_a_typed_error(when: float, ts_type: TsType) -> None:
    with pytest.raises(InvalidTimestamp):
        from_unix(when, ts_type)


@pytest.mark.clause("RFC 6043", "6.4")
@pytest.mark.clause("RFC 6043", "6.10")
def test_bounds_and_rekey_interval_of_a_ticket() -> None:
    end = role_from_unix(TsRole.END, moment(2040, 1, 1))
    assert (end.role, end.ts_type) == (TsRole.END, TsType.NTP_UTC_32)
    assert to_unix(end) == moment(2040, 1, 1)
    assert interval_seconds(interval(3600)) == 3600
    assert interval(3600) == TimestampRole(TsRole.REKEY, TsType.NTP_UTC_32, b"\0\0\x0e\x10")
    with pytest.raises(InvalidTimestamp):
        interval_seconds(TimestampRole(TsRole.REKEY, TsType.NTP_UTC, bytes(8)))
    for outside in (-1, 2**32):
        with pytest.raises(InvalidTimestamp):
            interval(outside)
