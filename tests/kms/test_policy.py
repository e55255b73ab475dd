"""Who may have a ticket for whom: each rule of nodes.kms.policy."""

import pytest

from keying.mikey.errors import InvalidIdentity, InvalidTicket, InvalidTicketPolicy
from keying.mikey.identity import Identity
from keying.mikey.policy import Validity
from nodes.kms import policy as rules
from nodes.kms.config import Group, KmsSettings, PartyPolicy, PeerKms
from nodes.kms.patterns import covers, expand, host_of
from tests.kms.parties import ALICE, BOB, CAROL, ERIN, uri

NOW = 1_800_000_000.0


def book(**settings):
    return rules.read_book(KmsSettings(**({"lab_domains": ("partner.test",)} | settings)), ("ims.test",))


@pytest.mark.parametrize(
    ("pattern", "identity", "fits"),
    [
        ("sip:alice@ims.test", "sip:alice@ims.test", True),
        ("sip:alice@ims.test", "sip:alice@ims.test.evil", False),
        ("sip:*@ims.test", "sip:alice@ims.test", True),
        ("sip:*@ims.test", "sip:alice@xims.test", False),
        ("sip:*@ims.test", "sip:alice@evil@ims.test", False),
        ("sip:*@ims.test", "sip:alice@ims.testx", False),
        ("sip:*@ims.test", "sips:alice@ims.test", False),
        ("sip:a*e@*.test", "sip:alice@ims.test", True),
        ("*@ims.test", "sip:alice@ims.test", True),
        ("tel:*", "tel:+15550100", True),
        ("tel:+1555*", "tel:+4930", False),
        ("*", "tel:+4930", True),
        ("sip:*@ims.test", "sip:*@ims.test", True),
        ("sip:a*@ims.test", "sip:*@ims.test", False),
        ("sip:alice@ims.test", "sip:*@ims.test", False),
        ("sip:a.c@ims.test", "sip:abc@ims.test", False),
        ("", "sip:alice@ims.test", False),
    ],
)
def test_a_pattern_covers_what_it_says_and_no_more(pattern, identity, fits):
    assert covers(pattern, identity) is fits


def test_words_for_domains_become_patterns():
    words = {"@home": ("ims.test",), "@lab": ("ims.test", "partner.test")}
    assert expand(("@home", "tel:*", "@home", "*@x.test"), words) == ("sip:*@ims.test", "tel:*", "sip:*@x.test")
    assert expand(("@lab",), words) == ("sip:*@ims.test", "sip:*@partner.test")


@pytest.mark.parametrize(
    ("identity", "host"),
    [
        ("sip:alice@ims.test", "ims.test"),
        ("sip:ims.test", "ims.test"),
        ("sip:alice@ims.test:5060", "ims.test"),
        ("sip:alice@[::1]:5060", "[::1]:5060"),
        ("sip:alice@ims.test;x=@partner.test", "partner.test"),
        ("tel:+1", ""),
        ("alice@ims.test", ""),
        ("", ""),
    ],
)
def test_the_host_of_an_identity(identity, host):
    assert host_of(identity) == host


@pytest.mark.clause("TS 33.328", "6.2.3.5-1")
@pytest.mark.attack("T5")
def test_nobody_speaks_for_somebody_else():
    alice = (ALICE, uri("tel:+15550100"))
    rules.check_own(uri("sip:alice@IMS.test;transport=tls"), alice, "IDRi")
    rules.check_own(uri("tel:+1-555-0100"), alice, "IDRi")
    for claimed in (BOB, uri("sip:*@ims.test"), uri("sip:Alice@ims.test"), uri("sips:alice@ims.test"), uri("")):
        with pytest.raises(InvalidIdentity):
            rules.check_own(claimed, alice, "IDRi")
    with pytest.raises(InvalidIdentity):
        rules.check_own(Identity.nai("alice@ims.test"), alice, "IDRi")


