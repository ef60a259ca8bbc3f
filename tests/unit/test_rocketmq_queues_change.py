"""Queues that come and go while a consumer reads, against a scripted cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from jst_bridge.rocketmq import Consumer, MessageExt, handover
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.codes import Request, Response
from tests.scripted import Call, refusing, run
from tests.scripted_cluster import TOPIC, ScriptedCluster, pulled, rebalanced, receive, receive_offsets

ROUTE, PULL = Request.GET_ROUTEINFO_BY_TOPIC, Request.PULL_MESSAGE
COMMITTED = Request.QUERY_CONSUMER_OFFSET


@pytest.fixture(autouse=True)
def quick_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 0.02)
    monkeypatch.setattr(consumer_module, "REBALANCE_RETRY", 0.05)


def places(consumer: Consumer) -> set[tuple[str, int]]:
    return {(one.queue.broker, one.queue.queue_id) for one in consumer.progress()}


async def asked_again(cluster: ScriptedCluster, times: int = 3) -> None:
    """Wait until the route was asked for again."""
    asked = len(cluster.name_server.told(ROUTE))
    await cluster.name_server.until_told(ROUTE, asked + 2 * times)


async def receive_bodies(consumer: Consumer, count: int) -> list[tuple[str, int, int]]:
    """Broker, queue and offset of the next messages."""
    found: list[tuple[str, int, int]] = []
    while len(found) < count:
        batches = await receive(consumer)
        found += [
            (batch.queue.broker, one.queue_id, one.queue_offset)
            for batch in batches
            for one in batch.messages
        ]
        consumer.settle(batches)
    return sorted(found)


@pytest.mark.parametrize("start_from", ["last", "first"])
def test_queues_raised_from_4_to_8_under_traffic_are_read_from_their_first_message(start_from: str) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster:
            cluster.publish(3)
            async with cluster.consumer(start_from=start_from) as consumer:
                await pulled(cluster, 0, 1, 2, 3)
                if start_from == "first":
                    assert await receive_offsets(consumer, 3) == [0, 1, 2]
                for queue_id in range(8):
                    cluster.publish(2, queue_id)  # producers know the new queues first
                cluster.topics[TOPIC] = 8
                got = await receive_bodies(consumer, 16)
                expected = [("broker-a", 0, n) for n in (3, 4)]
                expected += [("broker-a", queue_id, n) for queue_id in range(1, 8) for n in range(2)]
                assert got == expected

    run(work())


def test_queues_that_a_topic_loses_are_given_up() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster, cluster.consumer() as consumer:
            await pulled(cluster, 0, 1, 2, 3)
            cluster.topics[TOPIC] = 2
            await cluster.broker.until(lambda: len(consumer.progress()) == 2)

    run(work())


@pytest.mark.parametrize("empty", [b'{"brokerDatas":[],"queueDatas":[]}', b"{}", b"", b"not json"])
def test_a_route_that_empties_and_returns_changes_nothing(empty: bytes) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, cluster.consumer() as consumer:
            await pulled(cluster, 0, 1)
            healthy = cluster.name_server.handler(ROUTE)
            cluster.name_server.on(ROUTE, lambda call: call.answer(body=empty))
            await asked_again(cluster)
            await rebalanced(cluster)
            cluster.publish(2)
            assert await receive_offsets(consumer, 2) == [0, 1]
            cluster.name_server.on(ROUTE, healthy)
            await asked_again(cluster)
            cluster.publish(1, queue_id=1)
            assert await receive_offsets(consumer, 1) == [0]
            assert len(cluster.broker.told(COMMITTED)) == 2  # nothing was started anew

    run(work())


def test_a_broker_added_to_the_topic_is_read_from_its_first_message() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2, brokers=2) as cluster:
            cluster.listed = [0]
            async with cluster.consumer(start_from="last") as consumer:
                await pulled(cluster, 0, 1)
                cluster.publish(3, broker=1)
                cluster.listed = [0, 1]
                assert await receive_bodies(consumer, 3) == [("broker-b", 0, n) for n in range(3)]
                assert len(places(consumer)) == 4

    run(work())


def test_a_broker_that_restarts_is_read_as_soon_as_it_is_back_and_not_when_its_route_is() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2, brokers=2) as cluster, cluster.consumer() as consumer:
            await cluster.broker.until(lambda: len(consumer.progress()) == 4)
            cluster.publish(1, broker=1)
            assert await receive_bodies(consumer, 1) == [("broker-b", 0, 0)]
            cluster.listed = [0]
            await cluster.brokers[1].stop()
            await asked_again(cluster)
            await rebalanced(cluster)
            assert len(places(consumer)) == 4
            cluster.publish(2, broker=1)
            await cluster.brokers[1].start()
            assert await receive_bodies(consumer, 2) == [("broker-b", 0, 1), ("broker-b", 0, 2)]
            cluster.listed = [0, 1]
            await asked_again(cluster)
            await rebalanced(cluster)
            cluster.publish(1, broker=1)
            assert await receive_bodies(consumer, 1) == [("broker-b", 0, 3)]
            await consumer.commit()
            assert cluster.queue(broker=1).committed == 4

    run(work())


def test_a_broker_that_was_drained_and_removed_is_given_up_after_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handover, "GRACE", 0.3)

    async def work() -> None:
        async with ScriptedCluster(queues=2, brokers=2) as cluster, cluster.consumer() as consumer:
            await cluster.broker.until(lambda: len(consumer.progress()) == 4)
            cluster.publish(2, broker=1)
            assert len(await receive_bodies(consumer, 2)) == 2
            cluster.listed = [0]
            await cluster.brokers[1].stop()
            async with asyncio.timeout(8):
                while len(places(consumer)) > 2:
                    await rebalanced(cluster, 1)
            cluster.publish(1)
            assert await receive_bodies(consumer, 1) == [("broker-a", 0, 0)]

    run(work())
    assert len(caplog.records) < 12


def test_a_topic_that_is_deleted_and_made_anew_is_read_from_its_first_message() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(50)
            assert await receive_offsets(consumer, 50) == list(range(50))
            await cluster.broker.until(lambda: cluster.queue().parked)
            del cluster.topics[TOPIC]
            cluster.broker.on(PULL, refusing(Response.TOPIC_NOT_EXIST, "topic T not exist"))
            cluster.queue().parked.pop().answer(Response.TOPIC_NOT_EXIST, remark="topic T not exist")
            await cluster.broker.until_told(PULL, 4)
            cluster.queue().messages.clear()
            cluster.publish(3)
            cluster.queue().messages[:] = [later(one) for one in cluster.queue().messages]
            cluster.topics[TOPIC] = 1
            cluster.broker.on(PULL, cluster.serve_pull())
            assert await receive_offsets(consumer, 3) == [0, 1, 2]
            await consumer.commit()
            assert cluster.queue().committed == 3

    run(work())


def later(message: MessageExt) -> MessageExt:
    return msgspec.structs.replace(message, store_timestamp=10**6)


def test_a_queue_of_a_member_that_lives_is_taken_over_once_its_last_commit_is_there() -> None:
    """The member that gives it up hears of it when we do, and commits a little later than we ask."""

    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster:
            cluster.publish(9)
            queue = cluster.queue()
            queue.committed = 4
            cluster.members = ["me", "~"]  # "~" had both queues
            healthy = cluster.broker.handler(COMMITTED)

            def committing(call: Call) -> None:
                healthy(call)
                queue.committed = 6

            cluster.broker.once(COMMITTED, committing)
            async with cluster.consumer() as consumer:
                assert await receive_offsets(consumer, 3) == [6, 7, 8]

    run(work())


def test_the_queues_of_a_member_that_is_gone_are_taken_over_at_once() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster:
            cluster.members = ["me", "~"]
            async with cluster.consumer() as consumer:
                await pulled(cluster, 0)
                asked = len(cluster.broker.told(COMMITTED))
                cluster.members = ["me"]
                cluster.notify()
                await cluster.broker.until(_pulls(cluster, 2))
                assert len(cluster.broker.told(COMMITTED)) == asked + 1
                assert len(consumer.progress()) == 2

    run(work())


def _pulls(cluster: ScriptedCluster, queues: int) -> Callable[[], bool]:
    return lambda: len({call.queue for call in cluster.broker.told(PULL)}) == queues
