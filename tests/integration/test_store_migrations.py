"""A store of every released schema becomes one of today's, with all its data.

`tests/data/stores` keeps one store of each schema: `schema-N.db` for SQLite, with data, and the statements that made
the same schema on servers. Whoever changes `store/schema.py` adds a step to `store/migrations.py`; the tests below
compare what the steps make with what a new store gets, and fail until both are the same.

When a release brings schema N, keep it from the release's commit with `python tests/data/stores/keep.py`, and commit
the three files. They are never written again: a later program must go on reading what that release wrote.
"""

from __future__ import annotations

import multiprocessing
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest

from jst_bridge.errors import SchemaOutdated, StoreError, StoreUnavailable
from jst_bridge.store import Database, migrations, open_database, open_reader, open_store
from jst_bridge.store.migrations import Step
from jst_bridge.store.rebuild import rebuild
from jst_bridge.store.schema import METADATA
from tests.databases import RunningDatabases
from tests.stores import TID, dead, landing, message, plain, rows

KEPT = Path(__file__).parents[1] / "data" / "stores"
VERSIONS = sorted(int(path.stem.removeprefix("schema-")) for path in KEPT.glob("schema-*.db"))
OLD = [version for version in VERSIONS if version < migrations.newest()]

CATALOGUE = {
    # Columns by name: where a step adds one, a new store may have it elsewhere.
    "sqlite": (
        'SELECT t.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_master AS t'
        " JOIN pragma_table_info(t.name) AS c WHERE t.name NOT LIKE 'sqlite_%'",
        "SELECT i.name, i.tbl_name, c.seqno, c.name FROM sqlite_master AS i JOIN pragma_index_info(i.name) AS c"
        " WHERE i.type = 'index'",
        "SELECT name, sql FROM sqlite_master WHERE type = 'view'",
    ),
    "postgresql": (
        "SELECT table_name, column_name, data_type, character_maximum_length, numeric_precision, numeric_scale,"
        " collation_name, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = current_schema()",
        "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
        "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema()",
    ),
    "mysql": (
        "SELECT table_name, column_name, column_type, collation_name, is_nullable, column_default, extra"
        " FROM information_schema.columns WHERE table_schema = DATABASE()",
        "SELECT table_name, index_name, seq_in_index, column_name, non_unique"
        " FROM information_schema.statistics WHERE table_schema = DATABASE()",
        "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = DATABASE()",
        "SELECT table_name, engine, table_collation FROM information_schema.tables"
        " WHERE table_schema = DATABASE()",
    ),
}


