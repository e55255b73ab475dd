"""The MIKEY profile out of a lab description or a node's settings."""

from __future__ import annotations

from dataclasses import fields
from enum import IntEnum

import pytest

from keying.mikey.profile import BASE_TICKET, DEFAULT_PROFILE, THREE_GPP_TICKET, Profile
from keying.mikey.profile_values import ProfileError, read_profile
from keying.mikey.registry import IdType, TsType


def plain(value: object) -> object:
    """The value as JSON would write it."""
    if isinstance(value, IntEnum):
        return int(value)
    if isinstance(value, (tuple, frozenset)):
        return [plain(item) for item in value]
    return value


def test_every_value_of_the_profile_can_be_written_as_json_and_read_again() -> None:
    written = {field.name: plain(getattr(DEFAULT_PROFILE, field.name)) for field in fields(Profile)}
    assert read_profile(written) == DEFAULT_PROFILE
    assert read_profile({}) == DEFAULT_PROFILE


def test_sets_enums_and_kinds_become_what_the_profile_holds() -> None:
    made = read_profile(
        {
            "suite": "256",
            "suites_accepted": ["256"],
            "ticket_kind_issued": [2, 1, 1],
            "ticket_kinds_accepted": [[2, 1, 1], [1, 1, 1]],
            "ts_type": "NTP",
            "ts_types_accepted": ["NTP", 0],
            "kms_identity_type": 0,
            "clock_skew_s": 10,
        }
    )
    assert (made.suite, made.suites_accepted) == ("256", frozenset({"256"}))
    assert made.ticket_kind_issued == THREE_GPP_TICKET
    assert made.ticket_kinds_accepted == {BASE_TICKET, THREE_GPP_TICKET}
    assert made.ts_type is TsType.NTP
    assert made.ts_types_accepted == {TsType.NTP, TsType.NTP_UTC}
    assert made.kms_identity_type is IdType.NAI
    assert (made.clock_skew_s, type(made.clock_skew_s)) == (10.0, float)


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"sweet": "256"}, "suite"),
        ({"suite": 256}, "one of 128, 256, in quotes"),
        ({"suite": "512"}, "one of 128, 256, in quotes"),
        ({"suites_accepted": "256"}, "a list"),
        ({"suites_accepted": []}, "a list"),
        ({"suites_accepted": ["1"]}, "one of 128, 256"),
        ({"suite": "256", "suites_accepted": ["128"]}, "one of 128"),
        ({"send_sdp_ids": 1}, "true or false"),
        ({"clock_skew_s": True}, "a number from 0 to 86400"),
        ({"max_responders": 1.5}, "a whole number from 1"),
        ({"spi_octets": 0}, "a whole number from 1 to 255"),
        ({"request_rand_octets": 8}, "from 16 to 255"),
        ({"ts_type": "UTC"}, "NTP_UTC (0)"),
        ({"ts_type": True}, "NTP_UTC (0)"),
        ({"ticket_kind_issued": [2, 1]}, "[type, subtype, version]"),
        ({"ticket_kind_issued": [2, 1, 999]}, "[type, subtype, version]"),
        ({"ticket_kind_issued": [3, 1, 1]}, "ticket_kinds_accepted"),
        ({"http_path": ""}, "text"),
        ({"http_path": "/keys\r\nX-Other: 1"}, "text"),
        ({"clock_skew_s": 10**400}, "a number from 0 to 86400"),
        ({"clock_skew_s": float("nan")}, "a number from 0 to 86400"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(values: dict[str, object], right: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profile(values)
    assert right in caught.value.right
    assert caught.value.name in values
