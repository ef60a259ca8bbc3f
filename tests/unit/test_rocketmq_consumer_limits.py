"""What holds a consumer back, and what ends it, against a scripted cluster."""

from __future__ import annotations

import pytest

from jst_bridge.errors import CredentialsRefused
from jst_bridge.rocketmq import Consumer, PulledBatch
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.assignment import OVERHEAD
from jst_bridge.rocketmq.codes import Request
from tests.scripted import refusing, run
from tests.scripted_cluster import ScriptedCluster, play, receive, receive_offsets

PULL = Request.PULL_MESSAGE


def test_the_limit_of_a_queue_stops_its_pulls_and_settling_resumes_them() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        batches: list[PulledBatch] = []
        while sum(len(batch.messages) for batch in batches) < 8:
            batches += await receive(consumer)
        cluster.notify()  # something that passes behind the last pull, if there were one
        await cluster.broker.until_told(Request.GET_CONSUMER_LIST_BY_GROUP, 2)
        assert len(cluster.broker.told(PULL)) == 2
        assert not consumer.waiting
        consumer.settle(batches)
        assert await receive_offsets(consumer, 12) == list(range(8, 20))

    play(script, before=lambda cluster: cluster.publish(20), pull_batch=4, queue_limit=7)


def test_the_memory_limit_holds_back_all_queues_and_settling_resumes_them() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster:
            for queue_id in (0, 1):
                cluster.publish(10, queue_id, size=100)
            limit = 3 * (OVERHEAD + 100)
            async with cluster.consumer(pull_batch=2, memory_limit=limit) as consumer:
                batches = await receive(consumer)
                while sum(len(batch.messages) for batch in batches) < 4:
                    batches += await receive(consumer)
                cluster.notify()
                await cluster.broker.until_told(Request.GET_CONSUMER_LIST_BY_GROUP, 2)
                pulled = len(cluster.broker.told(PULL))
                assert sum(batch.weight for batch in batches) <= limit + 2 * 2 * (OVERHEAD + 100)
                assert pulled <= 4
                consumer.settle(batches)
                assert len(await receive_offsets(consumer, 20 - 2 * len(batches))) == 20 - 2 * len(batches)

    run(work())


def test_receive_keeps_to_its_limits_and_gives_at_least_one_batch() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until(lambda: cluster.queue().parked)  # all is pulled
        one = await consumer.receive(max_messages=1)
        assert [len(batch.messages) for batch in one] == [4]
        some = await consumer.receive(max_messages=9)
        assert [len(batch.messages) for batch in some] == [4, 4]
        rest = await consumer.receive(max_bytes=55)
        assert [len(batch.messages) for batch in rest] == [4]
        assert await consumer.receive() != []

    play(script, before=lambda cluster: cluster.publish(20), pull_batch=4)


def test_a_background_task_that_dies_is_raised_by_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "HEARTBEAT_PERIOD", 0.02)

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.broker.on(Request.HEART_BEAT, refusing(1, "AclException: Check signature failed"))
        with pytest.raises(CredentialsRefused, match="HEART_BEAT"):
            await receive(consumer)

    play(script)


def test_an_error_nobody_expected_is_raised_by_receive_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        async def broken(queue: object, start: int, committed: object) -> int:
            raise RuntimeError("a bug of ours")

        consumer.adjust_start(broken)
        cluster.members = ["", "me"]
        cluster.notify()
        await cluster.broker.until_told(Request.UPDATE_CONSUMER_OFFSET)
        cluster.members = ["me"]
        cluster.notify()
        with pytest.raises(RuntimeError, match="a bug of ours"):
            await receive(consumer)

    play(script)
    assert any("rebalance died" in record.getMessage() for record in caplog.records)
