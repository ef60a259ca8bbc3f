"""Leaving a group in order, against a scripted cluster."""

from __future__ import annotations

import asyncio

from jst_bridge.rocketmq.codes import Request
from tests.scripted import run, silent
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster, pulled, rebalanced, receive

PULL, COMMIT, UNREGISTER = (
    Request.PULL_MESSAGE,
    Request.UPDATE_CONSUMER_OFFSET,
    Request.UNREGISTER_CLIENT,
)


def test_a_stop_commits_then_unregisters_then_closes() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster:
            consumer = cluster.consumer()
            await consumer.start()
            await pulled(cluster, 0, 1)
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 3)
            consumer.settle(batches)
            cluster.broker.on(COMMIT, silent)
            stopping = asyncio.create_task(consumer.stop())
            await cluster.broker.until_told(COMMIT, 2)
            told = {call.queue: call.ext["commitOffset"] for call in cluster.broker.told(COMMIT)}
            assert told == {(TOPIC, 0): "3", (TOPIC, 1): "0"}
            first, last = cluster.broker.told(COMMIT)
            first.answer()
            await cluster.broker.round_trips()
            assert cluster.broker.told(UNREGISTER) == []
            last.answer()
            await stopping
            (left,) = cluster.broker.told(UNREGISTER)
            assert left.ext == {"clientID": consumer.client.client_id, "consumerGroup": GROUP}
            await cluster.broker.until(lambda: not cluster.broker.channels)
            await consumer.stop()
            assert await consumer.receive() == []

    run(work())


def test_a_stop_waits_for_the_commit_that_is_under_way_before_it_sends_the_last_one() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.broker.on(COMMIT, silent)
            consumer = cluster.consumer(commit_period=0.01)
            await consumer.start()
            cluster.publish(3)
            consumer.settle(await receive(consumer))
            first = await cluster.broker.until_told(COMMIT)
            cluster.publish(2)
            consumer.settle(await receive(consumer))
            stopping = asyncio.create_task(consumer.stop())
            await cluster.broker.round_trips()
            assert cluster.broker.told(COMMIT) == [first]
            first.answer()
            last = await cluster.broker.until_told(COMMIT, 2)
            assert last.ext["commitOffset"] == "5"
            last.answer()
            await stopping

    run(work())


def test_what_is_being_landed_can_still_be_settled_after_quiesce() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            async with cluster.consumer() as consumer:
                cluster.publish(3)
                batches = await receive(consumer)
                await cluster.broker.until_told(PULL, 2)
                consumer.quiesce()
                assert await receive(consumer) == []
                consumer.settle(batches)
            assert cluster.queue().committed == 3

    run(work())


def test_a_waiting_receive_ends_when_the_consumer_stops() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            waiting = asyncio.create_task(consumer.receive())
            await cluster.broker.until_told(PULL)
            consumer.quiesce()
            assert await waiting == []

    run(work())


def test_what_was_not_settled_is_not_committed_by_a_stop() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            async with cluster.consumer() as consumer:
                cluster.publish(3)
                await receive(consumer)
            assert set(cluster.queue().commits) <= {0}

    run(work())


def test_a_queue_lost_before_a_stop_is_still_committed_when_its_batch_is_settled_during_the_stop() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            async with cluster.consumer() as consumer:
                cluster.publish(3)
                batches = await receive(consumer)
                await cluster.broker.until_told(PULL, 2)
                cluster.members = ["", "me"]
                await rebalanced(cluster)
                consumer.quiesce()
                consumer.settle(batches)
            assert cluster.queue().committed == 3

    run(work())


def test_settling_after_a_stop_opens_no_connection() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            async with cluster.consumer() as consumer:
                cluster.publish(3)
                batches = await receive(consumer)
                cluster.members = ["", "me"]
                await rebalanced(cluster)
            accepted = cluster.broker.accepted
            consumer.settle(batches)  # `run` sees a task that this would start
            assert cluster.broker.accepted == accepted

    run(work())


def test_a_stop_does_not_fail_because_of_a_dead_broker() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            consumer = cluster.consumer()
            await consumer.start()
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.stop()
            consumer.settle(batches)
            await consumer.stop()

    run(work())


def test_many_lives_of_a_consumer_leave_nothing_behind() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            for _ in range(10):
                async with cluster.consumer():
                    pass
            await cluster.broker.until(lambda: not cluster.broker.channels)
            await cluster.name_server.until(lambda: not cluster.name_server.channels)

    run(work())
