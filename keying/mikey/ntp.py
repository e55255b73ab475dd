"""Timestamps of MIKEY: NTP in 64 and 32 bits with the era rule, and the 64 bits that enter an IV."""

from __future__ import annotations

import math

from keying.mikey.errors import InvalidTimestamp
from keying.mikey.payloads import Timestamp, TimestampRole
from keying.mikey.registry import TsRole, TsType

UNIX_EPOCH = 2_208_988_800
"""Seconds from 1900-01-01 to 1970-01-01, UTC."""
ERA = 1 << 32
"""Seconds of an NTP era; the first ends 2036-02-07 06:28:16 UTC."""
_TOP_BIT = 1 << 31
_FRACTION = 1 << 32

FIRST = float(_TOP_BIT - UNIX_EPOCH)
"""Unix seconds of 1968-01-20 03:14:08, the earliest moment an NTP timestamp means (RFC 4330 3)."""
LAST = float(ERA + _TOP_BIT - UNIX_EPOCH)
"""Unix seconds of 2104-02-26 09:42:24, the first moment beyond."""


def from_unix(now: float, ts_type: TsType = TsType.NTP_UTC) -> Timestamp:
    """Return T for `now`, Unix seconds. Raises InvalidTimestamp outside 1968 to 2104, and for COUNTER."""
    return Timestamp(ts_type, _value(now, ts_type))


def role_from_unix(role: TsRole, when: float, ts_type: TsType = TsType.NTP_UTC_32) -> TimestampRole:
    """Return TR for a moment in Unix seconds, e.g. a bound of a ticket's validity (RFC 6043 6.10)."""
    return TimestampRole(role, ts_type, _value(when, ts_type))


def to_unix(timestamp: Timestamp | TimestampRole) -> float:
    """Return the moment in Unix seconds; seconds with the top bit clear count from 2036 (RFC 4330 3, RFC 6043 6.3).

    Raises InvalidTimestamp for COUNTER.
    """
    if timestamp.ts_type is TsType.COUNTER:
        raise InvalidTimestamp("T", "a counter is no time")
    octets = t64(timestamp)
    seconds = int.from_bytes(octets[:4])
    if seconds < _TOP_BIT:
        seconds += ERA
    return seconds - UNIX_EPOCH + int.from_bytes(octets[4:]) / _FRACTION


def t64(timestamp: Timestamp | TimestampRole) -> bytes:
    """Return the eight octets for an IV: COUNTER padded in front, NTP-UTC-32 behind (RFC 3830 6.6, RFC 6043 6.3)."""
    if len(timestamp.value) != timestamp.ts_type.length:
        raise InvalidTimestamp("T", "has another length than its type")
    if timestamp.ts_type is TsType.COUNTER:
        return timestamp.value.rjust(8, b"\0")
    return timestamp.value.ljust(8, b"\0")


def interval(seconds: int) -> TimestampRole:
    """Return TRr for `seconds` between re-keyings (RFC 6043 6.10)."""
    if not 0 <= seconds < ERA:
        raise InvalidTimestamp("TRr", "outside 32 bits")
    return TimestampRole(TsRole.REKEY, TsType.NTP_UTC_32, seconds.to_bytes(4))


def interval_seconds(timestamp: TimestampRole) -> int:
    """Return the seconds of TRr. Raises InvalidTimestamp when it is not NTP-UTC-32 (RFC 6043 6.10)."""
    if timestamp.ts_type is not TsType.NTP_UTC_32:
        raise InvalidTimestamp("TRr", "is NTP-UTC-32")
    return int.from_bytes(t64(timestamp)[:4])


def _value(moment: float, ts_type: TsType) -> bytes:
    if ts_type is TsType.COUNTER:
        raise InvalidTimestamp("T", "a counter is no time")
    if not FIRST <= moment < LAST:
        raise InvalidTimestamp("T", "outside 1968 to 2104")
    seconds = math.floor(moment)
    octets = ((seconds + UNIX_EPOCH) % ERA).to_bytes(4)
    if ts_type is TsType.NTP_UTC_32:
        return octets
    fraction = int((moment - seconds) * _FRACTION)
    return octets + min(fraction, _FRACTION - 1).to_bytes(4)  # just below a second, the difference rounds up to one
