"""Several instances of one NF set on one store: what one knows all know, and what only one may do one does."""

import asyncio
import contextlib

import pytest

from nodes.kms.node import Kms, lasting_secrets
from nodes.kms.store import KmsStore
from nodes.kms.ticket_keys import LOOK_S, OTHERS_SEAL_S, TicketKeyRing
from sba.migrations import History
from sba.store import Store
from sba.testing import async_test
from tests.store.stores import DATABASES, environment, environment_on

pytestmark = pytest.mark.peer("pg_ctlcluster")
every_database = pytest.mark.parametrize("database", DATABASES)
NOW = 1_800_000_000.0
LIFE_S = 50.0
ROTATION_S = 100.0
SET = {"nf": "kms", "nf_set": "kms.ims.test"}


@contextlib.asynccontextmanager
async def instances(tmp_path, database, count=2):
    """The stores of so many instances, each as a process of its own would open it."""
    from tests.postgresql import shared_server

    described = None
    if database == "postgresql":
        described = await shared_server().database(tmp_path, {"kms.ims.test": ["kms.ims.test"]})
    opened = []
    for number in range(1, count + 1):
        name = "kms" if number == 1 else f"kms-{number}"
        env = environment(
            tmp_path, name, described, nf_instance_id=f"{number:08}-4b1a-4d43-8a0c-1f4f4c1f0001"[:36], **SET
        )
        opened.append(Store.open(env, History.of(Kms)))
    stores = await asyncio.gather(*opened)
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


def ring_over(store):
    return TicketKeyRing(KmsStore(store), rotation_s=ROTATION_S, ticket_life_s=LIFE_S, id_octets=8)


async def rings(stores):
    made = [ring_over(store) for store in stores]
    await asyncio.gather(*(ring.load(NOW) for ring in made))
    return made


@every_database
@async_test
async def test_what_one_instance_sealed_the_others_open(tmp_path, database):
    async with instances(tmp_path, database) as (first, second):
        assert second.unseal(first.seal(b"K", b"place"), b"place") == b"K"
        await (await first.key_value("kms_secret")).put("a", {"n": 1})
        assert await (await second.key_value("kms_secret")).get("a") == {"n": 1}


@pytest.mark.clause("RFC 3830", "5.4")
@pytest.mark.attack("T5")
@every_database
@async_test
async def test_a_message_is_taken_once_by_whichever_instance_it_reaches(tmp_path, database):
    async with instances(tmp_path, database, 3) as stores:
        kms = [KmsStore(store) for store in stores]
        for number in range(20):
            digest = bytes([number]) * 32
            taken = await asyncio.gather(*(one.first_sight(digest, NOW + 60) for one in kms for _ in range(3)))
            assert taken.count(True) == 1
            used = await asyncio.gather(
                *(one.first_use(f"t{number}", bytes([index]) * 32, NOW) for index, one in enumerate(kms))
            )
            assert used.count(True) == 1


@every_database
@async_test
async def test_instances_that_start_at_once_have_one_key_and_the_same_secrets(tmp_path, database):
    async with instances(tmp_path, database, 3) as stores:
        made = await rings(stores)
        assert len({ring.current.key_id for ring in made}) == 1
        assert [len(ring) for ring in made] == [1, 1, 1]
        secrets = await asyncio.gather(*(lasting_secrets(store) for store in stores))
        assert len({(modifier.reveal(), endpoint.reveal()) for modifier, endpoint in secrets}) == 1


@every_database
@async_test
async def test_a_rotation_is_seen_by_the_other_instance(tmp_path, database):
    async with instances(tmp_path, database) as stores:
        one, other = await rings(stores)
        old = one.current
        fresh = await one.rotate(NOW + 10)
        # whoever holds a ticket under the new key may ask the other instance first
        assert await other.know(fresh.key_id, NOW + 10) == fresh.key
        assert (await other.sealing(NOW + 10 + 2 * LOOK_S)).key_id == fresh.key_id
        assert await other.know(old.key_id, NOW + 10) == old.key
        assert await other.know(b"nobody's", NOW + 10) is None
        assert await other.know(b"x" * 5000, NOW + 10) is None


@every_database
@async_test
async def test_an_instance_seals_with_a_key_that_was_replaced_for_a_moment_only_and_those_tickets_live(
    tmp_path, database
):
    async with instances(tmp_path, database) as stores:
        one, other = await rings(stores)
        old = one.current
        await one.rotate(NOW)
        late = NOW + LOOK_S
        assert (await other.sealing(late)).key_id == old.key_id  # it looked at NOW and may believe that so long
        assert (await other.sealing(late + 0.1)).key_id == one.current.key_id
        end = late + LIFE_S
        assert end < NOW + LIFE_S + OTHERS_SEAL_S
        for ring, store in ((one, stores[0]), (other, stores[1])):
            await KmsStore(store).prune(end)
            await ring.turn(end)
            assert await ring.know(old.key_id, end) == old.key
        after = NOW + LIFE_S + OTHERS_SEAL_S + 1
        await KmsStore(stores[0]).prune(after)
        for ring in (one, other):
            await ring.turn(after)
            assert await ring.know(old.key_id, after) is None


@every_database
@async_test
async def test_a_key_that_is_old_is_replaced_once(tmp_path, database):
    async with instances(tmp_path, database, 3) as stores:
        made = await rings(stores)
        turned = await asyncio.gather(*(ring.turn(NOW + ROTATION_S) for ring in made))
        assert turned.count(True) == 1
        assert len(await KmsStore(stores[0]).ticket_keys()) == 2
        for ring in made:
            assert (await ring.sealing(NOW + ROTATION_S + 2)).key_id == made[turned.index(True)].current.key_id


@every_database
@async_test
async def test_instances_write_and_remove_at_the_same_time(tmp_path, database):
    async with instances(tmp_path, database, 3) as stores:
        tables = [await store.key_value("kms_secret") for store in stores]
        await asyncio.gather(
            *(table.put(f"{index}/{n}", {"n": n}) for index, table in enumerate(tables) for n in range(40))
        )
        await asyncio.gather(*(table.delete(f"{index}/{n}") for index, table in enumerate(tables) for n in range(20)))
        assert len(await tables[0].items()) == 60
        stood = await asyncio.gather(*(table.put_first("one", {"by": index}) for index, table in enumerate(tables)))
        assert stood[0] == stood[1] == stood[2]
        assert await tables[1].get("one") == stood[0]
        kms = [KmsStore(store) for store in stores]
        for index, one in enumerate(kms):
            for n in range(30):
                await one.first_sight(bytes([index, n]), NOW - 1)
        gone = await asyncio.gather(*(one.prune(NOW) for one in kms))
        assert sum(gone) == 90
        assert await kms[0].prune(NOW) == 0


@async_test
async def test_without_a_set_instances_open_nothing_of_each_other(tmp_path):
    from sba.errors import StoreError

    one = await Store.open(await environment_on("sqlite", tmp_path, "pcscf-a", nf="pcscf-a"))
    other = environment(tmp_path, "pcscf-a-2", nf="pcscf-a", nf_instance_id="6b9d1c1a-4b1a-4d43-8a0c-1f4f4c1f0002")
    two = await Store.open(other)
    with pytest.raises(StoreError):
        two.unseal(one.seal(b"K"))
    await (await one.key_value("session")).put("a", {})
    assert await (await two.key_value("session")).get("a") is None
    for store in (one, two):
        await store.close()
