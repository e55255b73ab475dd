"""A SQLite store writes at once, and waits its turn when somebody else writes to the file."""

import asyncio
import sqlite3

from sba.testing import async_test
from tests.kms.databases import opened
from tests.kms.test_store import NOW, record


def another_writer(folder):
    [file] = folder.rglob("store.sqlite")
    return sqlite3.connect(file, isolation_level=None)


@async_test
async def test_what_is_written_is_committed_when_the_call_returns(tmp_path):
    async with opened(tmp_path) as store:
        assert await store.first_sight(b"m" * 32, NOW)
        assert await store.first_use("t", b"u" * 32, NOW)
        await store.record(record(NOW))
        reader = another_writer(tmp_path)
        counts = [reader.execute(f"SELECT count(*) FROM kms_{name}").fetchone() for name in ("seen", "use", "audit")]
        reader.close()
        assert counts == [(1,), (1,), (1,)]


@async_test
async def test_a_write_waits_for_another_writer_of_the_file_and_is_not_lost(tmp_path):
    async with opened(tmp_path) as store:
        other = another_writer(tmp_path)
        other.execute("BEGIN IMMEDIATE")
        seen = asyncio.ensure_future(store.first_sight(b"m" * 32, NOW))
        used = asyncio.ensure_future(store.first_use("t", b"u" * 32, NOW))
        done, waiting = await asyncio.wait((seen, used), timeout=0.2)
        assert (done, waiting) == (set(), {seen, used})
        other.execute("COMMIT")
        other.close()
        async with asyncio.timeout(20):
            assert await seen
            assert await used
        assert not await store.first_sight(b"m" * 32, NOW)
        assert not await store.first_use("t", b"v" * 32, NOW)
