"""Retention: what goes, what stays, and what no clock may bring about. And how much the store holds."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.errors import StoreError
from jst_bridge.ports import Message, PlainDelivery
from jst_bridge.store import Database, LandingStore, open_database, open_store
from jst_bridge.store.database import now_ms
from jst_bridge.store.inventory import inventory
from jst_bridge.store.retention import KEEP_AT_LEAST, Pruning, count_prunable, horizon, prune_some
from jst_bridge.store.schema import METADATA
from tests.stores import NOW, dead, landing, message, rows, state

DAY = 24 * 3600 * 1000
MONTH = timedelta(days=30)


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[LandingStore]:
    """A store to compare with."""
    opened = open_store(f"sqlite:///{tmp_path}/alone.db")
    opened.open()
    yield opened
    opened.close()


def some(first: int, count: int, **changes: Any) -> list[Message]:
    """Messages m<n> of orders that share a few tids."""
    return [
        message(f"m{n}", tid=str(n % 40), oid=str(n % 40), published_at=NOW + n, **changes)
        for n in range(first, first + count)
    ]


def write(store: LandingStore, statement: str) -> None:
    store.database.transact(lambda cursor: cursor.execute(statement))


def land(store: LandingStore, messages: Sequence[Message], *, days_ago: float = 0) -> None:
    """As if they had been born and had landed so long ago."""
    store.land(landing(*messages))
    at = now_ms() - int(days_ago * DAY)
    named = ", ".join(f"'{one.key}'" for one in messages)
    write(store, f"UPDATE messages SET landed_at = {at}, born_at = {at} WHERE message_key IN ({named})")


def keys(store: LandingStore) -> list[str]:
    return [key for (key,) in rows(store, "SELECT message_key FROM messages ORDER BY id")]


def prune_all(database: Database, keep: timedelta = MONTH) -> int:
    pruning = Pruning(database, keep, "test")
    assert pruning.begin() is None
    deleted, more = 0, True
    while more:
        step = pruning.step()
        deleted, more = deleted + step.deleted, step.more
    pruning.end()
    return deleted


class TestPruning:
    def test_takes_only_what_is_old_and_leaves_the_state(self, store: LandingStore) -> None:
        land(store, some(0, 700), days_ago=31)
        land(store, some(700, 30), days_ago=29)
        land(store, some(730, 10))
        before = state(store)
        assert count_prunable(store.database, horizon(store.database, MONTH)) == 700
        assert prune_all(store.database) == 700
        assert keys(store) == [f"m{n}" for n in range(700, 740)]
        assert state(store) == before
        assert rows(store, "SELECT count(*) FROM leases") == [(0,)]

    def test_takes_the_oldest_first_and_no_more_than_asked(self, store: LandingStore) -> None:
        for number, days in enumerate((40, 60, 50)):
            land(store, some(number, 1), days_ago=days)
        land(store, some(3, 3))
        before = horizon(store.database, MONTH)
        assert prune_some(store.database, before, limit=1) == 1
        assert keys(store) == ["m0", "m2", "m3", "m4", "m5"]
        assert prune_some(store.database, before, limit=2) == 2
        assert prune_some(store.database, before, limit=2) == 0
        assert keys(store) == ["m3", "m4", "m5"]

    def test_never_takes_a_key_the_broker_could_still_redeliver(self, store: LandingStore) -> None:
        land(store, some(0, 5), days_ago=8)
        land(store, some(5, 5), days_ago=6)
        land(store, some(10, 5))
        with pytest.raises(StoreError, match="last 7 days") as caught:
            prune_some(store.database, horizon(store.database, KEEP_AT_LEAST) + 60_000)
        assert caught.value.remedy
        assert len(keys(store)) == 15
        assert prune_all(store.database, timedelta(0)) == 5
        again = store.land(landing(*some(5, 10)))
        assert (again.landed, again.duplicates) == (0, 10)

    def test_spares_what_a_host_that_lived_in_the_past_has_stamped(self, store: LandingStore) -> None:
        store.land(landing(*some(0, 5)))
        write(store, f"UPDATE messages SET landed_at = 978307200000, born_at = {now_ms()}")
        land(store, some(5, 5), days_ago=31)
        land(store, some(10, 5))
        assert prune_all(store.database) == 5
        assert keys(store) == [*(f"m{n}" for n in range(5)), *(f"m{n}" for n in range(10, 15))]

    def test_goes_on_after_a_prune_that_left_nothing(self, store: LandingStore) -> None:
        assert prune_all(store.database) == 0
        land(store, some(0, 3))
        assert prune_all(store.database) == 0

    def test_is_done_by_one_at_a_time(self, store: LandingStore, database_url: str) -> None:
        land(store, some(0, 5), days_ago=31)
        land(store, some(5, 5))
        with closing(open_database(database_url)) as other:
            first, second = Pruning(store.database, MONTH, "first"), Pruning(other, MONTH, "second")
            assert first.begin() is None
            assert second.begin() == "first"
            assert first.step().deleted == 5
            first.end()
            assert second.begin() is None
            second.end()

    def test_stops_when_it_has_lost_its_lease(
        self, store: LandingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        land(store, some(0, 5), days_ago=31)
        land(store, some(5, 5))
        pruning = Pruning(store.database, MONTH, "sleeper")
        pruning.begin()
        write(store, "UPDATE leases SET holder = 'another'")
        monkeypatch.setattr("jst_bridge.store.retention.RENEWED_AFTER", 0.0)
        with pytest.raises(StoreError, match="another process prunes"):
            pruning.step()
        assert len(keys(store)) == 10

    def test_keeps_its_steps_short(self, store: LandingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jst_bridge.store.retention.STEP_SECONDS", 0.0)
        land(store, some(0, 400), days_ago=31)
        land(store, some(400, 3))
        pruning = Pruning(store.database, MONTH, "test")
        pruning.begin()
        steps = list(itertools.islice(iter(pruning.step, None), 5))
        assert [step.deleted for step in steps] == [100, 50, 50, 50, 50]
        assert all(step.pause >= 9 * step.seconds for step in steps)


class TestAClockThatIsWrong:
    """Of a SQLite file the host's clock is the only one there is."""

    @pytest.fixture
    def sqlite(self, alone: LandingStore) -> LandingStore:
        land(alone, some(0, 200), days_ago=31)
        land(alone, some(200, 200), days_ago=1)
        return alone

    def test_by_years_ahead_lets_nothing_young_be_pruned(
        self, sqlite: LandingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite.database, "clock", str(now_ms() + 3650 * DAY))
        assert prune_all(sqlite.database) == 200
        assert len(keys(sqlite)) == 200

    def test_by_years_ahead_lets_nothing_young_be_pruned_while_it_goes_on_landing(
        self, sqlite: LandingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later = now_ms() + 3650 * DAY
        monkeypatch.setattr(sqlite.database, "clock", str(later))
        sqlite.land(landing(*some(400, 150)))
        write(sqlite, f"UPDATE messages SET landed_at = {later}, born_at = {now_ms()} WHERE id > 400")
        assert prune_all(sqlite.database) == 200
        assert len(keys(sqlite)) == 350

    def test_by_years_behind_lets_nothing_be_pruned(
        self, sqlite: LandingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite.database, "clock", "978307200000")
        assert prune_all(sqlite.database) == 0
        assert len(keys(sqlite)) == 400

    def test_is_not_that_of_a_server(self, server_url: str) -> None:
        with closing(open_store(server_url)) as store:
            store.open()
            land(store, some(0, 5), days_ago=-3650)
            land(store, some(5, 5), days_ago=31)
            assert prune_all(store.database) == 5
            assert keys(store) == ["m0", "m1", "m2", "m3", "m4"]


def land_slowly(url: str, start: Any, first: int, last: int) -> None:
    """In a process of its own: land m<first>..m<last-1>, every batch twice and overlapping the next."""
    store = open_store(url)
    store.open()
    start.wait()
    for number in range(first, last, 20):
        for _ in range(2):
            store.land(landing(*map(born_now, some(number, min(30, last - number)))))
    store.close()


def born_now(one: Message) -> Message:
    """A store in which nothing was born lately takes its own clock for wrong, and prunes nothing."""
    assert isinstance(one.delivery, PlainDelivery)
    one.delivery.born_at = now_ms()
    return one


def test_while_another_process_lands_everything_lands_once(
    store: LandingStore, alone: LandingStore, database_url: str
) -> None:
    land(store, some(0, 2_000), days_ago=31)
    land(store, some(2_000, 200))
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    process = context.Process(target=land_slowly, args=(database_url, start, 2_200, 3_200))
    process.start()
    start.wait()
    pruning = Pruning(store.database, MONTH, "test")
    pruning.begin()
    pruned = 0
    while process.is_alive() or pruned < 2_000:
        step = pruning.step()
        pruned += step.deleted
        # Without the pauses SQLite's lock, which is not fair, would leave landing none of it.
        process.join(step.pause)
    process.join()
    assert process.exitcode == 0
    assert pruned == 2_000
    assert sorted(keys(store)) == sorted(f"m{n}" for n in range(2_000, 3_200))
    alone.land(landing(*some(0, 3_200)))
    assert state(store) == state(alone)


# --- how much there is ------------------------------------------------------------------------------------


def test_the_inventory_counts_and_measures_every_table(store: LandingStore) -> None:
    land(store, some(0, 300), days_ago=3)
    store.land(landing(message("new", tid="1", oid="1"), dead_letters=[dead()]))
    found = inventory(store.database)
    tables = {table.name: table for table in found.tables}
    assert tables.keys() == METADATA.tables.keys() - {"schema_migrations"}
    assert found.schema == 2
    messages = tables["messages"]
    assert (messages.rows, messages.counted, messages.column) == (301, True, "landed_at")
    assert rows(store, "SELECT min(landed_at), max(landed_at) FROM messages") == [
        (messages.oldest, messages.newest)
    ]
    assert (tables["trades"].rows, tables["dead_letters"].rows, tables["gaps"].rows) == (40, 1, 0)
    assert (tables["gaps"].oldest, tables["gaps"].newest) == (None, None)
    assert found.bytes is not None
    if messages.bytes is not None:  # SQLite may be built without the table that knows
        assert 300 * 10 < messages.bytes <= found.bytes
    if store.database.dialect.name == "sqlite":
        assert found.free_bytes == 0
    else:
        assert messages.bytes is not None
        assert found.free_bytes is None


def test_a_table_that_its_server_holds_for_large_is_not_counted(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jst_bridge.store.inventory.COUNTED_TO", 100)
    with closing(open_store(server_url)) as store:
        store.open()
        land(store, some(0, 300))
        analyze = "ANALYZE" if store.database.dialect.name == "postgresql" else "ANALYZE TABLE"
        with closing(store.database._connect()) as connection:
            connection.cursor().execute(f"{analyze} messages")
            connection.cursor().execute(f"{analyze} trades")
        tables = {table.name: table for table in inventory(store.database).tables}
    assert not tables["messages"].counted
    assert 200 < tables["messages"].rows < 400
    assert tables["messages"].oldest is not None
    assert tables["trades"].counted