@pytest.mark.clause("TS 33.328", "6.2.3.5-1")
def test_the_claimed_identity_comes_first_in_the_octets_that_were_sent():
    claimed = uri("sip:alice@IMS.test")
    assert rules.own_first(claimed, (uri("tel:+1"), ALICE)) == (claimed, uri("tel:+1"))


@pytest.mark.clause("TS 33.328", "6.2.3.2-1")
def test_without_an_entry_a_user_may_call_users_of_the_lab_and_nobody_else():
    found = book()
    party = rules.party_policy(found, (ALICE,))
    rules.check_responders(found, party, (ALICE,), (BOB, ERIN, uri("tel:+1555")))
    for stranger in (uri("sip:mallory@elsewhere.test"), uri("sip:bob@ims.test.evil"), uri("mailto:bob@ims.test")):
        with pytest.raises(InvalidTicketPolicy):
            rules.check_responders(found, party, (ALICE,), (BOB, stranger))


@pytest.mark.clause("TS 33.328", "6.2.3.2-1")
def test_an_own_entry_stands_alone_and_a_group_comes_before_the_default():
    found = book(
        users={"sip:alice@IMS.test": PartyPolicy(request_for=("sip:bob@ims.test",))},
        groups={
            "sip:muted@ims.test": Group(members=("sip:alice@ims.test", "sip:carol@ims.test"), policy=PartyPolicy()),
        },
    )
    alice = rules.party_policy(found, (ALICE,))
    rules.check_responders(found, alice, (ALICE,), (BOB,))
    with pytest.raises(InvalidTicketPolicy):
        rules.check_responders(found, alice, (ALICE,), (CAROL,))
    with pytest.raises(InvalidTicketPolicy):
        rules.check_initiator(alice, BOB)
    with pytest.raises(InvalidTicketPolicy):
        rules.check_responders(found, rules.party_policy(found, (CAROL,)), (CAROL,), (BOB,))
    assert rules.party_policy(found, (BOB,)) == found.default


@pytest.mark.clause("TS 33.328", "6.2.3.2-1")
@pytest.mark.attack("T5")
def test_a_ticket_for_a_group_is_for_its_requesters():
    found = book(
        groups={
            "sip:sales@ims.test": Group(members=("sip:alice@ims.test",)),
            "sip:board@ims.test": Group(members=("sip:bob@ims.test",), requesters=("sip:carol@ims.test",)),
        }
    )

    def may(user, group):
        party = rules.party_policy(found, (user,))
        try:
            rules.check_responders(found, party, (user,), (uri(group),))
        except InvalidTicketPolicy:
            return False
        return True

    assert may(ALICE, "sip:sales@ims.test")
    assert not may(BOB, "sip:sales@ims.test")
    assert not may(uri("sip:sales@ims.test"), "sip:sales@ims.test")
    assert may(CAROL, "sip:board@ims.test")
    assert not may(BOB, "sip:board@ims.test")


@pytest.mark.clause("TS 33.328", "6.2.3.2-1")
@pytest.mark.attack("T5")
def test_a_ticket_for_a_whole_domain_needs_a_policy_that_says_so():
    everybody = uri("sip:*@ims.test")
    found = book(users={"sip:carol@ims.test": PartyPolicy(request_for=("@home",), wildcards=True)})
    with pytest.raises(InvalidTicketPolicy):
        rules.check_responders(found, rules.party_policy(found, (ALICE,)), (ALICE,), (everybody,))
    carol = rules.party_policy(found, (CAROL,))
    rules.check_responders(found, carol, (CAROL,), (everybody,))
    with pytest.raises(InvalidTicketPolicy):
        rules.check_responders(found, carol, (CAROL,), (uri("sip:*@partner.test"),))


@pytest.mark.clause("RFC 6043", "4.2.1.4")
@pytest.mark.attack("T5")
def test_a_ticket_names_somebody_and_not_too_many():
    found = book(max_responders=2)
    party = rules.party_policy(found, (ALICE,))
    for responders in ((), (BOB, CAROL, ERIN)):
        with pytest.raises(InvalidTicketPolicy):
            rules.check_responders(found, party, (ALICE,), responders)


