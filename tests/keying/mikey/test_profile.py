"""The values 3GPP chose: every one of them configuration, and every assumed one listed as such."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from keying.mikey import registry
from keying.mikey.kdf import SUITES
from keying.mikey.profile import BASE_TICKET, DEFAULT_PROFILE, THREE_GPP_TICKET, Profile, assumed


def test_every_assumed_value_is_listed_with_the_clause_it_stands_for() -> None:
    rows = assumed()
    assert len(rows) == len({name for name, _, _ in rows}) > 20
    for name, value, why in rows:
        assert value == getattr(DEFAULT_PROFILE, name)
        assert why.startswith("TS 33.328 ")


@pytest.mark.clause("TS 33.328", "J-1")
@pytest.mark.parametrize("name", ["prot_type_tls", "prot_type_mime", "genext_proof_of_origin"])
def test_numbers_that_iana_does_not_list_are_private_ones(name: str) -> None:
    assert 241 <= getattr(DEFAULT_PROFILE, name) <= 255
    assert name in {row[0] for row in assumed()}
    numbers = registry.ProtType if name.startswith("prot_type") else registry.ExtensionType
    assert getattr(DEFAULT_PROFILE, name) not in {member.value for member in numbers}


def test_tls_and_mime_are_told_apart() -> None:
    assert DEFAULT_PROFILE.prot_type_tls != DEFAULT_PROFILE.prot_type_mime


@pytest.mark.clause("TS 33.328", "6.2.3.4.1-1", "6.2.3.4.2-1")
def test_type_1_is_issued_and_type_2_taken_until_its_format_is_known() -> None:
    assert DEFAULT_PROFILE.ticket_kind_issued == BASE_TICKET == (registry.TicketType.MIKEY_BASE, 1, 1)
    assert DEFAULT_PROFILE.ticket_kinds_accepted == {BASE_TICKET, THREE_GPP_TICKET}
    assert {"ticket_kind_issued", "ticket_kinds_accepted", "base_format_kinds"} <= {row[0] for row in assumed()}


@pytest.mark.clause("TS 33.328", "D-7")
@pytest.mark.clause("RFC 6043", "12.1")
def test_random_values_are_as_long_as_the_longest_key_they_serve() -> None:
    psk = 32  # Ks_NAF
    longest = max(suite.key_bits for suite in SUITES.values()) // 8
    assert DEFAULT_PROFILE.request_rand_octets >= psk
    assert DEFAULT_PROFILE.resolve_rand_octets >= psk
    assert DEFAULT_PROFILE.transfer_rand_octets >= longest
    assert DEFAULT_PROFILE.kms_rand_octets >= longest
    assert DEFAULT_PROFILE.ticket_rand_octets >= longest


def test_every_value_is_read_somewhere() -> None:
    root = Path(__file__).resolve().parents[3]
    files = [
        file for folder in ("keying", "nodes") for file in (root / folder).rglob("*.py") if file.name != "profile.py"
    ]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    unread = {
        field.name for field in dataclasses.fields(Profile) if not re.search(rf"[Pp]rofile\.{field.name}\b", code)
    }
    assert unread == {"prot_type_tls", "prot_type_mime"}  # numbers of Annexes H and I, which no stream has here


def test_suites_are_rows_of_the_table() -> None:
    assert DEFAULT_PROFILE.suite in DEFAULT_PROFILE.suites_accepted <= set(SUITES)


def test_a_profile_is_set_by_name_and_does_not_change() -> None:
    profile = dataclasses.replace(DEFAULT_PROFILE, prot_type_tls=250, suite="256")
    assert (profile.prot_type_tls, profile.suite) == (250, "256")
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.suite = "128"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Profile("256")  # type: ignore[misc, call-arg]
