"""Small writes to a SQLite file without the way through a thread, safe beside other writers of the file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

BUSY_MS = 5000
"""How long a write waits for another writer of the file, ms."""
_CHECKPOINT_WRITES = 500
"""Writes after which the write-ahead log is copied into the database, off the event loop."""
_PRIMARY_CODE = 0xFF
"""Low octet of an extended SQLite result code."""


class SqliteWriter:
    """Small writes to a SQLite file, at once on the caller's thread or, when they would have to wait, on its own.

    In WAL mode a commit is one append to a file in the page cache, which outlives the process: some ten microseconds,
    where the way to another thread and back costs fifty times as much. What may wait for the disk is the
    checkpoint, so that is left to the thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._patient: sqlite3.Connection | None = None
        self._quick: sqlite3.Connection | None = None
        self._since_checkpoint = 0

    def write_at_once(self, table: str, key: str, text: str | None) -> bool:
        """Put or, without ``text``, delete one row and commit; False when another writer has the file just now."""
        gone = [key] if text is None else []
        puts = [] if text is None else [(key, text)]
        return self._at_once(lambda quick: _write(quick, table, puts, gone))

    def execute_at_once(self, statement: str, values: Sequence[str | bytes | float]) -> int | None:
        """Execute one statement and commit; return the rows it changed, None when another writer has the file."""
        changed = 0

        def execute(quick: sqlite3.Connection) -> None:
            nonlocal changed
            with quick:
                changed = quick.execute(statement, values).rowcount

        return changed if self._at_once(execute) else None

    def _at_once(self, work: Callable[[sqlite3.Connection], None]) -> bool:
        if self._quick is None:
            self._quick = _connect(self._path, timeout=0.0)
        try:
            work(self._quick)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return False
            raise
        self._since_checkpoint += 1
        if self._since_checkpoint >= _CHECKPOINT_WRITES:
            self._since_checkpoint = 0
            self._thread.submit(self._checkpoint)
        return True

    async def write(self, table: str, puts: list[tuple[str, str]], gone: list[str]) -> None:
        """Put and delete in one transaction, waiting for other writers; raises ``sqlite3.Error``."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_patiently, table, puts, gone)

    def _write_patiently(self, table: str, puts: list[tuple[str, str]], gone: list[str]) -> None:
        _write(self._on_thread(), table, puts, gone)

    def _checkpoint(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # somebody reads; the next one takes it along
            self._on_thread().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _on_thread(self) -> sqlite3.Connection:
        if self._patient is None:
            self._patient = _connect(self._path, timeout=BUSY_MS / 1000)
        return self._patient

    async def close(self) -> None:
        """Close the connections and end the thread."""
        if self._quick is not None:
            self._quick.close()
            self._quick = None
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._patient is not None:
            self._patient.close()
            self._patient = None


def _connect(path: str, *, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def _write(connection: sqlite3.Connection, table: str, puts: list[tuple[str, str]], gone: list[str]) -> None:
    with connection:
        if puts:
            upsert = f'INSERT INTO "{table}" (key, value) VALUES (?, ?)'  # noqa: S608 - a name from code
            connection.executemany(f"{upsert} ON CONFLICT (key) DO UPDATE SET value = excluded.value", puts)
        if gone:
            remove = f'DELETE FROM "{table}" WHERE key = ?'  # noqa: S608 - a name from code
            connection.executemany(remove, [(key,) for key in gone])
