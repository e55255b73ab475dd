"""What the KMS remembers, on SQLite and on PostgreSQL: once only, across lives, and without reading whole tables."""

import time

import pytest
from sqlalchemy import insert, text

from keying.secret import Secret
from nodes.kms.config import RateLimit
from nodes.kms.limits import buckets
from nodes.kms.store import PRUNE_BATCH, AuditRecord, StoredTicketKey
from nodes.kms.tables import AUDIT, SEEN
from nodes.kms.ticket_keys import OTHERS_SEAL_S, TicketKeyRing
from sba.database import DatabaseAccess
from sba.errors import StoreError
from sba.testing import async_test
from tests.kms.databases import database_of, environment, opened

NOW = 1_800_000_000.0
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("pg_ctlcluster"))]
every_database = pytest.mark.parametrize("database", DATABASES)


def record(at, party="sip:alice@ims.test", **more):
    return AuditRecord(
        **(
            {
                "at": at,
                "operation": "request",
                "outcome": "granted",
                "forget_at": at + 100,
                "party": party,
                "responders": ("sip:bob@ims.test", "sip:ä@ims.test"),
                "ticket_id": "ab" * 16,
                "not_before": at,
                "not_after": at + 60,
                "tpk_id": "01" * 8,
            }
            | more
        )
    )


@pytest.mark.clause("RFC 3830", "5.4")
@pytest.mark.attack("T5", "T9")
@every_database
@async_test
async def test_a_message_and_a_single_use_are_known_in_the_next_life(tmp_path, database):
    described = await database_of(tmp_path, database)
    async with opened(tmp_path, described) as store:
        assert await store.first_sight(b"m" * 32, NOW + 600)
        assert not await store.first_sight(b"m" * 32, NOW + 600)
        assert await store.first_use("t1", b"a" * 32, NOW + 600)
    async with opened(tmp_path, described) as store:
        assert not await store.first_sight(b"m" * 32, NOW + 600)
        assert await store.first_use("t1", b"a" * 32, NOW + 600)
        assert not await store.first_use("t1", b"b" * 32, NOW + 600)
        assert await store.first_use("t2", b"b" * 32, NOW + 600)


@every_database
@async_test
async def test_audit_newest_first_by_user_and_bounded(tmp_path, database):
    described = await database_of(tmp_path, database)
    async with opened(tmp_path, described) as store:
        for number in range(5):
            await store.record(record(NOW + number, party=f"sip:{'ab'[number % 2]}@ims.test"))
        await store.record(record(NOW + 9, outcome="refused", reason="IDRi: not yours", peer_kms="kms.partner.test"))
        found = await store.audit()
        assert [entry.at - NOW for entry in found] == [9, 4, 3, 2, 1, 0]
        assert found[0] == record(NOW + 9, outcome="refused", reason="IDRi: not yours", peer_kms="kms.partner.test")
        assert [entry.at - NOW for entry in await store.audit("sip:b@ims.test")] == [3, 1]
        assert [entry.at - NOW for entry in await store.audit(limit=2)] == [9, 4]
        assert await store.audit("sip:nobody@ims.test") == []


@every_database
@async_test
async def test_what_expired_goes_in_batches_and_the_rest_stays(tmp_path, database):
    described = await database_of(tmp_path, database)
    async with opened(tmp_path, described) as store:
        rows = [{"digest": number.to_bytes(32, "big"), "forget_at": NOW - 1} for number in range(PRUNE_BATCH + 5)]
        async with store._store.engine.begin() as connection:
            await connection.execute(insert(SEEN), rows)
        await store.first_sight(b"new", NOW + 1)
        await store.record(record(NOW - 200))
        await store.record(record(NOW))
        await store.first_use("old", b"x", NOW - 1)
        assert await store.prune(NOW) == PRUNE_BATCH + 5 + 2
        assert await store.prune(NOW) == 0
        assert not await store.first_sight(b"new", NOW + 1)
        assert [entry.at for entry in await store.audit()] == [NOW]


@every_database
@async_test
async def test_a_million_tickets_do_not_slow_the_request_path(tmp_path, database):
    """Time of what a request does, and that no statement reads a whole table to do it."""
    count = 1_000_000
    described = await database_of(tmp_path, database)
    async with opened(tmp_path, described) as store:
        await fill(environment(tmp_path, described), store, count, database)
        started = time.perf_counter()
        for number in range(100):
            assert await store.first_sight(b"fresh" + bytes([number]), NOW + 1e6)
            await store.record(record(NOW + 1e6, party=f"sip:user{number}@ims.test"))
            assert len(await store.audit(f"sip:user{number}@ims.test", 10)) == 10
        assert (time.perf_counter() - started) / 100 < 0.25
        for query in (
            "SELECT * FROM kms_audit WHERE party = 'sip:user7@ims.test' ORDER BY row DESC LIMIT 100",
            "SELECT * FROM kms_audit ORDER BY row DESC LIMIT 100",
            "SELECT digest FROM kms_seen WHERE forget_at < 5 LIMIT 100",
            "SELECT row FROM kms_audit WHERE forget_at < 5 LIMIT 100",
        ):
            assert_indexed(await plan(store, query, database), query)


