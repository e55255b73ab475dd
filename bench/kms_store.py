"""A KMS's handler over a store of any size, in this process: what stands behind its HTTPS endpoint."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from sqlalchemy import text

from bench.kms_parties import DOMAIN, KMS, PROFILE, Parties
from keying.mikey.authority import Authority
from keying.secret import Secret
from nodes.kms.config import KmsSettings, RateLimit
from nodes.kms.credentials import UserCredential, WithStatic
from nodes.kms.exchanges import Decision, Exchanges
from nodes.kms.limits import buckets
from nodes.kms.node import Kms
from nodes.kms.policy import read_book
from nodes.kms.recent import RecentMessages
from nodes.kms.store import KmsStore
from nodes.kms.ticket_keys import TicketKeyRing
from sba.config import NodeEnvironment
from sba.database import DatabaseAccess
from sba.migrations import History
from sba.store import Store, create_sealing_key

UNLIMITED = RateLimit(per_second=1e9, burst=1_000_000_000)
INSTANCE = "5b9d1c1a-4b1a-4d43-8a0c-1f4f4c1f00b3"


class Handler:
    """Exchanges over a store, with the keys of the parties; to be asked in place of an HTTPS endpoint."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges

    async def grant(self, request: bytes) -> bytes:
        return await self._exchanges.request(request, Decision("request"))

    async def resolve(self, question: bytes) -> bytes:
        return await self._exchanges.resolve(question, Decision("resolve"))


@contextlib.asynccontextmanager
async def handler(folder: Path, url: str, parties: Parties, tickets: int = 0) -> AsyncIterator[Handler]:
    """A handler whose store, at `url` or in a SQLite file in `folder`, has seen `tickets` tickets."""
    described = environment(folder, url)
    store = await Store.open(described, History.of(Kms))
    try:
        kms = KmsStore(store)
        if tickets:
            await fill(store, described, tickets)
        keys = TicketKeyRing(
            kms, rotation_s=1e9, ticket_life_s=1e9, id_octets=PROFILE.tpk_id_octets, entropy=ticket_key_of(parties)
        )
        await keys.load(time.time())
        yield Handler(exchanges(parties, keys, kms))
    finally:
        await store.close()


def ticket_key_of(parties: Parties) -> Callable[[int], bytes]:
    """What a new ticket protection key is made of: in every store the same one, so that each can be asked the same."""
    made = {len(octets): octets for octets in (parties.tpk.key_id, parties.tpk.key.reveal())}
    return made.__getitem__


def environment(folder: Path, url: str) -> NodeEnvironment:
    folder.mkdir(exist_ok=True)
    create_sealing_key(folder / "sealing.key")
    document = {
        "pki_dir": str(folder),
        "state_dir": str(folder / "state"),
        "sealing_key_file": str(folder / "sealing.key"),
        "nrf": {"host": "127.0.0.1", "port": 1, "fqdn": f"nrf.{DOMAIN}", "instance_id": INSTANCE},
        "database_url": url,
        "nodes": {"kms": {"kind": "kms", "instance": "kms", "nf_instance_id": INSTANCE, "fqdn": KMS.text}},
    }
    (folder / "lab.json").write_text(json.dumps(document), encoding="utf-8")
    return NodeEnvironment.load(folder / "lab.json", "kms")


def exchanges(parties: Parties, keys: TicketKeyRing, store: KmsStore) -> Exchanges:
    users = {
        user.credential.identity: UserCredential(
            user.credential.key, user.identity.text.partition(":")[2], (user.identity,), float("inf")
        )
        for pair in parties.pairs
        for user in (pair.caller, pair.callee)
    }
    return Exchanges(
        Authority(
            PROFILE,
            KMS,
            replay=RecentMessages(skew_s=PROFILE.clock_skew_s),
            modifier_secret=parties.modifier,
        ),
        read_book(KmsSettings(), (DOMAIN,)),
        keys,
        store,
        WithStatic(users, None),  # type: ignore[arg-type]  # nobody has a bootstrapped key
        None,  # type: ignore[arg-type]  # no ticket is of another KMS
        users=buckets(UNLIMITED, time.monotonic),
        endpoint_key=Secret.random(32),
        refusals=buckets(UNLIMITED, time.monotonic),
    )


SERIES = {
    "sqlite": "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})",
    "postgresql": "WITH n(n) AS (SELECT generate_series(1, {count}))",
}
DIGEST = {"sqlite": "randomblob(32)", "postgresql": "sha256(int8send(n + {salt}))"}
HEX = {"sqlite": "lower(hex(randomblob(8)))", "postgresql": "substr(md5((n + {salt})::text), 1, 16)"}


def statements(database: str, count: int, now: float) -> list[str]:
    """What puts `count` tickets in, each asked for and resolved once, none of it expired.

    A ticket leaves two digests of messages, two audit records and the use it was resolved for. Digests and names are
    random, as they are in life: they come to any place of an index.
    """
    made = []
    later = f"{now} + 86400.0 + n * 0.001"
    for salt, operation, party in ((1, "request", "caller"), (2, "resolve", "callee")):
        digest, name = (words[database].format(salt=salt * 1_000_000_007) for words in (DIGEST, HEX))
        made.append(f"INSERT INTO kms_seen (digest, forget_at) {{series}} SELECT {digest}, {later} FROM n")
        made.append(
            "INSERT INTO kms_audit (at, operation, outcome, reason, party, responders, ticket_id, not_before,"
            " not_after, tpk_id, peer_kms, forget_at) {series} SELECT"
            f" {now} - n * 0.001, '{operation}', 'granted', '', 'sip:{party}' || (n % 1000) || '@{DOMAIN}',"
            f""" '["sip:callee' || (n % 1000) || '@{DOMAIN}"]', {name}, {now}, {now} + 3600.0, '{"ab" * 8}', '',"""
            f" {later} FROM n"
        )
    digest, name = (words[database].format(salt=3_000_000_021) for words in (DIGEST, HEX))
    made.append(
        f"INSERT INTO kms_use (ticket_id, digest, forget_at) {{series}} SELECT {name}, {digest}, {later} FROM n"
    )
    series = SERIES[database].format(count=count)
    return [statement.replace("{series}", series) for statement in made]


async def fill(store: Store, described: NodeEnvironment, tickets: int) -> None:
    """Write the rows of `tickets` tickets straight into the tables."""
    database, now = store.engine.dialect.name, time.time()
    if database == "sqlite":
        await store.engine.dispose()
        [file] = described.node_dir.rglob("store.sqlite")
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA cache_size = -1000000")
        with connection:
            for statement in statements(database, tickets, now):
                connection.execute(statement)
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return
    patient = DatabaseAccess.of(described).engine(migrating=True)
    async with patient.begin() as transaction:
        for statement in statements(database, tickets, now):
            await transaction.execute(text(statement.replace(":", "\\:")))
    async with patient.execution_options(isolation_level="AUTOCOMMIT").connect() as vacuuming:
        for table in ("kms_seen", "kms_audit", "kms_use"):
            await vacuuming.execute(text(f"VACUUM ANALYZE {table}"))
    await patient.dispose()
