"""A broadcasting consumer, against a scripted cluster: every queue is its own, and no broker knows of positions."""

from __future__ import annotations

import pytest

from jst_bridge.errors import ConfigurationError
from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, MessageQueue
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.codes import Request
from tests.scripted import run
from tests.scripted_cluster import TOPIC, ScriptedCluster, pulled, receive, receive_offsets

PULL = Request.PULL_MESSAGE
QUEUE = MessageQueue(TOPIC, "broker-a", 0)


def queue_ids(consumer: Consumer) -> list[int]:
    return [progress.queue.queue_id for progress in consumer.progress()]


def test_every_instance_reads_every_queue() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster:
            for queue_id in range(4):
                cluster.publish(3, queue_id)
            async with (
                cluster.consumer(mode="broadcasting") as one,
                cluster.consumer(mode="broadcasting") as two,
            ):
                for consumer in (one, two):
                    assert sorted(await receive_offsets(consumer, 12)) == sorted([0, 1, 2] * 4)
                    assert queue_ids(consumer) == [0, 1, 2, 3]

    run(work())


def test_nothing_of_a_group_is_said_but_the_heartbeat() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(3)
            async with cluster.consumer(mode="broadcasting", commit_period=0.01) as consumer:
                assert await receive_offsets(consumer, 3) == [0, 1, 2]
                await cluster.broker.until(lambda: cluster.queue().parked)
                await consumer.commit()
            said = {Request(call.code) for call in cluster.broker.calls}
            assert said == {
                Request.HEART_BEAT, Request.GET_MIN_OFFSET, PULL, Request.UNREGISTER_CLIENT
            }  # fmt: skip
            assert {call.ext["sysFlag"] for call in cluster.broker.told(PULL)} == {"6"}
            assert cluster.queue().committed is None
            (group,) = cluster.broker.told(Request.HEART_BEAT)[0].json()["consumerDataSet"]
            assert group["messageModel"] == "BROADCASTING"
            assert [entry["topic"] for entry in group["subscriptionDataSet"]] == [TOPIC]
            assert {call.ext.get("topic") for call in cluster.name_server.calls} == {TOPIC}

    run(work())


@pytest.mark.parametrize(("start_from", "offset"), [("first", 3), ("last", 7), (1, 3)])
def test_the_start_that_the_settings_say_is_adjusted_by_the_caller(
    start_from: str | int, offset: int
) -> None:
    asked: list[tuple[MessageQueue, int, int | None]] = []

    async def adjust(queue: MessageQueue, start: int, committed: int | None) -> int:
        asked.append((queue, start, committed))
        return 5

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.queue().minimum = 3
            cluster.queue().committed = 6  # of a time when the group was clustering
            cluster.publish(4)
            consumer = cluster.consumer(mode="broadcasting", start_from=start_from)
            consumer.adjust_start(adjust)
            async with consumer:
                assert (await cluster.broker.until_told(PULL)).ext["queueOffset"] == "5"
            assert asked == [(QUEUE, offset, None)]

    run(work())


def test_a_queue_added_while_it_runs_is_read_from_its_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(2)
            async with cluster.consumer(mode="broadcasting", start_from="last") as consumer:
                await pulled(cluster, 0)
                cluster.publish(3, queue_id=1)
                cluster.topics[TOPIC] = 2
                assert await receive_offsets(consumer, 3) == [0, 1, 2]

    run(work())


def test_no_queue_is_dropped_when_its_route_empties_or_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 0.01)

    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, cluster.consumer(mode="broadcasting") as consumer:
            await pulled(cluster, 0, 1)
            for queues in (1, 0, None):
                if queues is None:
                    del cluster.topics[TOPIC]
                else:
                    cluster.topics[TOPIC] = queues
                asked = len(cluster.name_server.calls)
                await cluster.name_server.until(
                    lambda asked=asked: len(cluster.name_server.calls) > asked + 3  # type: ignore[misc]
                )
                cluster.notify()
                await cluster.broker.round_trips()
                assert queue_ids(consumer) == [0, 1]
            cluster.publish(1, queue_id=1)
            (batch,) = await receive(consumer)
            assert (batch.queue.queue_id, len(batch.messages)) == (1, 1)

    run(work())


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="broadcasting"):
        ConsumerSettings(ClientSettings(("x:1",)), "GID_x", {TOPIC: "*"}, mode="both")  # type: ignore[arg-type]
