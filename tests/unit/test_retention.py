"""The chore that prunes beside landing: when it works, when it rests, and what ends it."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.errors import StoreError, StoreUnavailable
from jst_bridge.retention import Retention
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.database import now_ms
from jst_bridge.store.leases import acquire
from jst_bridge.store.retention import Pruning, Step
from jst_bridge.worker import Worker
from tests.cluster import wait_until
from tests.stores import landing, message, rows

MONTH = timedelta(days=30)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LandingStore]:
    """Holds 500 messages of 40 days ago and 10 of now."""
    opened = open_store(f"sqlite:///{tmp_path}/bridge.db")
    opened.open()
    opened.land(landing(*(message(f"m{n}") for n in range(510))))
    now = now_ms()
    ages = f"{now} - CASE WHEN id <= 500 THEN 3456000000 ELSE 0 END"
    opened.database.transact(
        lambda cursor: cursor.execute(f"UPDATE messages SET landed_at = {ages}, born_at = {ages}")
    )
    yield opened
    opened.close()


@asynccontextmanager
async def working(store: LandingStore, **times: float) -> AsyncIterator[asyncio.Task[None]]:
    """The chore at work, with a worker of its own; cancelled at the end."""
    worker = Worker("store")
    chore = Retention(store.database, worker, MONTH, "me", **{"first": 0.0, "every": 0.005, **times})
    task = asyncio.create_task(chore.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, StoreError):
            await task
        await worker.call(lambda: None)  # what it asked for last is done
        worker.close()


async def until(reached: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, reached, "the chore to come that far", 20)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Grows with every round that is begun: who else held the lease."""
    begin, begun = Pruning.begin, []

    def noted(self: Pruning) -> str | None:
        begun.append(begin(self))
        return begun[-1]

    monkeypatch.setattr(Pruning, "begin", noted)
    return begun


def left(store: LandingStore) -> int:
    return int(rows(store, "SELECT count(*) FROM messages")[0][0])


@on_a_loop
async def test_it_prunes_says_so_once_and_gives_the_lease_back(
    store: LandingStore, caplog: pytest.LogCaptureFixture, rounds: list[str | None]
) -> None:
    caplog.set_level(logging.INFO, "jst_bridge.retention")
    async with working(store):
        await until(lambda: left(store) == 10 and len(rounds) > 3)
    assert [record.getMessage()[:45] for record in caplog.records] == [
        "pruned 500 messages that had landed more than"
    ]
    assert "30 days" in caplog.text
    assert rows(store, "SELECT count(*) FROM leases") == [(0,)]


@on_a_loop
async def test_it_waits_before_its_first_round_and_between_rounds(
    store: LandingStore, rounds: list[str | None]
) -> None:
    begun = time.monotonic()
    async with working(store, first=0.3, every=0.2):
        await until(lambda: len(rounds) >= 3)
    assert time.monotonic() - begun >= 0.3 + 2 * 0.2


@on_a_loop
async def test_it_leaves_the_work_to_who_holds_the_lease(
    store: LandingStore, rounds: list[str | None]
) -> None:
    acquire(store.database, "prune", "another", 300)
    async with working(store):
        await until(lambda: len(rounds) >= 3)
    assert set(rounds) == {"another"}
    assert left(store) == 510
    assert rows(store, "SELECT holder FROM leases") == [("another",)]


@on_a_loop
async def test_it_rests_between_its_steps_as_long_as_they_ask(
    store: LandingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[float] = []
    step = Pruning.step

    def slow(self: Pruning) -> Step:
        begun = time.monotonic()
        taken = step(self)
        time.sleep(max(0.0, begun + 0.02 - time.monotonic()))
        worked.append(0.02)
        return taken._replace(seconds=0.02, pause=0.08)

    monkeypatch.setattr(Pruning, "step", slow)
    begun = time.monotonic()
    async with working(store, every=3600):
        await until(lambda: left(store) == 10)
    assert len(worked) > 1
    assert sum(worked[:-1]) * 5 <= time.monotonic() - begun


@on_a_loop
async def test_cancelled_it_ends_at_once_though_the_store_hangs_and_leaves_no_lease(
    store: LandingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = asyncio.Event()
    loop = asyncio.get_running_loop()
    step = Pruning.step

    def hang(self: Pruning) -> Step:
        loop.call_soon_threadsafe(hanging.set)
        time.sleep(2)
        return step(self)

    monkeypatch.setattr(Pruning, "step", hang)
    async with working(store) as task:
        await hanging.wait()
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 1
    assert rows(store, "SELECT count(*) FROM leases") == [(0,)]


@on_a_loop
async def test_a_store_that_is_away_ends_the_round_only(
    store: LandingStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    begin, failures = Pruning.begin, iter([StoreUnavailable("locked"), StoreUnavailable("still locked")])

    def away(self: Pruning) -> str | None:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return begin(self)

    monkeypatch.setattr(Pruning, "begin", away)
    async with working(store):
        await until(lambda: left(store) == 10)
    assert [record.levelname for record in caplog.records] == ["INFO"] * len(caplog.records)
    assert "locked" not in caplog.text


@on_a_loop
async def test_a_store_that_is_not_what_it_should_be_ends_it(
    store: LandingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Pruning) -> Any:
        raise StoreError("no such table")

    monkeypatch.setattr(Pruning, "step", refuse)
    async with working(store) as task:
        with pytest.raises(StoreError, match="no such table"):
            async with asyncio.timeout(20):
                await task