def catalogue(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All tables, columns, indexes and views, as the database itself lists them."""
    with closing(database.connect_reading()) as connection:
        cursor = connection.cursor()
        return {query: fetched(cursor, query) for query in CATALOGUE[database.dialect.name]}


def fetched(cursor: Any, query: str) -> list[tuple[Any, ...]]:
    """The rows, sorted; money is text."""
    cursor.execute(query)
    return sorted((tuple(map(plain, row)) for row in cursor.fetchall()), key=repr)


def run(database: Database, statements: Sequence[str]) -> None:
    def work(cursor: Any) -> None:
        for statement in statements:
            cursor.execute(statement)

    database.transact(work, checked=False)


def make_old(url: str, version: int = VERSIONS[-1]) -> dict[str, list[tuple[Any, ...]]]:
    """Make the store of a released schema at `url`; returns its rows, per table as `contents` has them."""
    kept = KEPT / f"schema-{version}.db"
    database = open_database(url)
    if database.dialect.name == "sqlite":
        path = Path(urlsplit(url).path)
        shutil.copyfile(kept, path)
        return contents(database)
    with closing(database):
        script = (KEPT / f"schema-{version}.{database.dialect.name}.sql").read_text(encoding="utf-8")
        run(database, script.removesuffix(";\n").split(";\n"))
        copy(kept, database)
        return contents(database)


def copy(kept: Path, database: Database) -> None:
    """The rows of a SQLite file into the same tables; what numbers itself does so again."""

    def work(cursor: Any) -> None:
        for table in tables_of(source):
            found = source.execute(f"SELECT * FROM {table} ORDER BY 1")
            names = [column[0] for column in found.description]
            serial = names[0] == "id"
            marks = ", ".join(["%s"] * (len(names) - serial))
            statement = f"INSERT INTO {table} ({', '.join(names[serial:])}) VALUES ({marks})"
            for row in found.fetchall():
                cursor.execute(statement, row[serial:])

    with closing(sqlite3.connect(f"{kept.as_uri()}?mode=ro&immutable=1", uri=True)) as source:
        database.transact(work, checked=False)


def tables_of(source: sqlite3.Connection) -> list[str]:
    found = source.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [name for (name,) in found if name != "schema_migrations"]


def contents(database: Database, like: Iterable[str] = ()) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table but the stamp: by "columns FROM table", those of `like` where it is given."""
    with closing(database.connect_reading()) as connection:
        cursor = connection.cursor()
        return {columns: fetched(cursor, f"SELECT {columns}") for columns in like or all_columns(cursor)}


def all_columns(cursor: Any) -> Iterator[str]:
    for table in METADATA.sorted_tables:
        if table.name != "schema_migrations":
            try:
                cursor.execute(f"SELECT * FROM {table.name}")
            except (sqlite3.Error, psycopg.Error, pymysql.MySQLError):
                continue  # a table of a later schema
            yield f"{', '.join(column[0] for column in cursor.description)} FROM {table.name}"


def dropped(database: Database) -> None:
    """Nothing of ours in it any more."""
    run(
        database,
        [
            statement
            for table in METADATA.sorted_tables
            for statement in (f"DROP VIEW IF EXISTS v_{table.name}", f"DROP TABLE IF EXISTS {table.name}")
        ],
    )


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(open_database(database_url)) as opened:
        yield opened


@pytest.fixture
def new_catalogue(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """What a new store looks like; nothing of it is left."""
    database.migrate()
    found = catalogue(database)
    dropped(database)
    if database.dialect.name == "sqlite":
        database.close()
        Path(database.label).unlink()
    return found


def test_every_released_schema_is_kept_with_data_for_every_database() -> None:
    assert list(range(1, migrations.newest())) == OLD
    for version in VERSIONS:
        assert all((KEPT / f"schema-{version}.{kind}.sql").exists() for kind in ("postgresql", "mysql"))
        with closing(
            sqlite3.connect(f"file:{KEPT}/schema-{version}.db?mode=ro&immutable=1", uri=True)
        ) as kept:
            assert kept.execute("SELECT max(version) FROM schema_migrations").fetchone() == (version,)
            counts = {
                table: kept.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in tables_of(kept)
            }
        assert counts["messages"] >= 50
        assert min(counts[table] for table in ("trades", "refunds", "dead_letters", "gaps", "positions")) > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_migrated_store_is_like_a_new_one_and_holds_all_its_data(
    database: Database, database_url: str, new_catalogue: dict[str, list[tuple[Any, ...]]], version: int
) -> None:
    before = make_old(database_url, version)
    took = database.migrate()
    assert bool(took) == (version < migrations.newest())
    assert catalogue(database) == new_catalogue
    assert contents(database, like=before) == before
    assert database.migrate() == database.pending() == []
    assert rows(database, "SELECT max(version), count(*) FROM schema_migrations") == [
        (migrations.newest(), migrations.newest() - version + 1)
    ]


@pytest.mark.parametrize("version", OLD)
def test_landing_and_reading_go_on_where_the_old_schema_stopped(
    database: Database, database_url: str, version: int
) -> None:
    before = rows_of_messages(make_old(database_url, version))
    database.migrate()
    with closing(open_store(database_url)) as store:
        store.open()
        landed = store.land(landing(message("tb:1:new"), message(before[0][1], body=before[0][-1])))
        assert (landed.landed, landed.duplicates) == (1, 1)
        assert rows(store, "SELECT max(id), count(*) FROM messages") == [(len(before) + 1, len(before) + 1)]
    with closing(open_reader(database_url)) as reader:
        assert [row.message_key for row in reader.timeline(str(TID)).events] == ["tb:1:new"]
        assert reader.counts().messages == len(before) + 1
    for table in METADATA.sorted_tables:
        shown = rows(database, f"SELECT * FROM v_{table.name}")
        assert len(shown) == rows(database, f"SELECT count(*) FROM {table.name}")[0][0]
    [(born, dead_at, outcome, replays)] = rows(
        database, "SELECT born_at, dead_at, outcome, replays FROM v_dead_letters"
    )
    assert re.fullmatch(r"2022-11-\d\d \d\d:\d\d:\d\d\.\d{3}", born)
    assert dead_at > born
    assert (outcome, replays) == ("open", 0)
    rebuilt = rebuild(database)
    assert (rebuilt.messages, rebuilt.undecodable_keys) == (
        len(before),
        ["tb:1:new"],
    )  # a body of b"tb:1:new"


def rows_of_messages(contents: dict[str, list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    return next(found for columns, found in contents.items() if columns.endswith("FROM messages"))


@pytest.mark.parametrize("version", OLD)
def test_opening_an_old_store_migrates_a_file_and_names_the_command_for_a_server(
    database: Database, database_url: str, version: int
) -> None:
    before = make_old(database_url, version)
    if database.migrates_itself:
        database.open()
        assert database.look() == migrations.newest()
    else:
        for opening in (database.open, database.look, lambda: open_reader(database_url)):
            with pytest.raises(SchemaOutdated, match=f"has schema {version}") as caught:
                opening()
            assert "jst-bridge store migrate" in caught.value.remedy
            assert caught.value.exit_code == 78
        assert rows(database, "SELECT max(version) FROM schema_migrations") == [(version,)]
    assert contents(database, like=before) == before


def test_pending_statements_change_nothing_until_they_are_executed(
    database: Database, database_url: str
) -> None:
    make_old(database_url, OLD[-1])
    before = catalogue(database)
    statements = database.pending()
    assert any("ADD COLUMN" in statement for statement in statements)
    assert catalogue(database) == before
    run(database, statements)  # as an administrator does who was given them
    assert database.pending() == []
    database.open()


def test_an_interrupted_migration_goes_on_wherever_it_stopped(
    mariadb: RunningDatabases, request: pytest.FixtureRequest
) -> None:
    """MySQL commits each of its statements; elsewhere a migration is one transaction."""
    name = f"jst_test_{secrets.randbelow(10**8)}"
    url = mariadb.create_database(name)
    request.addfinalizer(lambda: mariadb.drop_database(name))
    with closing(open_database(url)) as database:
        before = make_old(url, OLD[-1])
        statements = database.pending()
        database.migrate()
        migrated = catalogue(database)
        for stop in range(len(statements)):
            step_back(database)
            run(database, statements[:stop])
            with pytest.raises(SchemaOutdated):
                database.open()
            database.migrate()
            assert catalogue(database) == migrated, stop
        assert contents(database, like=before) == before


def test_an_interrupted_first_migration_goes_on_wherever_it_stopped(
    database: Database, new_catalogue: dict[str, list[tuple[Any, ...]]]
) -> None:
    made = 0
    while " VIEW " not in (statements := database.pending())[0]:
        run(database, statements[:1])
        made += 1
    assert made > len(METADATA.tables)  # and indexes
    database.migrate()
    assert catalogue(database) == new_catalogue


def test_a_later_step_may_add_to_what_an_earlier_one_made(database: Database, database_url: str) -> None:
    make_old(database_url, OLD[-1])
    run(database, ["DROP VIEW v_refunds", "DROP TABLE refunds"])
    newest = migrations.newest()
    steps = (
        *migrations.STEPS,
        Step(newest + 1, "makes a table", tables=("refunds",)),
        Step(newest + 2, "adds to it", columns=("refunds.bill_type",), indexes=("refunds_tid",)),
    )

    def work(cursor: Any) -> list[str]:
        return migrations.pending(cursor, database.dialect, 0, steps)

    run(database, database.transact(work, checked=False))
    assert database.transact(work, checked=False) == []
    assert rows(database, "SELECT max(version) FROM schema_migrations") == [(newest + 2,)]


def step_back(database: Database) -> None:
    """Take back the newest step, so that it can be made again."""
    step = migrations.STEPS[-1]
    run(
        database,
        [
            *(f"DROP VIEW v_{table}" for table in step.tables),
            *(f"DROP TABLE {table}" for table in step.tables),
            *("ALTER TABLE {} DROP COLUMN {}".format(*column.split(".")) for column in step.columns),
            *(f"DROP INDEX {index}" for index in step.indexes),
            f"DELETE FROM schema_migrations WHERE version = {step.version}",
        ],
    )


def migrate_at_once(url: str, start: Any, taken: Any) -> None:
    """In a process of its own."""
    database = open_database(url)
    start.wait()
    taken.put(len(database.migrate()))
    database.open()
    database.close()


@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
def test_of_processes_that_migrate_at_once_one_does_it(
    database: Database, database_url: str, old: bool
) -> None:
    if old:
        make_old(database_url, OLD[-1])
    context = multiprocessing.get_context("spawn")
    start, taken = context.Barrier(2), context.Queue()
    processes = [context.Process(target=migrate_at_once, args=(database_url, start, taken)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    one, other = sorted(taken.get() for _ in processes)
    assert (one, other > 0) == (0, True)
    assert rows(database, "SELECT max(version) FROM schema_migrations") == [(migrations.newest(),)]
    database.open()


def test_a_newer_schema_is_refused_everywhere(database: Database, database_url: str) -> None:
    database.migrate()
    run(database, ["INSERT INTO schema_migrations (version, applied_at) VALUES (999, 0)"])
    before = catalogue(database)
    with closing(open_database(database_url)) as fresh, closing(open_store(database_url)) as store:
        for use in (store.open, fresh.open, fresh.migrate, fresh.pending, lambda: open_reader(database_url)):
            with pytest.raises(SchemaOutdated, match="has schema 999") as caught:
                use()
            assert "upgrade" in caught.value.remedy
    assert catalogue(database) == before


@pytest.fixture
def stranger(server_url: str, database_server: RunningDatabases) -> Iterator[str]:
    """The URL, for the database of `server_url`, of a login that may only look around there."""
    name, password = f"jst_stranger_{secrets.token_hex(4)}", secrets.token_hex(8)
    parts = urlsplit(server_url)
    if database_server.kind == "postgresql":
        user, made = name, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"
    else:
        user = f"{name}@'%'"
        made = f"CREATE USER {user} IDENTIFIED BY '{password}'"
    try:
        database_server.admin(made)
    except (psycopg.errors.InsufficientPrivilege, pymysql.err.OperationalError) as refusal:
        pytest.skip(f"the login may not make another one: {refusal}")
    if database_server.kind == "mariadb":
        database_server.admin(f"GRANT SELECT ON {parts.path[1:]}.* TO {user}")
    yield parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()
    if database_server.kind == "postgresql":
        for objects in ("TABLES", "SEQUENCES"):
            database_server.query(server_url, f"REVOKE ALL ON ALL {objects} IN SCHEMA public FROM {user}")
    database_server.admin(f"DROP USER {user}")


def permit(server: RunningDatabases, url: str, stranger: str) -> None:
    """What the remedy says a login needs that does not make the tables."""
    user, database = urlsplit(stranger).username, urlsplit(url).path[1:]
    if server.kind == "postgresql":
        server.query(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}")
        server.query(url, f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}")
    else:
        server.admin(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {user}@'%'")


def test_a_login_that_may_not_make_tables_is_told_what_to_do(
    stranger: str, server_url: str, database_server: RunningDatabases
) -> None:
    with closing(open_database(stranger)) as limited, closing(open_database(server_url)) as owner:
        for make in (limited.open, limited.migrate):
            with pytest.raises(StoreUnavailable, match="does not permit it") as caught:
                make()
            assert "CREATE" in caught.value.remedy
            assert "jst-bridge store migrate --print-sql" in caught.value.remedy
        run(owner, limited.pending())  # those it would print
        permit(database_server, server_url, stranger)
        with closing(open_store(stranger)) as store:
            store.open()
            assert store.land(landing(message("a"), dead_letters=[dead()])).landed == 1
            assert rows(store, "SELECT message_key FROM messages") == [("a",)]


def test_a_login_that_may_not_change_tables_is_told_what_to_do(
    stranger: str, server_url: str, database_server: RunningDatabases
) -> None:
    make_old(server_url, OLD[-1])
    permit(database_server, server_url, stranger)
    with closing(open_database(stranger)) as limited, closing(open_database(server_url)) as owner:
        with pytest.raises(SchemaOutdated):
            limited.open()
        with pytest.raises(StoreError) as caught:
            limited.migrate()
        assert "jst-bridge store migrate --print-sql" in caught.value.remedy
        before = catalogue(owner)
        with pytest.raises(StoreError):
            limited.migrate()
        assert catalogue(owner) == before
        run(owner, limited.pending())
        permit(database_server, server_url, stranger)
        limited.open()
        assert limited.pending() == []