async def fill(of_kms, store, count, database):
    series = {
        "sqlite": f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) ",
        "postgresql": f"WITH n(n) AS (SELECT generate_series(1, {count})) ",
    }[database]
    octets = {"sqlite": "CAST(n AS BLOB)", "postgresql": "int8send(n)"}[database]
    columns = ", ".join(column.name for column in AUDIT.columns if column.name != "row")
    values = f"{NOW} + n, 'request', 'granted', '', 'sip:user' || (n % 1000) || '@ims.test', '[]', 'id' || n, 0, 0, '', '', {NOW} + n"
    engine = store._store.engine if database == "sqlite" else DatabaseAccess.of(of_kms).engine(migrating=True)
    async with engine.begin() as connection:
        for statement in (
            f"INSERT INTO kms_audit ({columns}) {series} SELECT {values} FROM n",
            f"INSERT INTO kms_seen (digest, forget_at) {series} SELECT {octets}, {NOW} + n FROM n",
        ):
            await connection.execute(text(statement))
        if database == "postgresql":
            await connection.execute(text("ANALYZE"))


async def plan(store, query, database):
    explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}[database]
    async with store._store.engine.connect() as connection:
        return [" ".join(map(str, row)) for row in await connection.execute(text(explain + query))]


def assert_indexed(lines, query):
    """SQLite says SCAN without an index for a table read whole, PostgreSQL Seq Scan; row order is the table's own."""
    for line in lines:
        whole = "Seq Scan" in line or ("SCAN" in line and "INDEX" not in line and "ORDER BY row" not in query)
        assert not whole, lines


@every_database
@async_test
async def test_ticket_keys_outlive_the_process_sealed_and_are_forgotten_in_time(tmp_path, database):
    described = await database_of(tmp_path, database)
    async with opened(tmp_path, described) as store:
        ring = await ring_of(store, NOW)
        first = ring.current
        assert len(first.key) == 32
        assert not await ring.turn(NOW + 99)
        assert await ring.turn(NOW + 100)
        second = ring.current
        assert second.key_id != first.key_id
        assert ring.find(first.key_id) == first.key
    async with opened(tmp_path, described) as store:
        ring = await ring_of(store, NOW + 101)
        assert ring.current.key_id == second.key_id
        assert ring.current.key == second.key
        assert ring.find(first.key_id) == first.key
        await ring.turn(NOW + 100 + 50 + OTHERS_SEAL_S + 1)
        assert ring.find(first.key_id) is None
        await store.prune(NOW + 151 + OTHERS_SEAL_S)
        assert [stored.key_id for stored in await store.ticket_keys()] == [second.key_id]
        async with store._store.engine.begin() as connection:
            for sealed in (await connection.execute(text("SELECT sealed FROM kms_ticket_key"))).scalars():
                assert second.key.reveal() not in bytes(sealed)
            await connection.execute(text("UPDATE kms_ticket_key SET key_id = '00'"))
        with pytest.raises(StoreError):
            await ring_of(store, NOW)


async def ring_of(store, now, ticket_life_s=50.0):
    ring = TicketKeyRing(store, rotation_s=100.0, ticket_life_s=ticket_life_s, id_octets=8)
    await ring.load(now)
    return ring


@async_test
async def test_tickets_made_under_longer_settings_outlive_shorter_ones(tmp_path):
    async with opened(tmp_path) as store:
        first = (await ring_of(store, NOW, 50.0)).current
        await ring_of(store, NOW, 500.0)
        ring = await ring_of(store, NOW, 50.0)
        await ring.rotate(NOW + 1)
        await ring.turn(NOW + 500)
        assert ring.find(first.key_id) == first.key
        await ring.turn(NOW + 502 + OTHERS_SEAL_S)
        assert ring.find(first.key_id) is None


@async_test
async def test_two_rotations_at_once_leave_one_key_that_seals(tmp_path):
    import asyncio

    async with opened(tmp_path) as store:
        ring = await ring_of(store, NOW)
        made = await asyncio.gather(*(ring.rotate(NOW) for _ in range(5)))
        assert len({key.key_id for key in made}) == 5
        stored = await store.ticket_keys()
        sealing = [key for key in stored if key.forget_at is None]
        assert [key.key_id for key in sealing] == [ring.current.key_id]
        assert len(stored) == len(ring) == 6
        assert all(isinstance(key, StoredTicketKey) and isinstance(key.key, Secret) for key in stored)


def test_a_bucket_empties_fills_again_and_is_forgotten_last_used_first():
    now = [0.0]
    limit = buckets(RateLimit(per_second=2.0, burst=2), lambda: now[0], names=2)
    assert [limit.take("a") for _ in range(3)] == [True, True, False]
    assert limit.retry_after_s() == 1
    now[0] = 0.5
    assert [limit.take("a") for _ in range(2)] == [True, False]
    assert limit.take("b")
    assert not limit.take("a")
    limit.take("c")
    assert not limit.take("a")