@pytest.mark.clause("TS 33.328", "6.2.3.2-1")
def test_a_responder_resolves_tickets_of_initiators_its_policy_names():
    found = book(users={"sip:bob@ims.test": PartyPolicy(resolve_from=("@home",))})
    bob = rules.party_policy(found, (BOB,))
    rules.check_initiator(bob, ALICE)
    for initiator in (ERIN, None):
        with pytest.raises(InvalidTicketPolicy):
            rules.check_initiator(bob, initiator)


@pytest.mark.clause("RFC 6043", "6.10")
def test_times_of_a_ticket():
    settings = KmsSettings(max_start_ahead_s=100)
    for good in (Validity(None, None), Validity(NOW + 99, NOW + 200), Validity(None, NOW + 1)):
        rules.check_times(settings, good, NOW)
    for bad in (Validity(NOW + 101, None), Validity(None, NOW), Validity(NOW + 50, NOW + 50), Validity(NOW, NOW - 1)):
        with pytest.raises(InvalidTicketPolicy):
            rules.check_times(settings, bad, NOW)
    limits = rules.limits_of(KmsSettings(max_ticket_validity_s=50), PartyPolicy(max_validity_s=100))
    rules.check_life(limits, Validity(None, NOW + 50), NOW)
    for bad in (Validity(None, None), Validity(None, NOW + 51)):
        with pytest.raises(InvalidTicketPolicy):
            rules.check_life(limits, bad, NOW)


def test_limits_are_the_narrower_of_kms_and_user():
    settings = KmsSettings(max_ticket_validity_s=1000)
    assert rules.limits_of(settings, PartyPolicy()).max_validity_s == 1000
    assert rules.limits_of(settings, PartyPolicy(max_validity_s=10)).max_validity_s == 10
    assert rules.limits_of(settings, PartyPolicy(max_validity_s=9000)).max_validity_s == 1000
    assert rules.limits_of(settings, PartyPolicy(reusable=False)).reusable is False
    assert rules.limits_of(settings, PartyPolicy(forking_required=True)).forking_required is True


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T5")
def test_another_kms_speaks_for_users_of_its_own_domain_alone():
    found = book()
    rules.check_peer(found, "kms.partner.test")
    assert rules.foreign_responders(found, "kms.partner.test", (ERIN, BOB, uri("tel:+1"))) == (ERIN,)
    for responders in ((BOB,), (BOB, ERIN), (), (uri("sip:*@partner.test"),), (uri("tel:+1555"),)):
        with pytest.raises(InvalidIdentity):
            rules.foreign_responders(found, "kms.partner.test", responders)


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
@pytest.mark.attack("T5")
@pytest.mark.parametrize("kms", ["kms.ims.test", "kms.elsewhere.test", "partner.test", "kms.", "", "bsf.partner.test"])
def test_no_tickets_are_exchanged_with(kms):
    with pytest.raises(InvalidTicket):
        rules.check_peer(book(), kms)


@pytest.mark.clause("TS 33.328", "6.2.3.8-1")
def test_which_other_kmss_are_taken_is_a_setting():
    listed = {"kms.far.test": PeerKms(responders=("tel:+49*", "sip:*@far.test"))}
    rules.check_peer(book(peers=listed), "kms.far.test")
    rules.check_peer(book(peers=listed, foreign_kms="listed"), "KMS.far.test")
    for rule, kms in (("listed", "kms.partner.test"), ("none", "kms.far.test"), ("none", "kms.partner.test")):
        with pytest.raises(InvalidTicket):
            rules.check_peer(book(peers=listed, foreign_kms=rule), kms)
    number = uri("tel:+4930")
    assert rules.foreign_responders(book(peers=listed), "kms.far.test", (number,)) == (number,)
    keys = {"keys.far.test": PeerKms(domain="far.test")}
    assert rules.peer_domain(book(peers=keys), "keys.far.test") == "far.test"
    rules.check_peer(book(peers=keys), "keys.far.test")
