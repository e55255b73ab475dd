"""Tables over releases: upgraded from the form without a version, all or nothing, once, and never taken back."""

import asyncio
import subprocess
import sys
import textwrap

import pytest
from sqlalchemy import MetaData, text

from sba.database import DatabaseAccess
from sba.errors import MigrationError, StoreError
from sba.migrations import History, bring_up_to_date, check, revision
from sba.migrations.run import differences
from sba.store import Store, key_value_table
from sba.testing import async_test
from tests.store.stores import DATABASES, KINDS, Said, environment, environment_on, history_of

pytestmark = pytest.mark.peer("pg_ctlcluster")
every_database = pytest.mark.parametrize("database", DATABASES)


def plain_store(env):
    """The store as a release without migrations opened it."""
    return Store.open(env)


async def rows(store):
    """Everything in every table but the revision."""
    found = {}
    async with store.connect() as connection:
        reflected = MetaData()
        await connection.run_sync(reflected.reflect)
        for name, table in reflected.tables.items():
            if name != "alembic_version":
                found[name] = sorted(map(str, (await connection.execute(table.select())).all()))
    return found


def value(column, number):
    """Something to keep in a column."""
    kind = column.type.python_type
    if kind is str:
        return '{"n": 1}' if column.name == "value" else f"{column.name} {number}"
    return {bytes: b"sealed" + bytes([number]), int: number, float: number / 2}[kind]


@every_database
@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_a_store_of_the_release_without_migrations_keeps_what_it_holds(tmp_path, kind, database):
    env, history, said = await environment_on(database, tmp_path), history_of(kind), Said()
    store = await plain_store(env)
    metadata = history.metadata()
    async with store.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for table in metadata.sorted_tables:
            kept = [{column.name: value(column, number) for column in table.columns} for number in (1, 2)]
            await connection.execute(table.insert(), kept)
    before = await rows(store)
    assert all(len(kept) == 2 for kept in before.values())
    assert set(before) == set(metadata.tables)
    await store.close()
    store = await Store.open(env, history, said)
    assert await revision(store.engine) == history.steps[-1]
    assert await rows(store) == before
    assert await differences(store.engine, history) == []
    await store.close()
    assert said.lines == [("store-migrated", {"history": history.package, "before": "", "now": history.steps[-1]})]


@every_database
@pytest.mark.parametrize("kind", KINDS)
@async_test
async def test_the_steps_make_what_the_code_declares(tmp_path, kind, database):
    history = history_of(kind)
    store = await Store.open(await environment_on(database, tmp_path), history)
    assert await differences(store.engine, history) == []
    for name in history.metadata().tables:
        if name.startswith("kv_"):
            table = await store.key_value(name.removeprefix("kv_"))
            await table.put("k", {"n": 1})
            assert await table.get("k") == {"n": 1}
    with pytest.raises(StoreError, match="declares no key-value table elsewhere"):
        await store.key_value("elsewhere")
    with pytest.raises(StoreError, match="migrations"):
        await store.tables(MetaData())
    await store.close()


def test_every_kind_that_keeps_something_has_a_history_and_the_gateway_none():
    assert history_of("imsagw") is None
    assert [history_of(kind).package for kind in KINDS] == [f"nodes.{kind}.migrations" for kind in KINDS]


@every_database
@async_test
async def test_a_store_of_a_newer_release_is_refused_and_left_alone(tmp_path, database):
    env, history = await environment_on(database, tmp_path), history_of("bsf")
    store = await Store.open(env, history)
    table = await store.key_value("bootstrap")
    await table.put("b", {"n": 1})
    async with store.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0907'"))
    before = await rows(store)
    await store.close()
    with pytest.raises(MigrationError, match=r"at revision 0907 of nodes.bsf.migrations, this release knows 0001"):
        await Store.open(env, history)
    store = await plain_store(env)
    assert await revision(store.engine) == "0907"
    assert await rows(store) == before
    await store.close()


