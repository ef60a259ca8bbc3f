"""Leases: one holder at a time on every database, by the database's clock."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from jst_bridge.store import Database, open_database
from jst_bridge.store.leases import acquire, claim, new_holder, release, renew, usurper
from tests.cluster import wait_until
from tests.stores import rows

HOUR = 3600.0


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(open_database(database_url)) as opened:
        opened.open()
        yield opened


def test_a_free_lease_is_taken_and_others_learn_the_holder(database: Database) -> None:
    assert acquire(database, "prune", "ann", HOUR) is None
    assert acquire(database, "prune", "bob", HOUR) == "ann"
    assert acquire(database, "prune", "ann", HOUR) is None
    assert acquire(database, "other", "bob", HOUR) is None
    assert rows(database, "SELECT name, holder FROM leases ORDER BY name") == [
        ("other", "bob"),
        ("prune", "ann"),
    ]


def test_only_its_holder_gives_a_lease_back(database: Database) -> None:
    acquire(database, "prune", "ann", HOUR)
    release(database, "prune", "bob")
    assert acquire(database, "prune", "bob", HOUR) == "ann"
    release(database, "prune", "ann")
    assert acquire(database, "prune", "bob", HOUR) is None


def test_a_lease_runs_out_by_the_clock_of_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "clock", "1000000")
    acquire(database, "prune", "ann", 300)
    monkeypatch.setattr(database, "clock", "1299999")
    assert acquire(database, "prune", "bob", 300) == "ann"
    monkeypatch.setattr(database, "clock", "1300000")
    assert acquire(database, "prune", "bob", 300) is None
    assert rows(database, "SELECT holder, expires_at FROM leases") == [("bob", 1_600_000)]


def test_a_renewed_lease_lasts_longer_and_a_lost_one_is_not_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "clock", "1000000")
    assert not renew(database, "prune", "ann", 300)
    acquire(database, "prune", "ann", 300)
    monkeypatch.setattr(database, "clock", "1900000")
    assert renew(database, "prune", "ann", 300)  # it had run out, and nobody wanted it
    assert acquire(database, "prune", "bob", 300) == "ann"
    monkeypatch.setattr(database, "clock", "2200000")
    acquire(database, "prune", "bob", 300)
    assert not renew(database, "prune", "ann", 300)
    assert rows(database, "SELECT holder FROM leases") == [("bob",)]


def test_one_who_is_known_to_be_gone_is_followed_at_once(database: Database) -> None:
    acquire(database, "prune", "ann", HOUR)
    other = claim(database, "prune", "bob", HOUR)
    assert other is not None
    assert other.holder == "ann"
    assert 0 <= HOUR - other.seconds_left < 60
    assert claim(database, "prune", "bob", HOUR, instead_of="ann") is None
    assert acquire(database, "prune", "ann", HOUR) == "bob"
    assert claim(database, "prune", "cat", HOUR, instead_of="ann") is not None


def test_a_transaction_learns_whether_its_lease_is_another_s(database: Database) -> None:
    def asked() -> str | None:
        other = database.transact(lambda cursor: usurper(cursor, database, "prune", "ann"))
        return None if other is None else other.holder

    assert asked() is None
    acquire(database, "prune", "ann", 0)
    assert asked() is None  # run out, and nobody wanted it
    acquire(database, "prune", "bob", HOUR)
    assert asked() == "bob"
    acquire(database, "other", "bob", 0)
    release(database, "prune", "bob")
    assert asked() is None


def test_the_clock_tells_the_time(database: Database) -> None:
    acquire(database, "prune", "ann", 0)
    theirs = rows(database, "SELECT expires_at FROM leases")[0][0]
    assert abs(rows(database, f"SELECT {database.clock}")[0][0] - theirs) < 60_000
    assert theirs > 1_700_000_000_000


def test_of_many_who_want_it_at_once_one_gets_it(database: Database, database_url: str) -> None:
    names = [f"lease {n}" for n in range(8)]
    start = threading.Barrier(4)
    got: list[tuple[str, str]] = []

    def want(holder: str) -> None:
        with closing(open_database(database_url)) as mine:
            mine.open()
            for name in names:
                start.wait()
                if acquire(mine, name, holder, HOUR) is None:
                    got.append((name, holder))

    threads = [threading.Thread(target=want, args=(holder,)) for holder in ("ann", "bob", "cat", "dan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, _ in got) == names
    assert rows(database, "SELECT name, holder FROM leases ORDER BY name") == sorted(got)


def hold(url: str, taken: Any) -> None:
    """In a process of its own: take the lease, and never come back."""
    database = open_database(url)
    database.open()
    assert acquire(database, "prune", new_holder(), 1.5) is None
    taken.set()
    signal.pause()


def test_the_lease_of_a_killed_process_runs_out(database: Database, database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    taken = context.Event()
    process = context.Process(target=hold, args=(database_url, taken))
    process.start()
    try:
        assert taken.wait(60)
        assert f"pid {process.pid} " in (acquire(database, "prune", "ann", HOUR) or "")
    finally:
        process.kill()
        process.join()
    wait_until(lambda: acquire(database, "prune", "ann", HOUR) is None, "the lease to run out", 30)


def test_no_two_holders_have_one_name() -> None:
    first, second = new_holder(), new_holder()
    assert first != second
    assert max(len(first), len(second)) <= 255
