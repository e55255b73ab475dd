"""The store of a node: survives, seals, and opens nothing that was altered or moved."""

import asyncio
import stat

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, select
from sqlalchemy.exc import IntegrityError

from sba.errors import ConfigurationError, StoreError
from sba.store import Store
from sba.testing import LabFixture, async_test


def environment(tmp_path, instance="hss-1"):
    folder = tmp_path / instance
    folder.mkdir(exist_ok=True)
    return LabFixture(folder, nrf=False).add("hss", instance, nf_types=("HSS",))


@async_test
async def test_values_survive_closing_and_opening(tmp_path):
    env = environment(tmp_path)
    store = await Store.open(env)
    table = await store.key_value("registrations")
    await table.put("alice", {"state": "registered", "n": 1})
    await table.put("bob", {"state": "none"})
    await table.put("alice", {"state": "registered", "n": 2})
    await table.delete("bob")
    await table.delete("never-there")
    await store.close()
    store = await Store.open(env)
    table = await store.key_value("registrations")
    assert await table.get("alice") == {"state": "registered", "n": 2}
    assert await table.get("bob") is None
    assert await table.items() == [("alice", {"state": "registered", "n": 2})]
    await store.close()


@async_test
async def test_concurrent_writers_of_one_key_leave_the_last_value(tmp_path):
    store = await Store.open(environment(tmp_path))
    table = await store.key_value("calls")
    await asyncio.gather(*(table.put("call", {"n": n}) for n in range(200)))
    assert await table.get("call") == {"n": 199}
    await asyncio.gather(*(table.put(str(n), {"n": n}) for n in range(200)), *(table.delete(str(n)) for n in range(50)))
    assert len(await table.items()) == 151
    await store.close()


@async_test
async def test_own_tables(tmp_path):
    store = await Store.open(environment(tmp_path))
    metadata = MetaData()
    numbers = Table("numbers", metadata, Column("n", Integer, primary_key=True))
    await store.tables(metadata)
    await store.tables(metadata)
    async with store.session() as session, session.begin():
        await session.execute(numbers.insert().values(n=7))
    async with store.session() as session:
        assert (await session.scalars(select(numbers.c.n))).all() == [7]
    await store.close()


@pytest.mark.attack("T8")
@async_test
async def test_an_error_does_not_tell_what_a_statement_wrote(tmp_path):
    store = await Store.open(environment(tmp_path))
    numbers = Table("numbers", MetaData(), Column("number", Integer, primary_key=True))
    await store.tables(numbers.metadata)
    async with store.engine.begin() as connection:
        await connection.execute(numbers.insert().values(number=271828))
        with pytest.raises(IntegrityError) as failed:
            await connection.execute(numbers.insert().values(number=271828))
    assert "numbers" in str(failed.value)
    assert "271828" not in str(failed.value)
    await store.close()


@async_test
async def test_a_sealed_secret_is_not_in_the_file_and_opens_again(tmp_path):
    env = environment(tmp_path)
    store = await Store.open(env)
    secret = b"K of alice, 16 o"
    table = await store.key_value("subscribers")
    await table.put("alice", {"k": store.seal(secret, b"subscribers/alice").hex()})
    value = await table.get("alice")
    assert store.unseal(bytes.fromhex(value["k"]), b"subscribers/alice") == secret
    await store.close()
    for path in env.node_dir.iterdir():
        content = path.read_bytes()
        assert secret not in content
        assert secret.hex().encode() not in content


@pytest.mark.attack("T8")
@async_test
async def test_a_sealed_secret_opens_nowhere_else(tmp_path):
    store = await Store.open(environment(tmp_path))
    sealed = store.seal(b"secret", b"subscribers/alice")
    assert sealed != store.seal(b"secret", b"subscribers/alice"), "every sealing has its own nonce"
    for broken in (
        sealed[:-1],
        sealed[:5],
        b"",
        bytes([sealed[0] ^ 1]) + sealed[1:],
        sealed[:-1] + bytes([sealed[-1] ^ 1]),
    ):
        with pytest.raises(StoreError):
            store.unseal(broken, b"subscribers/alice")
    with pytest.raises(StoreError):
        store.unseal(sealed, b"subscribers/bob")
    other = await Store.open(environment(tmp_path, "hss-2"))
    with pytest.raises(StoreError):
        other.unseal(sealed, b"subscribers/alice")
    await store.close()
    await other.close()


@async_test
async def test_without_its_sealing_key_a_store_does_not_open(tmp_path):
    env = environment(tmp_path)
    key = env.lab.sealing_key_file
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    with pytest.raises(ConfigurationError):
        await Store.open(env)
    key.write_text("abcd")
    with pytest.raises(ConfigurationError):
        await Store.open(env)