FIRST = """
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = None
def upgrade():
    op.create_table("kv_calls", sa.Column("key", sa.String(512), primary_key=True), sa.Column("value", sa.Text()))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision = "0002"
down_revision = "0001"
def upgrade():
    op.create_table("seen", sa.Column("call", sa.String(64), primary_key=True))
    op.execute("INSERT INTO seen VALUES ('first')")
    with op.batch_alter_table("kv_calls") as batch:
        batch.add_column(sa.Column("at", sa.Float(), nullable=False, server_default="0"))
"""
TABLES = """
from sqlalchemy import MetaData, Table, Column, String
from sba.store import key_value_table
METADATA = MetaData()
key_value_table("calls", METADATA)
"""


def package(folder, name, *steps, tables=TABLES):
    """An NF's package elsewhere: its tables and its steps."""
    home = folder / name
    (home / "migrations").mkdir(parents=True, exist_ok=True)
    (home / "__init__.py").write_text("")
    (home / "tables.py").write_text(tables)
    (home / "node.py").write_text("class Watcher: pass\n")
    (home / "migrations" / "__init__.py").write_text("")
    for number, step in enumerate(steps, 1):
        (home / "migrations" / f"{number:04}_step.py").write_text(textwrap.dedent(step))
    return History(f"{name}.migrations")


@every_database
@async_test
async def test_an_nf_of_another_distribution_has_its_history_in_its_package(tmp_path, monkeypatch, database):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"watcher_{database}"
    package(tmp_path, name, FIRST)
    module = __import__(f"{name}.node", fromlist=["Watcher"])
    history = History.of(module.Watcher)
    assert history == History(f"{name}.migrations")
    assert History.of(type("Derived", (module.Watcher,), {"__module__": "tests.store.test_migrations"})) == history
    env = await environment_on(database, tmp_path)
    store = await Store.open(env, history)
    await (await store.key_value("calls")).put("a", {"n": 1})
    await store.close()
    package(tmp_path, name, FIRST, SECOND)
    store = await Store.open(env, history)
    async with store.connect() as connection:
        assert (await connection.execute(text("SELECT * FROM seen"))).all() == [("first",)]
        assert (await connection.execute(text("SELECT key, at FROM kv_calls"))).all() == [("a", 0.0)]
    await store.close()


@every_database
@async_test
async def test_when_a_step_fails_none_is_made(tmp_path, monkeypatch, database):
    monkeypatch.syspath_prepend(tmp_path)
    broken = SECOND + "    op.execute('SELECT no_such_column FROM seen')\n"
    history = package(tmp_path, f"broken_{database}", FIRST, broken)
    env = await environment_on(database, tmp_path)
    with pytest.raises(MigrationError, match=r"the migrations of broken_\S+ failed: .*no_such_column"):
        await Store.open(env, history)
    store = await plain_store(env)
    assert await rows(store) == {}
    assert await revision(store.engine) is None
    await store.close()
    package(tmp_path, f"broken_{database}", FIRST, SECOND)
    store = await Store.open(env, history)
    assert set(await rows(store)) == {"kv_calls", "seen"}
    await store.close()


OPEN = """
import asyncio, sys
from sba.config import NodeEnvironment
from sba.migrations import History
from sba.store import Store
from sba import runtime
async def main():
    sys.stdin.readline()
    said = []
    store = await Store.open(
        NodeEnvironment.load(sys.argv[1], "nf"), History(sys.argv[2]), lambda event, **_: said.append(event))
    table = await store.key_value("calls")
    await table.put(sys.argv[3], {"n": 1})
    await store.close()
    print(said)
print("ready", flush=True)
asyncio.run(main())
"""


