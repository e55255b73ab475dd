"""Ticket Request and Ticket Resolve against a KMS over HTTPS, with its BSF behind Zn."""

import asyncio
import secrets
import time

import pytest

from keying.mikey.errors import PeerError
from keying.mikey.kmsexchange import REQUEST, KmsExchange
from keying.mikey.payloads import TicketPolicyPayload
from keying.mikey.policy import responders_of, validity, wished_policy
from keying.mikey.profile import DEFAULT_PROFILE
from keying.mikey.registry import ErrorNumber, PrfFunc
from keying.mikey.ticket import ticket_id
from sba.errors import ConfigurationError
from sba.testing import LabFixture, async_test
from tests.kms.home import Home, sent
from tests.kms.parties import ALICE, BOB, CAROL, uri


def mikey_error(exchange, response):
    """The MIKEY error number in a response."""
    with pytest.raises(PeerError) as error:
        exchange.receive(response.body, time.time())
    return error.value.numbers


@pytest.mark.clause("RFC 6043", "4.2.3.4")
@pytest.mark.clause("TS 33.328", "4.1.2.2-2", "A-1", "B.2.2-1", "D-8", "D-10")
@pytest.mark.clause("RFC 6043", "4.2.1", "4.2.3")
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "base64"])
@async_test
async def test_a_ticket_is_given_and_resolved(tmp_path, binary):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB, binary=binary)
        found = await bob.resolve(sent(ticket), binary=binary)
        assert found.mpki.key == ticket.mpki.key
        assert found.responder == BOB
        assert ticket.mpkr is not None
        assert found.forked_mpkr.key != ticket.mpkr.key
        assert len(found.rand_kms) >= 16
        assert [key.key_type for key in found.keys] == [key.key_type for key in ticket.keys]
        assert home.bsf.asked[0][1] == b"kms.ims.test" + bytes.fromhex("0100000006")


