"""The source in broadcasting: where each queue begins, and what the store learns without a message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import jst_bridge.rocketmq.consumer as consumer_module
from jst_bridge.drain import DrainMark
from jst_bridge.ports import Batch, QueueKey
from jst_bridge.rocketmq.codes import Request
from jst_bridge.sources.broadcasting import BroadcastingSource
from jst_bridge.sources.rocketmq import LandingLimits
from tests.scripted import PATIENCE, run
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster

Script = Callable[[ScriptedCluster, "Told"], Awaitable[None]]


class Told:
    """A source, and the positions that a store would have of it."""

    def __init__(self, cluster: ScriptedCluster, positions: dict[QueueKey, int], **settings: Any) -> None:
        self.positions = positions
        self.source = BroadcastingSource(
            "s",
            cluster.settings(mode="broadcasting", **settings),
            LandingLimits(),
            self.stored,
            "ecs-1",
        )

    async def stored(self) -> dict[QueueKey, int]:
        return dict(self.positions)

    async def land(self) -> list[Batch]:
        """Receive, land, settle."""
        async with asyncio.timeout(PATIENCE):
            batches = await self.source.receive()
        self.positions |= {batch.queue: batch.position for batch in batches}
        self.source.settle(batches)
        return batches

    async def land_until(self, **wanted: int) -> list[int]:
        """Land until the queues q0, q1 ... are there; the offsets of the messages that came."""
        offsets: list[int] = []
        while {f"q{queue.queue_id}": at for queue, at in self.positions.items()} != wanted:
            offsets += [one.offset for batch in await self.land() for one in batch.deliveries]
        return offsets


def key(queue_id: int, instance: str = "ecs-1") -> QueueKey:
    return QueueKey("s", GROUP, instance, "broker-a", TOPIC, queue_id)


def play(
    script: Script,
    positions: dict[QueueKey, int] | None = None,
    *,
    queues: int = 2,
    published: int = 3,
    **settings: Any,
) -> None:
    """Start a source beside queues that hold so many messages each, run the script, stop."""

    async def work() -> None:
        async with ScriptedCluster(queues) as cluster:
            for queue_id in range(queues):
                cluster.queue(queue_id).minimum = 10
                cluster.publish(published, queue_id)
            told = Told(cluster, dict(positions or {}), **settings)
            await told.source.start()
            try:
                await script(cluster, told)
            finally:
                await told.source.stop()
            brokers = [broker.told(code) for broker in cluster.brokers for code in COMMITS]
            assert not any(brokers), "broadcasting asks and tells a broker nothing of offsets"
            assert not any(queue.commits for queue in cluster.queues.values())

    run(work())


COMMITS = (
    Request.QUERY_CONSUMER_OFFSET,
    Request.UPDATE_CONSUMER_OFFSET,
    Request.GET_CONSUMER_LIST_BY_GROUP,
)


def test_a_new_instance_begins_where_the_settings_say_and_says_so_before_any_message() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        first = await told.land()
        assert [(batch.queue, batch.position, batch.deliveries) for batch in first] == [
            (key(0), 13, []),
            (key(1), 13, []),
        ]
        cluster.publish(1, 1)
        assert await told.land_until(q0=13, q1=14) == [13]

    play(script, start_from="last")


def test_an_instance_goes_on_where_its_own_positions_are() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        assert await told.land_until(q0=13, q1=13) == [12]

    play(script, {key(0): 12, key(1): 13}, start_from="last")


def test_a_queue_added_while_nobody_looked_is_read_from_its_beginning() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        assert await told.land_until(q0=13, q1=13) == [10, 11, 12]

    play(script, {key(0): 13}, start_from="last")


def test_a_queue_added_while_it_runs_is_read_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 0.01)

    async def script(cluster: ScriptedCluster, told: Told) -> None:
        await told.land_until(q0=13)
        cluster.queue(1).minimum = 10
        cluster.publish(3, 1)
        cluster.topics[TOPIC] = 2
        assert await told.land_until(q0=13, q1=13) == [10, 11, 12]

    play(script, queues=1, start_from="last")


def test_what_the_tags_filter_moves_the_position_when_somebody_asks() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        await told.land()  # the starts
        landing = asyncio.create_task(told.land_until(q0=15, q1=10))
        cluster.publish(5, 0, tag="B")
        while not landing.done():
            await told.source.commit()
            await asyncio.sleep(0.01)
        assert await landing == []

    play(script, published=0, subscriptions={TOPIC: "A"})


def test_draining_is_over_when_the_store_has_what_waited() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        mark = await DrainMark.take(told.source.settings, told.source.position)
        try:
            assert not await mark.reached()
            cluster.publish(1, 0)  # came after the mark
            assert await told.land_until(q0=14, q1=13)
            assert await mark.reached()
        finally:
            await mark.close()

    play(script)


def test_a_stopped_source_starts_again_from_the_store() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        assert sorted(await told.land_until(q0=13, q1=13)) == [10, 10, 11, 11, 12, 12]
        await told.source.stop()
        told.positions[key(0)] = 11  # restored from a copy
        await told.source.start()
        assert await told.land_until(q0=13, q1=13) == [11, 12]

    play(script)


def test_once_quiesced_nothing_is_received() -> None:
    async def script(cluster: ScriptedCluster, told: Told) -> None:
        await told.land_until(q0=13, q1=13)
        waiting = asyncio.create_task(told.source.receive())
        await asyncio.sleep(0)
        told.source.quiesce()
        async with asyncio.timeout(PATIENCE):
            assert await waiting == []

    play(script)