@every_database
@async_test
async def test_instances_that_start_at_once_run_the_steps_once(tmp_path, monkeypatch, database):
    slow = SECOND.replace("op.execute(", "import time; time.sleep(0.3)\n    op.execute(", 1)
    history = package(tmp_path, "at_once", FIRST, slow)
    await environment_on(database, tmp_path)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OPEN, str(tmp_path / "nf.json"), history.package, f"instance{number}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": f"{tmp_path}:{':'.join(filter(None, sys.path))}"},
        )
        for number in range(3)
    ]
    for process in processes:
        assert await process.stdout.readline() == b"ready\n"
    async with asyncio.timeout(30):
        said = [(await process.communicate(b"go\n"))[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(said) == [b"['store-migrated']\n", b"[]\n", b"[]\n"]
    monkeypatch.syspath_prepend(tmp_path)
    store = await Store.open(await opened_again(tmp_path), history)
    assert len(await (await store.key_value("calls")).items()) == 3
    await store.close()


async def opened_again(folder):
    from sba.config import NodeEnvironment

    return NodeEnvironment.load(folder / "nf.json", "nf")


def test_an_up_to_date_store_is_recognised_without_alembic(tmp_path):
    environment(tmp_path)
    code = textwrap.dedent(
        """
        import asyncio, sys
        from nodes.hss.node import Hss
        from sba.config import NodeEnvironment
        from sba.migrations import History
        from sba.store import Store
        async def main():
            store = await Store.open(NodeEnvironment.load(sys.argv[1], "nf"), History.of(Hss))
            await (await store.key_value("sequence")).put("a", {})
            await store.close()
        asyncio.run(main())
        print(sorted(name for name in sys.modules if name in ("alembic", "asyncpg", "mako")))
        """
    )
    run = [sys.executable, "-c", code, str(tmp_path / "nf.json")]
    first, second = (subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == "['alembic', 'mako']\n"
    assert second == "[]\n"


@async_test
async def test_steps_that_are_not_counted_from_one_are_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    history = package(tmp_path, "gap", FIRST)
    (tmp_path / "gap" / "migrations" / "0003_later.py").write_text(SECOND)
    with pytest.raises(MigrationError, match=r"not numbered 0001, 0002 .*\['0001', '0003'\]"):
        await Store.open(environment(tmp_path), history)


def test_a_revision_nobody_knows_is_a_newer_release():
    check(history_of("hss"), None)
    check(history_of("hss"), "0001")
    with pytest.raises(MigrationError, match="use the release that wrote it"):
        check(history_of("hss"), "9999")


@async_test
async def test_a_file_that_is_no_database_is_told_as_that(tmp_path):
    env = environment(tmp_path)
    env.node_dir.mkdir(parents=True)
    (env.node_dir / "store.sqlite").write_bytes(b"not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(MigrationError, match=r"store\.sqlite cannot be read"):
        await Store.open(env, history_of("hss"))


@async_test
async def test_a_new_step_is_written_from_the_tables_and_runs(tmp_path, monkeypatch):
    from sba.migrations.write import write_step

    monkeypatch.syspath_prepend(tmp_path)
    history = package(tmp_path, "growing")
    first = write_step(history, "first tables")
    assert first.name == "0001_first_tables.py"
    with pytest.raises(MigrationError, match=r"make what growing.tables declares already"):
        write_step(history, "nothing")
    module = sys.modules["growing.tables"]
    key_value_table("notes", module.METADATA)
    second = write_step(history, "notes of the operator")
    assert second.name == "0002_notes_of_the_operator.py"
    assert "kv_notes" in second.read_text()
    store = await Store.open(environment(tmp_path), history)
    assert await differences(store.engine, history) == []
    assert set(await rows(store)) == {"kv_calls", "kv_notes"}
    await store.close()
    for unfit in ("", "a\x00b", 'quote "', "x" * 81):
        with pytest.raises(MigrationError, match="say what changes"):
            write_step(history, unfit)


@async_test
async def test_a_patient_engine_runs_the_steps_of_a_server(tmp_path):
    """What a server's steps take may be longer than a request may wait."""
    env = await environment_on("postgresql", tmp_path)
    access, made = DatabaseAccess.of(env), []

    def patient():
        made.append(access.engine(migrating=True))
        return made[0]

    engine = access.engine()
    await bring_up_to_date(engine, history_of("hss"), Said(), patient)
    await bring_up_to_date(engine, history_of("hss"), Said(), patient)
    assert len(made) == 1
    await engine.dispose()
