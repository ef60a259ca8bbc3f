"""`Consumer.health()`, and the end of a consumer whose background work ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from jst_bridge.errors import SourceError
from jst_bridge.rocketmq import Consumer
from jst_bridge.rocketmq.background import Background
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.health import UNHEARD
from tests.scripted import run
from tests.scripted_cluster import ScriptedCluster, play, receive


def test_a_consumer_that_reads_is_healthy_and_says_how_far_it_is() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(5)
        batches = await receive(consumer)
        health = consumer.health()
        assert (health.healthy, health.reasons) == (True, ())
        (queue,) = health.queues
        assert (queue.lag, queue.cached, queue.stalled) == (5, 5, False)
        assert 0 <= queue.pull_age < 60
        (broker,) = health.brokers
        assert (broker.address, broker.connected) == (cluster.broker.address, True)
        assert broker.heartbeat_age is not None
        assert {"consumer rebalance", "consumer heartbeat", "pull T@broker-a:0"} <= set(health.tasks)
        consumer.settle(batches)
        assert consumer.health().queues[0].lag == 0

    play(script)


def test_a_stalled_queue_and_a_deaf_broker_are_reasons() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until_told(Request.PULL_MESSAGE)
        (assignment,) = consumer._share.assignments.values()
        assignment.stalled = True
        consumer._membership.heard[cluster.broker.address] = time.monotonic() - UNHEARD - 5
        stands_still, deaf = consumer.health().reasons
        assert stands_still.startswith("T@broker-a:0 stands still: 0 behind, no good pull for ")
        assert deaf == f"broker {cluster.broker.address} took no heartbeat for 95 s"

    play(script)


def test_a_consumer_that_was_not_started_or_was_stopped_is_not_healthy() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            consumer = cluster.consumer()
            assert consumer.health().reasons == ("it is new",)
            async with consumer:
                assert consumer.health().healthy
            assert consumer.health().reasons == ("it is stopped",)
            assert consumer.health().tasks == ()

    run(work())


def task_named(name: str) -> asyncio.Task[object]:
    (found,) = [task for task in asyncio.all_tasks() if task.get_name() == name]
    return found


@pytest.mark.parametrize("name", ["consumer rebalance", "consumer heartbeat", "pull T@broker-a:0"])
def test_a_task_that_is_cancelled_from_outside_ends_the_consumer(name: str) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until(lambda: cluster.queue().parked)
        task_named(name).cancel()
        with pytest.raises(SourceError, match=f"{name}.*cancelled from outside"):
            await receive(consumer)
        (reason,) = consumer.health().reasons
        assert name in reason

    play(script)


def test_a_failure_is_raised_at_once_however_much_is_waiting() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(5)
        await cluster.broker.until(lambda: consumer.waiting)
        task_named("consumer commit").cancel()
        await cluster.broker.round_trips()
        with pytest.raises(SourceError, match="consumer commit"):
            await receive(consumer)

    play(script)


async def returns() -> None:
    """What an endless task must not do."""


async def raises() -> None:
    raise ValueError("a bug")


async def waits() -> None:
    await asyncio.get_running_loop().create_future()


def outcome(story: Callable[[Background], object]) -> list[str]:
    """What is reported of tasks, once they are done."""
    failures: list[str] = []

    async def work() -> None:
        background = Background(lambda name, error: failures.append(f"{name}: {error}"))
        story(background)
        for _ in range(3):
            await asyncio.sleep(0)
        background.cancel()
        await background.join()
        assert background.names == []

    run(work())
    return failures


def test_a_task_that_ends_for_any_reason_but_ours_is_reported() -> None:
    assert outcome(lambda tasks: tasks.spawn("x", returns())) == [
        "x: the task 'x' ended, which it never should"
    ]
    assert outcome(lambda tasks: tasks.spawn("x", raises())) == ["x: a bug"]
    assert outcome(lambda tasks: tasks.spawn("x", raises(), endless=False)) == ["x: a bug"]
    assert outcome(lambda tasks: tasks.spawn("x", returns(), endless=False)) == []
    assert outcome(lambda tasks: tasks.spawn("x", waits())) == []
    assert outcome(lambda tasks: tasks.cancel(tasks.spawn("x", waits()))) == []
