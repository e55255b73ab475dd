"""Stores on a real PostgreSQL: each NF by itself, no password anywhere, and a server that goes and comes again."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import time

import asyncpg
import pytest
from sqlalchemy import text

from nodes.bsf.node import Bsf
from sba import database as sba_database
from sba import keyvalue
from sba.database import DatabaseAccess, DatabaseAddress, identifier, read_password
from sba.database_setup import Administrator, Tenant, prepare, scram_secret
from sba.errors import ConfigurationError, StoreError, StoreUnavailableError
from sba.migrations import History
from sba.pki import LabCa
from sba.store import Store
from sba.testing import async_test, free_port
from tests.postgresql import ADMINISTRATOR, own_server, shared_server
from tests.store.stores import INSTANCE, Said, environment, environment_on

pytestmark = pytest.mark.peer("pg_ctlcluster")


@pytest.fixture(scope="module")
def server():
    """A server that these tests stop and kill; each leaves it running."""
    with own_server() as started:
        yield started


async def opened(env, log=None):
    return await Store.open(env, History.of(Bsf), log)


@async_test
async def test_each_nf_has_a_role_and_a_schema_of_its_own(tmp_path):
    described = await shared_server().database(tmp_path, {"bsf": ["bsf"], "hss": ["hss"]})
    stores = [await opened(environment(tmp_path, name, described)) for name in ("bsf", "hss")]
    for store, name in zip(stores, ("bsf", "hss"), strict=True):
        await (await store.key_value("bootstrap")).put("who", {"nf": name})
        async with store.connect() as connection:
            facts = (await connection.execute(text("SELECT current_user, current_schema()"))).one()
            assert tuple(facts) == (f"imslab-{name}", f"imslab-{name}")
    for store, name in zip(stores, ("bsf", "hss"), strict=True):
        assert await (await store.key_value("bootstrap")).get("who") == {"nf": name}
        await store.close()


@pytest.mark.attack("T8")
@pytest.mark.parametrize(
    "attempt",
    [
        'SELECT * FROM "imslab-hss".kv_bootstrap',
        "INSERT INTO \"imslab-hss\".kv_bootstrap VALUES ('x', '{}')",
        'CREATE TABLE "imslab-hss".mine (n int)',
        "CREATE TABLE public.mine (n int)",
        "CREATE TEMPORARY TABLE mine (n int)",
        "CREATE SCHEMA mine",
        'DROP SCHEMA "imslab-hss" CASCADE',
        "CREATE ROLE mine",
        "ALTER ROLE \"imslab-hss\" PASSWORD 'mine'",
        'SET ROLE "imslab-hss"',
        "SELECT rolpassword FROM pg_authid",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
@async_test
async def test_an_nf_that_was_taken_over_reaches_no_other_store(tmp_path_factory, attempt):
    store = await opened(await victims(tmp_path_factory))
    async with store.engine.connect() as connection:
        with pytest.raises(Exception, match=r"permission denied|must be (owner|superuser|member)"):
            await connection.execute(text(attempt))
    await store.close()


_victims = []


async def victims(tmp_path_factory):
    """Two NFs of one database, made once; the environment of the first."""
    if not _victims:
        folder = tmp_path_factory.mktemp("victims")
        described = await shared_server().database(folder, {"bsf": ["bsf"], "hss": ["hss"]})
        await (await opened(environment(folder, "hss", described))).close()
        _victims.append(environment(folder, "bsf", described))
    return _victims[0]


@pytest.mark.attack("T8")
@async_test
async def test_who_has_no_role_of_the_lab_or_no_password_does_not_get_in(tmp_path):
    env = await environment_on("postgresql", tmp_path)
    access = DatabaseAccess.of(env)
    address = access.address
    maintenance = await asyncpg.connect(
        host=address.host,
        port=address.port,
        user=ADMINISTRATOR,
        password=shared_server().administrator.password,
        database="postgres",
    )
    stranger = f"stranger_{address.database}"
    await maintenance.execute(f"CREATE ROLE {stranger} LOGIN PASSWORD 'known'")
    await maintenance.close()
    for user, password, why in (
        (stranger, "known", "permission denied for database"),
        (access.role, "wrong", "password authentication failed"),
        (access.role, "", "password authentication failed"),
        ("imslab-nobody", "x", "password authentication failed"),
    ):
        with pytest.raises(asyncpg.PostgresError, match=why):
            await asyncpg.connect(
                host=address.host, port=address.port, user=user, password=password, database=address.database
            )


@pytest.mark.attack("T8")
@async_test
async def test_the_password_is_in_no_url_error_log_or_statement(tmp_path):
    env = await environment_on("postgresql", tmp_path)
    access, said = DatabaseAccess.of(env), Said()
    password = read_password(access.password_file)()
    store = await opened(env, said)
    async with store.connect() as connection:
        with pytest.raises(Exception) as failed:
            await connection.execute(text("SELECT nothing_of_that_name"))
    shown = [repr(access), str(access), repr(store.engine), str(store.engine.url), repr(access.arguments())]
    shown += [str(failed.value), repr(failed.value)]
    await store.close()
    access.password_file.write_text("another one")
    with pytest.raises(StoreUnavailableError) as refused:
        await opened(environment(tmp_path, "nf", {**lab_of(env), "database_wait_s": 0.0}), said)
    shown += [str(refused.value), repr(refused.value.__cause__), repr(said.lines)]
    shown.append(shared_server().log.read_text())
    for words in shown:
        assert password not in words
        assert "another one" not in words
    assert "password authentication failed" in str(refused.value)
    assert "imslab database prepare" in str(refused.value)


def lab_of(env):
    return {name: getattr(env.lab, name) for name in ("database_url", "database_password_file", "database_ca_file")}


@pytest.mark.attack("T8")
@async_test
async def test_a_url_with_a_user_or_password_is_not_taken_and_not_repeated(tmp_path):
    for url in (
        "postgresql+asyncpg://bsf:hidden@127.0.0.1/lab",
        "postgresql+asyncpg://bsf@127.0.0.1/lab",
        "postgresql+asyncpg://127.0.0.1/lab?password=hidden",
        "postgresql+asyncpg://127.0.0.1",
        "postgresql+asyncpg:///lab",
        "mysql://127.0.0.1/lab",
        "sqlite+aiosqlite:////tmp/hidden",
    ):
        with pytest.raises(ConfigurationError, match="database_url") as refused:
            await opened(environment(tmp_path, "nf", {"database_url": url}))
        assert "hidden" not in str(refused.value)


@async_test
async def test_without_its_password_a_node_does_not_start(tmp_path):
    env = await environment_on("postgresql", tmp_path)
    file = DatabaseAccess.of(env).password_file
    for content in (None, b"", b"\n", b"a\x00b", "schlüssel".encode()):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"the password file .*nf\.password of the database"):
            await opened(env)


@async_test
async def test_a_schema_of_somebody_else_is_not_used(tmp_path):
    described = await shared_server().database(tmp_path, {"bsf": ["bsf", "nf"], "nf": []})
    with pytest.raises(ConfigurationError, match=r"the schema imslab-nf in .* belongs to imslab-bsf"):
        await opened(environment(tmp_path, "nf", described))
    address = DatabaseAddress.parse(described["database_url"])
    with pytest.raises(StoreError, match="the schema imslab-nf belongs to imslab-bsf"):
        await prepare(address, shared_server().administrator, [Tenant("nf", ("nf",))])


@async_test
async def test_preparing_again_changes_nothing_and_two_may_do_it_at_once(tmp_path):
    described = await shared_server().database(tmp_path, {"nf": ["nf"]})
    env = environment(tmp_path, "nf", described)
    store = await opened(env)
    await (await store.key_value("bootstrap")).put("kept", {"n": 1})
    address = DatabaseAddress.parse(described["database_url"])
    tenant = Tenant("nf", ("nf", "nf-2"), tmp_path / "nf.password")
    await asyncio.gather(*(prepare(address, shared_server().administrator, [tenant]) for _ in range(3)))
    assert await (await store.key_value("bootstrap")).get("kept") == {"n": 1}
    await store.close()
    tenant.password_file.write_text("a new password")
    await prepare(address, shared_server().administrator, [tenant])
    store = await opened(env)
    assert await (await store.key_value("bootstrap")).get("kept") == {"n": 1}
    await store.close()


@async_test
async def test_who_may_not_prepare_is_told_so(tmp_path):
    address = DatabaseAddress.parse(shared_server().url("postgres"))
    with pytest.raises(StoreUnavailableError, match=r"does not let nobody in: password authentication failed"):
        await prepare(address, Administrator("nobody", lambda: "x"), [])
    with pytest.raises(StoreUnavailableError, match=r"127.0.0.1:1/x does not let postgres in"):
        await prepare(DatabaseAddress("127.0.0.1", 1, "x"), Administrator("postgres"), [])


def test_a_stored_password_is_the_one_of_rfc_5802():
    """Password, salt and rounds of the example in RFC 7677 3; that PostgreSQL believes the form the other tests show."""
    import base64

    made = scram_secret("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert made == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
        "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    for unfit in ("", "tab\t", "ü"):
        with pytest.raises(ConfigurationError):
            scram_secret(unfit)


def test_names_of_roles_differ_and_fit():
    names = ["kms.ims.test", "kms-ims-test", "kms_ims_test", "x" * 60, "x" * 59 + "y", "x" * 61]
    made = [identifier(name) for name in names]
    assert len(set(made)) == len(made)
    assert all(len(name.encode()) <= 63 for name in made)
    assert made[0] == "imslab-kms.ims.test"


@async_test
async def test_a_node_waits_for_its_database_and_says_so(server, tmp_path):
    described = await server.database(tmp_path, {"nf": ["nf"]})
    server.kill()
    said = Said()
    opening = asyncio.ensure_future(opened(environment(tmp_path, "nf", described), said))
    await said.spoken.wait()
    await asyncio.get_running_loop().run_in_executor(None, server.start)
    async with asyncio.timeout(10):
        store = await opening
    await store.close()
    assert said.events()[0] == "store-waiting"
    facts = said.lines[0][1]
    assert facts["database"] == f"{server.address}/{described['database_url'].rpartition('/')[2]}"
    assert "refused" in facts["fault"].lower()
    assert said.events()[-2:] == ["store-reached", "store-migrated"]


@async_test
async def test_a_node_gives_up_after_its_patience(tmp_path):
    url = f"postgresql+asyncpg://127.0.0.1:{free_port()}/lab"
    (tmp_path / "nf.password").write_text("x")
    described = {"database_url": url, "database_password_file": str(tmp_path / "{nf}.password")}
    env = environment(tmp_path, "nf", described | {"database_wait_s": 0.6})
    started, said = time.monotonic(), Said()
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:\d+/lab as imslab-nf cannot be used: .*refused"):
        await opened(env, said)
    assert 0.2 < time.monotonic() - started < 5
    assert said.events() == ["store-waiting"]


@pytest.mark.attack("T9")
@async_test
async def test_a_killed_server_makes_requests_fail_at_once_and_serves_again_when_it_is_back(server, tmp_path):
    env = environment(tmp_path, "nf", await server.database(tmp_path, {"nf": ["nf"]}))
    store = await opened(env)
    table = await store.key_value("bootstrap")
    await asyncio.gather(*(table.put(str(number), {"n": number}) for number in range(50)))
    await asyncio.gather(*(table.get(str(number)) for number in range(4)))  # several connections are open
    server.kill()
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="the database does not answer: "):
            await table.get("1")
        with pytest.raises(StoreUnavailableError):
            async with store.begin():
                pass
        assert time.monotonic() - started < 2
    await asyncio.get_running_loop().run_in_executor(None, server.start)
    assert await asyncio.gather(*(table.get(str(number)) for number in range(50))) == [{"n": n} for n in range(50)]
    await store.close()


@pytest.mark.attack("T9")
@async_test
async def test_a_write_outlasts_a_restart_and_one_that_fails_is_told_and_never_made(server, tmp_path, monkeypatch):
    env = environment(tmp_path, "nf", await server.database(tmp_path, {"nf": ["nf"]}))
    store = await opened(env)
    table = await store.key_value("bootstrap")
    await table.put("before", {"n": 1})
    server.kill()
    monkeypatch.setattr(keyvalue, "_PATIENCE_S", 20.0)
    writing = [asyncio.ensure_future(table.put(f"during {number}", {"n": number})) for number in range(5)]
    removing = asyncio.ensure_future(table.delete("before"))
    done, _ = await asyncio.wait([*writing, removing], timeout=0.3)
    assert not done
    await asyncio.get_running_loop().run_in_executor(None, server.start)
    async with asyncio.timeout(15):
        await asyncio.gather(*writing, removing)
    assert [key for key, _ in await table.items()] == [f"during {number}" for number in range(5)]
    server.kill()
    monkeypatch.setattr(keyvalue, "_PATIENCE_S", 0.2)
    lost = await asyncio.gather(*(table.put(f"lost {n}", {}) for n in range(5)), return_exceptions=True)
    assert [type(error) for error in lost] == [StoreUnavailableError] * 5
    await asyncio.get_running_loop().run_in_executor(None, server.start)
    await table.put("after", {"n": 2})
    assert [key for key, _ in await table.items()] == ["after", *(f"during {number}" for number in range(5))]
    await store.close()


@pytest.mark.attack("T9")
@async_test
async def test_a_server_that_hangs_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sba_database, "COMMAND_S", 0.3)
    monkeypatch.setattr(sba_database, "CONNECT_S", 0.3)
    env = environment(tmp_path, "nf", await server.database(tmp_path, {"nf": ["nf"]}))
    store = await opened(env)
    table = await store.key_value("bootstrap")
    await table.put("a", {"n": 1})
    leader = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    held = []
    for pid in [leader, *server.processes()]:  # the leader first: it starts no more of them
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            held.append(pid)
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="no answer in time"):
                async with asyncio.timeout(5):
                    await table.get("a")
    finally:
        for pid in held:
            with contextlib.suppress(ProcessLookupError):  # it was ending already
                os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(10):
        while True:
            try:
                assert await table.get("a") == {"n": 1}
                break
            except StoreUnavailableError:
                continue
    await store.close()


@async_test
async def test_no_more_connections_than_there_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(sba_database, "CONNECT_S", 0.5)
    store = await opened(await environment_on("postgresql", tmp_path))
    async with contextlib_all(store, sba_database.POOL + sba_database.OVERFLOW):
        with pytest.raises(StoreUnavailableError, match="every connection is in use"):
            async with store.connect():
                pass
    async with store.connect():
        pass
    await store.close()


class contextlib_all:
    """That many connections at once."""

    def __init__(self, store, count):
        self.held = [store.connect() for _ in range(count)]

    async def __aenter__(self):
        for held in self.held:
            await held.__aenter__()

    async def __aexit__(self, *_):
        for held in self.held:
            await held.__aexit__(None, None, None)


@pytest.mark.attack("T6")
@async_test
async def test_with_a_ca_the_server_has_to_prove_itself(server, tmp_path):
    described = await server.database(tmp_path, {"nf": ["nf"]})
    trusted, foreign = (LabCa.create(tmp_path / name) for name in ("pki", "foreign"))
    ca_file = str(tmp_path / "pki" / "ca.crt")
    env = environment(tmp_path, "nf", described | {"database_ca_file": ca_file, "database_wait_s": 0.0})
    with pytest.raises(StoreUnavailableError, match=r"SSL|rejected"):
        await opened(env)  # the server has no certificate; nobody goes on without
    for authority, host, fits in ((trusted, "127.0.0.1", True), (foreign, "127.0.0.1", False), (trusted, "::1", False)):
        with_certificate(server, authority, host)
        if fits:
            store = await opened(env)
            async with store.connect() as connection:
                assert await connection.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
            await store.close()
        else:
            with pytest.raises(StoreUnavailableError, match=r"certificate verify failed|mismatch|CERTIFICATE"):
                await opened(env)
    server.stop(gone=False)
    server.start()
    with pytest.raises(ConfigurationError, match="certificates of the database"):
        await opened(environment(tmp_path, "nf", described | {"database_ca_file": str(tmp_path / "none.pem")}))


def with_certificate(server, authority, host):
    authority.issue("database", ("LAB",), INSTANCE, dns=["database.ims.test"], ips=[host])
    server.stop(gone=False)
    for suffix in ("crt", "key"):
        made = server.folder / f"server.{suffix}"
        shutil.copy(authority.folder / f"database.{suffix}", made)
        if server.as_user:
            shutil.chown(made, "postgres", "postgres")
        made.chmod(0o600)
    files = f"-c ssl_cert_file={server.folder}/server.crt -c ssl_key_file={server.folder}/server.key"
    server.start(f"-c ssl=on {files}")


def test_an_access_is_made_of_the_names_of_the_node(tmp_path):
    described = {"database_url": "postgresql://db.test/lab", "database_password_file": "/run/{nf}/{instance}"}
    alone = DatabaseAccess.of(environment(tmp_path, "pcscf-a-2", described, nf="pcscf-a"))
    assert (alone.role, alone.schema) == ("imslab-pcscf-a", "imslab-pcscf-a-2")
    assert str(alone.password_file) == "/run/pcscf-a/pcscf-a-2"
    member = DatabaseAccess.of(environment(tmp_path, "kms-2", described, nf="kms", nf_set="kms.ims.test"))
    assert (member.role, member.schema) == ("imslab-kms.ims.test", "imslab-kms.ims.test")
    assert str(member.password_file) == "/run/kms.ims.test/kms-2"
    assert member.address == DatabaseAddress("db.test", 5432, "lab")
    assert dataclasses.replace(member, application="x").address == member.address
