"""The store under faults: locked, removed, replaced, from another version, killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite

from jst_bridge.errors import SchemaOutdated, StoreUnavailable
from jst_bridge.store import SqliteStore, migrations, open_reader, schema
from jst_bridge.store.migrations import Step, migrate
from tests.unit.test_store_landing import landing, message, rows, store

__all__ = ["store"]

ROOT = str(Path(__file__).parents[2])


def test_a_locked_store_writes_nothing_and_works_again(store: SqliteStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked") as caught:
        store.land(landing(message("a")))
    assert "another process" in caught.value.remedy
    assert str(store.path) in str(caught.value)
    other.execute("ROLLBACK")
    other.close()
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]
    assert store.land(landing(message("a"))).landed == 1


def test_a_full_disk_writes_nothing_and_works_again(store: SqliteStore) -> None:
    assert store._connection is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full") as caught:
        store.land(landing(*(message(f"k{n}", body=bytes(5_000)) for n in range(50))))
    assert "room" in caught.value.remedy
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]
    assert store.land(landing(message("a"))).landed == 1, "on a new connection, without the limit"


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("removed", ["bridge.db", "bridge.db*"])
def test_a_file_removed_or_replaced_settles_nothing_and_landing_goes_on_in_the_new_one(
    store: SqliteStore, tmp_path: Path, removed: str, replaced: bool
) -> None:
    store.land(landing(message("a")))
    for path in tmp_path.glob(removed):
        path.unlink()
    if replaced:
        another = SqliteStore(store.path)
        another.open()
        another.close()
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.land(landing(message("b")))
    assert store.land(landing(message("b"))).landed == 1
    assert rows(store, "SELECT message_key FROM messages") == [("b",)]


def test_a_file_removed_in_the_middle_of_a_transaction_settles_nothing(store: SqliteStore) -> None:
    assert store._connection is not None
    store._connection.set_trace_callback(lambda sql: store.path.unlink() if sql == "COMMIT" else None)
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.land(landing(message("a")))
    assert store.land(landing(message("a"))).landed == 1
    assert rows(store, "SELECT message_key FROM messages") == [("a",)]


def test_a_file_of_another_program_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"dear diary" * 1_000)
    with pytest.raises(StoreUnavailable, match=r"notes\.txt") as caught:
        SqliteStore(path).open()
    assert "another file" in caught.value.remedy


def test_a_missing_directory_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="absent") as caught:
        SqliteStore(tmp_path / "absent" / "bridge.db").open()
    assert caught.value.remedy


def test_a_newer_schema_is_refused_by_writer_and_reader(store: SqliteStore) -> None:
    other = sqlite3.connect(store.path)
    other.execute("INSERT INTO schema_migrations VALUES (999, 0)")
    other.commit()
    other.close()
    store.close()
    with pytest.raises(SchemaOutdated, match="999"):
        store.open()
    with pytest.raises(SchemaOutdated, match="999"):
        open_reader(f"sqlite:///{store.path}")


def test_an_empty_file_is_an_old_schema_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(SchemaOutdated, match="no tables") as caught:
        open_reader(f"sqlite:///{tmp_path}/empty.db")
    assert "jst-bridge run" in caught.value.remedy


def test_an_older_schema_takes_the_steps_it_lacks_once_and_in_order(store: SqliteStore) -> None:
    steps = (
        Step(2, "a note on trades", {"sqlite": ("ALTER TABLE trades ADD COLUMN note TEXT",)}),
        Step(3, "its index", {"sqlite": ("CREATE INDEX trades_note ON trades (note)",)}),
    )
    store.land(landing(message("a")))
    connection = sqlite3.connect(store.path)
    with pytest.raises(SchemaOutdated, match="schema 1"):
        migrations.require_current(connection.cursor(), sqlite.dialect(), steps)
    for _ in range(2):
        migrate(connection.cursor(), sqlite.dialect(), 5, steps)
    migrations.require_current(connection.cursor(), sqlite.dialect(), steps)
    assert connection.execute("SELECT version FROM schema_migrations").fetchall() == [(1,), (2,), (3,)]
    assert connection.execute("SELECT count(*) FROM trades WHERE note IS NULL").fetchone() == (1,)
    connection.close()


def test_secondary_indexes_of_messages_are_those_users_were_promised() -> None:
    assert sorted(tuple(index.columns.keys()) for index in schema.messages.indexes) == [
        ("landed_at",),
        ("seller", "published_at"),
        ("tid",),
    ]


LANDING_LOOP = """
import itertools, pathlib, sys
from jst_bridge.store import SqliteStore
from tests.unit.test_store_landing import landing, message, QUEUE, Position
store = SqliteStore(pathlib.Path(sys.argv[1]))
store.open()
begin = max(store.positions(*QUEUE[:3]).values(), default=0)
for first in itertools.count(begin, 50):
    batch = [message(f"k{n}", tid=str(n % 9), oid=str(n % 9)) for n in range(first, first + 50)]
    store.land(landing(*batch, positions=[Position(QUEUE, first + 50)]))
    print(first + 50, flush=True)
"""


def test_a_killed_process_leaves_whole_transactions_and_all_it_reported(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "bridge.db")
    for commits in (1, 4, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", LANDING_LOOP, str(store.path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": ROOT},
        )
        assert process.stdout is not None
        reported = [int(process.stdout.readline()) for _ in range(commits)][-1]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        [(count, distinct)] = rows(store, "SELECT count(*), count(DISTINCT message_key) FROM messages")
        [(position,)] = rows(store, "SELECT next_offset FROM positions")
        assert count == distinct == position >= reported
        assert count % 50 == 0
        assert rows(store, "PRAGMA integrity_check") == [("ok",)]