@pytest.mark.clause("TS 33.328", "6.2.3.7-1")
@pytest.mark.clause("RFC 6043", "5.3")
@async_test
async def test_the_same_device_gets_the_same_modifier_and_another_device_another(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob = home.ue("alice"), home.ue("bob")
        second = home.ue("tablet", identities=(BOB.text,))
        second.identity = BOB
        ticket = await alice.ticket(BOB, reusable=True)
        first, again = await bob.resolve(sent(ticket)), await bob.resolve(sent(ticket, b"\x08" * 20))
        other = await second.resolve(sent(ticket))
        assert first.rand_kms == again.rand_kms != other.rand_kms
        assert first.keys[0].key == again.keys[0].key != other.keys[0].key


@pytest.mark.clause("RFC 6043", "4.2.1.4")
@pytest.mark.clause("TS 33.328", "5.4.3-1", "6.2.3.5-1", "A-3")
@pytest.mark.attack("T5")
@async_test
async def test_nobody_asks_or_resolves_as_somebody_else(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob, carol = home.ue("alice"), home.ue("bob"), home.ue("carol")
        exchange = carol.request(BOB, initiator=ALICE)
        response = await carol.post("request", exchange.message)
        assert response.status == 403
        assert mikey_error(exchange, response) == (ErrorNumber.INVALID_ID,)
        ticket = await alice.ticket(BOB)
        exchange = carol.resolution(sent(ticket), responder=BOB)
        response = await carol.post("resolve", exchange.message)
        assert response.status == 403
        assert mikey_error(exchange, response) == (ErrorNumber.INVALID_ID,)
        exchange = carol.resolution(sent(ticket))
        response = await carol.post("resolve", exchange.message)
        assert response.status == 403
        assert not isinstance(await bob.resolve(sent(ticket)), type(response))
        outcomes = [(entry.operation, entry.outcome, entry.party) for entry in await home.kms._kms_store.audit()]
        assert outcomes == [
            ("resolve", "granted", BOB.text),
            ("resolve", "refused", CAROL.text),
            ("resolve", "refused", CAROL.text),
            ("request", "granted", ALICE.text),
            ("request", "refused", CAROL.text),
        ]


@pytest.mark.clause("TS 33.328", "6.2.3.5-1")
@pytest.mark.attack("T5")
@async_test
async def test_a_ticket_names_as_initiator_who_asked_for_it(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        carol = home.ue("carol")
        asked = wished_policy(DEFAULT_PROFILE, carol.wish(BOB), ALICE, home.identity, time.time(), prf=PrfFunc.MIKEY_1)
        exchange = KmsExchange(
            DEFAULT_PROFILE,
            carol.credential,
            REQUEST,
            TicketPolicyPayload(asked),
            own=CAROL,
            kms=home.identity,
            rand_octets=32,
            entropy=secrets.token_bytes,
            now=time.time(),
        )
        response = await carol.post("request", exchange.message)
        assert (response.status, mikey_error(exchange, response)) == (403, (ErrorNumber.INVALID_ID,))


@pytest.mark.clause("TS 33.328", "6.2.3.1-2", "A-3")
@async_test
async def test_an_unknown_or_expired_b_tid_means_bootstrap(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        strangers = [
            home.ue("alice", known=False),
            home.ue("alice", lifetime_s=-1),
            home.ue("alice", btid="AAAA@bsf.partner.test", known=False),
            home.ue("alice", btid="nonsense", known=False),
            home.ue("alice", btid="x@y@bsf.ims.test" + "z" * 300, known=False),
        ]
        for stranger in strangers:
            response = await stranger.ticket(BOB)
            assert response.status == 401
            assert response.header("WWW-Authenticate") == 'Digest realm="3GPP-bootstrapping@kms.ims.test"'
        assert len(home.bsf.asked) == 2


@pytest.mark.attack("T5", "T6")
@async_test
async def test_a_bsf_vouches_for_users_of_its_own_domain_alone(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        mixed = home.ue("mallory", identities=("sip:erin@partner.test", "sip:mallory@ims.test", "sip:*@ims.test"))
        response = await mixed.ticket(BOB, initiator=uri("sip:erin@partner.test"))
        assert response.status == 403
        foreign = home.ue("mallory", identities=("sip:erin@partner.test",))
        assert (await foreign.ticket(BOB)).status == 503


@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.attack("T5")
@async_test
async def test_what_policy_cuts_is_marked_and_what_it_forbids_is_refused(tmp_path):
    async with LabFixture(tmp_path) as lab:
        users = {"sip:carol@ims.test": {"request_for": ["sip:bob@ims.test"], "max_validity_s": 60, "reusable": False}}
        home = await Home(lab).start(users=users, max_ticket_validity_s=600)
        alice, carol = home.ue("alice"), home.ue("carol")
        long = await alice.ticket(BOB, validity_s=100)
        assert validity(long.policy).end <= time.time() + 100
        exchange = alice.request(uri("sip:mallory@elsewhere.test"))
        response = await alice.post("request", exchange.message)
        assert (response.status, mikey_error(exchange, response)) == (403, (ErrorNumber.INVALID_TP_PAR,))
        assert (await carol.ticket(ALICE)).status == 403
        for wish in ({"validity_s": 500}, {"validity_s": None}):
            exchange = carol.request(BOB, reusable=True, **wish)
            response = await carol.post("request", exchange.message)
            assert response.status == 200
        granted = (await home.kms._kms_store.audit(CAROL.text))[0]
        assert granted.reason == "altered"
        assert granted.not_after <= time.time() + 61


@pytest.mark.clause("RFC 6043", "12.5")
@pytest.mark.clause("TS 33.328", "6.2.3.2-1")
@pytest.mark.clause("RFC 6043", "9")
@async_test
async def test_members_resolve_a_ticket_for_their_group_and_nobody_else(tmp_path):
    async with LabFixture(tmp_path) as lab:
        groups = {
            "sip:sales@ims.test": {"members": ["sip:alice@ims.test", "sip:bob@ims.test", "sip:inner@ims.test"]},
            "sip:inner@ims.test": {"members": ["sip:dora@ims.test"]},
        }
        home = await Home(lab).start(
            groups=groups, users={"sip:alice@ims.test": {"request_for": ["@home"], "wildcards": True}}
        )
        alice, bob, carol, dora = (home.ue(name) for name in ("alice", "bob", "carol", "dora"))
        ticket = await alice.ticket(uri("sip:sales@ims.test"))
        assert responders_of(ticket.policy) == (uri("sip:sales@ims.test"),)
        assert (await bob.resolve(sent(ticket))).responder is not None
        assert (await dora.resolve(sent(ticket))).responder is not None
        assert (await carol.resolve(sent(ticket))).status == 403
        assert (await carol.ticket(uri("sip:sales@ims.test"))).status == 403
        everybody = await alice.ticket(uri("sip:*@ims.test"))
        assert (await carol.resolve(sent(everybody))).responder is not None


@pytest.mark.clause("TS 33.328", "D-11")
@pytest.mark.clause("RFC 3830", "5.4")
@pytest.mark.attack("T5")
@async_test
async def test_a_replay_and_a_time_outside_the_skew_are_refused(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice = home.ue("alice")
        exchange = alice.request(BOB)
        first, again = await asyncio.gather(*(alice.post("request", exchange.message) for _ in range(2)))
        assert sorted((first.status, again.status)) == [200, 400]
        exchange = alice.request(BOB, at=time.time() - 301)
        response = await alice.post("request", exchange.message)
        assert (response.status, mikey_error(exchange, response)) == (400, (ErrorNumber.INVALID_TS,))
        assert (await alice.post("request", alice.request(BOB, at=time.time() + 305).message)).status == 400
        assert (await alice.post("request", alice.request(BOB, at=time.time() - 290).message)).status == 200


@pytest.mark.attack("T5")
@async_test
async def test_a_wrong_mac_gets_nothing_and_costs_the_user_nothing(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(user_rate={"per_second": 0.001, "burst": 1})
        alice = home.ue("alice")
        forged = bytearray(alice.request(BOB).message)
        forged[-1] ^= 1
        for _ in range(3):
            response = await alice.post("request", bytes(forged))
            assert response.status == 403
            assert response.body[:2] == b"\x01\x06"
        assert (await alice.ticket(BOB)).payload
        limited = await alice.ticket(BOB)
        assert (limited.status, limited.header("Retry-After")) == (429, "1000")
        assert [entry.outcome for entry in await home.kms._kms_store.audit()] == ["granted"]


@pytest.mark.clause("RFC 6043", "12.3")
@async_test
async def test_an_address_that_asks_too_often_is_told_so(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(address_rate={"per_second": 0.5, "burst": 2})
        alice = home.ue("alice")
        statuses = [(await alice.post("request", b"\x01")).status for _ in range(3)]
        assert statuses == [400, 400, 429]


@pytest.mark.clause("RFC 6043", "5.3")
@pytest.mark.clause("RFC 6043", "6.10")
@pytest.mark.attack("T5")
@async_test
async def test_a_single_use_ticket_resolves_for_one_call(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice, bob, carol = home.ue("alice"), home.ue("bob"), home.ue("carol")
        ticket = await alice.ticket(BOB, CAROL)
        call = sent(ticket)
        for responder in (bob, carol, bob):
            assert (await responder.resolve(call)).mpki
        refused = await bob.resolve(sent(ticket, b"\x09" * 20))
        assert refused.status == 403
        reusable = await alice.ticket(BOB, reusable=True)
        for mac in (b"\x01" * 20, b"\x02" * 20):
            assert (await bob.resolve(sent(reusable, mac))).mpki


@async_test
async def test_rotation_leaves_tickets_of_calls_in_progress_resolvable(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(ticket_key_rotation_s=0.1, prune_interval_s=60)
        alice, bob = home.ue("alice"), home.ue("bob")
        ticket = await alice.ticket(BOB)
        first = home.kms._keys.current.key_id
        for _ in range(2):
            turned = asyncio.Event()
            home.kms._watch.pruned = lambda _rows, turned=turned: turned.set()
            async with asyncio.timeout(20):
                await turned.wait()
        later = await alice.ticket(BOB)
        assert home.kms._keys.current.key_id != first
        for held in (ticket, later):
            assert (await bob.resolve(sent(held))).mpki.key == held.mpki.key
        audit = await home.kms._kms_store.audit()
        assert {entry.tpk_id for entry in audit if entry.ticket_id == ticket_id(ticket.payload)} == {first.hex()}


@pytest.mark.clause("RFC 6043", "4.1.1")
@pytest.mark.attack("T5")
@async_test
async def test_a_ticket_that_a_user_made_is_taken_by_a_switch_and_held_against_policy(tmp_path):
    from keying.mikey.policy import Wish
    from keying.mikey.ticket import create_ticket, mode3_ticket_key

    def made(user, home, *responders, validity_s=600.0, initiator=None):
        key = mode3_ticket_key(user.credential.identity, user.credential.key, home.identity, 16)
        wish = Wish(responders=responders, validity_s=validity_s, initiator_keys=True)
        return create_ticket(DEFAULT_PROFILE, wish, initiator or user.identity, home.identity, key, time.time())

    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(
            user_made_tickets=True, users={"sip:carol@ims.test": {"request_for": ["sip:alice@ims.test"]}}
        )
        alice, bob, carol = home.ue("alice"), home.ue("bob"), home.ue("carol")
        ticket = made(alice, home, BOB)
        assert (await bob.resolve(sent(ticket))).mpki.key == ticket.mpki.key
        for forbidden in (
            made(carol, home, BOB),
            made(alice, home, BOB, initiator=CAROL),
            made(alice, home, BOB, validity_s=None),
            made(alice, home, BOB, validity_s=90_000.0),
            made(home.ue("alice", known=False), home, BOB),
        ):
            assert (await bob.resolve(sent(forbidden))).status == 403
        await lab.stop("kms")
        home.kms = await lab.start("kms", "kms", home.settings(), cls=type(home.kms))
        assert (await bob.resolve(sent(made(alice, home, BOB)))).status == 403


@async_test
async def test_without_its_bsf_the_kms_says_come_again(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(bsf_timeout_s=0.3)
        alice, bob = home.ue("alice"), home.ue("bob")
        assert (await alice.ticket(BOB)).payload
        home.bsf.hold = asyncio.Event()
        response = await bob.ticket(ALICE)
        assert (response.status, response.header("Retry-After")) == (503, "1")
        assert (await alice.ticket(BOB)).payload
        home.bsf.hold.set()
        assert (await bob.ticket(ALICE)).payload


@pytest.mark.attack("T6")
@async_test
async def test_a_bsf_without_the_name_of_its_role_is_not_asked(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(bsf_timeout_s=1.0)
        alice = home.ue("alice")
        await lab.stop("bsf")
        from tests.kms.home import FakeBsf

        rogue = await lab.start("bsf", "rogue", {"home_domains": ["ims.test"]}, cls=FakeBsf)
        rogue.known = home.bsf.known
        assert (await alice.ticket(BOB)).status == 503
        assert rogue.asked == []


@async_test
async def test_the_kms_serves_under_names_its_certificate_shows(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = Home(lab)
        home.name_certificate("kms", "KMS", "kms")
        from nodes.kms.node import Kms

        for settings in (
            {"identity": "kms.partner.test"},
            {"mikey_profile": {"suite": 128}},
            {"mikey_profile": {"x": 1}},
        ):
            with pytest.raises(ConfigurationError):
                await lab.start("kms", "kms", home.settings(**settings), cls=Kms)
            await lab.stop("kms")
