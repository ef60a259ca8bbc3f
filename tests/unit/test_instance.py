"""The name of an instance: one process at a time has it, and who lost it lands nothing more."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from jst_bridge.errors import InstanceTaken
from jst_bridge.instance import InstanceLease
from jst_bridge.ports import Landing, Position, QueueKey
from jst_bridge.store import LandingStore, leases, open_store
from jst_bridge.worker import Worker

QUEUE = QueueKey("s", "g", "ecs-1", "b", "t", 0)
SHORT = 0.4
"""Seconds a lease lasts here."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LandingStore]:
    with open_here(tmp_path) as opened:
        yield opened


@contextmanager
def open_here(directory: Path) -> Iterator[LandingStore]:
    with closing(open_store(f"sqlite:///{directory / 'store.db'}")) as opened:
        opened.database.open()
        opened.open()
        yield opened


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test store")
    yield made
    made.close()


def lease(store: LandingStore, worker: Worker, holder: str, *, lasts: float = SHORT) -> InstanceLease:
    return InstanceLease(store.database, worker, "s", "ecs-1", holder, lasts=lasts)


def landing(offset: int) -> Landing:
    return Landing([], [], [Position(QUEUE, offset)], [])


def gone() -> str:
    """The holder that a process was which has ended since."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return leases.new_holder().replace(f" pid {os.getpid()} ", f" pid {ended.pid} ")


def test_a_second_holder_is_refused_and_told_who_lives(store: LandingStore, worker: Worker) -> None:
    async def work() -> None:
        first, second = lease(store, worker, leases.new_holder()), lease(store, worker, "h2 pid 2 x.y")
        await first.take()
        renewing = asyncio.create_task(first.run())
        with pytest.raises(
            InstanceTaken, match=rf"instance ecs-1 of source s .* pid {os.getpid()}$"
        ) as refused:
            await second.take()
        assert refused.value.exit_code == 75
        assert refused.value.remedy
        renewing.cancel()
        await first.release()
        await second.take()

    asyncio.run(work())


def test_the_lease_of_one_who_died_elsewhere_is_waited_for(store: LandingStore, worker: Worker) -> None:
    async def work() -> None:
        await lease(store, worker, "elsewhere pid 1 a.b").take()
        await asyncio.wait_for(lease(store, worker, "here pid 2 c.d").take(), 10)

    asyncio.run(work())


def test_one_who_died_here_is_not_waited_for(store: LandingStore, worker: Worker) -> None:
    async def work() -> None:
        await lease(store, worker, gone(), lasts=3600).take()
        await asyncio.wait_for(lease(store, worker, leases.new_holder()).take(), 10)

    asyncio.run(work())


def test_only_a_process_that_ran_here_is_known_to_have_ended() -> None:
    dead = gone()
    assert leases.departed(dead)
    assert not leases.departed(leases.new_holder())
    name, _, mark = dead.rpartition(" ")
    assert not leases.departed(f"{name} 00000000.{mark.partition('.')[2]}")  # another host, or container
    assert not leases.departed("ann")
    assert not leases.departed("host pid 1 .abcd")  # a host that cannot tell


def test_who_was_suspended_until_another_took_the_name_lands_nothing_more(
    tmp_path: Path, store: LandingStore, worker: Worker
) -> None:
    async def work() -> None:
        suspended = lease(store, worker, "here pid 1 a.b")
        store.fences = [suspended.fence]
        await suspended.take()
        await worker.call(lambda: store.land(landing(5)))
        await lease(store, worker, "here pid 2 c.d", lasts=3600).take()
        with pytest.raises(InstanceTaken, match="here pid 2"):
            await worker.call(lambda: store.land(landing(9)))
        with pytest.raises(InstanceTaken, match="here pid 2"):
            await suspended.run()
        assert store.positions("s", "g", "ecs-1") == {QUEUE: 5}

    asyncio.run(work())


def test_a_lease_that_ran_out_unnoticed_is_taken_up_again(store: LandingStore, worker: Worker) -> None:
    async def work() -> None:
        holder = lease(store, worker, "here pid 1 a.b", lasts=0)
        store.fences = [holder.fence]
        await holder.take()
        await worker.call(lambda: store.land(landing(5)))
        await holder.release()  # as when the store was replaced by a copy that knows nothing of it
        await worker.call(lambda: store.land(landing(7)))
        assert store.positions("s", "g", "ecs-1") == {QUEUE: 7}

    asyncio.run(work())
