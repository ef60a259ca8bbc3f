"""The store under faults: locked, removed, replaced, from another version, killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jst_bridge.errors import SchemaOutdated, StoreError, StoreUnavailable
from jst_bridge.store import LandingStore, open_reader, schema
from jst_bridge.store.sqlite import SqliteDatabase
from tests.stores import landing, message, rows

ROOT = str(Path(__file__).parents[2])


def sqlite_store(path: Path, busy_timeout: float = 0.05) -> LandingStore:
    return LandingStore(SqliteDatabase(path, busy_timeout=busy_timeout))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


@pytest.fixture
def store(path: Path) -> Iterator[LandingStore]:
    opened = sqlite_store(path)
    opened.open()
    yield opened
    opened.close()


def test_all_files_of_the_store_are_for_their_owner_only(store: LandingStore, path: Path) -> None:
    store.land(landing(message()))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"bridge.db": 0o600, "bridge.db-wal": 0o600, "bridge.db-shm": 0o600}


def test_a_locked_store_writes_nothing_and_works_again(store: LandingStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked") as caught:
        store.land(landing(message("a")))
    assert "another process" in caught.value.remedy
    assert str(path) in str(caught.value)
    other.execute("ROLLBACK")
    other.close()
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]
    assert store.land(landing(message("a"))).landed == 1


def test_a_full_disk_writes_nothing_and_works_again(store: LandingStore, path: Path) -> None:
    assert store.database._connection is not None
    pages = store.database._connection.execute("PRAGMA page_count").fetchone()[0]
    store.database._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full") as caught:
        store.land(landing(*(message(f"k{n}", body=bytes(5_000)) for n in range(50))))
    assert "room" in caught.value.remedy
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]
    assert store.land(landing(message("a"))).landed == 1, "on a new connection, without the limit"


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("removed", ["bridge.db", "bridge.db*"])
def test_a_file_removed_or_replaced_settles_nothing_and_landing_goes_on_in_the_new_one(
    store: LandingStore, path: Path, tmp_path: Path, removed: str, replaced: bool
) -> None:
    store.land(landing(message("a")))
    for file in tmp_path.glob(removed):
        file.unlink()
    if replaced:
        another = sqlite_store(path)
        another.open()
        another.close()
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.land(landing(message("b")))
    assert store.land(landing(message("b"))).landed == 1
    assert rows(store, "SELECT message_key FROM messages") == [("b",)]


def test_a_file_removed_in_the_middle_of_a_transaction_settles_nothing(
    store: LandingStore, path: Path
) -> None:
    assert store.database._connection is not None
    store.database._connection.set_trace_callback(lambda sql: path.unlink() if sql == "COMMIT" else None)
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        store.land(landing(message("a")))
    assert store.land(landing(message("a"))).landed == 1
    assert rows(store, "SELECT message_key FROM messages") == [("a",)]


def test_an_error_in_the_middle_of_a_landing_writes_nothing_and_the_next_one_works(path: Path) -> None:
    store = sqlite_store(path)
    store.open()
    store.land(landing(message("a")))
    assert store.database._connection is not None
    store.database._connection.set_progress_handler(lambda: 1, 1)  # SQLITE_INTERRUPT at the next statement
    with pytest.raises(StoreError):
        store.land(landing(message("b")))
    assert store.land(landing(message("b"))).landed == 1, "on a new connection"
    assert rows(store, "SELECT message_key FROM messages ORDER BY id") == [("a",), ("b",)]
    store.close()


def test_a_store_that_cannot_be_opened_holds_no_connection(store: LandingStore, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("INSERT INTO schema_migrations VALUES (999, 0)")
    other.commit()
    other.close()
    newer = sqlite_store(path)
    with pytest.raises(SchemaOutdated):
        newer.open()
    assert newer.database._connection is None


def test_a_file_of_another_program_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"dear diary" * 1_000)
    with pytest.raises(StoreUnavailable, match=r"notes\.txt") as caught:
        sqlite_store(path).open()
    assert "another file" in caught.value.remedy


def test_a_missing_directory_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="absent") as caught:
        sqlite_store(tmp_path / "absent" / "bridge.db").open()
    assert caught.value.remedy


def test_a_newer_schema_is_refused_by_writer_and_reader(store: LandingStore, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("INSERT INTO schema_migrations VALUES (999, 0)")
    other.commit()
    other.close()
    store.close()
    with pytest.raises(SchemaOutdated, match="999"):
        store.open()
    with pytest.raises(SchemaOutdated, match="999"):
        open_reader(f"sqlite:///{path}")


def test_an_empty_file_is_an_old_schema_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(SchemaOutdated, match="no tables") as caught:
        open_reader(f"sqlite:///{tmp_path}/empty.db")
    assert "jst-bridge run" in caught.value.remedy


def test_secondary_indexes_of_messages_are_those_users_were_promised() -> None:
    assert sorted(tuple(index.columns.keys()) for index in schema.messages.indexes) == [
        ("landed_at",),
        ("seller", "published_at"),
        ("tid",),
    ]


LANDING_LOOP = """
import itertools, sys
from jst_bridge.store import open_store
from jst_bridge.ports import Position
from tests.stores import landing, message, QUEUE
store = open_store(f"sqlite:///{sys.argv[1]}")
store.open()
begin = max(store.positions(*QUEUE[:3]).values(), default=0)
for first in itertools.count(begin, 50):
    batch = [message(f"k{n}", tid=str(n % 9), oid=str(n % 9)) for n in range(first, first + 50)]
    store.land(landing(*batch, positions=[Position(QUEUE, first + 50)]))
    print(first + 50, flush=True)
"""


def test_a_killed_process_leaves_whole_transactions_and_all_it_reported(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    store = sqlite_store(path)
    for commits in (1, 4, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", LANDING_LOOP, str(path)],
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
