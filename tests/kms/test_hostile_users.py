"""A user with a valid subscription against the KMS and everybody else on it (T5, T7, T8)."""

import time

import pytest

from keying.mikey.identity import Identity
from nodes.kms.credentials import own_identities
from nodes.kms.policy import check_own
from nodes.kms.recent import RecentMessages
from sba.testing import LabFixture, async_test
from tests.kms.databases import database_of, opened
from tests.kms.home import Home
from tests.kms.parties import ALICE, BOB
from tests.kms.test_attacks import SETTINGS, ask
from tests.kms.test_store import NOW, every_database, record


@pytest.mark.attack("T5", "T9")
@pytest.mark.clause("RFC 3830", "5.4")
@async_test
async def test_a_user_with_many_keys_and_a_fast_clock_locks_nobody_out(tmp_path):
    """Messages of many senders, dated as far ahead as is taken: what is forgotten of them must not cost others."""
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(**SETTINGS)
        home.kms._exchanges._authority.replay = RecentMessages(skew_s=300.0, size=4)
        alice = home.ue("alice")
        for _ in range(10):
            mallory = home.ue("mallory")
            message = mallory.request(BOB, at=time.time() + 290).message
            assert (await ask(home, "request", message)).status == 200
        first = mallory.request(BOB, at=time.time() + 290).message
        for message in (first, *(mallory.request(BOB, at=time.time() + 295).message for _ in range(10))):
            assert (await ask(home, "request", message)).status == 200
        assert (await ask(home, "request", first)).status == 400, "what memory forgot, the store knows"
        assert (await ask(home, "request", alice.request(BOB).message)).status == 200


@pytest.mark.attack("T5", "T8")
@async_test
async def test_another_spelling_of_an_own_identity_does_not_hide_a_user_from_the_audit(tmp_path):
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start()
        alice = home.ue("alice")
        for spelling in ("SIP:alice@IMS.test", "sip:alice@ims.test;nobody=\x00", "sip:alice@ims.test?x=\r\n\x1b[2J"):
            message = alice.request(BOB, initiator=Identity.uri(spelling)).message
            assert (await ask(home, "request", message)).status == 200
        assert len(await home.kms._kms_store.audit(ALICE.text)) == 3


@pytest.mark.attack("T7")
@async_test
async def test_a_user_who_is_refused_all_day_does_not_fill_the_disk(tmp_path):
    """Refusals of one user beyond some are counted, not written one by one; the size of each is bounded."""
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(**SETTINGS)
        mallory, alice = home.ue("mallory"), home.ue("alice")
        crowd = [Identity.uri(f"sip:{number}{'x' * 300}@elsewhere.test") for number in range(60)]
        for number in range(400):
            response = await ask(home, "request", mallory.request(*crowd).message, number)
            assert response.status == 403
        rows = await home.kms._kms_store.audit("", 1000)
        assert len(rows) <= 110
        assert max(len("".join(row.responders)) for row in rows) <= 1024
        assert (await ask(home, "request", alice.request(BOB).message)).status == 200
        assert len(await home.kms._kms_store.audit(ALICE.text)) == 1


@pytest.mark.attack("T5")
def test_a_bsf_vouches_for_no_user_of_another_domain_by_a_trick_of_spelling():
    for trick in (
        "sip:erin@partner.test?x@ims.test",
        "sip:erin@partner.test?@ims.test",
        "sip:erin@partner.test;x@ims.test",
        "sip:erin@partner.test:5060",
    ):
        for found in own_identities((trick,), ("ims.test",)):
            with pytest.raises(Exception, match="not an identity"):
                check_own(Identity.uri("sip:erin@partner.test"), (found,), "IDRi")


@pytest.mark.attack("T5")
def test_the_same_short_number_of_another_plan_is_somebody_else():
    mine = Identity.uri("tel:1001;phone-context=sales.ims.test")
    other = Identity.uri("tel:1001;phone-context=board.ims.test")
    assert mine.same(Identity.uri("tel:10-01;Phone-Context=Sales.ims.test;isub=1"))
    assert not mine.same(other)
    assert not mine.same(Identity.uri("tel:1001"))
    with pytest.raises(Exception, match="not an identity"):
        check_own(other, (mine,), "IDRi")


@pytest.mark.attack("T5", "T9")
@async_test
async def test_the_node_s_own_memory_of_messages_is_the_one_that_may_forget(tmp_path):
    """4096 names in the memory of before was the end for everybody else."""
    async with LabFixture(tmp_path) as lab:
        home = await Home(lab).start(**SETTINGS)
        memory, now = home.kms._exchanges._authority.replay, time.time()
        for number in range(5000):
            memory.add(b"B-TID %d" % number, "REQUEST_INIT_PSK", b"message %d" % number, now + 299, now)
        assert (await ask(home, "request", home.ue("alice").request(BOB).message)).status == 200


@pytest.mark.attack("T5", "T7")
@every_database
@async_test
async def test_the_audit_takes_whatever_a_peer_writes_and_has_an_end(tmp_path, database):
    """A NUL, or a name that is too long, must not make a decision fail unrecorded; nor may records pile up for ever."""
    async with opened(tmp_path, await database_of(tmp_path, database)) as store:
        await store.record(
            record(
                NOW,
                party="sip:\0x@ims.test",
                reason="\0",
                responders=("\0",),
                tpk_id="ab" * 200,
                peer_kms="k" * 999,
            )
        )
        [found] = await store.audit("sip:x@ims.test")
        assert (found.reason, found.peer_kms[:3]) == ("", "kkk")
        for number in range(30):
            await store.record(record(NOW + number))
        assert await store.prune(NOW, 12) == 19
        assert [entry.at - NOW for entry in await store.audit()] == list(range(29, 17, -1))
        assert await store.prune(NOW, 12) == 0
