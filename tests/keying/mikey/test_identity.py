"""Identities and groups: who is meant, who is who, who belongs to whom."""

from __future__ import annotations

import pytest

from keying.mikey.groups import MAX_NESTING, NO_GROUPS, Groups
from keying.mikey.identity import Identity, matches, normalise

pytestmark = pytest.mark.clause("TS 33.328", "6.2.3.2-1")

BOB = Identity.uri("sip:bob@ims.test")
SUPPORT = Identity.uri("sip:support@ims.test")
EVERYBODY = Identity.uri("sip:*@ims.test")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sip:bob@ims.test", "SIP:bob@IMS.Test"),
        ("sip:bob@ims.test", "sip:bob@ims.test;transport=tcp"),
        ("sip:bob@ims.test", "sip:bob@ims.test?subject=x"),
        ("tel:+49-30-123.456", "tel:+49(30)123456;phone-context=x"),
        ("kms.ims.test", "KMS.ims.test"),
    ],
)
def test_spellings_of_one_identity_are_the_same(one, other):
    assert Identity.uri(one).same(Identity.uri(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sip:bob@ims.test", "sip:Bob@ims.test"),
        ("sip:bob@ims.test", "sips:bob@ims.test"),
        ("sip:bob@ims.test", "sip:bob@ims.test.evil"),
        ("sip:bob@ims.test", "sip:bob@ims.test@evil"),
        ("sip:bob@ims.test", "sip:bob@ims.test:5070"),
        ("sip:bob@ims.test", "tel:bob"),
        ("sip:bob@ims.test", "sip:%62ob@ims.test"),
        ("sip:bob@ims.test", ""),
    ],
)
def test_what_is_written_otherwise_is_somebody_else(one, other):
    assert not Identity.uri(one).same(Identity.uri(other))
    assert not matches(Identity.uri(one), Identity.uri(other))


@pytest.mark.clause("RFC 6043", "6.5", "6.6")
def test_the_id_type_belongs_to_the_identity():
    assert not BOB.same(Identity.nai("sip:bob@ims.test"))
    assert not BOB.same(Identity.octets(BOB.data))


def test_octets_are_compared_as_they_are():
    assert not Identity.octets(b"BTID@x").same(Identity.octets(b"btid@x"))


@pytest.mark.parametrize(
    ("user", "within"),
    [
        ("sip:bob@ims.test", True),
        ("sip:bob@IMS.test", True),
        ("sip:bob@sub.ims.test", False),
        ("sip:bob@ims.test.evil", False),
        ("sips:bob@ims.test", False),
        ("sip:ims.test", False),
        ("tel:+491", False),
    ],
)
def test_a_wildcard_is_over_its_domain_and_scheme_alone(user, within):
    assert matches(EVERYBODY, Identity.uri(user)) is within


def test_a_user_that_calls_itself_a_wildcard_is_in_no_wildcard():
    assert NO_GROUPS.match([EVERYBODY], [Identity.uri("sip:*@ims.test")]) is None


def test_a_group_has_its_members_by_name_by_wildcard_and_by_group():
    groups = Groups(
        {
            "sip:support@ims.test": ["sip:bob@ims.test", "sip:night@ims.test"],
            "sip:night@ims.test": ["sip:*@night.ims.test"],
        }
    )
    assert groups.contains(SUPPORT, BOB)
    assert groups.contains(SUPPORT, Identity.uri("sip:owl@night.ims.test"))
    assert not groups.contains(SUPPORT, Identity.uri("sip:owl@ims.test"))


def test_groups_that_hold_each_other_end():
    groups = Groups({"sip:a@x": ["sip:b@x"], "sip:b@x": ["sip:a@x"]})
    assert not groups.contains(Identity.uri("sip:a@x"), BOB)


def test_groups_are_followed_to_a_bounded_depth():
    chain = {f"sip:g{n}@x": [f"sip:g{n + 1}@x"] for n in range(MAX_NESTING + 2)}
    groups = Groups(chain)
    first = Identity.uri("sip:g0@x")
    assert groups.contains(first, Identity.uri(f"sip:g{MAX_NESTING}@x"))
    assert not groups.contains(first, Identity.uri(f"sip:g{MAX_NESTING + 1}@x"))


def test_a_name_in_the_ticket_comes_before_a_wildcard_and_a_group():
    groups = Groups({"sip:support@ims.test": ["sip:bob@ims.test"]})
    match = groups.match([EVERYBODY, SUPPORT, BOB], [BOB])
    assert match is not None
    assert match.direct
    assert match.authorised == BOB


@pytest.mark.attack("T5")
def test_a_question_mark_in_the_user_part_makes_nobody_else():
    names = ("sip:alice?x@ims.test", "sip:alice?y@ims.test", "sip:alice?x@evil.test", "sip:alice@ims.test")
    assert len({normalise(name) for name in names}) == 4
    assert normalise("sip:alice@IMS.test?subject=x") == "sip:alice@ims.test"
    assert not matches(Identity.uri("sip:*@ims.test"), Identity.uri("sip:bob?@evil.test"))
